"""The JSON Schema of a scenario file, so that an editor completes and checks it while typing."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from scenarios.schema import Scenario


def json_schema() -> dict[str, Any]:
    """Build the JSON Schema of a file.

    A file may be a part of a scenario, so nothing is required; any field may be null, which takes
    an inherited value back to its default. Not covered: rules across fields, ranges of quantities.
    """
    schema = TypeAdapter(Scenario).json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        part.pop("required", None)
        for name, field in part.get("properties", {}).items():
            field.pop("title", None)
            part["properties"][name] = _nullable(field)
    name = {"type": "string", "minLength": 1}
    schema["properties"] = {
        "extends": {
            "description": "Catalogue entries, or files relative to this one, that this file "
            "builds on; later ones win, this file last.",
            "anyOf": [name, {"type": "array", "items": name}],
            "examples": ["models/gpt3-175b", ["models/gpt3-175b", "clusters/dgx-a100"]],
        },
        **schema["properties"],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "pipetwin scenario file",
    }


def _nullable(field: dict[str, Any]) -> dict[str, Any]:
    null: dict[str, Any] = {"type": "null"}
    if null in field.get("anyOf", []):
        return field
    outer: dict[str, Any] = {
        key: field[key] for key in ("description", "default", "examples") if key in field
    }
    inner = {key: value for key, value in field.items() if key not in outer}
    return {**outer, "anyOf": [inner, null]}
