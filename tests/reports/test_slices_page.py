"""Pages of sliced scenarios, and of variants side by side."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from reports.pages import gantt
from reports.pages.page import render
from reports.pages.page_variants import render_variants
from reports.pages.sections_slices import is_sliced, slices_section, slowest_stage, stage_slices
from reports.terminal.variants import finish
from scenarios.loader import load
from sim.prediction import predict
from sim.schedule.actions import Kind
from sim.variants import VariantsResult, beside

SMALL = ("model.layers=4", "model.hidden=64", "model.sequence=256", "model.heads=2")
"""As in the variants' fixture."""
GROUPS = (
    "plan.microbatches=null",
    "plan.micro_batch=null",
    "plan.microbatch_groups=[{microbatches: 2, slices: [64, 64]}, {micro_batch: 2}]",
)


def figure(page: str, name: str) -> Any:
    """The data of a figure of a page."""
    found = re.search(
        rf'id="figure-{name}".*?<script type="application/json">(.*?)</script>', page, re.DOTALL
    )
    assert found is not None
    return json.loads(found[1])


def column(data: Any, name: str, kind: str = "<u2") -> Any:
    return np.frombuffer(base64.b64decode(data["spans"][name]), dtype=kind)


def visible(page: str) -> str:
    """The text of a page, without scripts and styles."""
    text = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"<[^>]*>", "", text).replace("\u00a0", " ")


@pytest.fixture(scope="module")
def page(variants: VariantsResult) -> str:
    return render_variants(variants, "pipetwin run local-terapipe --report r.html")


def test_the_timeline_knows_its_slices() -> None:
    prediction = predict(load("local-terapipe:uniform", SMALL).scenario)
    data = figure(render(prediction, loaded=None), "timeline")
    assert data["cuts"] == [{"variants": [0], "pieces": [[[32 * i, 32] for i in range(8)]]}]
    assert [row["cut"] for row in data["rows"]] == [0, 0]
    forward = column(data, "kind", "u1") == gantt.KINDS.index(Kind.FORWARD)
    assert sorted(column(data, "slice")[forward]) == sorted(list(range(8)) * 2)
    assert data["several_microbatches"] is False


def test_whole_microbatches_are_drawn_as_before() -> None:
    data = figure(render(predict(load("local-2rank").scenario), loaded=None), "timeline")
    assert data["cuts"] == [] and all(row["cut"] is None for row in data["rows"])


def test_unequal_microbatches_have_their_own_slices() -> None:
    loaded = load("local-2rank", GROUPS)
    prediction = predict(loaded.scenario)
    page = render(prediction, loaded=loaded)
    data = figure(page, "timeline")
    assert data["cuts"][0] == {
        "variants": [0, 0, 1],
        "pieces": [[[0, 64], [64, 64]], [[0, 128]]],
    }
    labels = [s.label for s in stage_slices(prediction, 0)]
    assert labels == ["0.0", "0.1", "2"]
    text = visible(page)
    assert "2 microbatches of 1, 1 microbatch of 2 in each of 1 pipeline" in text
    assert "The slices of unequal microbatches take" in text
    assert "after a point, its slice" in text


def test_every_slice_has_its_costs_and_the_formula() -> None:
    prediction = predict(load("local-terapipe", [*SMALL, "plan.slices=[128,96,32]"]).scenario)
    stage, slices = slowest_stage(prediction)
    assert [s.piece.tokens for s in slices] == [128, 96, 32]
    for own in slices:
        spans = [
            s.duration_ns
            for s in prediction.timeline.spans
            if s.action.stage == stage
            and s.action.kind in (Kind.FORWARD, Kind.BACKWARD)
            and s.action.slice_index == int(own.label)
        ]
        assert sum(spans) == own.total_ns > 0
    section = slices_section(prediction)
    assert [row[1].value for row in section.tables[0].rows] == [128, 96, 32]
    total = sum(s.total_ns for s in slices) + max(s.total_ns for s in slices)
    assert total == pytest.approx(prediction.iteration_ns, rel=0.2)
    page = visible(render(prediction, loaded=None))
    assert "3 slices take" in page and "128 tokens" in page
    assert "Token slices: 128, 96, 32" in page
    assert "keys and values stay until" in page


def test_unsliced_pages_have_no_section_of_slices() -> None:
    prediction = predict(load("local-2rank").scenario)
    assert not is_sliced(prediction)
    assert 'id="slices"' not in render(prediction, loaded=None)


def test_slices_with_given_times_have_a_page() -> None:
    prediction = predict(load("replay/stage-times", ["plan.slices=2"]).scenario)
    assert is_sliced(prediction)
    assert "2 slices take" in visible(render(prediction, loaded=None))


def test_variants_stand_one_above_the_other(page: str, variants: VariantsResult) -> None:
    data = figure(page, "timelines")
    titles = [row["title"] for row in data["rows"] if "title" in row]
    assert titles == ["unsliced: whole", "uniform: 8 × 32", "optimal: 120, 80, 56"]
    assert [row["label"] for row in data["rows"][:4]] == ["0 sim", "0 run", "1 sim", "1 run"]
    assert [row["cut"] for row in data["rows"][::4]] == [None, 0, 1]
    assert data["total_ns"] == max(
        t.iteration_ns for c in variants.cases for t in (c.prediction.timeline, *c.whole.timelines)
    )
    rows = column(data, "row")
    last = column(data, "start", "<u4") + column(data, "length", "<u4")
    for position, case in enumerate(variants.cases):
        own = last[(rows == 4 * position) | (rows == 4 * position + 2)]
        assert own.max() == case.prediction.timeline.iteration_ns


def test_variants_are_compared_in_bars_tables_and_json(page: str, variants: VariantsResult) -> None:
    bars = figure(page, "variants")["data"]
    assert [bar["name"] for bar in bars] == ["measured", "predicted"]
    assert bars[0]["x"] == ["unsliced", "uniform", "optimal"]
    assert bars[1]["y"] == [c.row.predicted_ns / 1e9 for c in variants.cases]
    summary = json.loads(re.search(r'id="summary">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert [v["slices"] for v in summary["variants"]] == [[256], [32] * 8, [120, 80, 56]]
    assert {s["id"] for s in summary["sets"]} == {"predictive", "structural"}
    for variant in summary["variants"]:
        assert abs(variant["predictive_error"]) < 0.05
        assert f">{variant['measured_speedup']:.2f}×<" in page
    text = visible(page)
    assert "pipetwin run local-terapipe --report r.html" in text
    assert "predicted from a profile of cpu-core".lower() in text.lower()


def test_the_fit_is_drawn_with_what_was_measured(page: str, variants: VariantsResult) -> None:
    lines = figure(page, "fit")["data"]
    assert [line["name"] for line in lines if line["mode"] == "lines"] == [
        "after 0",
        "after 64",
        "after 128",
        "after 192",
    ]
    points = {x for line in lines if line["mode"] == "markers" for x in line["x"]}
    assert points >= {248, 8, 104, 152}
    assert "layer forward: t(b, l, c) from" in visible(page)
    errors = figure(page, "slice-errors")["data"]
    assert [trace["name"] for trace in errors] == ["unsliced", "uniform", "optimal"]
    assert set(errors[2]["x"]) == {120, 80, 56}
    assert all(abs(y) < 10 for trace in errors for y in trace["y"])


def test_variants_without_a_profile_or_their_file_have_a_page(variants: VariantsResult) -> None:
    runs = [case.whole for case in variants.cases]
    plain = beside(None, [case.loaded for case in variants.cases], runs, None)
    text = visible(render_variants(plain))
    assert "not calibrated" in text and "whose sources are not on record" in text
    assert plain.name == "local-terapipe"


def test_the_terminal_shows_variants(
    variants: VariantsResult, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finish(variants, (), as_json=False) == 0
    shown = capsys.readouterr().out
    assert "8 x 32" in shown and "120, 80, 56" in shown and "faster" in shown
    assert finish(replace(variants, interrupted=True), (), as_json=True) == 130
    found = json.loads(capsys.readouterr().out)
    assert found["interrupted"] is True and len(found["variants"]) == 3
