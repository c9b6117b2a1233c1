"""Simulating one program many times under other costs, by the engine that is quickest for it."""

from __future__ import annotations

import sys
from collections.abc import Callable

from sim.cost.costs import CostTable
from sim.engine import simpy_engine
from sim.engine.choice import choose, iterations
from sim.prediction import Prediction
from sim.schedule.shape import shape_of


def simulations(prediction: Prediction, *, times: int) -> Callable[[CostTable], int]:
    """A function from a cost table to the iteration of a prediction's program, in nanoseconds.

    times: how often about it will be called. A program that a shape gives is encoded from it, which
    takes milliseconds where encoding its actions takes a second.
    """
    program, costs = prediction.program, prediction.costs
    shape = shape_of(prediction.scenario)
    loaded = "sim.engine.compiled" in sys.modules
    engine = choose(program, "compiled" if loaded else "auto", times=times).engine
    if engine == "simpy" or shape is None or costs.variants:
        return iterations(program, costs, times=times)
    from sim.engine.compiled import evaluate
    from sim.engine.encoding import price
    from sim.engine.shapes import encoded_shape

    encoded = encoded_shape(shape)

    def iteration_ns(table: CostTable) -> int:
        try:
            return evaluate(encoded, price(encoded, table)).iteration_ns
        except OverflowError:
            return simpy_engine.simulate(program, table).iteration_ns

    return iteration_ns
