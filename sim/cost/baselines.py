"""The trivial baselines that predictions have to beat."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from scenarios.schema import Scenario
from sim.cost.runs import Run
from sim.workload.flops import hardware_flops

Baseline: TypeAlias = Callable[[Sequence[Run], Sequence[Run]], tuple[float, ...]]
"""From runs to learn from and runs to predict: the iteration times (ns) of the latter."""


def constant_rate(train: Sequence[Run], test: Sequence[Run]) -> tuple[float, ...]:
    """Baseline: the training runs' median FLOP/s per device, equation 3's FLOPs."""
    return _scaled(train, test, _flops_per_device)


def constant_rate_with_bubble(train: Sequence[Run], test: Sequence[Run]) -> tuple[float, ...]:
    """Baseline: a constant FLOP/s per device times 1 + (p - 1)/(v m) (arXiv 2104.04473, 2.2)."""

    def work(scenario: Scenario) -> float:
        plan = scenario.plan
        bubble = (plan.pipeline - 1) / (plan.chunks * plan.num_microbatches)
        return _flops_per_device(scenario) * (1 + bubble)

    return _scaled(train, test, work)


BASELINES: Mapping[str, Baseline] = {
    "constant_tflops": constant_rate,
    "constant_times_bubble": constant_rate_with_bubble,
}
"""The baselines by their names in `sets` of `validate --json`."""


def _scaled(
    train: Sequence[Run], test: Sequence[Run], work: Callable[[Scenario], float]
) -> tuple[float, ...]:
    factor = statistics.median(run.measured_ns / work(run.scenario) for run in train)
    return tuple(factor * work(run.scenario) for run in test)


def _flops_per_device(scenario: Scenario) -> float:
    model, plan = scenario.model, scenario.plan
    assert model is not None
    return hardware_flops(model, plan.num_sequences, plan.recomputation) / plan.num_devices
