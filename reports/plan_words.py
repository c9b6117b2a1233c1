"""Words of `plan`: layouts as people name them, the verdict, what was searched, notes."""

from __future__ import annotations

from dataclasses import replace

from reports import words
from reports.plan_answer import PlanAnswer
from scenarios.schema import Plan
from sim.planner.layouts.found import Alternative, Candidate, Space

SCHEDULES = {"1f1b": "1F1B", "gpipe": "GPipe", "interleaved": "interleaved 1F1B"}
SCHEDULES |= {"terapipe": "TeraPipe's order", "given": "given order"}
RECOMPUTATION = {
    "none": "no recomputation",
    "selective": "selective recomputation",
    "full": "full recomputation",
}
SHARDING = {"optimizer": "optimizer state sharded", "full": "fully sharded"}
OBJECTIVES = {"time": "time", "cost": "cost", "gpus": "the fewest GPUs"}
LISTED = (
    *("tensor", "pipeline", "data", "micro_batch", "schedule", "chunks", "slices"),
    *("recomputation", "recompute_every", "sequence_parallel", "sharding", "gradient_reduction"),
    *("placement", "p2p"),
)
"""Fields of a plan that make a layout, in the order in which they are told."""


def schedule_name(plan: Plan) -> str:
    """The schedule as `pipetwin schedule show` takes it: `1f1b`, `interleaved:3`, `terapipe:4`."""
    if plan.schedule == "interleaved":
        return f"interleaved:{plan.chunks}"
    return f"{plan.schedule}:{_slices(plan)}" if _slices(plan) > 1 else plan.schedule


def layout(plan: Plan) -> str:
    """A layout in words: degrees, microbatch, schedule, and what saves memory."""
    parts = [f"tensor {plan.tensor} × pipeline {plan.pipeline} × data {plan.data}"]
    parts.append(f"microbatch {plan.micro_batch}")
    if plan.pipeline > 1:
        name = SCHEDULES[plan.schedule]
        if plan.schedule == "interleaved":
            name += f" with {words.plural(plan.chunks, 'chunk')} a rank"
        parts.append(name)
    if _slices(plan) > 1:
        parts.append(f"{_slices(plan)} token slices")
    parts.append(RECOMPUTATION[plan.recomputation])
    parts += ["sequence parallel"] * plan.sequence_parallel
    if plan.sharding in SHARDING:
        parts.append(SHARDING[plan.sharding])
    if plan.gradient_reduction == "overlapped":
        parts.append("reductions overlapped")
    if plan.placement != "tensor-data-pipeline":
        parts.append(f"placed {plan.placement}")
    return ", ".join(parts)


def compact(plan: Plan) -> str:
    """A layout in a few letters: `t8 p4 d32 b2 interleaved:3 selective sp zero1`."""
    parts = [f"t{plan.tensor}", f"p{plan.pipeline}", f"d{plan.data}", f"b{plan.micro_batch}"]
    parts.append(schedule_name(plan))
    if plan.recomputation != "none":
        parts.append(plan.recomputation)
    parts += ["sp"] * plan.sequence_parallel
    parts += {"optimizer": ["zero1"], "full": ["zero3"]}.get(plan.sharding, [])
    parts += ["overlapped"] * (plan.gradient_reduction == "overlapped")
    if plan.placement != "tensor-data-pipeline":
        parts.append(place(plan))
    return " ".join(parts)


def place(plan: Plan) -> str:
    """A placement by its letters: `t-d-p`."""
    return "-".join(axis[0] for axis in plan.placement.split("-"))


COMPACT = (
    "t, p, d: tensor, pipeline, data degree; b: microbatch; sp: sequence parallel; zero1, zero3: "
    "optimizer state or all sharded; overlapped: reductions; t-p-d and so on: placement, innermost "
    "first, where not t-d-p"
)
"""What the letters of `compact` mean."""


def difference(plan: Plan, other: Plan) -> str:
    """What a layout has otherwise than another: `tensor 4, micro_batch 2`."""
    told = []
    for name in LISTED:
        value = getattr(plan, name)
        if value != getattr(other, name):
            told.append(f"{name.replace('_', ' ')} {value_text(value)}")
    return ", ".join(told) or "the same layout"


def value_text(value: object) -> str:
    """A field's value as a plan has it in its file."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


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
    own = f"{layout(best.plan)}: {words.duration(best.iteration_ns)} an iteration (simulated)"
    text = f"{words.subject(scenario)}: {own}{_gained(answer)}"
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
    what = f"the scenario's own layout ({words.duration(baseline.iteration_ns)}"
    if baseline.num_devices != best.num_devices:
        return f", with {devices(answer, baseline.num_devices)} in {what})"
    return f", {answer.gain:.2f} times as fast as {what})"


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
        return f"{number} {device} are the fewest that do it in {limit}."
    what = {"time": "fastest", "cost": "cheapest"}[found.objective]
    within = f" within {limit}" if limit else ""
    tried = " and ".join(words.count(space.num_devices) for space in found.spaces)
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
    which = f" ({compact(least.smallest_plan)})" if least.smallest_plan is not None else ""
    return (
        f"{text}: the one that needs least memory{which} peaks at {words.size(peak)} of "
        f"{words.size(capacity)}, {words.size(peak - capacity)} too much."
    )


def space_line(answer: PlanAnswer, space: Space) -> str:
    """What became of the candidates of one number of devices."""
    return (
        f"{words.count(space.counted)} layouts of {devices(answer, space.num_devices)}: "
        f"{words.count(space.over_memory)} do not fit in memory, {words.count(space.bounded)} "
        f"cannot be better by a proved lower bound, {words.count(space.simulated)} were simulated"
    )


def searched(answer: PlanAnswer) -> str:
    """The size of the space, what became of it, and how long it took."""
    found = answer.found
    total = answer.num_candidates
    took = f"{words.significant(found.seconds, 3)}{words.NBSP}s"
    rate = f", {words.count(total / found.seconds)} layouts a second" if found.seconds > 0 else ""
    lines = "; ".join(space_line(answer, space) for space in found.spaces)
    return f"Searched: {lines} ({took}{rate})."


def sizes(space: Space) -> str:
    """How many values each dimension has: `tensor 4, pipeline 12, ...`."""
    return ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in space.sizes.items())


def why_not(other: Alternative) -> str:
    """One line on another value of one dimension."""
    head = f"{other.field.replace('_', ' ')} {other.value}"
    if other.slower is not None and other.candidate is not None:
        time = words.duration(other.candidate.iteration_ns)
        head += f": {words.percent(other.slower, signed=True)} ({time})"
    elif other.missing_bytes is not None and not other.reason:
        head += f": does not fit, {words.size(other.missing_bytes)} too much"
    return f"{head}: {other.reason}" if other.reason else head


def restrictions(answer: PlanAnswer) -> str:
    """What `--only` left of the space; empty where nothing was restricted."""
    told = [
        f"{name.replace('_', ' ')} {' or '.join(value_text(v) for v in values)}"
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
    if not answer.asked.has_baseline:
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


def _slices(plan: Plan) -> int:
    if isinstance(plan.slices, int):
        return plan.slices
    return len(plan.slices) if isinstance(plan.slices, tuple) else 1
