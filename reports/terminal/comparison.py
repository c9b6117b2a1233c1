"""What the terminal shows of two iterations beside one another: differences first."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from reports import compare_tables, compare_words
from reports.tables import Table
from reports.terminal.console import console, plain_table, progress_done, show_json, wide
from sim.differences import Differences, differences_json

_SHOWN = 0.0005
"""The least difference of a category that is listed, as a share of the longer iteration time."""


def show_comparison(found: Differences, *, as_json: bool) -> None:
    """The verdict, the fields that differ, the figures, and where the difference comes from."""
    progress_done()
    if as_json:
        show_json(differences_json(found))
        return
    out = console()
    out.print(Text(compare_words.verdict(found), style="bold"))
    if found.is_none:
        return
    if found.work != "same":
        out.print(compare_words.comparable(found.work))
    if found.fields:
        _print(out, compare_tables.fields_table(found), right=(), grouped=True)
    else:
        out.print(compare_words.fields_claim(found))
    out.print(compare_words.same_values(found))
    _print(out, compare_tables.figures_table(found, "Figures"), right=(1, 2, 3, 4))
    if found.by_pass:
        out.print("of whole passes, as one of both knows no more of them:")
    _print(out, compare_tables.categories_table(found), right=(1, 2, 3), least=_least(found))
    if any(peak is not None for side in found.sides for peak in side.peaks):
        out.print(compare_words.memory_claim(found))


def _least(found: Differences) -> float:
    return _SHOWN * max(side.iteration_ns for side in found.sides) / 1e9


def _print(
    out: Console,
    table: Table,
    *,
    right: tuple[int, ...],
    grouped: bool = False,
    least: float | None = None,
) -> None:
    """A table; `grouped` ones have their group before each field's name. least: leave out the rows
    whose last number is smaller, and say how many."""
    shown = plain_table(*table.columns, right=right)
    group, left_out = "", 0
    for i, row in enumerate(table.rows):
        group = table.groups.get(i, group)
        last, name = row[-1].value, row[0].text
        if least is not None and name != "sum" and last is not None and abs(last) < least:
            left_out += 1
            continue
        prefix = f"{group}." if grouped and group != name else ""
        shown.add_row(*(f"{prefix if j == 0 else ''}{cell.text}" for j, cell in enumerate(row)))
    if grouped:
        out.print(shown)
    else:
        wide(out, shown)
    if left_out:
        out.print(f"({left_out} more that differ by next to nothing, all in --json)")
