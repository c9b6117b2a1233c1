"""Figures of an iteration, from its timeline: bubble, exposed communication, breakdown per rank.

Every nanosecond of every rank is counted once: it computes (by category), or it waits. A wait is
exposed communication where what the rank waits for is a transfer or a collective already under
way, and bubble otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sim.schedule.actions import COMPUTE, RECEIVES, SENDS, Action, Kind
from sim.schedule.lowering import Program, receives
from sim.timeline.spans import Span, Timeline

BUBBLE = "bubble"
MESSAGES = "messages"
EXPOSED: Mapping[Kind, str] = {
    Kind.REDUCE_GRADIENTS: "data_parallel",
    Kind.REDUCE_TIED: "tied_embedding",
    Kind.GRADIENT_NORM: "gradient_norm",
    Kind.GATHER_WEIGHTS: "weight_gather",
}
POINT_TO_POINT = "point_to_point"
TENSOR_PARALLEL = "tensor_parallel"
COMMUNICATION = frozenset({*EXPOSED.values(), POINT_TO_POINT, TENSOR_PARALLEL})
_NAMES: Mapping[Kind, str] = {
    Kind.FORWARD: "forward",
    Kind.BACKWARD: "backward",
    Kind.BACKWARD_INPUT: "backward",
    Kind.BACKWARD_WEIGHT: "backward",
    Kind.OPTIMIZER: "optimizer",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RankFigures:
    """One rank's iteration in nanoseconds: busy + exposed communication + bubble = iteration.

    Exposed communication counts collectives inside passes (of tensor parallelism, and of fully
    sharded weights) as far as nothing overlaps them, as well as waits for transfers and collectives
    under way. A reduction beside the passes counts only where the optimizer waits for it.

    inside_ns: exposed communication inside passes and optimizer step.
    breakdown_ns: by category; sums to the iteration time. `messages` is the processor time of
    posting and unpacking messages and of exchanging them, `point_to_point` the waiting for them on
    their way.
    """

    busy_ns: int
    exposed_ns: int
    inside_ns: int
    bubble_ns: int
    breakdown_ns: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What an iteration amounts to.

    bubble_fraction: rank-time waiting on pipeline dependencies / all rank-time (makespan).
    span_bubble_fraction: the largest over ranks of the part of its own first start to last end
    in which a rank's compute lane does nothing.
    bubble_over_ideal: bubble over busy time of the busiest rank, as Megatron-LM's t_pb / t_id
    (arXiv 2104.04473, section 2.2.1).
    exposed_communication_fraction: rank-time waiting on transfers and collectives under way, those
    of tensor parallelism inside the passes included.
    breakdown: fraction of all rank-time by category; sums to 1.
    """

    iteration_ns: int
    bubble_fraction: float
    span_bubble_fraction: float
    bubble_over_ideal: float
    exposed_communication_fraction: float
    breakdown: Mapping[str, float]
    ranks: tuple[RankFigures, ...]


def figures(timeline: Timeline, program: Program) -> Figures:
    """Compute the figures of a timeline that ran a program."""
    start = min((s.start_ns for s in timeline.spans), default=0)
    end = start + timeline.iteration_ns
    ranks = tuple(
        _rank_figures(timeline, program, rank, start, end) for rank in range(timeline.num_ranks)
    )
    total = max(1, timeline.iteration_ns * timeline.num_ranks)
    sums: Counter[str] = Counter()
    for rank_figures in ranks:
        sums.update(rank_figures.breakdown_ns)
    work = [r.busy_ns + r.inside_ns for r in ranks]
    busiest = max(work, default=0)
    waiting_of_busiest = min(
        (r.bubble_ns for r, w in zip(ranks, work, strict=True) if w == busiest), default=0
    )
    return Figures(
        iteration_ns=timeline.iteration_ns,
        bubble_fraction=sum(r.bubble_ns for r in ranks) / total,
        span_bubble_fraction=max((_span_bubble(c) for c in timeline.compute), default=0.0),
        bubble_over_ideal=waiting_of_busiest / max(1, busiest),
        exposed_communication_fraction=sum(r.exposed_ns for r in ranks) / total,
        breakdown={name: value / total for name, value in sums.most_common()},
        ranks=ranks,
    )


def _rank_figures(
    timeline: Timeline, program: Program, rank: int, start: int, end: int
) -> RankFigures:
    breakdown: Counter[str] = Counter()
    inside: Counter[str] = Counter()
    compute = timeline.compute[rank]
    culprits = _Culprits(timeline, program, rank)
    position = start
    for span in compute:
        if span.start_ns > position:
            _divide_gap(breakdown, position, span.start_ns, culprits.of(span.action, position))
        _add_parts(inside, span, timeline)
        position = max(position, span.end_ns)
    if end > position:
        _divide_gap(breakdown, position, end, culprits.of(None, position))
    within = sum(inside[name] for name in COMMUNICATION)
    breakdown += inside
    return RankFigures(
        busy_ns=sum(span.duration_ns for span in compute) - within,
        inside_ns=within,
        exposed_ns=sum(breakdown[name] for name in COMMUNICATION),
        bubble_ns=breakdown[BUBBLE],
        breakdown_ns={name: value for name, value in breakdown.items() if value},
    )


class _Culprits:
    """The transfers and collectives of a rank that a gap in its compute lane may be waiting for."""

    def __init__(self, timeline: Timeline, program: Program, rank: int) -> None:
        self.rank = rank
        self.arrivals = timeline.arrivals
        self.schedule = program.schedule
        self.all_messages = program.mode != "overlapped"
        wanted = ("collective", "forward", "backward") if self.all_messages else ("collective",)
        candidates = [s for s in timeline.by_rank[rank] if s.lane in wanted]
        beside = Kind.REDUCE_GRADIENTS if program.overlapped_reduction else None
        self.reductions = [s for s in candidates if s.action.kind is beside]
        self.others = [s for s in candidates if s.action.kind is not beside]
        self.first = 0

    def of(self, follower: Action | None, position: int) -> list[Span]:
        """Spans that may reach into the gap from `position` to the start of `follower`."""
        while self.first < len(self.others) and self.others[self.first].end_ns <= position:
            self.first += 1
        found = self.others[self.first : self.first + 8]
        if follower is None or follower.kind is Kind.OPTIMIZER:
            return self.others[self.first :] + self.reductions
        if not self.all_messages:
            messages: tuple[Action, ...] = (follower,)
            if follower.kind in COMPUTE:
                messages = receives(follower, self.schedule)
            found = found + [
                self.arrivals[self.rank, m] for m in messages if (self.rank, m) in self.arrivals
            ]
        return found


def _divide_gap(breakdown: Counter[str], start: int, end: int, spans: Iterable[Span]) -> None:
    """Give a gap's nanoseconds to the spans under way, earlier ones first, the rest to bubble."""
    covered = start
    for span in sorted(spans, key=lambda s: (s.start_ns, s.end_ns)):
        low, high = max(span.start_ns, covered), min(span.end_ns, end)
        if high > low:
            breakdown[EXPOSED.get(span.action.kind, POINT_TO_POINT)] += high - low
            breakdown[BUBBLE] += low - covered
            covered = high
    breakdown[BUBBLE] += end - covered


def _add_parts(breakdown: Counter[str], span: Span, timeline: Timeline) -> None:
    """Count a compute span by its cost's categories, or by its kind where those are unknown."""
    kind, stage, microbatch, slice_index, _ = span.action
    if kind in SENDS or kind in RECEIVES or kind is Kind.EXCHANGE:
        breakdown[MESSAGES] += span.duration_ns
        return
    variants = timeline.variants
    variant = variants[microbatch] if variants and microbatch is not None else 0
    parts = timeline.parts.get((kind.value, stage, slice_index, variant))
    if parts and sum(parts.values()) == span.duration_ns:
        breakdown.update(parts)
    else:
        breakdown[_NAMES[kind]] += span.duration_ns


def _span_bubble(compute: Sequence[Span]) -> float:
    if not compute:
        return 0.0
    length = max(s.end_ns for s in compute) - compute[0].start_ns
    return 1 - sum(s.duration_ns for s in compute) / length if length else 0.0
