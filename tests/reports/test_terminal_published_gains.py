"""What the terminal shows of speed-ups, of even slices, and of slices that were searched."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from reports.terminal.published import show_published
from reports.terminal.scores import amount_of
from scenarios.published import load_table
from sim.published import JudgedRow, JudgedTable, Outcome
from sim.published_gains import best_even, speedup_set


def judged(table_id: str, factors: dict[str, float]) -> JudgedTable:
    """A table whose predicted times are the published ones times a row's factor, 1 unless given."""
    table = load_table(table_id)
    rows = []
    for row in table.rows:
        assert row.figure is not None
        seconds = row.figure / 1e3
        scenario = row.scenario
        found = None
        if scenario.plan.slices == "optimal":
            assert scenario.model is not None
            tokens = (scenario.model.sequence // 2,) * 2
            found = scenario = replace(scenario, plan=replace(scenario.plan, slices=tokens))
        outcome = Outcome(
            iteration_ns=round(seconds * factors.get(row.name, 1.0) * 1e9),
            peak_bytes=1,
            fits=True,
            scenario=found,
        )
        rows.append(
            JudgedRow(
                row=replace(row, scenario=scenario),
                outcome=outcome,
                predicted_figure=row.figure,
                measured_s=seconds,
                resolution=None,
                calibration=False,
                profiled=False,
            )
        )
    return JudgedTable(table=table, rows=tuple(rows))


def test_speedups_and_their_errors(capsys: pytest.CaptureFixture[str]) -> None:
    found = judged("terapipe.latency", {"with/9": 1.25, "with/10": 0.9})
    scores = speedup_set(found)
    assert scores is not None
    errors = {p["what"]: p["error"] for p in scores["points"]}  # type: ignore[attr-defined]
    assert errors["9"] == pytest.approx(1 / 1.25 - 1) and errors["10"] == pytest.approx(1 / 0.9 - 1)
    assert (scores["within_15_percent"], scores["worst"]) == (9, pytest.approx(0.2))
    # 5.40 x for setting 9 falls behind 5.58 x for setting 10.
    assert (scores["wrong"], scores["right"]) == (1, 43)
    show_published([found], as_json=False)
    shown = capsys.readouterr().out
    assert "2, the same run" in shown and "9 of 10 within 15 %" in shown
    show_published([found], as_json=True)
    sets = json.loads(capsys.readouterr().out)["sets"]
    assert [s["id"] for s in sets] == ["terapipe.latency", "terapipe.speedup"]


def test_the_best_number_of_even_slices_and_how_far_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = judged("terapipe.fig6", {"44b/8": 0.9, "175b/64": 0.6})
    small, large = best_even(found)
    assert (small["predicted"], small["published"], small["steps_apart"]) == (8, [4, 16], 1)
    assert (large["predicted"], large["published"], large["steps_apart"]) == (64, [16], 2)
    show_published([found], as_json=False)
    assert "175b: fastest in 64 even slices by prediction, in 16" in capsys.readouterr().out
    assert best_even(judged("terapipe.latency", {})) == []
    assert speedup_set(found) is None


def test_slices_that_were_searched_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show_published([judged("terapipe.fig7", {})], as_json=False)
    shown = capsys.readouterr().out
    assert "with/8192: slices found by the search: 4096, 4096" in shown
    assert "without/8192: slices" not in shown


def test_half_rows_are_elements() -> None:
    assert amount_of("matmul_half_rows", 65.25) == "65.25 elements"
