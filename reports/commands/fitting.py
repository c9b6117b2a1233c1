"""What `calibrate` fits a profile to: measured files, logs of runs, or published tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from reports.commands import files
from reports.terminal import console
from reports.terminal import scores as terminal_scores
from sim.calibration import calibrate_from_runs
from sim.cost.profile import Profile
from sim.cost.profile_file import write_profile
from sim.elastic_measurement import is_elastic_file
from sim.measurement import read_measurements


class Log(NamedTuple):
    """The log, or the published tables, to fit to.

    folding: how many folds (none for 0), the seed of the shuffle into them, what one keeps
    together.
    """

    runs: Path | None
    published: str
    collectives: Path | None
    device: str
    folding: tuple[int, int, Literal["run", "plan", "model"]]


class Fitted(NamedTuple):
    """A profile, with its errors over folds and notes where it was fitted to a log."""

    profile: Profile
    sets: Sequence[Mapping[str, object]] = ()
    notes: Sequence[str] = ()


def calibrate(
    measured: Sequence[Path],
    log: Log,
    overrides: Sequence[str] | None,
    outputs: tuple[Path | None, Path | None],
    *,
    as_json: bool,
    force: bool,
) -> int:
    """Make a profile, write it and its page (`outputs`) where asked and show it; the exit code."""
    output, report = outputs
    read = (*measured, log.runs, log.collectives)
    files.check_outputs((output, report), force=force, inputs=read)
    mode = "--runs" if log.runs else "--published"
    used = ("--device", "--set", "--collectives", "--report", *(("--folds",) if log.runs else ()))
    given = {"--folds": log.folding[0], "--device": log.device}
    files.refuse_unused(
        {"measured files": measured, mode: log.runs or log.published},
        {**given, "--collectives": log.collectives, "--set": overrides, "--report": report},
        {mode: used},
        default=(),
    )
    if log.runs or log.published:
        found, sets, notes = from_log(log, overrides or (), console.progress())
    else:
        found, sets, notes = from_runs(measured)
    if output is not None:
        write_profile(found, output, force=force)
    if report is not None:
        from reports.pages.page_calibration import render_calibration
        from scenarios.writing import write_whole

        shown = terminal_scores.profile_json(found, output, sets, notes)
        html = render_calibration(found, shown, command=files.command_line())
        write_whole(report, html, force=force)
    terminal_scores.show_profile(found, output, as_json=as_json, sets=sets, notes=notes)
    console.wrote((report,), as_json=as_json)
    return 0


def from_runs(paths: Sequence[Path]) -> Fitted:
    """A profile of measured files."""
    for path in paths:
        if is_elastic_file(path):
            raise files.InputError(
                f"{path}: holds elastic runs, which keep no timelines to calibrate from: run "
                "single iterations, as `pipetwin run SCENARIO --set elastic=null -o m.json`"
            )
    return Fitted(calibrate_from_runs([m for path in paths for m in read_measurements(path)]))


def from_log(log: Log, overrides: Sequence[str], progress: Callable[[str], None]) -> Fitted:
    """A profile of a log of iteration times, or of published ones."""
    from sim import log_calibration, training_data

    cluster = files.cluster(log.device, overrides)
    data = training_data.read_training(
        cluster, log=log.runs, published=log.published, collectives=log.collectives
    )
    count, seed, by = log.folding
    folding = log_calibration.Folding(count=count, seed=seed, by=by) if count else None
    fitted = log_calibration.calibrate_from_log(data, cluster, progress, folding)
    return Fitted(fitted.profile, fitted.sets, fitted.notes)
