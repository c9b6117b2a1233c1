"""What an iteration's time consists of: how often each cost is on the critical path.

On a fixed path the iteration time is linear in the costs, so parameters are fitted without
simulating again. The path comes from an engine's simulation (`sim.timeline.critical_path`) or,
quickly, from the closed form below.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from sim.cost.costs import CostKey, CostTable
from sim.schedule.actions import FLUSH, RECEIVES, SENDS, Action, Kind
from sim.schedule.lowering import Program, partner


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """The critical path of an iteration.

    costs: how often the cost of each key is on it; transfers: how often the transfer (occupancy and
    latency) of each SEND's key is; hidden: how often a reduction's hidden part is not, as it lies
    before the pass that the reduction follows on the path; rest_ns: time on it that is none of
    these (queueing for a link).
    """

    costs: Mapping[CostKey, float]
    transfers: Mapping[CostKey, float]
    hidden: Mapping[CostKey, float] = field(default_factory=dict)
    rest_ns: float = 0.0

    def time_ns(self, table: CostTable) -> float:
        """The iteration time along this path under a cost table."""
        total = self.rest_ns
        for key, times in self.costs.items():
            cost = table.costs.get(key)
            if cost is not None:
                total += times * cost.duration_ns
        for key, times in self.hidden.items():
            cost = table.costs.get(key)
            if cost is not None:
                total -= times * cost.hidden_ns
        for key, times in self.transfers.items():
            transfer = table.transfers.get(key)
            if transfer is not None:
                total += times * (transfer.occupancy_ns + transfer.latency_ns)
        return total


Simulate: TypeAlias = Callable[[Program, CostTable], tuple[float, Composition]]
"""Iteration time in ns and its composition, of a program under a cost table."""


def closed_form(program: Program, table: CostTable) -> tuple[float, Composition]:
    """Iteration time of GPipe or 1F1B by sum over ranks of x/v + (m - 1/v) max x, and the flush.

    x is a rank's forward and backward passes of one microbatch through its v stages, with the
    messages it waits for when transfers block (Narayanan et al. 2021, arXiv 2104.04473, sections
    2.2.1 and 2.2.2, with the slowest rank in the steady phase). Exact for equal stages and free
    messages.
    Not modelled: jitter, contention, slices, the partial overlap of warm-up and drain between
    unequal stages.
    """
    schedule = program.schedule
    microbatches = max(1, schedule.num_microbatches)
    chunks = schedule.num_stages / schedule.num_ranks
    passes: list[list[CostKey]] = [[] for _ in range(schedule.num_ranks)]
    for key in {CostKey(a.kind, a.stage, a.slice_index, a.pipe) for a in schedule.actions}:
        passes[schedule.rank_of(key.stage, key.pipe)].append(key)
    crossings: list[list[CostKey]] = [[] for _ in range(schedule.num_ranks)]
    messages: set[CostKey] = set()
    exchanges = [0] * schedule.num_ranks
    for rank, steps in enumerate(program.steps):
        for step in steps:
            if step[0].kind in SENDS or step[0].kind in RECEIVES:
                exchanges[rank] += 1
                messages |= {CostKey(a.kind, a.stage, a.slice_index, a.pipe) for a in step}
    for key in messages:
        if key.kind in SENDS:
            crossings[schedule.rank_of(key.stage, key.pipe)].append(key)

    def time_of(keys: list[CostKey]) -> float:
        return sum(table.costs[key].duration_ns for key in keys if key in table.costs)

    blocking = program.mode != "overlapped"
    steady = [
        time_of(passes[rank]) + (_transfers_ns(table, crossings[rank]) if blocking else 0.0)
        for rank in range(schedule.num_ranks)
    ]
    slowest = max(range(schedule.num_ranks), key=lambda rank: (steady[rank], rank))
    costs: dict[CostKey, float] = dict.fromkeys(messages, 1.0)
    transfers: dict[CostKey, float] = {}
    for rank in range(schedule.num_ranks):
        times = microbatches if rank == slowest else 1 / chunks
        costs |= dict.fromkeys(passes[rank], times)
        for key in crossings[rank]:
            transfers[key] = times if blocking else 1 / chunks
        if blocking:
            costs[CostKey(Kind.EXCHANGE, rank)] = exchanges[rank] * times / microbatches
    flush, hidden = _flush(program, table)
    costs |= flush
    path = Composition(costs=costs, transfers=transfers, hidden=hidden)
    return path.time_ns(table), path


def _transfers_ns(table: CostTable, keys: list[CostKey]) -> float:
    found = (table.transfers[key] for key in keys if key in table.transfers)
    return sum(t.occupancy_ns + t.latency_ns for t in found)


def _flush(program: Program, table: CostTable) -> tuple[Counter[CostKey], Counter[CostKey]]:
    """The flush of the rank that takes longest over it, and what of it is hidden; of overlapped
    reductions only the last counts."""
    ranks: list[tuple[Counter[CostKey], Counter[CostKey]]] = []
    for steps in program.steps:
        keys = [CostKey(a.kind, a.stage) for step in steps for a in step if a.kind in FLUSH]
        hidden: list[CostKey] = []
        if program.overlapped_reduction:
            hidden = [key for key in keys if key.kind is Kind.REDUCE_GRADIENTS][-1:]
            others = [key for key in keys if key.kind is not Kind.REDUCE_GRADIENTS]
            keys = hidden + others
        ranks.append((Counter(keys), Counter(hidden)))

    def time_of(rank: tuple[Counter[CostKey], Counter[CostKey]]) -> float:
        return Composition(costs=rank[0], transfers={}, hidden=rank[1]).time_ns(table)

    return max(ranks, key=time_of, default=(Counter(), Counter()))


def composition_of(
    on_path: Mapping[tuple[str, Action], int], table: CostTable, rest_ns: float = 0.0
) -> Composition:
    """A composition from a critical path's counts by (lane kind, action), where `transfer` counts a
    message by either of its ends, and `overlapped` a reduction from the end of the pass it follows.

    table: what the path was found with; it tells which costs are the same.
    """
    costs: Counter[CostKey] = Counter()
    hidden: Counter[CostKey] = Counter()
    transfers: Counter[CostKey] = Counter()
    for (lane, action), times in on_path.items():
        if lane == "transfer":
            sent = partner(action) if action.kind in RECEIVES else action
            transfers[table.key(sent)] += times
        else:
            costs[table.key(action)] += times
            if lane == "overlapped":
                hidden[table.key(action)] += times
    return Composition(costs=costs, transfers=transfers, hidden=hidden, rest_ns=rest_ns)
