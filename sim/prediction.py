"""Prediction: a scenario simulated, with all the figures computed from its timeline.

The way through the house in one function: Scenario -> Schedule -> Program -> Costs -> engine ->
Timeline -> Figures.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

from scenarios.schema import Scenario
from sim.cost.costs import CostTable
from sim.cost.profile import Profile, require_device
from sim.cost.table import cost_table
from sim.draws import drawn_iterations
from sim.engine.choice import Engine, run
from sim.schedule.build import build_program
from sim.schedule.lowering import Program
from sim.timeline.critical_path import CriticalPath, critical_path
from sim.timeline.figures import Figures, figures
from sim.timeline.memory import MemoryCurve, memory_curves
from sim.timeline.spans import Timeline
from sim.training_run import TrainingOutlook, outlook, outlook_json
from sim.workload.flops import hardware_flops, model_flops
from sim.workload.memory import memory_model


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A simulated iteration and what it amounts to.

    spread_ns: lower quartile, median and upper quartile of the iteration time over draws from the
    profile's distribution; None where there is none to draw from.
    engine: the one that simulated, and note: why not another one, where a user might expect it.
    """

    scenario: Scenario
    program: Program
    costs: CostTable
    timeline: Timeline
    figures: Figures
    memory: tuple[MemoryCurve, ...] | None
    spread_ns: tuple[int, int, int] | None = None
    profile: Profile | None = None
    engine: str = "simpy"
    note: str | None = None

    @property
    def iteration_ns(self) -> int:
        """The predicted iteration time: the median over draws where there are draws."""
        return self.spread_ns[1] if self.spread_ns is not None else self.figures.iteration_ns

    @cached_property
    def critical_path(self) -> CriticalPath:
        """What the iteration time is made of."""
        return critical_path(self.timeline, self.program)

    @cached_property
    def training(self) -> TrainingOutlook | None:
        """What the scenario's training run comes to, with failures, checkpoints and slow devices;
        None without one."""
        return outlook(self.scenario, self.iteration_ns, self.program, self.costs)


def predict(
    scenario: Scenario,
    profile: Profile | None = None,
    *,
    draws: int = 0,
    seed: int = 0,
    engine: Engine = "auto",
) -> Prediction:
    """Simulate one iteration of a scenario.

    draws: with a profile that holds the spread of single actions, how many times to draw every
    action's duration from it (seeded) for the prediction's median and quartiles: a pipeline waits
    for its slower side, so medians alone predict too little.
    engine: which one simulates; `auto`: the compiled one where the program is large.
    Raises ScheduleError and Deadlock for an order that cannot run, ProfileMismatch for a profile of
    another device than the scenario's, OverflowError for times that the compiled engine, asked for,
    may not hold.
    """
    require_device(profile, scenario)
    with without_collector():
        return _predict(scenario, profile, draws, seed, engine)


@contextmanager
def without_collector() -> Iterator[None]:
    """Pause the garbage collector: a large schedule makes 10^6 objects, none of them garbage, and
    scanning them again and again is a quarter of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _predict(
    scenario: Scenario, profile: Profile | None, draws: int, seed: int, engine: Engine
) -> Prediction:
    program = build_program(scenario)
    costs = cost_table(scenario, program, profile)
    parts: dict[tuple[str, int, int, int], Mapping[str, int]] = {
        (key.kind.value, key.stage, key.slice_index, key.variant): {
            str(k): v for k, v in cost.parts.items()
        }
        for key, cost in costs.costs.items()
    }
    timeline, chosen = run(program, costs, engine)
    timeline = replace(timeline, parts=parts, variants=costs.variants)
    model = memory_model(scenario, program)
    spread = None
    if draws and profile is not None and profile.ratios:
        times = drawn_iterations(
            program, costs, profile.ratios, draws=draws, seed=seed, engine=engine
        )
        spread = _quartiles(times)
    return Prediction(
        scenario=scenario,
        program=program,
        costs=costs,
        timeline=timeline,
        figures=figures(timeline, program),
        memory=memory_curves(timeline, model) if model is not None else None,
        spread_ns=spread,
        profile=profile,
        engine=chosen.engine,
        note=chosen.note,
    )


def _quartiles(times: Sequence[int]) -> tuple[int, int, int]:
    if len(times) == 1:
        return times[0], times[0], times[0]
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return round(low), round(middle), round(high)


def fits(prediction: Prediction) -> bool | None:
    """Whether every rank's peak is within the device's memory; None where that is unknown."""
    if prediction.memory is None or prediction.scenario.cluster is None:
        return None
    capacity = prediction.scenario.cluster.device.memory
    return all(curve.peak_bytes <= capacity for curve in prediction.memory)


def summary(prediction: Prediction) -> dict[str, object]:
    """The stable machine form that `simulate --json` prints; plain figures are fractions and
    seconds, unknown ones null."""
    scenario, found = prediction.scenario, prediction.figures
    seconds = prediction.iteration_ns / 1e9
    result: dict[str, object] = {
        "scenario": scenario.name,
        "digest": scenario.digest,
        "origin": prediction.timeline.origin,
        "engine": prediction.engine,
        "iteration_s": seconds,
        **rates(scenario, seconds),
        **figures_json(found, prediction.memory),
        "fits": fits(prediction),
        "memory_capacity_bytes": scenario.cluster.device.memory if scenario.cluster else None,
        "critical_path": {
            "queued_s": prediction.critical_path.queued_ns / 1e9,
            **{k: v / 1e9 for k, v in prediction.critical_path.time_by_kind().items()},
        },
        "assumed": [{"what": w, "share": share} for w, share in prediction.costs.assumed],
        "training": outlook_json(prediction.training),
    }
    if prediction.spread_ns is not None:
        result["iteration_quartiles_s"] = [t / 1e9 for t in prediction.spread_ns]
    return result


def figures_json(
    found: Figures,
    memory: tuple[MemoryCurve, ...] | None,
    peaks: tuple[int | None, ...] | None = None,
) -> dict[str, object]:
    """The figures as JSON values; `peaks` are measured peaks, where there are no curves."""
    ranks = []
    for rank, r in enumerate(found.ranks):
        peak = memory[rank].peak_bytes if memory else (peaks[rank] if peaks else None)
        ranks.append(
            {
                "rank": rank,
                "peak_memory_bytes": peak,
                "busy_s": r.busy_ns / 1e9,
                "bubble_s": r.bubble_ns / 1e9,
                "exposed_communication_s": r.exposed_ns / 1e9,
            }
        )
    return {
        "bubble_fraction": found.bubble_fraction,
        "span_bubble_fraction": found.span_bubble_fraction,
        "bubble_over_ideal": found.bubble_over_ideal,
        "exposed_communication_fraction": found.exposed_communication_fraction,
        "breakdown": dict(found.breakdown),
        "ranks": ranks,
    }


def rates(scenario: Scenario, iteration_s: float) -> dict[str, float | None]:
    """Throughput figures of an iteration time: TFLOP/s, MFU, sequences and tokens per second, and
    the days and dollars of the whole training run where nothing fails, is saved or is slow (what it
    comes to with that is `Prediction.training`)."""
    result: dict[str, float | None] = dict.fromkeys(
        (
            "model_tflops_per_gpu",
            "hardware_tflops_per_gpu",
            "mfu",
            "hfu",
            "sequences_per_s",
            "tokens_per_s",
            "training_days",
            "training_gpu_hours",
            "training_cost_dollars",
        )
    )
    model, plan, cluster = scenario.model, scenario.plan, scenario.cluster
    if model is None or iteration_s <= 0:
        return result
    per_device = iteration_s * plan.num_devices * 1e12
    frozen, cached = plan.frozen_layers, plan.cached_layers
    counted = model_flops(model, plan.num_sequences, frozen_layers=frozen, cached_layers=cached)
    done = hardware_flops(
        model, plan.num_sequences, plan.recomputation, frozen_layers=frozen, cached_layers=cached
    )
    model_tflops, hardware_tflops = counted / per_device, done / per_device
    result["model_tflops_per_gpu"] = model_tflops
    result["hardware_tflops_per_gpu"] = hardware_tflops
    result["sequences_per_s"] = plan.num_sequences / iteration_s
    result["tokens_per_s"] = plan.num_sequences * model.sequence / iteration_s
    if cluster is not None and plan.precision in cluster.device.matmul_peak:
        peak = cluster.device.matmul_peak[plan.precision] / 1e12
        result["mfu"] = model_tflops / peak
        result["hfu"] = hardware_tflops / peak
    if scenario.training is not None:
        iterations = scenario.training.tokens / (plan.num_sequences * model.sequence)
        hours = iterations * iteration_s / 3600
        result["training_days"] = hours / 24
        result["training_gpu_hours"] = hours * plan.num_devices
        if cluster is not None and cluster.price_per_device_hour is not None:
            cost = hours * plan.num_devices * cluster.price_per_device_hour
            result["training_cost_dollars"] = cost
    return result
