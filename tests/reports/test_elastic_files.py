"""Elastic runs on the command line: predicted, executed, judged, and written to files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipetwin import run_command_line
from reports.commands import elastic_files
from scenarios.loader import Loaded
from sim.elastic_comparison import ElasticComparison
from sim.elastic_measurement import read_elastic, write_elastic
from sim.elastic_run import AblationRow
from sim.measurement import read_measurements

SETTINGS = (
    "elastic={epochs: 6, samples: 96, alpha: 0.5, transition: {rebuild: 200 ms}}",
    "plan.placement=pipeline-data-tensor",
    *("model.hidden=64", "model.sequence=32"),
)
"""As in the fixtures."""
SCENARIO = ("local-4rank", *(token for text in SETTINGS for token in ("--set", text)))


def call(capsys: pytest.CaptureFixture[str], *tokens: str) -> tuple[int, str, str]:
    code = run_command_line(list(tokens))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


@pytest.fixture
def measured(tmp_path: Path, elastic_runs: ElasticComparison) -> Path:
    """The file of the executed run, 5 % slower than predicted."""
    path = tmp_path / "measured.json"
    write_elastic([elastic_runs.cases[0].measurement], path)
    return path


def test_simulate_predicts_the_whole_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, ablated: tuple[AblationRow, ...]
) -> None:
    report = tmp_path / "pt.html"
    code, out, _ = call(capsys, "simulate", *SCENARIO, "--report", str(report))
    assert code == 0 and "6 epochs take" in out and f"wrote {report}" in out
    assert 'id="figure-throughput"' in report.read_text()
    code, out, _ = call(capsys, "simulate", *SCENARIO, "--json")
    found = json.loads(out)
    assert code == 0 and found["total_s"] == ablated[-1].prediction.total_ns / 1e9
    assert [row["speedup"] for row in found["ablation"]] == [row.speedup for row in ablated]
    assert code == 0 and set(found["contributions"]) >= {"AutoPipe", "AutoDP", "AutoCache"}


def test_a_run_that_freezes_nothing_has_no_ablation(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "simulate", *SCENARIO, "--set", "elastic.freeze=off", "--json")
    found = json.loads(out)
    assert code == 0 and "ablation" not in found and found["transition_s"] == 0
    iterations = sum(p["epochs"] * p["iterations"] for p in found["phases"])
    assert found["total_s"] == pytest.approx(iterations * found["phases"][0]["iteration_s"])


def test_what_is_of_one_iteration_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    trace = str(tmp_path / "t.json.gz")
    code, _, err = call(capsys, "simulate", *SCENARIO, "--trace", trace)
    assert code == 2 and "--trace is of one iteration" in err and "elastic=null" in err
    one = ("--set", "elastic=null", "--set", "plan.frozen_layers=4", "--trace", trace)
    assert call(capsys, "simulate", *SCENARIO, *one)[0] == 0
    code, _, err = call(capsys, "run", "local-2rank", "--checkpoints", str(tmp_path))
    assert code == 2 and "--checkpoints does nothing with a scenario without `elastic`" in err


def test_run_keeps_and_shows_what_was_executed(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    elastic_runs: ElasticComparison,
) -> None:
    commands = pytest.importorskip("executor.elastic.commands", reason="torch is not installed")
    asked: list[dict[str, Any]] = []

    def executed(loaded: Loaded, **options: Any) -> ElasticComparison:
        asked.append(options)
        return replace(elastic_runs, interrupted=len(asked) > 1)

    monkeypatch.setattr(commands, "run_elastic", executed)
    output, report = tmp_path / "m.json", tmp_path / "r.html"
    kept = ("--checkpoints", str(tmp_path / "kept"), "--resume")
    code, out, _ = call(capsys, "run", *SCENARIO, *kept, "-o", str(output), "--report", str(report))
    assert code == 0 and f"wrote {output}" in out and "times as fast as static" in out
    assert asked[0]["checkpoints"] == tmp_path / "kept" and asked[0]["resume"] is True
    assert [m.scenario.name for m in read_elastic(output)] == ["local-4rank"] * 2
    assert 'id="figure-measured-throughput"' in report.read_text()
    checking = pytest.importorskip("executor.elastic.checking")
    for difference, expected in ((0.0, 0), (1e-3, 1)):
        checked = checking.PlainCheck(
            loss=difference, weights=0.0, num_tensors=3, epochs=2, exact=True
        )
        monkeypatch.setattr(checking, "check_plain", lambda *_, found=checked, **__: found)
        asked.clear()
        code, out, _ = call(capsys, "run", *SCENARIO, "--check")
        assert code == expected and "3 tensors" in " ".join(out.split())
        assert ("DIFFERS" in out) == bool(expected)
    code, out, err = call(capsys, "run", *SCENARIO, "--json")
    assert code == 130 and json.loads(out)["interrupted"] is True and "were finished" in err


def test_a_failed_run_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands = pytest.importorskip("executor.elastic.commands", reason="torch is not installed")

    class RankFailure(RuntimeError):
        is_run_failure = True

    def failing(*_: Any, **__: Any) -> None:
        raise RankFailure("rank 1 was killed by signal 9 (SIGKILL)")

    monkeypatch.setattr(commands, "run_elastic", failing)
    code, _, err = call(capsys, "run", *SCENARIO, "--checkpoints", str(tmp_path / "kept"))
    assert code == 3 and "rank 1 was killed" in err and "with --resume goes on" in err
    code, _, err = call(capsys, "run", *SCENARIO)
    assert code == 3 and "--resume" not in err


def test_single_iterations_are_not_judged_of_a_run_of_epochs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = call(capsys, "validate", "local-elastic-vit", "--calibrate-on", "local-2rank")
    assert code == 2 and "is a run of epochs" in err and "--set elastic=null" in err


def test_validate_predicts_in_the_layouts_that_the_run_had(
    capsys: pytest.CaptureFixture[str], measured: Path, tmp_path: Path
) -> None:
    base = ("validate", *SCENARIO, "--measured", str(measured))
    code, out, _ = call(capsys, *base, "--json")
    (found,) = json.loads(out)["runs"]
    assert code == 0 and found["error"] == pytest.approx(1 / 1.05 - 1, abs=1e-6)
    assert all(p["error"] == pytest.approx(1 / 1.05 - 1, abs=1e-6) for p in found["phases"])
    report = tmp_path / "r.html"
    assert call(capsys, *base, "--report", str(report), "--max-error", "0.06")[0] == 0
    assert 'id="figure-measured-iterations"' in report.read_text()
    code, _, err = call(capsys, *base, "--max-error", "0.04")
    assert code == 1 and "4.8%" in err


def test_layouts_of_another_profile_are_taken_from_the_run(
    measured: Path, elastic_runs: ElasticComparison
) -> None:
    """As if the run had cut its first phase otherwise than the device model would."""
    case = elastic_runs.cases[0]
    run = case.measurement
    own = replace(
        run.phases[0], layout=replace(run.phases[0].layout, layers_per_stage=(1, 3, 2, 2))
    )
    found = elastic_files._as_it_ran(
        run.scenario, replace(run, phases=(own, *run.phases[1:])), None
    )
    assert found.phases[0].phase.layout.layers_per_stage == (1, 3, 2, 2)
    assert found.phases[0].iteration_ns > case.prediction.phases[0].iteration_ns
    assert found.scenario == run.scenario


def test_report_draws_a_file_of_elastic_runs(
    capsys: pytest.CaptureFixture[str], measured: Path, tmp_path: Path
) -> None:
    report = tmp_path / "r.html"
    assert call(capsys, "report", str(measured), "-o", str(report))[0] == 0
    assert "whose sources are not on record" in report.read_text()


def test_files_of_the_other_kind_are_refused_with_words(
    capsys: pytest.CaptureFixture[str], measured: Path, tmp_path: Path
) -> None:
    code, _, err = call(capsys, "calibrate", str(measured))
    assert code == 2 and "keep no timelines to calibrate from" in err
    code, _, err = call(capsys, "validate", "local-2rank", "--measured", str(measured))
    assert code == 2 and "is of local-4rank, not of local-2rank" in err
    other = ("--set", "elastic.epochs=5")
    code, _, err = call(capsys, "validate", *SCENARIO, *other, "--measured", str(measured))
    assert code == 2 and "same settings" in err
    with pytest.raises(ValueError, match="not a measurement"):
        read_measurements(measured)
    ordinary = tmp_path / "one.json"
    ordinary.write_text("{}")
    code, _, err = call(capsys, "validate", *SCENARIO, "--measured", str(ordinary))
    assert code == 2 and "holds no elastic runs, and local-4rank is one" in err
