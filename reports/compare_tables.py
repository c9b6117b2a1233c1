"""Tables of a comparison: fields, figures, time and memory of two iterations side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from reports import compare_words, tables, words
from reports.compare_figures import FIGURES, change, difference, signed
from reports.compare_words import capital, titled
from reports.tables import Cell, Table
from sim.differences import Differences, FieldDifference, source
from sim.sides import Side
from sim.timeline.memory import MemoryCurve

LONGEST_VALUE = 120


def fields_table(found: Differences) -> Table:
    """Every field that differs, both values with their sources."""
    groups: dict[int, str] = {}
    rows: list[tuple[Cell, ...]] = []
    for own in sorted(found.fields, key=lambda own: _section(found, own)):
        head = str(own.path[0])
        if head not in groups.values():
            groups[len(rows)] = head
        name = ".".join(map(str, own.path[1:])) or head
        rows.append(
            (
                tables.text(name),
                tables.text(value(own, own.a)),
                tables.text(value(own, own.b)),
                tables.text(source(found.a, own.field)),
                tables.text(source(found.b, own.field)),
            )
        )
    a, b = (capital(side.label) for side in found.sides)
    return Table(
        caption="Values that differ",
        columns=("Field", a, b, f"{a}: where from", f"{b}: where from"),
        rows=tuple(rows),
        groups=groups,
    )


def _section(found: Differences, own: FieldDifference) -> int:
    heads = list(dict.fromkeys(str(other.path[0]) for other in found.fields))
    return heads.index(str(own.path[0]))


def value(own: FieldDifference, given: Any) -> str:
    """One side's value of a field in readable units, cut where it is very long."""
    if given is None or given == "":
        return "none"
    text = tables.readable(own.path, given)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def figures_table(found: Differences, caption: str, names: Iterable[str] = ()) -> Table:
    """Figures of both with difference and change.

    names: which, in this order; all unless given.
    """
    wanted = list(names) or [own.name for own in found.figures]
    rows = []
    for i, own in enumerate(found.figures):
        if own.name not in wanted:
            continue
        about, at = FIGURES[own.name], f"figures.{i}"
        rows.append(
            (
                tables.text(about.name),
                _cell(own.a, about.text, f"{at}.a"),
                _cell(own.b, about.text, f"{at}.b"),
                Cell(
                    text=difference(own),
                    value=own.difference,
                    figure=f"{at}.difference",
                ),
                Cell(
                    text=change(own) if about.relative else "",
                    value=own.ratio - 1 if own.ratio is not None and about.relative else None,
                ),
            )
        )
    return Table(caption=caption, columns=_columns(found, "Figure", change=True), rows=tuple(rows))


def _columns(found: Differences, first: str, *, change: bool) -> tuple[str, ...]:
    columns = (first, *(capital(titled(side)) for side in found.sides), "Difference")
    return (*columns, "Change") if change else columns


def _cell(number: float | None, text: Callable[[float], str], figure: str) -> Cell:
    if number is None:
        return tables.text(words.UNKNOWN)
    return Cell(text=text(number), value=number, figure=figure)


def _seconds(value: float) -> str:
    return words.duration(value * 1e9)


def categories_table(found: Differences) -> Table:
    """The mean rank-time by category, which sums to the iteration times and their difference."""
    rows: list[tuple[Cell, ...]] = []
    for i, own in enumerate(found.categories):
        at = f"time_by_category.{i}"
        rows.append(
            (
                tables.text(compare_words.category(own.category)),
                tables.seconds(own.a_ns / 1e9, f"{at}.a_s"),
                tables.seconds(own.b_ns / 1e9, f"{at}.b_s"),
                _difference(own.difference_ns / 1e9, _seconds, f"{at}.difference_s"),
            )
        )
    rows.append(
        (
            tables.text("sum"),
            tables.seconds(sum(own.a_ns for own in found.categories) / 1e9),
            tables.seconds(sum(own.b_ns for own in found.categories) / 1e9),
            _difference(sum(own.difference_ns for own in found.categories) / 1e9, _seconds),
        )
    )
    return Table(
        caption="Mean rank-time by category",
        columns=_columns(found, "Category", change=False),
        rows=tuple(rows),
    )


def _difference(number: float, text: Callable[[float], str], figure: str | None = None) -> Cell:
    return Cell(text=signed(number, text), value=number, figure=figure)


def path_seconds(side: Side) -> dict[str, float]:
    """Seconds on one side's critical path by kind, without those of 0."""
    return tables.path_seconds(side.summary)


def path_kinds(found: Differences) -> list[str]:
    """Kinds on either critical path, the longest first."""
    both = [path_seconds(side) for side in found.sides]
    kinds = dict.fromkeys([*both[0], *both[1]])
    return sorted(kinds, key=lambda kind: -max(own.get(kind, 0.0) for own in both))


def path_table(found: Differences) -> Table:
    """Both critical paths by kind of action."""
    a, b = (path_seconds(side) for side in found.sides)
    rows: list[tuple[Cell, ...]] = []
    for kind in path_kinds(found):
        at = f"critical_path.{'queued_s' if kind == 'queued' else kind}"
        rows.append(
            (
                tables.text(words.PATH_NAMES.get(kind, kind)),
                tables.seconds(a.get(kind, 0.0), f"a.{at}" if kind in a else None),
                tables.seconds(b.get(kind, 0.0), f"b.{at}" if kind in b else None),
                _difference(b.get(kind, 0.0) - a.get(kind, 0.0), _seconds),
            )
        )
    rows.append(
        (
            tables.text("sum"),
            tables.seconds(sum(a.values())),
            tables.seconds(sum(b.values())),
            _difference(sum(b.values()) - sum(a.values()), _seconds),
        )
    )
    return Table(
        caption="The critical paths by kind of action",
        columns=_columns(found, "On the path", change=False),
        rows=tuple(rows),
    )


def ranks_table(found: Differences) -> Table:
    """Every rank of both: busy, exposed communication, bubble."""
    a, b = (side.summary["ranks"] for side in found.sides)
    rows = []
    keys = ("busy_s", "exposed_communication_s", "bubble_s")
    for rank in range(max(len(a), len(b))):
        row = [Cell(text=str(rank), value=rank)]
        for key in keys:
            for label, ranks in (("a", a), ("b", b)):
                figure = f"{label}.ranks.{rank}.{key}"
                known = rank < len(ranks)
                row.append(
                    tables.seconds(ranks[rank][key], figure)
                    if known
                    else tables.text(words.UNKNOWN)
                )
        rows.append(tuple(row))
    names = ("busy", "exposed communication", "bubble")
    labels = [capital(side.label) for side in found.sides]
    columns = ("Rank", *(f"{label}, {name}" for name in names for label in labels))
    return Table(
        caption="Time per rank",
        columns=columns,
        rows=tuple(rows),
        fold=len(rows) > tables.FOLD_ROWS,
    )


def parts_of(curve: MemoryCurve) -> dict[str, int]:
    """A simulated rank's peak by kind."""
    return tables.memory_parts(curve)


def peaks_table(found: Differences) -> Table:
    """Every rank's peak of both, and their difference."""
    a, b = found.a.peaks, found.b.peaks
    rows = []
    for rank in range(max(len(a), len(b))):
        own = a[rank] if rank < len(a) else None
        other = b[rank] if rank < len(b) else None
        known = own is not None and other is not None
        gap = other - own if own is not None and other is not None else None
        rows.append(
            (
                Cell(text=str(rank), value=rank),
                tables.memory(own, f"a.ranks.{rank}.peak_memory_bytes") if own else _unknown(),
                tables.memory(other, f"b.ranks.{rank}.peak_memory_bytes") if other else _unknown(),
                _difference(gap, words.size) if known and gap is not None else _unknown(),
            )
        )
    return Table(
        caption="Peak memory per rank",
        columns=_columns(found, "Rank", change=False),
        rows=tuple(rows),
        fold=len(rows) > 2 * tables.FOLD_ROWS,
    )


def _unknown() -> Cell:
    return tables.text(words.UNKNOWN)


def memory_kinds_table(found: Differences) -> Table:
    """Every rank's peak of both by kind; of what is simulated, as no run tells kinds apart."""
    parts = [[parts_of(curve) for curve in side.memory or ()] for side in found.sides]
    rows: list[tuple[Cell, ...]] = []
    groups: dict[int, str] = {}
    for rank in range(max(map(len, parts))):
        groups[len(rows)] = f"rank {rank}"
        a, b = (own[rank] if rank < len(own) else None for own in parts)
        for kind in _kinds((a or {}, b or {})):
            one = a.get(kind, 0) if a is not None else None
            two = b.get(kind, 0) if b is not None else None
            gap = two - one if one is not None and two is not None else None
            rows.append(
                (
                    tables.text(words.MEMORY_NAMES.get(kind, kind.replace("_", " "))),
                    tables.memory(one) if one is not None else _unknown(),
                    tables.memory(two) if two is not None else _unknown(),
                    _difference(gap, words.size) if gap is not None else _unknown(),
                )
            )
    return Table(
        caption="What each rank holds at its peak, by kind",
        columns=_columns(found, "Kind", change=False),
        rows=tuple(rows),
        groups=groups,
        fold=True,
    )


def _kinds(parts: Iterable[Mapping[str, int]]) -> list[str]:
    """Kinds of memory in their usual order."""
    held = dict.fromkeys(kind for own in parts for kind in own)
    return [
        *(k for k in words.MEMORY_NAMES if k in held),
        *(k for k in held if k not in words.MEMORY_NAMES),
    ]


def of_side(table: Table, letter: str, label: str) -> Table:
    """A table of one side's page as part of the comparison's: its figures are `a.` or `b.`, and its
    caption names the side."""
    rows = tuple(
        tuple(
            dataclasses.replace(cell, figure=f"{letter}.{cell.figure}") if cell.figure else cell
            for cell in row
        )
        for row in table.rows
    )
    return dataclasses.replace(table, caption=f"{table.caption}: {label}", rows=rows)
