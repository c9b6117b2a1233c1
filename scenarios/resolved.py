"""The resolved scenario written as YAML again, with each value's origin beside it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode

from scenarios import fields, units
from scenarios.errors import Origin
from scenarios.files import Key
from scenarios.loader import Loaded

_COMMENT_COLUMN = 44
_WRITERS: dict[Callable[[Any], Any], Callable[[Any], str]] = {
    units.parse_bytes: units.exact_bytes,
    units.parse_bytes_per_s: units.exact_bytes_per_s,
    units.parse_flops_per_s: units.exact_flops_per_s,
    units.parse_duration_ns: units.exact_duration_ns,
    units.parse_dollars_per_hour: units.exact_dollars_per_hour,
    units.parse_count: units.exact_count,
}
_PLAIN = re.compile(r"[A-Za-z0-9/.][A-Za-z0-9_./+-]*( [A-Za-z0-9_./+-]+)*")
_RESOLVER = YAML(typ="safe", pure=True).resolver


def resolved_yaml(loaded: Loaded) -> str:
    """Write every value of a loaded scenario with its origin: `file:line`, `--set a=b` or default.

    Loading the text gives an equal scenario. Fields that are unknown (None) are left out.
    """
    lines = _lines((), loaded.scenario, loaded.origins)
    return "".join(f"{line}\n" for line in lines)


def _lines(path: fields.Path, owner: Any, origins: Mapping[str, Origin]) -> Iterator[str]:
    items: list[tuple[Key, Any]]
    if isinstance(owner, dict):
        items = list(owner.items())
    else:
        items = [(f.name, getattr(owner, f.name)) for f in dataclasses.fields(owner)]
    for key, value in items:
        inner = (*path, key)
        start = f"{'  ' * len(path)}{key}:"
        if value is None and path[:1] != ("variants",):
            continue
        if dataclasses.is_dataclass(value) or (isinstance(value, dict) and value):
            body = list(_lines(inner, value, origins))
            yield start if body else f"{start} {{}}"
            yield from body
            continue
        text = f"{start} {_written(inner, value)}"
        origin = str(origins.get(".".join(map(str, inner)), "default"))
        yield f"{text:<{_COMMENT_COLUMN - 1}} # {origin}"


def _written(path: fields.Path, value: Any) -> str:
    field = fields.lookup(path)
    if dataclasses.is_dataclass(value):
        own = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        known = (f"{k}: {_written((*path, k), v)}" for k, v in own.items() if v is not None)
        return f"{{{', '.join(known)}}}"
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_written(path, item) for item in value)}]"
    if field is not None and field.parser in _WRITERS:
        return _WRITERS[field.parser](value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _text(value)
    return repr(value)


def _text(value: str) -> str:
    if _PLAIN.fullmatch(value):
        tag = _RESOLVER.resolve(ScalarNode, value, (True, False))
        if str(tag) == "tag:yaml.org,2002:str":
            return value
    escaped = (
        f"\\{char}" if char in '"\\' else char if char.isprintable() else f"\\U{ord(char):08x}"
        for char in value
    )
    return f'"{"".join(escaped)}"'
