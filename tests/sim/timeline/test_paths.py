"""The critical path of whole scenarios: its composition gives the iteration's time exactly."""

from __future__ import annotations

import pytest

from scenarios.rules import check
from scenarios.schema import (
    Cluster,
    Device,
    Efficiency,
    Link,
    MicrobatchGroup,
    Model,
    Plan,
    Scenario,
)
from sim.comparison import replay
from sim.cost.path import composition_of
from sim.cost.table import cost_table
from sim.engine.simpy_engine import simulate
from sim.schedule.actions import Kind
from sim.schedule.build import build_program
from sim.timeline.critical_path import critical_path
from sim.timeline.figures import figures

MODEL = Model(layers=16, hidden=1024, heads=16, sequence=512, vocabulary=8192)
EFFICIENCY = Efficiency(data_loading=40_000, message_overhead=70_000, iteration_overhead=10**6)
DEVICE = Device(
    name="d",
    memory=80 * 2**30,
    memory_bandwidth=2e12,
    matmul_peak={"fp16": 312e12},
    efficiency=EFFICIENCY,
)
GROUPS = (
    MicrobatchGroup(microbatches=2, micro_batch=3, slices=(100, 300, 112)),
    MicrobatchGroup(micro_batch=1, slices=2),
    MicrobatchGroup(micro_batch=2),
)
PLANS: dict[str, dict[str, object]] = {
    "plain": {"pipeline": 4, "tensor": 2, "data": 2},
    "blocking": {"pipeline": 4, "tensor": 2, "data": 2, "p2p": "blocking", "scatter_gather": True},
    "exchange": {
        "pipeline": 4,
        "tensor": 2,
        "data": 2,
        "schedule": "terapipe",
        "p2p": "exchange",
        "broadcast_messages": True,
        "kernels": "plain",
        "placement": "tensor-pipeline-data",
    },
    "interleaved": {"pipeline": 4, "data": 4, "schedule": "interleaved", "chunks": 2},
    "interleaved blocking": {
        "pipeline": 4,
        "tensor": 4,
        "schedule": "interleaved",
        "chunks": 4,
        "p2p": "blocking",
        "sequence_parallel": True,
    },
    "overlapped": {"data": 16, "gradient_reduction": "overlapped", "gradient_bucket": 1 << 20},
    "overlapped, interleaved": {
        "pipeline": 2,
        "data": 8,
        "schedule": "interleaved",
        "chunks": 4,
        "p2p": "blocking",
        "gradient_reduction": "overlapped",
    },
    "overlapped, gpipe": {
        "pipeline": 4,
        "data": 4,
        "schedule": "gpipe",
        "gradient_reduction": "overlapped",
        "sharding": "optimizer",
    },
    "sharded optimizer": {"pipeline": 2, "data": 8, "sharding": "optimizer", "p2p": "blocking"},
    "fully sharded": {"data": 16, "sharding": "full", "recomputation": "full"},
    "across": {"pipeline": 8, "tensor": 2, "placement": "pipeline-tensor-data"},
    "slices": {
        "pipeline": 4,
        "data": 4,
        "schedule": "terapipe",
        "slices": (300, 12, 200),
        "p2p": "blocking",
    },
    "slices, overlapped": {
        "pipeline": 4,
        "data": 4,
        "slices": 5,
        "gradient_reduction": "overlapped",
        "p2p": "exchange",
    },
    "unequal microbatches": {
        "pipeline": 4,
        "data": 4,
        "schedule": "terapipe",
        "microbatches": None,
        "microbatch_groups": GROUPS,
    },
    "unequal microbatches, overlapped": {
        "pipeline": 2,
        "data": 8,
        "gradient_reduction": "overlapped",
        "microbatches": None,
        "microbatch_groups": GROUPS,
    },
}


def scenario(name: str, bandwidth: float) -> Scenario:
    cluster = Cluster(
        nodes=4,
        devices_per_node=4,
        device=DEVICE,
        intra_node=Link(bandwidth=300e9, latency=8_000),
        inter_node=Link(bandwidth=bandwidth, latency=10_000),
        nics_per_node=2,
    )
    fields = {"microbatches": 8, "clip_gradients": True, **PLANS[name]}
    return Scenario(name=name, model=MODEL, cluster=cluster, plan=Plan(**fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("bandwidth", [1e9, 25e9])
@pytest.mark.parametrize("name", PLANS)
def test_the_composition_is_the_time_and_figures_count_it_once(name: str, bandwidth: float) -> None:
    s = scenario(name, bandwidth)
    assert not check(s)
    program = build_program(s)
    table = cost_table(s, program)
    timeline = simulate(program, table)
    path = critical_path(timeline, program)
    assert path.spans[0].start_ns == 0
    assert all(a.end_ns <= b.start_ns for a, b in zip(path.spans, path.spans[1:], strict=False))
    composed = composition_of(path.composition(), table, path.queued_ns)
    assert composed.time_ns(table) == timeline.iteration_ns
    for rank in figures(timeline, program).ranks:
        assert sum(rank.breakdown_ns.values()) == timeline.iteration_ns
        assert rank.busy_ns + rank.exposed_ns + rank.bubble_ns == timeline.iteration_ns
        assert rank.breakdown_ns.get("bubble", 0) == rank.bubble_ns >= 0


@pytest.mark.parametrize("name", ["overlapped", "overlapped, gpipe", "fully sharded"])
def test_a_timeline_replayed_with_its_own_durations_is_itself(name: str) -> None:
    """Reductions that overlap included: what was hidden in them is hidden again."""
    s = scenario(name, 25e9)
    program = build_program(s)
    timeline = simulate(program, cost_table(s, program))
    assert sorted(replay(timeline, program).spans) == sorted(timeline.spans)


def test_overlapped_reductions_are_on_the_path_from_the_last_pass_on() -> None:
    s = scenario("overlapped", 1e9)
    program = build_program(s)
    table = cost_table(s, program)
    path = critical_path(simulate(program, table), program)
    (reduction,) = path.overlapped
    cost = table.cost(reduction.action)
    assert 0 < reduction.duration_ns == cost.duration_ns - cost.hidden_ns < cost.duration_ns
    assert path.composition()["overlapped", reduction.action] == 1
    before = path.spans[path.spans.index(reduction) - 1]
    assert (before.action.kind, before.end_ns) == (Kind.BACKWARD, reduction.start_ns)
