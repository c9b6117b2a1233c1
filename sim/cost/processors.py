"""Which processor a rank computes on, where devices share them (`Cluster.processors_per_node`).

A program is of one pipeline, which stands for data x tensor copies of itself. Its own ranks on a
processor take turns in the engine; ranks of other copies on the same one are as busy as its own,
and make all that they do longer: by ranks on the processor over ranks of this pipeline on it. The
copy that stands for all is the one whose processors have most ranks (the first of those).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

from scenarios.schema import Cluster, Plan
from sim.cost.costs import Cost, CostKey, CostTable
from sim.cost.links import devices_by_rank
from sim.cost.parts import rounded
from sim.schedule.actions import COMPUTE, RECEIVES, SENDS, Kind
from sim.schedule.lowering import Program


class Sharing(NamedTuple):
    """By pipeline rank: its processor, and how much longer its work takes for the other copies'
    ranks on it. `processors` is empty where no two ranks of the pipeline share one."""

    processors: tuple[int, ...]
    factors: tuple[Fraction, ...]


def processor_of(device: int, cluster: Cluster) -> int:
    """The processor, numbered over all nodes, of a device: its number on its node modulo the
    node's processors."""
    node, on_node = divmod(device, cluster.devices_per_node)
    if cluster.processors_per_node is None:
        return device
    return node * cluster.processors_per_node + on_node % cluster.processors_per_node


def sharing(plan: Plan, cluster: Cluster) -> Sharing | None:
    """Who shares processors; None where every rank has its own."""
    placed = [[processor_of(d, cluster) for d in devices] for devices in devices_by_rank(plan)]
    ranks_on = Counter(processor for rank in placed for processor in rank)
    if max(ranks_on.values()) == 1:
        return None
    copies = list(zip(*placed, strict=True))
    own = max(copies, key=lambda copy: sum(ranks_on[processor] for processor in copy))
    mine = Counter(own)
    return Sharing(
        processors=own if max(mine.values()) > 1 else (),
        factors=tuple(Fraction(ranks_on[p], mine[p]) for p in own),
    )


def with_sharing(table: CostTable, program: Program, plan: Plan, cluster: Cluster) -> CostTable:
    """A cost table with what sharing of processors makes of it.

    Longer are passes, optimizer steps and the processor time of messages; reductions and transfers
    are as they were.
    Not modelled: what changing between ranks costs a processor; copies that drift apart.
    """
    found = sharing(plan, cluster)
    if found is None:
        return table
    costs = {key: _scaled(key, cost, found, program) for key, cost in table.costs.items()}
    return replace(table, costs=costs, processors=found.processors)


def _scaled(key: CostKey, cost: Cost, found: Sharing, program: Program) -> Cost:
    if key.kind in COMPUTE or key.kind in SENDS or key.kind in RECEIVES:
        factor = found.factors[program.schedule.rank_of(key.stage, key.pipe)]
    elif key.kind in (Kind.OPTIMIZER, Kind.EXCHANGE):
        factor = found.factors[key.stage]
    else:
        return cost
    if factor == 1:
        return cost
    return rounded({name: float(amount * factor) for name, amount in cost.parts.items()})
