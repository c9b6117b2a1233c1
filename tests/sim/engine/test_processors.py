"""Ranks that share processors take turns: exact integers, and nothing changes where none share."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios.schema import Cluster, Device, Link, Model, Plan, Scenario
from sim.cost.costs import ActionCosts, Cost, CostKey, CostTable, Transfer
from sim.cost.processors import processor_of, sharing
from sim.cost.table import cost_table
from sim.engine.simpy_engine import simulate
from sim.prediction import predict
from sim.schedule.actions import SENDS, Action, Kind, parse_action
from sim.schedule.build import build_program
from sim.schedule.generators import gpipe, one_forward_one_backward
from sim.schedule.lowering import Flush, Program, lower
from sim.schedule.schedule import Schedule
from sim.timeline.critical_path import critical_path
from sim.timeline.figures import figures

F, B = Kind.FORWARD, Kind.BACKWARD


def table(times: list[tuple[int, int]], processors: tuple[int, ...] = ()) -> CostTable:
    """Forward and backward times by stage, free messages."""
    return CostTable(
        costs={
            CostKey(kind, stage): Cost(duration_ns=time, parts={"given": time})
            for stage, pair in enumerate(times)
            for kind, time in zip((F, B), pair, strict=True)
        },
        processors=processors,
    )


def log(program: Program, costs: CostTable | ActionCosts) -> list[str]:
    spans = sorted(simulate(program, costs).spans, key=lambda s: (s.start_ns, s.rank, s.end_ns))
    return [f"{s.start_ns}-{s.end_ns} {s.action}" for s in spans if s.lane == "compute"]


def test_two_ranks_on_one_processor_written_out() -> None:
    """Rank 0 gives the processor back after 0F0 and asks anew at once, in the instant in which rank
    1 asks for 1F0: the lower rank is first. At 20 rank 1 has waited since 10."""
    assert log(lower(gpipe(2, 3)), table([(10, 20), (10, 20)], (0, 0))) == [
        "0-10 0F0",
        "10-20 0F1",
        "20-30 1F0",
        "30-40 0F2",
        "40-50 1F1",
        "50-60 1F2",
        "60-80 1B0",
        "80-100 0B0",
        "100-120 1B1",
        "120-140 0B1",
        "140-160 1B2",
        "160-180 0B2",
    ]


def independent(*texts: str) -> Program:
    """Ranks without messages: a pipe each."""
    orders = tuple(tuple(parse_action(word) for word in text.split()) for text in texts)
    return lower(
        Schedule(name="apart", orders=orders, placement=tuple((r,) for r in range(len(orders))))
    )


def test_who_asked_first_is_first_and_the_lowest_rank_of_one_instant() -> None:
    """At 0 all ask: rank 0. At 7 ranks 1 and 2 have waited since 0, and rank 0 asks anew: 1."""
    program = independent("0F0 0B0", "0F0@1 0B0@1", "0F0@2 0B0@2")
    times = {Action(F, 0, 0, 0, p): 7 - p for p in range(3)}
    times |= {Action(B, 0, 0, 0, p): 1 for p in range(3)}
    found = log(program, ActionCosts(durations=times, processors=(4, 4, 4)))
    assert found == [
        "0-7 0F0",
        "7-13 0F0@1",
        "13-18 0F0@2",
        "18-19 0B0",
        "19-20 0B0@1",
        "20-21 0B0@2",
    ]


def test_work_of_no_time_does_not_ask() -> None:
    program = independent("0F0 0B0", "0F0@1 0B0@1")
    times = {Action(F, 0, 0): 10, Action(B, 0, 0): 5, Action(B, 0, 0, 0, 1): 3}
    assert log(program, ActionCosts(durations=times, processors=(0, 0))) == [
        "0-10 0F0",
        "0-0 0F0@1",
        "10-13 0B0@1",
        "13-18 0B0",
    ]


def test_optimizer_steps_and_messages_take_turns_too() -> None:
    program = lower(gpipe(2, 1), flush=Flush(norm=True))
    times = {
        Action(F, 0, 0): 10,
        Action(F, 1, 0): 10,
        Action(B, 1, 0): 20,
        Action(B, 0, 0): 20,
        Action(Kind.SEND_FORWARD, 0, 0): 2,
        Action(Kind.RECV_FORWARD, 1, 0): 3,
        Action(Kind.OPTIMIZER, 0): 5,
        Action(Kind.OPTIMIZER, 1): 5,
    }
    assert log(program, ActionCosts(durations=times, processors=(0, 0))) == [
        "0-10 0F0",
        "10-12 0SEND_F0",
        "12-15 1RECV_F0",
        "15-25 1F0",
        "25-45 1B0",
        "45-65 0B0",
        "65-70 0STEP",
        "70-75 1STEP",
    ]


@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 99), st.integers(1, 99))
def test_one_processor_for_all_ranks_does_all_their_work_one_after_another(
    p: int, m: int, f: int, b: int
) -> None:
    """It is never idle while a rank could go on, and one always can: m p (f + b)."""
    for schedule in (gpipe(p, m), one_forward_one_backward(p, m)):
        timeline = simulate(lower(schedule), table([(f, b)] * p, (0,) * p))
        assert timeline.iteration_ns == m * p * (f + b)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=2, max_size=5),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(0, 20),
    st.booleans(),
)
def test_turns_never_overlap_and_paths_have_no_holes(
    times: list[tuple[int, int]], m: int, processors: int, latency: int, blocking: bool
) -> None:
    """A processor does one thing at a time; an iteration takes at least what its ranks do, and at
    least what it takes with a processor each; the critical path (of messages that nobody stands
    still for) has no gap in it."""
    p = len(times)
    program = lower(one_forward_one_backward(p, m), "blocking" if blocking else "overlapped")
    own = tuple(rank % processors for rank in range(p))
    costs = table(times, own)
    sends = {CostKey(a.kind, a.stage) for a in program.distinct if a.kind in SENDS}
    transfer = Transfer(occupancy_ns=0, latency_ns=latency, resources=(), payload_bytes=0)
    costs = replace(costs, transfers=dict.fromkeys(sends, transfer))
    timeline = simulate(program, costs)
    for processor in set(own):
        ranks = [rank for rank in range(p) if own[rank] == processor]
        spans = [s for r in ranks for s in timeline.compute[r] if s.duration_ns]
        spans.sort(key=lambda s: s.start_ns)
        assert all(a.end_ns <= b.start_ns for a, b in pairwise(spans))
        assert timeline.iteration_ns >= sum(m * sum(times[rank]) for rank in ranks)
    alone = simulate(program, replace(costs, processors=()))
    assert timeline.iteration_ns >= alone.iteration_ns
    if not blocking:
        assert critical_path(timeline, program).queued_ns == 0
    busy = [rank.busy_ns for rank in figures(timeline, program).ranks]
    assert busy == [m * sum(pair) for pair in times]


@given(st.integers(1, 6), st.integers(1, 8), st.booleans())
def test_a_processor_each_changes_nothing(p: int, m: int, blocking: bool) -> None:
    program = lower(one_forward_one_backward(p, m), "blocking" if blocking else "overlapped")
    times = [(3 + rank, 7 + rank) for rank in range(p)]
    plain = simulate(program, table(times))
    shared = simulate(program, table(times, tuple(range(p))))
    assert shared.spans == plain.spans


CORES = Cluster(
    devices_per_node=4,
    device=Device(
        name="core",
        kind="cpu",
        memory=2**33,
        memory_bandwidth=1e10,
        matmul_peak={"fp32": 1e11},
    ),
    intra_node=Link(bandwidth=1e10, latency=1000),
    inter_node=Link(bandwidth=1e9, latency=1000),
)
MODEL = Model(
    layers=4, hidden=64, heads=4, sequence=32, vocabulary=256, tied_embeddings=False, name="m"
)


def scenario(processors: int | None, cluster: Cluster = CORES, **plan: object) -> Scenario:
    fields = {"pipeline": 4, "microbatches": 4, "precision": "fp32", **plan}
    return Scenario(
        name="s",
        model=MODEL,
        cluster=replace(cluster, processors_per_node=processors),
        plan=Plan(**fields),  # type: ignore[arg-type]
    )


def test_devices_lie_on_processors_modulo_their_number() -> None:
    two = replace(CORES, nodes=2, processors_per_node=3)
    assert [processor_of(d, two) for d in range(8)] == [0, 1, 2, 0, 3, 4, 5, 3]
    assert processor_of(5, CORES) == 5


@pytest.mark.parametrize(
    ("plan", "processors", "factors"),
    [
        ({"pipeline": 4}, (0, 1, 0, 1), [1, 1, 1, 1]),
        ({"pipeline": 2, "data": 2, "placement": "pipeline-data-tensor"}, (), [2, 2]),
        ({"pipeline": 2, "data": 2}, (0, 0), [1, 1]),
        ({"pipeline": 1, "data": 4}, (), [2]),
        ({"pipeline": 1, "data": 3}, (), [2]),
        ({"pipeline": 3, "data": 1}, (0, 1, 0), [1, 1, 1]),
    ],
)
def test_who_shares_two_processors(
    plan: dict[str, object], processors: tuple[int, ...], factors: list[int]
) -> None:
    """With data innermost, replicas d = 0 and 1 of rank 0 are devices 0 and 1, of rank 1 devices 2
    and 3: each pipeline has a processor to itself."""
    found = sharing(scenario(2, **plan).plan, replace(CORES, processors_per_node=2))
    assert found is not None
    assert found.processors == processors
    assert list(found.factors) == factors


def test_the_most_loaded_copy_stands_for_all() -> None:
    """Three replicas on two processors: the one alone on its own does not."""
    plan = Plan(pipeline=1, data=3, devices=(1, 0, 2))
    found = sharing(plan, replace(CORES, processors_per_node=2))
    assert found is not None and list(found.factors) == [2]


def test_other_copies_make_passes_longer_and_own_ranks_wait() -> None:
    replicas = scenario(2, pipeline=2, data=2, placement="pipeline-data-tensor")
    program = build_program(replicas)
    shared = cost_table(replicas, program)
    free = scenario(None, pipeline=2, data=2, placement="pipeline-data-tensor")
    alone = cost_table(free, program)
    assert shared.processors == ()
    for key, cost in alone.costs.items():
        longer = key.kind is not Kind.REDUCE_GRADIENTS
        assert shared.costs[key].duration_ns == cost.duration_ns * (2 if longer else 1)
    four = scenario(2)
    assert cost_table(four, build_program(four)).processors == (0, 1, 0, 1)
    # Four ranks of one time on two processors: as long as the work of two of them, at least.
    prediction = predict(four)
    work = [rank.busy_ns for rank in prediction.figures.ranks]
    assert prediction.iteration_ns >= max(work[0] + work[2], work[1] + work[3])
    assert prediction.iteration_ns > predict(scenario(None)).iteration_ns


@pytest.mark.parametrize("processors", [4, 7])
def test_as_many_processors_as_devices_change_nothing(processors: int) -> None:
    assert predict(scenario(processors)).timeline == predict(scenario(None)).timeline
