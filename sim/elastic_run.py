"""A training run whose pipeline changes, predicted: each phase's iteration simulated, what lies
between phases added, and what each of PipeTransformer's mechanisms contributes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from scenarios.schema import Scenario
from sim.cost.profile import Profile
from sim.elastic.caching import cache_bytes, cache_bytes_on_disk, caches_from
from sim.elastic.freezing import frozen_by_epoch
from sim.elastic.iterations import Iterations
from sim.elastic.layouts import layouts
from sim.elastic.phases import Layout, Phase, elastic_of, phase_scenario, phases
from sim.elastic.transitions import TransitionTime, transition_time
from sim.engine.choice import Engine
from sim.prediction import Prediction, fits, predict

NO_FREEZE = "no freeze"
FREEZE_ONLY = "freeze only"
WITHOUT_AUTODP = "freeze + AutoPipe + AutoCache"
WITHOUT_AUTOCACHE = "freeze + AutoPipe + AutoDP"
ALL = "freeze + AutoPipe + AutoDP + AutoCache"
COMBINATIONS: Mapping[str, Mapping[str, object]] = {
    NO_FREEZE: {"freeze": "off"},
    FREEZE_ONLY: {"autopipe": False, "autodp": False, "autocache": False},
    WITHOUT_AUTODP: {"autopipe": True, "autodp": False, "autocache": True},
    WITHOUT_AUTOCACHE: {"autopipe": True, "autodp": True, "autocache": False},
    ALL: {"autopipe": True, "autodp": True, "autocache": True},
}
"""The combinations of mechanisms that an ablation predicts (figure 9 of arXiv 2102.03161), and the
fields of `elastic` that make them."""
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePrediction:
    """One phase: its iteration simulated, and what that makes of each of its epochs.

    iteration_ns: of every iteration. epoch_ns: all iterations of one epoch. samples_per_s: of the
    epoch's samples, so that an iteration begun counts whole.
    """

    phase: Phase
    prediction: Prediction
    iteration_ns: int
    epoch_ns: int
    samples_per_s: float

    @property
    def total_ns(self) -> int:
        """All its epochs."""
        return self.epoch_ns * self.phase.epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochPrediction:
    """One epoch as its phase has it, without the transition before it.

    phase: its index. pipeline, data: ranks of a pipeline, and replicas.
    """

    epoch: int
    phase: int
    frozen_layers: int
    cached_layers: int
    pipeline: int
    data: int
    microbatches: int
    seconds: float
    samples_per_s: float


@dataclass(frozen=True, kw_only=True)
class ElasticPrediction:
    """A predicted run.

    frozen_by_epoch: layers frozen in each epoch (adaptive: at most). layouts: by frozen layers.
    caches_from: frozen layers from which on their output is cached; None: never. transitions: those
    that take place, each with the index of the phase after it. notes: what was assumed.
    """

    scenario: Scenario
    frozen_by_epoch: tuple[int, ...]
    layouts: tuple[Layout, ...]
    caches_from: int | None
    phases: tuple[PhasePrediction, ...]
    transitions: tuple[TransitionTime, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def engine(self) -> str:
        """The engine that simulated its phases; both, where they differ in size."""
        return " and ".join(sorted({phase.prediction.engine for phase in self.phases}))

    @property
    def training_ns(self) -> int:
        """All epochs, without what lies between them."""
        return sum(phase.total_ns for phase in self.phases)

    @property
    def transition_ns(self) -> int:
        """What lies between phases."""
        return sum(transition.total_ns for transition in self.transitions)

    @property
    def total_ns(self) -> int:
        """The whole run."""
        return self.training_ns + self.transition_ns

    @property
    def samples_per_s(self) -> float:
        """All samples of all epochs over the whole run."""
        elastic = elastic_of(self.scenario)
        return elastic.samples * elastic.epochs / (self.total_ns / 1e9)

    @cached_property
    def epochs(self) -> tuple[EpochPrediction, ...]:
        """Every epoch in turn."""
        return tuple(
            EpochPrediction(
                epoch=epoch,
                phase=found.phase.index,
                frozen_layers=found.phase.frozen_layers,
                cached_layers=found.phase.cached_layers,
                pipeline=found.phase.layout.pipeline,
                data=found.phase.layout.data,
                microbatches=found.phase.layout.microbatches,
                seconds=found.epoch_ns / 1e9,
                samples_per_s=found.samples_per_s,
            )
            for found in self.phases
            for epoch in range(
                found.phase.first_epoch, found.phase.first_epoch + found.phase.epochs
            )
        )


@dataclass(frozen=True, kw_only=True)
class AblationRow:
    """A run with some of the mechanisms; speedup: over the run that freezes nothing."""

    name: str
    scenario: Scenario
    prediction: ElasticPrediction
    speedup: float


def predict_run(
    scenario: Scenario,
    profile: Profile | None = None,
    *,
    layouts_given: Sequence[Layout] | None = None,
    draws: int = 0,
    seed: int = 0,
    engine: Engine = "auto",
    progress: Progress = lambda text: None,
) -> ElasticPrediction:
    """Predict a scenario's run, phase by phase; equal phases are simulated once.

    layouts_given: by frozen layers, instead of those that the scenario and the profile lead to.
    draws, seed, engine: see `sim.prediction.predict`. With `freeze: adaptive` the run freezes as
    much as it may, as gradients are not known beforehand; the result's notes say so.
    Not modelled: evaluation, checkpoints, and loading before the first epoch.
    Raises ValueError where the scenario has no elastic run, or no batch that its replicas can
    share.
    """
    predictor = _Predictor(scenario, profile, draws, seed, engine)
    return predictor.run(scenario, layouts_given, progress)


class _Predictor:
    """Predictions of runs with the same plan that differ in their decisions alone: what they have
    in common is simulated once."""

    def __init__(
        self,
        scenario: Scenario,
        profile: Profile | None,
        draws: int,
        seed: int,
        engine: Engine = "auto",
    ) -> None:
        self._profile, self._draws, self._seed, self._engine = profile, draws, seed, engine
        self._simulated = Iterations(scenario, profile)
        self._seen: dict[tuple[Layout, int, bool], Prediction] = {}

    def run(
        self, scenario: Scenario, given: Sequence[Layout] | None, progress: Progress
    ) -> ElasticPrediction:
        """One run."""
        profile = self._profile
        if given is None:
            progress("layouts")
            given = layouts(scenario, profile, self._simulated)
        frozen = frozen_by_epoch(scenario)
        depth = caches_from(scenario, given, profile, self._simulated)
        cut = phases(scenario, frozen, given, depth)
        found, transitions = [], []
        for phase in cut:
            progress(f"phase {phase.index + 1} of {len(cut)}: {phase.frozen_layers} layers frozen")
            found.append(self._phase(scenario, phase))
            if phase.index:
                before = cut[phase.index - 1]
                transition = transition_time(scenario, before, phase, profile)
                transitions += [transition] if transition is not None else []
        return ElasticPrediction(
            scenario=scenario,
            frozen_by_epoch=frozen,
            layouts=tuple(given),
            caches_from=depth,
            phases=tuple(found),
            transitions=tuple(transitions),
            notes=tuple(_notes(scenario)),
        )

    def _phase(self, scenario: Scenario, phase: Phase) -> PhasePrediction:
        one = phase_scenario(scenario, phase)
        key = (phase.layout, phase.cached_layers, phase.fills_cache)
        if key not in self._seen:
            self._seen[key] = predict(
                one, self._profile, draws=self._draws, seed=self._seed, engine=self._engine
            )
        prediction = replace(self._seen[key], scenario=one)
        epoch_ns = prediction.iteration_ns * phase.iterations
        samples = elastic_of(scenario).samples
        return PhasePrediction(
            phase=phase,
            prediction=prediction,
            iteration_ns=prediction.iteration_ns,
            epoch_ns=epoch_ns,
            samples_per_s=samples / (epoch_ns / 1e9) if epoch_ns else math.inf,
        )


def _notes(scenario: Scenario) -> list[str]:
    elastic = elastic_of(scenario)
    notes = []
    if elastic.freeze == "adaptive":
        notes.append(
            "freezing follows the gradients, which are not known beforehand: predicted is the most "
            "that may freeze, so the run takes at least as long"
        )
    if elastic.freeze != "off" and elastic.autocache and not elastic.autopipe:
        notes.append("nothing is cached, as `autocache` needs `autopipe`")
    return notes


def ablation(
    scenario: Scenario,
    profile: Profile | None = None,
    *,
    draws: int = 0,
    seed: int = 0,
    progress: Progress = lambda text: None,
) -> tuple[AblationRow, ...]:
    """The run with five combinations of the mechanisms, and what each gains over no freezing."""
    elastic = elastic_of(scenario)
    predictor = _Predictor(scenario, profile, draws, seed)
    rows: list[AblationRow] = []
    for name, fields in COMBINATIONS.items():
        changed = replace(scenario, elastic=replace(elastic, **fields))  # type: ignore[arg-type]
        progress(name)
        found = predictor.run(changed, None, lambda text: None)
        base = rows[0].prediction.total_ns if rows else found.total_ns
        speedup = base / found.total_ns
        rows.append(AblationRow(name=name, scenario=changed, prediction=found, speedup=speedup))
    return tuple(rows)


def contributions(speedups: Mapping[str, float]) -> dict[str, float]:
    """What each mechanism multiplies the speed by, from an ablation's speed-ups by name.

    AutoDP and AutoCache: all together over all without it. AutoPipe: what remains of the whole, and
    with it what the mechanisms gain or lose by one another, so that the four multiply to the whole.
    """
    freezing = speedups[FREEZE_ONLY] / speedups[NO_FREEZE]
    autodp = speedups[ALL] / speedups[WITHOUT_AUTODP]
    autocache = speedups[ALL] / speedups[WITHOUT_AUTOCACHE]
    whole = speedups[ALL] / speedups[NO_FREEZE]
    return {
        "freezing": freezing,
        "AutoPipe": whole / (freezing * autodp * autocache),
        "AutoDP": autodp,
        "AutoCache": autocache,
    }


def summary(
    prediction: ElasticPrediction, ablation: Sequence[AblationRow] = ()
) -> dict[str, object]:
    """The stable machine form that `simulate --json` prints for a run of epochs."""
    scenario, caches = prediction.scenario, prediction.caches_from is not None
    found: dict[str, object] = {
        "scenario": scenario.name,
        "digest": scenario.digest,
        "engine": prediction.engine,
        "total_s": prediction.total_ns / 1e9,
        "training_s": prediction.training_ns / 1e9,
        "transition_s": prediction.transition_ns / 1e9,
        "samples_per_s": prediction.samples_per_s,
        "frozen_by_epoch": list(prediction.frozen_by_epoch),
        "caches_from": prediction.caches_from,
        "cache_bytes": cache_bytes(scenario) if caches else 0,
        "cache_bytes_on_disk": cache_bytes_on_disk(scenario) if caches else 0,
        "phases": [_phase_json(phase) for phase in prediction.phases],
        "transitions": [
            {
                "phase": transition.phase,
                "total_s": transition.total_ns / 1e9,
                "moved_bytes": transition.moved_bytes,
                **{f"{part}_s": time / 1e9 for part, time in transition.parts.items()},
            }
            for transition in prediction.transitions
        ],
        "epochs": [
            {
                "epoch": epoch.epoch,
                "phase": epoch.phase,
                "frozen_layers": epoch.frozen_layers,
                "cached_layers": epoch.cached_layers,
                "pipeline": epoch.pipeline,
                "data": epoch.data,
                "microbatches": epoch.microbatches,
                "seconds": epoch.seconds,
                "samples_per_s": epoch.samples_per_s,
            }
            for epoch in prediction.epochs
        ],
        "notes": list(prediction.notes),
    }
    if ablation:
        found["ablation"] = [
            {"name": row.name, "total_s": row.prediction.total_ns / 1e9, "speedup": row.speedup}
            for row in ablation
        ]
        found["contributions"] = contributions({row.name: row.speedup for row in ablation})
    return found


def _phase_json(found: PhasePrediction) -> dict[str, object]:
    phase, layout, prediction = found.phase, found.phase.layout, found.prediction
    peaks = [curve.peak_bytes for curve in prediction.memory] if prediction.memory else None
    return {
        "index": phase.index,
        "first_epoch": phase.first_epoch,
        "epochs": phase.epochs,
        "frozen_layers": phase.frozen_layers,
        "cached_layers": phase.cached_layers,
        "fills_cache": phase.fills_cache,
        "pipeline": layout.pipeline,
        "data": layout.data,
        "layers_per_stage": list(layout.layers_per_stage),
        "micro_batch": layout.micro_batch,
        "microbatches": layout.microbatches,
        "iterations": phase.iterations,
        "iteration_s": found.iteration_ns / 1e9,
        "epoch_s": found.epoch_ns / 1e9,
        "samples_per_s": found.samples_per_s,
        "bubble_fraction": prediction.figures.bubble_fraction,
        "peak_memory_bytes": peaks,
        "fits": fits(prediction),
    }
