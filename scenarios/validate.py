"""A tree of values checked against the schema: a Scenario, or every problem with its place."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from scenarios import fields, rules
from scenarios.errors import Origin, Problem
from scenarios.fields import Path
from scenarios.files import Key, Node
from scenarios.schema import Scenario
from scenarios.units import IN_FILE

_SCENARIO = TypeAdapter(Scenario)
_NOT_A_MAPPING = ("dataclass_type", "dataclass_exact_type", "dict_type", "invalid_key")


def validate(root: Node, *, partial: bool = False) -> tuple[Scenario | None, list[Problem]]:
    """Check a tree against the schema and the rules.

    Returns the scenario, None where any field is wrong, and all problems: of single fields, and of
    the rules that read only sound fields. With `partial`, missing fields are no problem and no
    rule is checked, as suits a file that others extend.
    """
    problems: list[Problem] = []
    doubtful: list[str] = []
    data = _plain(root, (), problems, doubtful)
    if partial:
        data.setdefault("name", "partial")
    scenario: Scenario | None = None
    try:
        scenario = _SCENARIO.validate_python(data, context=IN_FILE)
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems += [
            _problem(root, detail)
            for detail in details
            if not (detail["type"] == "missing" and (partial or _dotted(detail["loc"]) in doubtful))
        ]
        if not partial:
            scenario = _salvage(data, details, doubtful)
    if scenario is not None and not partial:
        for field, message in rules.check(scenario, doubtful=doubtful):
            problems.append(Problem.at(place(root, split(field)), field, message))
    return (None if problems else scenario), problems


def split(field: str) -> Path:
    """Split a dotted field path; whole numbers become ints."""
    return tuple(int(part) if part.isdigit() else part for part in field.split("."))


def place(root: Node, path: Path) -> Origin:
    """Return the place of the value at `path`, or of the key of its nearest written ancestor."""
    node, found = root.find(path)
    return node.at if found else node.key


def _plain(node: Node, path: Path, problems: list[Problem], doubtful: list[str]) -> Any:
    """Turn a node into plain values without nulls (but a variant's, which take values back to their
    defaults), taking out and reporting unknown fields."""
    if isinstance(node.value, list):
        return [
            _plain(item, (*path, index), problems, doubtful)
            for index, item in enumerate(node.value)
        ]
    if not isinstance(node.value, dict):
        return node.value
    names = fields.names_at(path)
    values: dict[Key, Any] = {}
    for key, child in node.value.items():
        inner = (*path, key)
        if names is not None and key not in names:
            problems.append(_unknown(child, inner, names, doubtful))
        elif child.value is not None or _in_variant(inner):
            # A variant may be called `8`.
            name = str(key) if path == ("variants",) else key
            values[name] = _plain(child, inner, problems, doubtful)
    return values


def _in_variant(path: Path) -> bool:
    return path[0] == "variants" and len(path) > 2


def _unknown(node: Node, path: Path, names: tuple[str, ...], doubtful: list[str]) -> Problem:
    meant = fields.did_you_mean(path)
    if meant is None:
        owner = f"`{_dotted(path[:-1])}`" if len(path) > 1 else "a scenario"
        hint = f"{owner} has {', '.join(f'`{name}`' for name in names)}"
    else:
        doubtful.append(meant)
        same_parent = split(meant)[:-1] == path[:-1]
        hint = f"did you mean `{meant.rsplit('.', 1)[-1] if same_parent else meant}`?"
    message = f"unknown field `{path[-1]}`: {hint}"
    return Problem.at(node.key, _dotted(path), message)


def _problem(root: Node, detail: Mapping[str, Any]) -> Problem:
    is_key = detail["loc"][-1:] == ("[key]",)
    path: Path = detail["loc"][:-1] if is_key else detail["loc"]
    node, found = root.find(path)
    origin = node.at if found and not is_key else node.key
    return Problem.at(origin, _dotted(path), _message(detail, path, is_key))


def _message(detail: Mapping[str, Any], path: Path, is_key: bool) -> str:
    kind: str = detail["type"]
    field = fields.lookup(path)
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if field is None:
        return str(detail["msg"])
    rule = field.description.rstrip(".")
    works = f"`{path[-1]}: {field.example}` would work"
    if isinstance(path[-1], int):
        works = f"`{field.example}` would work"
    if kind == "missing":
        return f"is missing: {rule}; {works}"
    given = "a mapping" if isinstance(detail["input"], dict) else _shown(detail["input"])
    if is_key:
        expected = detail.get("ctx", {}).get("expected", "")
        return f"{given} cannot be a key here: {_one_of(given, _choices(expected))}"
    if kind == "literal_error":
        choices = _one_of(given, field.choices)
        # Whoever mistyped a choice knows what it means.
        return f"{given} is not allowed: {choices}" + ("" if choices[-1] == "?" else f"; {rule}")
    bounds = {
        "greater_than_equal": ("ge", "at least"),
        "greater_than": ("gt", "above"),
        "less_than_equal": ("le", "at most"),
        "less_than": ("lt", "below"),
    }
    if kind in bounds:
        name, words = bounds[kind]
        return f"{given} is out of range: it must be {words} {detail['ctx'][name]:g}; {works}"
    if kind in _NOT_A_MAPPING:
        return f"{given} is not a mapping: {rule}; {works}"
    wanted = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "string": "a text",
        "tuple": "a list",
        "finite": "a finite number",
    }.get(kind.split("_")[0])
    if wanted is None:
        return f"{given} is not allowed: {detail['msg']}; {rule}; {works}"
    return f"{given} is not {wanted}: {rule}; {works}"


def _one_of(given: str, choices: tuple[str, ...]) -> str:
    if not choices:
        return "it must be a whole number from 0, as `0`"
    close = difflib.get_close_matches(given.strip("`").lower(), choices, n=1, cutoff=0.5)
    hint = f"; did you mean `{close[0]}`?" if close else ""
    return f"it must be one of {', '.join(f'`{choice}`' for choice in choices)}{hint}"


def _choices(expected: str) -> tuple[str, ...]:
    """Read pydantic's `'fp64', 'fp32' or 'fp16'`."""
    return tuple(expected.split("'")[1::2])


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text if len(text) <= 40 else text[:37] + '...'}`"


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))


def _salvage(data: dict[Key, Any], details: list[Any], doubtful: list[str]) -> Scenario | None:
    """Build a scenario without the wrong fields, so that rules on the others can be checked.

    A wrong field that its parent needs takes the parent with it; what was taken out is added to
    `doubtful`.
    """
    data = copy.deepcopy(data)
    for detail in details:
        path = tuple(part for part in detail["loc"] if part != "[key]")
        while path and not _is_optional(path):
            path = path[:-1]
        if not path:
            return None
        doubtful.append(_dotted(path))
        owner: Any = data
        for part in path[:-1]:
            owner = owner.get(part, {}) if isinstance(owner, dict) else {}
        if isinstance(owner, dict):
            owner.pop(path[-1], None)
    try:
        return _SCENARIO.validate_python(data, context=IN_FILE)
    except ValidationError:
        return None


def _is_optional(path: Path) -> bool:
    field = fields.lookup(path)
    names = fields.names_at(path[:-1])
    return field is not None and names is not None and not field.required
