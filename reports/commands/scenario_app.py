"""`pipetwin scenario`: a short function per command."""

from __future__ import annotations

from cyclopts import App

from reports.commands import options as o

scenario_app = App(name="scenario", help="List, show and check scenarios.")


@scenario_app.command(name="list")
def scenario_list(
    *,
    published: o.ListPublished = "",
    json: o.Json = False,
) -> int:
    """List the catalogue.

    Scenarios, published tables, models, clusters and devices.
    """
    from reports.terminal import basics as terminal
    from scenarios.catalogue import catalogue

    if published:
        from reports.commands import files
        from reports.terminal import published as terminal_published

        terminal_published.show_rows(files.published_tables(published, ()), as_json=json)
        return 0
    terminal.show_catalogue(catalogue(), as_json=json)
    return 0


@scenario_app.command(name="show")
def scenario_show(scenario: o.AnyEntry, /, *, set: o.Overrides | None = None) -> int:
    """Print a scenario with everything resolved.

    And where each value comes from.

    Parameters
    ----------
    scenario
        A catalogue name or a YAML file; any part of a scenario that is whole by itself.
    """
    from reports.terminal import console
    from scenarios.loader import load
    from scenarios.resolved import resolved_yaml

    console.show_text(resolved_yaml(load(scenario, set or ())))
    return 0


@scenario_app.command(name="check")
def scenario_check(*scenario: o.AnyEntry, set: o.Overrides | None = None) -> int:
    """Check scenario files, and print every problem with its place.

    Parameters
    ----------
    scenario
        Catalogue names or YAML files: whole scenarios, or parts that others extend.
    """
    from reports.commands import files
    from reports.terminal import console
    from scenarios.checking import check_all

    if not scenario:
        raise files.InputError("give at least one scenario or file to check")
    console.show_text(check_all(scenario, set or ()))
    return 0


@scenario_app.command(name="schema")
def scenario_schema() -> int:
    """Print the JSON Schema of scenario files, for editors."""
    import json

    from reports.terminal import console
    from scenarios.json_schema import json_schema

    console.show_text(json.dumps(json_schema(), indent=2))
    return 0
