"""Iterations with a frozen prefix against closed forms, exact in integer nanoseconds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.costs import Cost, CostKey, CostTable
from sim.engine.simpy_engine import simulate
from sim.schedule.actions import Kind
from sim.schedule.generators import gpipe, one_forward_one_backward
from sim.schedule.lowering import Mode, lower
from sim.timeline.figures import figures

TIME = st.integers(1, 10**7)


def table(stages: int, f: int, b: int) -> CostTable:
    """Equal stages, free messages."""
    return CostTable(
        costs={
            CostKey(kind, stage): Cost(duration_ns=time, parts={"given": time})
            for stage in range(stages)
            for kind, time in ((Kind.FORWARD, f), (Kind.BACKWARD, b))
        }
    )


@given(st.integers(1, 8), st.integers(1, 16), st.integers(0, 7), TIME, TIME, st.booleans())
def test_gpipe_with_frozen_stages_is_the_closed_form(
    p: int, m: int, k: int, f: int, b: int, blocking: bool
) -> None:
    """(m + p - 1) f + (m + p - k - 1) b: the backward passes go through p - k stages only."""
    k = min(k, p - 1)
    mode: Mode = "blocking" if blocking else "overlapped"
    program = lower(gpipe(p, m, frozen_stages=k), mode)
    timeline = simulate(program, table(p, f, b))
    assert timeline.iteration_ns == (m + p - 1) * f + (m + p - k - 1) * b
    busy = [rank.busy_ns for rank in figures(timeline, program).ranks]
    assert busy == [m * f] * k + [m * (f + b)] * (p - k)


@given(st.integers(1, 8), st.integers(1, 16), st.integers(0, 7), TIME, TIME)
def test_one_forward_one_backward_takes_no_longer_than_unfrozen(
    p: int, m: int, k: int, f: int, b: int
) -> None:
    """The last stage alone is at work from its first forward pass on, and the backward pass of the
    last microbatch goes back through p - k - 1 stages: (p - 1) f + m (f + b) + (p - k - 1) b."""
    k = min(k, p - 1)
    program = lower(one_forward_one_backward(p, m, frozen_stages=k))
    assert simulate(program, table(p, f, b)).iteration_ns == (
        (p - 1) * f + m * (f + b) + (p - k - 1) * b
    )


@pytest.mark.parametrize("backward", ["same", "reversed"])
def test_a_frozen_stage_idles_to_the_end(backward: str) -> None:
    program = lower(gpipe(2, 3, backward=backward, frozen_stages=1))  # type: ignore[arg-type]
    timeline = simulate(program, table(2, 5, 9))
    assert timeline.iteration_ns == 4 * 5 + 3 * 9
    assert [rank.bubble_ns for rank in figures(timeline, program).ranks] == [32, 5]
