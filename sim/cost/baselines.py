"""The trivial baselines that predictions have to beat."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from scenarios.schema import Scenario
from sim.cost.runs import Run
from sim.workload.flops import hardware_flops


def constant_rate(train: Sequence[Run], test: Sequence[Run]) -> tuple[float, ...]:
    """Baseline: the training runs' median FLOP/s per device, equation 3's FLOPs."""
    return _scaled(train, test, _flops_per_device)


def constant_rate_with_bubble(train: Sequence[Run], test: Sequence[Run]) -> tuple[float, ...]:
    """Baseline: a constant FLOP/s per device times 1 + (p - 1)/m (arXiv 2104.04473, 2.2.1)."""

    def work(scenario: Scenario) -> float:
        plan = scenario.plan
        return _flops_per_device(scenario) * (1 + (plan.pipeline - 1) / plan.num_microbatches)

    return _scaled(train, test, work)


def _scaled(
    train: Sequence[Run], test: Sequence[Run], work: Callable[[Scenario], float]
) -> tuple[float, ...]:
    factor = statistics.median(run.measured_ns / work(run.scenario) for run in train)
    return tuple(factor * work(run.scenario) for run in test)


def _flops_per_device(scenario: Scenario) -> float:
    model, plan = scenario.model, scenario.plan
    assert model is not None
    return hardware_flops(model, plan.num_sequences, plan.recomputation) / plan.num_devices
