"""The words for what a layout loses to another: the category of time that grew most, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scenarios.schema import Plan, Scenario
from sim.cost.collectives import data_group, tensor_group
from sim.planner.layouts.found import Candidate

_GIB = 1 << 30
_LEAST = 0.0005
"""Below which layouts count as equally fast."""
_NAMES: Mapping[str, str] = {
    "bubble": "bubble",
    "tensor_parallel": "tensor-parallel collectives",
    "recomputation": "recomputation",
    "matmul": "matrix products",
    "attention": "attention",
    "memory_bound": "norms and other passes through memory",
    "launch": "launching kernels",
    "host": "the host",
    "data_parallel": "reducing gradients",
    "weight_gather": "gathering weights",
    "point_to_point": "waiting for messages",
    "messages": "handling messages",
    "optimizer": "the optimizer step",
    "tied_embedding": "the tied embedding's reduction",
    "gradient_norm": "the gradient norm",
    "data_loading": "loading data",
    "measured": "measured passes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The winner: its candidate, a scenario with its model and cluster, its shares of time."""

    candidate: Candidate
    scenario: Scenario
    shares: Mapping[str, float]


def does_not_fit(peak_bytes: int, capacity: int, rank: int | None) -> str:
    """What is missing where no layout with a value fits, by the one that needs least."""
    where = "" if rank is None else f" on rank {rank}"
    return f"does not fit: {peak_bytes / _GIB:.1f} of {capacity / _GIB:.1f} GiB{where}"


def why_slower(
    field: str, winner: Seen, other: Candidate, shares: Mapping[str, float] | None
) -> str:
    """Why a layout that has another value of a field is no better than the winner.

    shares: of its rank-time by category; None where they are not known, and what the layout is must
    say it.
    """
    best, scenario = winner.candidate, winner.scenario
    slower = other.iteration_ns / best.iteration_ns - 1
    if slower < _LEAST and other.num_devices == best.num_devices:
        return _as_fast(other, best)
    if field == "gpus":
        return _other_number(best, other)
    if shares is None:
        return _by_field(field, best.plan, other.plan, scenario)
    grown = {
        name: shares.get(name, 0.0) * other.iteration_ns
        - winner.shares.get(name, 0.0) * best.iteration_ns
        for name in {*shares, *winner.shares}
    }
    most = max(sorted(grown), key=lambda name: grown[name])
    before, after = winner.shares.get(most, 0.0), shares.get(most, 0.0)
    figures = f"{_NAMES.get(most, most)} {_percent(before)} -> {_percent(after)}"
    why = _because(most, best.plan, other.plan, scenario)
    return f"{figures}: {why}" if why else figures


def _as_fast(other: Candidate, best: Candidate) -> str:
    more = other.peak_bytes - best.peak_bytes
    if more > 0:
        return f"as fast, but needs {more / _GIB:.1f} GiB more"
    if more < 0:
        return f"as fast, and needs {-more / _GIB:.1f} GiB less"
    return "as fast, and needs as much memory; the plainer one is chosen"


def _other_number(best: Candidate, other: Candidate) -> str:
    devices = other.num_devices / best.num_devices
    speed = best.iteration_ns / other.iteration_ns
    spent = devices / speed
    what = f"{speed:.2f}x as fast on {devices:.2f}x as many GPUs"
    return f"{what}: {spent:.2f}x the GPU-hours"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def _because(category: str, best: Plan, plan: Plan, scenario: Scenario) -> str:
    """The physics of a category of which a plan has more than the best; empty where there is
    nothing to add."""
    cluster = scenario.cluster
    assert cluster is not None
    if category == "bubble":
        return _in_flight(plan)
    if category == "tensor_parallel":
        nodes = tensor_group(cluster, plan).nodes
        if nodes > 1:
            return f"all-reduce of tensor {plan.tensor} leaves the node, over {nodes} nodes"
        return f"{plan.tensor} devices share each layer"
    if category == "recomputation":
        return {"full": "recomputes whole layers", "selective": "recomputes attention's core"}.get(
            plan.recomputation, ""
        )
    if category == "attention" and _slices(plan) < _slices(best):
        fewer = "whole sequences" if _slices(plan) == 1 else "fewer slices"
        return f"{fewer} compute more of the scores that the causal mask hides"
    if category in ("matmul", "attention"):
        tokens = _tokens(plan, scenario)
        if tokens < _tokens(best, scenario) or plan.tensor > best.tensor:
            return f"{tokens} tokens a pass, 1/{plan.tensor} of the width: smaller products"
        return ""
    if category == "memory_bound":
        whole, was_whole = (p.tensor if not p.sequence_parallel else 1 for p in (plan, best))
        if whole > was_whole:
            return f"norms and dropouts run whole on each of {plan.tensor} devices"
        if _tokens(plan, scenario) < _tokens(best, scenario):
            pieces = plan.num_microbatches * _slices(plan)
            return f"all weights' gradients are added to {pieces} times, once a microbatch or slice"
        return ""
    if category in ("launch", "host"):
        return "more and smaller pieces of work"
    if category in ("data_parallel", "weight_gather"):
        nodes = data_group(cluster, plan).nodes
        over = f"{plan.data} replicas" + (f" on {nodes} nodes" if nodes > 1 else "")
        when = "after the passes" if plan.gradient_reduction == "after" else "beside the passes"
        if category == "weight_gather":
            return f"weights gathered over {over}"
        return f"gradients summed over {over} {when}"
    if category in ("point_to_point", "messages"):
        held = f", {plan.chunks} stages a rank" if plan.chunks > 1 else ""
        cut = _slices(plan)
        cut_text = f", {cut} slices a microbatch" if cut > 1 else ""
        return f"{plan.num_microbatches} microbatches through {plan.pipeline} ranks{held}{cut_text}"
    if category == "optimizer":
        return "every replica updates all weights" if plan.sharding == "none" else ""
    return ""


def _slices(plan: Plan) -> int:
    return plan.groups[0].num_slices


def _tokens(plan: Plan, scenario: Scenario) -> int:
    """What one pass works on."""
    assert scenario.model is not None
    return plan.micro_batch * scenario.model.sequence // _slices(plan)


def _in_flight(plan: Plan) -> str:
    slices = _slices(plan)
    number = plan.num_microbatches
    text = f"{number} microbatch" + ("es" if number > 1 else "")
    if slices > 1:
        text += f" of {slices} slices"
    text += f" a pipeline for {plan.pipeline} ranks"
    return text + (f" of {plan.chunks} stages" if plan.chunks > 1 else "")


def _by_field(field: str, best: Plan, other: Plan, scenario: Scenario) -> str:
    """What a layout is, where its time is not told apart."""
    category = {
        "tensor": "tensor_parallel",
        "sequence_parallel": "memory_bound",
        "recomputation": "recomputation",
        "sharding": "optimizer",
        "gradient_reduction": "data_parallel",
    }.get(field, "bubble")
    cluster = scenario.cluster
    assert cluster is not None
    if field == "placement" and tensor_group(cluster, other).nodes > 1:
        category = "tensor_parallel"
    why = _because(category, best, other, scenario)
    return why or f"{field} {getattr(other, field)} instead of {getattr(best, field)}"
