"""Words about what a layout's time hangs on: claims, and the names of layouts near it."""

from __future__ import annotations

from collections.abc import Sequence

from reports import layout_words, words
from reports.plan_tables import by_effect, effects
from reports.words import NBSP
from scenarios.schema import Plan
from sim.prediction import Prediction
from sim.what_if.found import BreakEven, Freed, Neighbour, ScalingPoint, WhatIf

KINDS = {"strong": "the same batch", "weak": "a batch that grows with the devices"}
"""What becomes of the batch on other numbers of devices."""
MEMORY_FIELD = "cluster.device.memory"
WORK = frozenset({"matmul", "attention", "forward", "backward"})
"""What an iteration is for: that it would be shorter without it is no news."""
MEMORY_INPUT = (
    "With less memory, where this layout does not fit any more, the time is that of the fastest "
    "layout one decision away that does; with more, that of the fastest that then fits."
)
_SAME = 0.0005
"""Differences below this share of the time are none that a reader acts on."""


def name_of(other: Neighbour) -> str:
    """What a layout has otherwise: `microbatch 2`, `schedule interleaved, chunks 3`."""
    value = layout_words.value_of(other.field, other.value)
    name = f"{layout_words.field_name(other.field)} {value}"
    return f"{name}, {other.also}" if other.also else name


def changes(other: Neighbour, plan: Plan) -> str:
    """All that a layout has otherwise than the given one; its name where that is no field of a
    layout."""
    found = layout_words.difference(other.plan, plan)
    return name_of(other) if found == "the same layout" else found


def quantity(value: float, unit: str, field: str) -> str:
    """A value of an input in the unit that its data sheets have: `200 Gbit/s`, `2.5 µs`."""
    if unit == "s":
        return words.duration(value * 1e9)
    if unit == "bytes":
        return words.size(value)
    if unit == "fraction":
        return words.percent(value)
    if unit != "bytes/s":
        return f"{words.significant(value, 3)}{NBSP}{unit}".rstrip(NBSP)
    if "inter_node" in field:
        return f"{words.significant(value * 8 / 1e9, 3)}{NBSP}Gbit/s"
    if value >= 1e12:
        return f"{words.significant(value / 1e12, 3)}{NBSP}TB/s"
    return f"{words.significant(value / 1e9, 3)}{NBSP}GB/s"


def freed_claim(found: WhatIf) -> str:
    """What would shorten the iteration most if it were free, other than the computing itself, and
    what comes next."""
    told = [one for one in found.freed if one.gain > _SAME and one.what not in WORK]
    told = told or [one for one in found.freed if one.gain > _SAME]
    if not told:
        return "Nothing that could be freed would make the iteration shorter"
    first = told[0]
    text = f"Were {short(first)} free, the iteration would be {words.percent(first.gain)} shorter"
    if len(told) > 1:
        text += f"; were {short(told[1])} free, {words.percent(told[1].gain)}"
    return text


def short(one: Freed) -> str:
    """A name within a sentence: `the bubble`."""
    return one.words.partition(":")[0]


def free_reading(found: WhatIf) -> str:
    """How gains and shares go together."""
    hidden = [(one.share - max(0.0, one.gain), one) for one in found.freed if one.share is not None]
    gap, one = max(hidden, key=lambda pair: pair[0], default=(0.0, None))
    text = (
        "Each bar is the iteration simulated again with one thing costing nothing and all else as "
        "it is; gains do not add up."
    )
    if one is None or gap < 0.01:
        return text
    return (
        f"{text} What other work hides gains less than its share: {short(one)} is "
        f"{words.percent(one.share)} of rank-time, and free it would make the iteration "
        f"{words.percent(max(0.0, one.gain))} shorter."
    )


def faster(found: WhatIf) -> list[Neighbour]:
    """Layouts one decision away that take less time, the fastest first."""
    own = [n for n in found.neighbours if n.slower is not None and n.slower < -_SAME]
    return sorted(own, key=lambda n: n.slower or 0.0)


def alternatives_claim(found: WhatIf) -> str:
    """Whether a layout one decision away is faster, or needs less memory; what does not fit."""
    count = len(found.neighbours)
    known = [n for n in found.neighbours if n.slower is not None]
    around = words.plural(count, "layout") + " one decision away"
    better, left = faster(found), sum(not n.fits for n in found.neighbours)
    if not known:
        return f"None of {around} fits in memory"
    if better:
        best = better[0]
        verb = "is" if len(better) == 1 else "are"
        text = (
            f"Of {around} {len(better)} {verb} faster: {name_of(best)} by "
            f"{words.percent(-(best.slower or 0.0))}"
        )
    else:
        near = min(known, key=lambda n: n.slower or 0.0)
        what = words.percent(near.slower, signed=True)
        text = f"None of {around} is faster; {name_of(near)} comes nearest, at {what}"
    return text + (f"; {left} {'does' if left == 1 else 'do'} not fit" if left else "")


def leaner(found: WhatIf) -> str:
    """What least memory on the front costs in time; empty where the given layout has least."""
    own = found.peak_bytes
    if own is None:
        return ""
    front = [n for n in found.neighbours if n.on_front and n.fits and n.peak_bytes < own]
    if not front:
        return ""
    least = min(front, key=lambda n: n.peak_bytes)
    slower = least.slower or 0.0
    return (
        f"The least memory on the front is {words.size(least.peak_bytes)} instead of "
        f"{words.size(own)}: {name_of(least)}, in {words.percent(abs(slower))} "
        f"{'more' if slower >= 0 else 'less'} time."
    )


def is_on_front(found: WhatIf) -> bool:
    """Whether no layout one decision away beats the given one in both time and memory."""
    own = found.peak_bytes
    return own is None or not any(
        n.iteration_ns is not None
        and n.fits
        and n.iteration_ns <= found.iteration_ns
        and n.peak_bytes <= own
        and (n.iteration_ns, n.peak_bytes) != (found.iteration_ns, own)
        for n in found.neighbours
    )


def why_not(other: Neighbour, capacity_bytes: int | None) -> str:
    """Why a layout does not fit; empty where it does."""
    if other.fits:
        return ""
    if capacity_bytes is None:
        return "does not fit"
    return f"{words.size(other.peak_bytes - capacity_bytes)} too much for {_of(capacity_bytes)}"


def _of(capacity_bytes: int) -> str:
    return words.size(capacity_bytes)


def sensitivity_claim(found: WhatIf) -> str:
    """The input that the time hangs on most, and the nearest break-even point."""
    items = by_effect(found.sensitivities, found.iteration_ns)
    parts = []
    if items:
        first = items[0]
        low, high = effects(first, found.iteration_ns)
        factor, effect = (first.low, low) if abs(low) >= abs(high) else (first.high, high)
        side = "more" if effect >= 0 else "less"
        parts.append(
            f"The time hangs most on {first.input}: {words.significant(factor, 3)} times as much "
            f"of it takes {words.percent(abs(effect))} {side}"
        )
    if found.break_evens:
        told = break_even(found.break_evens[0])
        parts.append(told[0].lower() + told[1:] if parts else told)
    elif parts:
        parts.append("no layout one decision away becomes faster in what was tried")
    return "; ".join(parts)


def break_even(point: BreakEven) -> str:
    """A break-even point in a sentence, of the side on which we are not: `Below 140 Gbit/s of
    bandwidth between nodes (200 Gbit/s here) microbatch 2 is no longer faster`."""
    below, name = point.below, name_of(point.neighbour)
    then = f"{name} is faster"
    if point.field == MEMORY_FIELD:
        then = f"{name}, which is faster, fits as well"
        if below:
            then = f"this layout no longer fits, and {name} does"
    elif (point.now < point.at) == below:
        below, then = not below, f"{name} is no longer faster"
    at = quantity(point.at, point.unit, point.field)
    now = quantity(point.now, point.unit, point.field)
    return f"{'Below' if below else 'Above'} {at} of {point.input} ({now} here) {then}"


def scaling_claim(found: WhatIf) -> str:
    """How much faster more devices are, with the same batch and with a larger one."""
    told = []
    for kind, what in KINDS.items():
        own = [p for p in found.scaling if p.kind == kind]
        if len(own) < 2:
            continue
        first, last = own[0], own[-1]
        times = last.tokens_per_s / first.tokens_per_s
        told.append(
            f"with {what} {words.count(last.num_devices)} devices do "
            f"{words.significant(times, 3)} times the work of {words.count(first.num_devices)}, at "
            f"{words.percent(last.efficiency)} efficiency"
        )
    if not told:
        return "There is no other number of devices for this layout"
    text = "; ".join(told)
    return text[0].upper() + text[1:]


def without_stragglers(prediction: Prediction) -> str:
    """That days and cost of other layouts have no slow devices in them, where the run has; empty
    where it has none."""
    run = prediction.training
    if run is None or run.slowdown == 1.0:
        return ""
    return (
        "Days and cost here are without slow devices and jitter, which make an iteration of the "
        f"run {words.significant(run.slowdown, 3)} times as long."
    )


def misfits(points: Sequence[ScalingPoint]) -> int:
    """How many points do not fit in memory."""
    return sum(not p.fits for p in points)
