"""Published results as scenarios: what was trained how, and the figure printed for it.

The tables are under `published/` (see `scenarios.tables`); figures keep their published unit, with
its resolution, and whoever knows FLOPs turns them into times.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from scenarios import catalogue
from scenarios.catalogue import PUBLISHED
from scenarios.errors import Origin, Problem, ScenarioError
from scenarios.files import Node
from scenarios.loader import load
from scenarios.schema import Scenario
from scenarios.table_fields import notes_of, number_of, text_of, truth_of, wrong
from scenarios.tables import FIGURE, TableRow

Unit = Literal["TFLOP/s", "seq/s", "ms"]
PROFILE = "a100-80gb"
"""The profile for tables that name none."""
PARTS = ("layer", "embedding", "head")
PASSES = ("forward", "backward")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRow:
    """One published result."""

    name: str
    """Its name within the table, as `1t` or `interleaved/b12`."""
    full_name: str
    """What the command line calls it, as `published/ptdp.table1/1t`."""
    scenario: Scenario
    """What was trained how."""
    figure: float | None
    """The published figure in the table's unit; None for a row that was not run."""
    deviation: float | None
    """Its published standard deviation over iterations, in the same unit; None where unknown."""
    fits: bool
    """Whether it was seen to fit in memory."""
    fitted: bool
    """Whether its device's values in the catalogue were fitted to it."""
    origin: Origin
    """Where the row is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Two blocks of a table whose rows of equal key are compared."""

    of: str
    """The block with the optimization."""
    over: str
    """The block without."""
    what: str
    """What the optimization is called."""
    speedups: str | None = None
    """Id of the set of scores of its speed-ups, as `terapipe.speedup`, where they have one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTable:
    """A published table or figure."""

    id: str
    """As `ptdp.table1`."""
    title: str
    """What it shows."""
    source: str
    """Paper and table."""
    url: str
    """Where the paper is."""
    unit: Unit
    """`TFLOP/s` per device by equation 3 of arXiv 2104.04473 (with a recomputed forward pass),
    `seq/s` of the whole job, or `ms` an iteration."""
    resolution: float
    """Step of the printed figures, in the unit."""
    notes: tuple[str, ...]
    """What of the rows is derived, and what assumed."""
    gain: Gain | None
    """The comparison that the table is for, if it is for one."""
    profile: str
    """The profile that comes along for it: of its device and its authors' software."""
    part: tuple[str, str] | None
    """Part and pass whose time the figures are, as (layer, forward), of a whole sequence; None
    where they are of iterations."""
    rows: tuple[PublishedRow, ...]
    """The results."""


def choose_tables(names: Sequence[str]) -> tuple[str, ...]:
    """Return the ids that names or patterns mean; `megatron`, `terapipe` and `pipetransformer` are
    all of those authors.

    Raises ScenarioError for a name without a table, or of one that holds runs of epochs, not rows.
    """
    return matching_tables(names, catalogue.tables())


def matching_tables(names: Sequence[str], ids: Sequence[str]) -> tuple[str, ...]:
    """Of the ids, those that names or patterns mean, as in `choose_tables`.

    Raises ScenarioError for a name that means none of them.
    """
    groups = {
        "all": ("*",),
        "megatron": ("ptdp.*", "megatron.*"),
        "terapipe": ("terapipe.*",),
        "pipetransformer": ("pt.*",),
    }
    # What is called so is shown with these tables, and found under its name, too.
    shown_with = {"terapipe.speedup": "terapipe.latency", "terapipe.fig7.speedup": "terapipe.fig7"}
    chosen: list[str] = []
    for name in names:
        patterns = groups.get(name, (shown_with.get(name, name.removeprefix(f"{PUBLISHED}/")),))
        found = [i for i in ids if any(fnmatch.fnmatchcase(i, p) for p in patterns)]
        if not found:
            known = ", ".join([*groups, *ids])
            hint = catalogue.did_you_mean(name, (*groups, *ids))
            message = f"no published table is called so{hint or ':'} there are {known}"
            raise ScenarioError(
                [Problem(file=name, line=None, column=None, field="", message=message)]
            )
        chosen += found
    return tuple(i for i in ids if i in chosen)


def load_table(table_id: str, overrides: Sequence[str] = ()) -> PublishedTable:
    """Load a table with all its rows, each with overrides such as `plan.p2p=overlapped`.

    Raises ScenarioError with the problems of all its rows.
    """
    root, rows = catalogue.table(table_id)
    problems: list[Problem] = []
    loaded: list[PublishedRow] = []
    for row in rows:
        try:
            loaded.append(_row(table_id, row, overrides))
        except ScenarioError as error:
            problems += error.problems
    if problems:
        raise ScenarioError(problems)
    return PublishedTable(
        id=table_id,
        title=text_of(root, "title"),
        source=text_of(root, "source"),
        url=text_of(root, "url"),
        unit=_unit(root),
        resolution=number_of(root.find(("resolution",))[0]),
        notes=notes_of(root),
        gain=_gain(root),
        profile=text_of(root, "profile") if root.find(("profile",))[1] else PROFILE,
        part=_part(root),
        rows=tuple(loaded),
    )


def _row(table_id: str, row: TableRow, overrides: Sequence[str]) -> PublishedRow:
    name = f"{PUBLISHED}/{table_id}/{row.name}"
    scenario = load(name, overrides).scenario
    fits = truth_of(row.block, "fits")
    figure = row.figure
    if figure is None and fits is None:
        raise wrong(Node(value=None, at=row.at, key=row.at), f"`{FIGURE}` is missing")
    return PublishedRow(
        name=row.name,
        full_name=name,
        scenario=scenario,
        figure=number_of(figure) if figure is not None else None,
        deviation=number_of(row.deviation) if row.deviation is not None else None,
        fits=fits is not False,
        fitted=truth_of(row.block, "fitted") is True,
        origin=row.at,
    )


def _unit(root: Node) -> Unit:
    written = text_of(root, "unit")
    units: tuple[Unit, ...] = get_args(Unit)
    for unit in units:
        if unit == written:
            return unit
    raise wrong(root.find(("unit",))[0], f"must be one of {', '.join(units)}")


def _gain(root: Node) -> Gain | None:
    node, found = root.find(("gain",))
    if not found:
        return None
    return Gain(
        of=text_of(node, "of"),
        over=text_of(node, "over"),
        what=text_of(node, "what"),
        speedups=text_of(node, "speedups") if node.find(("speedups",))[1] else None,
    )


def _part(root: Node) -> tuple[str, str] | None:
    node, found = root.find(("part",))
    if not found:
        return None
    part, _, name = text_of(root, "part").partition(" ")
    if part not in PARTS or name not in PASSES:
        choices = ", ".join(f"`{part} {name}`" for part in PARTS for name in PASSES)
        raise wrong(node, f"must be one of {choices}")
    return part, name
