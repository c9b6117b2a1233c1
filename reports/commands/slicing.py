"""What `slice` does: a scenario's best slicing found, shown and written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from reports.commands import files, scenario_files
from reports.terminal import console
from reports.terminal import slicing as terminal_slicing
from scenarios.loader import load
from sim.planner.search import CHANGED, best_slicing


class Asked(NamedTuple):
    """What the search is to keep to."""

    granularity: int
    keep_microbatches: bool
    memory: str
    simulations: int


def find(
    name: str,
    overrides: Sequence[str],
    profile: Path | None,
    asked: Asked,
    output: Path | None,
    *,
    as_json: bool,
    force: bool,
) -> int:
    """Find a scenario's slicing, write the scenario with it where asked, and show it; the exit
    code."""
    files.check_outputs((output,), force=force)
    loaded = load(name, overrides)
    found = best_slicing(
        loaded.scenario,
        files.profile(profile),
        granularity=asked.granularity,
        keep_microbatches=asked.keep_microbatches,
        memory_bytes=scenario_files.size_in_bytes(asked.memory, "--memory"),
        simulations=asked.simulations,
        progress=console.progress(),
    )
    if output is not None:
        scenario_files.write_scenario(output, loaded, found.best.scenario, CHANGED, force=force)
    terminal_slicing.show_slicing(found, loaded.scenario, as_json=as_json)
    console.wrote((output,), as_json=as_json)
    return 0
