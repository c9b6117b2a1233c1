"""Timelines as gzipped Chrome trace JSON, which Perfetto (ui.perfetto.dev) and others open."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence

from sim.schedule.actions import SENDS
from sim.schedule.lowering import partner
from sim.timeline.memory import MemoryCurve
from sim.timeline.spans import LANES, Timeline


def chrome_trace(timeline: Timeline, curves: Sequence[MemoryCurve] = ()) -> bytes:
    """The timeline as gzipped JSON: a process per rank, a thread per lane, a flow arrow per
    message, a counter of memory per rank; times in microseconds."""
    events = [
        *_names(timeline),
        *_spans(timeline),
        *_flows(timeline),
        *(event for rank, curve in enumerate(curves) for event in _counters(rank, curve)),
    ]
    document = {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"origin": timeline.origin, "tool": "pipetwin"},
    }
    text = json.dumps(document, separators=(",", ":"))
    return gzip.compress(text.encode(), compresslevel=6, mtime=0)


def _names(timeline: Timeline) -> Iterator[dict[str, object]]:
    for rank in range(timeline.num_ranks):
        yield _meta("process_name", rank, 0, {"name": f"rank {rank} ({timeline.origin})"})
        yield _meta("process_sort_index", rank, 0, {"sort_index": rank})
        for tid, lane in enumerate(LANES):
            yield _meta("thread_name", rank, tid, {"name": lane})
            yield _meta("thread_sort_index", rank, tid, {"sort_index": tid})


def _meta(name: str, pid: int, tid: int, args: dict[str, object]) -> dict[str, object]:
    return {"ph": "M", "name": name, "pid": pid, "tid": tid, "args": args}


def _spans(timeline: Timeline) -> Iterator[dict[str, object]]:
    for span in timeline.spans:
        yield {
            "ph": "X",
            "name": str(span.action),
            "cat": span.action.kind.name.lower(),
            "pid": span.rank,
            "tid": LANES.index(span.lane),
            "ts": span.start_ns / 1e3,
            "dur": span.duration_ns / 1e3,
        }


def _flows(timeline: Timeline) -> Iterator[dict[str, object]]:
    arrivals = {action: span for (_, action), span in timeline.arrivals.items()}
    number = 0
    for span in timeline.spans:
        if span.action.kind in SENDS and span.lane != "compute":
            arrival = arrivals.get(partner(span.action))
            if arrival is None:
                continue
            number += 1
            common = {"name": "message", "cat": "message", "id": number}
            tid = LANES.index(span.lane)
            yield {**common, "ph": "s", "pid": span.rank, "tid": tid, "ts": span.start_ns / 1e3}
            yield {
                **common,
                "ph": "f",
                "bp": "e",
                "pid": arrival.rank,
                "tid": LANES.index(arrival.lane),
                "ts": arrival.end_ns / 1e3,
            }


def _counters(rank: int, curve: MemoryCurve) -> Iterator[dict[str, object]]:
    for time, held in zip(curve.times_ns, curve.bytes_held, strict=True):
        yield {
            "ph": "C",
            "name": "memory",
            "pid": rank,
            "ts": time / 1e3,
            "args": {"GiB": held / 2**30},
        }
