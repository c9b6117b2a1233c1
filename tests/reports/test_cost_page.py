"""Cost and days on the page: where there is something to count, and that it adds up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from what_if_cases import made_up

from reports.pages import charts_cost
from reports.pages.sections import Section
from reports.pages.sections_cost import cost_section
from reports.tables import Table
from reports.words import NBSP
from scenarios.loader import load
from sim.prediction import Prediction, predict, summary
from sim.what_if.found import WhatIf


@pytest.fixture(scope="module")
def priced() -> Prediction:
    return predict(load("megatron/175b").scenario)


def section_of(prediction: Prediction, what_if: WhatIf | None = None) -> Section:
    section = cost_section(prediction, summary(prediction), what_if)
    assert section is not None
    return section


def values(table: Table) -> dict[str, float | None]:
    return {row[0].text: row[1].value for row in table.rows}


def test_a_plain_run_is_told_in_days_hours_and_dollars(priced: Prediction) -> None:
    found, section = summary(priced), section_of(priced)
    claim = section.claim.replace(NBSP, " ")
    assert claim.startswith("300 billion tokens take 33.53 days on 1,024 A100-SXM4-80GB: 824,071")
    assert "or $1.65 million; $185,004 of it go to tensor-parallel collectives" in claim
    rows = values(section.tables[0])
    assert rows["days"] == found["training_days"] and rows["cost"] == found["training_cost_dollars"]
    assert rows["iterations"] == 300e9 / (1536 * 2048)
    billion = rows["cost of a billion tokens"]
    assert billion is not None and billion * 300 == pytest.approx(found["training_cost_dollars"])


def test_what_is_spent_adds_up(priced: Prediction) -> None:
    found, section = summary(priced), section_of(priced)
    *parts, total = section.tables[1].rows
    assert total[1].value == pytest.approx(found["training_cost_dollars"])
    assert sum(row[1].value or 0.0 for row in parts) == pytest.approx(total[1].value)
    assert sum(row[2].value or 0.0 for row in parts) == pytest.approx(1)
    bars = section.figures[0].data["data"]
    assert sum(bar["x"][0] for bar in bars) == pytest.approx(total[1].value)


def test_without_a_run_a_billion_tokens_are_counted(prediction: Prediction) -> None:
    section = section_of(prediction)
    assert section.claim.startswith("A billion tokens take ")
    rows = values(section.tables[0])
    assert "cost of a billion tokens" not in rows and "days" not in rows
    hours, rate = rows["device hours of a billion tokens"], rows["tokens a second"]
    assert hours is not None and rate is not None
    assert hours == pytest.approx(1e9 / rate / 3600 * 4)
    assert section.tables[1].columns == ("Category", "Device hours", "Share")


def test_without_a_model_there_is_nothing_to_count(times: Prediction) -> None:
    assert cost_section(times, summary(times)) is None


def test_other_numbers_of_devices_are_drawn_where_they_are_priced(priced: Prediction) -> None:
    found = made_up(priced)
    points = charts_cost.priced(found)
    assert [point.num_devices for point in points] == [32, 64, 128, 256]
    line, own = charts_cost.days_and_dollars(points)["data"]
    assert line["x"] == [point.days for point in points] and own["x"] == [points[1].days]
    section = section_of(priced, found)
    assert [figure.name for figure in section.figures] == ["cost-by-category", "cost-and-days"]
    free = replace(found, scaling=tuple(replace(p, dollars=None) for p in found.scaling))
    assert len(section_of(priced, free).figures) == 1


def test_a_run_with_failures_keeps_its_own_section() -> None:
    prediction = predict(load("megatron/175b-run").scenario)
    section = section_of(prediction, made_up(prediction))
    assert section.name == "training" and section.topic == "Cost and days"
    names = [figure.name for figure in section.figures]
    assert names == ["training-interval", "training-overhead", "cost-by-category", "cost-and-days"]
    assert all("simulated" in figure.title for figure in section.figures)
    assert section.tables[-1].caption == "Where the dollars of training as predicted go"
