"""What `simulate` does: one iteration of a scenario, or a whole run of epochs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from reports.commands import asking, files, scenario_files, trace_files
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
    what_if: bool = False,
    as_json: bool,
    force: bool,
) -> int:
    """Simulate a scenario, write what was asked for and show its figures; the exit code.

    outputs: the HTML report and the trace. engine: which one simulates an iteration.
    what_if: also ask what the time hangs on; a report asks it anyway.
    """
    report, trace = outputs
    files.check_outputs(outputs, force=force)
    used = files.profile(profile)
    loaded = scenario_files.load_ready(name, overrides, used, console.progress())
    if loaded.scenario.elastic is not None:
        from reports.commands import elastic_files

        of_iteration = {f"--engine {engine}": engine != "auto", "--what-if": what_if}
        elastic_files.refuse_iteration(of_iteration)
        return elastic_files.simulate(loaded, used, outputs, as_json=as_json, force=force)
    try:
        found = predict(loaded.scenario, used, draws=15 if profile else 0, engine=engine)
    except OverflowError as error:
        raise files.InputError(f"--engine {engine}: {error}; --engine simpy has no limit") from None
    if found.note is not None:
        sys.stderr.write(f"note: {found.note}\n")
    if trace is not None:
        trace_files.write_predicted_trace(trace, found, force=force)
    answers = asking.asked(found) if what_if or report is not None else None
    sent = asking.sent(found) if as_json or report is not None else None
    if report is not None:
        files.write_report(
            report,
            found,
            loaded,
            what_if=answers,
            traffic=sent,
            trace="" if trace is None else trace.name,
            force=force,
        )
    if as_json:
        from reports.answer import answer

        console.show_json(answer(found, what_if=answers, traffic=sent))
    else:
        terminal.show_prediction(found, as_json=False)
        if what_if and answers is not None:
            from reports.terminal.what_if import show_what_if

            show_what_if(answers, loaded.scenario)
    console.wrote(outputs, as_json=as_json)
    return 0
