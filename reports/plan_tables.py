"""Tables of `plan`: the best layouts, the front, alternatives, sensitivities, where time goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from reports import layout_words, words
from reports.plan_answer import Detail, PlanAnswer
from reports.tables import Cell, Table, memory, seconds, share, text
from reports.words import GIB
from scenarios.schema import Plan
from sim.planner.layouts.found import Candidate, Sensitivity


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """A property of a plan: its names on a page and in a terminal, and what it is."""

    field: str
    name: str
    short: str
    value: Callable[[Plan], object]


_COLUMNS = (
    _Column(field="tensor", name="Tensor", short="t", value=lambda p: p.tensor),
    _Column(field="pipeline", name="Pipeline", short="p", value=lambda p: p.pipeline),
    _Column(field="data", name="Data", short="d", value=lambda p: p.data),
    _Column(field="micro_batch", name="Microbatch", short="mb", value=lambda p: p.micro_batch),
    _Column(field="schedule", name="Schedule", short="schedule", value=layout_words.schedule_name),
    _Column(
        field="recomputation",
        name="Recomputation",
        short="recompute",
        value=lambda p: p.recomputation,
    ),
    _Column(
        field="sequence_parallel",
        name="Sequence parallel",
        short="sp",
        value=lambda p: "yes" if p.sequence_parallel else "no",
    ),
    _Column(field="sharding", name="Sharding", short="shard", value=lambda p: p.sharding),
    _Column(
        field="gradient_reduction",
        name="Reductions",
        short="reduce",
        value=lambda p: p.gradient_reduction,
    ),
    _Column(
        field="placement",
        name="Placement",
        short="place",
        value=lambda p: p.placement,
    ),
)
_ALWAYS = ("tensor", "pipeline", "data", "micro_batch", "schedule")
_MANY = 30
"""Alternatives from which on their table is folded."""
_DERIVED = ("chunks", "slices")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """The table of layouts, and what all of them have alike and is no column of it."""

    table: Table
    alike: tuple[str, ...]


def ranked(answer: PlanAnswer) -> Ranked:
    """The best layouts and the scenario's own, what they are and what they take, with the short
    names that a terminal has room for."""
    shown, (kept, alike) = _shown(answer), _kept(answer)
    capacity = words.significant(answer.capacity_bytes / GIB, 3)
    taken = [
        ("time", [seconds(c.iteration_ns / 1e9) for _, c in shown]),
        ("TFLOP/s", [_tflops(c) for _, c in shown]),
        (f"GiB of {capacity}", [_gib(c) for _, c in shown]),
        *_money(shown, short=True),
    ]
    columns = [
        *_places(answer, shown),
        *((k.short, [_value(k, c.plan, short=True) for _, c in shown]) for k in kept),
        *taken,
    ]
    return Ranked(table=_table("The best layouts", columns), alike=alike)


def results(answer: PlanAnswer) -> Table:
    """What the best layouts and the scenario's own take."""
    shown, best_ns = _shown(answer), answer.found.best.iteration_ns
    capacity = answer.capacity_bytes
    columns = [
        *_places(answer, shown),
        ("Layout", [text(layout_words.compact(c.plan, answer.only)) for _, c in shown]),
        ("Time", [seconds(c.iteration_ns / 1e9) for _, c in shown]),
        ("Over the best", [share(c.iteration_ns / best_ns - 1) for _, c in shown]),
        ("TFLOP/s a GPU", [_tflops(c) for _, c in shown]),
        ("Bubble", [_bubble(answer, c) for _, c in shown]),
        ("Peak memory", [memory(c.peak_bytes) for _, c in shown]),
        (f"Of {words.size(capacity)}", [share(c.peak_bytes / capacity) for _, c in shown]),
        *_money(shown, short=False),
    ]
    return _table("The best layouts: what they take", columns)


def layouts(answer: PlanAnswer) -> Ranked:
    """The best layouts and the scenario's own, dimension by dimension."""
    shown, (kept, alike) = _shown(answer), _kept(answer)
    columns = [
        *_places(answer, shown),
        *(
            # Spelt out it would be a column of three lines a row, beyond the page's edge.
            (k.name, [_value(k, c.plan, short=k.field == "placement") for _, c in shown])
            for k in kept
        ),
    ]
    return Ranked(table=_table("The best layouts: what they are", columns), alike=alike)


_Shown = list[tuple[str, Candidate]]
"""Layouts with their places."""
_Cells = tuple[str, Sequence[Cell]]
"""A column: its name and its cells."""


def _shown(answer: PlanAnswer) -> _Shown:
    found = answer.found
    shown = [(str(place), candidate) for place, candidate in enumerate(found.ranked, start=1)]
    own = found.baseline
    if own is not None and all(c.plan != own.plan for _, c in shown):
        shown.append(("own", own))
    return shown


def _kept(answer: PlanAnswer) -> tuple[list[_Column], tuple[str, ...]]:
    """The properties in which the layouts differ, and in words those that all have alike."""
    plans = [candidate.plan for _, candidate in _shown(answer)]
    kept, alike = [], []
    for column in _columns(answer):
        values = {str(column.value(plan)) for plan in plans}
        if len(values) > 1 or column.field in _ALWAYS:
            kept.append(column)
        else:
            alike.append(f"{column.name.lower()} {values.pop()}")
    return kept, tuple(alike)


def _places(answer: PlanAnswer, shown: _Shown) -> list[_Cells]:
    places: list[_Cells] = [("#", [text(place) for place, _ in shown])]
    if len(answer.found.spaces) > 1:
        places.append(("GPUs", [_number(c.num_devices) for _, c in shown]))
    return places


def _money(shown: _Shown, *, short: bool) -> list[_Cells]:
    """Days and cost of the whole run, as far as they are known."""
    columns: list[_Cells] = []
    if any(c.days is not None for _, c in shown):
        columns.append(("days" if short else "Days", [_days(c) for _, c in shown]))
    if any(c.dollars is not None for _, c in shown):
        cells = [_dollars(c, short=short) for _, c in shown]
        columns.append(("cost" if short else "Cost", cells))
    return columns


def _table(caption: str, columns: Sequence[_Cells]) -> Table:
    rows = tuple(zip(*(cells for _, cells in columns), strict=True))
    return Table(caption=caption, columns=tuple(name for name, _ in columns), rows=rows)


def front(answer: PlanAnswer, *, short: bool) -> Table:
    """Layouts that no other one beats in time, memory and cost at once."""
    found = answer.found
    known_cost = any(c.dollars is not None for c in found.front)
    numbers = len(found.spaces) > 1
    rows = tuple(
        (
            seconds(candidate.iteration_ns / 1e9),
            memory(candidate.peak_bytes),
            *((_dollars(candidate, short=short),) if known_cost else ()),
            *((_number(candidate.num_devices),) if numbers else ()),
            text(layout_words.compact(candidate.plan, answer.only)),
        )
        for candidate in found.front
    )
    names = ["Time", "Peak memory", *(["Cost"] if known_cost else [])]
    names += [*(["GPUs"] if numbers else []), "Layout"]
    if short:
        names = [name.lower().replace("peak ", "").replace("gpus", "GPUs") for name in names]
    return Table(
        caption="The front of time, memory and cost",
        columns=tuple(names),
        rows=rows,
        fold=len(rows) > 12 and not short,
    )


def alternatives(answer: PlanAnswer) -> Table:
    """The best layout with each other value of each dimension."""
    rows: list[tuple[Cell, ...]] = []
    groups: dict[int, str] = {}
    last = ""
    for other in answer.found.alternatives:
        if other.field != last:
            last = other.field
            chosen = layout_words.value_of(other.field, other.chosen)
            groups[len(rows)] = f"{_named(other.field)}: {chosen} was chosen"
        time: Cell = text(words.UNKNOWN)
        if other.candidate is not None:
            time = seconds(other.candidate.iteration_ns / 1e9)
        slower = text(words.UNKNOWN)
        if other.slower is not None:
            slower = Cell(text=words.percent(other.slower, signed=True), value=other.slower)
        layout = ""
        if other.candidate is not None:
            layout = layout_words.compact(other.candidate.plan, answer.only)
        value = layout_words.value_of(other.field, other.value)
        rows.append((text(value), time, slower, text(layout), text(other.reason)))
    return Table(
        caption="The best layout with another value",
        columns=("Instead", "Time", "Slower by", "Best such layout", "Why"),
        rows=tuple(rows),
        groups=groups,
        fold=len(rows) > _MANY,
    )


def sensitivities(answer: PlanAnswer) -> Table:
    """What a change of each input does to the winner, the largest first."""
    best = answer.found.best
    low, high = factors(answer.found.sensitivities)
    rows = [
        (
            text(item.input),
            *(
                effect_cell(effect, own, usual)
                for effect, own, usual in zip(
                    effects(item, best.iteration_ns),
                    (item.low, item.high),
                    (low, high),
                    strict=True,
                )
            ),
            text(overtaken(item, best.plan, answer.only)),
        )
        for item in by_effect(answer.found.sensitivities, best.iteration_ns)
    ]
    return Table(
        caption="The winner's time where an input is otherwise",
        columns=("Input", f"× {low:g}", f"× {high:g}", "Better then"),
        rows=tuple(rows),
    )


def factors(items: Sequence[Sensitivity]) -> tuple[float, float]:
    """The factors that most inputs are changed by; some cannot be as large."""
    low = Counter(item.low for item in items).most_common(1)[0][0]
    high = Counter(item.high for item in items).most_common(1)[0][0]
    return low, high


def effect_cell(effect: float, factor: float, usual: float) -> Cell:
    """What an input does to the time, signed; with its factor where that is not the usual one."""
    own = "" if factor == usual else f" (× {factor:.3g})"
    return Cell(text=f"{words.percent(effect, signed=True)}{own}", value=effect)


def effects(item: Sensitivity, best_ns: int) -> tuple[float, float]:
    """What the low and the high value do to the winner's time, as fractions."""
    return item.low_ns / best_ns - 1, item.high_ns / best_ns - 1


def by_effect(items: Sequence[Sensitivity], best_ns: int) -> list[Sensitivity]:
    """Inputs by how much they matter, the most first."""
    return sorted(items, key=lambda s: -max(map(abs, effects(s, best_ns))))


def overtaken(
    item: Sensitivity, plan: Plan, only: Collection[str] = (), none: str = "stays the best"
) -> str:
    """What else is better with an input's low or high value; `none` where nothing is."""
    told = []
    for factor, other in ((item.low, item.overtaken_low), (item.high, item.overtaken_high)):
        if other is not None:
            told.append(f"× {factor:g}: {layout_words.difference(other, plan, only)}")
    return "; ".join(told) or none


def time_table(details: Sequence[Detail], *, least: float = 0.0) -> Table:
    """Where the time of a device goes, in layouts that were predicted with all figures.

    least: categories below this share of every layout are summed up as others.
    """
    totals = [d.prediction.figures.iteration_ns / 1e9 for d in details]
    kinds: dict[str, list[float]] = {}
    for position, detail in enumerate(details):
        for name, part in detail.breakdown.items():
            large = any(d.breakdown.get(name, 0.0) >= least for d in details)
            own = kinds.setdefault(name if large else "other", [0.0] * len(totals))
            own[position] += part * totals[position]
    names = sorted(kinds, key=lambda k: (k == "other", -max(kinds[k])))
    rows = [
        (
            text(words.CATEGORY_NAMES.get(name, name.replace("_", " "))),
            *(seconds(value) for value in kinds[name]),
        )
        for name in names
        if any(kinds[name])
    ]
    rows.append((text("sum"), *(seconds(total) for total in totals)))
    return Table(
        caption="Where a device's time goes",
        columns=("Category", *(detail.name for detail in details)),
        rows=tuple(rows),
    )


def spaces(answer: PlanAnswer) -> Table:
    """What became of the candidates of each number of devices."""
    rows = tuple(
        (
            _number(space.num_devices),
            _number(space.counted),
            _number(space.over_memory),
            _number(space.bounded),
            _number(space.simulated),
            _number(space.refused),
        )
        for space in answer.found.spaces
    )
    columns = ("GPUs", "Layouts", "Over memory", "Bounded", "Simulated", "Against the rules")
    return Table(caption="What became of every layout", columns=columns, rows=rows)


def _columns(answer: PlanAnswer) -> tuple[_Column, ...]:
    """The usual columns, and one for each other field that was searched."""
    usual = {column.field for column in _COLUMNS} | set(_DERIVED)
    more = [
        _Column(
            field=name,
            name=_named(name),
            short=name.replace("_", " "),
            value=_reader(name),
        )
        for name in answer.only
        if name not in usual
    ]
    return (*_COLUMNS, *more)


def _reader(name: str) -> Callable[[Plan], object]:
    return lambda plan: layout_words.value_text(getattr(plan, name))


def _named(field: str) -> str:
    name = layout_words.field_name(field)
    return name[0].upper() + name[1:]


def _shortened(field: str, value: object) -> object:
    """A value in the few letters that a terminal has room for."""
    if field == "placement":
        return layout_words.place(str(value))
    if field == "sharding":
        return layout_words.ZERO.get(str(value), value)
    return "beside" if (field, value) == ("gradient_reduction", "overlapped") else value


def _value(column: _Column, plan: Plan, *, short: bool) -> Cell:
    value = column.value(plan)
    if short:
        value = _shortened(column.field, value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _number(value)
    return text(value)


def _gib(candidate: Candidate) -> Cell:
    peak = candidate.peak_bytes
    return Cell(text=f"{peak / GIB:,.1f}", value=peak)


def _tflops(candidate: Candidate) -> Cell:
    rate = candidate.tflops_per_gpu
    return Cell(text=words.significant(rate), value=rate)


def _number(value: int) -> Cell:
    return Cell(text=words.count(value), value=value)


def _bubble(answer: PlanAnswer, candidate: Candidate) -> Cell:
    detail = answer.detail(candidate)
    if detail is None:
        return text("")
    return share(detail.prediction.figures.bubble_fraction)


def _days(candidate: Candidate) -> Cell:
    return Cell(text=words.significant(candidate.days, 3), value=candidate.days)


def _dollars(candidate: Candidate, *, short: bool) -> Cell:
    """The whole run's cost; in short as `$1.043M`."""
    amount = candidate.dollars
    told = words.dollars(amount)
    if short and amount is not None and amount >= 1e6:
        told = f"${amount / 1e6:,.3f}M"
    return Cell(text=told, value=amount)
