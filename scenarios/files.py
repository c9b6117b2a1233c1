"""YAML text into values that remember their line and column; nothing here knows the schema.

Covers YAML 1.2 mappings, lists and plain values. Not covered, and refused: tags, merge keys (`<<`),
several documents in one file. Files are bounded in size, depth and number of values (after
expanding aliases), so that no file can exhaust memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.nodes import ScalarNode

from scenarios.errors import Origin, Problem, ScenarioError

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_VALUES = 20_000

Key: TypeAlias = "str | int"
Value: TypeAlias = "bool | int | float | str | list[Node] | dict[Key, Node] | None"

_TAG = "tag:yaml.org,2002:"
# Types of YAML that no field has: their text is kept, and the field's own check judges it.
_AS_TEXT = {"str", "timestamp", "value"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A value with the place it was written at and that of its key."""

    value: Value
    at: Origin
    key: Origin

    def find(self, path: tuple[Key, ...]) -> tuple[Node, bool]:
        """Return the node at `path` and True, or its deepest existing ancestor and False."""
        node = self
        for part in path:
            children = node.value
            if isinstance(children, list):
                children = dict(enumerate(children))
            if not isinstance(children, dict) or part not in children:
                return node, False
            node = children[part]
        return node, True

    def walk(self, path: tuple[Key, ...] = ()) -> Iterator[tuple[tuple[Key, ...], Node]]:
        """Yield this node and all below it, each with its path."""
        yield path, self
        children: list[tuple[Key, Node]] = []
        if isinstance(self.value, dict):
            children = list(self.value.items())
        elif isinstance(self.value, list):
            children = list(enumerate(self.value))
        for key, child in children:
            yield from child.walk((*path, key))


def kind_of_path(path: Path) -> str | None:
    """Tell what is at a path: `file`, `directory`, `special file`, or None for nothing usable."""
    try:
        if path.is_file():
            return "file"
        return "directory" if path.is_dir() else "special file" if path.exists() else None
    # A name too long, or a folder that may not be searched.
    except (OSError, ValueError):
        return None


def read_key(text: str) -> Key:
    """Read a key: whole numbers (stages in `costs.stages`) as int, all others as text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text


def refuse(file: str, message: str, *, line: int = 1, column: int = 1) -> ScenarioError:
    """Build the error of a file that cannot be read at all."""
    return ScenarioError(
        [Problem.at(Origin(file=file, line=line, column=column), field="", message=message)]
    )


def read_file(path: Path, shown: str) -> str:
    """Read a file's text, refusing what is not a small text file.

    Raises ScenarioError: missing, a directory, unreadable, over 1 MiB, binary.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise refuse(
            shown,
            "no such file: name a YAML file, or a catalogue entry, as `local/local-2rank`",
        ) from None
    except IsADirectoryError:
        raise refuse(shown, "is a directory: name a YAML file in it") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise refuse(shown, f"cannot be read: {reason}") from None
    if len(raw) > MAX_BYTES:
        raise refuse(shown, "is over 1 MiB: a scenario is a YAML file of a few kilobytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _position(raw.decode("latin-1"), error.start)
        raise refuse(
            shown,
            f"byte 0x{raw[error.start]:02x} is not UTF-8: a scenario is YAML text in UTF-8, "
            "so save it as UTF-8",
            line=line,
            column=column,
        ) from None
    return text


def parse_text(text: str, shown: str, problems: list[Problem]) -> Node:
    """Parse one YAML document that is a mapping; duplicate keys are added to `problems`.

    Raises ScenarioError: syntax, not a mapping, too deep, too many values.
    """
    root = _parse(text, Origin(file=shown, line=1, column=1), problems)
    if root is None:
        raise refuse(shown, "is empty: a scenario is a mapping, as `plan: {pipeline: 2}`")
    if not isinstance(root.value, dict):
        kind = "a list" if isinstance(root.value, list) else "a single value"
        raise ScenarioError(
            [
                Problem.at(
                    root.at,
                    field="",
                    message=f"is {kind}, not a mapping: write fields, as `plan: {{pipeline: 2}}`",
                )
            ]
        )
    return root


def parse_override(text: str, origin: Origin, problems: list[Problem]) -> Node:
    """Parse the value of an override as YAML; every place in it is the override itself."""
    node = _parse(text, origin, problems)
    return node if node is not None else Node(value=None, at=origin, key=origin)


def _parse(text: str, start: Origin, problems: list[Problem]) -> Node | None:
    try:
        return _Builder(text, start, problems).document()
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        context = f"{error.context}: " if error.context else ""
        message = f"is not valid YAML: {context}{error.problem}"
        if "'\\t'" in message:
            message += "; indent with spaces, not tabs"
    except YAMLError as error:
        line, column = _position(text, int(getattr(error, "position", 0)))
        message = f"is not valid YAML: {getattr(error, 'reason', 'unreadable')}"
    if start.is_override:
        raise ScenarioError([Problem.at(start, "", message)])
    raise refuse(start.file, message, line=line, column=column)


def _position(text: str, offset: int) -> tuple[int, int]:
    before = text[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


class _Builder:
    """Builds the nodes of one document from its events, so that the limits stop it early."""

    def __init__(self, text: str, start: Origin, problems: list[Problem]) -> None:
        self._yaml = YAML(typ="safe", pure=True)
        self._events: Iterator[Any] = iter(self._yaml.parse(text))
        self._start = start
        self._problems = problems
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._num_values = 0

    def document(self) -> Node | None:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, DocumentStartEvent) and root is not None:
                raise self._error(event, "a second document begins: write one scenario a file")
            if isinstance(event, ScalarEvent) and event.value == "" and event.implicit[0]:
                continue
            if isinstance(event, (ScalarEvent, MappingStartEvent, SequenceStartEvent, AliasEvent)):
                root = self._node(event, depth=0, key=None)
        return root

    def _origin(self, event: Any) -> Origin:
        if self._start.is_override:
            return self._start
        mark = event.start_mark
        return Origin(file=self._start.file, line=mark.line + 1, column=mark.column + 1)

    def _error(self, event: Any, message: str) -> ScenarioError:
        return ScenarioError([Problem.at(self._origin(event), field="", message=message)])

    def _node(self, event: Any, depth: int, key: Origin | None) -> Node:
        at = self._origin(event)
        before = self._num_values
        self._num_values += 1
        if depth > MAX_DEPTH:
            raise self._error(event, f"is nested over {MAX_DEPTH} deep: a scenario needs about 5")
        if isinstance(event, AliasEvent):
            if event.anchor not in self._anchors:
                raise self._error(
                    event,
                    f"alias `*{event.anchor}` names no value written before it: "
                    f"mark one with `&{event.anchor}`",
                )
            target, num_values = self._anchors[event.anchor]
            self._num_values += num_values
            self._check_count(event)
            return Node(value=target.value, at=target.at, key=key or at)
        self._check_count(event)
        value: Value
        if isinstance(event, ScalarEvent):
            value = self._scalar(event)
            if value is None and event.value == "" and key is not None:
                at = key
        else:
            name = str(event.ctag) if event.ctag is not None else ""
            if name not in ("", "!", _TAG + "map", _TAG + "seq"):
                raise self._error(event, f"tag `{name}` is not allowed: write the plain value")
            is_mapping = isinstance(event, MappingStartEvent)
            value = self._mapping(depth) if is_mapping else self._list(depth)
        node = Node(value=value, at=at, key=key or at)
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, self._num_values - before)
        return node

    def _check_count(self, event: Any) -> None:
        if self._num_values > MAX_VALUES:
            raise self._error(
                event,
                f"holds over {MAX_VALUES} values once aliases are expanded: "
                "a scenario needs about 100",
            )

    def _list(self, depth: int) -> list[Node]:
        items = []
        while not isinstance(event := next(self._events), SequenceEndEvent):
            items.append(self._node(event, depth + 1, key=None))
        return items

    def _mapping(self, depth: int) -> dict[Key, Node]:
        entries: dict[Key, Node] = {}
        while not isinstance(event := next(self._events), MappingEndEvent):
            place = self._origin(event)
            if not isinstance(event, ScalarEvent):
                raise self._error(event, "a key must be a name or a number, as `pipeline: 2`")
            if event.value == "<<" and event.implicit[0]:
                raise self._error(event, "merge keys are not allowed: use `extends: other-file`")
            key = read_key(event.value)
            node = self._node(next(self._events), depth + 1, key=place)
            if key in entries:
                first = entries[key].key
                where = f", first on line {first.line}" if first.line is not None else ""
                message = f"key is written twice{where}: keep one of the two"
                self._problems.append(Problem.at(place, field=str(key), message=message))
            else:
                entries[key] = node
        return entries

    def _scalar(self, event: ScalarEvent) -> bool | int | float | str | None:
        text: str = event.value
        tag = str(event.ctag) if event.ctag is not None else ""
        if tag in ("", "!"):
            tag = str(self._yaml.resolver.resolve(ScalarNode, text, event.implicit))
        kind = tag.removeprefix(_TAG)
        if kind in _AS_TEXT:
            return text
        try:
            if len(text) > 40:
                raise OverflowError
            if kind == "null":
                return None
            if kind == "bool":
                return text.lower() == "true"
            if kind == "int":
                return int(self._yaml.constructor.construct_yaml_int(ScalarNode(tag, text)))
            if kind == "float":
                return float(self._yaml.constructor.construct_yaml_float(ScalarNode(tag, text)))
        except (ValueError, OverflowError):
            raise self._error(event, f"`{text[:40]}` is not a usable number") from None
        raise self._error(event, f"tag `{tag}` is not allowed: write the plain value")
