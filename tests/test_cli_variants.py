"""Variants on the command line, from measurements made with known costs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipetwin import run_command_line
from scenarios.loader import load
from sim.comparison import own_costs
from sim.cost.profile_file import read_profile
from sim.engine.simpy_engine import simulate
from sim.measurement import Measurement, write_measurement, write_measurements
from sim.prediction import predict

TOKENS = (900, 800, 348)


def call(capsys: pytest.CaptureFixture[str], *tokens: str) -> tuple[int, str, str]:
    code = run_command_line(list(tokens))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def runs() -> list[Measurement]:
    """The variants' runs, 8 % slower than the device model says."""
    found = []
    for item in load("local-terapipe").variants:
        scenario = item.scenario
        if scenario.plan.slices == "optimal":
            scenario = replace(scenario, plan=replace(scenario.plan, slices=TOKENS))
        prediction = predict(scenario)
        costs = own_costs(prediction.timeline)
        slower = {a: round(1.08 * d) for a, d in costs.durations.items()}
        timeline = simulate(prediction.program, replace(costs, durations=slower))
        found.append(
            Measurement(
                scenario=scenario,
                timelines=(replace(timeline, origin="measured"),) * 2,
                disturbed=(False,) * 2,
            )
        )
    return found


@pytest.fixture
def measured(tmp_path: Path, runs: list[Measurement]) -> Path:
    path = tmp_path / "measured.json"
    write_measurements(runs, path)
    return path


def test_validate_compares_all_variants(
    capsys: pytest.CaptureFixture[str], measured: Path, tmp_path: Path
) -> None:
    report = tmp_path / "r.html"
    base = ("validate", "local-terapipe", "--measured", str(measured))
    code, out, _ = call(capsys, *base, "--json")
    found = json.loads(out)
    assert code == 0 and [v["variant"] for v in found["variants"]] == [
        "unsliced",
        "uniform",
        "optimal",
    ]
    assert found["variants"][2]["slices"] == list(TOKENS)
    for variant in found["variants"]:
        assert variant["structural_error"] == 0
        assert variant["predictive_error"] == pytest.approx(1 / 1.08 - 1, abs=0.01)
    assert found["variants"][1]["measured_speedup"] > 1.3
    code, out, _ = call(capsys, *base, "--report", str(report))
    assert code == 0 and "900, 800, 348" in out and f"wrote {report}" in out
    assert 'id="figure-timelines"' in report.read_text()
    assert call(capsys, *base, "--max-error", "0.05")[0] == 1
    assert call(capsys, *base, "--max-error", "0.1")[0] == 0


def test_validate_takes_one_variant_by_its_name(
    capsys: pytest.CaptureFixture[str], measured: Path
) -> None:
    for name in ("uniform", "optimal"):
        code, out, _ = call(
            capsys, *("validate", f"local-terapipe:{name}", "--measured", str(measured), "--json")
        )
        assert code == 0 and json.loads(out)["scenario"] == f"local-terapipe:{name}"
    code, _, err = call(capsys, "validate", "local-2rank", "--measured", str(measured))
    assert code == 2 and "not of local-2rank" in err


def test_validate_tells_what_is_not_measured(
    capsys: pytest.CaptureFixture[str], runs: list[Measurement], tmp_path: Path
) -> None:
    path = tmp_path / "one.json"
    write_measurement(runs[1], path)
    code, _, err = call(capsys, "validate", "local-terapipe", "--measured", str(path))
    assert code == 2 and "no measurement is of local-terapipe:unsliced" in err
    base = replace(runs[0], scenario=load("local-terapipe").scenario)
    write_measurement(base, path, force=True)
    code, out, _ = call(capsys, "validate", "local-terapipe", "--measured", str(path), "--json")
    assert code == 0 and json.loads(out)["scenario"] == "local-terapipe"


def test_report_and_calibrate_take_files_of_several_runs(
    capsys: pytest.CaptureFixture[str], measured: Path, tmp_path: Path
) -> None:
    report, profile = tmp_path / "r.html", tmp_path / "p.yaml"
    assert call(capsys, "report", str(measured), "-o", str(report))[0] == 0
    assert "local-terapipe: its variants side by side" in report.read_text()
    assert call(capsys, "calibrate", str(measured), "-o", str(profile))[0] == 0
    assert len(read_profile(profile).raw) == 3


def test_what_variants_cannot_do_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "run", "local-terapipe", "--trace", "/tmp/never-written.gz")
    assert code == 2 and "--trace does nothing with variants" in err
    code, _, err = call(capsys, "simulate", "local-terapipe:unifrom")
    assert code == 2 and "did you mean `local-terapipe:uniform`?" in err


def test_variants_are_shown_with_the_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "scenario", "show", "local-terapipe")
    assert code == 0 and "plan.slices: optimal" in out
    code, out, _ = call(capsys, "simulate", "local-terapipe:optimal", "--json")
    assert code == 0 and json.loads(out)["scenario"] == "local-terapipe:optimal"
