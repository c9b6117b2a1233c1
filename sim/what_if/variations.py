"""Plans that differ from a given one in one decision, as far as the rules of scenarios allow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple, get_args, get_type_hints

from scenarios import rules
from scenarios.schema import Plan, Scenario
from sim.planner.layouts.placements import distinct_placements
from sim.planner.layouts.plans import scenario_with
from sim.planner.layouts.space import divisors

MOST_CHUNKS = 3
"""Numbers of chunks that are tried where the given plan has one."""
MOST_PLACEMENTS = 3
_HINTS = get_type_hints(Plan)
_SLICES = (2, 4)


class Variation(NamedTuple):
    """A plan with another value of a field; `also`: of another one that had to follow."""

    field: str
    value: str
    plan: Plan
    also: str = ""


def variations(scenario: Scenario) -> tuple[Variation, ...]:
    """The allowed ones, each plan once. The sequences of an iteration stay as many.

    micro_batch: twice and half; the degrees tensor, pipeline, data: twice and half of two of them;
    schedule, with the smallest numbers of chunks, or the next ones of those that it has; slices: 2
    and 4, or twice and half; all other values of recomputation, sequence_parallel, sharding,
    gradient_reduction, p2p and scatter_gather where they mean anything; placements that put ranks
    on other nodes or NICs; even layers where they are given.
    """
    seen = {scenario.plan}
    found = []
    for field, value, changes, also in _changes(scenario):
        plan = _changed(scenario.plan, changes)
        if plan is None or plan in seen or rules.check(scenario_with(scenario, plan)):
            continue
        seen.add(plan)
        found.append(Variation(field, value, plan, also))
    return tuple(found)


class _Change(NamedTuple):
    field: str
    value: str
    changes: dict[str, Any]
    also: str = ""


def _changes(scenario: Scenario) -> Iterator[_Change]:
    yield from _sizes(scenario.plan)
    yield from _degrees(scenario.plan)
    yield from _orders(scenario)
    yield from _slices(scenario.plan)
    yield from _values(scenario.plan)
    yield from _places(scenario)


def _sizes(plan: Plan) -> Iterator[_Change]:
    for size in (2 * plan.micro_batch, *_half(plan.micro_batch)):
        yield _Change("micro_batch", str(size), {"micro_batch": size})


def _degrees(plan: Plan) -> Iterator[_Change]:
    """Twice one degree for half another one; ranks whose devices are given stay where they are."""
    if plan.devices is not None:
        return
    for up, down in (
        *(("tensor", "data"), ("data", "tensor"), ("pipeline", "data"), ("data", "pipeline")),
        *(("tensor", "pipeline"), ("pipeline", "tensor")),
    ):
        for less in _half(getattr(plan, down)):
            more = 2 * getattr(plan, up)
            changes: dict[str, Any] = {up: more, down: less}
            # Of the two, data is what follows.
            field, other = (down, up) if up == "data" else (up, down)
            also = f"{other} {changes[other]}"
            if changes.get("pipeline") == 1 and plan.schedule == "interleaved":
                changes |= {"schedule": "1f1b", "chunks": 1}
            yield _Change(field, str(changes[field]), changes, also)


def _orders(scenario: Scenario) -> Iterator[_Change]:
    plan, model = scenario.plan, scenario.model
    if plan.pipeline == 1:
        return
    plain = {"chunks": 1, "schedule_file": None, "schedule_order": None}
    if plan.num_microbatches > 1 or plan.chunks > 1:
        for order in ("1f1b", "gpipe"):
            if order != plan.schedule:
                yield _Change("schedule", order, {"schedule": order, **plain})
    if model is None or model.layers % plan.pipeline:
        return
    chunks = [c for c in divisors(model.layers // plan.pipeline) if c > 1]
    if plan.schedule == "interleaved" and plan.chunks > 1:
        fewer = [c for c in chunks if c < plan.chunks][-1:]
        for count in fewer + [c for c in chunks if c > plan.chunks][:1]:
            yield _Change("chunks", str(count), {"chunks": count})
    elif plan.schedule != "given":
        for count in chunks[:MOST_CHUNKS]:
            changes = {"schedule": "interleaved", "chunks": count}
            yield _Change("schedule", "interleaved", changes, f"chunks {count}")


def _slices(plan: Plan) -> Iterator[_Change]:
    own = plan.slices
    counts: tuple[int | None, ...] = _SLICES
    if isinstance(own, int):
        counts = (*_half(own), 2 * own)
    elif own is not None:
        counts = (len(own),)
    for count in (*counts, None) if own is not None else counts:
        if count != 1:
            yield _Change("slices", "none" if count is None else str(count), {"slices": count})


def _values(plan: Plan) -> Iterator[_Change]:
    for value in get_args(_HINTS["recomputation"]):
        follows: dict[str, Any] = {} if value == "full" else {"recompute_every": 1}
        yield _Change("recomputation", value, {"recomputation": value, **follows})
    names = []
    if plan.data > 1:
        names += ["sharding"]
        names += ["gradient_reduction"] * (plan.sharding != "full")
    names += ["p2p"] * (plan.pipeline > 1)
    for name in names:
        for value in get_args(_HINTS[name]):
            yield _Change(name, value, {name: value})
    if plan.tensor > 1:
        switch = not plan.sequence_parallel
        yield _Change("sequence_parallel", _written(switch), {"sequence_parallel": switch})
    if plan.tensor > 1 and plan.pipeline > 1 and not plan.sequence_parallel:
        switch = not plan.scatter_gather
        yield _Change("scatter_gather", _written(switch), {"scatter_gather": switch})
    if plan.layers_per_stage is not None:
        yield _Change("layers_per_stage", "even", {"layers_per_stage": None})


def _places(scenario: Scenario) -> Iterator[_Change]:
    plan, cluster = scenario.plan, scenario.cluster
    if plan.devices is not None or cluster is None:
        return
    names = dict.fromkeys((plan.placement, *get_args(_HINTS["placement"])))
    degrees = (plan.pipeline, plan.data, plan.tensor)
    for name in distinct_placements(cluster, degrees, names)[1 : MOST_PLACEMENTS + 1]:
        yield _Change("placement", name, {"placement": name})


def _changed(plan: Plan, changes: dict[str, Any]) -> Plan | None:
    """The plan with other values and as many sequences, told in the way in which it tells them;
    None where they do not divide."""
    if {"micro_batch", "data"} & changes.keys():
        if plan.microbatch_groups is not None:
            return None
        if plan.global_batch is None or plan.microbatches is not None:
            each = changes.get("micro_batch", plan.micro_batch) * changes.get("data", plan.data)
            count, rest = divmod(plan.num_sequences, each)
            if rest or not count:
                return None
            changes = {**changes, "microbatches": count}
    found = replace(plan, **changes)
    if plan.schedule == found.schedule == "given":
        # An order is for one number of ranks, microbatches and slices.
        sizes = [(p.pipeline, p.num_microbatches, p.slices) for p in (plan, found)]
        if sizes[0] != sizes[1]:
            return None
    return found


def _half(number: int) -> tuple[int, ...]:
    return (number // 2,) if number % 2 == 0 else ()


def _written(switch: bool) -> str:
    return "true" if switch else "false"
