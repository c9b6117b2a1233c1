"""Which parts of the model must travel between two layouts: first to the holders in replica 0, each
from one rank to another, then from these to their replicas (AutoDP's fork).

Ranks are world ranks (`Layout.rank_of`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sim.elastic.phases import Layout


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Move:
    """One part (`embedding`, `layer N` or `head`) that a rank sends to another."""

    part: str
    source: int
    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """Parts of a stage that its holder in replica 0 broadcasts to all replicas of the stage.

    ranks: all holders of the stage by replica, the source first.
    """

    stage: int
    parts: tuple[str, ...]
    ranks: tuple[int, ...]

    @property
    def source(self) -> int:
        """The holder in replica 0."""
        return self.ranks[0]


def stage_parts(layout: Layout) -> tuple[tuple[str, ...], ...]:
    """The parts of each stage, from the first to the last: embedding first, head last."""
    found = []
    first = 0
    for stage, count in enumerate(layout.layers_per_stage):
        parts = [f"layer {n}" for n in range(first, first + count)]
        if stage == 0:
            parts.insert(0, "embedding")
        if stage == layout.pipeline - 1:
            parts.append("head")
        found.append(tuple(parts))
        first += count
    return tuple(found)


def holders(layout: Layout) -> Mapping[str, tuple[int, ...]]:
    """The ranks that hold each part, by replica."""
    return {
        part: tuple(layout.rank_of(stage, replica) for replica in range(layout.data))
        for stage, parts in enumerate(stage_parts(layout))
        for part in parts
    }


def moves(old: Layout, new: Layout) -> tuple[Move, ...]:
    """What must be sent so that replica 0 of the new layout holds all its parts, in the order of
    the parts; nothing to a rank that has it.

    Replicas of a part take turns as its sources, so that they share the work.
    """
    held = holders(old)
    found: list[Move] = []
    for part, ranks in holders(new).items():
        target = ranks[0]
        if target not in held[part]:
            source = held[part][len(found) % len(held[part])]
            found.append(Move(part=part, source=source, target=target))
    return tuple(found)


def forks(old: Layout, new: Layout) -> tuple[Fork, ...]:
    """What each stage's holder in replica 0 then broadcasts to the other replicas: the parts that
    not all of them held before."""
    held = holders(old)
    found = []
    for stage, parts in enumerate(stage_parts(new)):
        ranks = tuple(new.rank_of(stage, replica) for replica in range(new.data))
        missing = tuple(part for part in parts if not set(ranks) <= set(held[part]))
        if missing and new.data > 1:
            found.append(Fork(stage=stage, parts=missing, ranks=ranks))
    return tuple(found)
