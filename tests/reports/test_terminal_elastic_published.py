"""What the terminal shows of published runs of epochs, from made-up predictions."""

from __future__ import annotations

import json

import pytest

from reports.commands import files
from reports.terminal.published import show_published, show_rows
from scenarios.published_elastic import load_runs
from sim.published_elastic import JudgedFigure, JudgedRuns


def judged(table_id: str, factor: float) -> JudgedRuns:
    """Predictions that are all the published figures times a factor; calibrated ones exact."""
    table = load_runs(table_id)
    return JudgedRuns(
        table=table,
        figures=tuple(
            JudgedFigure(
                run=run.name,
                epoch=epoch if run.over is None else None,
                predicted=figure * (1 if run.fitted else factor),
                published=figure,
                calibration=run.fitted,
                assumed=run.assumed,
                resolution=table.resolution / 2 / figure,
            )
            for run in table.runs
            for epoch, figure in enumerate(run.figures)
        ),
    )


def test_speedups_beside_the_published_ones(capsys: pytest.CaptureFixture[str]) -> None:
    found = judged("pt.breakdown", 1.2)
    errors = show_published([], [found], as_json=False)
    assert errors == pytest.approx((0.2,) * 4)
    shown = capsys.readouterr().out
    assert "freeze+AutoPipe+AutoDP " in shown and "2.72 x" in shown and "2.27 x" in shown
    assert "no freeze *" in shown and "* calibrated on, or by definition: not judged" in shown
    assert "0 of 4 within 15 %; MAPE 20.0%, bias +20.0%, worst 20.0%" in shown
    assert "pt.breakdown  4  20.0%  +20.0%  20.0%" in shown
    assert all(note.split()[0] in shown for note in found.table.notes)


def test_epochs_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    show_published([], [judged("pt.epoch_throughput", 0.9)], as_json=False)
    shown = capsys.readouterr().out
    (row,) = (line for line in shown.splitlines() if line.lstrip().startswith("8 "))
    assert "6,597 / 7,330" in row and "-10%" in row and "330 / 330" in row
    assert "samples/s: predicted / published, error" in shown


def test_what_is_open_is_shown_and_not_judged(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(show_published([], [judged("pt.table1", 2.0)], as_json=False)) == 2
    shown = capsys.readouterr().out
    assert "SQuAD 1.1 (BERT-large) +" in shown and "+100.0%" in shown
    assert "+ its source leaves open what decides it: not judged" in shown


def test_the_sets_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    show_published([], [judged("pt.breakdown", 0.8), judged("pt.alpha", 1.0)], as_json=True)
    one, other = json.loads(capsys.readouterr().out)["sets"]
    assert (one["id"], other["id"]) == ("pt.breakdown", "pt.alpha")
    assert (one["n"], one["mape"], one["bias"]) == (4, pytest.approx(0.2), pytest.approx(-0.2))
    assert one["kendall_tau"] == pytest.approx((one["right"] - one["wrong"]) / one["pairs"])
    assert [p["what"] for p in one["points"]][:2] == ["no freeze", "freeze only"]
    point = one["points"][3]
    assert point["predicted"] == pytest.approx(0.8 * 2.27) and point["measured"] == 2.27
    assert point["error"] == pytest.approx(-0.2) and not point["calibration"]
    assert other["mape"] == 0.0 and other["worst"] == 0.0


def test_tables_of_rows_and_of_runs_by_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    names = [table.id for table in files.published_tables("pipetransformer", ())]
    assert names == [
        "pt.chunks",
        "pt.chunks_log",
        "pt.alpha",
        "pt.breakdown",
        "pt.epoch_throughput",
        "pt.table1",
    ]
    chosen = files.published_tables("pt.breakdown,pt.chunks", ())
    assert [table.id for table in chosen] == ["pt.chunks", "pt.breakdown"]
    show_rows(chosen, as_json=False)
    shown = capsys.readouterr().out
    assert "published/pt.chunks/2" in shown
    assert "freezing alone" in shown and "no freezing" in shown and "AutoPipe + AutoDP" in shown
    show_rows(files.published_tables("pt.epoch_throughput", ()), as_json=True)
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[0]["published"][:2] == [400, 330] and rows[0]["unit"] == "samples/s"
