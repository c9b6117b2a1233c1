"""Run an elastic scenario for real: what the command line asks for."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import replace

from executor.commands import require_supported
from executor.elastic import cache, checkpoint
from executor.elastic.datasets import check_samples, load_dataset
from executor.elastic.errors import ElasticError
from executor.elastic.order import ElasticOrder
from executor.launching import device_kind, run_ranks
from scenarios.schema import Scenario
from sim.elastic.freezing import frozen_by_epoch
from sim.elastic.phases import Layout, elastic_of, phase_scenario, phases
from sim.elastic_measurement import ElasticMeasurement

__all__ = ["ElasticError", "ElasticOrder", "run_training"]

Progress = Callable[[str], None]


def run_training(
    order: ElasticOrder,
    progress: Progress | None = None,
    *,
    target: str = "executor.elastic.trainer:train",
) -> ElasticMeasurement | None:
    """Train on as many ranks as the scenario's plan has devices; None on torchrun's other ranks.

    target: what each rank runs (tests run others).
    Interrupted once, it ends after the epoch under way, with a checkpoint where those are written.
    Raises ElasticError or UnsupportedPlan where the order cannot be carried out, LaunchError where
    the ranks cannot be had, RankFailure where one of them fails.
    """
    require_runnable(order)
    scenario = order.scenario
    num_ranks = scenario.plan.num_devices
    name = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
    try:
        found = run_ranks(
            num_ranks,
            target,
            (order, name),
            wait_s=2 * scenario.execution.deadline / 1e9 + 60,
            device=device_kind(
                num_ranks, scenario.cluster.device.kind if scenario.cluster is not None else "cpu"
            ),
            finish_on_interrupt=True,
            progress=progress,
        )
    finally:
        cache.remove(name)
    if found is None:
        return None
    result: ElasticMeasurement = found.results[0]
    if not result.epochs:
        raise KeyboardInterrupt
    return replace(result, environment={**found.environment, **result.environment})


def require_runnable(order: ElasticOrder) -> None:
    """Raise ElasticError or UnsupportedPlan where an order cannot be carried out."""
    scenario, plan = order.scenario, order.scenario.plan
    elastic_of(scenario)
    needed = max(frozen_by_epoch(scenario)) + 1
    if len(order.layouts) < needed:
        raise ElasticError(
            f"{len(order.layouts)} layouts for a run that freezes up to {needed - 1} layers: give "
            f"one for each number of frozen layers, {needed}"
        )
    if plan.tensor > 1 or plan.sharding != "none" or plan.chunks > 1:
        raise ElasticError(
            "an elastic run is executed with `tensor: 1`, `sharding: none` and `chunks: 1`, so "
            "that each rank holds whole layers and their whole state"
        )
    if plan.placement != "pipeline-data-tensor" or plan.devices is not None:
        raise ElasticError(
            f"plan.placement is {plan.placement}{' with plan.devices' if plan.devices else ''}: an "
            "elastic run puts its pipelines one after another, `placement: pipeline-data-tensor`"
        )
    if scenario.execution.transport == "none":
        raise ElasticError(
            "execution.transport is none, with which nothing is learned: `auto` would work"
        )
    reached = _reached(scenario, order.layouts)
    for layout in reached:
        if layout.rank_of(layout.pipeline - 1, layout.data - 1) >= plan.num_devices:
            raise ElasticError(
                f"the layout for {layout.frozen_layers} frozen layers needs {layout.num_ranks} "
                f"ranks, and the plan has {plan.num_devices}"
            )
    check_samples(scenario, [layout.global_batch for layout in reached])
    known = frozen_by_epoch(scenario)
    for phase in phases(scenario, known, order.layouts, order.caches_from):
        require_supported(phase_scenario(scenario, phase))
    load_dataset(scenario)
    if order.checkpoints is None:
        if order.resume:
            raise ElasticError("resuming needs the directory of the run's checkpoints")
    elif order.resume:
        checkpoint.last_manifest(order.checkpoints, order.identity)
    else:
        checkpoint.require_unused(order.checkpoints)


def _reached(scenario: Scenario, layouts: tuple[Layout, ...]) -> list[Layout]:
    """The layouts that a run may come through."""
    known = frozen_by_epoch(scenario)
    if elastic_of(scenario).freeze == "adaptive":
        return list(layouts[: max(known) + 1])
    return [layouts[frozen] for frozen in sorted(set(known))]
