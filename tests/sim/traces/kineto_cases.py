"""Traces as torch.profiler writes them, made from timelines, for tests of their reading."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sim.schedule.actions import COMPUTE, RECEIVES, SENDS, Kind
from sim.timeline.spans import Span, Timeline

BASE_NS = 1_790_857_026_000_000_000
"""A date in 2026: microseconds since then need more digits than a float of ns since 1970 has."""


def event(
    name: str, start_ns: int, end_ns: int, category: str = "user_annotation", **fields: Any
) -> dict[str, Any]:
    """A complete event; times as Kineto prints them, microseconds with three digits."""
    found = {"ph": "X", "cat": category, "name": name, "pid": 100, "tid": 100}
    return found | {"ts": start_ns, "dur": end_ns - start_ns} | fields


def kineto_text(
    events: Sequence[Mapping[str, Any]], *, rank: int | None, host: str | None = "node0"
) -> str:
    """A trace's text, header first, with times digit by digit."""

    def us(time_ns: int) -> str:
        return f"{'-' if time_ns < 0 else ''}{abs(time_ns) // 1000}.{abs(time_ns) % 1000:03d}"

    lines = []
    for e in events:
        times = ",".join(f'"{key}":{us(e[key])}' for key in ("ts", "dur") if key in e)
        rest = json.dumps({k: v for k, v in e.items() if k not in ("ts", "dur")})
        lines.append(f"{rest[:-1]},{times}}}" if times else rest)
    header: dict[str, Any] = {"schemaVersion": 1, "deviceProperties": []}
    if rank is not None:
        header["distributedInfo"] = {"backend": "gloo", "rank": rank, "world_size": 2}
    if host is not None:
        header["host_name"] = host
    header |= {"displayTimeUnit": "ms", "baseTimeNanoseconds": BASE_NS}
    return f'{json.dumps(header)[:-1]},\n"traceEvents":[\n' + ",\n".join(lines) + "\n]}"


def rank_events(
    timeline: Timeline,
    rank: int,
    *,
    shift_ns: int = 0,
    step: int | None = None,
    prefix: str = "pipetwin:",
) -> list[dict[str, Any]]:
    """A rank's passes, sends and flush as annotations, each with an operator that fills it."""
    events = []
    spans = [s for s in timeline.by_rank[rank] if s.lane in ("compute", "collective")]
    for span in spans:
        if not _is_annotated(span):
            continue
        start, end = span.start_ns + shift_ns, span.end_ns + shift_ns
        events.append(event(f"{prefix}{span.action}", start, end))
        if span.lane == "compute":
            events.append(event("aten::mm", start, end, "cpu_op"))
    if step is not None:
        low, high = (f(s.start_ns for s in spans) for f in (min, max))
        last = max(s.end_ns for s in spans) + shift_ns + 1000
        events.insert(0, event(f"ProfilerStep#{step}", low + shift_ns - 1000, max(last, high)))
    return events


def _is_annotated(span: Span) -> bool:
    kind = span.action.kind
    return kind in COMPUTE or kind in SENDS or kind is Kind.OPTIMIZER or kind not in RECEIVES


def write_traces(
    folder: Path,
    ranks: Sequence[Sequence[Mapping[str, Any]]],
    *,
    hosts: Sequence[str | None] | None = None,
    packed: bool = True,
) -> list[Path]:
    """A file a rank."""
    paths = []
    for rank, events in enumerate(ranks):
        host = hosts[rank] if hosts is not None else "node0"
        text = kineto_text(events, rank=rank, host=host)
        path = folder / (f"rank{rank}.json.gz" if packed else f"rank{rank}.json")
        path.write_bytes(gzip.compress(text.encode(), 1) if packed else text.encode())
        paths.append(path)
    return paths
