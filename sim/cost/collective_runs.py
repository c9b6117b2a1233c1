"""Measured all-reduces within one node, read from a CSV: what a fit holds its link model to."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sim.cost.runs import RunsError, read_rows, read_text

COLUMNS = ("gpu", "ranks", "bytes", "out_of_place_us", "in_place_us")


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectivePoint:
    """A measured all-reduce of `payload_bytes` on each of `ranks` devices of one node.

    gpu: the device's kind, as `a100`; time_ns: of the in-place operation, as training uses it.
    """

    gpu: str
    ranks: int
    payload_bytes: int
    time_ns: float


def read_collectives(path: Path, device: str) -> tuple[CollectivePoint, ...]:
    """Read a CSV of all-reduces (columns `COLUMNS`, times in us) and keep a device's.

    A row is the device's where the device's name starts with the row's `gpu`, in any case:
    `A100-SXM4-80GB` takes `a100`. Other columns are not read. A row with only one of the two times
    has that one. Raises RunsError with all problems of the file, `file:line: column: what is
    wrong`, and where no row is of the device.
    """
    points = parse_collectives(read_text(path), shown=str(path))
    found = tuple(p for p in points if device.lower().startswith(p.gpu))
    if not found:
        kinds = ", ".join(sorted({p.gpu for p in points}))
        raise RunsError(f"{path}: has no row for {device}: only for {kinds}")
    return found


def parse_collectives(text: str, *, shown: str = "collectives") -> tuple[CollectivePoint, ...]:
    """Read the text of a file of all-reduces, of all devices; see `read_collectives`."""
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
    try:
        missing = [c for c in COLUMNS[:3] if c not in (reader.fieldnames or ())]
        if missing or not set(COLUMNS[3:]) & set(reader.fieldnames or ()):
            raise RunsError(
                f"{shown}:1: {', '.join(missing) or 'in_place_us'}: missing; the first line must "
                f"name the columns {','.join(COLUMNS)}"
            )
        points = read_rows(reader, _point, shown)
    except csv.Error as error:
        raise RunsError(f"{shown}:{reader.line_num}: is not a CSV: {error}") from None
    if not points:
        raise RunsError(f"{shown}:2: has no all-reduce: write one a line below the columns' names")
    return points


def _point(row: Mapping[str, str]) -> CollectivePoint:
    problems = []
    gpu = row["gpu"].strip().lower()
    if not gpu:
        problems.append("gpu: is empty; write the device's kind, as `a100`")
    ranks, size = (_whole(row[c].strip()) for c in ("ranks", "bytes"))
    if ranks is None or ranks < 2:
        problems.append(f"ranks: {row['ranks'].strip()!r} is not a whole number from 2 up")
    if size is None or size < 1:
        problems.append(f"bytes: {row['bytes'].strip()!r} is not a whole number above 0")
    written = [text for c in reversed(COLUMNS[3:]) if (text := (row.get(c) or "").strip())]
    microseconds = _time(written[0]) if written else None
    if microseconds is None:
        shown = written[0] if written else ""
        problems.append(f"in_place_us: {shown!r} is not a time in us above 0, as `45.1`")
    if problems or ranks is None or size is None or microseconds is None:
        raise RunsError("\n".join(problems))
    return CollectivePoint(gpu=gpu, ranks=ranks, payload_bytes=size, time_ns=microseconds * 1e3)


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _time(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) and found > 0 else None
