"""The scenarios, models, clusters and devices that come with pipetwin, and how they are named.

An entry's name is its path below this folder without `.yaml` (`models/gpt3-175b`); its last part
alone is enough where only one entry has it. A row of a published table is named below its table,
as `published/ptdp.table1/1t`. Any other file is named by its path.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from scenarios.errors import Problem, ScenarioError
from scenarios.files import Node, kind_of_path, parse_text, read_file
from scenarios.tables import TableRow, rows_of

ROOT = Path(__file__).resolve().parent
PROFILES = "profiles"
"""The folder of profiles, which are no scenarios."""
PUBLISHED = "published"
Kind = Literal["device", "cluster", "model", "scenario", "table"]
_KINDS: dict[str, Kind] = {
    "devices": "device",
    "clusters": "cluster",
    "models": "model",
    PUBLISHED: "table",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of the catalogue."""

    name: str
    """Its path below the catalogue's folder, without `.yaml`."""
    kind: Kind
    """What it holds: a device, cluster or model to extend, a whole scenario, or a table of them."""
    description: str
    """One sentence on what it is."""
    path: Path
    """The file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a name means."""

    path: Path
    """The file."""
    shown: str
    """The file as shown to the user."""
    row: TableRow | None = None
    """The row, where the name is that of a row of a published table."""


class UnknownName(LookupError):
    """A name is no file and no entry of the catalogue; the text says what would be one."""


@cache
def names() -> dict[str, Path]:
    """Return the file of every entry by its name, sorted."""
    files = sorted(path for path in ROOT.rglob("*.yaml") if path.parent.name != PROFILES)
    return {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in files}


def profiles() -> dict[str, Path]:
    """Return the file of every profile that comes along, by its name."""
    return {path.stem: path for path in sorted((ROOT / PROFILES).glob("*.yaml"))}


@cache
def catalogue() -> tuple[Entry, ...]:
    """Return every entry of the catalogue, by name."""
    return tuple(
        Entry(name=name, kind=kind_of(name), description=_description(path), path=path)
        for name, path in names().items()
    )


def full_name(name: str) -> str:
    """The whole name of the entry that a name means: its own, or that of the only one whose last
    part it is; any other name as it is."""
    found = [entry for entry in names() if entry.rsplit("/", 1)[-1] == name]
    return found[0] if name not in names() and len(found) == 1 else name


def kind_of(name: str) -> Kind:
    """Tell what the entry called `name` holds."""
    return _KINDS.get(name.split("/")[0], "scenario")


def find(name: str, folder: Path) -> Found:
    """Find the file (and row of a table) that `name` means; paths are relative to `folder`.

    The file itself may be missing where the name says that it is a file (`x.yaml`).
    Raises UnknownName: neither a file nor an entry, or several entries.
    """
    path = folder / name
    if kind_of_path(path) == "file" or name.endswith((".yaml", ".yml")):
        return Found(path=path, shown=os.path.normpath(path))
    entries = names()
    table, row = _table_and_row(name, entries)
    if table is not None:
        return _find_row(table, row, entries[table])
    found = [name] if name in entries else [n for n in entries if n.rsplit("/", 1)[-1] == name]
    if len(found) == 1:
        return Found(path=entries[found[0]], shown=show(entries[found[0]]))
    if found:
        raise UnknownName(f"`{name}` could be any of {_listed(found)}: write the whole name")
    if name and kind_of_path(path):
        return Found(path=path, shown=os.path.normpath(path))
    raise UnknownName(
        f"`{name}` is neither a file nor in the catalogue: {_suggestion(name, entries)}"
    )


def tables() -> tuple[str, ...]:
    """Return the ids of the published tables of rows, as `ptdp.table1`; figure 7 before figure 11.

    Those whose entries are runs of epochs are `run_tables`.
    """
    return tuple(table_id for table_id in _table_ids() if not _holds_runs(table_id))


def run_tables() -> tuple[str, ...]:
    """Return the ids of the published tables whose entries are runs of epochs."""
    return tuple(table_id for table_id in _table_ids() if _holds_runs(table_id))


def _table_ids() -> list[str]:
    found = (name.removeprefix(f"{PUBLISHED}/") for name in names() if kind_of(name) == "table")
    return sorted(found, key=lambda t: [int(n) if n.isdigit() else n for n in _parts(t)])


@cache
def _holds_runs(table_id: str) -> bool:
    path = names()[f"{PUBLISHED}/{table_id}"]
    return any(line.startswith("runs:") for line in read_file(path, show(path)).splitlines())


@cache
def table_root(table_id: str) -> Node:
    """Return a published table as it is written; raises ScenarioError where it is no YAML."""
    path = names()[f"{PUBLISHED}/{table_id}"]
    problems: list[Problem] = []
    root = parse_text(read_file(path, show(path)), show(path), problems)
    if problems:
        raise ScenarioError(problems)
    return root


@cache
def table(table_id: str) -> tuple[Node, tuple[TableRow, ...]]:
    """Return a published table and its rows; raises ScenarioError where its file is wrong."""
    root = table_root(table_id)
    return root, rows_of(root)


def _parts(table_id: str) -> list[str]:
    return re.split(r"(\d+)", table_id)


def _table_and_row(name: str, entries: Mapping[str, Path]) -> tuple[str | None, str]:
    """Split the name of a row, with or without `published/`; None where it is none."""
    head, _, row = name.removeprefix(f"{PUBLISHED}/").partition("/")
    entry = f"{PUBLISHED}/{head}"
    return (entry if entry in entries else None), row


def _find_row(entry: str, name: str, path: Path) -> Found:
    table_id = entry.removeprefix(f"{PUBLISHED}/")
    if _holds_runs(table_id):
        raise UnknownName(
            f"`{entry}` is no scenario but runs of several: `validate --published {table_id}` "
            "predicts them"
        )
    rows = {row.name: row for row in table(table_id)[1]}
    if name in rows:
        return Found(path=path, shown=show(path), row=rows[name])
    close = difflib.get_close_matches(name, rows, n=3, cutoff=0.4) or list(rows)[:3]
    what = f"has no row `{name}`" if name else f"is a table of {len(rows)} scenarios, not one"
    raise UnknownName(f"`{entry}` {what}: name one, as {_listed([f'{entry}/{r}' for r in close])}")


def show(path: Path) -> str:
    """Write a path as seen from the working directory where it is below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question to put behind a message, `: did you mean `1f1b`?`; empty where nothing is near."""
    lower = {entry.lower(): entry for entry in known}
    close = difflib.get_close_matches(name.lower(), lower, n=2, cutoff=0.6)
    return f": did you mean {_listed([lower[entry] for entry in close])}?" if close else ""


def _suggestion(name: str, entries: dict[str, Path]) -> str:
    wanted = name.lower()
    close = _with_words(wanted, entries)
    last_parts = {entry.rsplit("/", 1)[-1]: entry for entry in entries}
    if not close:
        close = difflib.get_close_matches(wanted, entries, n=3, cutoff=0.6)
    for part in difflib.get_close_matches(wanted.rsplit("/", 1)[-1], last_parts, n=3, cutoff=0.6):
        if last_parts[part] not in close:
            close.append(last_parts[part])
    if close:
        return f"did you mean {_listed(close[:3])}?"
    return (
        "a file ends in `.yaml`, an entry is, for example, `megatron/175b`; `pipetwin scenario "
        "list` lists them"
    )


def _with_words(wanted: str, entries: Mapping[str, Path]) -> list[str]:
    """Entries whose names, or else descriptions, hold every word of what is wanted; those that say
    little else first, scenarios before parts of them."""
    words = re.findall(r"[a-z]+[0-9]*|[0-9][0-9.]*[a-z]*", wanted)
    if not words or max(map(len, words)) < 2:
        return []
    by_name = [name for name in entries if all(word in name for word in words)]
    found = by_name or [
        entry.name
        for entry in catalogue()
        if all(word in f"{entry.name} {entry.description}".lower() for word in words)
    ]
    return sorted(found, key=lambda n: (kind_of(n) not in ("scenario", "model"), len(n), n))


def _listed(found: list[str]) -> str:
    return " or ".join(f"`{name}`" for name in found)


def _description(path: Path) -> str:
    problems: list[Problem] = []
    root = parse_text(read_file(path, str(path)), str(path), problems)
    node, exists = root.find(("title" if path.parent.name == PUBLISHED else "description",))
    return node.value if exists and isinstance(node.value, str) else ""
