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
import sweep_page_cases
import validation_cases
import what_if_cases

from reports.pages.page import render
from reports.pages.page_calibration import render_calibration
from reports.pages.page_compare import render_comparison
from reports.pages.page_elastic import render_elastic
from reports.pages.page_plan import render_plan
from reports.pages.page_sweep import render_sweep
from reports.pages.page_validation import render_log, render_published
from reports.pages.page_variants import render_variants
from reports.plan_answer import PlanAnswer, details_of
from reports.terminal.scores import profile_json
from scenarios.loader import load
from sim.comparison import compare
from sim.prediction import Prediction, predict
from sim.published_sets import published_sets
from sim.traffic.counting import traffic

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


def _compared(name: str) -> str:
    import compare_cases  # which takes HOSTILE from here

    return render_comparison(compare_cases.CASES[name](), f"pipetwin compare a '{HOSTILE}'")


def _swept(use: Use, records: list[dict[str, Any]]) -> str:
    folder = use("tmp_path_factory").mktemp("swept")
    found = sweep_page_cases.results(folder, "results", records)
    return render_sweep(found, command=f"pipetwin sweep '{HOSTILE}'")


def _published() -> str:
    judged = validation_cases.called(validation_cases.table("ptdp.table1"), HOSTILE)
    tables = [judged, validation_cases.table("ptdp.fig13")]
    return render_published(tables, [], published_sets(tables, []), command=HOSTILE)


def _log(use: Use) -> str:
    folder = use("tmp_path_factory").mktemp("log")
    found = validation_cases.log_set(folder, "other data", HOSTILE)
    return render_log(found, [HOSTILE], "DGX", command=HOSTILE)


def _calibration(use: Use) -> str:
    folder = use("tmp_path_factory").mktemp("log")
    scored = validation_cases.log_set(folder, "cross-validated", HOSTILE)
    fitted = [scored, validation_cases.log_set(folder, "in-sample")]
    profile = validation_cases.profile()
    shown = profile_json(profile, None, fitted, [HOSTILE])
    return render_calibration(profile, shown, command=HOSTILE)


def _asked(use: Use) -> str:
    prediction = called(use("prediction"), HOSTILE)
    found = what_if_cases.made_up(prediction)
    links = traffic(prediction)
    return render(prediction, loaded=use("loaded"), what_if=found, traffic=links, trace="t.json")


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
    "what-if": Kind(_asked, plots=8, hostile=True),
    "compare": Kind(lambda use: _compared("schedules"), plots=3, hostile=True),
    "compare-run": Kind(lambda use: _compared("run"), plots=3, hostile=True),
    "sweep": Kind(
        lambda use: _swept(use, sweep_page_cases.two_fields()), plots=2, timelines=0, hostile=True
    ),
    "sweep-wide": Kind(
        lambda use: _swept(use, sweep_page_cases.three_fields()), plots=2, timelines=0, hostile=True
    ),
    "published": Kind(lambda use: _published(), plots=2, timelines=0, hostile=True),
    "log": Kind(_log, plots=1, timelines=0, hostile=True),
    "calibration": Kind(_calibration, plots=1, timelines=0, hostile=True),
}
NAMES = tuple(KINDS)

every_kind = pytest.mark.parametrize("shown", NAMES, indirect=True, scope="module")
"""For tests of the fixture `shown`: each with every kind, one kind after the other."""
