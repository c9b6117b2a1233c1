"""Checking catalogue entries and files of any kind, all problems of all of them at once."""

from __future__ import annotations

from collections.abc import Sequence

from scenarios.catalogue import catalogue, full_name, run_tables
from scenarios.errors import Problem, ScenarioError
from scenarios.loader import check_partial, load
from scenarios.published import load_table
from scenarios.published_elastic import load_runs


def check_all(names: Sequence[str], overrides: Sequence[str] = ()) -> str:
    """Check scenarios with their variants, published tables, and parts of scenarios (models,
    clusters, devices); what was checked, in words.

    Raises ScenarioError with every problem of every one.
    """
    kinds = {entry.name: entry.kind for entry in catalogue()}
    problems: list[Problem] = []
    variants: list[str] = []
    for name in names:
        try:
            entry = full_name(name)
            table_id = entry.removeprefix("published/")
            if kinds.get(entry) == "table" and table_id in run_tables():
                load_runs(table_id, overrides)
            elif kinds.get(entry) == "table":
                load_table(table_id, overrides)
            elif kinds.get(entry, "scenario") != "scenario":
                check_partial(name, overrides)
            else:
                loaded = load(name, overrides)
                variants += [variant.scenario.name for variant in loaded.variants]
        except ScenarioError as error:
            problems += error.problems
    if problems:
        raise ScenarioError(problems)
    also = f", and the variants {', '.join(variants)}" if variants else ""
    return f"{len(names)} checked{also}, no problems"
