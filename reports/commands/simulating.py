"""What `simulate` does: one iteration of a scenario, or a whole run of epochs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from reports.commands import files, scenario_files, trace_files
from reports.terminal import basics as terminal
from reports.terminal import console
from sim.engine.choice import Engine
from sim.prediction import predict


def simulate(
    name: str,
    overrides: Sequence[str],
    profile: Path | None,
    outputs: tuple[Path | None, Path | None],
    *,
    engine: Engine = "auto",
    as_json: bool,
    force: bool,
) -> int:
    """Simulate a scenario, write what was asked for and show its figures; the exit code.

    outputs: the HTML report and the trace. engine: which one simulates an iteration.
    """
    report, trace = outputs
    files.check_outputs(outputs, force=force)
    used = files.profile(profile)
    loaded = scenario_files.load_ready(name, overrides, used, console.progress())
    if loaded.scenario.elastic is not None:
        from reports.commands import elastic_files

        elastic_files.refuse_iteration({f"--engine {engine}": engine != "auto"})
        return elastic_files.simulate(loaded, used, outputs, as_json=as_json, force=force)
    try:
        found = predict(loaded.scenario, used, draws=15 if profile else 0, engine=engine)
    except OverflowError as error:
        raise files.InputError(f"--engine {engine}: {error}; --engine simpy has no limit") from None
    if found.note is not None:
        sys.stderr.write(f"note: {found.note}\n")
    if trace is not None:
        trace_files.write_predicted_trace(trace, found, force=force)
    if report is not None:
        files.write_report(report, found, loaded, force=force)
    terminal.show_prediction(found, as_json=as_json)
    console.wrote(outputs, as_json=as_json)
    return 0
