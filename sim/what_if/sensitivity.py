"""How a given layout's time hangs on the inputs, and which neighbour overtakes it with others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scenarios.schema import Plan
from sim.planner.layouts.found import Sensitivity
from sim.planner.layouts.inputs import FACTORS, MEMORY, Input
from sim.what_if.neighbours import Own, Tried
from sim.what_if.otherwise import Otherwise, OutOfBudget

NEAR = 0.25
"""How much faster or slower than the given layout a neighbour may be to be tried otherwise."""
MOST = 8


def near(tried: Sequence[Tried], own: Own) -> tuple[Tried, ...]:
    """The neighbours that fit and come nearest to the given layout in time."""

    def apart(one: Tried) -> float:
        return abs(one.time_ns / own.time_ns - 1)

    close = [one for one in tried if one.neighbour.fits and apart(one) <= NEAR]
    return tuple(sorted(close, key=apart)[:MOST])


def sensitivities(
    own: Own,
    plan: Plan,
    tried: Sequence[Tried],
    otherwise: Otherwise,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[tuple[Sensitivity, ...], int]:
    """What each input's change by FACTORS does to a layout, the largest effect first; and of how
    many inputs there was no budget to ask.

    The neighbour that overtakes is the fastest of those near that are no faster now and are then.
    With less memory, in which the layout does not fit any more, the time is that of the fastest
    neighbour that does; with more, that of the fastest that fits only then, where it is faster.
    """
    others = [one.plan for one in near(tried, own) if one.time_ns >= own.time_ns]
    found: list[Sensitivity] = []
    unasked = 0
    inputs = otherwise.inputs
    for number, one in enumerate(inputs):
        progress(f"what if {one.words} were otherwise ({number + 1} of {len(inputs)})")
        try:
            found.append(_sensitivity(one, plan, others, otherwise))
        except OutOfBudget:
            unasked += 1
    memory = _memory(own, tried)
    if memory is not None:
        found.append(memory)
    # The sort is stable: of equal effects, inputs in their order.
    found.sort(key=lambda s: -abs(s.high_ns - s.low_ns))
    return tuple(found), unasked


def _sensitivity(
    one: Input, plan: Plan, others: Sequence[Plan], otherwise: Otherwise
) -> Sensitivity:
    ends = []
    for factor in FACTORS:
        own_ns = otherwise.time_ns(one, factor, plan)
        times = [(otherwise.time_ns(one, factor, other), i) for i, other in enumerate(others)]
        best, place = min(times, default=(own_ns, 0))
        ends.append((own_ns, others[place] if best < own_ns else None))
    low, high = FACTORS
    return Sensitivity(
        input=one.words,
        field=f"cluster.{one.field}",
        low=otherwise.reached(one, low),
        high=otherwise.reached(one, high),
        low_ns=ends[0][0],
        high_ns=ends[1][0],
        overtaken_low=ends[0][1],
        overtaken_high=ends[1][1],
    )


def _memory(own: Own, tried: Sequence[Tried]) -> Sensitivity | None:
    """None where the layout does not fit as it is, or nothing fits in less."""
    if not own.fits:
        return None
    low, high = FACTORS
    less, more = int(own.capacity * low), int(own.capacity * high)
    by_time = sorted(tried, key=lambda one: one.time_ns)
    low_ns, low_plan = own.time_ns, None
    if own.peak_bytes > less:
        smaller = next((one for one in by_time if one.neighbour.peak_bytes <= less), None)
        if smaller is None:
            return None
        low_ns, low_plan = smaller.time_ns, smaller.plan
    larger = next(
        (t for t in by_time if not t.neighbour.fits and t.neighbour.peak_bytes <= more), None
    )
    high_ns, high_plan = own.time_ns, None
    if larger is not None and larger.time_ns < own.time_ns:
        high_ns, high_plan = larger.time_ns, larger.plan
    return Sensitivity(
        input="device memory",
        field=f"cluster.{MEMORY}",
        low=low,
        high=high,
        low_ns=low_ns,
        high_ns=high_ns,
        overtaken_low=low_plan,
        overtaken_high=high_plan,
    )
