"""Calibration from old logs: whole-iteration times -> a profile, and its scores.

The fit is sim.cost.fit's; here it is given the SimPy engine to find each run's critical path with,
and is held to runs that it has not seen (cross-validation).
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

from scenarios.schema import Cluster
from sim.calibration import CalibrationError
from sim.cost.baselines import BASELINES
from sim.cost.costs import CostTable
from sim.cost.fit import PARAMETERS, Fit, Parameter, fit_runs, parameters_for, predict_runs
from sim.cost.path import Composition, composition_of
from sim.cost.profile import Bound, Fitted, Profile, ProfileMismatch, same_device
from sim.cost.runs import Run, RunLog, fingerprint, read_log
from sim.engine.choice import simulate
from sim.hints import what_of, worst_rows
from sim.prediction import without_collector
from sim.schedule.lowering import Program
from sim.scores import score
from sim.timeline.critical_path import critical_path
from sim.training_data import Training

Progress = Callable[[str], None]
FoldBy = Literal["run", "plan", "model"]
Sample = Literal["in-sample", "partly in-sample", "cross-validated", "other data", "not calibrated"]
NEAR_BOUND = 5e-3
"""A fitted value nearer to a bound than this part of its range, on the fitted scale, is at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCalibration:
    """A profile from whole-iteration times, its scores as `sets` of `calibrate --json` (where there
    is a cross-validated one it is the first), and notes on the reading."""

    profile: Profile
    sets: tuple[Mapping[str, object], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folding:
    """How runs are shared out over folds: `count` of them, at random by `seed`.

    by: what stays together; `run`: each run by itself; `plan`: replicates; `model`: runs of one
    model, so that each fold is predicted from other models.
    """

    count: int
    seed: int = 0
    by: FoldBy = "run"


def simulated(program: Program, table: CostTable) -> tuple[float, Composition]:
    """A program's iteration time by the engine, and what its critical path consists of."""
    with without_collector():
        timeline = simulate(program, table)
        path = critical_path(timeline, program)
        return timeline.iteration_ns, composition_of(path.composition(), table, path.queued_ns)


def calibrate_from_log(
    training: Training,
    cluster: Cluster,
    progress: Progress,
    folding: Folding | None = None,
    *,
    workers: int | None = None,
) -> LogCalibration:
    """Fit the device's and its links' parameters to whole-iteration times.

    The profile is fitted to all of them. With a folding, the log's runs are also predicted fold by
    fold from fits to the other folds (and to all published rows and collectives), and so are the
    baselines. Fits run in parallel processes, as many as there are cores unless `workers` says.
    Raises CalibrationError where there are fewer runs than folds.
    """
    from joblib import Parallel, delayed

    runs, others = training.runs, training.others
    folds = folds_of(runs, folding) if folding is not None else ()
    held_out = [[i for i, f in enumerate(folds) if f == fold] for fold in sorted(set(folds))]
    learned = [[i for i, f in enumerate(folds) if f != fold] for fold in sorted(set(folds))]
    # The fit to everything takes longest, so it comes first.
    jobs: list[tuple[list[int], list[int]]] = [(list(range(len(runs))), [])]
    jobs += zip(learned, held_out, strict=True)
    progress(f"fitting {len(runs) + len(others)} runs, {len(jobs)} times ...")
    pending = (
        delayed(_job)(
            number,
            [*(runs[i] for i in train), *others],
            [runs[i] for i in test],
            training,
        )
        for number, (train, test) in enumerate(jobs)
    )
    processes = min(workers or os.cpu_count() or 1, len(jobs))
    results: dict[int, tuple[Fit, tuple[float, ...]]] = {}
    for number, fit, times in Parallel(n_jobs=processes, return_as="generator_unordered")(pending):
        results[number] = fit, times
        progress(f"fitted {len(results)} of {len(jobs)}")
    fit = results[0][0]
    sets: list[Mapping[str, object]] = []
    if folding is not None:
        crossed = [0.0] * len(runs)
        for number, (_, test) in enumerate(jobs[1:], start=1):
            for index, time in zip(test, results[number][1], strict=True):
                crossed[index] = time
        sets.append(
            {
                **score_runs(training.log_name, runs, crossed, "cross-validated", folds=folds),
                "folds": {"count": len(jobs) - 1, "seed": folding.seed, "by": folding.by},
            }
        )
    if runs:
        name = training.log_name + (" (in-sample)" if sets else "")
        sets.append(score_runs(name, runs, fit.predicted_ns[: len(runs)], "in-sample"))
    start = len(runs)
    for source, rows in training.published.items():
        times = fit.predicted_ns[start : start + len(rows)]
        sets.append(score_runs(f"{source.name} (in-sample)", rows, times, "in-sample"))
        start += len(rows)
    parameters = parameters_for([*runs, *others], training.part_points)
    profile = Profile(
        device=cluster.device.name,
        provenance=_provenance(training, cluster),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        efficiency={name: flagged(name, f, parameters) for name, f in fit.parameters.items()},
        sources=training.sources,
    )
    return LogCalibration(profile=profile, sets=tuple(sets), notes=training.notes)


def _job(
    number: int,
    train: Sequence[Run],
    test: Sequence[Run],
    training: Training,
) -> tuple[int, Fit, tuple[float, ...]]:
    """A fit, and what it predicts for runs it has not seen; in a process of its own."""
    fit_them = partial(fit_runs, parts=training.part_points) if training.parts else fit_runs
    fit = fit_them(train, simulated, collectives=training.collectives)
    return number, fit, predict_runs(test, fit.values, simulated)


def folds_of(runs: Sequence[Run], folding: Folding) -> tuple[int, ...]:
    """The fold of each run: what stays together is shuffled by the seed and dealt out in turn."""
    keys: list[Hashable] = [_together(index, run, folding.by) for index, run in enumerate(runs)]
    distinct = list(dict.fromkeys(keys))
    if not 2 <= folding.count <= len(distinct):
        what = {"run": "runs", "plan": "different plans", "model": "models"}[folding.by]
        rule = f"must be from 2 to {len(distinct)}, the number of {what} in the file"
        if len(distinct) < 2:
            rule = f"needs two {what}, but the file has {len(distinct)}: leave it out"
        raise CalibrationError(f"--folds {folding.count}: {rule}")
    random.Random(folding.seed).shuffle(distinct)
    fold = {key: index % folding.count for index, key in enumerate(distinct)}
    return tuple(fold[key] for key in keys)


def _together(index: int, run: Run, by: FoldBy) -> Hashable:
    if by == "run":
        return index
    if by == "plan":
        return run.group, run.plan
    model = run.scenario.model
    assert model is not None
    return replace(model, name="")


def flagged(name: str, fitted: Fitted, parameters: Sequence[Parameter] = PARAMETERS) -> Fitted:
    """A fitted parameter with the bound that it is at, if it is."""
    for parameter in parameters:
        if parameter.name == name:
            low, high = parameter.inward(parameter.low), parameter.inward(parameter.high)
            place = (parameter.inward(fitted.value) - low) / (high - low)
            bound: Bound | None = None
            if min(place, 1 - place) < NEAR_BOUND:
                bound = "low" if place < 0.5 else "high"
            return replace(fitted, at_bound=bound)
    return fitted


def _provenance(training: Training, cluster: Cluster) -> str:
    parts = []
    if training.log is not None:
        digest = training.log.digest[:16]
        parts.append(f"{len(training.runs)} runs of {training.log_name} (sha256 {digest})")
    parts += [f"{len(runs)} rows of {source.name}" for source, runs in training.published.items()]
    for source, points in training.parts.items():
        parts.append(f"{len(points)} times of {source.name}")
    if training.collectives:
        (name,) = (s.name for s in training.sources if s.kind == "collectives")
        parts.append(f"{len(training.collectives)} all-reduces of {name}")
    return f"fitted to whole-iteration times: {', '.join(parts)}; on {cluster.name}"


def validate_log(
    path: Path,
    cluster: Cluster,
    profile: Profile | None,
    progress: Progress,
    *,
    workers: int | None = None,
) -> tuple[Mapping[str, object], tuple[str, ...]]:
    """Score a profile (or the device model's defaults) on a CSV of whole-iteration times, and tell
    what a reader should know of the reading.

    The set's `sample` says whether the profile was fitted to these very runs.
    Raises ProfileMismatch for a profile of another kind of device.
    """
    if profile is not None and not same_device(profile.device, cluster.device.name):
        raise ProfileMismatch(
            f"the profile is of {profile.device}, but the runs are taken as on "
            f"{cluster.device.name}: --device names theirs"
        )
    log = read_log(path, cluster)
    values = {name: f.value for name, f in profile.efficiency.items()} if profile else {}
    predicted = predict_all(log.runs, values, progress, workers=workers)
    return score_runs(path.name, log.runs, predicted, sample_of(log, profile)), log.notes


def sample_of(log: RunLog, profile: Profile | None) -> Sample:
    """Whether a profile was fitted to a log's runs: by the file's digest, or run by run."""
    if profile is None:
        return "not calibrated"
    fitted = [source for source in profile.sources if source.kind == "runs"]
    points = {point for source in fitted for point in source.points}
    seen = sum(fingerprint(run) in points for run in log.runs)
    if any(source.digest == log.digest for source in fitted) or seen == len(log.runs):
        return "in-sample"
    return "partly in-sample" if seen else "other data"


def predict_all(
    runs: Sequence[Run],
    values: Mapping[str, float],
    progress: Progress,
    *,
    workers: int | None = None,
) -> tuple[float, ...]:
    """Iteration times (ns) of runs with parameters set by name, in parallel processes."""
    from joblib import Parallel, delayed

    processes = min(workers or os.cpu_count() or 1, max(1, len(runs) // 8))
    # Runs next to each other are alike, so every process gets some of each kind.
    shares = [list(range(len(runs)))[k :: 8 * processes] for k in range(8 * processes)]
    jobs = (delayed(_predict)(share, [runs[i] for i in share], values) for share in shares if share)
    found: dict[int, float] = {}
    for share, times in Parallel(n_jobs=processes, return_as="generator_unordered")(jobs):
        found.update(zip(share, times, strict=True))
        progress(f"predicted {len(found)} of {len(runs)} runs")
    return tuple(found[i] for i in range(len(runs)))


def _predict(
    share: list[int], runs: Sequence[Run], values: Mapping[str, float]
) -> tuple[list[int], tuple[float, ...]]:
    return share, predict_runs(runs, values, simulated)


def score_runs(
    name: str,
    runs: Sequence[Run],
    predicted_ns: Sequence[float],
    sample: Sample,
    *,
    folds: Sequence[int] = (),
) -> dict[str, object]:
    """One set of scores of runs, with baselines and the worst rows.

    Runs of one model, global batch and number of devices compete as plans (see `sim.scores`).
    sample: what the predictions are. Baselines are fitted to the very runs, or, given each run's
    fold, to the other folds.
    """

    def scored(times: Sequence[float]) -> dict[str, object]:
        return score(
            [
                (what_of(run), predicted / 1e9, run.measured_ns / 1e9)
                for run, predicted in zip(runs, times, strict=True)
            ],
            groups=[run.group for run in runs],
            plans=[run.plan for run in runs],
        )

    baselines: dict[str, dict[str, object]] = {}
    for baseline, predict in BASELINES.items():
        times = [0.0] * len(runs)
        for fold in sorted(set(folds)) if folds else [-1]:
            test = [i for i in range(len(runs)) if not folds or folds[i] == fold]
            train = [run for i, run in enumerate(runs) if not folds or folds[i] != fold]
            for i, time in zip(test, predict(train, [runs[i] for i in test]), strict=True):
                times[i] = time
        baselines[baseline] = scored(times)
        del baselines[baseline]["points"]
    return {
        "id": name,
        "sample": sample,
        **scored(predicted_ns),
        "baselines": baselines,
        "baselines_fitted_to": "the other folds" if folds else "these very runs",
        "worst_rows": [asdict(row) for row in worst_rows(runs, predicted_ns)],
    }
