"""`pipetwin doctor`: what it looks at, what it says of what is broken, and its exit code."""

import json
import os
import socket
from pathlib import Path

import pytest

import sim.health as health
from executor import doctor
from pipetwin import run_command_line
from reports.terminal.health import show_findings
from sim.health import Finding


def test_this_machine_passes_with_a_run_and_a_simulation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command_line(["doctor", "--run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    by_name = {finding["what"]: finding for finding in found["findings"]}
    assert found["works"] is True
    for name in ("Python", "numpy", "cyclopts", "engines", "catalogue", "ports", "a simulation"):
        assert by_name[name]["status"] == "ok", by_name[name]
    assert by_name["a run"]["status"] == "ok" and "equals" in by_name["a run"]["detail"]
    assert {"torch", "torch.distributed", "GPUs", "cores", "launcher"} <= by_name.keys()


def test_the_terminal_shows_rooms_remedies_and_a_verdict(
    capsys: pytest.CaptureFixture[str],
) -> None:
    right = Finding(room="simulator", what="Python", status="ok", detail="3.12")
    lost = Finding(room="executor", what="torch", status="lost", detail="none", remedy="pip it")
    broken = Finding(
        room="executor", what="ports", status="broken", detail="no", remedy="open them"
    )
    assert show_findings([right, lost], as_json=False) == 0
    out = capsys.readouterr().out
    assert "-> pip it" in out and "All that is needed works" in out and "does not: torch" in out
    assert show_findings([right, broken], as_json=False) == 1
    assert "Broken: ports" in capsys.readouterr().out


def test_a_library_that_is_missing_or_old_comes_with_what_installs_it() -> None:
    missing = health.library("no-such-library>=2", "simulator", missing="broken")
    assert missing.status == "broken" and "pip install 'no-such-library>=2'" in missing.remedy
    old = health.library("numpy>=999.1", "simulator", missing="broken")
    assert old.status == "broken" and "older than 999.1" in old.detail
    assert health.library("numpy>=1.26", "simulator", missing="broken").status == "ok"


def test_engines_that_differ_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import sim.prediction

    right = sim.prediction.predict

    def wrong(scenario, profile=None, *, engine="auto"):  # type: ignore[no-untyped-def]
        found = right(scenario, profile, engine=engine)
        if engine == "compiled":
            object.__setattr__(found.timeline, "spans", found.timeline.spans[1:])
        return found

    monkeypatch.setattr(sim.prediction, "predict", wrong)
    monkeypatch.setattr("scenarios.checking.check_all", lambda names, overrides: "")
    found = {finding.what: finding for finding in health.examine()}
    assert found["engines"].status == "broken" and "--engine simpy" in found["engines"].remedy


def test_a_look_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **more: object) -> None:
        raise RuntimeError("torn file")

    monkeypatch.setattr("scenarios.checking.check_all", fails)
    found = {finding.what: finding for finding in health.examine()}
    assert found["catalogue"].status == "broken" and "torn file" in found["catalogue"].detail


def test_folders_that_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("scenarios.checking.check_all", lambda names, overrides: "")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "below"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    found = {finding.what: finding for finding in health.examine()}
    assert (
        found["temporary files"].status == "broken" and "TMPDIR" in found["temporary files"].remedy
    )
    assert found["compiled code"].status == "lost"


def test_no_loopback_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **more: object) -> socket.socket:
        raise OSError(99, os.strerror(99))

    monkeypatch.setattr(socket, "create_server", refuse)
    found = {finding.what: finding for finding in doctor.examine()}
    assert found["ports"].status == "broken" and "loopback" in found["ports"].remedy


@pytest.mark.parametrize(
    ("environment", "status", "words"),
    [
        ({"RANK": "1", "WORLD_SIZE": "4"}, "lost", "without LOCAL_RANK"),
        (
            {
                "RANK": "1",
                "WORLD_SIZE": "4",
                "LOCAL_RANK": "1",
                "MASTER_ADDR": "a",
                "MASTER_PORT": "1",
            },
            "ok",
            "rank 1 of 4",
        ),
        ({"SLURM_JOB_ID": "7"}, "info", "Slurm's job 7"),
    ],
)
def test_launchers(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], status: str, words: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = {finding.what: finding for finding in doctor.examine()}["launcher"]
    assert found.status == status and words in found.detail
