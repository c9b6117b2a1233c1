"""What commands do with elastic runs: predict them, and write their pages."""

from __future__ import annotations

from pathlib import Path

from reports.console import progress, wrote
from reports.files import InputError, command_line
from scenarios.loader import Loaded
from scenarios.writing import write_whole
from sim.cost.profile import Profile
from sim.elastic_run import AblationRow
from sim.variants import DRAWS


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
    from reports.page_elastic import render_elastic
    from reports.terminal_elastic import show_elastic
    from sim.elastic.phases import elastic_of
    from sim.elastic_run import ablation, predict_run

    report, trace = outputs
    refuse_trace(trace)
    scenario, draws = loaded.scenario, DRAWS if used else 0
    rows: tuple[AblationRow, ...] = ()
    if elastic_of(scenario).freeze != "off":
        rows = ablation(scenario, used, draws=draws, progress=progress())
    found = next((row.prediction for row in rows if row.scenario.digest == scenario.digest), None)
    if found is None:
        found = predict_run(scenario, used, draws=draws, progress=progress())
    if report is not None:
        page = render_elastic(found, rows, loaded=loaded, command=command_line())
        write_whole(report, page, force=force)
    show_elastic(found, rows, as_json=as_json)
    wrote((report,), as_json=as_json)
    return 0


def refuse_trace(trace: Path | None) -> None:
    """Raise InputError where a trace is wanted: it is of one iteration."""
    if trace is not None:
        raise InputError(
            "--trace is of one iteration, and an elastic run has one in each phase: give the "
            "phase's plan, as `--set elastic=null --set plan.frozen_layers=4 --trace t.json.gz`"
        )
