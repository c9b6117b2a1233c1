"""What a comparison of two iterations says: its verdict, its claims, its figures as text."""

from __future__ import annotations

from collections import Counter

from reports import words
from reports.compare_figures import FIGURES
from reports.words import count, dollars, duration, percent, size
from sim.differences import Differences, FigureDifference, Work
from sim.sides import Side
from sim.timeline.figures import BUBBLE, TENSOR_PARALLEL

_PLURAL = frozenset(
    {
        "forward",
        "backward",
        "given",
        "measured",
        "matmul",
        "memory_bound",
        "launch",
        TENSOR_PARALLEL,
    }
)
"""Categories of time whose names are plural."""
_MOST_NAMES = 5
"""Fields that differ are named up to so many, and counted by section beyond."""
_WORTH_TELLING = 0.05
"""The least second difference in time that is told, as a share of the largest."""


def origins(found: Differences) -> str:
    """Where the figures are from: `both simulated`, or of each which."""
    a, b = found.sides
    if a.origin == b.origin:
        return f"both {a.origin}"
    return f"{a.label} {a.origin}, {b.label} {b.origin}"


def titled(side: Side) -> str:
    """A side's label, with simulated or measured."""
    return f"{side.label} ({side.origin})"


def capital(text: str) -> str:
    """Text at the head of a sentence; a name that someone gave stays as it was given."""
    return f"T{text[1:]}" if text.startswith("the ") else text


def titled_at_head(side: Side) -> str:
    """The same at the head of a title."""
    return capital(titled(side))


def comparable(found: Differences) -> str:
    """What may be held side by side, in a sentence."""
    a, b = (side.scenario for side in found.sides)
    if found.work == "same" and a.model is None:
        return (
            "Both iterations run as many sequences, in times given outright: nothing says whether "
            "they do the same work."
        )
    trained = [(one.plan.frozen_layers, one.plan.cached_layers) for one in (a, b)]
    if found.work == "same" and trained[0] != trained[1]:
        return (
            "Both iterations run as many sequences through the same model, but other layers of it "
            "are frozen or cached, so they do not do the same work."
        )
    texts: dict[Work, str] = {
        "same": "Both iterations do the same work: the same model on as many sequences, so their "
        "times compare.",
        "resized": "The iterations are of different size, so compare sequences and tokens a "
        "second, not iteration times.",
        "other model": "The models differ, so iteration times do not compare: the fair figures are "
        "throughput per device and tokens a second.",
        "unknown": "One of both has no model, so nothing says whether they do the same work.",
    }
    return texts[found.work]


def verdict(found: Differences) -> str:
    """Which is faster, by how much, what that costs in memory and money, and what does not fit."""
    a, b = found.sides
    if found.is_none:
        return (
            f"Nothing differs: {words.subject(a.scenario)} takes {duration(a.iteration_ns)} an "
            f"iteration in both ({a.origin})."
        )
    if not found.fields and a.origin != b.origin:
        return _predicted(found)
    own = _measure(found)
    if own is None or own.a is None or own.b is None:
        times = f"{a.label} takes {duration(a.iteration_ns)} an iteration, {b.label} "
        text = f"{times}{duration(b.iteration_ns)} ({origins(found)})"
    elif own.a == own.b:
        alike = "do as much per device" if found.work == "other model" else "are equally fast"
        text = f"{a.label} and {b.label} {alike}: {_amount(own, own.a)}"
        price = _price(found, b, a)
        text = f"{text} ({origins(found)}){f', {b.label}{price[1:]}' if price else ''}"
    else:
        b_wins = (own.b < own.a) == bool(FIGURES[own.name].less_is_better)
        winner, loser = (b, a) if b_wins else (a, b)
        best, other = (own.b, own.a) if b_wins else (own.a, own.b)
        word = "less" if best < other else "more"
        change = percent(abs(best / other - 1))
        text = (
            f"{winner.label} {_better(found, winner)}: {_amount(own, best)}, {change} {word} than "
            f"{possessive(loser.label)} {FIGURES[own.name].text(other)} ({origins(found)})"
            f"{_noise(found)}{_price(found, winner, loser)}"
        )
    return f"{capital(text)}.{_misfits(found)}"


def _predicted(found: Differences) -> str:
    """The verdict on a run beside the prediction of the very same scenario."""
    a, b = found.sides
    run, own = (a, b) if a.origin == "measured" else (b, a)
    off = own.iteration_ns / run.iteration_ns - 1 if run.iteration_ns else 0.0
    side = "above" if off >= 0 else "below"
    return (
        f"{words.subject(run.scenario)} took {duration(run.iteration_ns)} an iteration (measured); "
        f"{duration(own.iteration_ns)} are predicted (simulated), {percent(abs(off))} {side}"
        f"{_noise(found)}.{_misfits(found)}"
    )


def _measure(found: Differences) -> FigureDifference | None:
    """The figure that says which is faster."""
    names = {
        "same": ("iteration_s",),
        "resized": ("tokens_per_s", "sequences_per_s"),
        "other model": ("model_tflops_per_gpu",),
        "unknown": (),
    }[found.work]
    known = (found.figure(name) for name in names)
    return next((own for own in known if own is not None), None)


def _better(found: Differences, winner: Side) -> str:
    """That it is ahead; or that it would be, did it fit."""
    if found.work == "other model":
        return "would do more per device" if misfit(winner) else "does more per device"
    return "would be faster" if misfit(winner) else "is faster"


def _amount(own: FigureDifference, value: float) -> str:
    text = FIGURES[own.name].text(value)
    return {
        "iteration_s": f"{text} an iteration",
        "tokens_per_s": f"{text} tokens a second",
        "sequences_per_s": f"{text} sequences a second",
        "model_tflops_per_gpu": f"{text} of the model",
    }[own.name]


def possessive(label: str) -> str:
    """`A's`."""
    return f"{label}’s"


def _noise(found: Differences) -> str:
    """Says where a difference is no larger than what runs differ by, or draws leave open."""
    sure = found.uncertainty_ns
    if found.work != "same" or abs(found.difference_ns) >= sure or not found.a.iteration_ns:
        return ""
    why = "by which runs differ"
    drawn = [str(side.draws) for side in found.sides if side.draws]
    if drawn:
        runs = any(side.measurement is not None for side in found.sides)
        why = f"that {'runs and ' if runs else ''}{drawn[0]} draws leave open"
    return f", within the ±{percent(sure / found.a.iteration_ns)} {why}"


def _price(found: Differences, winner: Side, loser: Side) -> str:
    """What the faster one takes more or less in devices, memory and money."""
    parts = []
    sign = 1 if winner is found.b else -1

    def of(name: str) -> float:
        own = found.figure(name)
        return sign * own.difference if own is not None and own.difference is not None else 0

    if of("devices"):
        parts.append(
            f"on {count(winner.scenario.plan.num_devices)} devices instead of "
            f"{count(loser.scenario.plan.num_devices)}"
        )
    if more := of("peak_memory_bytes"):
        word = "more" if more > 0 else "less"
        parts.append(f"with {size(abs(more))} {word} memory on its fullest rank")
    elif found.a.peak_bytes is not None and found.b.peak_bytes is not None:
        parts.append("with as much memory")
    names = ["expected_dollars", "training_cost_dollars"] if _same_run(found) else []
    if found.work != "other model":
        names.append("dollars_per_billion_tokens")
    for name in names:
        own = found.figure(name)
        if own is None or own.difference is None:
            continue
        if own.difference:
            word = "more" if of(name) > 0 else "less"
            what = (
                "a billion tokens" if name == "dollars_per_billion_tokens" else "the training run"
            )
            parts.append(f"and {dollars(abs(own.difference))} {word} for {what}")
        break
    if len(parts) == 1:
        return f", {parts[0].removeprefix('and ')}"
    return f", {', '.join(parts[:-1])} {parts[-1]}" if parts else ""


def _same_run(found: Differences) -> bool:
    """Whether both training runs are of as many tokens of the same model."""
    a, b = found.a.scenario.training, found.b.scenario.training
    return found.work != "other model" and a is not None and b is not None and a.tokens == b.tokens


def misfit(side: Side) -> str:
    """Why a side does not fit in memory; empty where it does, or nobody knows."""
    capacity, peak = side.summary["memory_capacity_bytes"], side.peak_bytes
    if side.summary["fits"] is not False or capacity is None or peak is None:
        return ""
    return (
        f"{side.label} does not fit: rank {side.fullest_rank} peaks at {size(peak)} of "
        f"{size(capacity)}"
    )


def _misfits(found: Differences) -> str:
    known = [text for side in found.sides if (text := misfit(side))]
    return f" {capital('; '.join(known))}." if known else ""


def fields_claim(found: Differences) -> str:
    """Which values of the scenario differ."""
    names = [own.field for own in found.fields]
    if not names:
        return "No value of the scenarios differs"
    verb = "differs" if len(names) == 1 else "differ"
    shown = _listed(names)
    if len(names) > _MOST_NAMES:
        sections = Counter(str(own.path[0]) for own in found.fields)
        shown = _listed([f"{number} of {name}" for name, number in sections.items()])
        shown = f"all of {next(iter(sections))}" if len(sections) == 1 else shown
    return f"{words.plural(len(names), 'value')} {verb}: {shown}"


def same_values(found: Differences) -> str:
    """What is the same, in one line."""
    if not found.same:
        return "Nothing is the same."
    differ = {str(own.path[0]) for own in found.fields}
    whole = [name for name in found.same if name not in differ]
    parts = [
        f"{number} of {name}" for name, number in found.same.items() if name in differ and number
    ]
    total = words.plural(sum(found.same.values()), "value")
    verb = "is" if sum(found.same.values()) == 1 else "are"
    alike = f"all of {_listed(whole)}" if whole else ""
    text = "; ".join(part for part in (alike, _listed(parts)) if part)
    return f"{total} {verb} the same: {text}."


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def figures_claim(found: Differences) -> str:
    """Bubble and exposed communication of both."""
    if found.is_none:
        return "Every figure is the same"
    a, b = found.sides
    lost = [side.summary["bubble_fraction"] for side in found.sides]
    exposed = [side.summary["exposed_communication_fraction"] for side in found.sides]
    if percent(lost[0]) == percent(lost[1]) and percent(exposed[0]) == percent(exposed[1]):
        return (
            f"Both lose {percent(lost[0])} of their rank-time to the pipeline bubble and "
            f"{percent(exposed[0])} to exposed communication"
        )
    return capital(
        f"{b.label} loses {percent(lost[1])} of its rank-time to the pipeline bubble and "
        f"{percent(exposed[1])} to exposed communication, {a.label} {percent(lost[0])} and "
        f"{percent(exposed[0])}"
    )


def category(name: str) -> str:
    """A category of time in words."""
    if name in ("forward", "backward"):
        return f"{name} passes"
    return words.CATEGORY_NAMES.get(name, name.replace("_", " "))


def time_claim(found: Differences) -> str:
    """Which categories make the difference in iteration time."""
    total = found.difference_ns
    own = [c for c in found.categories if c.difference_ns]
    if not own:
        return f"The time goes where it went: {duration(found.a.iteration_ns)} in both"
    parts: list[str] = []
    for c in own[:2]:
        if abs(c.difference_ns) < _WORTH_TELLING * abs(own[0].difference_ns):
            break
        name = category(c.category)
        name = f"the {name}" if c.category == BUBBLE else name
        verb = "take" if c.category in _PLURAL else "takes"
        word = "more" if c.difference_ns > 0 else "less"
        start = name if parts else f"{name[0].upper()}{name[1:]}"
        here = f" in {found.b.label}" if not parts else ""
        parts.append(f"{start} {verb} {duration(abs(c.difference_ns))} {word}{here}")
    word = "more" if total > 0 else "less"
    end = f"in all it is {duration(abs(total))} {word}" if total else "in all as much"
    return f"{', '.join(parts)}; {end}"


def memory_claim(found: Differences) -> str:
    """The highest peak of both, against the capacity."""
    a, b = found.sides
    misfits = [
        f"{side.label} does not fit in {size(side.summary['memory_capacity_bytes'])}"
        for side in found.sides
        if misfit(side)
    ]
    if a.peak_bytes is None or b.peak_bytes is None:
        known = next((side for side in found.sides if side.peak_bytes is not None), None)
        if known is None:
            return "; ".join(misfits) or "The memory of both is unknown"
        other = b if known is a else a
        text = (
            f"{known.label} peaks at {size(known.peak_bytes)}; what {other.label} holds is unknown"
        )
        return capital("; ".join([text, *misfits]))
    more = b.peak_bytes - a.peak_bytes
    word = "more" if more > 0 else "less"
    gap = f"{size(abs(more))} {word}" if more else "as much"
    text = (
        f"{b.label} peaks at {size(b.peak_bytes)} on rank {b.fullest_rank}, {a.label} at "
        f"{size(a.peak_bytes)} on rank {a.fullest_rank}: {gap}"
    )
    spare = b.summary["memory_capacity_bytes"]
    if spare is not None and not misfits:
        text += f", with {size(spare - b.peak_bytes)} to spare"
    return capital("; ".join([text, *misfits]))


def timelines_claim(found: Differences) -> str:
    """How long both pipelines take to fill."""
    fills = [_fill(side) for side in found.sides]
    a, b = found.sides
    if fills[0] is None or fills[1] is None:
        return capital(f"{a.label} and {b.label} on one axis of time")
    if fills[0] == fills[1]:
        return f"In both the last rank starts after {duration(fills[0])}"
    return (
        f"The last rank of {b.label} starts after {duration(fills[1])}, that of {a.label} after "
        f"{duration(fills[0])}"
    )


def _fill(side: Side) -> int | None:
    starts = [rank[0].start_ns for rank in side.timeline.compute if rank]
    return max(starts) - min(starts) if len(starts) > 1 else None


def has_cost(found: Differences) -> bool:
    """Whether there is anything to say of days or money."""
    names = ("training_days", "expected_days", "dollars_per_billion_tokens")
    return any(found.figure(name) is not None for name in names)


def cost_claim(found: Differences) -> str:
    """The days and the money of both, as far as they are known."""
    run = _first(found, ("expected_days", "training_days"))
    money = _first(found, ("expected_dollars", "training_cost_dollars"))
    what = "The training run takes"
    if run is None:
        run, money = _first(found, ("dollars_per_billion_tokens",)), None
        what = "A billion tokens cost"
    told = []
    for side in reversed(found.sides):
        values = [_of(own, side is found.a) for own in (run, money) if own is not None]
        known = " and ".join(text for text in values if text)
        told.append(f"{known or 'nobody knows how much'} with {side.label}")
    return f"{what} {', '.join(told)} ({origins(found)})"


def _first(found: Differences, names: tuple[str, ...]) -> FigureDifference | None:
    return next((own for name in names if (own := found.figure(name)) is not None), None)


def _of(own: FigureDifference, of_a: bool) -> str:
    value = own.a if of_a else own.b
    return "" if value is None else FIGURES[own.name].text(value)
