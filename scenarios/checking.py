"""Checking catalogue entries and files of any kind, all problems of all of them at once."""

from __future__ import annotations

from collections.abc import Sequence

from scenarios.catalogue import catalogue, full_name
from scenarios.errors import Problem, ScenarioError
from scenarios.loader import check_partial, load
from scenarios.published import load_table


def check_all(names: Sequence[str], overrides: Sequence[str] = ()) -> None:
    """Check scenarios, published tables, and parts of scenarios (models, clusters, devices).

    Raises ScenarioError with every problem of every one.
    """
    kinds = {entry.name: entry.kind for entry in catalogue()}
    problems: list[Problem] = []
    for name in names:
        try:
            entry = full_name(name)
            if kinds.get(entry) == "table":
                load_table(entry.removeprefix("published/"), overrides)
            elif kinds.get(entry, "scenario") != "scenario":
                check_partial(name, overrides)
            else:
                load(name, overrides)
        except ScenarioError as error:
            problems += error.problems
    if problems:
        raise ScenarioError(problems)
