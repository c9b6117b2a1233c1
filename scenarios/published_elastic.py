"""Published results of whole runs of epochs: which scenario was run with which settings, and the
speed-up or the throughput of each epoch printed for it.

A table is a YAML file under `published/` with `runs` instead of rows. Each run has a `scenario` (or
the table's), fields `set` in it, dotted, and what was `published`: one number, or one an epoch.
`over` are the fields of the run that a speed-up is over. `fitted: true` says that the catalogue was
calibrated on it, `assumed: true` that what its source leaves open decides what is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from scenarios import catalogue
from scenarios.errors import Origin, Problem, ScenarioError
from scenarios.files import Node
from scenarios.loader import load
from scenarios.schema import Scenario
from scenarios.table_fields import notes_of, number_of, text_of, truth_of, wrong

RunUnit = Literal["x", "samples/s"]
FIELDS = (
    "title",
    "source",
    "url",
    "unit",
    "resolution",
    "notes",
    "scenario",
    "over",
    "runs",
)
RUN_FIELDS = ("scenario", "set", "published", "fitted", "assumed")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRun:
    """One published run."""

    name: str
    """What the source calls it."""
    scenario: Scenario
    """What was run."""
    over: Scenario | None
    """The run that its speed-up is over; None where the figures are throughputs."""
    figures: tuple[float, ...]
    """The published speed-up, or the throughput of each epoch (samples/s)."""
    fitted: bool
    """Whether the catalogue was calibrated on it, or it is 1 by definition."""
    assumed: bool
    """Whether its source leaves open what decides the figure, so that it is shown, not judged."""
    origin: Origin
    """Where it is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTable:
    """A published table or figure of runs."""

    id: str
    """As `pt.breakdown`."""
    title: str
    """What it shows."""
    source: str
    """Paper and figure."""
    url: str
    """Where the paper is."""
    unit: RunUnit
    """`x`: times as fast as the run that it is over; `samples/s`: of each epoch."""
    resolution: float
    """Step of the printed figures, in the unit."""
    notes: tuple[str, ...]
    """What of it is derived, what assumed, and what was fitted to what."""
    runs: tuple[PublishedRun, ...]
    """The runs."""


def load_runs(table_id: str, overrides: Sequence[str] = ()) -> RunTable:
    """Load a table of runs, each scenario with overrides such as `elastic.epochs=5`, which win.

    Raises ScenarioError with the problems of all its runs.
    """
    root = catalogue.table_root(table_id)
    _refuse_others(root, FIELDS, "a table of runs")
    unit = _unit(root)
    over, speedups = root.find(("over",))
    if speedups != (unit == "x"):
        raise wrong(root, "`over` names the run that speed-ups in `x` are over, and those alone")
    written, found = root.find(("runs",))
    if not found or not isinstance(written.value, dict):
        raise wrong(written, "`runs` must be a mapping of runs")
    problems: list[Problem] = []
    runs: list[PublishedRun] = []
    for name, node in written.value.items():
        try:
            _refuse_others(node, RUN_FIELDS, "a run")
            base = text_of(node if node.find(("scenario",))[1] else root, "scenario")
            runs.append(
                PublishedRun(
                    name=str(name),
                    scenario=_load(base, _set(node), overrides, node),
                    over=_load(base, _settings(over), overrides, node) if speedups else None,
                    figures=_figures(node, unit),
                    fitted=truth_of(node, "fitted") is True,
                    assumed=truth_of(node, "assumed") is True,
                    origin=node.key,
                )
            )
        except ScenarioError as error:
            problems += error.problems
    if problems:
        raise ScenarioError(problems)
    return RunTable(
        id=table_id,
        title=text_of(root, "title"),
        source=text_of(root, "source"),
        url=text_of(root, "url"),
        unit=unit,
        resolution=number_of(root.find(("resolution",))[0]),
        notes=notes_of(root),
        runs=tuple(runs),
    )


def _load(base: str, settings: Sequence[str], overrides: Sequence[str], node: Node) -> Scenario:
    scenario = load(base, (*settings, *overrides)).scenario
    if scenario.elastic is None:
        raise wrong(node, f"`{base}` has no `elastic` section: it is one iteration, not a run")
    return scenario


def _set(run: Node) -> tuple[str, ...]:
    node, found = run.find(("set",))
    return _settings(node) if found else ()


def _settings(node: Node) -> tuple[str, ...]:
    """Fields as overrides, `elastic.alpha=0.2`."""
    if not isinstance(node.value, dict):
        raise wrong(node, "must be a mapping of fields, as `{elastic.alpha: 0.2}`")
    return tuple(f"{field}={_plain(value)}" for field, value in node.value.items())


def _plain(node: Node) -> str:
    if isinstance(node.value, bool):
        return "true" if node.value else "false"
    if isinstance(node.value, (int, float, str)):
        return str(node.value)
    raise wrong(node, "must be a text, a number, true or false")


def _figures(run: Node, unit: RunUnit) -> tuple[float, ...]:
    node, found = run.find(("published",))
    if not found:
        raise wrong(run, "`published` is missing")
    if unit == "x":
        return (number_of(node),)
    if not isinstance(node.value, list) or not node.value:
        raise wrong(node, "must be a list of throughputs, one an epoch")
    return tuple(number_of(item) for item in node.value)


def _unit(root: Node) -> RunUnit:
    written = text_of(root, "unit")
    units: tuple[RunUnit, ...] = get_args(RunUnit)
    for unit in units:
        if unit == written:
            return unit
    raise wrong(root.find(("unit",))[0], f"must be one of {', '.join(units)}")


def _refuse_others(node: Node, fields: Sequence[str], what: str) -> None:
    if not isinstance(node.value, dict):
        raise wrong(node, f"must be a mapping with {', '.join(f'`{field}`' for field in fields)}")
    for key, value in node.value.items():
        if key not in fields:
            known = ", ".join(f"`{field}`" for field in fields)
            raise wrong(value, f"{what} has no `{key}`: it has {known}")
