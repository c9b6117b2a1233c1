"""What commands ask about a prediction before they show it: what-if questions, and traffic."""

from __future__ import annotations

from reports.terminal import console
from sim.prediction import Prediction
from sim.traffic.found import Traffic
from sim.what_if.found import WhatIf


def asked(prediction: Prediction) -> WhatIf:
    """The answers to all what-if questions; on a terminal with what is being simulated."""
    from sim.what_if.asking import what_if

    found = what_if(prediction, progress=console.progress())
    console.progress_done()
    return found


def sent(prediction: Prediction) -> Traffic | None:
    """What an iteration sends; None where nobody knows how much that is."""
    from sim.traffic.counting import traffic

    return traffic(prediction)
