"""The JSON of one iteration: what `simulate --json` prints and what a report has in it."""

from __future__ import annotations

from sim.prediction import Prediction, summary
from sim.traffic.found import Traffic
from sim.what_if.found import WhatIf


def answer(
    prediction: Prediction, *, what_if: WhatIf | None = None, traffic: Traffic | None = None
) -> dict[str, object]:
    """The figures of a prediction, with what was asked about it: `what_if` and `traffic`."""
    found = summary(prediction)
    if what_if is not None:
        from sim.what_if.json import what_if_json

        found["what_if"] = what_if_json(what_if)
    if traffic is not None:
        from sim.traffic.json import traffic_json

        found["traffic"] = traffic_json(traffic)
    return found
