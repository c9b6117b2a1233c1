"""The published data that tables are held against, where it is at hand."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

DATA = Path(__file__).parents[3] / "shared/data/published_runs.yaml"


@cache
def published_sets() -> dict[str, list[dict[str, Any]]]:
    if not DATA.exists():
        pytest.skip("the published data is not here")
    found: dict[str, list[dict[str, Any]]] = {}
    todo: list[Any] = [YAML(typ="safe").load(DATA.read_text())]
    while todo:
        item = todo.pop()
        if isinstance(item, dict) and "id" in item and "rows" in item:
            found[item["id"]] = item["rows"]
        elif isinstance(item, (dict, list)):
            todo += item.values() if isinstance(item, dict) else item
    return found
