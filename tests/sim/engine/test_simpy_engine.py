"""The SimPy engine against closed forms, exact in integer nanoseconds, and tiny exact logs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.cost.costs import ActionCosts, Cost, CostKey, CostTable, Transfer
from sim.engine.simpy_engine import Deadlock, simulate
from sim.schedule.actions import COMPUTE, SENDS, Action, Kind, parse_action
from sim.schedule.generators import gpipe, interleaved, one_forward_one_backward
from sim.schedule.lowering import Flush, Mode, Program, lower
from sim.schedule.schedule import Schedule
from sim.timeline.figures import figures

TIME = st.integers(1, 10**7)


def table(
    stages: int,
    f: int,
    b: int,
    occupancy: int = 0,
    latency: int = 0,
    links: dict[tuple[Kind, int], tuple[int, ...]] | None = None,
) -> CostTable:
    costs = {}
    transfers = {}
    for stage in range(stages):
        for kind, time in ((Kind.FORWARD, f), (Kind.BACKWARD, b)):
            costs[CostKey(kind, stage)] = Cost(duration_ns=time, parts={"given": time})
        for kind in (Kind.SEND_FORWARD, Kind.SEND_BACKWARD):
            own = (2 * stage + (kind is Kind.SEND_FORWARD),)
            transfers[CostKey(kind, stage)] = Transfer(
                occupancy_ns=occupancy,
                latency_ns=latency,
                resources=(links or {}).get((kind, stage), own),
                payload_bytes=0,
            )
    return CostTable(costs=costs, transfers=transfers)


def log(program: Program, costs: CostTable | ActionCosts, lane: str = "compute") -> list[str]:
    spans = sorted(simulate(program, costs).spans, key=lambda s: (s.start_ns, s.rank, s.end_ns))
    return [f"{s.start_ns}-{s.end_ns} {s.action}" for s in spans if s.lane == lane]


@given(st.integers(1, 9), st.integers(1, 24), TIME, TIME, st.booleans())
def test_iteration_time_is_the_closed_form(p: int, m: int, f: int, b: int, blocking: bool) -> None:
    """(m + p - 1)(f + b) for GPipe and 1F1B, equal stages, free messages."""
    mode: Mode = "blocking" if blocking else "overlapped"
    for schedule in (gpipe(p, m), one_forward_one_backward(p, m)):
        program = lower(schedule, mode)
        timeline = simulate(program, table(p, f, b))
        assert timeline.iteration_ns == (m + p - 1) * (f + b)
        found = figures(timeline, program)
        assert [r.bubble_ns for r in found.ranks] == [(p - 1) * (f + b)] * p
        assert found.exposed_communication_fraction == 0
        assert found.bubble_over_ideal == pytest.approx((p - 1) / m)


@given(st.integers(2, 6), st.integers(1, 12), TIME, TIME, st.floats(0, 3))
def test_gpipe_with_latency_is_the_closed_form(p: int, m: int, f: int, b: int, x: float) -> None:
    """Every rank adds one latency on the way there and one on the way back, as long as receives
    are posted far enough ahead: up to three passes' time."""
    c = int(x * min(f, b))
    timeline = simulate(lower(gpipe(p, m), "overlapped"), table(p, f, b, latency=c))
    assert timeline.iteration_ns == (m + p - 1) * (f + b) + 2 * (p - 1) * c


@given(st.integers(2, 6), st.integers(1, 12), TIME, TIME, st.integers(1, 50))
def test_an_exchange_sends_and_receives_at_once(p: int, m: int, f: int, b: int, c: int) -> None:
    """A rank stands still for one message's time a pass, not for two: (m + p - 2) of them each way,
    as all but a message of the first stage's and of the last's are on the longest way."""
    for order in ("same", "reversed"):
        schedule = gpipe(p, m, backward=order)  # type: ignore[arg-type]
        exchanged = simulate(lower(schedule, "exchange"), table(p, f, b, occupancy=c)).iteration_ns
        assert exchanged == (m + p - 1) * (f + b) + 2 * (m + p - 2) * c
        one_by_one = simulate(lower(schedule, "blocking"), table(p, f, b, occupancy=c)).iteration_ns
        assert exchanged <= one_by_one
        assert exchanged < one_by_one or p == 2 or m == 1


def test_reversed_gpipe_has_the_same_closed_form() -> None:
    program = lower(gpipe(4, 6, backward="reversed"))
    assert simulate(program, table(4, 3, 7)).iteration_ns == (6 + 3) * 10


def test_a_two_stage_iteration_written_out() -> None:
    program = lower(one_forward_one_backward(2, 2))
    assert log(program, table(2, 10, 20, occupancy=3, latency=1)) == [
        "0-10 0F0",
        "10-20 0F1",
        "14-24 1F0",
        "24-44 1B0",
        "44-54 1F1",
        "48-68 0B0",
        "54-74 1B1",
        "78-98 0B1",
    ]
    assert log(program, table(2, 10, 20, occupancy=3, latency=1), "forward") == [
        "10-14 0SEND_F0",
        "10-14 1RECV_F0",
        "20-24 0SEND_F1",
        "20-24 1RECV_F1",
    ]


def test_a_shared_link_serves_one_after_the_other_in_a_stated_order() -> None:
    """Two pipes' messages ask for one NIC in the same nanosecond: the lower receiver is first."""
    orders = tuple(
        tuple(parse_action(a) for a in text.split())
        for text in ("0F0 0B0", "1F0 1B0", "0F0@1 0B0@1", "1F0@1 1B0@1")
    )
    schedule = Schedule(name="two", orders=orders, placement=((0, 1), (2, 3)))
    nic = {(Kind.SEND_FORWARD, 0): (5,)}
    costs = table(2, 10, 20, occupancy=4, latency=2, links=nic)
    both = CostTable(
        costs={**costs.costs, **{k._replace(pipe=1): v for k, v in costs.costs.items()}},
        transfers={
            **costs.transfers,
            **{k._replace(pipe=1): v for k, v in costs.transfers.items()},
        },
    )
    lines = log(lower(schedule), both, "forward")
    assert lines == [
        "10-16 0SEND_F0",
        "10-16 1RECV_F0",
        "14-20 0SEND_F0@1",
        "14-20 1RECV_F0@1",
    ]


def test_blocking_messages_hold_both_ranks() -> None:
    program = lower(one_forward_one_backward(2, 2), "blocking")
    assert log(program, table(2, 10, 20, latency=5)) == [
        "0-10 0F0",
        "15-25 0F1",
        "15-25 1F0",
        "25-45 1B0",
        "50-70 0B0",
        "50-60 1F1",
        "60-80 1B1",
        "85-105 0B1",
    ]


def test_the_processor_time_of_messages_is_on_the_compute_lane() -> None:
    program = lower(gpipe(2, 1))
    durations = {
        parse_action(a): t
        for a, t in (("0F0", 10), ("1F0", 10), ("1B0", 20), ("0B0", 20), ("0SEND_F0", 2))
    }
    durations |= {parse_action("1RECV_F0"): 3, parse_action("0STEP"): 7, parse_action("1STEP"): 1}
    assert log(program, ActionCosts(durations=durations)) == [
        "0-10 0F0",
        "10-12 0SEND_F0",
        "12-15 1RECV_F0",
        "15-25 1F0",
        "25-45 1B0",
        "45-65 0B0",
        "45-46 1STEP",
        "65-72 0STEP",
    ]


def test_reductions_meet_and_end_together() -> None:
    flush = Flush(reduce_gradients=True, reduce_tied=True, norm=True)
    program = lower(one_forward_one_backward(3, 1), "overlapped", flush)
    costs = dict(table(3, 10, 20).costs)
    for stage in range(3):
        costs[CostKey(Kind.REDUCE_GRADIENTS, stage)] = Cost(duration_ns=5, parts={})
        costs[CostKey(Kind.GRADIENT_NORM, stage)] = Cost(duration_ns=1 + stage, parts={})
    costs[CostKey(Kind.REDUCE_TIED, 0)] = Cost(duration_ns=4, parts={})
    assert log(program, CostTable(costs=costs), "collective") == [
        "50-55 2REDUCE_GRAD",
        "70-75 1REDUCE_GRAD",
        "90-95 0REDUCE_GRAD",
        "95-99 0TIED",
        "95-99 0TIED",
        "99-102 0NORM",
        "99-102 1NORM",
        "99-102 2NORM",
    ]


def overlapped_costs(**hidden: int) -> CostTable:
    """Stages of F 10 and B 20, reductions of 50 of which `stage0=..` ns can be hidden."""
    costs = dict(table(4, 10, 20).costs)
    for stage in range(4):
        costs[CostKey(Kind.REDUCE_GRADIENTS, stage)] = Cost(
            duration_ns=50, parts={}, hidden_ns=hidden.get(f"stage{stage}", 0)
        )
        costs[CostKey(Kind.OPTIMIZER, stage)] = Cost(duration_ns=5, parts={})
    return CostTable(costs=costs)


def test_an_overlapped_reduction_begins_before_the_pass_it_follows_ends() -> None:
    """Posted at 60; its first buckets were full 45 ns before: what is left ends at 65."""
    flush = Flush(reduce_gradients=True, overlapped=True)
    program = lower(gpipe(1, 2), "overlapped", flush)
    assert log(program, overlapped_costs(stage0=45), "collective") == ["15-65 0REDUCE_GRAD"]
    assert log(program, overlapped_costs(stage0=45))[-1] == "65-70 0STEP"
    assert log(program, overlapped_costs(stage0=50))[-1] == "60-65 0STEP"
    assert log(program, overlapped_costs())[-1] == "110-115 0STEP"
    found = figures(simulate(program, overlapped_costs(stage0=45)), program)
    assert found.ranks[0].breakdown_ns["data_parallel"] == 5
    assert found.ranks[0].exposed_ns == 5
    assert found.ranks[0].bubble_ns == 0


def test_overlapped_reductions_of_a_rank_follow_each_other() -> None:
    """Two chunks on one rank: the first one's reduction runs beside the second one's passes, and
    the second one's waits for it; the norm waits for both."""
    flush = Flush(reduce_gradients=True, overlapped=True, norm=True)
    order = tuple(parse_action(a) for a in ("0F0", "1F0", "1B0", "0B0"))
    schedule = Schedule(name="t", orders=(order,), placement=((0, 0),))
    program = lower(schedule, "overlapped", flush)
    costs = overlapped_costs(stage0=15, stage1=10)
    # Chunk 1's passes end at 40, its reduction at 80; chunk 0's at 60, and its own would end at 95.
    assert log(program, costs, "collective") == [
        "30-80 1REDUCE_GRAD",
        "80-130 0REDUCE_GRAD",
        "130-130 0NORM",
    ]
    after = lower(schedule, "overlapped", Flush(reduce_gradients=True, norm=True))
    assert log(after, costs, "collective")[:2] == ["60-110 0REDUCE_GRAD", "110-160 1REDUCE_GRAD"]


def test_passes_do_not_wait_for_overlapped_reductions() -> None:
    flush = Flush(reduce_gradients=True, overlapped=True)
    schedule = interleaved(2, 4, 2)
    for mode in ("overlapped", "blocking"):
        program = lower(schedule, mode, flush)  # type: ignore[arg-type]
        with_them = simulate(program, overlapped_costs(stage0=10))
        alone = simulate(lower(schedule, mode), table(4, 10, 20))  # type: ignore[arg-type]
        passes = [
            [s for s in timeline.spans if s.action.kind in COMPUTE]
            for timeline in (with_them, alone)
        ]
        assert sorted(passes[0]) == sorted(passes[1])
        assert with_them.iteration_ns > alone.iteration_ns
        for rank_figures in figures(with_them, program).ranks:
            assert rank_figures.bubble_ns + rank_figures.exposed_ns > 0
            # Only what the optimizer waits for: never more than the two reductions of a rank.
            assert 0 < rank_figures.breakdown_ns["data_parallel"] <= 100


def test_weights_are_gathered_after_the_step() -> None:
    program = lower(gpipe(2, 1), "overlapped", Flush(gather_weights=True))
    costs = dict(overlapped_costs().costs)
    costs[CostKey(Kind.GATHER_WEIGHTS, 0)] = Cost(duration_ns=7, parts={})
    timeline = simulate(program, CostTable(costs=costs))
    assert log(program, CostTable(costs=costs), "collective") == ["45-45 1GATHER", "65-72 0GATHER"]
    assert timeline.iteration_ns == 72
    assert figures(timeline, program).ranks[0].breakdown_ns["weight_gather"] == 7


def test_every_exchange_of_blocking_messages_costs_the_host_its_time() -> None:
    """After the messages of a step have come, once a step; nothing where messages overlap."""
    costs = dict(table(2, 10, 20).costs)
    for rank in range(2):
        costs[CostKey(Kind.EXCHANGE, rank)] = Cost(duration_ns=3, parts={})
    schedule = one_forward_one_backward(2, 2)
    free = CostTable(costs=costs)
    assert log(lower(schedule, "blocking"), free)[:9] == [
        "0-10 0F0",
        "10-13 0EXCHANGE0",
        "10-13 1EXCHANGE0",
        "13-23 0F1",
        "13-23 1F0",
        "23-43 1B0",
        "43-46 0EXCHANGE1",
        "43-46 1EXCHANGE1",
        "46-66 0B0",
    ]
    overlapped = simulate(lower(schedule), free)
    assert not any(s.action.kind is Kind.EXCHANGE for s in overlapped.spans)


def test_a_deadlock_tells_what_every_rank_waits_for() -> None:
    program = lower(one_forward_one_backward(2, 2), "serial")
    with pytest.raises(Deadlock) as caught:
        simulate(program, table(2, 1, 1))
    assert str(caught.value).splitlines()[1:] == [
        "  rank 0 at 0SEND_F1 waits for 1RECV_F1",
        "  rank 1 at 1SEND_B0 waits for 0RECV_B0",
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 8),
    st.lists(TIME, min_size=10, max_size=10),
    st.integers(0, 10**6),
    st.sampled_from(["overlapped", "blocking"]),
    st.booleans(),
)
def test_busy_time_is_conserved_and_slower_never_helps(
    p: int, m: int, times: list[int], c: int, mode: Mode, use_gpipe: bool
) -> None:
    """Unequal stages: every rank is busy exactly its work; slower links never speed it up; blocking
    never beats overlapped."""
    schedule = gpipe(p, m) if use_gpipe else one_forward_one_backward(p, m)
    program = lower(schedule, mode)

    def costs(c: int) -> CostTable:
        base = table(p, 1, 1, occupancy=c // 2, latency=c - c // 2)
        own = {
            key: Cost(duration_ns=times[2 * key.stage + (key.kind is Kind.BACKWARD)], parts={})
            for key in base.costs
        }
        return CostTable(costs=own, transfers=base.transfers)

    timeline = simulate(program, costs(c))
    for rank, spans in enumerate(timeline.compute):
        assert sum(s.duration_ns for s in spans) == m * (times[2 * rank] + times[2 * rank + 1])
        ends = [s.end_ns for s in spans]
        assert all(s.start_ns >= e for s, e in zip(spans[1:], ends, strict=False))
    assert timeline.iteration_ns >= simulate(program, costs(c // 2)).iteration_ns
    assert timeline.iteration_ns >= simulate(lower(schedule), costs(c)).iteration_ns
    found = figures(timeline, program)
    for rank_figures in found.ranks:
        assert sum(rank_figures.breakdown_ns.values()) == timeline.iteration_ns
        assert (
            rank_figures.busy_ns + rank_figures.exposed_ns + rank_figures.bubble_ns
            == timeline.iteration_ns
        )
    assert sum(found.breakdown.values()) == pytest.approx(1)


def test_two_runs_are_equal_to_the_byte() -> None:
    program = lower(one_forward_one_backward(4, 9), "blocking")
    costs = table(4, 11, 23, occupancy=5, latency=3)
    assert simulate(program, costs).spans == simulate(program, costs).spans
    sent = [s for s in simulate(program, costs).spans if s.action.kind in SENDS]
    assert len(sent) == 2 * 3 * 9
    assert all(isinstance(s.action, Action) and isinstance(s.start_ns, int) for s in sent)
