"""The closed form of the iteration's time against the engine."""

from __future__ import annotations

import pytest

from sim.cost.costs import Cost, CostKey, CostTable
from sim.cost.path import Composition, closed_form
from sim.engine.simpy_engine import simulate
from sim.schedule.actions import Kind
from sim.schedule.generators import gpipe, interleaved
from sim.schedule.lowering import Flush, Mode, lower

MODES: tuple[Mode, ...] = ("overlapped", "blocking")


def table(stages: int, exchange: int = 0) -> CostTable:
    times = {
        Kind.FORWARD: 10,
        Kind.BACKWARD: 20,
        Kind.REDUCE_GRADIENTS: 50,
        Kind.OPTIMIZER: 7,
        Kind.EXCHANGE: exchange,
    }
    return CostTable(
        costs={
            CostKey(kind, stage): Cost(
                duration_ns=time, parts={}, hidden_ns=15 if kind is Kind.REDUCE_GRADIENTS else 0
            )
            for kind, time in times.items()
            for stage in range(stages)
        }
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("p", "v", "m"), [(1, 1, 4), (4, 1, 8), (4, 2, 8), (3, 4, 6), (2, 3, 2)])
def test_the_closed_form_of_equal_stages_is_the_engine_s_time(
    p: int, v: int, m: int, mode: Mode
) -> None:
    program = lower(interleaved(p, m, v), mode)
    time, path = closed_form(program, table(p * v))
    assert time == pytest.approx(simulate(program, table(p * v)).iteration_ns)
    assert path.time_ns(table(p * v)) == time


def test_a_reduction_counts_what_is_not_hidden() -> None:
    for overlapped, expected in ((True, 50 - 15), (False, 50)):
        flush = Flush(reduce_gradients=True, overlapped=overlapped)
        program = lower(gpipe(2, 4), flush=flush)
        time, _ = closed_form(program, table(2))
        assert time == (4 + 1) * 30 + expected + 7
        assert time == simulate(program, table(2)).iteration_ns


def test_exchanges_count_once_a_step() -> None:
    """The slowest rank's steps and, of the others, those of one microbatch."""
    program = lower(gpipe(2, 8), "blocking")
    extra = closed_form(program, table(2, 3))[0] - closed_form(program, table(2))[0]
    assert 16 * 3 <= extra <= 20 * 3
    real = simulate(program, table(2, 3)).iteration_ns - simulate(program, table(2)).iteration_ns
    assert extra == pytest.approx(real, abs=3 * 4)


def test_time_is_linear_in_costs_and_hidden_parts() -> None:
    key = CostKey(Kind.REDUCE_GRADIENTS, 0)
    path = Composition(costs={key: 2.0}, transfers={}, hidden={key: 1.0}, rest_ns=4.0)
    assert path.time_ns(table(1)) == 2 * 50 - 15 + 4
