"""Calibration from old logs: a CSV of whole-iteration times -> a profile, and its scores.

The fit is sim.cost.fit's; here it is given the SimPy engine to find each run's critical path with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from scenarios.schema import Cluster
from sim.cost.baselines import constant_rate, constant_rate_with_bubble
from sim.cost.costs import CostTable
from sim.cost.fit import fit_runs, predict_runs
from sim.cost.path import Composition, composition_of
from sim.cost.profile import Profile
from sim.cost.runs import Run, read_runs
from sim.engine.simpy_engine import simulate
from sim.schedule.lowering import Program
from sim.scores import score
from sim.timeline.critical_path import critical_path

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCalibration:
    """A profile from a CSV of runs, and its scores on them, as `sets` of `calibrate --json`."""

    profile: Profile
    sets: tuple[Mapping[str, object], ...]


def simulated(program: Program, table: CostTable) -> tuple[float, Composition]:
    """A program's iteration time by the engine, and what its critical path consists of."""
    timeline = simulate(program, table)
    path = critical_path(timeline, program)
    return timeline.iteration_ns, composition_of(path.composition(), path.queued_ns)


def calibrate_from_log(path: Path, cluster: Cluster, progress: Progress) -> LogCalibration:
    """Fit the device's and its links' parameters to a CSV of whole-iteration times.

    Raises RunsError, with line and column, where the file is wrong.
    """
    runs = read_runs(path, cluster)
    progress(f"fitting {len(runs)} runs: each is simulated several times ...")
    fit = fit_runs(runs, simulated)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    profile = Profile(
        device=cluster.device.name,
        provenance=f"fitted to {len(runs)} whole-iteration times in {path.name} (sha256 {digest}) "
        f"on {cluster.name}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        efficiency=fit.parameters,
    )
    return LogCalibration(profile=profile, sets=(score_runs(path.name, runs, fit.predicted_ns),))


def validate_log(path: Path, cluster: Cluster, profile: Profile | None) -> Mapping[str, object]:
    """Score a profile (or the device model's defaults) on a CSV of whole-iteration times."""
    runs = read_runs(path, cluster)
    values = {name: f.value for name, f in profile.efficiency.items()} if profile else {}
    return score_runs(path.name, runs, predict_runs(runs, values, simulated))


def score_runs(
    name: str, runs: Sequence[Run], predicted_ns: Sequence[float]
) -> Mapping[str, object]:
    """One set of scores, with those of a constant TFLOP/s and of a constant times the bubble
    formula, both fitted to the very runs, as baselines."""

    def scored(times: Sequence[float]) -> dict[str, object]:
        return score(
            [
                (_what(run), predicted / 1e9, run.measured_ns / 1e9)
                for run, predicted in zip(runs, times, strict=True)
            ]
        )

    baselines = {
        "constant_tflops": scored(constant_rate(runs, runs)),
        "constant_times_bubble": scored(constant_rate_with_bubble(runs, runs)),
    }
    for baseline in baselines.values():
        del baseline["points"]
    return {"id": name, **scored(predicted_ns), "baselines": baselines}


def _what(run: Run) -> str:
    model, plan = run.scenario.model, run.scenario.plan
    assert model is not None
    return (
        f"{model.layers}x{model.hidden} t{plan.tensor} p{plan.pipeline} d{plan.data} "
        f"b{plan.micro_batch}"
    )
