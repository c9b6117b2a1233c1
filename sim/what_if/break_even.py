"""Break-even points: the value of an input at which a neighbour is as fast as the given layout.

The gap between two simulated times is nearly linear in an input's time (a latency, or one over a
bandwidth), so its trend says where to look: from what a change by a fifth does it is followed away
from the scenario's value until its sign changes, and that is closed in on by secants. Where the
sign changes twice within a step, both are missed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from scenarios.schema import Plan
from sim.planner.layouts.inputs import FACTORS, MEMORY, Input
from sim.what_if.found import BreakEven
from sim.what_if.neighbours import Own, Tried
from sim.what_if.otherwise import Otherwise, OutOfBudget
from sim.what_if.sensitivity import near

FURTHEST = 16.0
"""Inputs are changed by this factor at most, up or down."""
WITHIN = 1.004
"""The values between which the times cross are this factor apart at most, and `at` is their
geometric mean: within 0.2 % of the crossing."""
MOST = 8
MOST_OF_ONE = 3
"""Break-even points told of one neighbour."""
_FASTEST = 3
_MOST_FOLLOWED = 12
_PROBES = 4
_STEPS = 24


class _Point(NamedTuple):
    """A factor, and the neighbour's time less the given layout's with it."""

    factor: float
    gap_ns: int


def break_evens(
    own: Own,
    plan: Plan,
    tried: Sequence[Tried],
    otherwise: Otherwise,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[BreakEven, ...]:
    """The nearest ones, at most MOST, and MOST_OF_ONE of each neighbour: nearest first.

    Of the device's memory exactly: where a faster neighbour that does not fit would, and where the
    given layout stops fitting. Of the other inputs by simulating, for the neighbours near in time
    and the fastest ones.
    """
    found = list(_of_memory(own, tried))
    told: Counter[str] = Counter()
    try:
        # Nearest by the trend first.
        candidates = sorted(_trends(own, plan, tried, otherwise), key=lambda one: one[0])
        for number, (_, one, other, points) in enumerate(candidates[:_MOST_FOLLOWED]):
            if told[_name(other)] == MOST_OF_ONE:
                continue
            progress(f"break-even of {one.words} with {_name(other)} ({number + 1})")
            at = _crossing(one, plan, other.plan, points, otherwise)
            if at is not None:
                told[_name(other)] += 1
                found.append(_break_even(one, at, plan, other, otherwise))
    except OutOfBudget:
        pass
    found.sort(key=lambda b: abs(math.log(b.at / b.now)))
    return tuple(found[:MOST])


def _name(one: Tried) -> str:
    neighbour = one.neighbour
    return f"{neighbour.field} {neighbour.value} {neighbour.also}".strip()


def _of_memory(own: Own, tried: Sequence[Tried]) -> list[BreakEven]:
    """Where the fastest faster neighbour that does not fit would, and where the layout itself stops
    fitting and the fastest neighbour takes its place that needs less."""
    by_time = sorted(tried, key=lambda one: one.time_ns)
    larger = (t for t in by_time if not t.neighbour.fits and t.time_ns < own.time_ns)
    smaller = (t for t in by_time if t.neighbour.fits and t.neighbour.peak_bytes < own.peak_bytes)
    return [
        BreakEven(
            input="device memory",
            field=f"cluster.{MEMORY}",
            unit="bytes",
            now=float(own.capacity),
            at=float(own.peak_bytes if below else one.neighbour.peak_bytes),
            below=below,
            neighbour=one.neighbour,
            iteration_ns=one.time_ns,
        )
        for below, some in ((False, larger), (True, smaller))
        if (one := next(some, None)) is not None
    ]


def _trends(
    own: Own, plan: Plan, tried: Sequence[Tried], otherwise: Otherwise
) -> list[tuple[float, Input, Tried, tuple[_Point, _Point, _Point]]]:
    """Of each input and each neighbour near in time or among the fastest how far away, as the
    logarithm of a factor, the two times would cross if the gap went on as it begins; those within
    reach."""
    fastest = [one for one in tried if one.neighbour.fits][:_FASTEST]
    some = {one.plan: one for one in (*near(tried, own), *fastest)}
    found = []
    for one in otherwise.inputs:
        for other in some.values():
            gap_ns = other.time_ns - own.time_ns
            if not gap_ns:
                continue
            low, high = (
                _Point(otherwise.reached(one, factor), _gap(one, factor, plan, other, otherwise))
                for factor in FACTORS
            )
            here = _Point(1.0, gap_ns)
            ahead = [_ahead(one, here, end) for end in (low, high)]
            distances = [abs(math.log(factor)) for factor in ahead if factor is not None]
            if distances and min(distances) <= math.log(2 * FURTHEST):
                found.append((min(distances), one, other, (low, here, high)))
    return found


def _gap(one: Input, factor: float, plan: Plan, other: Tried, otherwise: Otherwise) -> int:
    return otherwise.time_ns(one, factor, other.plan) - otherwise.time_ns(one, factor, plan)


def _time_like(one: Input, factor: float) -> float:
    """What times are nearly linear in; its own inverse."""
    return 1 / factor if one.is_rate else factor


def _ahead(one: Input, here: _Point, end: _Point) -> float | None:
    """The factor at which the line through two points is zero, where that is on the end's side of
    the first; None where it is not."""
    if here.gap_ns == end.gap_ns or here.factor == end.factor:
        return None
    start, stop = _time_like(one, here.factor), _time_like(one, end.factor)
    root = start + (stop - start) * here.gap_ns / (here.gap_ns - end.gap_ns)
    if root <= 0:
        return None
    factor = _time_like(one, root)
    return factor if (factor > here.factor) == (end.factor > here.factor) else None


def _crossing(
    one: Input,
    plan: Plan,
    other: Plan,
    points: tuple[_Point, _Point, _Point],
    otherwise: Otherwise,
) -> float | None:
    """The factor at which the two plans are equally fast, near a trend's end; None where the trend
    does not lead to one."""

    def at(factor: float) -> _Point:
        gap = otherwise.time_ns(one, factor, other) - otherwise.time_ns(one, factor, plan)
        return _Point(otherwise.reached(one, factor), gap)

    low, here, high = points
    ends = [(ahead, end) for end in (low, high) if (ahead := _ahead(one, here, end)) is not None]
    ends.sort(key=lambda pair: abs(math.log(pair[0])))
    for _, end in ends:
        bracket = _followed(one, here, end, at)
        if bracket is not None:
            return _closed_in(one, *bracket, at)
    return None


def _followed(
    one: Input, here: _Point, end: _Point, at: Callable[[float], _Point]
) -> tuple[_Point, _Point] | None:
    """Two points between which the sign changes, found by going where the trend leads."""
    for _ in range(_PROBES):
        if _differ(here, end):
            return here, end
        ahead = _ahead(one, here, end)
        if ahead is None or abs(math.log(end.factor)) >= math.log(FURTHEST):
            return None
        up = end.factor > 1
        # A little further than the trend says, so that its sign has changed there.
        factor = ahead * (WITHIN if up else 1 / WITHIN)
        factor = min(FURTHEST, max(1 / FURTHEST, factor))
        step = at(factor)
        if (step.factor > end.factor) != up or step.factor == end.factor:
            return None  # It cannot go on.
        here, end = end, step
    return (here, end) if _differ(here, end) else None


def _closed_in(one: Input, first: _Point, last: _Point, at: Callable[[float], _Point]) -> float:
    """The crossing between two points of different signs."""
    low, high = sorted((first, last))
    for number in range(_STEPS):
        if high.factor / low.factor <= WITHIN:
            break
        ahead = _ahead(one, low, high)
        factor = math.sqrt(low.factor * high.factor)
        if ahead is not None and number % 3 < 2:
            # Beside where the secant says, now on this side of it, now on that.
            beside = ahead * (WITHIN**0.4 if number % 2 else WITHIN**-0.4)
            if low.factor < beside < high.factor:
                factor = beside
        middle = at(factor)
        if _differ(low, middle):
            high = middle
        else:
            low = middle
    return math.sqrt(low.factor * high.factor)


def _differ(one: _Point, other: _Point) -> bool:
    """Whether the gap has another sign; none at all is that of what is not slower."""
    return (one.gap_ns < 0) != (other.gap_ns < 0)


def _break_even(
    one: Input, factor: float, plan: Plan, other: Tried, otherwise: Otherwise
) -> BreakEven:
    now = one.in_unit(otherwise.value(one))
    # Now the neighbour is faster or slower, and on the other side of `at` it is not.
    faster_now = other.time_ns < otherwise.time_ns(one, 1.0, plan)
    return BreakEven(
        input=one.words,
        field=f"cluster.{one.field}",
        unit=one.unit,
        now=now,
        at=now * factor,
        below=faster_now == (factor > 1),
        neighbour=other.neighbour,
        iteration_ns=otherwise.time_ns(one, factor, plan),
    )
