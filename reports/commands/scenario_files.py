"""Scenarios as files that commands write, and sizes that they read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from reports.commands.files import InputError
from scenarios.errors import Origin
from scenarios.loader import Loaded, load
from scenarios.resolved import resolved_yaml
from scenarios.schema import Scenario
from scenarios.units import UnitError, parse_bytes
from scenarios.writing import write_whole
from sim.cost.profile import Profile


def load_ready(
    name: str,
    overrides: Sequence[str],
    profile: Profile | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Loaded:
    """Load a scenario, and where its slices are `optimal` have them found."""
    loaded = load(name, overrides)
    if loaded.scenario.plan.slices != "optimal":
        return loaded
    from sim.planner.search import resolve

    return replace(loaded, scenario=resolve(loaded.scenario, profile, progress))


def size_in_bytes(text: str, option: str) -> int | None:
    """A size as `14 GiB`; None for an empty text.

    Raises InputError, naming the option, for what is no size.
    """
    try:
        return parse_bytes(text) if text else None
    except UnitError as error:
        raise InputError(f"{option} {text}: {error}") from None


def write_scenario(
    path: Path, loaded: Loaded, scenario: Scenario, changed: tuple[str, ...], *, force: bool
) -> None:
    """Write a scenario made from a loaded one, with everything resolved, as a YAML file; without
    the loaded one's variants, which would set the same fields otherwise.

    changed: dotted fields that are no longer where the loaded one had them from.
    """
    here = Origin(file=str(path), line=None, column=None)
    origins = {**loaded.origins, **dict.fromkeys(changed, here)}
    alone = replace(scenario, variants={})
    text = resolved_yaml(replace(loaded, scenario=alone, origins=origins))
    write_whole(path, text, force=force)
