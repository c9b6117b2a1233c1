"""Tables as rows of cells; a cell with a number carries it exactly beside its text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports import words
from scenarios import fields, units
from scenarios.errors import Origin
from scenarios.schema import Scenario
from sim.comparison import Comparison, LoopRow
from sim.prediction import Prediction
from sim.timeline.memory import MemoryCurve

Summary = Mapping[str, Any]
FOLD_ROWS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A text, with the number it stands for where it is one, and the name of that figure in
    `sim.prediction.summary` where it is there."""

    text: str
    value: float | None = None
    figure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns and rows; `numeric` columns are set flush right. `fold` hides it until opened.

    groups: positions of rows before which a heading is set, with the heading.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    groups: Mapping[int, str] = dataclasses.field(default_factory=dict)
    fold: bool = False

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Per column, whether any cell is a number; none of a table without rows."""
        return tuple(
            any(row[index].value is not None for row in self.rows)
            for index in range(len(self.columns))
        )


def text(content: object) -> Cell:
    """A cell that is no number."""
    return Cell(text=str(content))


def share(fraction: float | None, figure: str | None = None) -> Cell:
    """A cell of a fraction, shown in percent."""
    return Cell(text=words.percent(fraction), value=fraction, figure=figure)


def error(fraction: float) -> Cell:
    """A cell of a signed error, shown in percent."""
    return Cell(text=words.percent(fraction, signed=True), value=fraction)


def seconds(value: float | None, figure: str | None = None) -> Cell:
    """A cell of seconds."""
    shown = None if value is None else value * 1e9
    return Cell(text=words.duration(shown), value=value, figure=figure)


def memory(num_bytes: int | None, figure: str | None = None) -> Cell:
    """A cell of bytes."""
    return Cell(text=words.size(num_bytes), value=num_bytes, figure=figure)


def rank_table(summary: Summary) -> Table:
    """Every rank's busy time, waits and peak memory."""
    iteration = sum(summary["ranks"][0][k] for k in ("busy_s", "bubble_s"))
    iteration += summary["ranks"][0]["exposed_communication_s"]
    rows = []
    for rank in summary["ranks"]:
        at = f"ranks.{rank['rank']}"
        rows.append(
            (
                Cell(text=str(rank["rank"]), value=rank["rank"]),
                seconds(rank["busy_s"], f"{at}.busy_s"),
                seconds(rank["exposed_communication_s"], f"{at}.exposed_communication_s"),
                seconds(rank["bubble_s"], f"{at}.bubble_s"),
                share(rank["bubble_s"] / iteration if iteration else None),
            )
        )
    columns = ("Rank", "Busy", "Exposed communication", "Bubble", "Bubble share")
    return Table(caption="Time per rank", columns=columns, rows=tuple(rows), fold=_long(rows))


def breakdown_table(summary: Summary) -> Table:
    """All rank-time by category; sums to 100 %."""
    shares = sorted(summary["breakdown"].items(), key=lambda item: -item[1])
    rows = [
        (text(words.CATEGORY_NAMES.get(name, name)), share(value, f"breakdown.{name}"))
        for name, value in shares
    ]
    rows.append((text("sum"), share(math.fsum(value for _, value in shares))))
    return Table(
        caption="All rank-time by category", columns=("Category", "Share"), rows=tuple(rows)
    )


def path_table(summary: Summary) -> Table:
    """The critical path by kind of action."""
    found = sorted(path_seconds(summary).items(), key=lambda item: -item[1])
    total = math.fsum(value for _, value in found) or 1.0
    keys = {"queued": "queued_s"}
    rows = [
        (
            text(words.PATH_NAMES.get(name, name)),
            seconds(value, f"critical_path.{keys.get(name, name)}"),
            share(value / total),
        )
        for name, value in found
    ]
    rows.append((text("sum"), seconds(total), share(1.0)))
    columns = ("On the path", "Time", "Share")
    return Table(caption="The critical path by kind of action", columns=columns, rows=tuple(rows))


def path_seconds(summary: Summary) -> dict[str, float]:
    """Seconds on the critical path by kind, queueing among them, without those of 0."""
    path = {k.removesuffix("_s"): v for k, v in summary["critical_path"].items()}
    return {name: value for name, value in path.items() if value}


def memory_table(prediction: Prediction, summary: Summary) -> Table:
    """Every rank's peak by kind."""
    assert prediction.memory is not None
    parts = [memory_parts(curve) for curve in prediction.memory]
    kinds = list(
        dict.fromkeys(kind for kind in words.MEMORY_NAMES if any(kind in p for p in parts))
    )
    kinds += [k for k in dict.fromkeys(k for p in parts for k in p) if k not in kinds]
    capacity = summary["memory_capacity_bytes"]
    rows = []
    for rank, found in enumerate(parts):
        peak = summary["ranks"][rank]["peak_memory_bytes"]
        row = [Cell(text=str(rank), value=rank)]
        row += [memory(found.get(kind, 0)) for kind in kinds]
        row.append(memory(peak, f"ranks.{rank}.peak_memory_bytes"))
        row.append(share(peak / capacity if capacity else None))
        rows.append(tuple(row))
    names = [words.MEMORY_NAMES.get(kind, kind) for kind in kinds]
    columns = ("Rank", *(n[0].upper() + n[1:] for n in names), "Peak", "Of capacity")
    return Table(
        caption="Peak memory per rank", columns=columns, rows=tuple(rows), fold=_long(rows)
    )


def error_table(comparison: Comparison) -> Table:
    """Simulated against measured: iteration, then actions by kind and stage, then memory."""
    rows: list[tuple[Cell, ...]] = [
        (
            text("iteration, from the calibrated costs" if comparison.calibrated else "iteration"),
            seconds(comparison.predicted_ns / 1e9),
            seconds(comparison.measured_ns / 1e9),
            error(comparison.predictive),
        )
    ]
    groups = {0: "Iteration"}
    if comparison.actions:
        groups[len(rows)] = "Actions, medians"
    for action in comparison.actions:
        name = action.kind.name.lower()
        piece = f", {words.piece(action.piece)}" if action.piece is not None else ""
        rows.append(
            (
                text(f"{words.PATH_NAMES.get(name, name)}, stage {action.stage}{piece}"),
                seconds(action.simulated_ns / 1e9),
                seconds(action.measured_ns / 1e9),
                error(action.error),
            )
        )
    known = [(rank, pair) for rank, pair in enumerate(comparison.memory) if pair is not None]
    if known:
        groups[len(rows)] = "Peak memory"
    for rank, (predicted, measured) in known:
        off = predicted / measured - 1 if measured else 0.0
        rows.append((text(f"rank {rank}"), memory(predicted), memory(measured), error(off)))
    return Table(
        caption="Simulated against measured",
        columns=("What", "Simulated", "Measured", "Error"),
        rows=tuple(rows),
        groups=groups,
        fold=_long(rows, 4 * FOLD_ROWS),
    )


def loop_table(rows: Sequence[LoopRow]) -> Table:
    """The calibration loop's scenarios with their errors, those judged apart from those calibrated
    on."""
    rows = sorted(rows, key=lambda row: not row.judged)
    judged = sum(row.judged for row in rows)
    groups = {0: "Judged", judged: "Calibrated on, not judged"} if judged < len(rows) else {}
    return Table(
        groups=groups,
        caption="Scenarios of the calibration loop",
        columns=(
            "Scenario",
            "Structural",
            "Predictive",
            "Spread",
            "Predicted",
            "Measured",
            "Rounds",
        ),
        rows=tuple(
            (
                text(row.scenario),
                error(row.structural_error),
                error(row.predictive_error),
                Cell(text=f"±{words.percent(row.run_to_run_spread)}", value=row.run_to_run_spread),
                seconds(row.predicted_ns / 1e9),
                seconds(row.measured_ns / 1e9),
                Cell(text=str(row.rounds), value=row.rounds),
            )
            for row in rows
        ),
    )


def scenario_table(scenario: Scenario, origins: Mapping[str, Origin] | None) -> Table:
    """Every known value of the scenario in readable units, with where it was written."""
    rows: list[tuple[Cell, ...]] = []
    groups: dict[int, str] = {}
    last = None
    for path, value in scenario_values(scenario):
        head = str(path[0]) if len(path) > 1 else "scenario"
        if head != last:
            groups[len(rows)] = last = head
        dotted = ".".join(map(str, path))
        name = dotted if len(path) == 1 else ".".join(map(str, path[1:]))
        origin = "not on record" if origins is None else str(origins.get(dotted, "default"))
        rows.append((text(name), text(readable(path, value)), text(origin)))
    columns = ("Field", "Value", "Where from")
    return Table(caption="The scenario", columns=columns, rows=tuple(rows), groups=groups)


def scenario_values(owner: Any, path: fields.Path = ()) -> Iterator[tuple[fields.Path, Any]]:
    """Every known value of a scenario with its path, nested ones last."""
    if isinstance(owner, Mapping):
        items = list(owner.items())
    else:
        items = [(f.name, getattr(owner, f.name)) for f in dataclasses.fields(owner)]
    nested = [(k, v) for k, v in items if dataclasses.is_dataclass(v) or isinstance(v, Mapping)]
    for key, value in items:
        if value is not None and value != "" and (key, value) not in nested:
            yield (*path, key), value
    for key, value in nested:
        yield from scenario_values(value, (*path, key))


def readable(path: fields.Path, value: Any) -> str:
    """A value of the scenario in readable units."""
    field = fields.lookup(path)
    parser = field.parser if field is not None else None
    if isinstance(value, (tuple, list)):
        return ", ".join(readable(path, item) for item in value)
    if dataclasses.is_dataclass(value):
        known = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return " ".join(f"{k} {readable(path, v)}" for k, v in known if v is not None)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if parser is units.parse_bytes:
        return units.exact_bytes(value)
    if parser is units.parse_bytes_per_s:
        return units.exact_bytes_per_s(value)
    if parser is units.parse_flops_per_s:
        return units.exact_flops_per_s(value)
    if parser is units.parse_duration_ns:
        return units.exact_duration_ns(value).replace(" us", " µs")
    if parser is units.parse_dollars_per_hour:
        return f"${value:.2f}/h"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def assumed_table(summary: Summary) -> Table:
    """Costs taken outside the range in which their model was measured."""
    rows = tuple(
        (text(item["what"]), share(item["share"], f"assumed.{i}.share"))
        for i, item in enumerate(summary["assumed"])
    )
    columns = ("What", "Share of compute time")
    return Table(caption="Costs outside the measured range", columns=columns, rows=rows)


def _long(rows: Sequence[object], limit: int = FOLD_ROWS) -> bool:
    return len(rows) > limit


def memory_parts(curve: MemoryCurve) -> dict[str, int]:
    """A rank's peak in bytes by kind: what it holds throughout, and the rest as activations."""
    parts = {name: number for name, number in curve.static.items() if number}
    rest = curve.peak_bytes - sum(parts.values())
    return {**parts, "activations": rest} if rest else parts
