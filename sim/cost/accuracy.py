"""The trivial baselines that predictions have to beat, and cross-validation of a fit."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from scenarios.schema import Scenario
from sim.cost.fit import fit_runs, predict_runs
from sim.cost.path import Simulate
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


def cross_validate(runs: Sequence[Run], simulate: Simulate, *, folds: int = 5) -> tuple[float, ...]:
    """Each run's time (ns) by a fit to the other folds; run i is in fold i mod `folds`."""
    predicted = [0.0] * len(runs)
    for fold in range(folds):
        train = [run for i, run in enumerate(runs) if i % folds != fold]
        held_out = [i for i in range(len(runs)) if i % folds == fold]
        values = fit_runs(train, simulate).values
        times = predict_runs([runs[i] for i in held_out], values, simulate)
        for i, time in zip(held_out, times, strict=True):
            predicted[i] = time
    return tuple(predicted)
