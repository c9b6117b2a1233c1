"""The memory curve: bytes held by each rank over an iteration, from its timeline by liveness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from sim.schedule.actions import COMPUTE, Action, Kind
from sim.timeline.spans import Timeline


class MemorySource(Protocol):
    """What the curve needs to know about sizes, in bytes."""

    def static_bytes(self, rank: int) -> Mapping[str, int]:
        """Held all the time, by kind, as parameters or message_buffers."""
        ...

    def taken_bytes(self, action: Action) -> int:
        """What a pass takes at its start and leaves to later ones: activations, keys and values."""
        ...

    def freed_bytes(self, action: Action) -> int:
        """What a pass frees at its end, of what it or earlier ones took."""
        ...

    def working_bytes(self, stage: int, kind: Kind, microbatch: int | None = None) -> int:
        """Held while an action of this kind runs."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryCurve:
    """One rank's memory: `bytes_held[i]` from `times_ns[i]` on; `static` is its constant part."""

    times_ns: tuple[int, ...]
    bytes_held: tuple[int, ...]
    static: Mapping[str, int]

    @property
    def peak_bytes(self) -> int:
        """The most held at once."""
        return max(self.bytes_held)


def memory_curves(timeline: Timeline, memory: MemorySource) -> tuple[MemoryCurve, ...]:
    """Each rank's memory over the iteration.

    An activation lives from its forward pass's start to the end of B (or of W, where the backward
    pass is split), keys and values until slice 0's backward pass ends; working memory as long as
    its action; message buffers are held throughout.
    Not modelled: the allocator's fragmentation and cached blocks.
    """
    curves = []
    for rank, spans in enumerate(timeline.by_rank):
        static = dict(memory.static_bytes(rank))
        changes: dict[int, int] = {}

        def hold(start: int, end: int | None, size: int, changes: dict[int, int] = changes) -> None:
            changes[start] = changes.get(start, 0) + size
            if end is not None:
                changes[end] = changes.get(end, 0) - size

        for span in spans:
            kind, stage = span.action.kind, span.action.stage
            if kind in COMPUTE and span.lane == "compute":
                working = memory.working_bytes(stage, kind, span.action.microbatch)
                hold(span.start_ns, span.end_ns, working)
                hold(span.start_ns, None, memory.taken_bytes(span.action))
                hold(span.end_ns, None, -memory.freed_bytes(span.action))
            elif kind is Kind.OPTIMIZER and span.lane == "compute":
                hold(span.start_ns, span.end_ns, memory.working_bytes(stage, kind))
        held = sum(static.values())
        times, totals = [0], [held]
        for time in sorted(changes):
            held += changes[time]
            if time == times[-1]:
                totals[-1] = held
            else:
                times.append(time)
                totals.append(held)
        curves.append(MemoryCurve(times_ns=tuple(times), bytes_held=tuple(totals), static=static))
    return tuple(curves)
