"""Answers of a layout search made by hand: a few layouts, each predicted, put in the form that a
search gives them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from reports.plan_answer import PlanAnswer, details_of
from scenarios.resizing import resized
from scenarios.rules import check
from scenarios.schema import Plan, Scenario
from scenarios.unplanned import Unplanned, unplanned
from sim.planner.layouts.found import Alternative, Candidate, PlanSearch, Sensitivity, Space
from sim.prediction import predict, rates

LAYOUTS = tuple(
    {
        "tensor": tensor,
        "pipeline": pipeline,
        "micro_batch": micro_batch,
        "recomputation": recomputation,
        "schedule": "1f1b",
        "sequence_parallel": tensor > 1,
        "gradient_reduction": "overlapped",
    }
    for tensor, pipeline, micro_batch, recomputation in itertools.product(
        (2, 4, 8), (1, 2), (1, 2), ("selective", "full")
    )
)


def question(gpus: Sequence[int] = (16,), name: str = "") -> Unplanned:
    """GPT-3 6.7B on a few A100, in a plan of its own; called as said, as is its model."""
    asked = unplanned(
        "gpt3-6.7b",
        ["training.tokens=300e9", "plan.pipeline=2", "plan.tensor=8", "plan.data=1"],
        gpus=gpus,
        batch=64,
    )
    asked = replace(asked, has_baseline=True, is_borrowed=False)
    if not name:
        return asked
    scenario = asked.loaded.scenario
    assert scenario.model is not None
    hostile = replace(
        scenario, name=name, description=name, model=replace(scenario.model, name=name)
    )
    return replace(asked, loaded=replace(asked.loaded, scenario=hostile))


def candidate(scenario: Scenario, plan: Plan) -> Candidate:
    """A layout predicted on as many devices as it has."""
    assert scenario.cluster is not None
    cluster = resized(scenario.cluster, plan.num_devices)
    found = predict(replace(scenario, plan=plan, cluster=cluster))
    assert found.memory is not None
    own = rates(found.scenario, found.figures.iteration_ns / 1e9)
    return Candidate(
        plan=plan,
        iteration_ns=found.figures.iteration_ns,
        bound_ns=int(0.9 * found.figures.iteration_ns),
        peak_bytes=max(curve.peak_bytes for curve in found.memory),
        num_devices=plan.num_devices,
        tflops_per_gpu=own["model_tflops_per_gpu"] or 0.0,
        days=own["training_days"],
        dollars=own["training_cost_dollars"],
    )


def searched(asked: Unplanned, layouts: Sequence[dict[str, object]] = LAYOUTS) -> PlanSearch:
    """What a search over these layouts finds, with reasons and effects made up."""
    scenario = asked.loaded.scenario
    assert scenario.cluster is not None
    found = []
    for number in asked.gpus:
        cluster = resized(scenario.cluster, number)
        for changes in layouts:
            degrees = int(str(changes["tensor"])) * int(str(changes["pipeline"]))
            if number < degrees:
                continue
            plan = replace(scenario.plan, **changes, data=number // degrees)  # type: ignore[arg-type]
            if not check(replace(scenario, plan=plan, cluster=cluster)):
                found.append(candidate(scenario, plan))
    capacity = scenario.cluster.device.memory
    fitting = sorted((c for c in found if c.peak_bytes <= capacity), key=lambda c: c.iteration_ns)
    front = [
        c
        for c in fitting
        if not any(
            (d.iteration_ns, d.peak_bytes, d.dollars) != (c.iteration_ns, c.peak_bytes, c.dollars)
            and d.iteration_ns <= c.iteration_ns
            and d.peak_bytes <= c.peak_bytes
            and (d.dollars or 0) <= (c.dollars or 0)
            for d in fitting
        )
    ]
    best = fitting[0]
    return PlanSearch(
        scenario=scenario,
        objective="time",
        deadline_days=None,
        ranked=tuple(fitting[:6]),
        front=tuple(front),
        baseline=candidate(scenario, scenario.plan) if asked.has_baseline else None,
        alternatives=tuple(_alternatives(best, fitting)),
        sensitivities=tuple(_sensitivities(best, fitting[1].plan)),
        spaces=tuple(
            Space(
                num_devices=number,
                counted=20_000,
                over_memory=9_000,
                bounded=10_500,
                simulated=500,
                refused=123,
                sizes={"tensor": 3, "pipeline": 2, "micro_batch": 2, "recomputation": 2},
            )
            for number in asked.gpus
        ),
        shares={"matmul": 0.5, "bubble": 0.05},
        seconds=12.3,
    )


def nothing(asked: Unplanned) -> PlanSearch:
    """What a search finds where no layout fits."""
    some = searched(asked, LAYOUTS[:1] * 2)
    space = replace(
        some.spaces[0],
        counted=20_000,
        over_memory=20_000,
        bounded=0,
        simulated=0,
        smallest_peak_bytes=500 << 30,
        smallest_plan=some.best.plan,
    )
    return replace(
        some,
        ranked=(),
        front=(),
        baseline=None,
        alternatives=(),
        sensitivities=(),
        spaces=(space,),
        shares={},
    )


def answer(gpus: Sequence[int] = (16,), name: str = "", near: int = 2) -> PlanAnswer:
    """The whole answer, with predictions of the best, the own and near layouts."""
    asked = question(gpus, name)
    found = searched(asked)
    return PlanAnswer(asked=asked, only={}, found=found, details=details_of(found, None, near=near))


def _alternatives(best: Candidate, fitting: Sequence[Candidate]) -> list[Alternative]:
    told = []
    for field in ("tensor", "pipeline", "micro_batch", "recomputation"):
        chosen = getattr(best.plan, field)
        for value in sorted({getattr(c.plan, field) for c in fitting} - {chosen}):
            own = next(c for c in fitting if getattr(c.plan, field) == value)
            told.append(
                Alternative(
                    field=field,
                    value=str(value),
                    chosen=str(chosen),
                    candidate=own,
                    slower=own.iteration_ns / best.iteration_ns - 1,
                    missing_bytes=None,
                    reason=f"the all-reduces of {field} {value} take longer",
                )
            )
    told.append(
        Alternative(
            field="recomputation",
            value="none",
            chosen=best.plan.recomputation,
            candidate=None,
            slower=None,
            missing_bytes=15 << 30,
            reason="does not fit: 95.0 of 80.0 GiB on rank 0",
        )
    )
    return told


def _sensitivities(best: Candidate, second: Plan) -> list[Sensitivity]:
    effects = (
        ("matrix products' efficiency", "cluster.device.efficiency.matmul_max", 1.17, 0.88),
        ("inter-node bandwidth", "cluster.inter_node.bandwidth", 1.03, 0.985),
        ("intra-node bandwidth", "cluster.intra_node.bandwidth", 1.08, 0.95),
        ("device memory", "cluster.device.memory", 1.0, 1.0),
    )
    return [
        Sensitivity(
            input=name,
            field=field,
            low=0.8,
            high=1.2,
            low_ns=round(best.iteration_ns * low),
            high_ns=round(best.iteration_ns * high),
            overtaken_low=second if name.startswith("intra") else None,
            overtaken_high=None,
        )
        for name, field, low, high in effects
    ]
