"""A sweep's varied fields as axes, and what its points tell of each: pure, for words and charts."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from reports.words import UNKNOWN
from scenarios import fields
from scenarios.files import read_key
from sim.sweeps.reading import Point, Results

_WIDEST_LABEL = 28
_LOG_RANGE = 4.0
"""Values further apart than this, and evenly so on a logarithmic axis, get one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A varied field, or several that change together, with the values it takes.

    values: distinct ones, numbers from low to high, others in the order of their points; each is
    the fields' values as one JSON text. labels: for people. numbers: of each value, where all are
    numbers or quantities; None for words.
    """

    fields: tuple[str, ...]
    values: tuple[str, ...]
    labels: tuple[str, ...]
    numbers: tuple[float, ...] | None

    @property
    def name(self) -> str:
        """The fields' names."""
        return " with ".join(self.fields)

    @property
    def is_log(self) -> bool:
        """Whether the values are spread more evenly on a logarithmic axis."""
        numbers = self.numbers
        if numbers is None or len(numbers) < 3 or numbers[0] <= 0:
            return False
        if numbers[-1] / numbers[0] < _LOG_RANGE:
            return False
        return _uneven([math.log(n) for n in numbers]) < _uneven(numbers)

    def place(self, point: Point) -> int:
        """Which of the values a point has."""
        return self.values.index(value_text(point, self.fields))

    def told(self, place: int) -> str:
        """A value with its field: `plan.pipeline 8`."""
        return f"{self.name} {self.labels[place]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What an axis' values do to the best point.

    best, median: seconds of the fastest and of the middle point that has a value, all else chosen
    anew; None where none with it counts.
    """

    axis: Axis
    best: tuple[float | None, ...]
    median: tuple[float | None, ...]

    @property
    def known(self) -> dict[int, float]:
        """The best seconds of each value that has one."""
        return {place: time for place, time in enumerate(self.best) if time is not None}

    @property
    def size(self) -> float:
        """How much longer the best point takes with the worst value than with the best."""
        known = self.known
        return max(known.values()) / min(known.values()) - 1 if known else 0.0

    @property
    def worst(self) -> int:
        """The value whose best point takes longest."""
        known = self.known
        return max(known, key=known.__getitem__)


@dataclass(frozen=True)
class Swept:
    """The results of a sweep, looked at along its axes."""

    results: Results

    @cached_property
    def done(self) -> tuple[Point, ...]:
        """The points that were simulated, in the order of the sweep."""
        return self.results.done

    @cached_property
    def counted(self) -> tuple[Point, ...]:
        """The points that compete: those that fit; where none does, all that were simulated."""
        fit = tuple(p for p in self.done if p.seen.fits is not False)
        return fit or self.done

    @cached_property
    def ranked(self) -> tuple[Point, ...]:
        """The simulated points, the fastest first, those that do not fit after all others."""
        return tuple(
            sorted(self.done, key=lambda p: (p.seen.fits is False, p.seconds, p.seen.index))
        )

    @cached_property
    def unfit(self) -> tuple[Point, ...]:
        """The points that do not fit."""
        return tuple(p for p in self.done if p.seen.fits is False)

    @cached_property
    def is_run(self) -> bool:
        """Whether times are of whole runs of epochs."""
        return any(p.timed == "run" for p in self.done)

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """What is varied: fields that take two values or more, those that only change together as
        one axis."""
        return axes_of(self.results.points)

    @cached_property
    def fixed(self) -> dict[str, str]:
        """Fields that all points set alike, with their value."""
        names = field_names(self.results.points)
        found = {name: {value_text(p, (name,)) for p in self.results.points} for name in names}
        first = self.results.points[0] if self.results.points else None
        return {
            name: value_label(first, name)
            for name, values in found.items()
            if len(values) == 1 and first is not None
        }

    @cached_property
    def effects(self) -> tuple[Effect, ...]:
        """What each axis does, the one that matters most first."""
        found = [self.effect(axis) for axis in self.axes]
        return tuple(sorted(found, key=lambda effect: -effect.size))

    def effect(self, axis: Axis) -> Effect:
        """What an axis does to the points that compete."""
        times: list[list[float]] = [[] for _ in axis.values]
        for point in self.counted:
            times[axis.place(point)].append(point.seconds)
        return Effect(
            axis=axis,
            best=tuple(min(own, default=None) for own in times),
            median=tuple(statistics.median(own) if own else None for own in times),
        )

    @cached_property
    def short_names(self) -> dict[str, str]:
        """The varied fields by their last word, where that tells them apart."""
        names = [name for axis in self.axes for name in axis.fields]
        last = [name.rpartition(".")[2] for name in names]
        return {
            name: own if last.count(own) == 1 else name
            for name, own in zip(names, last, strict=True)
        }

    def where(self, point: Point) -> str:
        """What a point is: `pipeline 8, micro_batch 2`."""
        return ", ".join(
            f"{own} {value_label(point, name)}" for name, own in self.short_names.items()
        )

    @cached_property
    def front(self) -> tuple[Point, ...]:
        """The points that fit and that none beats in time, memory and cost at once, the fastest
        first; those whose memory is unknown are none of them."""
        known = [p for p in self.counted if p.seen.peak_bytes is not None]
        order = sorted(known, key=lambda p: (p.seconds, p.seen.peak_bytes, p.dollars or 0.0))
        found: list[Point] = []
        for point in order:
            if not any(_covers(other, point) for other in found):
                found.append(point)
        return tuple(found)

    @cached_property
    def costs_differ(self) -> bool:
        """Whether costs tell more than times: dollars for a second are not the same for all."""
        rates = [p.dollars / p.seconds for p in self.done if p.dollars and p.seconds]
        return len(rates) > 1 and max(rates) > (1 + 1e-6) * min(rates)

    def all_unfit(self) -> list[tuple[Axis, tuple[int, ...]]]:
        """Of each axis the values with which no simulated point fits, where others have some."""
        found = []
        for axis in self.axes:
            own: list[list[Point]] = [[] for _ in axis.values]
            for point in self.done:
                own[axis.place(point)].append(point)
            bad = tuple(
                place
                for place, points in enumerate(own)
                if points and all(p.seen.fits is False for p in points)
            )
            if 0 < len(bad) < sum(bool(points) for points in own):
                found.append((axis, bad))
        return found


def axes_of(points: Sequence[Point]) -> tuple[Axis, ...]:
    """The axes of points, in the order of their fields."""
    names = field_names(points)
    columns = {name: tuple(value_text(p, (name,)) for p in points) for name in names}
    varied = [name for name in names if len(set(columns[name])) > 1]
    groups: list[list[str]] = []
    for name in varied:
        # Two fields that take new values at the same points and no others are one choice.
        together = next((g for g in groups if _together(columns[g[0]], columns[name])), None)
        if together is None:
            groups.append([name])
        else:
            together.append(name)
    return tuple(_axis(tuple(group), points) for group in groups)


def field_names(points: Sequence[Point]) -> tuple[str, ...]:
    """The fields that points set."""
    return tuple(dict.fromkeys(name for point in points for name in point.seen.set))


def value_text(point: Point, names: Sequence[str]) -> str:
    """A point's values of some fields as one text; a field that it leaves alone is absent."""
    found = {name: point.seen.set[name] for name in names if name in point.seen.set}
    return json.dumps(found, sort_keys=True)


def label_of(value: object) -> str:
    """A value as a scenario file has it: `8`, `true`, `null`, `100 Gbit/s`."""
    if isinstance(value, str):
        return value
    if value is None:
        return "null"
    return json.dumps(value, ensure_ascii=False)


def value_label(point: Point, name: str) -> str:
    """What a point sets a field to, for people; `–` where it leaves it alone."""
    return label_of(point.seen.set[name]) if name in point.seen.set else UNKNOWN


def short(label: str, most: int = _WIDEST_LABEL) -> str:
    """A label that fits on an axis."""
    return label if len(label) <= most else f"{label[: most - 1]}…"


def _axis(names: tuple[str, ...], points: Sequence[Point]) -> Axis:
    first: dict[str, Point] = {}
    for point in points:
        first.setdefault(value_text(point, names), point)
    numbers = {text: _number(point.seen.set, names[0]) for text, point in first.items()}
    labels = {
        text: ", ".join(value_label(point, name) for name in names) for text, point in first.items()
    }
    known = [number for number in numbers.values() if number is not None]
    is_numeric = len(known) == len(first) == len(set(known))
    order = list(first)
    if is_numeric:
        order.sort(key=lambda text: numbers[text] or 0.0)
    return Axis(
        fields=names,
        values=tuple(order),
        labels=tuple(labels[text] for text in order),
        numbers=tuple(numbers[text] or 0.0 for text in order) if is_numeric else None,
    )


def _number(set_: Mapping[str, Any], name: str) -> float | None:
    """A value as a number: its own, or a quantity's in the field's unit."""
    value = set_.get(name)
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, (int, float)):
        return float(value) if math.isfinite(value) else None
    field = fields.lookup(tuple(read_key(part.strip()) for part in name.split(".")))
    if field is None or field.parser is None or not isinstance(value, str):
        return None
    try:
        return float(field.parser(value))
    except (ValueError, TypeError):
        return None


def _together(one: Sequence[str], other: Sequence[str]) -> bool:
    return len(one) > 2 and len(set(zip(one, other, strict=True))) == len(set(one)) == len(
        set(other)
    )


def _uneven(numbers: Sequence[float]) -> float:
    """How unlike the steps between numbers are, over their mean."""
    steps = [b - a for a, b in itertools.pairwise(numbers)]
    return statistics.pstdev(steps) / statistics.fmean(steps)


def _covers(one: Point, other: Point) -> bool:
    """Whether a point, no slower, is no worse in memory and cost either."""
    peaks = (one.seen.peak_bytes or 0) <= (other.seen.peak_bytes or 0)
    return peaks and (one.dollars or 0.0) <= (other.dollars or 0.0)
