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


_Column = tuple[str, str, tuple[str, ...]]
"""A column's name, how it is justified, its cells."""


def wide(out: Console, table: Table) -> None:
    """Print a table whose words must not be broken: where it is wider than the terminal, as several
    one below another, each of which begins with the first column."""
    first, *others = (_column(table, index) for index in range(len(table.columns)))
    band: list[_Column] = []
    for column in others:
        if band and _widest(out, [first, *band, column]) > out.width:
            out.print(_joined([first, *band]))
            band = []
        band.append(column)
    out.print(_joined([first, *band]))


def _column(table: Table, index: int) -> _Column:
    own = table.columns[index]
    return str(own.header), own.justify, tuple(str(cell) for cell in own.cells)


def _joined(columns: Sequence[_Column]) -> Table:
    right = tuple(i for i, (_, justify, _) in enumerate(columns) if justify == "right")
    table = plain_table(*(name for name, _, _ in columns), right=right)
    for row in zip(*(cells for _, _, cells in columns), strict=True):
        table.add_row(*row)
    return table


def _widest(out: Console, columns: Sequence[_Column]) -> int:
    return out.measure(_joined(columns), options=out.options.update(max_width=10_000)).maximum


def wrote(paths: Iterable[Path | None], *, as_json: bool) -> None:
    """Say which files were written; nothing where the output is JSON."""
    for path in paths:
        if path is not None and not as_json:
            sys.stdout.write(f"wrote {path} ({format_bytes(path.stat().st_size)})\n")
