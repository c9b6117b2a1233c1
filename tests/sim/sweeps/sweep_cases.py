"""A tiny scenario, sweeps of it, and what their results hold."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from scenarios.base import Base
from sim.sweeps.local import on_this_machine
from sim.sweeps.results import ResultsFile
from sim.sweeps.space import space
from sim.sweeps.sweep import Shard, Sweep, read_known
from sim.sweeps.work import Task, Workers

TINY = """\
name: tiny
plan: {schedule: 1f1b, pipeline: 2, microbatches: 2}
costs: {forward: 2 ms, backward: 3 ms, send: 1 ms}
"""
THOUSAND = (
    "plan.microbatches=4..40..4",
    "plan.pipeline=1..5",
    "costs.send=0 ms,1 ms,2 ms,3 ms,4 ms",
    "plan.schedule=1f1b,gpipe,terapipe,no-such-schedule",
)
"""1,000 points, of which 250 fail."""
FEW = ("plan.schedule=1f1b,gpipe,no-such-schedule", "plan.microbatches=1..4")


def tiny_file(folder: Path) -> Path:
    """The tiny scenario in a file."""
    path = folder / "tiny.yaml"
    path.write_text(TINY)
    return path


def tiny_sweep(folder: Path, vary: tuple[str, ...] = FEW, shard: Shard | None = None) -> Sweep:
    """A sweep of the tiny scenario."""
    return Sweep(base=Base(tiny_file(folder)), space=space(vary), shard=shard or Shard())


def run(sweep: Sweep, path: Path, workers: Workers | None = None, **options: bool) -> list[Any]:
    """Run a sweep into a file, in this process unless told otherwise; its steps."""
    with ResultsFile(path) as file:
        known = read_known(file, sweep.id)
        return list(sweep.run(file, known, workers or on_this_machine(1), **options))


def records(path: Path) -> list[dict[str, Any]]:
    """What a file holds, every line of which must be whole."""
    data = path.read_bytes()
    assert not data or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def canonical(path: Path) -> list[str]:
    """A file's records in the points' order, without the seconds they took."""
    found = sorted(records(path), key=lambda record: int(record["index"]))
    return [json.dumps({**record, "seconds": 0}) for record in found]


@cache
def undisturbed(vary: tuple[str, ...] = FEW) -> list[str]:
    """What a sweep that nobody disturbs has found, as `canonical` gives it."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "whole.jsonl"
        run(tiny_sweep(Path(folder), vary), out)
        return canonical(out)


def in_session(session: int) -> set[int]:
    """The processes of a session that have not ended."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.add(int(stat.parent.name))
    return found


class Bomb:
    """A scenario that ends the process which simulates it."""

    @property
    def elastic(self) -> None:
        """The first thing that is asked of it."""
        os._exit(9)


def with_bomb(tasks: Iterator[Task], index: int) -> Iterator[Task]:
    """Put a bomb in the place of one point's scenario."""
    for task in tasks:
        yield replace(task, scenario=Bomb()) if task.head.index == index else task  # type: ignore[arg-type]
