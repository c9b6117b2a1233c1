"""One rank's iteration laid out by the rule of measured timelines: an action begins where the one
before ended, unless it waited.

What a trace does not name is told by when operators ran: those right after a pass (a loss, say) are
its own, those right before one are that one's, and a time without any is waiting where the pass
needs a message of another rank, else idle.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from sim.schedule.actions import COMPUTE, FLUSH, SENDS, Action, Kind
from sim.schedule.lowering import Program, receives, sends
from sim.timeline.spans import Lane, Span
from sim.traces.actions import Did, RankIteration
from sim.traces.kineto import RankTrace

NO_WAIT_NS = 100_000
"""A time without operators that is no longer is the interpreter's own."""
_LONGEST_LOOK = 10_000
_MEETINGS = FLUSH - {Kind.OPTIMIZER}
_BEFORE_STEP = _MEETINGS - {Kind.GATHER_WEIGHTS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Laid:
    """A rank's spans on its own clock, and what it knows of messages.

    posted_ns: when each message sent was posted. sent_ns: the earliest that it can have been.
    arrived_ns: when a message that was waited for came. there_ns: the latest that each message
    received can have come. wanted_ns: when the rank was free to wait for it. unnamed_ns: time of
    the flush given to `unnamed`, which has no name in the trace. idle_ns: time with nothing to
    wait for.
    """

    spans: tuple[Span, ...]
    posted_ns: dict[Action, int]
    sent_ns: dict[Action, int]
    arrived_ns: dict[Action, int]
    there_ns: dict[Action, int]
    wanted_ns: dict[Action, int]
    unnamed: Action | None
    unnamed_ns: int
    idle_ns: int


def lay(trace: RankTrace, iteration: RankIteration, program: Program, rank: int) -> Laid:
    """Lay out one rank's iteration."""
    return _Rank(trace, iteration, program, rank).laid()


class _Rank:
    def __init__(
        self, trace: RankTrace, iteration: RankIteration, program: Program, rank: int
    ) -> None:
        self.trace, self.iteration, self.program, self.rank = trace, iteration, program, rank
        self.spans: list[Span] = []
        self.arrived: dict[Action, int] = {}
        self.there: dict[Action, int] = {}
        self.wanted: dict[Action, int] = {}
        self.posted: dict[Action, int] = {}
        self.sent: dict[Action, int] = {}
        self.idle = self.unnamed_ns = 0
        self.named = named = {did.action for did in iteration.done}
        flush = [a for step in program.steps[rank] for a in step if a.kind in _BEFORE_STEP]
        meetings = [a for a in flush if a not in named]
        self.unnamed = meetings[-1] if meetings else None

    def laid(self) -> Laid:
        last: int | None = None
        reduced = 0
        for did in self.iteration.done:
            kind = did.action.kind
            if kind is Kind.REDUCE_GRADIENTS and self.program.overlapped_reduction:
                self._put("collective", did.action, did.start_ns, did.end_ns)
                reduced = max(reduced, did.end_ns)
                continue
            if kind in FLUSH and last is not None:
                last = max(last, min(reduced, did.start_ns))  # It waits for what went on beside.
            if kind in SENDS:
                self.posted[did.action] = did.end_ns
                self.sent[did.action] = did.start_ns
                if last is not None and did.end_ns <= last:
                    continue  # Within the pass that made it.
            start = self._begin(did, last)
            lane: Lane = "collective" if kind in _MEETINGS else "compute"
            last = max(did.end_ns, start)
            made = self._made(did, start)
            self._put(lane, did.action, start, made)
            if made < last:
                self._put("compute", self._unnamed_sends(did)[0], made, last)
        return Laid(
            spans=tuple(self.spans),
            posted_ns=self.posted,
            sent_ns=self.sent,
            arrived_ns=self.arrived,
            there_ns=self.there,
            wanted_ns=self.wanted,
            unnamed=self.unnamed if self.unnamed_ns else None,
            unnamed_ns=self.unnamed_ns,
            idle_ns=self.idle,
        )

    def _unnamed_sends(self, did: Did) -> tuple[Action, ...]:
        found = sends(did.action, self.program.schedule) if did.action.kind in COMPUTE else ()
        return tuple(a for a in found if a not in self.named)

    def _made(self, did: Did, start: int) -> int:
        """Where a pass ends: with its last operator, where its range also holds its sends."""
        messages = self._unnamed_sends(did) if did.bare else ()
        if not messages:
            return max(did.end_ns, start)
        starts, ends = self.trace.work.get(did.track, ((), ()))
        i = bisect_left(starts, did.end_ns) - 1
        made = max(start, min(did.end_ns, int(ends[i]))) if i >= 0 else max(did.end_ns, start)
        for message in messages:
            self.sent[message], self.posted[message] = made, max(did.end_ns, start)
        return made

    def _put(self, lane: Lane, action: Action, start: int, end: int) -> None:
        self.spans.append(Span(self.rank, lane, action, start, end))

    def _begin(self, did: Did, last: int | None) -> int:
        """Where an action begins; its messages' arrivals, and its predecessor's end, are set."""
        waited_for: tuple[Action, ...] = ()
        if did.action.kind in COMPUTE:
            waited_for = receives(did.action, self.program.schedule)
        own, ready = self._own_start(did, bool(waited_for))
        for message in waited_for:
            self.there[message] = own if ready is None else ready
        if last is None:
            for message in waited_for:
                self.arrived[message] = own if ready is None else ready
            return own if ready is None else ready
        if own <= last:
            return last
        busy = self._busy(did, last, own)
        after, before = _chains(busy, last, own)
        self._extend(after)
        # The carrier tells how long it was; else what it took to begin is in it.
        waited = before if ready is None else min(ready, before)
        if before - after <= NO_WAIT_NS or (waited_for and waited - after <= NO_WAIT_NS):
            return after
        if waited_for:
            came = max(after, waited)
            for message in waited_for:
                self.arrived[message] = came
                self.wanted[message] = after
                # What ran in between did so before the message was needed.
                self.there[message] = min(self.there[message], came)
            return came
        if did.action.kind is Kind.OPTIMIZER and self.unnamed is not None:
            self._put("collective", self.unnamed, after, before)
            self.unnamed_ns = before - after
            return before
        if did.action.kind in FLUSH:
            return after
        if did.action.kind not in SENDS:
            self.idle += before - after
            return before
        return after

    def _own_start(self, did: Did, waits: bool) -> tuple[int, int | None]:
        """Where an action's own time begins, and where the carrier tells it when its message came.

        A range that holds the waiting begins for itself with its first operator.
        """
        if not waits:
            return did.start_ns, None
        start = did.start_ns
        starts, _ = self.trace.work.get(did.track, ((), ()))
        first = bisect_left(starts, did.start_ns)
        if did.bare and first < len(starts) and starts[first] < did.end_ns:
            start = int(starts[first])
        arrivals = self.trace.arrivals
        i = bisect_right(arrivals, start) - 1
        if did.bare and i >= 0 and arrivals[i] > did.start_ns:
            return start, int(arrivals[i])
        return start, None

    def _busy(self, did: Did, low: int, high: int) -> list[tuple[int, int]]:
        """When something ran between two times, on the action's track or beside it."""
        starts, ends = self.trace.work.get(did.track, ((), ()))
        first, stop = bisect_right(ends, low), bisect_left(starts, high)
        if stop - first > _LONGEST_LOOK:
            return [(low, high)]
        ran = [(int(starts[i]), int(ends[i])) for i in range(first, stop)]
        if not self.trace.on_device:
            ran += [(a, b) for a, b in self.iteration.strays if b > low and a < high]
        return sorted(ran)

    def _extend(self, end: int) -> None:
        """Give what ran right after an action to it."""
        for i in reversed(range(len(self.spans))):
            span = self.spans[i]
            if span.lane == "compute" or not self.program.overlapped_reduction:
                if end > span.end_ns:
                    self.spans[i] = span._replace(end_ns=end)
                return


def _chains(busy: Sequence[tuple[int, int]], low: int, high: int) -> tuple[int, int]:
    """How far what runs reaches on from `low`, and how far back from `high`, without a break."""
    after = low
    for start, end in busy:
        if start - after > NO_WAIT_NS:
            break
        after = max(after, min(end, high))
    before = high
    for start, end in reversed(busy):
        if before - end > NO_WAIT_NS:
            break
        before = min(before, max(start, after))
    return after, before
