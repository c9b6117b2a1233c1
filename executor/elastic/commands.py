"""What the command line asks of elastic runs: calibrate, predict, run, compare; and the check.

A scenario and its variants run one after another, in processes started anew. As a machine drifts
within minutes, each is calibrated for and predicted just before it runs; nothing that is measured
of a run goes into a prediction of it or of another one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from executor.elastic import checkpoint
from executor.elastic.calibration import ElasticCalibration, calibrate
from executor.elastic.errors import ElasticError
from executor.elastic.training import ElasticOrder, require_runnable, run_training
from executor.joining import under_torchrun
from executor.pinning import DISTURBED
from scenarios.loader import Loaded
from scenarios.schema import ElasticCache, Scenario, Transition
from scenarios.writing import write_whole
from sim.cost.profile import Profile, require_device
from sim.cost.profile_file import ProfileError, from_data, to_data
from sim.elastic_comparison import ElasticCase, ElasticComparison, compare_elastic
from sim.elastic_run import ElasticPrediction, predict_run

Progress = Callable[[str], None]
CALIBRATION = "calibration.json"
_FORMAT = "pipetwin-elastic-calibration-1"
_DRAWS = 9


def run_elastic(
    loaded: Loaded,
    *,
    profile: Profile | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
    fixed_batch: bool = True,
    progress: Progress = lambda text: None,
) -> ElasticComparison | None:
    """Predict and then execute a scenario's elastic run, and so each of its variants in turn; None
    on the ranks of a torchrun job that have nothing to tell.

    profile: predict with it, instead of calibrating before each run. checkpoints: a directory, in
    which each run has one of its own. resume: go on where these ended; a run that came to its end
    is not made again. fixed_batch: measure the loss of one batch around every transition.
    Interrupted once, it keeps the epochs that were finished. torchrun's ranks make the scenario's
    own run alone, predicted with the profile or the device model.
    Raises UnsupportedPlan or ElasticError where the executor cannot run it, RankFailure with every
    rank's story where a rank dies, ProfileMismatch for a profile of another device.
    """
    if resume and checkpoints is None:
        raise ElasticError(
            "there is nothing to resume from: give `--checkpoints`, the directory they are in"
        )
    runs = {loaded.scenario.name: loaded.scenario}
    if not under_torchrun():
        runs |= {v.scenario.name.rpartition(":")[2]: v.scenario for v in loaded.variants}
    guesses: dict[str, ElasticPrediction] = {}
    for name, scenario in runs.items():
        require_device(profile, scenario)
        # With the device model's layouts: what cannot be run is said before anything is calibrated.
        guesses[name] = predict_run(scenario)
        require_runnable(_order(scenario, guesses[name]))
    places = {
        name: None if checkpoints is None else checkpoints / name.replace("/", "-") for name in runs
    }
    for place in places.values():
        if place is not None and not resume:
            checkpoint.require_unused(place)
    cases: list[ElasticCase] = []
    calibrated: list[Profile] = []
    for name, scenario in runs.items():
        place = places[name]
        found = _calibration(guesses[name], profile, place if resume else None, progress)
        if place is not None and not (resume and (place / CALIBRATION).is_file()):
            _keep(found, place)
        prediction = _predict(scenario, found)
        progress(f"{name}: predicted beforehand: {prediction.total_ns / 1e9:.1f} s of training")
        measurement = run_training(
            replace(
                _order(scenario, prediction),
                checkpoints=place,
                resume=resume and place is not None and bool(checkpoint.complete(place)),
                fixed_batch=fixed_batch,
            ),
            progress,
        )
        if measurement is None:
            return None
        calibrated += [found.profile] if found.profile is not None else []
        cases.append(compare_elastic(name, prediction, measurement))
        if not cases[-1].whole:
            break
    return ElasticComparison(
        cases=tuple(cases),
        profile=calibrated[0] if calibrated else None,
        note=_note(cases, profile, calibrated),
        interrupted=len(cases) < len(runs) or not cases[-1].whole,
    )


def _order(scenario: Scenario, prediction: ElasticPrediction) -> ElasticOrder:
    """The run as it was predicted."""
    return ElasticOrder(
        scenario=scenario, layouts=prediction.layouts, caches_from=prediction.caches_from
    )


class _Given:
    """What a run is predicted with where nothing was calibrated."""

    def __init__(self, profile: Profile | None) -> None:
        self.profile = profile

    def applied(self, scenario: Scenario) -> Scenario:
        """The scenario as it is."""
        return scenario


def _calibration(
    guess: ElasticPrediction, profile: Profile | None, kept: Path | None, progress: Progress
) -> ElasticCalibration | _Given:
    """What a run is to be predicted with: what was kept of it, what is given, or a calibration in
    all sizes of microbatches that the run will have.

    guess: the run by the device model.
    """
    scenario, prediction = guess.scenario, guess
    if kept is not None and (kept / CALIBRATION).is_file():
        return _read(kept / CALIBRATION)
    gpu = scenario.cluster is not None and scenario.cluster.device.kind == "gpu"
    if profile is not None or under_torchrun() or gpu or scenario.cluster is None:
        return _Given(profile)
    sizes: set[int] = set()
    found: ElasticCalibration | None = None
    while not sizes >= (wanted := _sizes(prediction)):
        sizes |= wanted
        phases = [one.phase for one in prediction.phases]
        found = calibrate(scenario, sorted(sizes), phases, progress=progress)
        # With measured times the search may choose other microbatches than with the device model.
        prediction = _predict(scenario, found)
    assert found is not None, "a run has at least one phase"
    return found


def _sizes(prediction: ElasticPrediction) -> set[int]:
    return {one.phase.layout.micro_batch for one in prediction.phases}


def _predict(scenario: Scenario, found: ElasticCalibration | _Given) -> ElasticPrediction:
    profile = found.profile
    draws = _DRAWS if profile is not None and profile.ratios else 0
    return predict_run(found.applied(scenario), profile, draws=draws)


def _keep(found: ElasticCalibration | _Given, place: Path) -> None:
    """Write beside a run's checkpoints what it was predicted with, so that resumed it has the same
    layouts."""
    place.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"format": _FORMAT, "profile": None}
    if found.profile is not None:
        document["profile"] = to_data(found.profile)
    if isinstance(found, ElasticCalibration):
        document["transition"] = asdict(found.transition)
        document["cache"] = asdict(found.cache)
    write_whole(place / CALIBRATION, json.dumps(document), force=True)


def _read(path: Path) -> ElasticCalibration | _Given:
    try:
        document = json.loads(path.read_text())
        if not isinstance(document, Mapping) or document.get("format") != _FORMAT:
            raise ValueError("it is not what a run keeps")
        profile = from_data(document["profile"]) if document["profile"] is not None else None
        if profile is None or "transition" not in document:
            return _Given(profile)
        return ElasticCalibration(
            profile=profile,
            transition=TypeAdapter(Transition).validate_python(document["transition"]),
            cache=TypeAdapter(ElasticCache).validate_python(document["cache"]),
        )
    except (OSError, KeyError, ValueError, ValidationError, ProfileError) as error:
        raise ElasticError(
            f"{path} cannot be read ({error}), and without it a resumed run might choose other "
            "layouts: begin the run anew in another directory"
        ) from error


def _note(cases: list[ElasticCase], given: Profile | None, calibrated: list[Profile]) -> str:
    """How the runs were predicted, in which order they ran, and whether others disturbed them."""
    if given is not None:
        how = "predicted with the profile given"
    elif calibrated:
        how = (
            "each run predicted from short runs of the same layers just before it, on as many "
            "ranks as there are processors, and from changes between its layouts"
        )
    else:
        how = "predicted with the device model, for nothing was calibrated"
    text = f"{how}; run in this order: {', '.join(case.name for case in cases)}"
    shares = [e.foreign for c in cases for e in c.measurement.epochs if e.foreign is not None]
    busy = [share for share in shares if share > DISTURBED]
    if busy:
        text += (
            f". THE MACHINE WAS BUSY: in {len(busy)} of {len(shares)} epochs other processes took "
            f"more than {DISTURBED:.0%} of the processors' time, at most {max(busy):.0%}; repeat "
            "on a calm machine"
        )
    return text
