"""Side: one of two iterations to be compared, simulated or measured, and what is known of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scenarios.schema import Scenario
from sim.cost.profile import Profile
from sim.measured_summary import measured_summary
from sim.measurement import Measurement
from sim.prediction import Prediction, summary
from sim.schedule.build import build_program
from sim.schedule.lowering import Program
from sim.timeline.figures import Figures, figures
from sim.timeline.memory import MemoryCurve
from sim.timeline.spans import Timeline
from sim.traffic.counting import traffic
from sim.traffic.json import traffic_json


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of two iterations.

    label: what it is called. iteration_ns: the median where there are draws or several runs.
    figures: of the timeline, the typical one of several. memory: curves, of what is simulated.
    peaks: bytes on each rank. summary: as `simulate --json` or `run --json` prints it.
    origins: where each value was written, by dotted field; None where that is not on record.
    prediction, measurement: the one or the other. draws: over how many the prediction is a median.
    """

    label: str
    scenario: Scenario
    iteration_ns: int
    timeline: Timeline
    program: Program
    figures: Figures
    peaks: tuple[int | None, ...]
    summary: Mapping[str, Any]
    origins: Mapping[str, str] | None = None
    prediction: Prediction | None = None
    measurement: Measurement | None = None
    draws: int = 0

    @property
    def origin(self) -> str:
        """`simulated` or `measured`."""
        return self.timeline.origin

    @property
    def memory(self) -> tuple[MemoryCurve, ...] | None:
        """Memory over time, of a simulated iteration whose sizes are known."""
        return self.prediction.memory if self.prediction is not None else None

    @property
    def profile(self) -> Profile | None:
        """The profile that a simulated iteration's costs are from."""
        return self.prediction.profile if self.prediction is not None else None

    @property
    def uncertainty_ns(self) -> float:
        """How sure the iteration time is: of a run half the interquartile range of its iterations;
        of a median over n draws two standard errors, each 1.253 sigma / sqrt(n), sigma from the
        quartiles as of a normal distribution; 0 of a simulation without draws."""
        if self.measurement is not None:
            low, high = self.measurement.quartiles_ns
            return (high - low) / 2
        spread = self.prediction.spread_ns if self.prediction is not None else None
        if spread is None or not self.draws:
            return 0.0
        sigma = (spread[2] - spread[0]) / 1.349
        return 2 * 1.253 * sigma / math.sqrt(self.draws)

    @property
    def peak_bytes(self) -> int | None:
        """The highest peak of any rank; None where one is unknown."""
        known = [peak for peak in self.peaks if peak is not None]
        return max(known) if known and len(known) == len(self.peaks) else None

    @property
    def fullest_rank(self) -> int | None:
        """The first rank with the highest peak."""
        return self.peaks.index(self.peak_bytes) if self.peak_bytes is not None else None


def simulated_side(
    label: str,
    prediction: Prediction,
    origins: Mapping[str, str] | None = None,
    *,
    draws: int = 0,
) -> Side:
    """A simulated iteration as one of two.

    draws: how many were asked for, with a profile.
    """
    memory, sent = prediction.memory, traffic(prediction)
    known = summary(prediction)
    if sent is not None:
        known["traffic"] = traffic_json(sent)
    return Side(
        label=label,
        scenario=prediction.scenario,
        iteration_ns=prediction.iteration_ns,
        timeline=prediction.timeline,
        program=prediction.program,
        figures=prediction.figures,
        peaks=tuple(curve.peak_bytes for curve in memory) if memory else (),
        summary=known,
        origins=origins,
        prediction=prediction,
        draws=draws if prediction.spread_ns is not None else 0,
    )


def measured_side(label: str, measurement: Measurement) -> Side:
    """A measured run as one of two: its median, and its typical iteration."""
    program = build_program(measurement.scenario)
    found = figures(measurement.typical, program)
    return Side(
        label=label,
        scenario=measurement.scenario,
        iteration_ns=measurement.iteration_ns,
        timeline=measurement.typical,
        program=program,
        figures=found,
        peaks=measurement.peak_memory_bytes,
        summary=measured_summary(measurement, program, found),
        measurement=measurement,
    )
