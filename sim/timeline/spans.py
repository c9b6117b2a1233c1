"""Timeline: what ran when, simulated or measured; the one currency between twins and reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from sim.schedule.actions import RECEIVES, Action, parse_action

Lane = Literal["compute", "forward", "backward", "collective"]
LANES: tuple[Lane, ...] = ("compute", "forward", "backward", "collective")


class Span(NamedTuple):
    """One action on one lane of one rank, from `start_ns` to `end_ns`.

    Compute lane: passes through stages, optimizer steps, and the processor time that messages
    cost (posting a send, unpacking a receive; with `p2p: blocking` the whole transfer).
    Lanes `forward` and `backward`: a message on its way, as SEND on the sender's rank and as RECV
    on the receiver's. Lane `collective`: reductions.
    """

    rank: int
    lane: Lane
    action: Action
    start_ns: int
    end_ns: int

    @property
    def duration_ns(self) -> int:
        """Length of the span."""
        return self.end_ns - self.start_ns


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Spans of one iteration, from time 0, with what they are of.

    origin: `simulated` or `measured`.
    spans: in no particular order.
    parts: for a simulated timeline, the share of each action's cost by category (ns), keyed by
    (kind, stage, slice, variant): what the breakdown divides compute spans by.
    variants: of each microbatch its variant (its size and slicing); empty where all are alike.
    processors: of a simulated timeline, each rank's processor where ranks take turns on one; else
    empty.
    metadata: who made it, when, with which versions; JSON values only.
    """

    origin: Literal["simulated", "measured"]
    num_ranks: int
    spans: tuple[Span, ...]
    parts: Mapping[tuple[str, int, int, int], Mapping[str, int]] = field(default_factory=dict)
    variants: tuple[int, ...] = ()
    processors: tuple[int, ...] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)

    @cached_property
    def iteration_ns(self) -> int:
        """First action's start to the last action's end over all ranks."""
        if not self.spans:
            return 0
        return max(s.end_ns for s in self.spans) - min(s.start_ns for s in self.spans)

    @cached_property
    def by_rank(self) -> tuple[tuple[Span, ...], ...]:
        """Each rank's spans by start, then end."""
        ranks: list[list[Span]] = [[] for _ in range(self.num_ranks)]
        for span in self.spans:
            ranks[span.rank].append(span)
        return tuple(tuple(sorted(r, key=lambda s: (s.start_ns, s.end_ns))) for r in ranks)

    @cached_property
    def compute(self) -> tuple[tuple[Span, ...], ...]:
        """Each rank's spans on the compute lane, by start."""
        return tuple(tuple(s for s in rank if s.lane == "compute") for rank in self.by_rank)

    @cached_property
    def arrivals(self) -> Mapping[tuple[int, Action], Span]:
        """The span of each message received, by (rank, RECV action)."""
        return {
            (s.rank, s.action): s
            for s in self.spans
            if s.action.kind in RECEIVES and s.lane != "compute"
        }

    def to_json(self) -> dict[str, object]:
        """The timeline as JSON values: spans as [rank, lane, action, start_ns, end_ns]."""
        return {
            "origin": self.origin,
            "num_ranks": self.num_ranks,
            "spans": [[s.rank, s.lane, str(s.action), s.start_ns, s.end_ns] for s in self.spans],
            "metadata": dict(self.metadata),
        }

    @staticmethod
    def from_json(data: Mapping[str, object]) -> Timeline:
        """Read what `to_json` wrote.

        Raises ValueError with what is wrong where the data does not hold a timeline.
        """
        try:
            origin = data["origin"]
            spans = tuple(
                Span(int(rank), lane, parse_action(action), int(start), int(end))
                for rank, lane, action, start, end in data["spans"]  # type: ignore[attr-defined]
            )
            num_ranks = int(data["num_ranks"])  # type: ignore[call-overload]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a timeline: {error!r}") from error
        if origin not in ("simulated", "measured"):
            raise ValueError(f"not a timeline: origin {origin!r}")
        if any(s.lane not in LANES or not 0 <= s.rank < num_ranks for s in spans):
            raise ValueError("not a timeline: a span has an unknown lane or rank")
        metadata = data.get("metadata", {})
        assert isinstance(metadata, dict)
        return Timeline(origin=origin, num_ranks=num_ranks, spans=spans, metadata=metadata)
