"""What commands do with elastic runs: predict them, and write their pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from reports.commands.files import InputError, command_line
from reports.elastic_words import own_row
from reports.terminal.console import progress, wrote
from reports.terminal.elastic_measured import Check
from reports.terminal.elastic_measured import finish as show_runs
from scenarios.loader import Loaded, load
from scenarios.schema import Scenario
from scenarios.writing import write_whole
from sim.cost.profile import Profile
from sim.elastic.freezing import frozen_by_epoch
from sim.elastic.layouts import layouts
from sim.elastic.phases import elastic_of
from sim.elastic_comparison import ElasticCase, ElasticComparison, compare_elastic
from sim.elastic_measurement import ElasticMeasurement, read_elastic, write_elastic
from sim.elastic_run import AblationRow, ElasticPrediction, ablation, predict_run
from sim.variants import DRAWS

_GIVEN = "predicted with the profile given, in the layouts that the run had"
_GENERIC = (
    "predicted with the device model, not calibrated on this machine, in the layouts that the run "
    "had; `pipetwin run` calibrates before each run and predicts from that"
)


def simulate(
    loaded: Loaded,
    used: Profile | None,
    outputs: tuple[Path | None, Path | None],
    *,
    as_json: bool,
    force: bool,
) -> int:
    """Predict an elastic run and what each mechanism brings, and show it; the exit code.

    outputs: the report, and a trace, which is refused.
    """
    from reports.pages.page_elastic import render_elastic
    from reports.terminal.elastic import show_elastic

    report, trace = outputs
    refuse_iteration({"--trace": trace})
    scenario, draws = loaded.scenario, DRAWS if used else 0
    rows: tuple[AblationRow, ...] = ()
    if any(frozen_by_epoch(scenario)):
        rows = ablation(scenario, used, draws=draws, progress=progress())
    own = own_row(scenario, rows)
    found = (
        own.prediction
        if own is not None
        else predict_run(scenario, used, draws=draws, progress=progress())
    )
    if report is not None:
        page = render_elastic(found, rows, loaded=loaded, command=command_line())
        write_whole(report, page, force=force)
    show_elastic(found, rows, as_json=as_json)
    wrote((report,), as_json=as_json)
    return 0


def compare_file(
    scenarios: Sequence[str], measured: Path, used: Profile | None, overrides: Sequence[str]
) -> tuple[Loaded, ElasticComparison]:
    """Predict a scenario and its variants as far as a file of elastic runs has them, and hold them
    against it; the scenario, or the variant named, first."""
    if len(scenarios) != 1:
        raise InputError(f"{measured}: holds runs of one scenario and its variants: name that one")
    loaded = load(scenarios[0], overrides)
    runs = {run.scenario.name: run for run in read_elastic(measured)}
    items = [item for item in (loaded, *loaded.variants) if item.scenario.name in runs]
    if not items:
        raise InputError(f"{measured}: is of {', '.join(runs)}, not of {loaded.scenario.name}")
    pairs = [(item.scenario, runs[item.scenario.name]) for item in items]
    return loaded, _compared(pairs, used, measured)


def _as_it_ran(
    scenario: Scenario, run: ElasticMeasurement, used: Profile | None
) -> ElasticPrediction:
    """A prediction in the layouts, and with the caching, that a run had: chosen with another
    profile they may be others."""
    own = list(layouts(scenario, used))
    for phase in run.phases:
        own[phase.frozen_layers] = phase.layout
    elastic = elastic_of(scenario)
    cached = [p.frozen_layers for p in run.phases if p.fills_cache or p.cached_layers]
    cache = replace(elastic.cache, pays_from=min(cached, default=len(own)))
    taken = replace(scenario, elastic=replace(elastic, cache=cache))
    found = predict_run(
        taken, used, layouts_given=own, draws=DRAWS if used else 0, progress=progress()
    )
    return replace(found, scenario=scenario)


def _short(scenario: Scenario, before: Sequence[object]) -> str:
    """A run's name: the first's whole, the others' as variants."""
    return scenario.name.rpartition(":")[2] if before else scenario.name


def write_measured_report(path: Path, measured: Path, used: Profile | None, *, force: bool) -> None:
    """Write the page of a file of elastic runs, with their predictions beside them."""
    pairs = [(run.scenario, run) for run in read_elastic(measured)]
    keep(_compared(pairs, used, measured), None, None, path, force=force)


def _compared(
    pairs: Sequence[tuple[Scenario, ElasticMeasurement]], used: Profile | None, path: Path
) -> ElasticComparison:
    cases: list[ElasticCase] = []
    for scenario, run in pairs:
        if scenario.elastic is None:
            raise InputError(
                f"{path}: holds elastic runs; {scenario.name} has no `elastic` section"
            )
        prediction = _as_it_ran(scenario, run, used)
        try:
            cases.append(compare_elastic(_short(scenario, cases), prediction, run))
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error
    note = _GIVEN if used is not None else _GENERIC
    return ElasticComparison(cases=tuple(cases), profile=used, note=note)


def keep(
    found: ElasticComparison,
    loaded: Loaded | None,
    output: Path | None,
    report: Path | None,
    *,
    force: bool,
) -> None:
    """Write what was measured of elastic runs, and their page."""
    if output is not None:
        write_elastic([case.measurement for case in found.cases], output, force=force)
    if report is not None:
        from reports.pages.page_elastic import render_elastic

        first = found.cases[0].prediction
        page = render_elastic(first, (), loaded=loaded, comparison=found, command=command_line())
        write_whole(report, page, force=force)


def finish(
    runs: ElasticComparison | None,
    loaded: Loaded,
    outputs: tuple[Path | None, Path | None],
    check: Check | None,
    *,
    as_json: bool,
    force: bool,
) -> int:
    """Keep and show executed runs; the exit code, 0 on ranks that have nothing to tell.

    outputs: the measurement, and the report. check: against plain training, where asked for.
    """
    if runs is None:
        return 0
    keep(runs, loaded, *outputs, force=force)
    return show_runs(runs, outputs, as_json=as_json, check=check)


def refuse_iteration(options: Mapping[str, object]) -> None:
    """Raise InputError where an option is given that is of one iteration."""
    for name, value in options.items():
        if value:
            raise InputError(
                f"{name} is of one iteration, and an elastic run has other ones in each phase: "
                f"give a phase's plan, as `--set elastic=null --set plan.frozen_layers=4 {name}`"
            )
