"""A measurement's figures in the stable machine form, beside that of predictions."""

from __future__ import annotations

from typing import Any

from sim.measurement import Measurement
from sim.prediction import figures_json, rates
from sim.schedule.lowering import Program
from sim.timeline.critical_path import critical_path
from sim.timeline.figures import Figures


def measured_summary(measurement: Measurement, program: Program, found: Figures) -> dict[str, Any]:
    """What `run --json` prints of a measurement, as `sim.prediction.summary` of a prediction: plain
    figures are fractions and seconds, unknown ones null.

    program, found: the program that ran, and the figures of the measurement's typical iteration;
    the iteration time and what follows from it are the median's.
    """
    scenario = measurement.scenario
    seconds = measurement.iteration_ns / 1e9
    low, high = measurement.quartiles_ns
    peaks = measurement.peak_memory_bytes
    capacity = scenario.cluster.device.memory if scenario.cluster is not None else None
    known = [p for p in peaks if p is not None]
    fit = all(p <= capacity for p in known) if known and capacity is not None else None
    path = critical_path(measurement.typical, program)
    transport = str(measurement.environment.get("transport"))
    imported = "traces" in measurement.environment  # Which do not tell what else ran.
    return {
        "scenario": scenario.name,
        "digest": scenario.digest,
        "origin": "measured",
        "engine": transport if imported else f"executor ({transport})",
        "iteration_s": seconds,
        "iteration_quartiles_s": [low / 1e9, seconds, high / 1e9],
        "iterations": len(measurement.timelines),
        "disturbed_iterations": None if imported else sum(measurement.disturbed),
        "loss_first": measurement.losses[0] if measurement.losses else None,
        "loss_last": measurement.losses[-1] if measurement.losses else None,
        **rates(scenario, seconds),
        **figures_json(found, None, peaks or None),
        "fits": fit,
        "memory_capacity_bytes": capacity,
        "critical_path": {
            "queued_s": path.queued_ns / 1e9,
            **{k: v / 1e9 for k, v in path.time_by_kind().items()},
        },
        "environment": dict(measurement.environment),
    }
