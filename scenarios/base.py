"""One scenario at many points: composed once, then overridden in memory, checked every time."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scenarios.compose import Composition, compose, override_tree
from scenarios.errors import Problem, ScenarioError
from scenarios.files import Node, read_key
from scenarios.loader import resolve, with_schedule_file
from scenarios.schema import Scenario
from scenarios.validate import validate
from scenarios.variants import merge

_NOT_SIMULATED = ("name", "description", "execution", "variants")
_MAX_KEPT = 10_000


class Base:
    """A scenario that may still lack what its points bring.

    `Base(name, overrides).at(more)` is `load(name, (*overrides, *more)).scenario`, with the same
    messages where that is wrong, but reads no file a second time.
    """

    def __init__(self, name_or_path: str | Path, overrides: Sequence[str] = ()) -> None:
        """Raises ScenarioError: a file cannot be read, or an override is none."""
        self._composed: Composition = compose(name_or_path, tuple(overrides))
        if self._composed.problems:
            raise ScenarioError(self._composed.problems)
        self._trees: dict[str, tuple[Node, tuple[Problem, ...]]] = {}

    @property
    def name(self) -> str:
        """What the scenario is called, or its file is."""
        node, found = self._composed.root.find(("name",))
        name = str(node.value) if found and node.value is not None else self._composed.path.stem
        variant = self._composed.variant
        return name if variant is None else f"{name}:{variant}"

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what is written of it, but for its name, description, execution and
        variants; with the rows of its schedule file, where it has one."""
        root = with_schedule_file(self._composed.root, [])
        content = plain(root)
        for key in _NOT_SIMULATED:
            content.pop(key, None)
        if "schedule_order" in (content.get("plan") or {}):
            content["plan"].pop("schedule_file", None)
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def check(self, varied: Sequence[str]) -> None:
        """Raise ScenarioError for what no point could mend: varied fields that there are none of,
        and wrong values of fields that are not varied.

        varied: an override of each varied field, as `plan.pipeline=4`.
        """
        problems: list[Problem] = []
        for text in varied:
            tree, found = self.tree(text)
            problems += found
            unknown = validate(tree, partial=True)[1]
            problems += [p for p in unknown if p.message.startswith("unknown field")]
        fields = [text.partition("=")[0].strip() for text in varied]
        for problem in validate(self._composed.root, partial=True)[1]:
            if not any(_within(problem.field, field) for field in fields):
                problems.append(problem)
        if problems:
            raise ScenarioError(problems)

    def tree(self, override: str) -> tuple[Node, tuple[Problem, ...]]:
        """An override such as `plan.data=2` as a tree with one value, and what is wrong with it."""
        if override not in self._trees:
            if len(self._trees) >= _MAX_KEPT:
                self._trees.clear()
            problems: list[Problem] = []
            try:
                tree = override_tree(override, problems)
            except ScenarioError as error:
                problems += error.problems
                tree = self._composed.root
            self._trees[override] = (tree, tuple(problems))
        return self._trees[override]

    def value(self, override: str) -> Any:
        """The value that an override sets, as plain values; its text where that is not YAML."""
        field, _, text = override.partition("=")
        tree, problems = self.tree(override)
        node, found = tree.find(tuple(read_key(part.strip()) for part in field.split(".")))
        return plain(node) if found and not problems else text

    def at(self, overrides: Sequence[str]) -> Scenario:
        """The scenario with some fields set.

        Raises ScenarioError with all its problems.
        """
        root, problems = self._composed.root, list[Problem]()
        for override in overrides:
            tree, found = self.tree(override)
            problems += found
            root = root if found else merge(root, tree)
        loaded = resolve(self._composed, root, self._composed.variant, problems)
        if problems or loaded is None:
            raise ScenarioError(problems)
        return loaded.scenario


def plain(node: Node) -> Any:
    """A node as plain values, keys as text; numbers that JSON has not as text, too."""
    if isinstance(node.value, dict):
        return {str(key): plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    if isinstance(node.value, float) and not math.isfinite(node.value):
        return str(node.value)
    return node.value


def _within(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")
