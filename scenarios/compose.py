"""One tree of values from a file, the files it extends, and the overrides on the command line.

Mappings merge, later over earlier and the file itself over what it extends; lists and plain values
replace; an explicit null takes a value back to its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, reduce
from pathlib import Path

from scenarios import catalogue
from scenarios.errors import Origin, Problem, ScenarioError
from scenarios.files import Key, Node, kind_of_path, parse_override, parse_text, read_file, read_key
from scenarios.tables import row_tree, with_nodes
from scenarios.variants import UnknownVariant, choose, merge, split_name, variant_trees

MAX_CHAIN = 16
MAX_FILES = 100
# These name the file they stand in; a file that extends it has its own.
_NOT_INHERITED = ("name", "description")


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """The merged values of a scenario, each with its origin."""

    root: Node
    """The merged mapping, without `extends`; that of the variant, where one is named."""
    path: Path
    """The file itself."""
    files: tuple[Path, ...]
    """Every file read, those extended first, the file itself last."""
    problems: tuple[Problem, ...]
    """What is wrong so far, without preventing the rest from being checked."""
    variant: str | None = None
    """The variant that the name names, as `uniform` in `local-terapipe:uniform`."""
    variants: Mapping[str, Node] = field(default_factory=dict)
    """The merged mapping of every variant of the file, where none is named."""


def compose(name_or_path: str | Path, overrides: tuple[str, ...] = ()) -> Composition:
    """Read a catalogue entry or a file, what it extends, and overrides such as `plan.data=2`.

    Raises ScenarioError: a file cannot be read, or extends itself.
    """
    name, variant = split_name(str(name_or_path))
    try:
        found = catalogue.find(name, Path())
    except catalogue.UnknownName as error:
        raise _unknown(name_or_path, error) from None
    reader = _Reader()
    root = reader.file(found, chain=())
    above = [override_tree(text, reader.problems) for text in overrides]
    trees = variant_trees(root, above, reader.problems)
    if variant is not None:
        try:
            root, trees = choose(trees, name, variant), {}
        except UnknownVariant as error:
            raise _unknown(name_or_path, error) from None
    else:
        root = reduce(merge, above, root)
    return Composition(
        root=root,
        path=found.path,
        files=tuple(dict.fromkeys(reader.files)),
        problems=tuple(reader.problems),
        variant=variant,
        variants=trees,
    )


def override_tree(text: str, problems: list[Problem]) -> Node:
    """Read `plan.data=2` as a tree with one value; what is wrong with it is added to `problems`.

    Raises ScenarioError where the value is not YAML.
    """
    shown = " ".join(text.split())
    origin = Origin(file=f"--set {shown}")
    name, equals, value = text.partition("=")
    parts: tuple[Key, ...] = tuple(read_key(part.strip()) for part in name.split("."))
    message = ""
    if not equals or any(part == "" for part in parts):
        message = "is not an override: write a field and its value, as `plan.micro_batch=2`"
    elif parts[0] == "extends":
        message = "`extends` belongs in a file: write one with `extends:` and this scenario"
    if message:
        problems.append(Problem.at(origin, "", message))
        return Node(value={}, at=origin, key=origin)
    node = parse_override(value, origin, problems)
    for part in reversed(parts):
        node = Node(value={part: node}, at=origin, key=origin)
    return node


def _unknown(name: str | Path, error: LookupError) -> ScenarioError:
    shown = str(name) or "scenario"
    return ScenarioError(
        [Problem(file=shown, line=None, column=None, field="", message=str(error))]
    )


@cache
def _catalogue_file(path: Path, shown: str) -> tuple[Node, tuple[Problem, ...]]:
    """Parse a file of the catalogue, which many rows of a table extend."""
    problems: list[Problem] = []
    return parse_text(read_file(path, shown), shown, problems), tuple(problems)


@dataclass(slots=True)
class _Reader:
    files: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    num_read: int = 0

    def file(self, found: catalogue.Found, chain: tuple[tuple[Path, str], ...]) -> Node:
        self.num_read += 1
        path, shown, row = found.path, found.shown, found.row
        if row is not None:
            own = row_tree(catalogue.table(path.stem)[0], row, path.stem, merge)
        else:
            own = self._parsed(path, shown)
        chain = (*chain, (path.resolve(), shown))
        assert isinstance(own.value, dict)
        values = dict(own.value)
        extends = values.pop("extends", None)
        root = Node(value=values, at=own.at, key=own.at)
        if extends is not None:
            base = self._bases(extends, Path(shown).parent, chain)
            if base is not None and isinstance(base.value, dict):
                inherited = {k: n for k, n in base.value.items() if k not in _NOT_INHERITED}
                root = merge(Node(value=inherited, at=base.at, key=base.key), root)
        self.files.append(path)
        return root if row is None else with_nodes(root, row.at)

    def _parsed(self, path: Path, shown: str) -> Node:
        if catalogue.ROOT not in path.parents:
            return parse_text(read_file(path, shown), shown, self.problems)
        node, problems = _catalogue_file(path, shown)
        self.problems += problems
        return node

    def _bases(
        self, extends: Node, folder: Path, chain: tuple[tuple[Path, str], ...]
    ) -> Node | None:
        targets = extends.value if isinstance(extends.value, list) else [extends]
        base: Node | None = None
        for target in targets:
            if not isinstance(target.value, str):
                self._add(
                    target.at,
                    "must be the name of a catalogue entry or a file, or a list of those, as "
                    "`extends: [models/gpt3-175b, clusters/dgx-a100]`",
                )
                continue
            try:
                found = catalogue.find(target.value, folder)
            except catalogue.UnknownName as error:
                self._add(target.at, str(error))
                continue
            path, shown = found.path, found.shown
            if (kind := kind_of_path(path)) != "file":
                reason = f"is not a file but a {kind}" if kind else "does not exist"
                self._add(target.at, f"`{shown}` {reason}: name a YAML file, relative to this one")
                continue
            self._check_chain(target, path, shown, chain)
            node = self.file(found, chain)
            base = node if base is None else merge(base, node)
        return base

    def _check_chain(
        self, target: Node, path: Path, shown: str, chain: tuple[tuple[Path, str], ...]
    ) -> None:
        resolved = path.resolve()
        seen = [file for file, _ in chain]
        if resolved in seen:
            cycle = [name for _, name in chain[seen.index(resolved) :]]
            message = f"extends itself: {' -> '.join([*cycle, shown])}; take one of these out"
        elif len(chain) >= MAX_CHAIN:
            message = f"over {MAX_CHAIN} files extend one another: join some of them"
        elif self.num_read >= MAX_FILES:
            message = f"over {MAX_FILES} files are extended in all: join some of them"
        else:
            return
        raise ScenarioError([*self.problems, Problem.at(target.at, "extends", message)])

    def _add(self, origin: Origin, message: str) -> None:
        self.problems.append(Problem.at(origin, "extends", message))
