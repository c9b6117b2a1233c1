"""What-if questions about the layout that a prediction is of: all of them, one after another.

What is simulated here is the iteration without draws from a profile's spread, so that what differs
between two answers is the question alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sim.prediction import Prediction, without_collector
from sim.what_if.found import WhatIf
from sim.what_if.freeing import freed
from sim.what_if.json import what_if_json as what_if_json

_ELSE = "other layouts, inputs and numbers of devices"


def what_if(prediction: Prediction, *, progress: Callable[[str], None] | None = None) -> WhatIf:
    """Ask all that can be asked of a predicted iteration.

    Times given outright, and layers that are frozen, are asked only what would be free: the rest
    needs a model and a cluster whose layout is open. How much is simulated is bounded
    (`sim.what_if.budget`), and `left_out` tells what was not.
    progress: called with what is being simulated, in words.
    """
    tell = progress if progress is not None else _silent
    with without_collector():
        memory = prediction.memory
        found = WhatIf(
            iteration_ns=prediction.figures.iteration_ns,
            peak_bytes=max(curve.peak_bytes for curve in memory) if memory else None,
            freed=freed(prediction, tell),
            plan=prediction.scenario.plan,
        )
        reason = _why_not(prediction)
        if reason is not None:
            return replace(found, left_out=(reason,))
        from sim.what_if.layouts import of_layouts  # Here: a compiler comes along.

        try:
            return of_layouts(prediction, found, tell)
        except OverflowError:
            return replace(found, left_out=(f"{_ELSE}, as times reach 2^62 ns (146 years)",))


def _why_not(prediction: Prediction) -> str | None:
    """Why nothing is asked of other layouts, where nothing is."""
    scenario = prediction.scenario
    if scenario.costs is not None:
        return f"{_ELSE}, as costs are given outright and no other layout would have them"
    if scenario.model is None or scenario.cluster is None:
        return f"{_ELSE}, which need a model and a cluster"
    if scenario.elastic is not None or scenario.plan.frozen_layers or scenario.plan.fills_cache:
        return f"{_ELSE}, as layers freeze, and which ones hangs on the layout"
    return None


def _silent(text: str) -> None:
    """Nobody listens."""
