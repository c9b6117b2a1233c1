"""Words of `plan`: layouts as people name them, the verdict, what was searched, notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reports import layout_words, words
from reports.plan_answer import PlanAnswer
from sim.planner.layouts.found import Alternative, Candidate, Space

MEMORY_INPUT = "With more or less memory the time is that of the layout which is best then."
"""A layout's own time does not hang on the device's memory."""
FULL, ROOMY = 0.95, 0.9
"""Shares of a device's memory: from which on a layout is told to be nearly full, and which one that
leaves room fills at most; what an allocator loses is not modelled."""
OBJECTIVES = {"time": "time", "cost": "cost", "gpus": "the fewest GPUs"}


def money(candidate: Candidate) -> str:
    """Days and dollars of the whole run: `25.5 days and $1.25 million`; empty where unknown."""
    parts = []
    if candidate.days is not None:
        parts.append(f"{words.significant(candidate.days, 3)}{words.NBSP}days")
    if candidate.dollars is not None:
        parts.append(words.dollars(candidate.dollars))
    return " and ".join(parts)


def verdict(answer: PlanAnswer) -> str:
    """The answer in one sentence."""
    found = answer.found
    if not found.ranked:
        return _nothing(answer)
    best = found.best
    scenario = replace(found.scenario, plan=best.plan)
    own = f"{words.duration(best.iteration_ns)} an iteration (simulated){_gained(answer)}"
    text = f"{words.subject(scenario)}: {layout_words.degrees(best.plan)}, {own}"
    if cost := money(best):
        text += f"; {cost} for the whole run"
    if found.objective == "gpus" or len(found.spaces) > 1 or found.deadline_days is not None:
        text = f"{_chosen(answer)} {text}"
    return f"{text}."


def _gained(answer: PlanAnswer) -> str:
    if answer.gain is None or answer.found.baseline is None:
        return ""
    baseline, best = answer.found.baseline, answer.found.best
    if baseline.plan == best.plan:
        return ", and that is the scenario's own layout"
    time = words.duration(baseline.iteration_ns)
    if baseline.num_devices != best.num_devices:
        number = devices(answer, baseline.num_devices)
        return f", against {time} of the scenario's own layout on {number}"
    return f", {answer.gain:.2f} times as fast as the scenario's own layout ({time})"


def _chosen(answer: PlanAnswer) -> str:
    """Which number of devices is best for what was asked, and whether it meets a deadline."""
    found = answer.found
    best, device = found.best, answer.cluster.device.name
    number = words.count(best.num_devices)
    limit = "" if found.deadline_days is None else f"{found.deadline_days:g} days"
    if found.meets_deadline is False:
        return (
            f"No number of {device} that was tried meets the deadline of {limit}; the fastest "
            "layout:"
            if found.objective == "gpus"
            else f"No layout meets the deadline of {limit}; the fastest:"
        )
    if found.objective == "gpus":
        return f"{number} {device} are the fewest of those tried that do it in {limit}."
    what = {"time": "fastest", "cost": "cheapest"}[found.objective]
    within = f" within {limit}" if limit else ""
    tried = plural_numbers(found.spaces)
    of = f"Of {tried} {device}, {number} are" if len(found.spaces) > 1 else "This is"
    return f"{of} {what}{within}."


def _nothing(answer: PlanAnswer) -> str:
    scenario, capacity = answer.found.scenario, answer.capacity_bytes
    known = [s for s in answer.found.spaces if s.smallest_peak_bytes is not None]
    numbers = " or ".join(words.count(s.num_devices) for s in answer.found.spaces)
    what = words.subject(scenario).rsplit(" on ", 1)[0]
    text = f"No layout of {what} fits on {numbers} {answer.cluster.device.name}"
    if not known:
        return f"{text}."
    least = min(known, key=lambda s: s.smallest_peak_bytes or 0)
    peak = least.smallest_peak_bytes or 0
    which = ""
    if least.smallest_plan is not None:
        which = f" ({layout_words.compact(least.smallest_plan, answer.only)})"
    return (
        f"{text}: the one that needs least memory{which} peaks at {words.size(peak)} of "
        f"{words.size(capacity)}, {words.size(peak - capacity)} too much. "
        f"More of them, as `--gpus {2 * least.num_devices}`, can share out more."
    )


def searched(answer: PlanAnswer) -> str:
    """The size of the space, what became of it, and how long it took."""
    found, spaces = answer.found, answer.found.spaces
    total = answer.num_candidates
    took = f"{words.significant(found.seconds, 3)}{words.NBSP}s"
    rate = f", {words.count(total / found.seconds)} layouts a second" if found.seconds > 0 else ""
    number = devices(answer, spaces[-1].num_devices)
    if len(spaces) > 1:
        number = f"{plural_numbers(spaces)} {device_word(answer)}s"
    return (
        f"Searched: {words.count(total)} layouts of {number}: "
        f"{words.count(sum(s.over_memory for s in spaces))} do not fit in memory, "
        f"{words.count(sum(s.bounded for s in spaces))} cannot be better by a proved lower bound, "
        f"{words.count(sum(s.simulated for s in spaces))} were simulated ({took}{rate})."
    )


def tight(answer: PlanAnswer) -> str:
    """That the best leaves hardly any memory, and the fastest layout found on as many devices that
    leaves a tenth; empty where there is room."""
    found, capacity = answer.found, answer.capacity_bytes
    if not found.ranked or found.best.peak_bytes < FULL * capacity:
        return ""
    best = found.best
    text = (
        f"The best fills {words.percent(best.peak_bytes / capacity)} of a device's memory, without "
        "what an allocator loses, which is not modelled"
    )
    roomy = [
        c
        for c in (*found.ranked, *found.front)
        if c.num_devices == best.num_devices and c.peak_bytes <= ROOMY * capacity
    ]
    if not roomy:
        return f"{text}; no layout found leaves a tenth free."
    other = min(roomy, key=lambda c: (c.iteration_ns, c.peak_bytes))
    more = words.percent(other.iteration_ns / best.iteration_ns - 1, signed=True)
    return (
        f"{text}; the fastest found that leaves a tenth free is "
        f"{layout_words.compact(other.plan, answer.only)}: {more} "
        f"({words.duration(other.iteration_ns)}), {words.size(other.peak_bytes)}."
    )


def plural_numbers(spaces: Sequence[Space]) -> str:
    """The numbers of devices that were searched: `16, 32 and 64`."""
    numbers = [words.count(space.num_devices) for space in spaces]
    return " and ".join([", ".join(numbers[:-1]), numbers[-1]] if len(numbers) > 1 else numbers)


def sizes(space: Space) -> str:
    """How many values each dimension has: `tensor 4, pipeline 12, ...`."""
    return ", ".join(f"{layout_words.field_name(name)} {n}" for name, n in space.sizes.items())


def why_not(other: Alternative) -> str:
    """One line on another value of one dimension."""
    head = layout_words.instead(other)
    if other.slower is not None and other.candidate is not None:
        time = words.duration(other.candidate.iteration_ns)
        head += f": {words.percent(other.slower, signed=True)} ({time})"
    elif other.missing_bytes is not None and not other.reason:
        head += f": does not fit, {words.size(other.missing_bytes)} too much"
    return f"{head}: {other.reason}" if other.reason else head


def restrictions(answer: PlanAnswer) -> str:
    """What `--only` left of the space; empty where nothing was restricted."""
    told = [
        f"{layout_words.field_name(name)} {' or '.join(layout_words.value_text(v) for v in values)}"
        for name, values in answer.only.items()
    ]
    return f"Only {'; '.join(told)}." if told else ""


def notes(answer: PlanAnswer) -> list[str]:
    """What the answer rests on."""
    found = answer.found
    told = []
    if answer.asked.assumed:
        told.append(f"Assumed: {'; '.join(answer.asked.assumed)}.")
    plan = found.scenario.plan
    same = [words.plural(plan.num_sequences, "sequence") + " an iteration"]
    for name, text in (("precision", "{}"), ("optimizer", "{}"), ("p2p", "{} messages")):
        if name not in answer.only:
            same.append(text.format(getattr(plan, name)))
    told.append(
        f"The same in all layouts: {', '.join(same)}; --set changes them, and --only "
        "p2p=blocking,overlapped searches one more."
    )
    if restricted := restrictions(answer):
        told.append(restricted)
    if answer.profile is None:
        told.append("Costs come from the device model, without a profile of this hardware.")
    else:
        told.append(f"Costs are calibrated on {answer.profile.device}.")
    if answer.asked.is_borrowed:
        pass  # A model alone has no layout.
    elif not answer.asked.has_baseline:
        told.append(
            "The scenario's own layout does not suit these numbers, so nothing is beside it."
        )
    elif found.baseline is None:
        told.append("The scenario's own layout does not fit in memory, so nothing is beside it.")
    if found.ranked and found.best.days is None:
        told.append("Days and cost are unknown: --set training.tokens=300e9 would tell them.")
    elif found.ranked and found.best.dollars is None:
        told.append("Cost is unknown: --set cluster.price_per_device_hour='$2.00/h' would tell it.")
    return told


def device_word(answer: PlanAnswer) -> str:
    """What a device is called: `GPU`, or `device` where it is none."""
    return "GPU" if answer.cluster.device.kind == "gpu" else "device"


def devices(answer: PlanAnswer, number: int) -> str:
    """So many devices: `1,024 GPUs`."""
    return words.plural(number, device_word(answer))
