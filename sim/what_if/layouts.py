"""What is asked of a layout that could be another one: neighbours, scaling, inputs, break-evens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sim.planner.layouts.evaluation import Evaluator
from sim.prediction import Prediction
from sim.what_if.break_even import break_evens
from sim.what_if.budget import Budget
from sim.what_if.found import WhatIf
from sim.what_if.neighbours import Own, neighbours
from sim.what_if.otherwise import Otherwise
from sim.what_if.scaling import scaling
from sim.what_if.sensitivity import sensitivities


def of_layouts(prediction: Prediction, found: WhatIf, tell: Callable[[str], None]) -> WhatIf:
    """What was found, with what else can be asked where the layout is open."""
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
