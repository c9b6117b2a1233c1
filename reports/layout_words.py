"""Words of a layout: a plan as people name it, in full, in a few letters, and field by field."""

from __future__ import annotations

from collections.abc import Collection

from reports import words
from scenarios.schema import Plan
from sim.planner.layouts.found import Alternative

SCHEDULES = {"1f1b": "1F1B", "gpipe": "GPipe", "interleaved": "interleaved 1F1B"}
SCHEDULES |= {"terapipe": "TeraPipe's order", "given": "given order"}
RECOMPUTATION = {
    "none": "no recomputation",
    "selective": "selective recomputation",
    "full": "full recomputation",
}
ZERO = {"optimizer": "zero1", "full": "zero3"}
SHARDING = {"optimizer": "optimizer state sharded", "full": "fully sharded"}
_FIELDS = {"micro_batch": "microbatch", "gradient_reduction": "reductions"}
_FIELDS |= {"p2p": "messages", "gpus": "GPUs"}
LISTED = (
    *("tensor", "pipeline", "data", "micro_batch", "schedule", "chunks", "slices"),
    *("recomputation", "recompute_every", "sequence_parallel", "sharding", "gradient_reduction"),
    *("placement", "p2p"),
)
"""Fields of a plan that make a layout, in the order in which they are told."""
_TOLD = {*LISTED} - {"recompute_every", "p2p"}
"""Fields that a layout's words and letters tell by themselves."""


def schedule_name(plan: Plan) -> str:
    """The schedule as `pipetwin schedule show` takes it: `1f1b`, `interleaved:3`, `terapipe:4`."""
    if plan.schedule == "interleaved":
        return f"interleaved:{plan.chunks}"
    return f"{plan.schedule}:{num_slices(plan)}" if num_slices(plan) > 1 else plan.schedule


def degrees(plan: Plan) -> str:
    """How many devices share what: `tensor 4 × pipeline 8 × data 32`."""
    return f"tensor {plan.tensor} × pipeline {plan.pipeline} × data {plan.data}"


def layout(plan: Plan, only: Collection[str] = ()) -> str:
    """A layout in words: degrees, microbatch, schedule, and what saves memory.

    only: fields that were restricted, of which those are told that no layout's words have.
    """
    parts = [degrees(plan), f"microbatch {plan.micro_batch}"]
    if plan.pipeline > 1:
        name = SCHEDULES[plan.schedule]
        if plan.schedule == "interleaved":
            name += f" with {words.plural(plan.chunks, 'chunk')} a rank"
        parts.append(name)
    if num_slices(plan) > 1:
        parts.append(f"{num_slices(plan)} token slices")
    parts.append(RECOMPUTATION[plan.recomputation])
    parts += ["sequence parallel"] * plan.sequence_parallel
    if plan.sharding in SHARDING:
        parts.append(SHARDING[plan.sharding])
    if plan.gradient_reduction == "overlapped":
        parts.append("reductions overlapped")
    if plan.placement != "tensor-data-pipeline":
        parts.append(f"placed {plan.placement}")
    parts += [f"{field_name(name)} {value_text(getattr(plan, name))}" for name in _more(only)]
    return ", ".join(parts)


def compact(plan: Plan, only: Collection[str] = ()) -> str:
    """A layout in a few letters: `t8 p4 d32 b2 interleaved:3 selective sp zero1`.

    only: fields that were restricted; others than usual are told as `p2p=blocking`.
    """
    parts = [f"t{plan.tensor}", f"p{plan.pipeline}", f"d{plan.data}", f"b{plan.micro_batch}"]
    parts.append(schedule_name(plan))
    if plan.recomputation != "none":
        parts.append(plan.recomputation)
    parts += ["sp"] * plan.sequence_parallel
    parts += [ZERO[plan.sharding]] if plan.sharding in ZERO else []
    parts += ["overlapped"] * (plan.gradient_reduction == "overlapped")
    if plan.placement != "tensor-data-pipeline":
        parts.append(place(plan.placement))
    parts += [f"{name}={value_text(getattr(plan, name))}" for name in _more(only)]
    return " ".join(parts)


def _more(only: Collection[str]) -> list[str]:
    return [name for name in only if name not in _TOLD]


def place(placement: str) -> str:
    """A placement by its letters: `t-d-p`."""
    return "-".join(axis[0] for axis in placement.split("-"))


COMPACT = (
    "t, p, d: tensor, pipeline, data degree; b: microbatch; interleaved:3 has 3 chunks a rank, "
    "1f1b:4 cuts sequences into 4 token slices; sp: sequence parallel; zero1, zero3: "
    "optimizer state or all sharded; overlapped: reductions; t-p-d and so on: placement, innermost "
    "first, where not t-d-p"
)
"""What the letters of `compact` mean."""


def field_name(field: str) -> str:
    """What a field of a plan is called: `microbatch`, `reductions`."""
    return _FIELDS.get(field, field.replace("_", " "))


def instead(other: Alternative) -> str:
    """An alternative's value with its dimension: `tensor 4`, `recomputation full`."""
    return f"{field_name(other.field)} {value_of(other.field, other.value)}"


def difference(plan: Plan, other: Plan, only: Collection[str] = ()) -> str:
    """What a layout has otherwise than another: `tensor 4, microbatch 2`.

    only: fields that were restricted, and may differ, too.
    """
    told = []
    for name in dict.fromkeys((*LISTED, *only)):
        value = getattr(plan, name)
        if value != getattr(other, name):
            told.append(f"{field_name(name)} {value_text(value)}")
    return ", ".join(told) or "the same layout"


def value_text(value: object) -> str:
    """A field's value as a plan has it in its file."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def value_of(field: str, value: str) -> str:
    """A value as a plan has it, in words: slices of `null` are `whole`, `false` is `no`, a
    placement is its letters."""
    if field == "placement":
        return place(value)
    if value == "null":
        return "whole" if field == "slices" else "none"
    return {"true": "yes", "false": "no"}.get(value, value)


def num_slices(plan: Plan) -> int:
    if isinstance(plan.slices, int):
        return plan.slices
    return len(plan.slices) if isinstance(plan.slices, tuple) else 1
