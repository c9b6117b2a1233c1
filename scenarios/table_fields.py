"""Reading the fields of a published table's file, with the place of what is wrong."""

from __future__ import annotations

from scenarios.errors import Problem, ScenarioError
from scenarios.files import Node


def text_of(owner: Node, field: str) -> str:
    """A field that must be a text."""
    node, found = owner.find((field,))
    if found and isinstance(node.value, str):
        return node.value
    raise wrong(node, f"`{field}` must be a text")


def number_of(node: Node) -> float:
    """A value that must be a number above 0."""
    if isinstance(node.value, (int, float)) and not isinstance(node.value, bool) and node.value > 0:
        return float(node.value)
    raise wrong(node, "must be a number above 0")


def truth_of(owner: Node, field: str) -> bool | None:
    """A field that must be true or false; None where it is not there."""
    node, found = owner.find((field,))
    if found and not isinstance(node.value, bool):
        raise wrong(node, "must be true or false")
    return node.value if found and isinstance(node.value, bool) else None


def notes_of(root: Node) -> tuple[str, ...]:
    """A table's notes, which must be texts; none unless given."""
    node, found = root.find(("notes",))
    items = node.value if found and isinstance(node.value, list) else []
    for item in items:
        if not isinstance(item.value, str):
            raise wrong(item, "must be a text")
    return tuple(str(item.value) for item in items)


def wrong(node: Node, message: str) -> ScenarioError:
    """The error of a value, where it stands."""
    return ScenarioError([Problem.at(node.at, field="", message=message)])
