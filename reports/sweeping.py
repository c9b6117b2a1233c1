"""What `pipetwin sweep` does: points told, workers found, results appended, the end shown."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from reports import files
from reports.terminal_sweep import Tally, advance, show_sweep, shown_progress
from scenarios.base import Base
from sim.sweeps.results import ResultsFile
from sim.sweeps.space import field_of, space
from sim.sweeps.sweep import Shard, Sweep, read_known
from sim.sweeps.work import Workers


def sweep(
    scenario: str,
    output: Path,
    *,
    vary: Sequence[str] = (),
    points: Path | None = None,
    zipped: bool = False,
    overrides: Sequence[str] = (),
    profile: Path | None = None,
    jobs: int | None = None,
    cluster: str = "",
    shard: str = "",
    retry_failed: bool = False,
    as_json: bool = False,
) -> int:
    """Simulate a scenario at many points, those that the results lack; the exit code.

    Interrupted (Ctrl-C), what is finished is kept, and the code is 130.
    """
    files.refuse_unused({"--cluster": cluster}, {"--jobs": jobs}, {}, default=("--jobs",))
    if jobs is not None and jobs < 1:
        raise files.InputError(f"--jobs {jobs}: it takes at least one process, as --jobs 2")
    asked = Sweep(
        base=Base(scenario, overrides),
        space=space(vary, zipped=zipped, points=points),
        profile=files.profile(profile),
        shard=_shard(shard),
    )
    _refuse_set_and_varied(overrides, asked.space.fields)
    asked.base.check(asked.space.samples())
    tally, began = Tally(), time.monotonic()
    try:
        with ExitStack() as stack:
            file = stack.enter_context(ResultsFile(output))
            known = read_known(file, asked.id)
            workers = _workers(jobs, cluster)
            if not file.locks:
                sys.stderr.write(f"{output} cannot be locked here: give each shard its own file\n")
            bar = stack.enter_context(shown_progress(asked.num_points))
            run = asked.run(file, known, workers, retry_failed=retry_failed)
            for step in stack.enter_context(closing(run)):
                tally.add(step)
                advance(bar, tally)
    except KeyboardInterrupt:
        left = asked.num_points - tally.passed
        sys.stderr.write(
            f"interrupted: {left:,} of {asked.num_points:,} points are left, the others are kept "
            f"in {output}; the same command goes on\n"
        )
        return 130
    seconds = time.monotonic() - began
    show_sweep(tally, output, asked.space.fields, asked.num_points, seconds, as_json=as_json)
    return 0


def _workers(jobs: int | None, cluster: str) -> Workers:
    if cluster:
        from sim.sweeps.cluster import on_cluster

        return on_cluster(cluster, _tell)
    from sim.sweeps.local import cores, on_this_machine

    return on_this_machine(jobs if jobs is not None else cores())


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


def _refuse_set_and_varied(overrides: Sequence[str], varied: Sequence[str]) -> None:
    for name in (field_of(text) for text in overrides):
        if name in varied:
            raise files.InputError(f"{name} is both set and varied: leave out its --set")
