"""What the terminal shows of two iterations beside one another: differences first."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from reports import compare_tables, compare_words
from reports.tables import Table
from reports.terminal.console import console, plain_table, progress_done, show_json, wide
from sim.differences import Differences, differences_json

_FEW = 12
"""Fields are told with their sources up to so many."""
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
        out.print(compare_words.comparable(found))
    if found.fields:
        _print_fields(out, found)
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


def _print_fields(out: Console, found: Differences) -> None:
    """The fields that differ; where they are many, without where they are from."""
    table = compare_tables.fields_table(found)
    many = len(table.rows) > _FEW
    shown = plain_table(*table.columns[: 3 if many else None])
    shown.columns[0].no_wrap = True
    group = ""
    for i, row in enumerate(table.rows):
        group = table.groups.get(i, group)
        name, *others = (cell.text for cell in row)
        field = name if name == group else f"{group}.{name}"
        shown.add_row(field, *(others[:2] if many else others))
    out.print(shown)
    if many:
        out.print("(where each is from: --json, and --report)")


def _print(
    out: Console, table: Table, *, right: tuple[int, ...], least: float | None = None
) -> None:
    """A table. least: leave out the rows whose last number is smaller, and say how many."""
    shown = plain_table(*table.columns, right=right)
    left_out = 0
    for row in table.rows:
        last = row[-1].value
        if least is not None and row[0].text != "sum" and last is not None and abs(last) < least:
            left_out += 1
            continue
        shown.add_row(*(cell.text for cell in row))
    wide(out, shown)
    if left_out:
        out.print(f"({left_out} more that differ by next to nothing, all in --json)")
