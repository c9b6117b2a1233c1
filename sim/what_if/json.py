"""What-if answers in their stable machine form: `what_if` in `simulate --json` and in reports."""

from __future__ import annotations

import dataclasses

from scenarios.schema import Plan
from sim.planner.layouts.found import Sensitivity
from sim.what_if.found import BreakEven, Freed, Neighbour, ScalingPoint, WhatIf


def what_if_json(found: WhatIf) -> dict[str, object]:
    """All of it as JSON values: seconds, bytes, bytes/s, fractions; unknown ones null.

    iteration_s, peak_memory_bytes: of the layout itself.
    freed: [{what, name, share, iteration_s, gain}]: the iteration without each.
    neighbours: [{field, value, also, plan, iteration_s, peak_memory_bytes, fits, slower,
    expected_days, expected_dollars, on_front}]: one decision otherwise; `plan` has the fields that
    differ from the given one's alone. Days and dollars are those of the run with its failures and
    checkpoints, where the scenario has them, without stragglers and jitter.
    sensitivities: [{input, field, low, high, low_s, high_s, overtaken_low, overtaken_high}]: low
    and high are factors; who overtakes is a plan's fields that differ, or null.
    break_evens: [{input, field, unit, now, at, below, iteration_s, neighbour: {field, value,
    also}}]: now and at in the unit: `bytes/s`, `s`, `bytes` or `fraction`.
    scaling: [{kind, num_devices, data, global_batch, iteration_s, tokens_per_s,
    model_tflops_per_gpu, efficiency, peak_memory_bytes, fits, expected_days,
    expected_dollars, is_own}].
    left_out: what was not asked and why, in words.
    """
    own = found.plan
    return {
        "iteration_s": found.iteration_ns / 1e9,
        "peak_memory_bytes": found.peak_bytes,
        "freed": [_freed(one) for one in found.freed],
        "neighbours": [_neighbour(one, own) for one in found.neighbours],
        "sensitivities": [_sensitivity(one, own) for one in found.sensitivities],
        "break_evens": [_break_even(one) for one in found.break_evens],
        "scaling": [_scaling(one) for one in found.scaling],
        "left_out": list(found.left_out),
    }


def _freed(one: Freed) -> dict[str, object]:
    return {
        "what": one.what,
        "name": one.words,
        "share": one.share,
        "iteration_s": one.iteration_ns / 1e9,
        "gain": one.gain,
    }


def _neighbour(one: Neighbour, own: Plan | None) -> dict[str, object]:
    return {
        "field": one.field,
        "value": one.value,
        "also": one.also or None,
        "plan": plan_changes(one.plan, own),
        "iteration_s": _seconds(one.iteration_ns),
        "peak_memory_bytes": one.peak_bytes,
        "fits": one.fits,
        "slower": one.slower,
        "expected_days": one.days,
        "expected_dollars": one.dollars,
        "on_front": one.on_front,
    }


def _sensitivity(one: Sensitivity, own: Plan | None) -> dict[str, object]:
    return {
        "input": one.input,
        "field": one.field,
        "low": one.low,
        "high": one.high,
        "low_s": one.low_ns / 1e9,
        "high_s": one.high_ns / 1e9,
        "overtaken_low": plan_changes(one.overtaken_low, own),
        "overtaken_high": plan_changes(one.overtaken_high, own),
    }


def _break_even(one: BreakEven) -> dict[str, object]:
    neighbour = one.neighbour
    return {
        "input": one.input,
        "field": one.field,
        "unit": one.unit,
        "now": one.now,
        "at": one.at,
        "below": one.below,
        "iteration_s": _seconds(one.iteration_ns),
        "neighbour": {
            "field": neighbour.field,
            "value": neighbour.value,
            "also": neighbour.also or None,
        },
    }


def _scaling(one: ScalingPoint) -> dict[str, object]:
    return {
        "kind": one.kind,
        "num_devices": one.num_devices,
        "data": one.data,
        "global_batch": one.global_batch,
        "iteration_s": one.iteration_ns / 1e9,
        "tokens_per_s": one.tokens_per_s,
        "model_tflops_per_gpu": one.tflops_per_gpu,
        "efficiency": one.efficiency,
        "peak_memory_bytes": one.peak_bytes,
        "fits": one.fits,
        "expected_days": one.days,
        "expected_dollars": one.dollars,
        "is_own": one.is_own,
    }


def plan_changes(plan: Plan | None, own: Plan | None) -> dict[str, object] | None:
    """The fields of a plan that differ from another one's, as in a scenario file; None for none."""
    if plan is None:
        return None
    names = [field.name for field in dataclasses.fields(plan)]
    return {
        name: _plain(getattr(plan, name))
        for name in names
        if own is None or getattr(plan, name) != getattr(own, name)
    }


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


def _seconds(time_ns: int | None) -> float | None:
    return time_ns / 1e9 if time_ns is not None else None
