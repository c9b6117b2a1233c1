"""The scenarios, models, clusters and devices that come with pipetwin, and how they are named.

An entry's name is its path below this folder without `.yaml` (`models/gpt3-175b`); its last part
alone is enough where only one entry has it. Any other file is named by its path.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from scenarios.errors import Problem
from scenarios.files import kind_of_path, parse_text, read_file

ROOT = Path(__file__).resolve().parent
Kind = Literal["device", "cluster", "model", "scenario"]
_KINDS: dict[str, Kind] = {"devices": "device", "clusters": "cluster", "models": "model"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of the catalogue."""

    name: str
    """Its path below the catalogue's folder, without `.yaml`."""
    kind: Kind
    """What it holds: a device, cluster or model to extend, or a whole scenario."""
    description: str
    """One sentence on what it is."""
    path: Path
    """The file."""


class UnknownName(LookupError):
    """A name is no file and no entry of the catalogue; the text says what would be one."""


@cache
def names() -> dict[str, Path]:
    """Return the file of every entry by its name, sorted."""
    files = sorted(ROOT.rglob("*.yaml"))
    return {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in files}


@cache
def catalogue() -> tuple[Entry, ...]:
    """Return every entry of the catalogue, by name."""
    return tuple(
        Entry(name=name, kind=kind_of(name), description=_description(path), path=path)
        for name, path in names().items()
    )


def kind_of(name: str) -> Kind:
    """Tell what the entry called `name` holds."""
    return _KINDS.get(name.split("/")[0], "scenario")


def find(name: str, folder: Path) -> tuple[Path, str]:
    """Find the file that `name` means, and how to show it; paths are relative to `folder`.

    The file itself may be missing where the name says that it is a file (`x.yaml`).
    Raises UnknownName: neither a file nor an entry, or several entries.
    """
    path = folder / name
    if kind_of_path(path) == "file" or name.endswith((".yaml", ".yml")):
        return path, os.path.normpath(path)
    entries = names()
    found = [name] if name in entries else [n for n in entries if n.rsplit("/", 1)[-1] == name]
    if len(found) == 1:
        return entries[found[0]], show(entries[found[0]])
    if found:
        raise UnknownName(f"`{name}` could be any of {_listed(found)}: write the whole name")
    if name and kind_of_path(path):
        return path, os.path.normpath(path)
    raise UnknownName(
        f"`{name}` is neither a file nor in the catalogue: {_suggestion(name, entries)}"
    )


def show(path: Path) -> str:
    """Write a path as seen from the working directory where it is below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def _suggestion(name: str, entries: dict[str, Path]) -> str:
    wanted = name.lower()
    last_parts = {entry.rsplit("/", 1)[-1]: entry for entry in entries}
    close = difflib.get_close_matches(wanted, entries, n=3, cutoff=0.6)
    for part in difflib.get_close_matches(wanted.rsplit("/", 1)[-1], last_parts, n=3, cutoff=0.6):
        if last_parts[part] not in close:
            close.append(last_parts[part])
    if close:
        return f"did you mean {_listed(close[:3])}?"
    example = next(iter(sorted(entries, key=lambda n: (kind_of(n) != "scenario", n))), "x.yaml")
    return f"a file ends in `.yaml`, an entry is, for example, `{example}`"


def _listed(found: list[str]) -> str:
    return " or ".join(f"`{name}`" for name in found)


def _description(path: Path) -> str:
    problems: list[Problem] = []
    root = parse_text(read_file(path, str(path)), str(path), problems)
    node, exists = root.find(("description",))
    return node.value if exists and isinstance(node.value, str) else ""
