"""The training run in page and terminal: where it is shown, with which figures."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
from rich.console import Console

from reports.pages.charts_training import COLORS, time_by_interval
from reports.pages.sections_training import training_section
from reports.terminal.training import show_training
from reports.training_words import PARTS, between, claim, days, facts
from scenarios.loader import load
from sim.planner.goodput.run import DAY_NS
from sim.prediction import Prediction, predict, summary

SLOW = ("training.stragglers={share: 0.01, slowdown: 1.2}", "training.jitter=0.01")


@pytest.fixture(scope="module")
def found() -> Prediction:
    return predict(load("megatron/175b-run", SLOW).scenario)


def shown(prediction: Prediction) -> str:
    out = Console(file=io.StringIO(), width=120)
    show_training(out, prediction.training)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def at(values: Any, path: str) -> Any:
    for key in path.split("."):
        values = values[key]
    return values


def test_the_page_has_the_figures_of_the_summary(pages: dict[str, str]) -> None:
    page = pages["run"]
    text = re.search(r'<script type="application/json" id="summary">(.+?)</script>', page, re.S)
    assert text is not None
    values = json.loads(text[1])
    section = page[page.index('<section class="part" id="training">') :]
    section = section[: section.index("</section>")]
    figures = re.findall(r'<data value="([^"]+)" data-figure="(training[^"]+)">', section)
    assert len(figures) > 20
    for value, name in figures:
        assert float(value) == at(values, name), name
    assert 'id="training"' not in pages["cluster"]
    assert "Expected cost of training" in page and "without failures" in page
    assert "Expected cost of training" not in pages["cluster"]


def test_all_of_the_run_is_shown(found: Prediction) -> None:
    training = found.training
    assert training is not None and training.days is not None
    text = shown(found)
    assert claim(training).replace("\u00a0", " ")[:60] in text
    for name in training.breakdown:
        assert PARTS[name] in text
    for words in ("Young's formula", "Daly's formula, higher order", "(as here)", "standard error"):
        assert words in text
    own = next(line for line in text.splitlines() if "(as here)" in line)
    assert len(re.findall(r"[\d.]+ (?:days|hours|minutes|s)\b", own)) == 4, "each with its unit"
    assert set(training.breakdown) == {"training", *COLORS}
    section = training_section(found)
    assert section.claim == claim(training) and "%" in section.claim
    shares = [row[2].value for row in section.tables[1].rows]
    assert sum(s for s in shares[:-1] if s is not None) == pytest.approx(1)
    listed = {fact.figure: fact.value for fact in facts(training) if fact.figure}
    for name, value in listed.items():
        assert value == at(summary(found), name), name


def test_the_curve_lies_where_the_formula_is_and_its_marks_on_it(found: Prediction) -> None:
    training = found.training
    assert training is not None and training.intervals is not None
    line, simulated, *marks = time_by_interval(training, training.intervals)["data"]
    for x, y in zip(line["x"], line["y"], strict=True):
        assert y == pytest.approx(training.run.saved_every(x * 60e9).expected_ns / DAY_NS)
    assert len(simulated["x"]) == len(training.intervals.points)
    assert [mark["name"] for mark in marks] == [
        "Young's formula",
        "Daly's formula, higher order",
        "the best, exactly",
    ]
    best = marks[-1]
    assert best["y"][0] <= min(line["y"]) * (1 + 1e-9)


def test_a_run_without_an_end_is_shown() -> None:
    never = ("training.device_mtbf=1 min", "training.checkpoint_bandwidth=1 MB/s")
    prediction = predict(load("megatron/175b-run", never).scenario)
    text = shown(prediction)
    assert "never finishes" in text and "where the days go" not in text
    section = training_section(prediction)
    assert section.claim.startswith("The run never finishes with a failure every")
    assert not section.figures and section.lists
    json.dumps(summary(prediction), allow_nan=False)


def test_a_plain_run_has_no_more_than_its_days() -> None:
    assert shown(predict(load("megatron/175b").scenario)) == ""
    assert shown(predict(load("local-2rank").scenario)) == ""


def test_days_in_words() -> None:
    nbsp = "\u00a0"
    assert days(33.9) == f"33.90{nbsp}days" and days(1234.5) == f"1,234{nbsp}days"
    assert days(0.5) == f"12{nbsp}hours"
    assert between(33.9, 34.123) == f"33.90 to 34.12{nbsp}days"
    assert between(0.5, 3) == f"12{nbsp}hours to 3.00{nbsp}days"
