"""Rows of published tables: their figures as times, and whether a profile was fitted to them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import cast

from scenarios import catalogue
from scenarios.published import PublishedRow, PublishedTable, Unit, load_table
from scenarios.schema import Scenario
from sim.cost.profile import Profile, Source
from sim.cost.shapes import Part, Pass
from sim.workload.flops import hardware_flops


def work_tflop(scenario: Scenario) -> float:
    """TFLOP of an iteration on one device by equation 3, with a recomputed forward pass always."""
    model, plan = scenario.model, scenario.plan
    assert model is not None
    return hardware_flops(model, plan.num_sequences, "full") / plan.num_devices / 1e12


def seconds_of(scenario: Scenario, unit: Unit, figure: float) -> float:
    """Turn a figure in a table's unit into seconds an iteration."""
    if unit == "ms":
        return figure / 1e3
    amount = work_tflop(scenario) if unit == "TFLOP/s" else scenario.plan.num_sequences
    return amount / figure


def figure_of(scenario: Scenario, unit: Unit, seconds: float) -> float:
    """Turn seconds an iteration into a figure in a table's unit."""
    if unit == "ms":
        return seconds * 1e3
    # Rates and times are each other's inverse.
    return seconds_of(scenario, unit, seconds)


def part_of(table: PublishedTable) -> tuple[Part, Pass]:
    """The part and the pass whose times a table's figures are."""
    assert table.part is not None, f"{table.id} is of iterations"
    part, name = table.part
    return cast(Part, part), cast(Pass, name)


def calibrated_on(profile: Profile | None, table: PublishedTable, row: PublishedRow) -> bool:
    """Whether a profile was fitted to a row: its sources name it, its whole table, or a row of
    another table that is the same run."""
    sources = [
        source
        for source in (profile.sources if profile is not None else ())
        if source.kind == "published"
    ]
    return any(
        source.name == table.id and (not source.points or row.scenario.name in source.points)
        for source in sources
    ) or any(
        _run_of(other, owner) == _run_of(row, table)
        for source in sources
        for owner, other in _rows_of(source)
    )


@cache
def _rows_of(source: Source) -> tuple[tuple[PublishedTable, PublishedRow], ...]:
    """The rows of the catalogue's tables that a source means."""
    if source.name not in catalogue.tables():
        return ()
    table = load_table(source.name)
    rows = (r for r in table.rows if not source.points or r.scenario.name in source.points)
    return tuple((table, row) for row in rows)


def _run_of(row: PublishedRow, table: PublishedTable) -> tuple[object, ...]:
    """What is the same in two rows that are one run: all but names and sources."""
    model, plan = row.scenario.model, row.scenario.plan
    assert model is not None
    seconds = None
    if row.figure is not None:
        seconds = round(seconds_of(row.scenario, table.unit, row.figure), 9)
    return replace(model, name="", source=""), plan, seconds, table.part
