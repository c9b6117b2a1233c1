"""The terminal itself: where tables, JSON and progress go."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scenarios.units import format_bytes


class _Terminal(Console):
    """A console that leaves a closed pipe to the command line, rather than exiting with 1."""

    def on_broken_pipe(self) -> None:
        """Whoever read the output has gone."""
        raise BrokenPipeError


def console() -> Console:
    width = None if sys.stdout.isatty() else 120
    return _Terminal(width=width, highlight=False, emoji=False, markup=False)


def progress() -> Callable[[str], None]:
    """Says how far long work is: one line on stderr, rewritten, and only on a terminal."""
    if not sys.stderr.isatty():
        return lambda text: None

    def show(text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()

    return show


def progress_done() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def show_text(text: str, end: str = "\n") -> None:
    """Print text as it is."""
    sys.stdout.write(text if end and text.endswith(end) else text + end)


def show_json(value: object) -> None:
    """Print one JSON object."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def plain_table(*columns: str, right: Sequence[int] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i in right else "left", overflow="fold")
    return table


def wrote(paths: Iterable[Path | None], *, as_json: bool) -> None:
    """Say which files were written; nothing where the output is JSON."""
    for path in paths:
        if path is not None and not as_json:
            sys.stdout.write(f"wrote {path} ({format_bytes(path.stat().st_size)})\n")
