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


def test_the_search_refuses_a_profile_of_another_device(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = run(capsys, "slice", "local-2rank", "--profile", "a100-80gb")
    assert code == 2 and "the profile is of A100-SXM4-80GB, but local-2rank runs on cpu-core" in err


def test_the_best_even_slicing_is_listed_and_the_settings_are_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ask = ("slice", "terapipe/13b-setting5", "--simulations", "12", "--keep-microbatches")
    assert pipetwin.run_command_line(list(ask)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("even slices" in line for line in lines) >= 1
    assert sum("around the best" in line for line in lines) <= 5
    settings = [line for line in lines if line.startswith("use it: ")]
    assert len(settings) == 1 and settings[0].endswith("'")


def test_where_nothing_fits_the_order_that_does_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """TeraPipe's order keeps every slice of the batch, 1F1B those of a pipeline's depth."""
    ask = ("slice", "terapipe/13b-setting5", "--memory", "6GiB", "--simulations", "4")
    code, out, _ = run(capsys, *ask)
    assert code == 0 and "no candidate fits in memory" in out
    assert "In 1f1b order the formula's choice takes" in out and "`--set plan.schedule=1f1b`" in out
    code, out, _ = run(capsys, *ask, "--set", "plan.schedule=1f1b")
    assert code == 0 and "no candidate fits" not in out and "In terapipe order" not in out


def test_where_nothing_fits_no_ever_shorter_slices_are_tried(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ask = ("slice", "local-2rank", "--set", "plan.schedule=terapipe", "--memory", "310MiB")
    code, out, _ = run(capsys, *ask, "--json")
    found = json.loads(out)
    assert code == 0 and not found["best"]["fits"]
    assert not any(c["how"] == "around the best" for c in found["candidates"])
    least = min(c["formula_s"] for c in found["candidates"])
    even = [c["formula_s"] for c in found["candidates"] if c["how"].endswith("even slices")]
    assert even and max(even) <= 4 * least
    _, out, _ = run(capsys, *ask)
    assert "no candidate fits in memory" in out and "use it" not in out
