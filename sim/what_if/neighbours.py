"""Neighbours: layouts one decision away from a given one, each checked for memory and simulated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scenarios.schema import Plan, Scenario
from sim.engine.deadlock import Deadlock
from sim.planner.goodput.run import dollars, expected_days
from sim.planner.layouts.desk import Evaluates
from sim.schedule.checks import ScheduleError
from sim.what_if.budget import Budget
from sim.what_if.found import Neighbour
from sim.what_if.variations import Variation, variations


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A neighbour, and its simulated time, which is also known where it does not fit."""

    neighbour: Neighbour
    time_ns: int

    @property
    def plan(self) -> Plan:
        """The neighbour's."""
        return self.neighbour.plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """The given layout: its simulated time, its peak, and whether that fits."""

    time_ns: int
    peak_bytes: int
    capacity: int

    @property
    def fits(self) -> bool:
        """Whether every rank's peak is within the device's memory."""
        return self.peak_bytes <= self.capacity


def neighbours(
    scenario: Scenario,
    own: Own,
    evaluator: Evaluates,
    budget: Budget,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[tuple[Tried, ...], int]:
    """All neighbours that can run, fastest first and those that do not fit last; and of how many
    there was no budget to ask.

    Peaks and times are those of `sim.prediction.predict` with that plan. Orders that are wrong for
    a plan, or that its messages would deadlock, are no neighbours.
    """
    possible = variations(scenario)
    found: list[tuple[Variation, int, int]] = []
    unasked = 0
    for number, one in enumerate(possible):
        if not budget.take(one.plan):
            unasked += 1
            continue
        progress(f"what if {one.field} were {one.value} ({number + 1} of {len(possible)})")
        try:
            peak = evaluator.peak_bytes(one.plan)
            found.append((one, peak, evaluator.iteration_ns(one.plan)))
        except (ScheduleError, Deadlock):
            continue
    points = [(time, peak) for _, peak, time in found if peak <= own.capacity]
    if own.fits:
        points.append((own.time_ns, own.peak_bytes))
    tried = [_tried(scenario, own, points, *one) for one in found]
    tried.sort(key=lambda t: (not t.neighbour.fits, t.time_ns, t.neighbour.peak_bytes))
    return tuple(tried), unasked


def _tried(
    scenario: Scenario,
    own: Own,
    points: Sequence[tuple[int, int]],
    one: Variation,
    peak: int,
    time_ns: int,
) -> Tried:
    fits = peak <= own.capacity
    days = expected_days(time_ns, one.plan, scenario) if fits else None
    neighbour = Neighbour(
        field=one.field,
        value=one.value,
        also=one.also,
        plan=one.plan,
        iteration_ns=time_ns if fits else None,
        peak_bytes=peak,
        fits=fits,
        slower=time_ns / own.time_ns - 1 if fits else None,
        days=days,
        dollars=dollars(days, one.plan, scenario),
        on_front=fits and not any(_beats(other, (time_ns, peak)) for other in points),
    )
    return Tried(neighbour=neighbour, time_ns=time_ns)


def _beats(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one is no worse in time and memory, and better in one of them."""
    return one != other and one[0] <= other[0] and one[1] <= other[1]
