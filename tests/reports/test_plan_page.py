"""The page of a layout search: what it holds, and that it opens silently in a browser."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import plan_cases
import pytest
from test_browser import OUTSIDE, OVERLAPS, SIZES, opened
from test_elastic_page import figure, visible

from reports import layout_words, plan_tables
from reports.pages import charts_plan
from reports.pages.page_plan import render_plan
from reports.plan_answer import PlanAnswer, details_of
from reports.terminal.plan import plan_json

HOSTILE = "<script>alert(1)</script>"
"""As in the fixtures."""


@pytest.fixture(scope="module")
def answer() -> PlanAnswer:
    """Three numbers of GPUs, everything called by a hostile name."""
    return plan_cases.answer((8, 16, 32), name=HOSTILE)


@pytest.fixture(scope="module")
def none_fits() -> PlanAnswer:
    asked = plan_cases.question()
    found = plan_cases.nothing(asked)
    return PlanAnswer(
        asked=asked, only={"tensor": (2, 4)}, found=found, details=details_of(found, None)
    )


@pytest.fixture(scope="module")
def pages(answer: PlanAnswer, none_fits: PlanAnswer) -> dict[str, str]:
    few = plan_cases.answer()
    alone = replace(
        few.found,
        ranked=few.found.ranked[:1],
        front=few.found.front[:1],
        baseline=None,
        alternatives=(),
        sensitivities=(),
    )
    return {
        "full": render_plan(answer, command=f"pipetwin plan '{HOSTILE}'"),
        "none": render_plan(none_fits),
        "alone": render_plan(replace(few, found=alone, details=few.details[:1])),
    }


def test_names_stay_text(pages: dict[str, str]) -> None:
    assert "<script>alert" not in pages["full"]
    assert HOSTILE in pages["full"].replace("&lt;", "<").replace("&gt;", ">")


def test_the_page_answers(pages: dict[str, str], answer: PlanAnswer) -> None:
    text = visible(pages["full"])
    best, own = answer.found.best, answer.found.baseline
    assert own is not None and answer.gain is not None
    assert f"Of 8, 16 and 32 A100-SXM4-80GB, {best.num_devices} are fastest" in text
    assert layout_words.layout(best.plan) in text and f"{answer.gain:.2f}×" in text
    for section in ("layouts", "front", "time", "why", "sensitivity", "searched", "assumptions"):
        assert f'id="{section}"' in pages["full"]
    assert "60,000 layouts were searched" in text
    for other in answer.found.alternatives:
        assert other.reason in text
    assert "found by the search" in text and "scenarios/models/gpt3-6.7b.yaml" in text


def test_the_page_has_the_answer_as_json(pages: dict[str, str], answer: PlanAnswer) -> None:
    data = re.search(r'id="summary">(.*?)</script>', pages["full"], re.DOTALL)
    assert data is not None
    assert json.loads(data[1]) == json.loads(json.dumps(plan_json(answer)))


def test_the_front_is_drawn_by_cost_and_number(pages: dict[str, str], answer: PlanAnswer) -> None:
    traces = {t["name"]: t for t in figure(pages["full"], "front")["data"]}
    front = answer.found.front
    assert traces["front"]["x"] == [c.iteration_ns / 1e9 for c in front]
    assert len(set(traces["front"]["marker"]["color"])) > 1
    sizes = dict(
        zip((c.num_devices for c in front), traces["front"]["marker"]["size"], strict=True)
    )
    assert sizes[8] < sizes[16] < sizes[32]
    assert traces["best"]["x"] == [answer.found.best.iteration_ns / 1e9]
    assert traces["own layout"]["marker"]["symbol"] == "diamond"
    bands = charts_plan.cost_bands(front)
    costs = sorted(c.dollars or 0 for c in front)
    assert bands[0][1] == costs[0] and bands[-1][2] == costs[-1]
    assert all(low <= high for _, low, high in bands)
    assert all(a[2] < b[1] for a, b in pairwise(bands))


def test_times_sum_to_the_iteration(pages: dict[str, str], answer: PlanAnswer) -> None:
    bars = figure(pages["full"], "times")["data"]
    for position, detail in enumerate(answer.details):
        total = sum(bar["x"][position] for bar in bars)
        assert total == pytest.approx(detail.candidate.iteration_ns / 1e9, rel=1e-9)
    rows = plan_tables.time_table(answer.details, least=0.05).rows
    assert rows[-2][0].text == "other"
    for column in range(1, len(rows[0])):
        assert sum(row[column].value or 0 for row in rows[:-1]) == pytest.approx(
            rows[-1][column].value
        )


def test_the_tornado_has_the_largest_first(pages: dict[str, str], answer: PlanAnswer) -> None:
    chart = figure(pages["full"], "tornado")
    shown = [bar["y"][0] for bar in chart["data"][::2]]
    assert shown[0] == "matrix products' efficiency" and shown[-1] == "device memory"
    assert chart["data"][0]["x"][0] == pytest.approx(17, abs=0.01)
    hatched = [bar for bar in chart["data"] if "pattern" in bar["marker"]]
    assert [bar["y"][0] for bar in hatched] == ["intra-node bandwidth"]
    text = visible(pages["full"])
    assert "another layout is better where intra-node bandwidth differs" in text


def test_where_nothing_fits_the_page_says_what_is_missing(pages: dict[str, str]) -> None:
    text = visible(pages["none"])
    assert "No layout of GPT-3 6.7B fits on 16 A100-SXM4-80GB" in text
    assert "420.0 GiB too much" in text and "Only tensor 2 or 4." in text
    assert 'id="front"' not in pages["none"] and 'id="searched"' in pages["none"]
    assert 'class="bad"' in pages["none"]


def test_a_single_layout_has_a_page(pages: dict[str, str]) -> None:
    text = visible(pages["alone"])
    assert "One layout was asked for" in text and "Most of the time goes to" in text


@pytest.mark.parametrize("name", ["full", "none", "alone"])
@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_opens_silently_and_nothing_overlaps(
    browser: Any, pages: dict[str, str], tmp_path: Path, name: str, width: int, scheme: str
) -> None:
    file = tmp_path / "plan.html"
    file.write_text(pages[name], encoding="utf-8")
    with opened(browser, file, width, scheme) as (page, heard):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(OUTSIDE) == []
        assert page.evaluate(OVERLAPS) == []
        for plot in page.query_selector_all('figure[data-kind="plot"]'):
            traces = plot.query_selector_all("g.trace")
            chart = json.loads(plot.query_selector("script").evaluate("s => s.textContent"))
            assert len(traces) == len(chart["data"]), plot.get_attribute("id")
        assert heard == []
