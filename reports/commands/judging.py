"""What `validate` does: predictions held against published tables, logs of runs, or one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from reports.commands import files, measured_files
from reports.terminal import console
from reports.terminal import scores as terminal_scores
from reports.terminal import variants as terminal_variants
from scenarios.loader import load
from scenarios.writing import write_whole
from sim.elastic_measurement import is_elastic_file

MODES = {
    "--runs": ("--profile", "--device", "--report"),
    "--calibrate-on": ("--report",),
    "--published": ("--profile", "--report"),
}
"""The options that each way of judging uses."""


def refuse_elastic(scenarios: Sequence[str], overrides: Sequence[str]) -> None:
    """Raise InputError where a scenario to be judged iteration by iteration is a run of epochs."""
    for name in scenarios:
        if load(name, overrides).scenario.elastic is not None:
            raise files.InputError(
                f"{name} is a run of epochs, which `pipetwin run {name}` predicts and judges; one "
                "iteration of it is judged with `--set elastic=null`"
            )


class Shown(NamedTuple):
    """How errors are shown: a page to write, the largest error that is no failure, as JSON."""

    report: Path | None
    max_error: float | None
    as_json: bool
    force: bool


def published(
    names: str,
    profile: Path | None,
    overrides: Sequence[str],
    shown: Shown,
    progress: Callable[[str], None],
) -> int:
    """Predict published tables, write their page where asked and show their errors; the exit
    code."""
    from reports.terminal import published as terminal_published
    from scenarios.published import PublishedTable
    from scenarios.published_elastic import RunTable
    from sim.published import predict_tables
    from sim.published_elastic import predict_runs
    from sim.published_sets import published_sets

    found = files.published_tables(names, overrides)
    tables = [table for table in found if isinstance(table, PublishedTable)]
    profiles = files.profile(profile) or files.table_profiles(tables)
    predicted = predict_tables(tables, profiles, progress)
    runs = predict_runs([table for table in found if isinstance(table, RunTable)], progress)
    sets = published_sets(predicted, runs)
    if shown.report is not None:
        from reports.pages.page_validation import render_published

        html = render_published(predicted, runs, sets, command=files.command_line())
        write_whole(shown.report, html, force=shown.force)
    errors = terminal_published.show_published(predicted, runs, as_json=shown.as_json, scored=sets)
    console.wrote((shown.report,), as_json=shown.as_json)
    return files.exit_code(errors, shown.max_error)


def log(
    runs: Path,
    device: str,
    profile: Path | None,
    overrides: Sequence[str],
    shown: Shown,
    progress: Callable[[str], None],
) -> int:
    """Predict the runs of a log of iteration times, write their page where asked and show their
    errors; the exit code."""
    from sim.log_calibration import validate_log

    cluster = files.cluster(device, overrides)
    scores, notes = validate_log(runs, cluster, files.profile(profile), progress)
    if shown.report is not None:
        from reports.pages.page_validation import render_log

        html = render_log(scores, notes, cluster.name, command=files.command_line())
        write_whole(shown.report, html, force=shown.force)
    terminal_scores.show_log_sets((scores,), notes, as_json=shown.as_json)
    console.wrote((shown.report,), as_json=shown.as_json)
    return files.exit_code((float(str(scores["mape"])),), shown.max_error)


def measured(
    scenarios: Sequence[str],
    path: Path | None,
    profile: Path | None,
    overrides: Sequence[str],
    report: Path | None,
    max_error: float | None,
    *,
    as_json: bool,
    force: bool,
) -> int:
    """Hold a scenario, or its variants, against a file of measurements, of single iterations or of
    elastic runs; the exit code."""
    used = files.profile(profile)
    if path is not None and is_elastic_file(path):
        from reports.commands import elastic_files
        from reports.terminal import elastic_measured as terminal_elastic_measured

        whole, runs = elastic_files.compare_file(scenarios, path, used, overrides)
        elastic_files.keep(runs, whole, None, report, force=force)
        terminal_elastic_measured.finish(runs, (report,), as_json=as_json)
        return files.exit_code([e for case in runs.cases if (e := case.error)], max_error)
    variants = measured_files.compare_variants(scenarios, path, used, overrides)
    if variants is not None:
        measured_files.keep_variants(variants, None, report, force=force)
        terminal_variants.finish(variants, (report,), as_json=as_json)
        return files.exit_code(variants.errors, max_error)
    loaded, found, measurement, comparison = measured_files.compare_file(
        scenarios, path, used, overrides
    )
    if report is not None:
        files.write_report(report, found, loaded, measurement=measurement, force=force)
    terminal_scores.show_comparison(found, comparison, as_json=as_json)
    console.wrote((report,), as_json=as_json)
    return files.exit_code((comparison.structural, comparison.predictive), max_error)
