"""What the terminal tells of a sweep: its tally, its end, how it counts."""

from __future__ import annotations

import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from reports.terminal import sweep as terminal_sweep
from reports.terminal.sweep import EndTime, Tally, show_sweep
from sim.sweeps.records import Seen
from sim.sweeps.sweep import Step


def point(index: int, **changes: Any) -> Seen:
    found: dict[str, Any] = {
        "key": f"k{index}",
        "index": index,
        "set": {"plan.pipeline": index},
        "status": "done",
        "seconds": 1.0,
        "fits": None,
        "sequences_per_s": None,
        "mfu": None,
        "peak_bytes": None,
        "error": None,
        **changes,
    }
    return Seen(**found)


def failed(index: int, error: str) -> Seen:
    return point(index, status="failed", seconds=None, error=error)


def test_tally_of_steps() -> None:
    tally = Tally()
    tally.add(Step(appended=(point(0), failed(1, "no")), skipped=(point(2),), same=1))
    tally.add(
        Step(appended=(failed(4, "no"), failed(5, "never")), skipped=(failed(6, "no"),), same=0)
    )
    assert (tally.done, tally.failed, tally.skipped, tally.same) == (1, 3, 2, 1)
    assert tally.passed == 7
    assert tally.reasons() == [("no", 3), ("never", 1)]


def test_the_fastest_that_fit_come_first() -> None:
    tally = Tally()
    points = (
        point(0, seconds=0.1, fits=False),
        point(1, seconds=0.3, fits=True),
        point(2, seconds=0.2, fits=True),
        point(3, seconds=0.3, fits=True),
        failed(4, "no"),
    )
    tally.add(Step(appended=points, skipped=(), same=0))
    assert [one.index for one in tally.best()] == [2, 1, 3, 0]


def test_the_time_of_the_end() -> None:
    now = [0.0]
    with Progress(EndTime(), disable=True, get_time=lambda: now[0]) as bar:
        task = bar.add_task("sweep", total=100)
        column = EndTime()
        assert str(column.render(bar.tasks[0])) == ""
        for _ in range(3):
            now[0] += 10
            bar.update(task, advance=1)
        # 97 points are left, of 10 s each.
        shown = str(column.render(bar.tasks[0]))
        ends = (time.localtime(time.time() + 970 + late) for late in (-2, -1, 0, 1))
        forms = ("ends %H:%M:%S", "ends %a %H:%M")
        assert shown in {time.strftime(form, end) for end in ends for form in forms}
        now[0] += 10**6
        bar.update(task, advance=1)
        bar.update(task, completed=100)
        assert str(column.render(bar.tasks[0])) == ""


def test_fields_of_the_same_name_are_told_apart(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "r.jsonl"
    out.write_text("")
    tally = Tally()
    names = ("cluster.intra_node.latency", "cluster.inter_node.latency", "plan.pipeline")
    set_ = {names[0]: "1 us", names[2]: None}
    tally.add(Step(appended=(point(0, set=set_),), skipped=(), same=2))
    show_sweep(tally, out, names, 5, 90.0, as_json=False)
    shown = capsys.readouterr().out
    assert "5 points in 90 s: 1 done, 0 failed, 0 skipped" in shown
    assert "2 the same scenario as another point, 2 left" in shown
    header, row = shown.splitlines()[1:3]
    assert header.split() == ["fastest", names[0], names[1], "pipeline", "iteration"]
    assert row.split() == ["1", "1", "us", "null", "1", "s"]


def test_a_narrow_terminal_has_whole_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    out.write_text("")
    tally = Tally()
    set_ = {"plan.micro_batch": 2, "plan.recomputation": "selective"}
    figures = {"fits": True, "sequences_per_s": 84.36, "mfu": 0.314, "peak_bytes": 11 << 30}
    tally.add(Step(appended=(point(0, set=set_, **figures),), skipped=(), same=0))
    narrow = Console(width=60, file=StringIO(), highlight=False, markup=False)
    monkeypatch.setattr(terminal_sweep, "console", lambda: narrow)
    show_sweep(tally, out, tuple(set_), 1, 90.0, as_json=False)
    assert isinstance(narrow.file, StringIO)
    lines = narrow.file.getvalue().splitlines()
    assert lines[0].startswith("1 point in 90 s") and max(map(len, lines[:-1])) <= 60
    heads = [line for line in lines if line.startswith("fastest")]
    assert len(heads) == 2 and "micro_batch  recomputation" in heads[0]
    assert heads[1].split()[-1] == "fits"


def test_only_failures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    out.write_text("")
    tally = Tally()
    reasons = [failed(n, f"reason {n % 7} {'x' * 300}") for n in range(20)]
    tally.add(Step(appended=tuple(reasons), skipped=(), same=0))
    show_sweep(tally, out, ("plan.pipeline",), 20, 1.0, as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "0 done, 20 failed" in shown and "fastest" not in shown
    assert shown.count("...") == 5 and "5 other reasons, in the results" in shown
