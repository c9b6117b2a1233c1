"""What `import-trace` does: traces of a user's own run become a measured file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reports.commands import files, scenario_files
from reports.terminal import basics as terminal
from reports.terminal import console
from sim.measurement import write_measurement
from sim.traces.importing import import_traces
from sim.traces.own import import_own, is_own


def import_trace(
    name: str,
    overrides: Sequence[str],
    traces: Sequence[Path],
    ranks: str,
    output: Path,
    *,
    as_json: bool,
    force: bool,
) -> int:
    """Read a run's traces as a measurement of a scenario, write it and show its figures.

    ranks: the pipeline rank of each trace, with commas between them; empty: by what they say.
    """
    files.check_outputs((output,), force=force, inputs=traces)
    order = _ranks(ranks)
    if not traces:
        raise files.InputError(
            "give a trace a rank, as `pipetwin import-trace mine.yaml rank0.json.gz rank1.json.gz "
            "-o measured.json`"
        )
    told = console.progress()
    scenario = scenario_files.load_ready(name, overrides, None, told).scenario
    if scenario.elastic is not None:
        raise files.InputError(
            f"{name} is a run of epochs, and traces are of iterations: give one phase's plan, as "
            "`--set elastic=null --set plan.frozen_layers=4`"
        )
    if is_own(traces[0]):
        measurement = import_own(scenario, traces)
    else:
        measurement = import_traces(scenario, traces, order, told).measurement
    write_measurement(measurement, output, force=force)
    terminal.show_measurement(measurement, None, as_json=as_json)
    console.wrote((output,), as_json=as_json)
    return 0


def _ranks(text: str) -> list[int] | None:
    if not text:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise files.InputError(
            f"--ranks {text}: give numbers with commas between them, one a trace, as --ranks 1,0"
        )
    return [int(part) for part in parts]
