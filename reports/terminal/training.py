"""What the terminal shows of a whole training run."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from reports.elastic_words import long_duration
from reports.terminal.console import plain_table
from reports.training_words import PARTS, Fact, checkpoint_facts, claim, days, facts
from reports.words import NBSP
from sim.training_run import TrainingOutlook


def show_training(out: Console, found: TrainingOutlook | None) -> None:
    """Days and money with their spread, where the days go, checkpoints; nothing where a run is
    plain, as the figures of the iteration then say it all."""
    if found is None or found.is_plain:
        return
    out.print(Text(_plain(claim(found)) + ".", style="bold"))
    _print(out, "training run", facts(found))
    if found.breakdown and found.expected_days:
        table = plain_table("where the days go", "days", "share", right=(1, 2))
        for name, part in found.breakdown.items():
            share = part / found.expected_days
            table.add_row(PARTS[name], f"{part:.3f}", f"{share:.2%}")
        out.print(table)
    _print(out, "checkpoints", checkpoint_facts(found))
    _intervals(out, found)
    for note in found.notes:
        out.print(f"note: {note}")


def _print(out: Console, heading: str, rows: list[Fact]) -> None:
    if not rows:
        return
    table = plain_table(heading, "", right=(1,))
    for row in rows:
        table.add_row(_plain(row.what), _plain(row.text))
    out.print(table)


def _intervals(out: Console, found: TrainingOutlook) -> None:
    if found.intervals is None or found.expected_days is None:
        return
    table = plain_table(
        "work between checkpoints", "expected", "simulated", "standard error", right=(1, 2, 3)
    )
    for point in found.intervals.points:
        own = point.simulated
        here = " (as here)" if point.interval_ns == found.run.interval_ns else ""
        table.add_row(
            _plain(long_duration(point.interval_ns / 1e9)) + here,
            _plain(days(point.expected_days)) if point.expected_days is not None else "never",
            _plain(days(own.mean)) if own is not None else "-",
            _plain(days(own.error)) if own is not None else "-",
        )
    out.print(table)


def _plain(text: str) -> str:
    return text.replace(NBSP, " ").replace("µs", "us")
