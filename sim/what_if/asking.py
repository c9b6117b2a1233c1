"""What-if questions about the layout that a prediction is of: all of them, one after another."""

from __future__ import annotations

from collections.abc import Callable

from sim.prediction import Prediction, without_collector
from sim.what_if.found import WhatIf
from sim.what_if.freeing import freed
from sim.what_if.json import what_if_json as what_if_json


def what_if(prediction: Prediction, *, progress: Callable[[str], None] | None = None) -> WhatIf:
    """Ask all that can be asked of a predicted iteration.

    progress: called with what is being simulated, in words.
    """
    tell = progress if progress is not None else _silent
    with without_collector():
        memory = prediction.memory
        return WhatIf(
            iteration_ns=prediction.figures.iteration_ns,
            peak_bytes=max(curve.peak_bytes for curve in memory) if memory else None,
            freed=freed(prediction, tell),
            plan=prediction.scenario.plan,
        )


def _silent(text: str) -> None:
    """Nobody listens."""
