"""Traces that commands write: of a simulated iteration, and of a measured one."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from scenarios.schema import Scenario
from scenarios.writing import write_whole
from sim.calibration import message_bytes
from sim.measurement import Measurement
from sim.prediction import Prediction
from sim.schedule.actions import Action
from sim.schedule.build import build_program
from sim.timeline.trace import chrome_trace


def write_predicted_trace(path: Path, prediction: Prediction, *, force: bool) -> None:
    """Write a simulated iteration as a gzipped Chrome trace, with its memory."""

    def payload(send: Action) -> int | None:
        return prediction.costs.transfer(send).payload_bytes or None

    data = chrome_trace(
        prediction.timeline,
        prediction.memory or (),
        program=prediction.program,
        payload_bytes=payload,
        metadata=_metadata(prediction.scenario) | {"engine": prediction.engine},
    )
    write_whole(path, data, force=force)


def write_measured_trace(path: Path, measurement: Measurement, *, force: bool) -> None:
    """Write the typical iteration of a measurement as a gzipped Chrome trace."""
    scenario = measurement.scenario
    sizes = message_bytes(scenario) if scenario.model is not None else None

    def payload(send: Action) -> int | None:
        return None if sizes is None else sizes[send.microbatch or 0][send.slice_index]

    typical = measurement.typical
    iteration = measurement.timelines.index(typical)
    data = chrome_trace(
        typical,
        program=build_program(scenario),
        payload_bytes=payload,
        metadata=_metadata(scenario)
        | {"iteration": iteration, "iterations": len(measurement.timelines)},
    )
    write_whole(path, data, force=force)


def _metadata(scenario: Scenario) -> dict[str, object]:
    try:
        version = importlib.metadata.version("pipetwin")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    return {"scenario": scenario.name, "digest": scenario.digest, "version": version}
