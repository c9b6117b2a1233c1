"""What-if questions about the layout that a prediction is of: all of them, one after another.

What is simulated here is the iteration without draws from a profile's spread, so that what differs
between two answers is the question alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sim.prediction import Prediction, without_collector
from sim.what_if.break_even import break_evens
from sim.what_if.budget import Budget
from sim.what_if.found import WhatIf
from sim.what_if.freeing import freed
from sim.what_if.json import what_if_json as what_if_json
from sim.what_if.neighbours import Own, neighbours
from sim.what_if.otherwise import Otherwise
from sim.what_if.scaling import scaling
from sim.what_if.sensitivity import sensitivities


def what_if(prediction: Prediction, *, progress: Callable[[str], None] | None = None) -> WhatIf:
    """Ask all that can be asked of a predicted iteration.

    Times given outright, and layers that are frozen, are asked only what would be free: the rest
    needs a model and a cluster whose layout is open. How much is simulated is bounded
    (`sim.what_if.budget`), and `left_out` tells what was not.
    progress: called with what is being simulated, in words.
    """
    tell = progress if progress is not None else _silent
    with without_collector():
        memory = prediction.memory
        found = WhatIf(
            iteration_ns=prediction.figures.iteration_ns,
            peak_bytes=max(curve.peak_bytes for curve in memory) if memory else None,
            freed=freed(prediction, tell),
            plan=prediction.scenario.plan,
        )
        reason = _why_not(prediction)
        if reason is not None:
            return replace(found, left_out=(reason,))
        return _of_layouts(prediction, found, tell)


def _of_layouts(prediction: Prediction, found: WhatIf, tell: Callable[[str], None]) -> WhatIf:
    """What else can be asked where the layout is open."""
    from sim.planner.layouts.evaluation import Evaluator  # Here: a compiler comes along.

    scenario, profile, plan = prediction.scenario, prediction.profile, prediction.scenario.plan
    assert scenario.cluster is not None and found.peak_bytes is not None
    own = Own(
        time_ns=found.iteration_ns,
        peak_bytes=found.peak_bytes,
        capacity=scenario.cluster.device.memory,
    )
    budget = Budget(scenario)
    left_out = []
    tried, unasked = neighbours(scenario, own, Evaluator(scenario, profile), budget, tell)
    if unasked:
        left_out.append(f"{unasked} layouts near this one, as the program is large")
    points, unasked = scaling(scenario, profile, budget, tell)
    if unasked:
        left_out.append(f"{unasked} other numbers of devices, as the program is large")
    otherwise = Otherwise(scenario, profile, budget)
    swayed, unasked = sensitivities(own, plan, tried, otherwise, tell)
    if unasked:
        left_out.append(f"{unasked} inputs, as the program is large")
    even = break_evens(own, plan, tried, otherwise, tell)
    if plan.devices is not None:
        left_out.append("other degrees and placements, as the device of every rank is given")
    if plan.microbatch_groups is not None:
        left_out.append("other microbatches and replicas, as the plan has groups of microbatches")
    if plan.schedule == "given":
        left_out.append("other ranks, microbatches and slices in the given order, which is for its")
    return replace(
        found,
        neighbours=tuple(one.neighbour for one in tried),
        scaling=points,
        sensitivities=swayed,
        break_evens=even,
        left_out=tuple(left_out),
    )


def _why_not(prediction: Prediction) -> str | None:
    """Why nothing is asked of other layouts, where nothing is."""
    scenario, everything = prediction.scenario, "other layouts, inputs and numbers of devices"
    if scenario.costs is not None:
        return f"{everything}, as costs are given outright and no other layout would have them"
    if scenario.model is None or scenario.cluster is None:
        return f"{everything}, which need a model and a cluster"
    if scenario.elastic is not None or scenario.plan.frozen_layers or scenario.plan.fills_cache:
        return f"{everything}, as layers freeze, and which ones hangs on the layout"
    return None


def _silent(text: str) -> None:
    """Nobody listens."""
