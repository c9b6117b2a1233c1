"""What the terminal shows of what-if questions: as much as fits a screen."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from reports import what_if_tables, what_if_words
from reports.tables import Table, text
from reports.terminal.cells import first, head, left, plain, rich
from reports.terminal.console import console, progress_done, wide
from reports.what_if_words import KINDS
from scenarios.schema import Scenario
from sim.what_if.found import WhatIf

_FREED = 5
_NEIGHBOURS = 6
_INPUTS = 5
_POINTS = 3
_EACH = 4


def show_what_if(found: WhatIf, scenario: Scenario, out: Console | None = None) -> None:
    """What were free, one decision otherwise, what the time hangs on, other numbers of devices."""
    progress_done()
    out = out or console()
    if found.freed:
        head(out, "were it free")
        _part(out, what_if_tables.freed(found), _FREED)
    if found.neighbours:
        cluster = scenario.cluster
        capacity = cluster.device.memory if cluster is not None else None
        head(out, f"one decision otherwise: {plain(what_if_words.alternatives_claim(found))}")
        table = what_if_tables.neighbours(found, scenario.plan, capacity)
        _part(out, _without(table, "Field"), _NEIGHBOURS)
    if found.sensitivities:
        head(out, "what the time hangs on")
        table = what_if_tables.sensitivities(found, scenario.plan)
        _part(out, _without(table, table.columns[2], table.columns[4]), _INPUTS)
    for point in found.break_evens[:_POINTS]:
        out.print(plain(what_if_words.break_even(point)))
    left(out, len(found.break_evens) - _POINTS)
    if found.scaling:
        head(out, "on other numbers of devices")
        out.print(rich(_scaling(found)))
    for note in found.left_out:
        out.print(f"not asked: {note}", style="dim")


def _part(out: Console, table: Table, most: int) -> None:
    wide(out, rich(first(table, most)))
    left(out, len(table.rows) - most)


def _scaling(found: WhatIf) -> Table:
    """The rows of scaling, some of each kind with the given layout among them; what a row is stands
    before it in place of headings and notes."""
    table = what_if_tables.scaling(found)
    notes = [plain(row[-1].text) for row in table.rows]
    kept = [i for kind in KINDS for i in _chosen(found, kind)]
    names = [", ".join([found.scaling[i].kind, *filter(None, [notes[i]])]) for i in kept]
    rows = [(text(name), *table.rows[i]) for name, i in zip(names, kept, strict=True)]
    whole = replace(table, columns=("Scaling", *table.columns), rows=tuple(rows), groups={})
    return _without(whole, "Note", "Peak memory", "TFLOP/s a device")


def _chosen(found: WhatIf, kind: str) -> list[int]:
    """The positions of the rows of a kind: the first, the last, the given layout and others."""
    own = [i for i, point in enumerate(found.scaling) if point.kind == kind]
    given = [i for i in own if found.scaling[i].is_own]
    first = dict.fromkeys([*own[:1], *own[-1:], *given, *own[1::2], *own])
    return sorted(list(first)[:_EACH])


def _without(table: Table, *names: str) -> Table:
    """A table without some columns."""
    kept = [i for i, name in enumerate(table.columns) if name not in names]
    return replace(
        table,
        columns=tuple(table.columns[i] for i in kept),
        rows=tuple(tuple(row[i] for i in kept) for row in table.rows),
    )
