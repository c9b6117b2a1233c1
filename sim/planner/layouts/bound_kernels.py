"""The longest path through some of a program's passes, compiled by numba where it is there.

What is bounded and why: `sim.planner.layouts.bounds`. A rank's passes of one direction are numbered
in the order in which it runs them, as in `sim.schedule.rules`; a pass's type is its chunk or its
slice (a program has several of one of them at most).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.schedule.compiling import compiled

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
OVERLAPPED, BLOCKING, EXCHANGE = 0, 1, 2


class Sizes(NamedTuple):
    """num_types: of passes in each direction; period: passes after which types repeat."""

    num_ranks: int
    num_chunks: int
    num_types: int
    period: int
    num_passes: int
    mode: int


class Times(NamedTuple):
    """What passes and messages take.

    forward, backward: (num_ranks, num_types). occupancy: (2, num_ranks, num_slices), latency:
    (2, num_ranks): by way and sender. shares: (2, num_ranks): whether a rank's two ways out share a
    link, and its two ways in. post, unpack: (num_slices,). exchange: of one step.
    """

    forward: I64
    backward: I64
    occupancy: I64
    latency: I64
    shares: NDArray[np.bool_]
    post: I64
    unpack: I64
    exchange: int


@compiled
def type_of(number: int, backward: bool, sizes: Sizes) -> int:
    """The chunk or slice of a pass, by its number."""
    within = number % sizes.period
    if sizes.num_chunks > 1:
        within //= sizes.num_ranks
    return sizes.num_types - 1 - within if backward else within


@compiled
def sends(rank: int, kind: int, backward: bool, sizes: Sizes) -> bool:
    """Whether a pass of a type sends a message; the same one going the other way is received."""
    if sizes.num_ranks == 1:
        return False
    chunk = kind if sizes.num_chunks > 1 else 0
    if backward:
        return rank > 0 or chunk > 0
    return rank < sizes.num_ranks - 1 or chunk < sizes.num_chunks - 1


@compiled
def sent_ns(rank: int, kind: int, backward: bool, sizes: Sizes, times: Times) -> int:
    """How long the message that a pass sends is on its way, at least."""
    way = 1 if backward else 0
    index = 0 if sizes.num_chunks > 1 else kind
    return int(times.occupancy[way, rank, index] + times.latency[way, rank])


@compiled
def received_ns(rank: int, kind: int, backward: bool, sizes: Sizes, times: Times) -> int:
    """The same of the message that a pass receives."""
    sender = (rank + 1) % sizes.num_ranks if backward else (rank - 1) % sizes.num_ranks
    return sent_ns(sender, kind, backward, sizes, times)


@compiled
def pass_ns(rank: int, kind: int, backward: bool, sizes: Sizes, times: Times) -> int:
    """A pass, with the unpacking right before it where messages overlap with passes."""
    own = times.backward[rank, kind] if backward else times.forward[rank, kind]
    if sizes.mode == OVERLAPPED and sends(rank, kind, not backward, sizes):
        own += times.unpack[0 if sizes.num_chunks > 1 else kind]
    return int(own)


@compiled
def gap_ns(
    rank: int, before: int, was_back: bool, after: int, is_back: bool, sizes: Sizes, times: Times
) -> int:
    """What a rank takes at least between two passes, one right after the other: posting what the
    first made; where messages block, its steps of messages whole."""
    out = sends(rank, before, was_back, sizes)
    sliced = sizes.num_chunks == 1
    post = times.post[before if sliced else 0] if out else 0
    if sizes.mode == OVERLAPPED:
        return post
    into = sends(rank, after, not is_back, sizes)
    unpack = times.unpack[after if sliced else 0] if into else 0
    sent = sent_ns(rank, before, was_back, sizes, times) if out else 0
    received = received_ns(rank, after, is_back, sizes, times) + unpack if into else 0
    if sizes.mode == EXCHANGE or was_back != is_back or not out or not into:
        took = post + max(sent, received)
        return took + (times.exchange if out or into else 0)
    return post + sent + received + 2 * times.exchange


@compiled
def slot_gap_ns(
    rank: int,
    out_forward: int,
    out_back: int,
    in_forward: int,
    in_back: int,
    sizes: Sizes,
    times: Times,
) -> int:
    """What a rank takes at least between two slots: all messages of both in one step. The types of
    the passes that may send and receive them; -1 for none."""
    first = out_forward >= 0 and sends(rank, out_forward, False, sizes)
    second = out_back >= 0 and sends(rank, out_back, True, sizes)
    third = in_forward >= 0 and sends(rank, in_forward, True, sizes)
    fourth = in_back >= 0 and sends(rank, in_back, False, sizes)
    if not (first or second or third or fourth):
        return 0
    post, unpack = times.post[0], times.unpack[0]
    posted = post * (int(first) + int(second))
    unpacked = unpack * (int(third) + int(fourth))
    took = posted + unpacked
    n = sizes.num_ranks
    before, after = (rank - 1) % n, (rank + 1) % n
    if first:
        took = max(took, post + sent_ns(rank, out_forward, False, sizes, times))
    if second:
        took = max(took, posted + sent_ns(rank, out_back, True, sizes, times))
    if first and second and times.shares[0, rank]:
        both = times.occupancy[0, rank, 0] + times.occupancy[1, rank, 0]
        took = max(took, post + both + min(times.latency[0, rank], times.latency[1, rank]))
    if third:
        took = max(took, posted + sent_ns(before, in_forward, False, sizes, times) + unpacked)
    if fourth:
        took = max(took, posted + sent_ns(after, in_back, True, sizes, times) + unpack)
    if third and fourth and times.shares[1, rank]:
        both = times.occupancy[0, before, 0] + times.occupancy[1, after, 0]
        least = min(times.latency[0, before], times.latency[1, after])
        took = max(took, posted + both + least + unpack)
    return int(took + times.exchange)


@compiled
def lay_out(rank: int, warm_up: int, sizes: Sizes, times: Times, period: int, sums: I64) -> None:
    """What a rank takes for so many passes to warm up, steady pairs, and passes at the end: sums,
    (3, period + 1), written.

    period: of this rank: 1 where all its types are alike.
    """
    slotted = sizes.num_chunks > 1 and sizes.mode != OVERLAPPED
    sums[:, 0] = 0
    for x in range(period):
        here, after = type_of(x, False, sizes), type_of(x + 1, False, sizes)
        if slotted:
            gap = slot_gap_ns(rank, here, -1, after, -1, sizes, times)
        else:
            gap = gap_ns(rank, here, False, after, False, sizes, times)
        sums[0, x + 1] = sums[0, x] + pass_ns(rank, here, False, sizes, times) + gap
        here, after = type_of(x, True, sizes), type_of(x + 1, True, sizes)
        if slotted:
            gap = slot_gap_ns(rank, -1, here, -1, after, sizes, times)
        else:
            gap = gap_ns(rank, here, True, after, True, sizes, times)
        sums[2, x + 1] = sums[2, x] + pass_ns(rank, here, True, sizes, times) + gap
        forward, back = type_of(warm_up + x, False, sizes), type_of(x, True, sizes)
        later = type_of(warm_up + x + 1, False, sizes)
        own = pass_ns(rank, forward, False, sizes, times) + pass_ns(rank, back, True, sizes, times)
        if slotted:
            gap = slot_gap_ns(rank, forward, back, later, after, sizes, times)
        else:
            gap = gap_ns(rank, forward, False, back, True, sizes, times)
            gap += gap_ns(rank, back, True, later, False, sizes, times)
        sums[1, x + 1] = sums[1, x] + own + gap


@compiled
def sum_to(number: int, period: int, sums: I64) -> int:
    """Of a row of `lay_out` what the first `number` take."""
    return int(number // period * sums[period] + sums[number % period])


@compiled
def begins(
    rank: int,
    warm_up: int,
    sizes: Sizes,
    times: Times,
    period: int,
    forwards: I64,
    backwards: I64,
    found: I64,
) -> None:
    """When a rank that never waited would begin each pass, or the slot that it is in: found, (2,
    at least as many as passes), written. Other arguments: see `lay_out` and `path`."""
    slotted = sizes.num_chunks > 1 and sizes.mode != OVERLAPPED
    sums = np.empty((3, period + 1), np.int64)
    lay_out(rank, warm_up, sizes, times, period, sums)
    total, pairs = sizes.num_passes, sizes.num_passes - warm_up
    warm = sum_to(warm_up, period, sums[0])
    steady = sum_to(pairs, period, sums[1])
    # What comes after the last forward pass, or after the last pair, is a backward pass.
    last, first = type_of(total - 1, False, sizes), type_of(pairs, True, sizes)
    following = type_of(total, False, sizes)
    if not pairs:
        if slotted:
            warm -= slot_gap_ns(rank, last, -1, following, -1, sizes, times)
            warm += slot_gap_ns(rank, last, -1, -1, first, sizes, times)
        else:
            warm -= gap_ns(rank, last, False, following, False, sizes, times)
            warm += gap_ns(rank, last, False, first, True, sizes, times)
    elif warm_up:
        back = type_of(pairs - 1, True, sizes)
        if slotted:
            steady -= slot_gap_ns(rank, last, back, following, first, sizes, times)
            steady += slot_gap_ns(rank, last, back, -1, first, sizes, times)
        else:
            steady -= gap_ns(rank, back, True, following, False, sizes, times)
            steady += gap_ns(rank, back, True, first, True, sizes, times)
    for i in range(len(forwards)):
        k = forwards[i]
        if k < warm_up:
            found[0, i] = sum_to(k, period, sums[0])
        else:
            found[0, i] = warm + sum_to(k - warm_up, period, sums[1])
    rest = warm + steady - sum_to(pairs, period, sums[2])
    for i in range(len(backwards)):
        k = backwards[i]
        if k >= pairs:
            found[1, i] = rest + sum_to(k, period, sums[2])
            continue
        found[1, i] = warm + sum_to(k, period, sums[1])
        if not slotted:
            ahead, kind = type_of(warm_up + k, False, sizes), type_of(k, True, sizes)
            found[1, i] += pass_ns(rank, ahead, False, sizes, times)
            found[1, i] += gap_ns(rank, ahead, False, kind, True, sizes, times)


@compiled
def turns(numbers: I64, num_ranks: int, found: I64) -> None:
    """Of each number the place of the one that is a turn of the ring before it, or -1."""
    there = 0
    for i in range(len(numbers)):
        while numbers[there] < numbers[i] - num_ranks:
            there += 1
        found[i] = there if numbers[there] == numbers[i] - num_ranks else -1


@compiled
def lags(sizes: Sizes, times: Times, found: I64) -> None:
    """What lies at least between a pass and the one, or its slot, that has its message: found, (2,
    num_ranks, num_types) by the receiver, written; -1 where it receives none."""
    for rank in range(sizes.num_ranks):
        for kind in range(sizes.num_types):
            index = 0 if sizes.num_chunks > 1 else kind
            for row in range(2):
                back = row == 1
                found[row, rank, kind] = -1
                if sends(rank, kind, not back, sizes):
                    lag = times.post[index] + received_ns(rank, kind, back, sizes, times)
                    if sizes.mode != OVERLAPPED:
                        lag += times.unpack[index] + times.exchange
                    found[row, rank, kind] = lag


@compiled
def path(
    sizes: Sizes,
    times: Times,
    warm_ups: I64,
    alike: NDArray[np.bool_],
    forwards: I64,
    backwards: I64,
    ends: I64,
) -> None:
    """When each rank's last backward pass of each chunk ends at least: ends, (num_ranks,
    num_chunks), written.

    alike: (num_ranks,): whether all of a rank's types are alike. forwards, backwards: the numbers
    of the passes that the path may go through, ascending; the last backward pass of each chunk is
    among them.
    """
    p, chunked = sizes.num_ranks, sizes.num_chunks > 1
    slotted = chunked and sizes.mode != OVERLAPPED
    num_f, num_b = len(forwards), len(backwards)
    most = max(num_f, num_b)
    begin = np.empty((p, 2, most), np.int64)
    kinds = np.zeros((2, most), np.int64)
    # Of every number the place of the one that is a turn of the ring, p passes, before it.
    turn = np.full((2, most), -1, np.int64)
    for i in range(num_f):
        kinds[0, i] = type_of(forwards[i], False, sizes)
    for i in range(num_b):
        kinds[1, i] = type_of(backwards[i], True, sizes)
    if chunked:
        turns(forwards, p, turn[0])
        turns(backwards, p, turn[1])
    lag = np.empty((2, p, sizes.num_types), np.int64)
    lags(sizes, times, lag)
    takes = np.empty((2, p, sizes.num_types), np.int64)
    for rank in range(p):
        period = 1 if alike[rank] else sizes.period
        begins(rank, warm_ups[rank], sizes, times, period, forwards, backwards, begin[rank])
        for kind in range(sizes.num_types):
            takes[0, rank, kind] = pass_ns(rank, kind, False, sizes, times)
            takes[1, rank, kind] = pass_ns(rank, kind, True, sizes, times)
    left = np.full((2, p, most), -1, np.int64)
    nexts = np.zeros((p, 2), np.int64)
    offset = np.zeros(p, np.int64)
    still = p * (num_f + num_b)
    onward = False
    while still > 0:
        onward = not onward
        for step in range(p):
            rank = step if onward else p - 1 - step
            w = warm_ups[rank]
            f, b = nexts[rank]
            while f < num_f or b < num_b:
                has_f, has_b = f < num_f, b < num_b
                if has_f and has_b:
                    pair = forwards[f] - w
                    has_f = pair <= backwards[b]
                    has_b = pair > backwards[b] or (slotted and pair == backwards[b])
                least = offset[rank]
                ready = True
                took = 0
                at = 0
                if has_f:
                    kind = kinds[0, f]
                    at, took = begin[rank, 0, f], takes[0, rank, kind]
                    if lag[0, rank, kind] >= 0:
                        sender, place = rank - 1, f
                        if sender < 0:
                            sender, place = p - 1, turn[0, f]
                        if place >= 0:
                            ready = left[0, sender, place] >= 0
                            least = max(least, left[0, sender, place] + lag[0, rank, kind] - at)
                    if slotted and not has_b and forwards[f] >= w:
                        paired = type_of(forwards[f] - w, True, sizes)
                        took += takes[1, rank, paired]
                if has_b:
                    kind = kinds[1, b]
                    at = begin[rank, 1, b]
                    took += takes[1, rank, kind]
                    if lag[1, rank, kind] >= 0:
                        sender, place = rank + 1, b
                        if sender == p:
                            sender, place = 0, turn[1, b]
                        if place >= 0:
                            ready = ready and left[1, sender, place] >= 0
                            least = max(least, left[1, sender, place] + lag[1, rank, kind] - at)
                    if slotted and not has_f and backwards[b] < sizes.num_passes - w:
                        paired = type_of(w + backwards[b], False, sizes)
                        took += takes[0, rank, paired]
                if not ready:
                    break
                offset[rank] = least
                if has_f:
                    left[0, rank, f] = least + at + took
                    f += 1
                    still -= 1
                if has_b:
                    left[1, rank, b] = least + at + took
                    b += 1
                    still -= 1
            nexts[rank, 0], nexts[rank, 1] = f, b
    for chunk in range(sizes.num_chunks):
        b = num_b - 1
        while backwards[b] != sizes.num_passes - 1 - chunk * p:
            b -= 1
        for rank in range(p):
            ends[rank, chunk] = left[1, rank, b]


@compiled
def finish(
    ends: I64,
    posted: I64,
    stage_reduce: I64,
    stage_hidden: I64,
    stage_gather: I64,
    optimizer: I64,
    beside: bool,
    tied: int,
    norm: int,
) -> int:
    """When the last rank ends at least.

    ends: as of `path`. posted: (num_ranks,): what a rank takes for messages after its last pass.
    stage_reduce, stage_hidden, stage_gather: (num_ranks, num_chunks). beside: whether reductions
    run beside the passes. tied, norm: -1 where there is no such reduction.
    """
    p, chunks = ends.shape
    at = np.empty(p, np.int64)
    for rank in range(p):
        at[rank] = ends[rank, 0] + posted[rank]
        if beside:
            reduced = 0
            for chunk in range(chunks - 1, -1, -1):
                took = stage_reduce[rank, chunk]
                own = ends[rank, chunk] + took - stage_hidden[rank, chunk]
                reduced = max(own, reduced + took)
            at[rank] = max(at[rank], reduced)
        else:
            at[rank] += stage_reduce[rank].sum()
    if tied >= 0:
        at[0] = at[p - 1] = max(at[0], at[p - 1]) + tied
    if norm >= 0:
        at[:] = at.max() + norm
    for rank in range(p):
        at[rank] += optimizer[rank] + stage_gather[rank].sum()
    return int(at.max())
