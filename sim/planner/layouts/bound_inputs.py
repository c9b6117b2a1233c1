"""What a layout's bound is computed from (`sim.planner.layouts.bound_kernels`).

A rank's passes of one direction are numbered in the order in which it runs them, as in
`sim.schedule.rules`; a pass's type is its chunk or its slice (a program has several of one of them
at most). Of 2 rows, or ways, the first is that of forward passes and the second of backward ones.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

I64: TypeAlias = NDArray[np.int64]
OVERLAPPED, BLOCKING, EXCHANGE = 0, 1, 2


class Sizes(NamedTuple):
    """num_types: of passes in each direction; period: passes after which types repeat."""

    num_ranks: int
    num_chunks: int
    num_types: int
    period: int
    num_passes: int
    mode: int


class Route(NamedTuple):
    """What of the path depends on the order of passes alone.

    warm_ups: (num_ranks,). forwards, backwards: the numbers of the passes that it may go through,
    ascending; the last backward pass of each chunk is among them. kinds: their types, in 2 rows;
    turns: of each number the place of the one that is a turn of the ring before it, num_ranks
    passes, or -1. types: (2, 2 period + 2), of all passes by their numbers.
    """

    warm_ups: I64
    forwards: I64
    backwards: I64
    kinds: I64
    turns: I64
    types: I64


class Sent(NamedTuple):
    """Messages by way (onward, back) and sending rank.

    occupancy: (2, num_ranks, num_slices). latency: (2, num_ranks). shares: (2, num_ranks): whether
    a rank's two ways out share a link, and its two ways in. post, unpack: (num_slices,). exchange:
    of one step. first_link, links, num_links: those that the messages of way w and rank r hold are
    links[first_link[i]] up to links[first_link[i + 1]], i = w num_ranks + r.
    """

    occupancy: I64
    latency: I64
    shares: NDArray[np.bool_]
    post: I64
    unpack: I64
    exchange: int
    first_link: I64
    links: NDArray[np.int32]
    num_links: int


class Times(NamedTuple):
    """What a program's pieces take at least, (2, num_ranks, num_types) each.

    takes: a pass, with the unpacking right before it where messages overlap with passes. sends: the
    message that it makes on its way; receives: the one that it needs; -1 where there is none.
    post, unpack: (num_types,). both: (2, num_ranks): what a rank's messages out, and in, take
    together where they share a link, else -1. step: what its host takes over a step of messages.
    """

    takes: I64
    sends: I64
    receives: I64
    post: I64
    unpack: I64
    both: I64
    step: int
