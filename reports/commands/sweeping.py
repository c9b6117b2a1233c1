"""What `pipetwin sweep` does: points told, workers found, results appended, the end shown."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from reports.commands import files
from reports.terminal import console
from reports.terminal.sweep import Tally, advance, show_sweep, shown_progress
from scenarios.base import Base
from sim.engine.choice import Engine
from sim.sweeps.records import Figures
from sim.sweeps.results import ResultsFile
from sim.sweeps.space import field_of, space
from sim.sweeps.sweep import Shard, Sweep, read_known
from sim.sweeps.work import Workers


@dataclass(frozen=True, slots=True)
class Asked:
    """What to simulate: the fields varied, points in a file, fields side by side, `--set`; with
    which profile and engine; and what results hold."""

    vary: Sequence[str] = ()
    points: Path | None = None
    zipped: bool = False
    overrides: Sequence[str] = ()
    profile: Path | None = None
    engine: Engine = "auto"
    figures: Figures = "all"


@dataclass(frozen=True, slots=True)
class Where:
    """Processes of this machine (None: one a core) or a cluster's address, and which part."""

    jobs: int | None = None
    cluster: str = ""
    shard: str = ""


def sweep(
    scenario: str,
    outputs: tuple[Path, Path | None],
    asked: Asked,
    where: Where,
    *,
    retry_failed: bool = False,
    as_json: bool = False,
    force: bool = False,
) -> int:
    """Simulate a scenario at many points, those that the results lack; the exit code.

    outputs: the results, and an HTML page to write of all that they then hold.
    Interrupted (Ctrl-C), what is finished is kept, and the code is 130.
    """
    output, report = outputs
    _check_report(report, output, force=force)
    if where.cluster:
        files.refuse_unused({"--cluster": True}, {"--jobs": where.jobs}, {}, default=())
    if where.jobs is not None and where.jobs < 1:
        raise files.InputError(f"--jobs {where.jobs}: it takes at least one process, as --jobs 2")
    made = _sweep(scenario, asked, _shard(where.shard))
    tally, began = Tally(), time.monotonic()
    try:
        with ExitStack() as stack:
            workers = _workers(where)
            file = stack.enter_context(ResultsFile(output))
            known = read_known(file, made.id)
            if not file.locks:
                _tell(f"{output} cannot be locked here: give each shard its own file")
            bar = stack.enter_context(shown_progress(made.num_points))
            run = made.run(file, known, workers, retry_failed=retry_failed)
            for step in stack.enter_context(closing(run)):
                tally.add(step)
                advance(bar, tally)
    except KeyboardInterrupt:
        left = made.num_points - tally.passed
        _tell(
            f"interrupted: {left:,} of {made.num_points:,} points are left, the others are kept in "
            f"{output}; the same command goes on"
        )
        return 130
    seconds = time.monotonic() - began
    show_sweep(tally, output, made.space.fields, made.num_points, seconds, as_json=as_json)
    if report is not None:
        write_sweep_report(report, output, force=force)
        console.wrote((report,), as_json=as_json)
    return 0


def write_sweep_report(path: Path, results: Path, *, force: bool) -> None:
    """Write the page of a file of results, finished or not."""
    from reports.pages.page_sweep import render_sweep
    from scenarios.writing import write_whole
    from sim.sweeps.reading import read_results

    found = read_results(results)
    write_whole(path, render_sweep(found, command=files.command_line()), force=force)


def _check_report(report: Path | None, output: Path, *, force: bool) -> None:
    if report is not None and report.resolve() == output.resolve():
        raise files.InputError("-o and --report have the same name: give each its own file")
    files.check_outputs((report,), force=force)


def _sweep(scenario: str, asked: Asked, shard: Shard) -> Sweep:
    """The sweep asked for; what no point of it could mend is refused."""
    found = Sweep(
        base=Base(scenario, asked.overrides),
        space=space(asked.vary, zipped=asked.zipped, points=asked.points),
        profile=files.profile(asked.profile),
        shard=shard,
        engine=asked.engine,
        figures=asked.figures,
    )
    for name in (field_of(text) for text in asked.overrides):
        if name in found.space.fields:
            raise files.InputError(f"{name} is both set and varied: leave out its --set")
    found.base.check(found.space.samples())
    return found


def _workers(where: Where) -> Workers:
    if where.cluster:
        from sim.sweeps.cluster import on_cluster

        return on_cluster(where.cluster, _tell)
    from sim.sweeps.local import cores, on_this_machine

    return on_this_machine(where.jobs if where.jobs is not None else cores())


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _shard(text: str) -> Shard:
    if not text:
        return Shard()
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 <= number <= count or count < 1:
        raise files.InputError(
            f"--shard {text}: write which part of how many, as 3/16; counted from 0 or from 1, "
            "as 16/16 is 0/16"
        )
    return Shard(number=number, count=count)
