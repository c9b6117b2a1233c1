"""Elastic runs predicted beforehand, held against what was measured, phase by phase.

What is compared is training: epochs and the transitions between them. Checkpoints and evaluation,
which both sides of a comparison need alike or not at all, are measured but not predicted.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace

from scenarios.schema import ElasticCache, Scenario, Transition
from sim.cost.profile import Profile
from sim.elastic.phases import Phase
from sim.elastic_measurement import ElasticMeasurement, MeasuredTransition
from sim.elastic_run import ElasticPrediction, PhasePrediction


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseComparison:
    """A phase as it was predicted and as it was measured.

    predicted_epoch_s, predicted_iteration_s: None where the run had a phase that was not foreseen,
    as freezing by gradients may. measured_epoch_s, measured_iteration_s: medians.
    num_epochs: of those measured. foreign: the largest share of an epoch in which others held ranks
    up; None where unknown.
    """

    phase: Phase
    num_epochs: int
    predicted_iteration_s: float | None
    measured_iteration_s: float
    predicted_epoch_s: float | None
    measured_epoch_s: float
    foreign: float | None = None

    @property
    def error(self) -> float | None:
        """Predicted over measured time of an epoch, less 1."""
        return _error(self.predicted_epoch_s, self.measured_epoch_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionComparison:
    """What a change of the pipeline took, without checkpoint and evaluation; predicted_s: None
    where it was not foreseen."""

    measured: MeasuredTransition
    predicted_s: float | None

    @property
    def measured_s(self) -> float:
        """Groups, stages, moved and forked weights."""
        return self.measured.training_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticCase:
    """One run: its prediction, its measurement, and the two side by side.

    predicted_s: of the epochs and transitions that were measured (all of them unless it was
    interrupted or resumed); None where one of them was not foreseen.
    """

    name: str
    prediction: ElasticPrediction
    measurement: ElasticMeasurement
    phases: tuple[PhaseComparison, ...]
    transitions: tuple[TransitionComparison, ...]
    predicted_s: float | None

    @property
    def measured_s(self) -> float:
        """Seconds of training, without checkpoints and evaluation."""
        return self.measurement.training_s

    @property
    def error(self) -> float | None:
        """Predicted over measured training time, less 1."""
        return _error(self.predicted_s, self.measured_s)

    @property
    def whole(self) -> bool:
        """Whether every epoch of the run was measured, from the first to the last."""
        elastic = self.measurement.scenario.elastic
        return elastic is not None and len(self.measurement.epochs) == elastic.epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticSpeedup:
    """How many times sooner the scenario's own run finishes than another of its variants.

    accuracy_lost: the other's final test accuracy less the scenario's own; None where unknown.
    """

    other: str
    predicted: float | None
    measured: float
    accuracy_lost: float | None

    @property
    def error(self) -> float | None:
        """Predicted over measured, less 1."""
        return _error(self.predicted, self.measured)


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticComparison:
    """A scenario's elastic run and its variants: each predicted beforehand and then executed.

    cases: the scenario itself, then its variants; fewer where it was interrupted.
    profile: what they were predicted with. note: how it was calibrated, and whether others kept the
    machine busy.
    """

    cases: tuple[ElasticCase, ...]
    profile: Profile | None = None
    note: str = ""
    interrupted: bool = False

    @property
    def speedups(self) -> tuple[ElasticSpeedup, ...]:
        """Of the first case over each of the others; only of runs that came to their end."""
        if not self.cases or not self.cases[0].whole:
            return ()
        own, others = self.cases[0], self.cases[1:]
        return tuple(_speedup(own, other) for other in others if other.whole)


def compare_elastic(
    name: str, prediction: ElasticPrediction, measurement: ElasticMeasurement
) -> ElasticCase:
    """Hold a predicted run against a measured one of the same scenario.

    What a calibration has put in the scenario's place, transitions and rates of the cache, may
    differ. Raises ValueError where the two are not of the same scenario.
    """
    if _executed(prediction.scenario).digest != _executed(measurement.scenario).digest:
        raise ValueError(
            f"the measured run is of another scenario ({measurement.scenario.name}, or other "
            f"settings of it): run {prediction.scenario.name} again with the same settings"
        )
    foreseen = {_place(own.phase): own for own in prediction.phases}
    found = {phase.index: foreseen.get(_place(phase)) for phase in measurement.phases}
    transitions = tuple(
        TransitionComparison(measured=t, predicted_s=_foreseen_transition(prediction, found, t))
        for t in measurement.transitions
    )
    parts = [_seconds(found[e.phase]) for e in measurement.epochs]
    parts += [t.predicted_s for t in transitions]
    known = [part for part in parts if part is not None]
    return ElasticCase(
        name=name,
        prediction=prediction,
        measurement=measurement,
        phases=tuple(
            _compare_phase(measurement, phase, found[phase.index])
            for phase in measurement.phases
            if measurement.epochs_of(phase.index)
        ),
        transitions=transitions,
        predicted_s=sum(known) if len(known) == len(parts) else None,
    )


def summary(comparison: ElasticComparison) -> dict[str, object]:
    """What `--json` gives: every run with its phases and transitions, and the speed-ups."""
    return {
        "runs": [_case_data(case) for case in comparison.cases],
        "speedups": [
            {
                "over": s.other,
                "predicted": s.predicted,
                "measured": s.measured,
                "error": s.error,
                "accuracy_lost": s.accuracy_lost,
            }
            for s in comparison.speedups
        ],
        "note": comparison.note,
        "interrupted": comparison.interrupted,
    }


def _case_data(case: ElasticCase) -> dict[str, object]:
    measured = case.measurement
    return {
        "name": case.name,
        "predicted_s": case.predicted_s,
        "measured_s": case.measured_s,
        "error": case.error,
        "whole_s": measured.seconds,
        "final_accuracy": measured.final_accuracy,
        "final_loss": measured.final_loss,
        "frozen_by_epoch": list(measured.frozen_by_epoch),
        "resumed_from": measured.resumed_from,
        "phases": [
            {
                "first_epoch": p.phase.first_epoch,
                "epochs": p.num_epochs,
                "frozen_layers": p.phase.frozen_layers,
                "cached_layers": p.phase.cached_layers,
                "fills_cache": p.phase.fills_cache,
                "layers_per_stage": list(p.phase.layout.layers_per_stage),
                "data": p.phase.layout.data,
                "micro_batch": p.phase.layout.micro_batch,
                "microbatches": p.phase.layout.microbatches,
                "predicted_iteration_s": p.predicted_iteration_s,
                "measured_iteration_s": p.measured_iteration_s,
                "predicted_epoch_s": p.predicted_epoch_s,
                "measured_epoch_s": p.measured_epoch_s,
                "error": p.error,
            }
            for p in case.phases
        ],
        "transitions": [
            {
                "epoch": t.measured.epoch,
                "predicted_s": t.predicted_s,
                "measured_s": t.measured_s,
                "parts_s": dict(t.measured.seconds),
                "moved_bytes": t.measured.moved_bytes,
                "loss_before": t.measured.loss_before,
                "loss_after": t.measured.loss_after,
            }
            for t in case.transitions
        ],
    }


def _compare_phase(
    measurement: ElasticMeasurement, phase: Phase, predicted: PhasePrediction | None
) -> PhaseComparison:
    epochs = measurement.epochs_of(phase.index)
    shares = [e.foreign for e in epochs if e.foreign is not None]
    return PhaseComparison(
        phase=phase,
        num_epochs=len(epochs),
        predicted_iteration_s=predicted.iteration_ns / 1e9 if predicted is not None else None,
        measured_iteration_s=measurement.iteration_s(phase.index) or 0.0,
        predicted_epoch_s=_seconds(predicted),
        measured_epoch_s=statistics.median(e.seconds for e in epochs),
        foreign=max(shares, default=None),
    )


def _executed(scenario: Scenario) -> Scenario:
    """A scenario without what only predictions read."""
    if scenario.elastic is None:
        return scenario
    decided = ElasticCache(
        memory=scenario.elastic.cache.memory, pays_from=scenario.elastic.cache.pays_from
    )
    elastic = replace(scenario.elastic, transition=Transition(), cache=decided)
    return replace(scenario, elastic=elastic)


def _place(phase: Phase) -> tuple[object, ...]:
    """What a phase's iterations depend on; when it comes does not matter."""
    return phase.layout, phase.cached_layers, phase.fills_cache, phase.iterations


def _foreseen_transition(
    prediction: ElasticPrediction,
    found: dict[int, PhasePrediction | None],
    measured: MeasuredTransition,
) -> float | None:
    """Seconds that the transition into the same phase was foreseen to take; from another phase it
    is another one."""
    before, after = found.get(measured.phase - 1), found.get(measured.phase)
    if before is None or after is None or after.phase.index != before.phase.index + 1:
        return None
    index = after.phase.index
    return sum(sum(t.parts.values()) for t in prediction.transitions if t.phase == index) / 1e9


def _speedup(own: ElasticCase, other: ElasticCase) -> ElasticSpeedup:
    predicted = None
    if own.predicted_s and other.predicted_s:
        predicted = other.predicted_s / own.predicted_s
    ours, theirs = own.measurement.final_accuracy, other.measurement.final_accuracy
    return ElasticSpeedup(
        other=other.name,
        predicted=predicted,
        measured=other.measured_s / own.measured_s,
        accuracy_lost=theirs - ours if ours is not None and theirs is not None else None,
    )


def _seconds(predicted: PhasePrediction | None) -> float | None:
    return predicted.epoch_ns / 1e9 if predicted is not None else None


def _error(predicted: float | None, measured: float) -> float | None:
    return predicted / measured - 1 if predicted is not None and measured else None
