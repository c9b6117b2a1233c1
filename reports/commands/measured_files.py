"""Measured files held against predictions, and the reports of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reports.commands.files import InputError, command_line, write_report
from reports.commands.trace_files import write_measured_trace
from scenarios.loader import Loaded, load
from scenarios.writing import write_whole
from sim.comparison import Comparison, compare
from sim.cost.profile import Profile
from sim.elastic_measurement import is_elastic_file
from sim.loop import LoopResult
from sim.measurement import Measurement, read_measurements, write_measurements
from sim.prediction import Prediction, predict
from sim.sweeps.reading import is_results_file
from sim.variants import DRAWS, VariantsResult, as_measured, beside, variants_of

_USAGE = (
    "give one scenario and its measurement, as "
    "`pipetwin validate local-2rank --measured m.json`; or several with --calibrate-on"
)


def compare_variants(
    scenarios: Sequence[str], measured: Path | None, used: Profile | None, overrides: Sequence[str]
) -> VariantsResult | None:
    """Predict a scenario's variants and hold them against a file of their measurements; None where
    the scenario has none, or the file is of the scenario itself."""
    if len(scenarios) != 1 or measured is None:
        raise InputError(_USAGE)
    loaded = load(scenarios[0], overrides)
    if not loaded.variants:
        return None
    measurements = read_measurements(measured)
    if [m.scenario.name for m in measurements] == [loaded.scenario.name]:
        return None
    return beside(loaded, loaded.variants, measurements, used)


def compare_file(
    scenarios: Sequence[str],
    measured: Path | None,
    used: Profile | None,
    overrides: Sequence[str],
) -> tuple[Loaded, Prediction, Measurement, Comparison]:
    """Predict a scenario and hold it against a measured file, of several against its own."""
    if len(scenarios) != 1 or measured is None:
        raise InputError(_USAGE)
    loaded = load(scenarios[0], overrides)
    if loaded.scenario.elastic is not None:
        raise InputError(
            f"{measured}: holds no elastic runs, and {loaded.scenario.name} is one: give a file of "
            f"`pipetwin run {scenarios[0]} -o m.json`, or hold one phase against it, with "
            "`--set elastic=null`"
        )
    found = read_measurements(measured)
    own = [m for m in found if m.scenario.name == loaded.scenario.name]
    # Slices to be searched are taken from the file, so that nothing else tells it is another's.
    if not own and (len(found) > 1 or loaded.scenario.plan.slices == "optimal"):
        names = ", ".join(m.scenario.name for m in found)
        raise InputError(f"{measured}: is of {names}, not of {loaded.scenario.name}")
    measurement = own[0] if len(found) > 1 else found[0]
    loaded = replace(loaded, scenario=as_measured(loaded.scenario, measurement.scenario))
    prediction = predict(loaded.scenario, used, draws=DRAWS if used else 0)
    try:
        return loaded, prediction, measurement, compare(prediction, measurement)
    except ValueError as error:
        raise InputError(f"{measured}: {error}") from error


def keep_run(
    loaded: Loaded,
    measurement: Measurement,
    used: Profile | None,
    paths: tuple[Path | None, Path | None, Path | None],
    *,
    force: bool,
) -> None:
    """Write what was measured of one scenario: the file itself, a trace, a report."""
    output, trace, report = paths
    if output is not None:
        write_measurements([measurement], output, force=force)
    if trace is not None:
        write_measured_trace(trace, measurement, force=force)
    if report is not None:
        prediction = predict(loaded.scenario, used, draws=DRAWS if used else 0)
        write_report(report, prediction, loaded, measurement=measurement, force=force)


def keep_variants(
    found: VariantsResult, output: Path | None, report: Path | None, *, force: bool
) -> None:
    """Write the measurements of all variants to one file, and their report."""
    if output is not None:
        write_measurements([case.whole for case in found.cases], output, force=force)
    if report is not None:
        from reports.pages.page_variants import render_variants

        write_whole(report, render_variants(found, command_line()), force=force)


def write_loop_report(
    path: Path,
    result: LoopResult,
    scenarios: Sequence[str],
    overrides: Sequence[str],
    *,
    force: bool,
) -> None:
    """Write the HTML report of a closed loop: of a scenario's variants side by side; else its first
    scenario in full, and every row."""
    loaded = load(scenarios[0], overrides)
    if len(scenarios) == 1 and loaded.variants:
        keep_variants(variants_of(result, loaded), None, path, force=force)
        return
    first = result.cases[0]
    write_report(
        path,
        first.prediction,
        first.loaded,
        measurement=first.measurement,
        comparison=first.comparison,
        loop=(*(case.row for case in result.cases), *result.calibration),
        force=force,
    )


def write_measured_report(path: Path, measured: Path, used: Profile | None, *, force: bool) -> None:
    """Write the report of a measured file, beside its prediction, or of a sweep's results."""
    if is_results_file(measured):
        from reports.commands.sweeping import write_sweep_report

        if used is not None:
            raise InputError("--profile does nothing with a sweep's results: leave it out")
        write_sweep_report(path, measured, force=force)
        return
    if is_elastic_file(measured):
        from reports.commands import elastic_files

        elastic_files.write_measured_report(path, measured, used, force=force)
        return
    found = read_measurements(measured)
    if len(found) > 1:
        variants = [Loaded(scenario=m.scenario, origins={}, files=()) for m in found]
        keep_variants(beside(None, variants, found, used), None, path, force=force)
        return
    prediction = predict(found[0].scenario, used, draws=DRAWS if used else 0)
    write_report(path, prediction, None, measurement=found[0], force=force)
