"""What `calibrate` fits a profile to: measured files, logs of runs, or published tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from reports import files
from sim.calibration import calibrate_from_runs
from sim.cost.profile import Profile
from sim.elastic_measurement import is_elastic_file
from sim.measurement import read_measurements


class Fitted(NamedTuple):
    """A profile, with its errors over folds and notes where it was fitted to a log."""

    profile: Profile
    sets: Sequence[Mapping[str, object]] = ()
    notes: Sequence[str] = ()


def from_runs(paths: Sequence[Path]) -> Fitted:
    """A profile of measured files."""
    for path in paths:
        if is_elastic_file(path):
            raise files.InputError(
                f"{path}: holds elastic runs, which keep no timelines to calibrate from: run "
                "single iterations, as `pipetwin run SCENARIO --set elastic=null -o m.json`"
            )
    return Fitted(calibrate_from_runs([m for path in paths for m in read_measurements(path)]))


def from_log(
    log: Path | None,
    published: str,
    collectives: Path | None,
    device: str,
    overrides: Sequence[str],
    folds: tuple[int, int, Literal["run", "plan", "model"]],
    progress: Callable[[str], None],
) -> Fitted:
    """A profile of a log of iteration times, or of published ones.

    folds: how many (none for 0), the seed of the shuffle into them, what one keeps together.
    """
    from sim import log_calibration, training_data

    cluster = files.cluster(device, overrides)
    data = training_data.read_training(
        cluster, log=log, published=published, collectives=collectives
    )
    count, seed, by = folds
    folding = log_calibration.Folding(count=count, seed=seed, by=by) if count else None
    fitted = log_calibration.calibrate_from_log(data, cluster, progress, folding)
    return Fitted(fitted.profile, fitted.sets, fitted.notes)
