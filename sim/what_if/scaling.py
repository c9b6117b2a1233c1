"""Scaling: the given layout on more and fewer devices, by its data-parallel replicas alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

from scenarios import rules
from scenarios.resizing import NotWholeNodes, resized
from scenarios.schema import Scenario
from sim.cost.profile import Profile
from sim.planner.goodput.run import dollars, expected_days
from sim.planner.layouts.desk import MakeEvaluator
from sim.planner.layouts.evaluation import Evaluator
from sim.what_if.budget import Budget
from sim.what_if.found import ScalingPoint
from sim.workload.flops import model_flops

TIMES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Replicas that are tried, as multiples of the given ones."""
Scaling = Literal["strong", "weak"]


def scaling(
    scenario: Scenario,
    profile: Profile | None,
    budget: Budget,
    progress: Callable[[str], None] = lambda text: None,
    make: MakeEvaluator = Evaluator,
) -> tuple[tuple[ScalingPoint, ...], int]:
    """The layout with other numbers of replicas, by kind and then devices; and of how many there
    was no budget to ask.

    The cluster has as many of its nodes as hold the devices, or a part of one. `strong`: the batch
    stays and each replica's microbatches follow; `weak`: each replica's stay and the batch follows.
    Numbers that leave a node partly used, or a batch that does not divide, are no points.
    """
    found: list[ScalingPoint] = []
    unasked = 0
    kinds: tuple[Scaling, ...] = ("strong", "weak")
    for kind in kinds:
        points = list(_scenarios(scenario, kind))
        own: list[ScalingPoint] = []
        for number, one in enumerate(points):
            if not budget.take(one.plan):
                unasked += 1
                continue
            devices = one.plan.num_devices
            progress(f"{kind} scaling: {devices} devices ({number + 1} of {len(points)})")
            own.append(_point(one, profile, kind, scenario, make))
        base = own[0].tokens_per_s / own[0].num_devices if own else 1.0
        found += [replace(p, efficiency=p.tokens_per_s / p.num_devices / base) for p in own]
    return tuple(found), unasked


def _scenarios(scenario: Scenario, kind: Scaling) -> Iterator[Scenario]:
    """The scenario on other numbers of devices, ascending."""
    plan, cluster = scenario.plan, scenario.cluster
    assert cluster is not None
    if plan.microbatch_groups is not None and kind == "strong":
        yield scenario  # Groups are of one number of sequences.
        return
    for times in TIMES:
        data = plan.data * times
        if data != int(data) or (plan.devices is not None and times != 1):
            continue
        data = int(data)
        batch, each = plan.num_sequences, plan.micro_batch * data
        if kind == "strong" and batch % each:
            continue
        microbatches = plan.microbatches
        if kind == "strong" and (plan.global_batch is None or microbatches is not None):
            microbatches = batch // each
        total = plan.global_batch
        if kind == "weak" and total is not None:
            total = total // plan.data * data
        own = replace(plan, data=data, microbatches=microbatches, global_batch=total)
        if plan.schedule == "given" and own.num_microbatches != plan.num_microbatches:
            continue
        try:
            where = cluster if data == plan.data else resized(cluster, own.num_devices)
        except NotWholeNodes:
            continue
        one = replace(scenario, plan=own, cluster=where)
        if not rules.check(one):
            yield one


def _point(
    scenario: Scenario,
    profile: Profile | None,
    kind: Scaling,
    given: Scenario,
    make: MakeEvaluator,
) -> ScalingPoint:
    """A point whose efficiency is still to be found."""
    plan, model, cluster = scenario.plan, scenario.model, scenario.cluster
    assert model is not None and cluster is not None
    evaluator = make(scenario, profile)
    time_ns, peak = evaluator.iteration_ns(plan), evaluator.peak_bytes(plan)
    fits = peak <= cluster.device.memory
    days = expected_days(time_ns, plan, scenario) if fits else None
    seconds = time_ns / 1e9
    return ScalingPoint(
        kind=kind,
        num_devices=plan.num_devices,
        data=plan.data,
        global_batch=plan.num_sequences,
        iteration_ns=time_ns,
        tokens_per_s=plan.num_sequences * model.sequence / seconds,
        tflops_per_gpu=model_flops(model, plan.num_sequences) / (seconds * plan.num_devices * 1e12),
        efficiency=1.0,
        peak_bytes=peak,
        fits=fits,
        days=days,
        dollars=dollars(days, plan, scenario),
        is_own=plan.data == given.plan.data,
    )
