"""Tables of cells on a terminal: the same that pages have, as far as there is room."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from reports.tables import Table
from reports.terminal.console import plain_table
from reports.words import NBSP


def head(out: Console, text: str) -> None:
    """A heading, after an empty line."""
    out.print()
    out.print(Text(text, style="bold dim"))


def left(out: Console, number: int) -> None:
    """How many rows were left out; nothing where none were."""
    if number > 0:
        out.print(f"  and {number} more, in --report and --json", style="dim")


def some(table: Table, most: int) -> Table:
    """A table with the first row, the last, and others evenly between them."""
    if len(table.rows) <= most:
        return table
    last = len(table.rows) - 1
    chosen = sorted({round(i * last / (most - 1)) for i in range(most)})
    return replace(table, rows=tuple(table.rows[i] for i in chosen))


def first(table: Table, most: int) -> Table:
    """A table's first rows."""
    return replace(table, rows=table.rows[:most])


def rich(table: Table) -> RichTable:
    """A table of cells as the terminal's, without the headings between its rows."""
    right = tuple(i for i, numeric in enumerate(table.numeric) if numeric)
    found = plain_table(*table.columns, right=right)
    for row in table.rows:
        found.add_row(*(plain(cell.text) for cell in row))
    return found


def plain(text: str) -> str:
    """A text without the spaces at which a line is not broken."""
    return text.replace(NBSP, " ")
