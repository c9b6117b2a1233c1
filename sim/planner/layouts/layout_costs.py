"""What the program of one layout costs, by content."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.planner.layouts.cuts import Cut

I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]


class Passes(NamedTuple):
    """Of each content and slice its passes: (num_contents, num_slices) each.

    by_rank_ns: the same, (2, num_ranks, num_types), [0] forward and [1] backward, of the chunks, or
    else the slices, of each rank. alike: (num_ranks,): whether these are all the same and have the
    same messages.
    """

    forward_ns: I64
    backward_ns: I64
    by_rank_ns: I64
    alike: NDArray[np.bool_]


def passes_of(by_content: I64, content: I32, num_ranks: int) -> Passes:
    """Passes by content, (2, num_contents, num_slices), where stages have these contents."""
    v, n = len(content) // num_ranks, by_content.shape[2]
    by_stage = by_content[:, content]
    by_rank = _by_rank(by_stage[:, :, 0], num_ranks) if v > 1 else np.ascontiguousarray(by_stage)
    alike = (by_rank == by_rank[:, :, :1]).all(axis=(0, 2)) & (n == 1)
    if v > 1:
        alike[0] = alike[-1] = False
    return Passes(
        forward_ns=by_content[0], backward_ns=by_content[1], by_rank_ns=by_rank, alike=alike
    )


class Links(NamedTuple):
    """Which links messages hold, by way num_ranks + sending rank.

    links, numbered from 0 without gaps: those of message i are links[first[i]] up to
    links[first[i + 1]]. shares: (2, num_ranks): whether a rank's two ways out share a link, and its
    two ways in.
    """

    first: I64
    links: I32
    num_links: int
    shares: NDArray[np.bool_]


def links_of(held: Sequence[Sequence[int]]) -> Links:
    """The links of each message, numbered however."""
    p = len(held) // 2
    numbers: dict[int, int] = {}
    links = [numbers.setdefault(link, len(numbers)) for own in held for link in own]
    onward, back = [set(own) for own in held[:p]], [set(own) for own in held[p:]]
    out = [not onward[r].isdisjoint(back[r]) for r in range(p)]
    into = [not onward[r - 1].isdisjoint(back[(r + 1) % p]) for r in range(p)]
    return Links(
        first=np.array([0, *itertools.accumulate(map(len, held))], np.int64),
        links=np.array(links, np.int32),
        num_links=len(numbers),
        shares=np.array([out, into]),
    )


class Messages(NamedTuple):
    """Messages by way, [0] on to the next rank and [1] back to the one before, where the last
    rank's next one is the first, and by sending rank.

    occupancy_ns: (2, num_ranks, num_slices). latency_ns: (2, num_ranks); both 0 where no such
    message is sent. post_ns, unpack_ns: (num_slices,).
    """

    occupancy_ns: I64
    latency_ns: I64
    post_ns: I64
    unpack_ns: I64
    links: Links


class StageFlush(NamedTuple):
    """What a stage's reduction takes after the passes or beside them, how much of it may be hidden,
    and what gathering its weights takes; 0 where the plan has no such thing.

    by_stage_ns: (3, num_stages). by_rank_ns: the same, (3, num_ranks, num_chunks).
    """

    by_stage_ns: I64
    by_rank_ns: I64


def stage_flush_of(by_stage: I64, num_ranks: int) -> StageFlush:
    """StageFlush of (3, num_stages)."""
    return StageFlush(by_stage_ns=by_stage, by_rank_ns=_by_rank(by_stage, num_ranks))


class RankFlush(NamedTuple):
    """What ranks do after that, 0 where the plan has no such thing. optimizer_ns: (num_ranks,)."""

    optimizer_ns: I64
    tied_ns: int
    norm_ns: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayoutCosts:
    """All costs of one plan."""

    cut: Cut
    passes: Passes
    messages: Messages
    stages: StageFlush
    ranks: RankFlush
    exchange_ns: int


def _by_rank(by_stage: I64, num_ranks: int) -> I64:
    """(rows, stages) as (rows, ranks, chunks)."""
    rows = by_stage.reshape(len(by_stage), -1, num_ranks)
    return np.ascontiguousarray(rows.transpose(0, 2, 1))
