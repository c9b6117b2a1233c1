"""What a sweep found, in sentences: the best point, what matters, what does not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from reports import words
from reports.sweep_axes import Axis, Effect, Swept

_FEW = 4
"""Values that a sentence lists."""
_MOST = 0.75
"""Share of a value's points above which it is called what keeps them from fitting."""
ALIKE = 0.005
"""Effects smaller than this are none worth a sentence."""


def time_word(swept: Swept) -> str:
    """What is timed."""
    return "whole run" if swept.is_run else "iteration"


def verdict(swept: Swept) -> str:
    """The sweep in one sentence."""
    results = swept.results
    if not results.points:
        return f"{results.path.name} holds no point of a sweep yet."
    if not swept.done:
        what = words.plural(len(results.points), "point")
        return f"None of {what} of {results.scenario} could be simulated."
    best = swept.ranked[0]
    where = swept.where(best)
    how = words.duration(best.seconds * 1e9)
    text = f"{results.scenario} is fastest with {where}" if where else results.scenario
    if not where:
        text = f"{results.scenario}, the only point simulated, takes {how}"
        text += "" if swept.is_run else " an iteration"
        return f"{text} (simulated){_fit_tail(swept)}."
    noun = "for the whole run" if swept.is_run else "an iteration"
    return f"{text}: {how} {noun} (simulated){_fit_tail(swept)}{_matters(swept)}."


def _fit_tail(swept: Swept) -> str:
    best = swept.ranked[0]
    if best.seen.fits is False:
        what = "it does not" if len(swept.done) == 1 else "no point does"
        return f", but {what} fit in memory"
    return ""


def _matters(swept: Swept) -> str:
    effects = [effect for effect in swept.effects if effect.size > ALIKE]
    if not effects or len(swept.axes) < 2:
        return ""
    return f"; {effects[0].axis.name} matters most"


def effect_claim(swept: Swept) -> str:
    """Which field matters most, and by how much."""
    effects = [effect for effect in swept.effects if len(effect.known) > 1]
    if not effects:
        if len(swept.done) == 1:
            return "One point is simulated, so nothing can be compared"
        return "No field has two values with points to compare"
    first = effects[0]
    if first.size <= ALIKE:
        return f"No field changes the time by more than {words.percent(ALIKE)}"
    if len(swept.axes) == 1:
        return f"With {first.axis.told(first.worst)} {_longer(first, swept)}"
    text = f"{first.axis.name} matters most: held at {first.axis.labels[first.worst]}, "
    text += f"the best point takes {words.percent(first.size)} longer"
    last = effects[-1]
    if last is not first:
        text += f"; {last.axis.name} matters least, {words.percent(last.size)}"
    return text


def _longer(effect: Effect, swept: Swept) -> str:
    known = effect.known
    best = min(known, key=known.__getitem__)
    what = "the run" if swept.is_run else "an iteration"
    return (
        f"{what} takes {words.duration(1e9 * known[effect.worst])}, "
        f"{words.percent(effect.size)} longer than with {effect.axis.labels[best]}"
    )


def memory_claim(swept: Swept) -> str:
    """How many points do not fit, and which value decides it."""
    known = [p for p in swept.done if p.seen.fits is not None]
    if not known:
        return "Whether points fit in memory is unknown"
    if not swept.unfit:
        tight = max(known, key=lambda p: p.seen.peak_bytes or 0)
        where = f", with {swept.where(tight)}" if swept.where(tight) else ""
        return f"All {len(known):,} simulated points fit; the highest peak is " + (
            f"{words.size(tight.seen.peak_bytes)} of {words.size(tight.capacity_bytes)}{where}"
        )
    if len(swept.unfit) == len(known):
        least = min(known, key=lambda p: p.seen.peak_bytes or 0)
        return (
            f"No point fits: the lowest peak is {words.size(least.seen.peak_bytes)} of "
            f"{words.size(least.capacity_bytes)}"
        )
    text = f"{len(swept.unfit):,} of {words.plural(len(known), 'point')} do not fit"
    told = [_values(axis, places) for axis, places in swept.all_unfit()]
    if told:
        return f"{text}: none does with {', nor with '.join(told)}"
    return f"{text}{_mostly(swept)}"


def _mostly(swept: Swept) -> str:
    """The value that most of what does not fit has, where it tells something: `, 24 of the 24 with
    recomputation none`."""
    shares = []
    for axis in swept.axes:
        own = [0] * len(axis.values)
        done = [0] * len(axis.values)
        for point in swept.done:
            place = axis.place(point)
            done[place] += 1
            own[place] += point.seen.fits is False
        shares += [
            (bad / all_, bad, axis.told(i))
            for i, (bad, all_) in enumerate(zip(own, done, strict=True))
            if all_
        ]
    share, bad, told = max(shares, key=lambda found: found[:2], default=(0.0, 0, ""))
    if share < 2 * len(swept.unfit) / len(swept.done) and share < _MOST:
        return ""
    return f", most often with {told}: {bad:,} of {round(bad / share):,}"


def _values(axis: Axis, places: Sequence[int]) -> str:
    """Values of an axis: `plan.micro_batch of 8 or more`, or listed."""
    last = len(axis.values) - 1
    if axis.numbers is not None and len(places) > 1:
        if places[-1] == last and places[-1] - places[0] == len(places) - 1:
            return f"{axis.name} of {axis.labels[places[0]]} or more"
        if places[0] == 0 and places[-1] == len(places) - 1:
            return f"{axis.name} of {axis.labels[places[-1]]} or less"
    shown = [axis.labels[place] for place in places[:_FEW]]
    if len(places) > _FEW:
        shown.append(f"{len(places) - _FEW} more values")
    return f"{axis.name} {' or '.join(shown)}"


def front_claim(swept: Swept) -> str:
    """What less memory costs in time."""
    front = swept.front
    fastest = front[0]
    leanest = min(front, key=lambda p: p.seen.peak_bytes or 0)
    if leanest is fastest:
        return "The fastest point needs the least memory, too"
    slower = leanest.seconds / fastest.seconds - 1
    return (
        f"{words.size(leanest.seen.peak_bytes)} instead of {words.size(fastest.seen.peak_bytes)} "
        f"a device takes {words.percent(slower)} longer"
    )


def progress_notes(swept: Swept) -> tuple[str, ...]:
    """How much of the sweep there is, and what else a reader should know of the file."""
    results = swept.results
    notes = []
    count = len(results.points)
    if results.num_missing:
        left = words.plural(results.num_missing, "other")
        notes.append(
            f"The file holds {count:,} of the {results.num_asked:,} points asked for. Each of the "
            f"{left} is not simulated yet or is the same scenario as one of these; the command of "
            "the sweep goes on where it ended."
        )
    elif results.num_asked is None and count:
        notes.append(f"The file holds {count:,} points; of how many, it does not tell.")
    elif count:
        notes.append(f"The file holds all {count:,} points of the sweep.")
    if results.torn:
        notes.append(
            "Its last line is half written: the sweep was ended in the middle of it, or is still "
            "running. That point is not shown."
        )
    if swept.fixed:
        alike = ", ".join(f"{name} {value}" for name, value in swept.fixed.items())
        notes.append(f"All points set {alike}.")
    return tuple(notes)


def reasons(swept: Swept) -> list[tuple[str, int]]:
    """Why points failed, the most frequent first."""
    errors = (p.seen.error for p in swept.results.failed if p.seen.error is not None)
    return Counter(errors).most_common()


def failed_claim(swept: Swept) -> str:
    """How many points failed, and mostly why."""
    failed, why = swept.results.failed, reasons(swept)
    of = words.plural(len(swept.results.points), "point")
    if len(why) == 1:
        return f"{len(failed):,} of {of} could not be simulated, all for one reason"
    return f"{len(failed):,} of {of} could not be simulated, for {len(why):,} reasons"
