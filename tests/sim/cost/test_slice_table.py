"""The table of slices: what a cost table charges, for every batch, tokens and context."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from scenarios.loader import load
from scenarios.schema import Scenario
from sim.cost.costs import CostKey, CostTable
from sim.cost.profile import MessageTime, Profile
from sim.cost.shapes import PartTime, shape_of
from sim.cost.slices import SliceTable, slice_table
from sim.cost.table import cost_table
from sim.schedule.actions import Action, Kind
from sim.schedule.build import build_program

SEQUENCE, UNIT, UNITS = 512, 16, 32
BASE = (
    "model.layers=8",
    f"model.sequence={SEQUENCE}",
    "plan.schedule=terapipe",
    "plan.pipeline=4",
    "plan.tensor=2",
    "plan.data=1",
    "plan.global_batch=null",
    "plan.microbatches=1",
    "plan.chunks=1",
    "plan.scatter_gather=false",
)
PLANS = {
    "plain": ("plan.recomputation=none",),
    "full": ("plan.recomputation=full",),
    "selective": ("plan.recomputation=selective",),
    "host": ("plan.recomputation=full", "cluster.device.efficiency.layer_overhead=3 ms"),
    "partly host": ("cluster.device.efficiency.layer_overhead=600 us",),
    "sequence parallel": ("plan.sequence_parallel=true",),
    "scattered": ("plan.scatter_gather=true",),
    "sharded": ("plan.sharding=full", "plan.data=2", "plan.pipeline=1"),
    "uneven": ("plan.layers_per_stage=[1,2,4,1]",),
    "two stages": ("plan.pipeline=2", "cluster.device.efficiency.data_loading=1 ms"),
    "one stage": ("plan.pipeline=1", "cluster.device.efficiency.data_loading=1 ms"),
}


def scenario(*overrides: str) -> Scenario:
    plan = dict(o.split("=", 1) for o in (*BASE, *overrides))
    devices = int(plan["plan.pipeline"]) * int(plan["plan.data"]) * int(plan["plan.tensor"])
    nodes = ("cluster.nodes=1", f"cluster.devices_per_node={devices}", "cluster.nics_per_node=1")
    return load("megatron/175b", (*BASE, *nodes, "plan.micro_batch=1", *overrides)).scenario


def charged(s: Scenario, table: SliceTable, profile: Profile | None, b: int, cut: list[int]) -> int:
    """What a cost table charges for the last but one slice of a microbatch cut so, with its
    messages."""
    plan = replace(s.plan, micro_batch=b, slices=tuple(cut) if len(cut) > 1 else None)
    sliced = replace(s, plan=plan)
    program = build_program(sliced)
    costs: CostTable = cost_table(sliced, program, profile)
    stage, index = table.part.stage, max(0, len(cut) - 2)
    total = 0
    for kind in (Kind.FORWARD, Kind.BACKWARD):
        total += costs.costs[CostKey(kind, stage, index)].duration_ns
    if s.plan.pipeline == 1:
        return total
    # All boundaries of these plans are alike: the first one's messages are any one's.
    for send, receive, at in (
        (Kind.SEND_FORWARD, Kind.RECV_FORWARD, 0),
        (Kind.SEND_BACKWARD, Kind.RECV_BACKWARD, 1),
    ):
        transfer = costs.transfer(Action(send, at, 0, index))
        total += transfer.occupancy_ns + transfer.latency_ns
        total += costs.duration_ns(Action(send, at, 0, index))
        total += costs.duration_ns(Action(receive, 1 - at, 0, index))
    return total


def check(s: Scenario, profile: Profile | None = None, tries: int = 12) -> SliceTable:
    table = slice_table(s, profile, granularity=UNIT, max_batch=3)
    assert table.times.shape == (4, UNITS + 1, UNITS)
    generator = random.Random(repr(s))
    for _ in range(tries):
        b, length = generator.randint(1, 3), generator.randint(1, UNITS)
        context = generator.randint(0, UNITS - length)
        cut = [n * UNIT for n in (context, length, UNITS - context - length) if n]
        if context + length == UNITS and len(cut) > 1:
            continue  # `charged` looks at the last but one.
        expected = charged(s, table, profile, b, cut)
        assert abs(int(table.times[b, length, context]) - expected) <= 1, (b, length, context)
    assert (table.times[0] == 0).all() and (table.times[:, 0] == 0).all()
    assert (table.times[1:, 1:, 0] > 0).all() and table.times[1, 2, UNITS - 1] == 0
    return table


@pytest.mark.parametrize("name", PLANS)
def test_the_table_is_what_a_cost_table_charges(name: str) -> None:
    s = scenario(*PLANS[name])
    table = check(s)
    part = table.part
    if name == "uneven":
        assert (part.stage, part.num_layers) == (2, 4)
    elif name == "two stages":
        assert part.head
    elif s.plan.pipeline > 1:
        assert not part.embedding and not part.head


def measured(s: Scenario, shapes: tuple[tuple[int, int, int], ...], slope: float = 1.0) -> Profile:
    """A profile of a made law over (batch, tokens, context)."""
    times = {}
    for b, tokens, context in shapes:
        shape = shape_of(s, tokens, context)._replace(micro_batch=b)
        layer = 90e3 + 800.0 * b * tokens + slope * b * tokens * context
        values = {"layer": layer, "embedding": 30.0 * b * tokens, "head": 300.0 * b * tokens}
        times[shape] = {
            (part, name): PartTime(median_ns=factor * t, quartiles_ns=(0, t), samples=3)
            for part, t in {**values, "action": 2e4}.items()
            for name, factor in (("forward", 1.0), ("backward", 2.1))
        }
    return Profile(
        device=s.cluster.device.name if s.cluster else "",
        provenance="made",
        times=times,  # type: ignore[arg-type]
        post=MessageTime(fixed_ns=900, ns_per_byte=0.001, error=0.0),
        unpack=MessageTime(fixed_ns=700, ns_per_byte=0.002, error=0.0),
        transfer=MessageTime(fixed_ns=7000, ns_per_byte=0.03, error=0.0),
    )


GRID = tuple((b, t, c) for b in (1, 2) for t in (32, 64, 256) for c in (0, 64, 256))


@pytest.mark.parametrize("shapes", [GRID, GRID[::3], ((1, 512, 0),), ((1, 64, 64), (2, 64, 128))])
@pytest.mark.parametrize("name", ["plain", "two stages"])
def test_the_table_of_a_profile_is_what_a_cost_table_charges(
    shapes: tuple[tuple[int, int, int], ...], name: str
) -> None:
    s = scenario(*PLANS[name])
    table = check(s, measured(s, shapes))
    assert (table.fit is not None) == (len(shapes) > 2)


def test_what_cannot_be_tabled_is_said() -> None:
    with pytest.raises(ValueError, match=r"granularity is 24 tokens.*16 would work"):
        slice_table(scenario(), granularity=24, max_batch=1)
    with pytest.raises(ValueError, match=r"multiple of tensor 2.*2 would work"):
        slice_table(scenario("plan.sequence_parallel=true"), granularity=1, max_batch=1)
    with pytest.raises(ValueError, match="must be 1 or more"):
        slice_table(scenario(), granularity=8, max_batch=0)
