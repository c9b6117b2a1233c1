"""Variants: scenarios that a file holds beside its own, each with a few fields set otherwise."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path

from scenarios.errors import Problem
from scenarios.files import Key, Node, kind_of_path, read_key

FIELD = "variants"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_OWN = ("extends", "name", "description", FIELD)


class UnknownVariant(LookupError):
    """A scenario has no variant of that name; the text says which it has."""


def split_name(name: str) -> tuple[str, str | None]:
    """Split `local-terapipe:uniform` into the scenario's name and the variant's, None for none."""
    head, colon, variant = name.rpartition(":")
    if not colon or not head or kind_of_path(Path(name)) == "file":
        return name, None
    return head, variant


def variant_trees(root: Node, above: Sequence[Node], problems: list[Problem]) -> dict[str, Node]:
    """The tree of each variant of a file: the file's, with the variant's fields put into it.

    root: the file's tree. above: overrides of the command line, which win over variants, too.
    What is wrong with the variants' names is added to `problems`; a variant that is no mapping is
    left out, and so is one that is null.
    """
    assert isinstance(root.value, dict)
    own = {key: node for key, node in root.value.items() if key != FIELD}
    base = Node(value=own, at=root.at, key=root.key)
    written, found = reduce(merge, above, root).find((FIELD,))
    if not found or not isinstance(written.value, dict):
        return {}
    trees: dict[str, Node] = {}
    for key, node in written.value.items():
        if not isinstance(node.value, dict):
            continue
        name = str(key)
        if not _NAME.fullmatch(name):
            message = (
                f"`{name}` cannot name a variant: letters, digits, `_`, `.` and `-`, as `even`"
            )
            problems.append(Problem.at(node.key, f"{FIELD}.{name}", message))
            continue
        tree = base
        for field, value in node.value.items():
            path = tuple(read_key(part) for part in str(field).split("."))
            if path[0] in _OWN:
                message = f"`{path[0]}` belongs to the file, not to a variant: take it out"
                problems.append(Problem.at(value.key, f"{FIELD}.{name}.{field}", message))
            else:
                tree = _put(tree, path, value)
        tree = reduce(merge, above, tree)
        assert isinstance(tree.value, dict)
        rest = {k: n for k, n in tree.value.items() if k != FIELD}
        trees[name] = Node(value=rest, at=tree.at, key=tree.key)
    return trees


def choose(trees: Mapping[str, Node], scenario: str, variant: str) -> Node:
    """The tree of one variant; raises UnknownVariant."""
    if variant in trees:
        return trees[variant]
    if not trees:
        raise UnknownVariant(f"{scenario} has no variants: name it without `:{variant}`")
    close = difflib.get_close_matches(variant, trees, n=1)
    meant = f"did you mean `{scenario}:{close[0]}`? " if close else ""
    names = ", ".join(f"`{name}`" for name in trees)
    raise UnknownVariant(f"{scenario} has no variant `{variant}`: {meant}it has {names}")


def merge(below: Node, above: Node) -> Node:
    """Merge two trees; where both have a value, `above` wins."""
    if not (isinstance(below.value, dict) and isinstance(above.value, dict)):
        return above
    merged = dict(below.value)
    for key, node in above.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    # A `--set` inside a mapping leaves the mapping where its file wrote it.
    place = below if above.at.is_override else above
    return Node(value=merged, at=place.at, key=place.key)


def _put(below: Node, path: tuple[Key, ...], node: Node) -> Node:
    """The tree with a node merged in at `path`; mappings on the way stay where they were."""
    if not path:
        return merge(below, node)
    values = dict(below.value) if isinstance(below.value, dict) else {}
    head, rest = path[0], path[1:]
    if head in values:
        values[head] = _put(values[head], rest, node)
    else:
        for part in reversed(rest):
            node = Node(value={part: node}, at=node.at, key=node.key)
        values[head] = node
    return Node(value=values, at=below.at, key=below.key)
