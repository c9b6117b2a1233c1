"""Every kind of page there is, by name, and what it must have drawn.

A kind is a line in KINDS: how it is made from fixtures, how many plots and timelines it has, and
whether a scenario (or table) called by a hostile name is in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import plan_cases
import pytest

from reports.pages.page import render
from reports.pages.page_elastic import render_elastic
from reports.pages.page_plan import render_plan
from reports.pages.page_variants import render_variants
from reports.plan_answer import PlanAnswer, details_of
from scenarios.loader import load
from sim.comparison import compare
from sim.prediction import Prediction, predict

HOSTILE = "<script>alert(1)</script>"
LONG = "a-scenario-of-sixty-characters-without-any-place-to-break-it"
RUN = (
    "training.checkpoint_interval=2 h",
    "training.checkpoints=background",
    "training.checkpoint_stall=0.2",
    "training.stragglers={share: 0.01, slowdown: 1.2}",
    "training.jitter=0.01",
)

Use = Callable[[str], Any]
"""Gives a fixture by its name."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a page is made, the least number of its plots, and the number of its timelines."""

    make: Callable[[Use], str]
    plots: int
    timelines: int = 1
    hostile: bool = False


def called(prediction: Prediction, name: str) -> Prediction:
    """The prediction of a scenario of another name and description."""
    scenario = replace(prediction.scenario, name=name, description=name)
    return replace(prediction, scenario=scenario)


def _full(use: Use) -> str:
    return render(
        called(use("prediction"), HOSTILE),
        loaded=use("loaded"),
        measurement=use("measurement"),
        comparison=compare(use("prediction"), use("measurement")),
        loop=use("loop"),
        command=f"pipetwin simulate '{HOSTILE}'",
    )


def _loaded(name: str, *overrides: str) -> str:
    found = load(name, overrides)
    return render(predict(found.scenario), loaded=found)


def _sliced(use: Use) -> str:
    case = use("variants").cases[1]
    return render(case.prediction, loaded=case.loaded)


def _variants(use: Use) -> str:
    return render_variants(use("variants"), "pipetwin run local-terapipe --report r.html")


def _elastic(use: Use) -> str:
    rows = use("ablated")
    loaded = use("elastic_loaded")
    return render_elastic(rows[-1].prediction, rows, loaded=loaded, command="pipetwin simulate e")


def _executed(use: Use) -> str:
    first = use("ablated")[-1].prediction
    return render_elastic(first, (), loaded=None, comparison=use("elastic_runs"))


def _plan() -> str:
    answer = plan_cases.answer((8, 16, 32), name=HOSTILE)
    return render_plan(answer, command=f"pipetwin plan '{HOSTILE}'")


def _no_plan() -> str:
    asked = plan_cases.question()
    found = plan_cases.nothing(asked)
    answer = PlanAnswer(asked=asked, only={}, found=found, details=details_of(found, None))
    return render_plan(answer)


KINDS: dict[str, Kind] = {
    "full": Kind(_full, plots=3, timelines=2, hostile=True),
    "cluster": Kind(lambda use: _loaded("megatron/175b"), plots=3),
    "run": Kind(lambda use: _loaded("megatron/175b-run", *RUN), plots=3),
    "times": Kind(lambda use: render(use("times"), loaded=None), plots=3),
    "long-name": Kind(lambda use: render(called(use("times"), LONG), loaded=None), plots=3),
    "large": Kind(lambda use: render(use("large"), loaded=None), plots=3),
    "sliced": Kind(_sliced, plots=3),
    "variants": Kind(_variants, plots=3),
    "elastic": Kind(_elastic, plots=3),
    "executed": Kind(_executed, plots=3, hostile=True),
    "plan": Kind(lambda use: _plan(), plots=3, timelines=0, hostile=True),
    "no-plan": Kind(lambda use: _no_plan(), plots=0, timelines=0),
}
NAMES = tuple(KINDS)

every_kind = pytest.mark.parametrize("shown", NAMES, indirect=True, scope="module")
"""For tests of the fixture `shown`: each with every kind, one kind after the other."""
