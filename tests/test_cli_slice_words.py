"""What commands say of token slices: in schedules, in comparisons, and of published tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pipetwin
from scenarios.loader import load
from sim.measurement import Measurement, write_measurements
from sim.prediction import predict


def run(capsys: pytest.CaptureFixture[str], *tokens: str) -> tuple[int, str, str]:
    code = pipetwin.run_command_line(list(tokens))
    captured = capsys.readouterr()
    return code, " ".join(captured.out.split()), captured.err


def measured(path: Path, name: str) -> None:
    """A file as if a run had gone as simulated."""
    scenario = load(name).scenario
    timeline = predict(scenario).timeline
    run = Measurement(scenario=scenario, timelines=(timeline,), disturbed=(False,))
    write_measurements([run], path, force=False)


def test_passes_in_flight_are_called_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--stages", "2", "--microbatches", "2")
    _, out, _ = run(capsys, "schedule", "check", "terapipe:3", *sizes)
    assert "; slices in flight per rank: 6, 6" in out
    _, out, _ = run(capsys, "schedule", "check", "gpipe", *sizes)
    assert "; microbatches in flight per rank: 2, 2" in out


def test_a_drawing_says_how_it_names_slices(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--stages", "2", "--microbatches", "2")
    _, out, _ = run(capsys, "schedule", "show", "terapipe:2", *sizes)
    assert "F0 is the first token slice of microbatch 0, F0.1 its second)" in out
    _, out, _ = run(capsys, "schedule", "show", "gpipe", *sizes)
    assert "token slice" not in out


def test_what_follows_a_schedules_name_must_be_a_number(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = run(capsys, "schedule", "show", "terapipe:x", "--stages", "2")
    assert code == 2 and "`x` is no number of token slices: terapipe:4 would work" in err


def test_a_comparison_tells_slices_apart(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "m.json"
    measured(file, "local-terapipe:uniform")
    ask = ("validate", "local-terapipe:uniform", "--measured", str(file))
    code, out, _ = run(capsys, *ask)
    assert code == 0 and "0B, 256 tokens after 1,792 " in out and "1F, 256 tokens " in out
    _, out, _ = run(capsys, *ask, "--json")
    pieces = {str(a["piece"]) for a in json.loads(out)["actions"] if a["piece"]}
    assert len(pieces) == 8


def test_optimal_slices_are_not_taken_from_another_variants_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "m.json"
    measured(file, "local-terapipe:uniform")
    code, _, err = run(capsys, "validate", "local-terapipe:optimal", "--measured", str(file))
    assert code == 2
    assert "is of local-terapipe:uniform, not of local-terapipe:optimal" in err


def test_speedups_are_found_by_the_name_they_are_shown_under(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, out, _ = run(capsys, "scenario", "list", "--published", "terapipe.speedup", "--json")
    rows = json.loads(out)["rows"]
    assert len(rows) == 20 and rows[0]["name"].startswith("published/terapipe.latency/")
