"""Orders over token slices: complete, free of cycles, with the in-flight counts of their rules."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.schema import GivenCosts, MicrobatchGroup, Plan, Scenario
from sim.cost.table import cost_table
from sim.engine.simpy_engine import simulate
from sim.schedule.actions import Action, Kind
from sim.schedule.build import build_program, build_schedule
from sim.schedule.checks import check
from sim.schedule.generators import gpipe, one_forward_one_backward, terapipe
from sim.schedule.schedule import dependencies
from sim.schedule.torch_csv import ScheduleError

SLICES = st.lists(st.integers(1, 5), min_size=1, max_size=5)


@given(st.integers(1, 6), SLICES)
def test_every_order_is_sound_and_deadlocks_only_as_its_whole_one_does(
    p: int, slices: list[int]
) -> None:
    m, total, most = len(slices), sum(slices), max(slices)
    for order in (gpipe(p, m, slices=slices), terapipe(p, m, slices=slices)):
        report = check(order)
        assert report.in_flight == (total,) * p
        assert not any(report.deadlocks.values())
    report = check(one_forward_one_backward(p, m, slices=slices))
    assert report.in_flight == tuple(min(total, p - 1 - r + most) for r in range(p))
    assert not report.deadlocks["batched"] and not report.deadlocks["buffered"]


def test_terapipe_goes_back_exactly_as_it_came() -> None:
    order = terapipe(2, 2, slices=(2, 3)).orders[1]
    shown = " ".join(map(str, order))
    assert shown == "1F0 1F0.1 1F1 1F1.1 1F1.2 1B1.2 1B1.1 1B1 1B0.1 1B0"


def test_1f1b_begins_backward_with_the_last_slice() -> None:
    order = one_forward_one_backward(2, 2, slices=2).orders[1]
    assert " ".join(map(str, order)) == "1F0 1F0.1 1B0.1 1F1 1B0 1F1.1 1B1.1 1B1"


def test_a_slice_waits_for_the_ones_before_it_and_backward_for_those_after_it() -> None:
    schedule = terapipe(2, 2, slices=(3, 1))
    assert dependencies(Action(Kind.FORWARD, 1, 0, 2), schedule) == (
        Action(Kind.FORWARD, 0, 0, 2),
        Action(Kind.FORWARD, 1, 0, 1),
    )
    assert dependencies(Action(Kind.BACKWARD, 0, 0, 1), schedule) == (
        Action(Kind.FORWARD, 0, 0, 1),
        Action(Kind.BACKWARD, 1, 0, 1),
        Action(Kind.BACKWARD, 0, 0, 2),
    )
    assert dependencies(Action(Kind.BACKWARD, 1, 1, 0), schedule) == (Action(Kind.FORWARD, 1, 1),)


def test_slices_need_a_number_for_every_microbatch() -> None:
    with pytest.raises(ValueError, match="3 microbatches need as many numbers of slices"):
        terapipe(2, 3, slices=(1, 2))
    with pytest.raises(ValueError, match="each at least 1"):
        terapipe(2, 2, slices=(1, 0))


def replay(schedule: str, p: int, groups: tuple[MicrobatchGroup, ...]) -> Scenario:
    """Forward 1000 ns a token and sequence of a whole of 1000 tokens, backward twice that."""
    return Scenario(
        name="replay",
        plan=Plan(schedule=schedule, pipeline=p, microbatch_groups=groups),  # type: ignore[arg-type]
        costs=GivenCosts(forward=1_000_000, backward=2_000_000),
    )


def tokens_of(cuts: list[int]) -> tuple[int, ...]:
    """Slices of a sequence of 1000 tokens cut at these places."""
    ends = [0, *sorted(set(cuts)), 1000]
    return tuple(b - a for a, b in pairwise(ends))


@given(
    st.integers(1, 6),
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(1, 999), max_size=4)),
        min_size=1,
        max_size=3,
    ),
)
def test_terapipe_takes_the_sum_and_p_minus_one_times_the_largest(
    p: int, cut: list[tuple[int, int, list[int]]]
) -> None:
    """T = sum t + (p - 1) max t, to the nanosecond, for any slicing and mix of microbatches."""
    groups = tuple(
        MicrobatchGroup(microbatches=n, micro_batch=b, slices=tokens_of(cuts)) for n, b, cuts in cut
    )
    scenario = replay("terapipe", p, groups)
    program = build_program(scenario)
    timeline = simulate(program, cost_table(scenario, program))
    times = [
        3000 * group.micro_batch * tokens
        for group in groups
        for tokens in group.slices  # type: ignore[union-attr]
        for _ in range(group.microbatches)
    ]
    assert timeline.iteration_ns == sum(times) + (p - 1) * max(times)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5))
def test_1f1b_over_balanced_slices_has_an_nth_of_the_bubble(p: int, m: int, n: int) -> None:
    """m (f + b) + (p - 1)(f + b)/n (arXiv 2406.03488)."""
    group = MicrobatchGroup(microbatches=m, slices=n)
    scenario = Scenario(
        name="replay",
        plan=Plan(schedule="1f1b", pipeline=p, microbatch_groups=(group,)),
        costs=GivenCosts(forward=60_000 * n, backward=120_000 * n),
    )
    program = build_program(scenario)
    timeline = simulate(program, cost_table(scenario, program))
    assert timeline.iteration_ns == 180_000 * (m * n + p - 1)


def test_a_given_order_must_be_cut_as_the_plan_says() -> None:
    plan = Plan(schedule="given", pipeline=1, schedule_order=("0F0,0F0.1,0B0.1,0B0",), slices=3)
    scenario = Scenario(name="given", plan=plan, costs=GivenCosts(forward=1))
    with pytest.raises(ScheduleError, match="`slices: 2` would work"):
        build_schedule(scenario)
