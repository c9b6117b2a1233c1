"""Sweeps in processes: killed and resumed, interrupted, in parts, with workers that die."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sweep_cases import (
    FEW,
    THOUSAND,
    canonical,
    in_session,
    records,
    run,
    tiny_file,
    tiny_sweep,
    undisturbed,
    with_bomb,
)

from sim.sweeps.local import on_this_machine
from sim.sweeps.setting import Setting
from sim.sweeps.work import Chunk, Outcomes

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 60


def start(
    folder: Path, out: Path, *options: str, vary: tuple[str, ...] = THOUSAND
) -> subprocess.Popen[str]:
    """Start a sweep on the command line, in a session of its own."""
    tokens = [str(tiny_file(folder)), "-o", str(out), *options]
    tokens += [] if "--jobs" in options else ["--jobs", "2"]
    tokens += [token for text in vary for token in ("--vary", text)]
    # A shell lets what it has in the background ignore Ctrl-C; here it is to be heard.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import pipetwin; sys.exit(pipetwin.run_command_line(['sweep', *sys.argv[1:]]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *tokens],
        cwd=ROOT,
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(happened: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end, f"{what}: not within {PATIENCE_S} s"
        time.sleep(0.005)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for a sweep's end, and that nothing of it is left running."""
    out, err = process.communicate(timeout=PATIENCE_S)
    wait_for(lambda: not in_session(process.pid), "workers end")
    return out, err


def test_killed_three_times_and_resumed_it_has_every_result_once(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    for _ in range(3):
        until = lines(out) + random.randrange(150)
        process = start(tmp_path, out)
        wait_for(lambda until=until: lines(out) >= until, f"{until} results")  # type: ignore[misc]
        time.sleep(random.random() * 0.05)
        process.kill()
        assert process.wait(timeout=PATIENCE_S) == -signal.SIGKILL
        assert lines(out) < 1000
    process = start(tmp_path, out)
    shown, err = finish(process)
    assert process.returncode == 0, err
    assert "1,000 points in" in shown and str(out) in shown
    assert lines(out) == 1000 and len({r["key"] for r in records(out)}) == 1000
    assert canonical(out) == undisturbed(THOUSAND)


def test_workers_end_with_a_killed_sweep(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    process = start(tmp_path, out)
    wait_for(lambda: lines(out) > 0, "results")
    assert len(in_session(process.pid)) > 2
    process.kill()
    finish(process)


def test_interrupted_it_keeps_what_is_finished(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    process = start(tmp_path, out)
    wait_for(lambda: lines(out) > 0, "results")
    os.killpg(process.pid, signal.SIGINT)
    shown, err = finish(process)
    assert process.returncode == 130 and shown == ""
    kept = len(records(out))
    told = re.search(r"interrupted: ([\d,]+) of 1,000 points are left", err)
    assert told is not None, err
    # What was written in the very moment of the interrupt may not be counted.
    assert 1000 - kept <= int(told[1].replace(",", "")) < 1000
    assert "Traceback" not in err and "the same command goes on" in err


def test_shards_at_once_in_one_file_are_the_whole(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    shards = [
        start(tmp_path, out, "--shard", part, "--jobs", "1", vary=THOUSAND[:3])
        for part in ("1/2", "2/2")
    ]
    for process in shards:
        _, err = finish(process)
        assert process.returncode == 0, err
    assert canonical(out) == undisturbed(THOUSAND[:3])


def test_a_killed_worker_costs_nothing(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    process = start(tmp_path, out)
    wait_for(lambda: lines(out) > 0, "results")
    os.kill(max(in_session(process.pid) - {process.pid}), signal.SIGKILL)
    _, err = finish(process)
    assert process.returncode == 0, err
    assert canonical(out) == undisturbed(THOUSAND)


def test_a_point_that_ends_its_worker_is_recorded_and_no_other(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"

    def workers(setting: Setting, chunks: Iterator[Chunk]) -> Iterator[Outcomes]:
        tasks = (task for chunk in chunks for task in chunk)
        bombed = with_bomb(tasks, index=5)
        return on_this_machine(2)(setting, (tuple(itertools.islice(bombed, 4)) for _ in range(3)))

    run(tiny_sweep(tmp_path), out, workers)  # type: ignore[arg-type]
    found, wanted = canonical(out), undisturbed()
    assert len(found) == len(wanted) == 12
    assert [a == b for a, b in zip(found, wanted, strict=True)] == [i != 5 for i in range(12)]
    lost = sorted(records(out), key=lambda r: int(r["index"]))[5]
    assert lost["error"]["type"] == "WorkerLost" and "out of memory" in lost["error"]["message"]
    run(tiny_sweep(tmp_path), out, retry_failed=True)
    assert {r["index"]: r["status"] for r in records(out)}[5] == "done"


@pytest.mark.parametrize("jobs", [1, 2])
def test_any_number_of_processes_gives_the_same(tmp_path: Path, jobs: int) -> None:
    out = tmp_path / "r.jsonl"
    run(tiny_sweep(tmp_path, FEW), out, on_this_machine(jobs))
    assert canonical(out) == undisturbed()
