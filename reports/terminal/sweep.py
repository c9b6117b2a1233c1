"""A sweep on the terminal: how far it is, and what came out."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from reports.terminal.console import console, plain_table, show_json, wide
from scenarios.units import format_bytes, format_duration_ns
from sim.sweeps.records import Seen
from sim.sweeps.sweep import Step

_BEST = 5
_REASONS = 5
_WIDEST_REASON = 200


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a sweep has come to.

    done, failed: points simulated now; skipped: those that the file had already; same: those that
    are the same scenario as another point; found: what is known of every point.
    """

    done: int = 0
    failed: int = 0
    skipped: int = 0
    same: int = 0
    found: list[Seen] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Count a step."""
        failed = sum(one.status == "failed" for one in step.appended)
        self.failed += failed
        self.done += len(step.appended) - failed
        self.skipped += len(step.skipped)
        self.same += step.same
        self.found += step.appended
        self.found += step.skipped

    @property
    def passed(self) -> int:
        """Points that need nothing more."""
        return self.done + self.failed + self.skipped + self.same

    def best(self) -> list[Seen]:
        """The fastest points, those that do not fit after all others."""
        timed = [one for one in self.found if one.seconds is not None]
        return sorted(timed, key=lambda one: (one.fits is False, one.seconds, one.index))[:_BEST]

    def reasons(self) -> list[tuple[str, int]]:
        """Why points failed, the most frequent first."""
        return Counter(one.error for one in self.found if one.error is not None).most_common()


class EndTime(ProgressColumn):
    """The time of day at which the sweep ends."""

    def render(self, task: Task) -> Text:
        """Nothing until it can be told."""
        if task.time_remaining is None or task.finished:
            return Text("")
        end = time.localtime(time.time() + task.time_remaining)
        today = end.tm_yday == time.localtime().tm_yday
        return Text("ends " + time.strftime("%H:%M:%S" if today else "%a %H:%M", end))


@contextmanager
def shown_progress(total: int) -> Iterator[Progress]:
    """A bar with the time left and the time of the end, on stderr and only on a terminal."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]}"),
        TimeRemainingColumn(),
        EndTime(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
        speed_estimate_period=60,
    )
    with bar:
        bar.add_task("sweep", total=total, failed="")
        yield bar


def advance(bar: Progress, tally: Tally) -> None:
    """Bring the bar to where the sweep is."""
    failed = f"{tally.failed} failed" if tally.failed else ""
    bar.update(bar.task_ids[0], completed=tally.passed, failed=failed)


def show_sweep(
    tally: Tally,
    path: Path,
    fields: Sequence[str],
    num_points: int,
    seconds: float,
    *,
    as_json: bool,
) -> None:
    """What came out: how many points, the fastest, why others failed, and where the results are."""
    if as_json:
        show_json(_as_json(tally, path, num_points, seconds))
        return
    out = console()
    parts = [f"{tally.done:,} done", f"{tally.failed:,} failed", f"{tally.skipped:,} skipped"]
    if tally.same:
        parts.append(f"{tally.same:,} the same scenario as another point")
    if left := num_points - tally.passed:
        parts.append(f"{left:,} left")
    took = format_duration_ns(seconds * 1e9)
    noun = "point" if num_points == 1 else "points"
    out.print(Text(f"{num_points:,} {noun} in {took}: {', '.join(parts)}", style="bold"))
    _show_best(out, tally, fields)
    reasons = tally.reasons()
    if reasons:
        table = plain_table("points", "failed because", right=(0,))
        for reason, count in reasons[:_REASONS]:
            table.add_row(f"{count:,}", _short(reason))
        if rest := sum(count for _, count in reasons[_REASONS:]):
            table.add_row(f"{rest:,}", "other reasons, in the results")
        out.print(table)
    out.print(f"results: {path} ({format_bytes(path.stat().st_size)})", soft_wrap=True)


def _show_best(out: Console, tally: Tally, fields: Sequence[str]) -> None:
    best = tally.best()
    if not best:
        return
    last = [name.rsplit(".", 1)[-1] for name in fields]
    shown = [
        short if last.count(short) == 1 else name for name, short in zip(fields, last, strict=True)
    ]
    figures = ["iteration", "sequences/s", "MFU", "peak memory", "fits"]
    if best[0].sequences_per_s is None:
        del figures[1:]
    columns = ("fastest", *shown, *figures)
    table = plain_table(*columns, right=range(1, len(columns)))
    for number, one in enumerate(best, start=1):
        cells = [_cell(one.set.get(name, "")) for name in fields]
        row = [
            format_duration_ns((one.seconds or 0) * 1e9),
            "" if one.sequences_per_s is None else f"{one.sequences_per_s:.4g}",
            "" if one.mfu is None else f"{one.mfu:.1%}",
            "" if one.peak_bytes is None else format_bytes(one.peak_bytes),
            "" if one.fits is None else ("yes" if one.fits else "no"),
        ]
        table.add_row(str(number), *cells, *row[: len(figures)])
    wide(out, table)
    rated = [one for one in tally.found if one.sequences_per_s and one.fits is not False]
    most = max(rated, key=lambda one: (one.sequences_per_s, -one.index), default=None)
    if most is not None and most.key != best[0].key:
        where = ", ".join(f"{name} {_cell(most.set.get(name, ''))}" for name in fields)
        out.print(f"most sequences/s: {most.sequences_per_s:.4g} with {where}")


def _as_json(tally: Tally, path: Path, num_points: int, seconds: float) -> dict[str, Any]:
    return {
        "results": str(path),
        "points": num_points,
        "done": tally.done,
        "failed": tally.failed,
        "skipped": tally.skipped,
        "same": tally.same,
        "left": num_points - tally.passed,
        "seconds": seconds,
        "best": [_best_json(one) for one in tally.best()],
        "failures": [{"message": reason, "points": count} for reason, count in tally.reasons()],
    }


def _best_json(one: Seen) -> Mapping[str, Any]:
    return {
        "key": one.key,
        "index": one.index,
        "set": one.set,
        "iteration_s": one.seconds,
        "sequences_per_s": one.sequences_per_s,
        "mfu": one.mfu,
        "peak_memory_bytes": one.peak_bytes,
        "fits": one.fits,
    }


def _cell(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _short(reason: str) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= _WIDEST_REASON else f"{line[: _WIDEST_REASON - 3]}..."
