"""From a name or a file to a checked Scenario, with the origin of every value."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from scenarios.catalogue import catalogue
from scenarios.compose import Composition, compose
from scenarios.errors import Origin, Problem, ScenarioError
from scenarios.files import Node, kind_of_path
from scenarios.schema import Cluster, Scenario
from scenarios.validate import validate

MAX_SCHEDULE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A scenario, and where each of its values was written."""

    scenario: Scenario
    """The scenario itself, resolved and checked."""
    origins: Mapping[str, Origin]
    """Origin of every written value by dotted field path; a field not in it has its default."""
    files: tuple[Path, ...]
    """Every file read: those extended first, the scenario's own last."""
    right_variants: tuple[Loaded, ...] = ()
    """Its variants, but for those that overrides make wrong."""
    variant_problems: tuple[Problem, ...] = ()
    """What overrides make wrong with its variants."""

    @property
    def variants(self) -> tuple[Loaded, ...]:
        """Its variants, in the file's order; none where this is one of them.

        Raises ScenarioError where overrides make one of them wrong: who asks for the scenario alone
        does not hear of it.
        """
        if self.variant_problems:
            raise ScenarioError(list(self.variant_problems))
        return self.right_variants


def load(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Loaded:
    """Load a catalogue entry or a file, with overrides such as `plan.micro_batch=2`.

    The scenario's name is its file's unless it has a `name`; a variant of it is loaded as
    `local-terapipe:uniform`, and overrides win over what the variant sets. A `schedule_file` is
    taken relative to the file that names it (on the command line: to the working directory) and
    made absolute.
    Raises ScenarioError with all problems of the scenario and its variants (of those that overrides
    bring to variants alone, only once the variants are asked for).
    """
    composed = compose(name_or_path, tuple(overrides))
    problems = list(composed.problems)
    found = resolve(composed, composed.root, composed.variant, problems)
    variants, of_variants = [], list[Problem]()
    for name, tree in composed.variants.items():
        own: list[Problem] = []
        variants.append(resolve(composed, tree, name, own))
        new = (p for p in own if p not in problems)
        of_variants += [replace(p, message=f"{p.message} (in variant `{name}`)") for p in new]
    if problems or found is None or (of_variants and not overrides):
        raise ScenarioError([*problems, *of_variants])
    right = tuple(v for v in variants if v is not None)
    return replace(found, right_variants=right, variant_problems=tuple(of_variants))


def resolve(
    composed: Composition, root: Node, variant: str | None, problems: list[Problem]
) -> Loaded | None:
    """A tree of the composition as a scenario; None where it is wrong, with its problems added."""
    values = dict(root.value) if isinstance(root.value, dict) else {}
    name = values.get("name")
    if name is None or name.value is None:
        name = Node(value=composed.path.stem, at=root.at, key=root.key)
    if variant is not None:
        name = Node(value=f"{name.value}:{variant}", at=name.at, key=name.key)
    values["name"] = name
    tree = with_schedule_file(Node(value=values, at=root.at, key=root.key), problems)
    scenario, found = validate(tree)
    if composed.problems:
        # What a file that could not be extended would have brought is not missing by itself.
        found = [p for p in found if not p.message.startswith("is missing")]
    problems += found
    if scenario is None:
        return None
    origins = {
        ".".join(map(str, path)): node.at
        for path, node in root.walk()
        if path and node.value is not None
    }
    return Loaded(scenario=scenario, origins=MappingProxyType(origins), files=composed.files)


def check_partial(name_or_path: str | Path, overrides: Sequence[str] = ()) -> None:
    """Check a file that others extend: what it writes must be right, the rest may be missing.

    Raises ScenarioError with all problems of the file.
    """
    composed = compose(name_or_path, tuple(overrides))
    problems = [*composed.problems, *validate(composed.root, partial=True)[1]]
    if problems:
        raise ScenarioError(problems)


def load_cluster(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Cluster:
    """Load a cluster by itself: a cluster file, or a device, on the catalogue's cluster of it.

    Raises ScenarioError where the file is wrong, or holds neither.
    """
    composed = compose(name_or_path, tuple(overrides))
    scenario, problems = validate(composed.root, partial=True)
    problems = [*composed.problems, *problems]
    if problems:
        raise ScenarioError(problems)
    if scenario is not None and scenario.cluster is not None:
        return scenario.cluster
    node, found = composed.root.find(("cluster", "device", "name"))
    for entry in catalogue():
        if found and entry.kind == "cluster":
            cluster = load_cluster(entry.name, overrides)
            if cluster.device.name == node.value:
                return cluster
    where = Origin(file=str(composed.path), line=1, column=1)
    message = "holds no cluster: name one, as `clusters/dgx-a100`, or its device, as `a100-80gb`"
    raise ScenarioError([Problem.at(where, "cluster", message)])


def with_schedule_file(root: Node, problems: list[Problem]) -> Node:
    """A tree with the rows of the schedule file that it names, and that file's absolute path."""
    path = ("plan", "schedule_file")
    node, found = root.find(path)
    plan, _ = root.find(path[:1])
    if not found or not isinstance(node.value, str):
        return root
    if isinstance(plan.value, dict) and "schedule_order" in plan.value:
        return root  # The rows are there already: the file is only where they came from.
    folder = Path() if node.at.is_override else Path(node.at.file).parent
    file = os.path.normpath((folder / node.value).absolute())
    if kind_of_path(Path(file)) != "file":
        message = (
            f"`{node.value}` is no file: a path relative to this file, as `schedule.csv` beside it"
        )
        problems.append(Problem.at(node.at, ".".join(path), message))
    assert isinstance(plan.value, dict) and isinstance(root.value, dict)
    written = {**plan.value, path[1]: Node(value=file, at=node.at, key=node.key)}
    rows = _rows(Path(file), node, problems)
    if rows is not None:
        lines = [Node(value=row, at=node.at, key=node.key) for row in rows]
        written["schedule_order"] = Node(value=lines, at=node.at, key=node.key)
    inner = Node(
        value=written,
        at=plan.at,
        key=plan.key,
    )
    return Node(value={**root.value, path[0]: inner}, at=root.at, key=root.key)


def _rows(file: Path, node: Node, problems: list[Problem]) -> list[str] | None:
    """The rows of a schedule file; None, with a problem, where it is not a text of a sane size."""
    if kind_of_path(file) != "file":
        return None
    try:
        if file.stat().st_size > MAX_SCHEDULE_BYTES:
            raise ValueError(f"is over {MAX_SCHEDULE_BYTES >> 20} MiB")
        rows = file.read_text(encoding="utf-8").splitlines()
        if any("\0" in row for row in rows):
            raise ValueError("is not text")
    except (OSError, ValueError) as error:
        what = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        problems.append(
            Problem.at(
                node.at, "plan.schedule_file", f"`{file}` {what}: it is a CSV, as `0F0,0B0` a rank"
            )
        )
        return None
    while rows and not rows[-1].strip():
        rows.pop()
    return rows
