"""Tables of what a layout's time hangs on; cells have the names of their figures in `what_if`."""

from __future__ import annotations

from collections.abc import Sequence

from reports import plan_tables, what_if_words, words
from reports.tables import Cell, Table, memory, seconds, share, text
from scenarios.schema import Plan
from sim.what_if.found import Neighbour, ScalingPoint, WhatIf

_LONG = 14
"""Rows from which on a table is folded on a page."""
_Columns = Sequence[tuple[str, Sequence[Cell]]]


def freed(found: WhatIf) -> Table:
    """What the iteration would take, were one thing free."""
    rows = tuple(
        (
            text(one.words),
            share(one.share, f"what_if.freed.{i}.share"),
            seconds(one.iteration_ns / 1e9, f"what_if.freed.{i}.iteration_s"),
            share(one.gain, f"what_if.freed.{i}.gain"),
        )
        for i, one in enumerate(found.freed)
    )
    columns = ("Were it free", "Of rank-time now", "Iteration then", "Shorter by")
    return Table(caption="The iteration, were one thing free", columns=columns, rows=rows)


def neighbours(found: WhatIf, plan: Plan, capacity_bytes: int | None) -> Table:
    """Layouts one decision away: what they take, and why they do not fit."""
    ones = list(enumerate(found.neighbours))
    at = "what_if.neighbours"
    columns: list[tuple[str, Sequence[Cell]]] = [
        ("Field", [text(f"plan.{n.field}") for _, n in ones]),
        ("Instead", [text(what_if_words.changes(n, plan)) for _, n in ones]),
        ("Time", [_time(n.iteration_ns, f"{at}.{i}.iteration_s") for i, n in ones]),
        ("Slower by", [_signed(n.slower, f"{at}.{i}.slower") for i, n in ones]),
        ("Peak memory", [memory(n.peak_bytes, f"{at}.{i}.peak_memory_bytes") for i, n in ones]),
    ]
    columns += _money([n for _, n in ones], at)
    notes = [_note(n.on_front, what_if_words.why_not(n, capacity_bytes)) for _, n in ones]
    columns.append(("Note", [text(note) for note in notes]))
    return _table("One decision otherwise (simulated)", columns, fold=len(ones) > 2 * _LONG)


def sensitivities(found: WhatIf, plan: Plan) -> Table:
    """What each input's low and high value do to the time, the largest effect first."""
    order = {id(one): i for i, one in enumerate(found.sensitivities)}
    items = plan_tables.by_effect(found.sensitivities, found.iteration_ns)
    low, high = plan_tables.factors(items)
    rows = []
    for item in items:
        at = f"what_if.sensitivities.{order[id(item)]}"
        effects = plan_tables.effects(item, found.iteration_ns)
        rows.append(
            (
                text(item.input),
                seconds(item.low_ns / 1e9, f"{at}.low_s"),
                plan_tables.effect_cell(effects[0], item.low, low),
                seconds(item.high_ns / 1e9, f"{at}.high_s"),
                plan_tables.effect_cell(effects[1], item.high, high),
                text(plan_tables.overtaken(item, plan, none="none")),
            )
        )
    ends = (f"× {low:g}", f"Change × {low:g}", f"× {high:g}", f"Change × {high:g}")
    names = ("Input", *ends, "Overtakes then")
    return Table(
        caption="The iteration where an input is otherwise (simulated)",
        columns=names,
        rows=tuple(rows),
    )


def break_evens(found: WhatIf) -> Table:
    """From which value of an input on another layout is faster."""
    rows = tuple(
        (
            text(point.input),
            Cell(
                text=what_if_words.quantity(point.now, point.unit, point.field),
                value=point.now,
                figure=f"what_if.break_evens.{i}.now",
            ),
            text("below" if point.below else "above"),
            Cell(
                text=what_if_words.quantity(point.at, point.unit, point.field),
                value=point.at,
                figure=f"what_if.break_evens.{i}.at",
            ),
            text(what_if_words.name_of(point.neighbour)),
        )
        for i, point in enumerate(found.break_evens)
    )
    columns = ("Input", "Here", "Side", "Break-even", "Better there")
    return Table(caption="Break-even points (simulated)", columns=columns, rows=rows)


def scaling(found: WhatIf) -> Table:
    """The layout on other numbers of devices, with the same batch and with one that grows."""
    ones = list(enumerate(found.scaling))
    groups: dict[int, str] = {}
    for i, point in ones:
        if i == 0 or point.kind != found.scaling[i - 1].kind:
            groups[i] = f"{point.kind.capitalize()}: {what_if_words.KINDS[point.kind]}"
    at = "what_if.scaling"
    columns: list[tuple[str, Sequence[Cell]]] = [
        ("Devices", [_number(p.num_devices, f"{at}.{i}.num_devices") for i, p in ones]),
        ("Data", [_number(p.data, f"{at}.{i}.data") for i, p in ones]),
        ("Batch", [_number(p.global_batch, f"{at}.{i}.global_batch") for i, p in ones]),
        ("Iteration", [_time(p.iteration_ns, f"{at}.{i}.iteration_s") for i, p in ones]),
        ("Tokens/s", [_rate(p.tokens_per_s, f"{at}.{i}.tokens_per_s") for i, p in ones]),
        (
            "TFLOP/s a device",
            [_rate(p.tflops_per_gpu, f"{at}.{i}.model_tflops_per_gpu") for i, p in ones],
        ),
        ("Efficiency", [share(p.efficiency, f"{at}.{i}.efficiency") for i, p in ones]),
        ("Peak memory", [memory(p.peak_bytes, f"{at}.{i}.peak_memory_bytes") for i, p in ones]),
    ]
    columns += _money([p for _, p in ones], at)
    columns.append(("Note", [text(_about(p)) for _, p in ones]))
    return _table("On other numbers of devices (simulated)", columns, groups=groups)


def _table(
    caption: str, columns: _Columns, groups: dict[int, str] | None = None, *, fold: bool = False
) -> Table:
    rows = tuple(zip(*(cells for _, cells in columns), strict=True))
    names = tuple(name for name, _ in columns)
    return Table(caption=caption, columns=names, rows=rows, groups=groups or {}, fold=fold)


def _money(ones: Sequence[Neighbour | ScalingPoint], at: str) -> list[tuple[str, Sequence[Cell]]]:
    """Columns of days and dollars of the whole run, where any are known."""
    days = [_days(one.days, f"{at}.{i}.expected_days") for i, one in enumerate(ones)]
    costs = [_dollars(one.dollars, f"{at}.{i}.expected_dollars") for i, one in enumerate(ones)]
    columns = (("Days", days), ("Cost", costs))
    return [(name, cells) for name, cells in columns if any(c.value is not None for c in cells)]


def _note(on_front: bool, missing: str) -> str:
    return missing or ("on the front" if on_front else "")


def _about(point: ScalingPoint) -> str:
    told = [f"as{words.NBSP}given"] * point.is_own + ["does not fit"] * (not point.fits)
    return ", ".join(told)


def _time(duration_ns: int | None, figure: str) -> Cell:
    if duration_ns is None:
        return text(words.UNKNOWN)
    return seconds(duration_ns / 1e9, figure)


def _signed(fraction: float | None, figure: str) -> Cell:
    if fraction is None:
        return text(words.UNKNOWN)
    return Cell(text=words.percent(fraction, signed=True), value=fraction, figure=figure)


def _number(number: int, figure: str) -> Cell:
    return Cell(text=words.count(number), value=number, figure=figure)


def _rate(number: float, figure: str) -> Cell:
    return Cell(text=words.significant(number), value=number, figure=figure)


def _days(number: float | None, figure: str) -> Cell:
    if number is None:
        return text(words.UNKNOWN)
    return Cell(text=words.significant(number, 3), value=number, figure=figure)


def _dollars(amount: float | None, figure: str) -> Cell:
    if amount is None:
        return text(words.UNKNOWN)
    return Cell(text=words.dollars(amount), value=amount, figure=figure)
