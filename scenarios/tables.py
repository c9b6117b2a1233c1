"""Published tables: many scenarios in one compact file, a line each, with what was published.

A table is a YAML file under `published/`. `common` holds what all its rows share, written as in a
scenario; `columns` names the fields that a row's cells hold, dotted, `published` the figure, and
`deviation` its standard deviation over iterations; `profile` is the one that comes along for it,
and `part` says that the figures are times of one part's pass, as `layer forward`; `blocks` hold the
rows, each block with what its own rows share, and its `name` where a row's key is not enough;
`fits` says whether it fitted in memory, `fitted: true` that the catalogue's device was fitted to
it. A row's name is its key, or `block/key`. The number of nodes follows from the degrees, and a row
smaller than a node has its share of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from scenarios.errors import Origin, Problem, ScenarioError
from scenarios.files import Key, Node, read_key

FIELDS = (
    "title",
    "source",
    "url",
    "unit",
    "resolution",
    "notes",
    "gain",
    "profile",
    "part",
    "common",
    "columns",
    "blocks",
)
BLOCK_FIELDS = ("name", "fits", "fitted", "common", "rows")
FIGURE = "published"
DEVIATION = "deviation"

Merge = Callable[[Node, Node], Node]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One row of a table, not yet a scenario."""

    name: str
    """Its key, after its block's name where that has one: `1t`, `interleaved/b12`."""
    block: Node
    """The block it stands in."""
    at: Origin
    """Where its key is written."""
    cells: tuple[tuple[str, Node], ...]
    """Column and cell, without the empty ones."""

    @property
    def figure(self) -> Node | None:
        """The published figure, or None where the row has none."""
        return dict(self.cells).get(FIGURE)

    @property
    def deviation(self) -> Node | None:
        """The figure's published standard deviation, or None where there is none."""
        return dict(self.cells).get(DEVIATION)


def rows_of(table: Node) -> tuple[TableRow, ...]:
    """Read the rows of a table; raises ScenarioError with all that is wrong with its shape."""
    problems: list[Problem] = []
    columns = [_text(cell, problems) for cell in _list(_part(table, "columns", problems), problems)]
    rows = [row for block in _blocks(table, problems) for row in _rows(block, columns, problems)]
    names = [row.name for row in rows]
    for row in rows:
        if names.count(row.name) > 1:
            problems.append(_problem(row.at, f"two rows are called `{row.name}`: rename one"))
    if problems:
        raise ScenarioError(problems)
    return tuple(rows)


def row_tree(table: Node, row: TableRow, table_id: str, merge: Merge) -> Node:
    """Build the tree of one row: the table's and the block's common values, then its cells."""
    problems: list[Problem] = []
    tree = Node(value={}, at=row.at, key=row.at)
    for owner in (table, row.block):
        node, found = owner.find(("common",))
        if found:
            tree = merge(tree, node)
    for column, cell in row.cells:
        if column not in (FIGURE, DEVIATION):
            tree = merge(tree, _nested(column, cell))
    title = _text(_part(table, "title", problems), problems)
    source = _text(_part(table, "source", problems), problems)
    if problems:
        raise ScenarioError(problems)
    words = {
        "name": f"{table_id}/{row.name}",
        "description": f"{title}; {source}",
        "model.source": source,
    }
    for key, text in words.items():
        tree = merge(tree, _nested(key, Node(value=text, at=row.at, key=row.at)))
    return tree


def with_nodes(tree: Node, at: Origin) -> Node:
    """Give a row as many nodes as its degrees need; `tree` holds the cluster already.

    What is not a number, or does not divide, is left for the schema and the rules to refuse.
    """
    devices = 1
    for degree in ("tensor", "pipeline", "data"):
        devices *= _number(tree, ("plan", degree)) or 1
    per_node = _number(tree, ("cluster", "devices_per_node"))
    given, found = tree.find(("cluster", "nodes"))
    if not per_node or (found and given.at.file == at.file):
        return tree
    derived = {"nodes": max(1, devices // per_node)}
    if devices < per_node:
        nics = _number(tree, ("cluster", "nics_per_node")) or 1
        derived |= {
            "devices_per_node": devices,
            "nics_per_node": max(1, nics * devices // per_node),
        }
    cluster = tree.find(("cluster",))[0]
    assert isinstance(tree.value, dict) and isinstance(cluster.value, dict)
    numbers: dict[Key, Node] = {k: Node(value=v, at=at, key=at) for k, v in derived.items()}
    changed = Node(value={**cluster.value, **numbers}, at=cluster.at, key=cluster.key)
    return Node(value={**tree.value, "cluster": changed}, at=tree.at, key=tree.key)


def _number(tree: Node, path: tuple[Key, ...]) -> int | None:
    node, found = tree.find(path)
    return node.value if found and type(node.value) is int and node.value > 0 else None


def _blocks(table: Node, problems: list[Problem]) -> Iterator[Node]:
    for key, node in _mapping(table, problems).items():
        if key not in FIELDS:
            problems.append(_problem(node.key, f"a table has no `{key}`: it has {_names(FIELDS)}"))
    for block in _list(_part(table, "blocks", problems), problems):
        for key, node in _mapping(block, problems).items():
            if key not in BLOCK_FIELDS:
                words = f"a block has no `{key}`: it has {_names(BLOCK_FIELDS)}"
                problems.append(_problem(node.key, words))
        yield block


def _rows(block: Node, columns: list[str], problems: list[Problem]) -> Iterator[TableRow]:
    name, named = block.find(("name",))
    prefix = f"{_text(name, problems)}/" if named else ""
    for key, node in _mapping(_part(block, "rows", problems), problems).items():
        cells = _list(node, problems)
        if len(cells) != len(columns):
            words = f"has {len(cells)} cells for {len(columns)} columns: {', '.join(columns)}"
            problems.append(_problem(node.key, words))
        pairs = zip(columns, cells, strict=False)
        written = tuple((c, cell) for c, cell in pairs if cell.value is not None)
        yield TableRow(name=f"{prefix}{key}", block=block, at=node.key, cells=written)


def _nested(column: str, cell: Node) -> Node:
    for part in reversed(column.split(".")):
        cell = Node(value={read_key(part): cell}, at=cell.at, key=cell.at)
    return cell


def _part(owner: Node, field: str, problems: list[Problem]) -> Node:
    node, found = owner.find((field,))
    if not found:
        problems.append(_problem(owner.key, f"`{field}` is missing"))
        return Node(value=None, at=owner.at, key=owner.key)
    return node


def _mapping(node: Node, problems: list[Problem]) -> dict[Key, Node]:
    if isinstance(node.value, dict):
        return node.value
    if node.value is not None:
        problems.append(_problem(node.at, "must be a mapping"))
    return {}


def _list(node: Node, problems: list[Problem]) -> list[Node]:
    if isinstance(node.value, list):
        return node.value
    if node.value is not None:
        problems.append(_problem(node.at, "must be a list"))
    return []


def _text(node: Node, problems: list[Problem]) -> str:
    if isinstance(node.value, str):
        return node.value
    if node.value is not None:
        problems.append(_problem(node.at, "must be a text"))
    return ""


def _names(fields: tuple[str, ...]) -> str:
    return ", ".join(f"`{field}`" for field in fields)


def _problem(at: Origin, message: str) -> Problem:
    return Problem.at(at, field="", message=message)
