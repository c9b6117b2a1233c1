"""Simulated against measured, as two errors that are never mixed.

*Structural*: the run's own durations replayed through the engine; what differs is the model's
structure (what waits for what). *Predictive*: durations from a profile calibrated on other runs, or
from the device model.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from scenarios.schema import Scenario
from sim.cost.costs import ActionCosts, Transfer
from sim.engine.choice import simulate
from sim.measurement import Measurement
from sim.prediction import Prediction
from sim.schedule.actions import FLUSH, Action, Kind
from sim.schedule.build import build_program
from sim.schedule.lowering import Program, partner
from sim.timeline.spans import Timeline
from sim.workload.partition import Piece, pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionComparison:
    """One kind of action on one stage: simulated against the median measured duration (ns).

    piece: what it works on, where microbatches are cut into slices or are not all alike.
    """

    kind: Kind
    stage: int
    simulated_ns: int
    measured_ns: int
    piece: Piece | None = None

    @property
    def error(self) -> float:
        """Simulated over measured, less 1."""
        return self.simulated_ns / self.measured_ns - 1 if self.measured_ns else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A prediction held against a measurement; errors are simulated over measured, less 1.

    structural: median over iterations of the replay's error.
    measured_spread: half the interquartile range of the iteration time over its median: the noise
    that no prediction can beat.
    calibrated: whether the durations come from a profile; in_sample: from one calibrated on runs of
    this very scenario, so that the predictive error is that of a fit and not of a prediction.
    memory: per rank (predicted, measured) peak bytes of tensors, where both are known; what driver
    and libraries reserve is in neither.
    """

    predicted_ns: int
    measured_ns: int
    structural: float
    predictive: float
    measured_spread: float
    num_iterations: int
    num_disturbed: int
    calibrated: bool
    in_sample: bool
    actions: tuple[ActionComparison, ...]
    memory: tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopRow:
    """One scenario of a closed loop: in every round predicted by a profile that was calibrated on
    other runs of the same round, and measured; errors are medians over the rounds of simulated over
    measured, less 1, pair by pair.

    run_to_run_spread: half the interquartile range of the iteration time over its median.
    predicted_ns, measured_ns: medians over the rounds.
    judged: False for a scenario whose runs the profiles were calibrated on: how well it is met says
    how well the profile fits, not how well it predicts.
    """

    scenario: str
    structural_error: float
    predictive_error: float
    run_to_run_spread: float
    predicted_ns: int
    measured_ns: int
    rounds: int
    judged: bool = True


def compare(prediction: Prediction, measurement: Measurement) -> Comparison:
    """Hold a prediction against a measurement of the same scenario.

    Raises ValueError where the two are not of the same scenario.
    """
    if prediction.scenario.digest != measurement.scenario.digest:
        raise ValueError(
            f"the measurement is of another scenario ({measurement.scenario.name}, or other "
            f"settings of it): run {prediction.scenario.name} again with the same settings"
        )
    low, high = measurement.quartiles_ns
    measured = measurement.iteration_ns
    return Comparison(
        predicted_ns=prediction.iteration_ns,
        measured_ns=measured,
        structural=structural_error(measurement, prediction.program),
        predictive=prediction.iteration_ns / measured - 1,
        measured_spread=(high - low) / 2 / measured,
        num_iterations=len(measurement.timelines),
        num_disturbed=sum(measurement.disturbed),
        calibrated=prediction.profile is not None,
        in_sample=_in_sample(prediction, measurement),
        actions=_by_action(prediction, measurement),
        memory=_memory(prediction, measurement),
    )


def _in_sample(prediction: Prediction, measurement: Measurement) -> bool:
    profile = prediction.profile
    digest = measurement.scenario.digest
    return profile is not None and any(run.get("digest") == digest for run in profile.raw)


def structural_error(measurement: Measurement, program: Program | None = None) -> float:
    """Median over the judged iterations of replayed over measured iteration time, less 1."""
    program = program if program is not None else build_program(measurement.scenario)
    return statistics.median(
        replay(timeline, program).iteration_ns / timeline.iteration_ns - 1
        for timeline in measurement.judged
    )


def replay(timeline: Timeline, program: Program) -> Timeline:
    """Run a program with the very durations that a timeline of it shows."""
    return simulate(program, own_costs(timeline))


def own_costs(timeline: Timeline) -> ActionCosts:
    """Each action's own duration, and each message's own time on its way, in a timeline.

    A message's time runs from its sender's posting (or the start of its transfer) to its arrival;
    a reduction's from the last rank's coming to its end, of which what lies before the end of its
    stage's last backward pass is hidden.
    """
    durations: dict[Action, int] = {}
    meetings: dict[Action, list[int]] = defaultdict(list)
    made: dict[int, int] = {}
    for span in timeline.spans:
        if span.lane == "compute":
            durations[span.action] = durations.get(span.action, 0) + span.duration_ns
            if span.action.kind in (Kind.BACKWARD, Kind.BACKWARD_WEIGHT):
                made[span.action.stage] = max(made.get(span.action.stage, 0), span.end_ns)
        elif span.lane == "collective":
            meetings[_shared(span.action)].append(span.duration_ns)
    for span in timeline.spans:
        if span.lane == "collective":
            durations[span.action] = min(meetings[_shared(span.action)])
    hidden = {
        s.action: max(0, min(made[s.action.stage], s.end_ns) - s.start_ns)
        for s in timeline.spans
        if s.action.kind is Kind.REDUCE_GRADIENTS and s.action.stage in made
    }
    transfers = {
        partner(receive): Transfer(
            occupancy_ns=0, latency_ns=span.duration_ns, resources=(), payload_bytes=0
        )
        for (_, receive), span in timeline.arrivals.items()
    }
    return ActionCosts(durations=durations, transfers=transfers, hidden=hidden)


def _shared(action: Action) -> Action:
    """NORM is numbered by rank, but is one meeting of all ranks."""
    return Action(Kind.GRADIENT_NORM, 0) if action.kind is Kind.GRADIENT_NORM else action


def _by_action(prediction: Prediction, measurement: Measurement) -> tuple[ActionComparison, ...]:
    cut = pieces_of(prediction.scenario)
    measured: dict[_Sort, list[int]] = defaultdict(list)
    for timeline in measurement.judged:
        for span in timeline.spans:
            if span.lane == "compute" or span.action.kind in FLUSH:
                measured[_sort(span.action, cut)].append(span.duration_ns)
    simulated: dict[_Sort, list[int]] = defaultdict(list)
    for span in prediction.timeline.spans:
        if span.lane == "compute" or span.action.kind in FLUSH:
            simulated[_sort(span.action, cut)].append(span.duration_ns)
    return tuple(
        ActionComparison(
            kind=sort.kind,
            stage=sort.stage,
            simulated_ns=round(statistics.median(simulated.get(sort, [0]))),
            measured_ns=round(statistics.median(times)),
            piece=sort.piece,
        )
        for sort, times in sorted(measured.items(), key=lambda item: item[0].order)
    )


class _Sort(NamedTuple):
    """What actions are compared together."""

    kind: Kind
    stage: int
    piece: Piece | None

    @property
    def order(self) -> tuple[Kind, int, tuple[int, ...]]:
        return self.kind, self.stage, tuple(self.piece or ())


def _sort(action: Action, cut: tuple[tuple[Piece, ...], ...] | None) -> _Sort:
    piece = None
    if cut is not None and action.microbatch is not None and action.kind is not Kind.EXCHANGE:
        piece = cut[action.microbatch][action.slice_index]
    return _Sort(action.kind, action.stage, piece)


def pieces_of(scenario: Scenario) -> tuple[tuple[Piece, ...], ...] | None:
    """The pieces of every microbatch, by slice; None where all microbatches are whole and alike, or
    the scenario has no model."""
    if scenario.model is None:
        return None
    found = pieces(scenario)
    alike = len(set(found)) == 1 and len(found[0]) == 1
    return None if alike else found


def _memory(prediction: Prediction, measurement: Measurement) -> tuple[tuple[int, int] | None, ...]:
    if prediction.memory is None or len(measurement.peak_memory_bytes) != len(prediction.memory):
        return ()
    return tuple(
        (curve.peak_bytes - curve.static.get("reserved", 0), measured)
        if measured is not None
        else None
        for curve, measured in zip(prediction.memory, measurement.peak_memory_bytes, strict=True)
    )
