"""Timelines as gzipped Chrome trace JSON, opened by Perfetto (ui.perfetto.dev) and chrome://tracing.

A rank is a process, of number `process_of(rank)`; its tracks are threads numbered from there on.
The format: Google's "Trace Event Format". What its readers rely on, and what is held to here: the
slices of one track lie beside each other or within each other; a flow begins (`s`) and ends (`f`)
at a time that lies within a slice of its track; process, thread and flow numbers are whole; times
are microseconds, here with all three digits of the nanoseconds. To Perfetto, thread numbers are a
whole machine's, whatever the process, and thread 0 is the idle one.
"""

from __future__ import annotations

import gzip
import io
import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from sim.schedule.actions import COMPUTE, RECEIVES, SENDS, Action, Kind
from sim.schedule.lowering import Program, partner
from sim.timeline.memory import MemoryCurve
from sim.timeline.spans import LANES, Lane, Span, Timeline

BESIDE = " +"
"""What follows a lane's name in that of a track with what ran at the same time as others of it."""
_CHUNK_EVENTS = 20_000
_IDS = 1000
_LEVEL = 6

PayloadBytes = Callable[[Action], int | None]


def chrome_trace(
    timeline: Timeline,
    curves: Sequence[MemoryCurve] = (),
    *,
    program: Program | None = None,
    payload_bytes: PayloadBytes | None = None,
    metadata: Mapping[str, object] | None = None,
) -> bytes:
    """The timeline as gzipped JSON: a process per rank, a track per lane that is used, a flow arrow
    per message, a counter of memory per rank; times in microseconds.

    program: what the timeline ran, without which reductions are taken to lie after the passes.
    payload_bytes: the size of a message by its SEND action; None where it is not known.
    metadata: of what the timeline is, JSON values only, beside its origin.
    """
    drawn = _Drawn(timeline, program, payload_bytes)
    events = _joined(
        drawn.names(),
        drawn.slices(),
        drawn.flows(),
        *(_counters(rank, curve) for rank, curve in enumerate(curves)),
    )
    other = {"tool": "pipetwin", "origin": timeline.origin, **(metadata or {})}
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=_LEVEL, mtime=0) as file:
        # Piece by piece: of a trillion parameters' iteration the text is a hundred megabytes.
        file.write(b'{"displayTimeUnit":"ms","otherData":')
        file.write(_json(other).encode())
        file.write(b',"traceEvents":[')
        for chunk in events:
            file.write(chunk.encode())
        file.write(b"\n]}\n")
    return out.getvalue()


def process_of(rank: int) -> int:
    """The number of a rank's process."""
    return (rank + 1) * _IDS


def rank_of(process: int) -> int:
    """The rank of a process."""
    return process // _IDS - 1


def _joined(*sources: Iterator[str]) -> Iterator[str]:
    lead = "\n"
    pending: list[str] = []
    for source in sources:
        for event in source:
            pending.append(event)
            if len(pending) == _CHUNK_EVENTS:
                yield lead + ",\n".join(pending)
                lead, pending = ",\n", []
    if pending:
        yield lead + ",\n".join(pending)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _us(time_ns: int) -> str:
    """Microseconds with all digits, which a float would not print for long times.

    Perfetto reads them as a double and cuts off what is below a nanosecond, so that slices that
    touch would overlap and be dropped; where it would be one short, a fourth digit helps it.
    """
    text = f"{time_ns // 1000}.{time_ns % 1000:03d}"
    return text if int(float(text) * 1000.0) == time_ns else f"{text}1"


@dataclass(frozen=True)
class _Drawn:
    timeline: Timeline
    program: Program | None
    payload_bytes: PayloadBytes | None

    @cached_property
    def tracks(self) -> tuple[tuple[tuple[Lane, int], ...], ...]:
        """Of every rank its tracks: a lane each, and further ones for what overlaps in a lane."""
        used: list[set[tuple[Lane, int]]] = [set() for _ in range(self.timeline.num_ranks)]
        for span, depth in self.placed:
            used[span.rank].add((span.lane, depth))
        return tuple(tuple(sorted(u, key=lambda t: (LANES.index(t[0]), t[1]))) for u in used)

    @cached_property
    def placed(self) -> tuple[tuple[Span, int], ...]:
        """Every span by rank and start, with the number of its track among those of its lane: the
        first on which nothing else is under way."""
        found = []
        for spans in self.timeline.by_rank:
            ends: dict[Lane, list[int]] = {lane: [] for lane in LANES}
            for span in spans:
                own = ends[span.lane]
                depth = next((n for n, end in enumerate(own) if end <= span.start_ns), len(own))
                own[depth : depth + 1] = [span.end_ns]
                found.append((span, depth))
        return tuple(found)

    @cached_property
    def numbers(self) -> tuple[Mapping[tuple[Lane, int], int], ...]:
        """Of every rank the thread numbers of its tracks: lane by lane."""
        return tuple(
            {track: process_of(rank) + 1 + n for n, track in enumerate(own)}
            for rank, own in enumerate(self.tracks)
        )

    @cached_property
    def depth_of(self) -> Mapping[Span, int]:
        return dict(self.placed)

    def names(self) -> Iterator[str]:
        for rank, own in enumerate(self.numbers):
            pid, name = process_of(rank), f"rank {rank} ({self.timeline.origin})"
            yield _meta("process_name", pid, pid, {"name": name})
            yield _meta("process_sort_index", pid, pid, {"sort_index": rank})
            for (lane, depth), tid in own.items():
                yield _meta("thread_name", pid, tid, {"name": lane + BESIDE * depth})
                yield _meta("thread_sort_index", pid, tid, {"sort_index": tid})

    def slices(self) -> Iterator[str]:
        waits: Mapping[Span, str] = {}
        rank = -1
        for span, depth in self.placed:
            if span.rank != rank:
                rank = span.rank
                waits = self._waits(rank)
            tid = self.numbers[rank][span.lane, depth]
            args = self._args(span) + waits.get(span, "")
            yield (
                f'{{"ph":"X","name":"{span.action}","cat":"{span.action.kind.name.lower()}",'
                f'"pid":{process_of(rank)},"tid":{tid},"ts":{_us(span.start_ns)},'
                f'"dur":{_us(span.duration_ns)},"args":{{{args}}}}}'
            )

    def _args(self, span: Span) -> str:
        kind, stage, microbatch, slice_index, pipe = span.action
        by_rank = kind in (Kind.OPTIMIZER, Kind.GRADIENT_NORM, Kind.EXCHANGE)
        text = f'"rank":{stage}' if by_rank else f'"stage":{stage}'
        if microbatch is not None:
            text += f',"{"exchange" if kind is Kind.EXCHANGE else "microbatch"}":{microbatch}'
            if kind is not Kind.EXCHANGE:
                text += f',"slice":{slice_index}'
        if pipe:
            text += f',"pipe":{pipe}'
        if kind in SENDS or kind in RECEIVES:
            if self.payload_bytes is not None:
                size = self.payload_bytes(span.action if kind in SENDS else partner(span.action))
                text += "" if size is None else f',"bytes":{size}'
        elif span.lane == "compute" or span.lane == "collective":
            text += self._parts(span)
        return text

    def _parts(self, span: Span) -> str:
        kind, stage, microbatch, slice_index, _ = span.action
        variants = self.timeline.variants
        variant = variants[microbatch] if variants and microbatch is not None else 0
        if kind is Kind.EXCHANGE:
            variant = 0
        parts = self.timeline.parts.get((kind.value, stage, slice_index, variant))
        if not parts:
            return ""
        inner = ",".join(f'"{name}":{ns / 1e6:.6f}' for name, ns in parts.items() if ns)
        return f',"parts_ms":{{{inner}}}'

    def _waits(self, rank: int) -> Mapping[Span, str]:
        """What a rank stood still for before a span and how long: the message that arrived last in
        the gap, the others of a reduction, or what else came first (its order, a shared processor).
        """
        beside = self.program is not None and self.program.overlapped_reduction
        spans = self.timeline.by_rank[rank]
        messages = sorted(
            (s for s in spans if s.lane == "forward" or s.lane == "backward"),
            key=lambda s: (s.end_ns, s.action.kind in RECEIVES),
        )
        ends = [s.end_ns for s in messages]
        free = self.begin
        found = {}
        for span in spans:
            if span.lane != "compute" and span.lane != "collective":
                continue
            if beside and span.action.kind is Kind.REDUCE_GRADIENTS:
                continue
            if span.start_ns > free:
                last = bisect_right(ends, span.start_ns) - 1
                if last >= 0 and ends[last] > free:
                    cause = str(messages[last].action)
                elif span.lane == "collective":
                    cause = "other ranks"
                else:
                    cause = "other"
                waited = (span.start_ns - free) / 1e6
                found[span] = f',"waited_ms":{waited:.6f},"waited_for":"{cause}"'
            free = max(free, span.end_ns)
        return found

    @cached_property
    def begin(self) -> int:
        """When the first rank began."""
        return min((s.start_ns for s in self.timeline.spans), default=0)

    def flows(self) -> Iterator[str]:
        """An arrow per message: between the slices of its transfer, else, where it has none that
        takes time, from the slice that sent it (or made it) to the one that received it."""
        under_way: dict[Action, Span] = {}
        at_ends: dict[Action, Span] = {}
        for span in self.timeline.spans:
            kind = span.action.kind
            if kind in SENDS or kind in RECEIVES:
                (at_ends if span.lane == "compute" else under_way)[span.action] = span
            elif kind in COMPUTE:
                at_ends[span.action] = span
        sent = {a: None for found in (under_way, at_ends) for a in found if a.kind in SENDS}
        number = 0
        for message in sent:
            tail, head = under_way.get(message), under_way.get(partner(message))
            if tail is None or head is None or not (tail.duration_ns and head.duration_ns):
                tail = _first_long(at_ends, message, _makers(message))
                head = _first_long(at_ends, partner(message), _users(partner(message)))
            if tail is None or head is None or head.end_ns - 1 < tail.start_ns:
                continue
            number += 1
            yield self._flow("s", number, tail, tail.start_ns)
            yield self._flow("f", number, head, head.end_ns - 1)

    def _flow(self, phase: str, number: int, span: Span, time_ns: int) -> str:
        tid = self.numbers[span.rank][span.lane, self.depth_of[span]]
        bound = '"bp":"e",' if phase == "f" else ""
        return (
            f'{{"ph":"{phase}",{bound}"name":"message","cat":"message","id":{number},'
            f'"pid":{process_of(span.rank)},"tid":{tid},"ts":{_us(time_ns)}}}'
        )


def _makers(send: Action) -> tuple[Action, ...]:
    """The pass that makes a message, whole or split."""
    if send.kind is Kind.SEND_FORWARD:
        return (Action(Kind.FORWARD, *send[1:]),)
    return tuple(Action(kind, *send[1:]) for kind in (Kind.BACKWARD, Kind.BACKWARD_INPUT))


def _users(receive: Action) -> tuple[Action, ...]:
    """The pass that needs a message, whole or split."""
    if receive.kind is Kind.RECV_FORWARD:
        return (Action(Kind.FORWARD, *receive[1:]),)
    return tuple(Action(kind, *receive[1:]) for kind in (Kind.BACKWARD, Kind.BACKWARD_INPUT))


def _first_long(
    spans: Mapping[Action, Span], message: Action, passes: Sequence[Action]
) -> Span | None:
    """The span of a message, else of its pass, that takes time."""
    found = (spans.get(action) for action in (message, *passes))
    return next((s for s in found if s is not None and s.duration_ns), None)


def _meta(name: str, pid: int, tid: int, args: Mapping[str, object]) -> str:
    return _json({"ph": "M", "name": name, "pid": pid, "tid": tid, "args": args})


def _counters(rank: int, curve: MemoryCurve) -> Iterator[str]:
    pid = process_of(rank)
    for time_ns, held in zip(curve.times_ns, curve.bytes_held, strict=True):
        yield (
            f'{{"ph":"C","name":"memory","pid":{pid},"ts":{_us(time_ns)},'
            f'"args":{{"bytes":{held}}}}}'
        )
