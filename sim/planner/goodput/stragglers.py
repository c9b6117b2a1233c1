"""Slow devices: which ones, and what they make of an iteration.

The iteration of every replica is simulated with its slow ranks' own durations, and the slowest
replica decides, as all wait for its gradients.

Not modelled: a slow device found and replaced; links that are slow; where replicas are slow in
different stages, their meeting stage by stage (a little more than the slowest replica alone).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scenarios.schema import Plan, Scenario, Training
from sim.cost.costs import Cost, CostTable
from sim.engine.choice import iterations as simulations
from sim.engine.choice import why_no_numba
from sim.schedule.actions import COMPUTE, Kind
from sim.schedule.lowering import Program
from sim.schedule.schedule import Schedule
from sim.timeline.figures import COMMUNICATION

Factors = NDArray[np.float64]
PATTERNS = 64
"""Draws of which devices are slow, at most."""
ITERATIONS = 32
"""Iterations simulated for the mean under jitter, at most."""
MOST_PASSES = 20_000_000
"""Passes simulated in all, about."""
MOST_PASSES_INTERPRETED = 400_000
"""The same where nothing compiles the engine."""
_NOT_COMPUTED = COMMUNICATION | {"host", "data_loading", "cache"}


def iteration_factors(scenario: Scenario, program: Program, costs: CostTable) -> tuple[float, ...]:
    """For each draw of slow devices, how many times longer an iteration takes than undisturbed, on
    average over its jitter; (1.0,) where no device is slow and nothing jitters.

    As many draws as MOST_PASSES allows, at most PATTERNS and at least one.
    """
    training, plan, schedule = scenario.training, scenario.plan, program.schedule
    if training is None or not is_disturbed(training):
        return (1.0,)
    most = MOST_PASSES if why_no_numba() is None else MOST_PASSES_INTERPRETED
    passes = plan.data * sum(map(len, schedule.orders))
    patterns, iterations = _draws(training, max(1, most // passes))
    times = patterns * iterations * plan.data
    iteration_ns = simulations(program, costs, times=times)
    base = iteration_ns(costs)
    known: dict[tuple[float, ...], int] = {(1.0,) * plan.pipeline: base}
    found = []
    for pattern in range(patterns):
        slow = slow_devices(scenario, np.random.default_rng([training.seed, 1, pattern]))
        generator = np.random.default_rng([training.seed, 2, pattern])
        total = 0
        for _ in range(iterations):
            factors = rank_factors(plan, slow * _jitter(training, slow.shape, generator))
            for replica in set(map(tuple, factors.tolist())) - known.keys():
                known[replica] = iteration_ns(slowed(costs, schedule, replica))
            total += max(known[tuple(replica)] for replica in factors.tolist())
        found.append(total / iterations / base)
    return tuple(found)


def _jitter(training: Training, shape: tuple[int, ...], generator: np.random.Generator) -> Factors:
    return np.exp(training.jitter * generator.standard_normal(shape))


def is_disturbed(training: Training) -> bool:
    """Whether any device is slow or jitters."""
    return _has_slow(training) or training.jitter > 0


def _has_slow(training: Training) -> bool:
    slow = training.stragglers
    return slow is not None and slow.share > 0 and slow.slowdown > 1


def _draws(training: Training, most: int) -> tuple[int, int]:
    """Draws of slow devices, and iterations of each, of which there are at most so many in all."""
    if not _has_slow(training):
        return 1, min(ITERATIONS, most)
    if training.jitter == 0:
        return min(PATTERNS, most), 1
    iterations = min(4, most)
    return max(1, min(PATTERNS // 4, most // iterations)), iterations


def slow_devices(scenario: Scenario, generator: np.random.Generator) -> Factors:
    """How many times longer each device takes for what it computes, (devices,); drawn."""
    training, cluster = scenario.training, scenario.cluster
    slow = training.stragglers if training is not None else None
    num = cluster.num_devices if cluster is not None else scenario.plan.num_devices
    if slow is None:
        return np.ones(num)
    together = cluster.devices_per_node if cluster is not None and slow.of == "nodes" else 1
    drawn = generator.random(-(-num // together)) < slow.share
    return np.where(np.repeat(drawn, together)[:num], slow.slowdown, 1.0)


def rank_factors(plan: Plan, device_factors: Factors) -> Factors:
    """How many times longer each rank's passes take, (data, pipeline): the slowest device of its
    tensor group decides, as their collectives wait for it."""
    devices = np.array(
        [
            [[plan.device_of(p, d, t) for t in range(plan.tensor)] for p in range(plan.pipeline)]
            for d in range(plan.data)
        ]
    )
    slowest: Factors = device_factors[devices].max(axis=2)
    return slowest


def slowed(costs: CostTable, schedule: Schedule, factors: tuple[float, ...]) -> CostTable:
    """Costs where each rank takes its factor of time for what it computes in passes and optimizer
    steps; collectives inside them, the host, loading and the cache take as long as before."""
    found = {}
    for key, cost in costs.costs.items():
        if key.kind in COMPUTE:
            found[key] = _slowed(cost, factors[schedule.rank_of(key.stage, key.pipe)])
        elif key.kind is Kind.OPTIMIZER:  # Numbered by rank.
            found[key] = _slowed(cost, factors[key.stage])
        else:
            found[key] = cost
    return replace(costs, costs=found)


def _slowed(cost: Cost, factor: float) -> Cost:
    if factor == 1.0:
        return cost
    parts = {
        name: time if name in _NOT_COMPUTED else round(time * factor)
        for name, time in cost.parts.items()
    }
    return replace(cost, parts=parts, duration_ns=sum(parts.values()))
