"""The timeline's data for the page: spans as typed arrays, windows onto them, and waits.

The page draws them on a canvas (templates/gantt.js): a chart of thousands of separate elements
would be slow to draw and slower to zoom.
"""

from __future__ import annotations

import base64
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from scenarios.schema import Scenario
from sim.comparison import pieces_of
from sim.schedule.actions import COMPUTE, RECEIVES, SENDS, Kind
from sim.schedule.lowering import Program, peer
from sim.timeline.spans import Span, Timeline

MAX_SPANS = 10_000
WINDOW_SPANS = 4_000
OVERVIEW_BINS = 240
NOTHING = 65_535
KINDS: tuple[Kind, ...] = tuple(Kind)
STYLES = ("forward", "backward", "weight", "optimizer", "messages", "communication", "transfer")


Cut = dict[str, Any]


class Wait(NamedTuple):
    """How long a lane stood still before a span, and for what: the message (as its action) that
    ended last in the gap, or None with `meeting` for the other ranks of a reduction."""

    gap_ns: int
    message: Span | None
    meeting: bool


class Drawn(NamedTuple):
    """A span in its row of the chart; `peer` is the rank at the other end of its message, or of the
    one it waited for."""

    row: int
    span: Span
    wait: Wait
    peer: int = NOTHING


class Track(NamedTuple):
    """A timeline to be drawn, a row a rank, and what its microbatches are cut into (`cut_of`)."""

    timeline: Timeline
    program: Program
    cut: Cut | None


_NO_WAIT = Wait(0, None, False)


def style_of(span: Span) -> int:
    """The index in STYLES of a span's colour."""
    kind = span.action.kind
    if span.lane in ("forward", "backward"):
        return STYLES.index("transfer")
    if span.lane == "collective":
        return STYLES.index("communication")
    if kind is Kind.FORWARD:
        return STYLES.index("forward")
    if kind in (Kind.BACKWARD, Kind.BACKWARD_INPUT):
        return STYLES.index("backward")
    if kind is Kind.BACKWARD_WEIGHT:
        return STYLES.index("weight")
    return STYLES.index("optimizer" if kind is Kind.OPTIMIZER else "messages")


def cut_of(scenario: Scenario) -> Cut | None:
    """What tips say of slices: of each microbatch its variant, and of each variant's slices
    (context, tokens); None where all microbatches are whole and alike."""
    found = pieces_of(scenario)
    if found is None:
        return None
    variants = scenario.plan.variants
    own = [found[variants.index(v)] for v in range(len(set(variants)))]
    return {
        "variants": list(variants),
        "pieces": [[[piece.context, piece.tokens] for piece in slices] for slices in own],
    }


def timeline_data(timeline: Timeline, program: Program, cut: Cut | None = None) -> dict[str, Any]:
    """One timeline as JSON values for the page, a row per rank."""
    track = Track(timeline, program, cut)
    drawn = list(_drawn(track, lambda rank: rank))
    labels = [{"label": str(rank), "group": rank, "cut": cut} for rank in range(timeline.num_ranks)]
    return _data(drawn, labels, [track])


def pair_data(
    simulated: Timeline, measured: Timeline, program: Program, cut: Cut | None = None
) -> dict[str, Any]:
    """Two timelines of one program, a pair of rows per rank: simulated above, measured below."""
    above, below = Track(simulated, program, cut), Track(measured, program, cut)
    drawn = [
        *_drawn(above, lambda rank: 2 * rank),
        *_drawn(below, lambda rank: 2 * rank + 1),
    ]
    labels = [
        {"label": f"{rank} {what}", "group": rank, "cut": cut}
        for rank in range(simulated.num_ranks)
        for what in ("sim", "run")
    ]
    return _data(drawn, labels, [above, below])


def stacked_data(named: Sequence[tuple[str, Track, Track]]) -> dict[str, Any]:
    """Pairs of timelines one above the other on one scale of time, each with its name above it."""
    drawn: list[Drawn] = []
    labels: list[dict[str, Any]] = []
    for title, simulated, measured in named:
        first = len(labels)
        drawn += _drawn(simulated, partial(_every_second, first))
        drawn += _drawn(measured, partial(_every_second, first + 1))
        for rank in range(simulated.timeline.num_ranks):
            for what, whole in (("sim", "simulated"), ("run", "measured")):
                labels.append(
                    {
                        "label": f"{rank} {what}",
                        "group": first // 2 + rank,
                        "place": f"{title}: rank {rank} ({whole})",
                        "cut": simulated.cut,
                    }
                )
        labels[first]["title"] = title
    return _data(drawn, labels, [t for _, *pair in named for t in pair], presets=False)


def phases_data(named: Sequence[tuple[str, str, Track]]) -> dict[str, Any]:
    """Iterations one above the other, a row a rank, each with its title above it and, by its short
    name, as a view of its own; as many from the first on as MAX_SPANS allows, at least one."""
    drawn: list[Drawn] = []
    labels: list[dict[str, Any]] = []
    views: list[dict[str, Any]] = []
    kept: list[Track] = []
    for short, title, track in named:
        first = len(labels)
        own = list(_drawn(track, partial(_below, first)))
        if kept and len(drawn) + len(own) > MAX_SPANS:
            break
        drawn += own
        kept.append(track)
        labels += _labels(track, first, title, title)
        end = track.timeline.iteration_ns
        views.append({"name": short, "start": 0, "end": end, "rows": [first, len(labels)]})
    data = _data(drawn, labels, kept, presets=False)
    if data["overview"] is None and len(views) > 1:
        (whole,) = data["windows"]
        data["windows"] = [{**whole, "name": "All"}, *({**whole, **view} for view in views)]
    return {**data, "num_tracks": len(kept)}


def below_data(named: Sequence[tuple[str, str, Track]]) -> dict[str, Any]:
    """Timelines of whichever programs one above the other on one scale of time, a row a rank, each
    with its title above it, its ranks called by its name: (name, title, track)."""
    drawn: list[Drawn] = []
    labels: list[dict[str, Any]] = []
    for name, title, track in named:
        first = len(labels)
        drawn += _drawn(track, partial(_below, first))
        labels += _labels(track, first, title, name, f" ({track.timeline.origin})")
    return _data(drawn, labels, [track for _, _, track in named])


def _labels(
    track: Track, first: int, title: str, name: str, after: str = ""
) -> list[dict[str, Any]]:
    """The rows of a timeline from row `first` on, a rank each, the title above the first; name and
    after: what tips say before and after a rank."""
    end = track.timeline.iteration_ns
    own = [
        {
            "label": str(rank),
            "group": first + rank,
            "place": f"{name}: rank {rank}{after}",
            "cut": track.cut,
            "end": end,
        }
        for rank in range(track.timeline.num_ranks)
    ]
    own[0]["title"] = title
    return own


def _below(first: int, rank: int) -> int:
    return first + rank


def _every_second(first: int, rank: int) -> int:
    return first + 2 * rank


def _cut(spans: Sequence[Span], program: Program) -> list[Span]:
    """A rank's spans by start, overlapped reductions cut where the last pass ends: what lies beside
    passes is drawn as messages are, below them."""
    end = max((s.end_ns for s in spans if s.action.kind in COMPUTE), default=0)
    found = []
    for span in spans:
        if program.overlapped_reduction and span.action.kind is Kind.REDUCE_GRADIENTS:
            beside = span._replace(lane="backward", end_ns=min(span.end_ns, end))
            after = span._replace(start_ns=max(span.start_ns, end))
            found += [piece for piece in (beside, after) if piece.duration_ns > 0]
        else:
            found.append(span)
    return sorted(found, key=lambda s: (s.start_ns, s.end_ns))


def _drawn(track: Track, row_of: Callable[[int], int]) -> Iterator[Drawn]:
    """The spans worth drawing, from time 0: what fills a lane, and messages where they arrive."""
    timeline, program, _ = track
    begin = min((s.start_ns for s in timeline.spans), default=0)
    for rank, spans in enumerate(timeline.by_rank):
        messages = sorted(
            (s for s in spans if s.lane in ("forward", "backward")),
            key=lambda s: (s.end_ns, s.action.kind in RECEIVES),
        )
        ends = [s.end_ns for s in messages]
        free = begin
        for span in _cut(spans, program):
            shifted = span._replace(start_ns=span.start_ns - begin, end_ns=span.end_ns - begin)
            if span.lane in ("forward", "backward"):
                if span.action.kind not in SENDS:
                    yield Drawn(row_of(rank), shifted, _NO_WAIT, _peer(span, _NO_WAIT, program))
                continue
            wait = _NO_WAIT
            if span.start_ns > free:
                i = bisect_right(ends, span.start_ns) - 1
                message = messages[i] if i >= 0 and ends[i] > free else None
                if message is not None:
                    message = message._replace(rank=rank)
                wait = Wait(span.start_ns - free, message, span.lane == "collective")
            free = max(free, span.end_ns)
            if span.end_ns > span.start_ns:
                yield Drawn(row_of(rank), shifted, wait, _peer(span, wait, program))


def _data(
    drawn: list[Drawn],
    rows: Sequence[dict[str, Any]],
    tracks: Sequence[Track],
    *,
    presets: bool = True,
) -> dict[str, Any]:
    total = max([1, *(t.timeline.iteration_ns for t in tracks)])
    unit = -(-total // (2**32 - 1))
    drawn.sort(key=lambda d: (d.span.start_ns, d.row))
    whole = len(drawn) <= MAX_SPANS
    windows = _presets(drawn, total, presets) if whole else _windows(drawn, total)
    kept = drawn if whole else [d for w in windows for d in w["drawn"]]
    first = 0
    for window in windows:
        size = len(window.pop("drawn", ()))
        window.update(first=0 if whole else first, count=len(drawn) if whole else size)
        first += size
    cuts: list[Cut] = []
    for cut in (track.cut for track in tracks):
        if cut is not None and cut not in cuts:
            cuts.append(cut)
    schedules = [track.program.schedule for track in tracks]
    return {
        "unit_ns": unit,
        "total_ns": total,
        "rows": [{**row, "cut": cuts.index(row["cut"]) if row["cut"] else None} for row in rows],
        "cuts": cuts,
        "kinds": [kind.name.lower() for kind in KINDS],
        "styles": [*STYLES, "bubble"],
        "nothing": NOTHING,
        "several_stages": any(s.num_stages > s.num_ranks for s in schedules),
        "several_microbatches": any(s.num_microbatches > 1 for s in schedules),
        "num_spans": len(drawn),
        "num_kept": len(kept),
        "windows": windows,
        "overview": None if whole else _overview(drawn, len(rows), total),
        "spans": _arrays(kept, unit),
    }


def _presets(drawn: list[Drawn], total: int, presets: bool) -> list[dict[str, Any]]:
    """Views on all spans: the whole, and (with `presets`) the parts that the first row's passes
    mark."""
    own = [d.span for d in drawn if d.row == 0 and d.span.lane == "compute"]
    backwards = [s.start_ns for s in own if style_of(s) == STYLES.index("backward")]
    forwards = [s.end_ns for s in own if style_of(s) == STYLES.index("forward")]
    views = [{"name": "Whole iteration", "start": 0, "end": total}]
    if not presets or not backwards or not forwards or len({d.row for d in drawn}) == 1:
        return views
    first, last = min(backwards), max(forwards)
    views.append({"name": "Warm-up", "start": 0, "end": first})
    if last - first > total / 20:
        half = min((last - first) // 2, max(total // 12, (total - last) // 2))
        middle = (first + last) // 2
        views.append({"name": "Steady", "start": middle - half, "end": middle + half})
    begin = last if last > first else max(s.end_ns for s in own if s.end_ns <= last)
    views.append({"name": "Cool-down", "start": begin, "end": total})
    return views


def _windows(drawn: list[Drawn], total: int) -> list[dict[str, Any]]:
    """Three windows of a long timeline with at most about WINDOW_SPANS spans each."""
    starts = [d.span.start_ns for d in drawn]
    middle = len(drawn) // 2 - WINDOW_SPANS // 2
    borders = [
        ("Warm-up", 0, starts[WINDOW_SPANS]),
        ("Steady", starts[middle], starts[middle + WINDOW_SPANS]),
        ("Cool-down", starts[-WINDOW_SPANS], total),
    ]
    longest = max(d.span.end_ns - d.span.start_ns for d in drawn)
    found = []
    for name, low, high in borders:
        candidates = drawn[bisect_left(starts, low - longest) : bisect_left(starts, high)]
        inside = [d for d in candidates if d.span.end_ns > low][: 2 * WINDOW_SPANS]
        found.append({"name": name, "start": low, "end": high, "drawn": inside})
    return found


def _overview(drawn: list[Drawn], num_rows: int, total: int) -> dict[str, object]:
    """The share of each style in each of OVERVIEW_BINS equal times, per row, in 255ths."""
    held = np.zeros((len(STYLES), num_rows, OVERVIEW_BINS), dtype=np.float64)
    width = total / OVERVIEW_BINS
    for row, span, *_ in drawn:
        low, high = span.start_ns / width, span.end_ns / width
        for index in range(int(low), min(OVERVIEW_BINS, int(high) + 1)):
            held[style_of(span), row, index] += max(0.0, min(high, index + 1) - max(low, index))
    used = [i for i, name in enumerate(STYLES) if name != "transfer" and held[i].any()]
    shares = np.clip(np.rint(held[used] * 255), 0, 255)
    return {"bins": OVERVIEW_BINS, "styles": used, "shares": packed(shares.ravel(), "u1")}


def _arrays(kept: list[Drawn], unit: int) -> dict[str, str]:
    columns: dict[str, tuple[str, list[int]]] = {
        "row": ("u2", [d.row for d in kept]),
        "style": ("u1", [style_of(d.span) for d in kept]),
        "kind": ("u1", [KINDS.index(d.span.action.kind) for d in kept]),
        "stage": ("u2", [d.span.action.stage for d in kept]),
        "microbatch": ("u2", [_microbatch(d.span) for d in kept]),
        "slice": ("u2", [_slice(d.span) for d in kept]),
        "start": ("u4", [d.span.start_ns // unit for d in kept]),
        "length": ("u4", [d.span.duration_ns // unit for d in kept]),
        "wait": ("u4", [d.wait.gap_ns // unit for d in kept]),
        "cause": ("u1", [_cause(d.wait) for d in kept]),
        "cause_microbatch": ("u2", [_cause_microbatch(d.wait) for d in kept]),
        "cause_slice": ("u2", [_cause_slice(d.wait) for d in kept]),
        "peer": ("u2", [d.peer for d in kept]),
    }
    return {name: packed(values, dtype) for name, (dtype, values) in columns.items()}


def packed(values: Any, dtype: str) -> str:
    """Numbers as base64 of a little-endian typed array."""
    array = np.asarray(values, dtype=np.int64).astype(f"<{dtype}")
    return base64.b64encode(array.tobytes()).decode("ascii")


def _microbatch(span: Span) -> int:
    """The microbatch of a span; an exchange is of none, its number only counts."""
    return NOTHING if span.action.kind is Kind.EXCHANGE else _or_nothing(span.action.microbatch)


def _slice(span: Span) -> int:
    """The slice of a span's microbatch; the page knows which microbatches are whole."""
    return NOTHING if _microbatch(span) == NOTHING else _or_nothing(span.action.slice_index)


def _or_nothing(number: int | None) -> int:
    return NOTHING if number is None else min(number, NOTHING - 1)


def _cause(wait: Wait) -> int:
    """0 nothing, 1 activations, 2 gradients, 3 the taking of its own activations, 4 of its own
    gradients, 5 other ranks, 6 nothing on record."""
    if not wait.gap_ns:
        return 0
    if wait.message is None:
        return 5 if wait.meeting else 6
    kind = wait.message.action.kind
    return 1 + (kind in (Kind.RECV_BACKWARD, Kind.SEND_BACKWARD)) + 2 * (kind in SENDS)


def _cause_microbatch(wait: Wait) -> int:
    return NOTHING if wait.message is None else _or_nothing(wait.message.action.microbatch)


def _cause_slice(wait: Wait) -> int:
    return NOTHING if wait.message is None else _or_nothing(wait.message.action.slice_index)


def _peer(span: Span, wait: Wait, program: Program) -> int:
    """The rank at the other end of the message: of the wait, or of the span itself."""
    action = wait.message.action if wait.message is not None else span.action
    if action.kind in SENDS or action.kind in RECEIVES:
        return peer(action, program.schedule)
    return NOTHING
