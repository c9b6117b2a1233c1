"""Interleaved 1F1B against Megatron-LM's rule, torch's own orders and the closed forms."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.cost.costs import Cost, CostKey, CostTable, Transfer
from sim.engine.simpy_engine import simulate
from sim.schedule.actions import COMPUTE, Kind
from sim.schedule.checks import check
from sim.schedule.generators import interleaved, one_forward_one_backward
from sim.schedule.lowering import Mode, lower
from sim.schedule.torch_csv import compute_csv, program_csv, read_csv
from sim.timeline.figures import figures

SIZES = [(p, v, rounds * p) for p in (2, 3, 4, 6) for v in (2, 3, 5) for rounds in (1, 2, 3)]
MODES: tuple[Mode, ...] = ("overlapped", "blocking")
sizes = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
"""Ranks, chunks, and microbatches in multiples of the ranks."""


def megatron(p: int, v: int, m: int, rank: int) -> list[str]:
    """The passes of forward_backward_pipelining_with_interleaving, as Megatron-LM's loop counts
    them (commit 6985e589): by the chunk of the next pass and that chunk's next microbatch."""
    done = {kind: [0] * v for kind in "FB"}
    passes: list[str] = []

    def run(kind: str, number: int) -> None:
        in_group = number % (p * v)
        chunk = in_group // p
        if kind == "B":
            chunk = v - chunk - 1
        passes.append(f"{chunk * p + rank}{kind}{done[kind][chunk]}")
        done[kind][chunk] += 1

    total = m * v
    warm_up = total if m == p else min((p - rank - 1) * 2 + (v - 1) * p, total)
    for number in range(warm_up):
        run("F", number)
    for number in range(total - warm_up):
        run("F", number + warm_up)
        run("B", number)
    for number in range(total - warm_up, total):
        run("B", number)
    return passes


@pytest.mark.parametrize(("p", "v", "m"), SIZES)
def test_orders_are_megatrons(p: int, v: int, m: int) -> None:
    schedule = interleaved(p, m, v)
    for rank, order in enumerate(schedule.orders):
        assert [str(a) for a in order] == megatron(p, v, m, rank)


@pytest.mark.parametrize(("p", "v", "m"), [size for size in SIZES if size[2] > size[0]])
def test_orders_are_torchs(p: int, v: int, m: int) -> None:
    """ScheduleInterleaved1F1B's, for more microbatches than ranks: with as many, Megatron-LM runs
    all forward passes first, and torch does not."""
    pipelining = pytest.importorskip("torch.distributed.pipelining.schedules")

    class Recorded(pipelining.ScheduleInterleaved1F1B):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self._n_microbatches, self.pp_group_size, self.rank = m, p, 0
            self.n_local_stages, self._num_stages = v, p * v
            self.number_of_rounds = max(1, m // p)
            self.microbatches_per_round = m // self.number_of_rounds

        def order(self, rank: int) -> list[str]:
            found = self._calculate_single_rank_operations(rank)
            return [str(action) for action in found if action is not None]

    torchs = Recorded()
    for rank, order in enumerate(interleaved(p, m, v).orders):
        assert [str(a) for a in order] == torchs.order(rank)


def table(stages: int, f: int, b: int) -> CostTable:
    return CostTable(
        costs={
            CostKey(kind, stage): Cost(duration_ns=time, parts={"given": time})
            for stage in range(stages)
            for kind, time in ((Kind.FORWARD, f), (Kind.BACKWARD, b))
        }
    )


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(1, 10**7), st.integers(1, 10**7), st.sampled_from(MODES))
def test_iteration_time_is_the_closed_form(
    size: tuple[int, int, int], f: int, b: int, mode: Mode
) -> None:
    """(m v + p - 1)(f + b) for chunks of f and b: the bubble is that of 1F1B over v."""
    p, v, rounds = size
    m = rounds * p
    program = lower(interleaved(p, m, v), mode)
    timeline = simulate(program, table(p * v, f, b))
    assert timeline.iteration_ns == (m * v + p - 1) * (f + b)
    found = figures(timeline, program)
    assert [r.bubble_ns for r in found.ranks] == [(p - 1) * (f + b)] * p
    assert found.bubble_over_ideal == pytest.approx((p - 1) / (m * v))


@settings(max_examples=40, deadline=None)
@given(sizes)
def test_orders_are_sound_and_in_flight_is_the_closed_form(size: tuple[int, int, int]) -> None:
    p, v, rounds = size
    m = rounds * p
    report = check(interleaved(p, m, v))
    if v == 1 or m == p:
        expected = [min(m, p - r) if v == 1 else m * v for r in range(p)]
    else:
        expected = [min(m * v, (v - 1) * p + 2 * (p - 1 - r) + 1) for r in range(p)]
    assert list(report.in_flight) == expected
    assert not report.deadlocks["buffered"]
    assert not report.deadlocks["rendezvous, receives posted early"]
    assert not report.deadlocks["batched"]


@given(st.integers(1, 8), st.integers(1, 12))
def test_one_chunk_is_1f1b(p: int, m: int) -> None:
    schedule, plain = interleaved(p, m, 1), one_forward_one_backward(p, m)
    assert schedule.orders == plain.orders
    assert schedule.placement == plain.placement
    assert lower(schedule, "blocking").steps == lower(plain, "blocking").steps


@pytest.mark.parametrize("m", [1, 3, 5, 9])
def test_microbatches_that_do_not_divide_are_refused(m: int) -> None:
    with pytest.raises(ValueError, match=f"a multiple of 4 microbatches, not {m}"):
        interleaved(4, m, 2)


def test_no_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 chunk, not 0"):
        interleaved(2, 4, 0)


def test_a_slot_s_messages_are_one_exchange() -> None:
    """Rank 1 of 3 with 2 chunks in the steady phase: after F and B both results leave, and what the
    next F and B need comes, all at once."""
    steps = lower(interleaved(3, 6, 2), "blocking").steps[1]
    passes = [i for i, step in enumerate(steps) if step[0].kind in COMPUTE]
    first = next(i for i in passes if steps[i][0].kind is Kind.BACKWARD)
    assert steps[first - 1][0].kind is Kind.FORWARD
    kinds = sorted(a.kind.value for a in steps[first + 1])
    assert kinds == ["RECV_B", "RECV_F", "SEND_B", "SEND_F"]
    assert steps[first + 2][0].kind is Kind.FORWARD
    assert steps[first + 3][0].kind is Kind.BACKWARD


def test_torch_csv_round_trip(tmp_path: Path) -> None:
    schedule = interleaved(4, 8, 3)
    path = tmp_path / "s.csv"
    for text in (compute_csv(schedule), program_csv(lower(schedule, "blocking"))):
        path.write_text(text)
        again = read_csv(path, num_ranks=4, num_microbatches=8)
        assert (again.orders, again.placement) == (schedule.orders, schedule.placement)


@settings(max_examples=30, deadline=None)
@given(
    sizes.filter(lambda s: s[1] > 1),
    st.lists(st.integers(1, 9_999), min_size=40, max_size=40),
    st.integers(0, 20_000),
)
def test_busy_time_is_conserved_and_overlap_or_bandwidth_never_slow_down(
    size: tuple[int, int, int], times: list[int], message: int
) -> None:
    """Unequal chunks and costly messages: every rank is busy exactly its stages' work."""
    p, v, rounds = size
    m = rounds * p
    costs = {}
    for stage in range(p * v):
        for i, kind in enumerate((Kind.FORWARD, Kind.BACKWARD)):
            costs[CostKey(kind, stage)] = Cost(duration_ns=times[2 * stage + i], parts={})

    def under(message: int) -> CostTable:
        transfers = {
            CostKey(kind, stage): Transfer(
                occupancy_ns=message // 2,
                latency_ns=message - message // 2,
                resources=(2 * (stage % p) + (kind is Kind.SEND_FORWARD),),
                payload_bytes=0,
            )
            for stage in range(p * v)
            for kind in (Kind.SEND_FORWARD, Kind.SEND_BACKWARD)
        }
        return CostTable(costs=costs, transfers=transfers)

    taken = {}
    for mode in MODES:
        program = lower(interleaved(p, m, v), mode)
        timeline = simulate(program, under(message))
        for rank, spans in enumerate(timeline.compute):
            own = range(rank, p * v, p)
            assert sum(s.duration_ns for s in spans) == m * sum(
                times[2 * stage] + times[2 * stage + 1] for stage in own
            )
        taken[mode] = timeline.iteration_ns
        assert simulate(program, under(message // 2)).iteration_ns <= taken[mode]
    assert taken["overlapped"] <= taken["blocking"]


def test_the_bubble_vanishes_with_microbatches_and_shrinks_with_chunks() -> None:
    def bubble(m: int, v: int) -> float:
        program = lower(interleaved(4, m, v), "blocking")
        # A rank's whole pass is the same, so that chunks divide it.
        return figures(simulate(program, table(4 * v, 60 // v, 120 // v)), program).bubble_fraction

    falling = [bubble(m, 2) for m in (4, 8, 32, 128)]
    assert falling == sorted(falling, reverse=True) and falling[-1] < 0.012
    shrinking = [bubble(8, v) for v in (1, 2, 3, 6)]
    assert shrinking == sorted(shrinking, reverse=True)
