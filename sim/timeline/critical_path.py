"""The critical path: the chain of spans, each started by the one before, that ends the iteration.

Walks backwards from the last span to end. A span's predecessor is, among those that can have
delayed it (the span before it on its compute lane, its messages' transfers, for a transfer the
sender's and the receiver's compute spans before it, for a collective the last to come, for a rank
that shares its processor the one that held it until then), the one that ended last. A reduction
that overlaps with the passes follows the pass that ends within it, and is on the path from that end
on. Exact for a simulated timeline; for a measured one the gaps are waiting.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass

from sim.schedule.actions import COMPUTE, RECEIVES, SENDS, Action, Kind
from sim.schedule.lowering import Program, participants, partner, peer, receives
from sim.timeline.spans import Span, Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticalPath:
    """spans: first to last, overlapped reductions from the end of the pass they follow on;
    queued_ns: time on the path in no span (a link was busy, or, in a measured timeline, something
    unrecorded); overlapped: those reductions."""

    spans: tuple[Span, ...]
    queued_ns: int
    overlapped: frozenset[Span] = frozenset()

    def composition(self) -> Counter[tuple[str, Action]]:
        """How often each (`compute`, `transfer`, `collective` or `overlapped`, action) is on the
        path; `overlapped` is a reduction of which the path holds only what is not hidden."""

        def name(span: Span) -> str:
            if span in self.overlapped:
                return "overlapped"
            return span.lane if span.lane in ("compute", "collective") else "transfer"

        return Counter((name(s), s.action) for s in self.spans)

    def time_by_kind(self) -> Counter[str]:
        """Nanoseconds on the path by kind of action; transfers under `transfer`."""
        counter: Counter[str] = Counter()
        for span in self.spans:
            transfer = span.lane in ("forward", "backward")
            counter["transfer" if transfer else span.action.kind.name.lower()] += span.duration_ns
        return counter


def critical_path(timeline: Timeline, program: Program) -> CriticalPath:
    """Find the critical path of a timeline that ran a program."""
    if not timeline.spans:
        return CriticalPath(spans=(), queued_ns=0)
    walk = _Walk(timeline, program)
    span: Span | None = max(timeline.spans, key=lambda s: (s.end_ns, s.start_ns))
    path: list[Span] = []
    overlapped: set[Span] = set()
    while span is not None:
        before = walk.predecessor(span)
        if walk.is_overlapped(span) and before is not None and before.lane == "compute":
            span = span._replace(start_ns=max(span.start_ns, before.end_ns))
            overlapped.add(span)
        path.append(span)
        span = before
    path.reverse()
    covered = sum(s.duration_ns for s in path)
    return CriticalPath(
        spans=tuple(path),
        queued_ns=path[-1].end_ns - path[0].start_ns - covered,
        overlapped=frozenset(overlapped),
    )


class _Walk:
    def __init__(self, timeline: Timeline, program: Program) -> None:
        self.program = program
        self.schedule = program.schedule
        self.arrivals = timeline.arrivals
        own = [
            [s for s in rank if s.lane == "compute" or s.lane == "collective"]
            for rank in timeline.by_rank
        ]
        self.reductions = [[s for s in rank if self.is_overlapped(s)] for rank in own]
        if program.overlapped_reduction:
            own = [[s for s in rank if not self.is_overlapped(s)] for rank in own]
        self.own = [sorted(rank, key=lambda s: s.end_ns) for rank in own]
        self.ends = [[s.end_ns for s in rank] for rank in self.own]
        self.collectives: dict[tuple[Kind, int], list[Span]] = {}
        for rank in self.own:
            for s in rank:
                if s.lane == "collective":
                    self.collectives.setdefault((s.action.kind, s.start_ns), []).append(s)
        self.beside = _sharers(timeline.processors)
        self.visited: set[Span] = set()
        self.sent_before = _messages_before(program) if program.mode != "overlapped" else {}

    def is_overlapped(self, span: Span) -> bool:
        """Whether a span is a reduction that goes on beside its rank's passes."""
        return self.program.overlapped_reduction and span.action.kind is Kind.REDUCE_GRADIENTS

    def predecessor(self, span: Span) -> Span | None:
        self.visited.add(span)
        candidates: list[Span | None] = []
        action = span.action
        if self.is_overlapped(span):
            return self._before_reduction(span)
        if span.lane in ("forward", "backward"):
            receive = action if action.kind in RECEIVES else partner(action)
            for rank in (peer(receive, self.schedule), self._holder(receive)):
                candidates.append(self._before(rank, span.start_ns))
        elif span.lane == "collective":
            ranks = participants(action, self.program)
            for other in self.collectives[action.kind, span.start_ns]:
                if other.rank in ranks:
                    candidates.append(self._before(other.rank, span.start_ns))
                    candidates.append(self._reduced(other.rank, span.start_ns))
        else:
            candidates.append(self._before(span.rank, span.start_ns))
            for rank in self.beside.get(span.rank, ()):
                holder = self._before(rank, span.start_ns)
                if holder is not None and holder.end_ns == span.start_ns:
                    candidates.append(holder)
            if action.kind is Kind.OPTIMIZER:
                candidates.append(self._reduced(span.rank, span.start_ns))
            for receive in self._waited_for(span):
                arrival = self.arrivals.get((self._holder(receive), receive))
                if arrival is not None and arrival.end_ns <= span.start_ns:
                    candidates.append(arrival)
        found = [c for c in candidates if c is not None and c not in self.visited]
        return max(found, key=lambda s: (s.end_ns, s.duration_ns), default=None)

    def _before_reduction(self, span: Span) -> Span | None:
        """The reduction that an overlapped one waited for, else its stage's last backward pass."""
        for other in self.reductions[span.rank]:
            if other.end_ns == span.start_ns and other not in self.visited:
                return other
        passes = (
            s
            for s in reversed(self.own[span.rank])
            if s.action.stage == span.action.stage
            and s.action.kind in (Kind.BACKWARD, Kind.BACKWARD_WEIGHT)
            and s not in self.visited
        )
        return next(passes, None)

    def _reduced(self, rank: int, time_ns: int) -> Span | None:
        """The last of a rank's overlapped reductions to end by a time."""
        ended = (s for s in self.reductions[rank] if s.end_ns <= time_ns)
        return max(ended, key=lambda s: s.end_ns, default=None)

    def _waited_for(self, span: Span) -> tuple[Action, ...]:
        if span.action.kind in RECEIVES:
            return (span.action,)
        if span.action.kind not in COMPUTE:
            return self.sent_before.get(span.action, ())
        before = self.sent_before.get(span.action, ())
        return (*receives(span.action, self.schedule), *before)

    def _holder(self, receive: Action) -> int:
        return self.schedule.rank_of(receive.stage, receive.pipe)

    def _before(self, rank: int, time_ns: int) -> Span | None:
        """The last span to end by a time on a rank's own lanes, zero-length ones after others."""
        i = bisect_right(self.ends[rank], time_ns) - 1
        while i >= 0 and self.own[rank][i] in self.visited:
            i -= 1
        return self.own[rank][i] if i >= 0 else None


def _sharers(processors: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
    """For each rank that shares its processor, the others on it."""
    ranks = range(len(processors))
    beside = {
        rank: tuple(r for r in ranks if r != rank and processors[r] == processors[rank])
        for rank in ranks
    }
    return {rank: others for rank, others in beside.items() if others}


def _messages_before(program: Program) -> dict[Action, tuple[Action, ...]]:
    """For each action of a blocking program, and each exchange, the messages (as RECV) of the steps
    just before it."""
    before: dict[Action, tuple[Action, ...]] = {}
    for rank, steps in enumerate(program.steps):
        waiting: tuple[Action, ...] = ()
        exchanges = 0
        for step in steps:
            if step[0].kind in SENDS or step[0].kind in RECEIVES:
                own = tuple(partner(m) if m.kind in SENDS else m for m in step)
                before[Action(Kind.EXCHANGE, rank, exchanges)] = own
                exchanges += 1
                waiting += own
            else:
                before[step[0]] = waiting
                waiting = ()
    return before
