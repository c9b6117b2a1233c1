"""The longest path through some of a program's passes, compiled by numba where it is there.

What is bounded and why: `sim.planner.layouts.bounds`; numbers, types and rows of passes:
`sim.planner.layouts.bound_inputs`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.planner.layouts.bound_inputs import EXCHANGE, I64, OVERLAPPED, Route, Sent, Sizes, Times
from sim.schedule.compiling import compiled


@compiled
def type_of(number: int, back: bool, sizes: Sizes) -> int:
    """The chunk or slice of a pass, by its number."""
    within = number % sizes.period
    if sizes.num_chunks > 1:
        within //= sizes.num_ranks
    return sizes.num_types - 1 - within if back else within


@compiled
def times_of(sizes: Sizes, passes: I64, sent: Sent) -> Times:
    """Times by rank and type. passes: (2, num_ranks, num_types)."""
    p, types, chunked = sizes.num_ranks, sizes.num_types, sizes.num_chunks > 1
    sends = np.full((2, p, types), -1, np.int64)
    receives = np.full((2, p, types), -1, np.int64)
    takes = passes.copy()
    post, unpack = np.empty(types, np.int64), np.empty(types, np.int64)
    for kind in range(types):
        index = 0 if chunked else kind
        post[kind], unpack[kind] = sent.post[index], sent.unpack[index]
        for rank in range(p):
            before, after = (rank - 1) % p, (rank + 1) % p
            if p > 1 and (rank > 0 or (chunked and kind > 0)):
                receives[0, rank, kind] = sent.occupancy[0, before, index] + sent.latency[0, before]
                sends[1, rank, kind] = sent.occupancy[1, rank, index] + sent.latency[1, rank]
            if p > 1 and (rank < p - 1 or (chunked and kind < types - 1)):
                receives[1, rank, kind] = sent.occupancy[1, after, index] + sent.latency[1, after]
                sends[0, rank, kind] = sent.occupancy[0, rank, index] + sent.latency[0, rank]
            if sizes.mode == OVERLAPPED:
                for row in range(2):
                    if receives[row, rank, kind] >= 0:
                        takes[row, rank, kind] += unpack[kind]
    both = np.full((2, p), -1, np.int64)
    for rank in range(p):
        before, after = (rank - 1) % p, (rank + 1) % p
        if sent.shares[0, rank]:
            took = sent.occupancy[0, rank, 0] + sent.occupancy[1, rank, 0]
            both[0, rank] = took + min(sent.latency[0, rank], sent.latency[1, rank])
        if sent.shares[1, rank]:
            took = sent.occupancy[0, before, 0] + sent.occupancy[1, after, 0]
            both[1, rank] = took + min(sent.latency[0, before], sent.latency[1, after])
    return Times(takes, sends, receives, post, unpack, both, sent.exchange)


@compiled
def gap_ns(post: int, out: int, into: int, unpack: int, turns: bool, mode: int, step: int) -> int:
    """What a rank takes at least between two passes, one right after the other: posting what the
    first made; where messages block, its steps of messages whole.

    out, into: the messages' times on their way, -1 for none. turns: whether one pass is forward and
    one backward, so that both messages have the same peer. step: what the host takes over one.
    """
    if mode == OVERLAPPED:
        return post if out >= 0 else 0
    if out < 0 and into < 0:
        return 0
    took = post + out if out >= 0 else 0
    if into < 0:
        return took + step
    received = into + unpack
    if out < 0:
        return received + step
    if turns or mode == EXCHANGE:
        return post + max(out, received) + step
    return took + received + 2 * step


@compiled
def slot_gap_ns(
    outs: tuple[int, int, int], ins: tuple[int, int, int], post: int, unpack: int, step: int
) -> int:
    """What a rank takes at least between two slots: all messages of both in one step.

    outs, ins: the times on its way of the message onward and of the one back, -1 for none, and what
    both take together where they share a link, else -1.
    """
    first, second, both_out = outs
    third, fourth, both_in = ins
    if first < 0 and second < 0 and third < 0 and fourth < 0:
        return 0
    posted = post * (int(first >= 0) + int(second >= 0))
    took = posted
    if first >= 0:
        took = max(took, post + first)
    if second >= 0:
        took = max(took, posted + second)
        if first >= 0 and both_out >= 0:
            took = max(took, post + both_out)
    if third >= 0:
        took = max(took, posted + third + unpack * (1 + int(fourth >= 0)))
    if fourth >= 0:
        took = max(took, posted + fourth + unpack)
        if third >= 0 and both_in >= 0:
            took = max(took, posted + both_in + unpack)
    return took + step


@compiled
def gap_of(rank: int, was: int, before: int, then: int, after: int, mode: int, times: Times) -> int:
    """`gap_ns` between a pass of row `was` and type `before` and one of `then` and `after`."""
    return gap_ns(
        times.post[before],
        times.sends[was, rank, before],
        times.receives[then, rank, after],
        times.unpack[after],
        was != then,
        mode,
        times.step,
    )


@compiled
def slot_gap_of(rank: int, outs: tuple[int, int], ins: tuple[int, int], times: Times) -> int:
    """`slot_gap_ns` where passes of the types `outs` lie before and of `ins` after, forward and
    backward each; -1 for none."""
    f, b = outs
    first = times.sends[0, rank, f] if f >= 0 else -1
    second = times.sends[1, rank, b] if b >= 0 else -1
    f, b = ins
    third = times.receives[0, rank, f] if f >= 0 else -1
    fourth = times.receives[1, rank, b] if b >= 0 else -1
    both = times.both
    return slot_gap_ns(
        (first, second, both[0, rank]),
        (third, fourth, both[1, rank]),
        times.post[0],
        times.unpack[0],
        times.step,
    )


@compiled
def lay_out(
    rank: int, period: int, sizes: Sizes, times: Times, types: I64, shift: int, sums: I64
) -> None:
    """What a rank takes for so many passes to warm up, steady pairs, and passes at the end: sums,
    (3, period + 1), written.

    period: of this rank: 1 where all its types are alike. shift: its passes to warm up, modulo
    `sizes.period`.
    """
    mode, step, both = sizes.mode, times.step, times.both
    slotted = sizes.num_chunks > 1 and mode != OVERLAPPED
    post, unpack = times.post, times.unpack
    out_f, out_b = times.sends[0, rank], times.sends[1, rank]
    in_f, in_b = times.receives[0, rank], times.receives[1, rank]
    takes_f, takes_b = times.takes[0, rank], times.takes[1, rank]
    both_out, both_in = both[0, rank], both[1, rank]
    sums[0, 0] = sums[1, 0] = sums[2, 0] = 0
    for x in range(period):
        here, after = types[0, x], types[0, x + 1]
        last, then = types[1, x], types[1, x + 1]
        pair, later = types[0, shift + x], types[0, shift + x + 1]
        if slotted:
            a, b = post[0], unpack[0]
            warm = slot_gap_ns((out_f[here], -1, -1), (in_f[after], -1, -1), a, b, step)
            cool = slot_gap_ns((-1, out_b[last], -1), (-1, in_b[then], -1), a, b, step)
            outs = (out_f[pair], out_b[last], both_out)
            steady = slot_gap_ns(outs, (in_f[later], in_b[then], both_in), a, b, step)
        else:
            warm = gap_ns(post[here], out_f[here], in_f[after], unpack[after], False, mode, step)
            cool = gap_ns(post[last], out_b[last], in_b[then], unpack[then], False, mode, step)
            steady = gap_ns(post[pair], out_f[pair], in_b[last], unpack[last], True, mode, step)
            steady += gap_ns(post[last], out_b[last], in_f[later], unpack[later], True, mode, step)
        sums[0, x + 1] = sums[0, x] + takes_f[here] + warm
        sums[1, x + 1] = sums[1, x] + takes_f[pair] + takes_b[last] + steady
        sums[2, x + 1] = sums[2, x] + takes_b[last] + cool


@compiled
def sum_to(number: int, period: int, sums: I64) -> int:
    """Of a row of `lay_out` what the first `number` take."""
    if period == 1:
        return int(number * sums[1])
    whole = number // period
    return int(whole * sums[period] + sums[number - whole * period])


@compiled
def begins(
    rank: int,
    warm_up: int,
    period: int,
    sizes: Sizes,
    times: Times,
    route: Route,
    sums: I64,
    found: I64,
) -> None:
    """When a rank that never waited would begin each pass, or the slot that it is in: found, (2,
    at least as many as passes), written; sums: as of `lay_out`."""
    forwards, backwards, mode = route.forwards, route.backwards, sizes.mode
    slotted = sizes.num_chunks > 1 and mode != OVERLAPPED
    total, pairs = sizes.num_passes, sizes.num_passes - warm_up
    warm = sum_to(warm_up, period, sums[0])
    steady = sum_to(pairs, period, sums[1])
    # What comes after the last forward pass, or after the last pair, is a backward pass.
    last, first = type_of(total - 1, False, sizes), type_of(pairs, True, sizes)
    following = type_of(total, False, sizes)
    if not pairs:
        if slotted:
            warm -= slot_gap_of(rank, (last, -1), (following, -1), times)
            warm += slot_gap_of(rank, (last, -1), (-1, first), times)
        else:
            warm -= gap_of(rank, 0, last, 0, following, mode, times)
            warm += gap_of(rank, 0, last, 1, first, mode, times)
    elif warm_up:
        back = type_of(pairs - 1, True, sizes)
        if slotted:
            steady -= slot_gap_of(rank, (last, back), (following, first), times)
            steady += slot_gap_of(rank, (last, back), (-1, first), times)
        else:
            steady -= gap_of(rank, 1, back, 0, following, mode, times)
            steady += gap_of(rank, 1, back, 1, first, mode, times)
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
            found[1, i] += times.takes[0, rank, ahead]
            found[1, i] += gap_of(rank, 0, ahead, 1, kind, mode, times)


@compiled
def path(
    sizes: Sizes,
    times: Times,
    route: Route,
    alike: NDArray[np.bool_],
    ends: I64,
    firsts: I64,
) -> None:
    """When each rank's last backward pass of each chunk ends at least: ends, (num_ranks,
    num_chunks), written; and when its first pass of either direction does: firsts, (2, num_ranks).

    alike: (num_ranks,): whether all of a rank's types are.
    """
    p, chunked, overlapped = sizes.num_ranks, sizes.num_chunks > 1, sizes.mode == OVERLAPPED
    slotted = chunked and not overlapped
    takes, receives = times.takes, times.receives
    forwards, backwards, kinds, turns = route.forwards, route.backwards, route.kinds, route.turns
    num_f, num_b = len(forwards), len(backwards)
    most = kinds.shape[1]
    begin = np.empty((p, 2, most), np.int64)
    sums = np.empty((3, sizes.period + 1), np.int64)
    for rank in range(p):
        period = 1 if alike[rank] else sizes.period
        w = route.warm_ups[rank]
        lay_out(rank, period, sizes, times, route.types, w % sizes.period, sums)
        begins(rank, w, period, sizes, times, route, sums, begin[rank])
    # Between a pass, or the slot it is in, and the one that has its message.
    around = times.post.copy()
    if not overlapped:
        around += times.unpack + times.step
    left = np.full((2, p, most), -1, np.int64)
    nexts = np.zeros((p, 2), np.int64)
    offset = np.zeros(p, np.int64)
    still = p * (num_f + num_b)
    onward = False
    while still > 0:
        onward = not onward
        for step in range(p):
            rank = step if onward else p - 1 - step
            w = route.warm_ups[rank]
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
                    if receives[0, rank, kind] >= 0:
                        sender, place = rank - 1, f
                        if sender < 0:
                            sender, place = p - 1, turns[0, f]
                        if place >= 0:
                            ready = left[0, sender, place] >= 0
                            there = left[0, sender, place] + around[kind]
                            least = max(least, there + receives[0, rank, kind] - at)
                    if slotted and not has_b and forwards[f] >= w:
                        took += takes[1, rank, type_of(forwards[f] - w, True, sizes)]
                if has_b:
                    kind = kinds[1, b]
                    at = begin[rank, 1, b]
                    took += takes[1, rank, kind]
                    if receives[1, rank, kind] >= 0:
                        sender, place = rank + 1, b
                        if sender == p:
                            sender, place = 0, turns[1, b]
                        if place >= 0:
                            ready = ready and left[1, sender, place] >= 0
                            there = left[1, sender, place] + around[kind]
                            least = max(least, there + receives[1, rank, kind] - at)
                    if slotted and not has_f and backwards[b] < sizes.num_passes - w:
                        took += takes[0, rank, type_of(w + backwards[b], False, sizes)]
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
    for rank in range(p):
        firsts[0, rank], firsts[1, rank] = left[0, rank, 0], left[1, rank, 0]


@compiled
def all_sent(sizes: Sizes, times: Times, sent: Sent, firsts: I64) -> int:
    """When the first rank's last backward pass ends at least, as links serve one message at a time.

    A link's first message is sent no earlier than the first of a pass that sends through it; the
    last one is followed by its microbatch's passes from there on.
    """
    p, chunks, types = sizes.num_ranks, sizes.num_chunks, sizes.num_types
    if p == 1:
        return 0
    microbatches = sizes.num_passes // types
    # What follows the arrival of a message on (0) or back (1) at each rank.
    follows = np.zeros((2, p), np.int64)
    post, unpack = times.post.min(), times.unpack.min()
    if sizes.mode == OVERLAPPED:
        unpack = 0  # In what the passes take.
    back = 0
    for rank in range(p):
        if rank:
            back += post + sent.latency[1, rank] + sent.occupancy[1, rank].min()
        back += unpack + times.takes[1, rank].min()
        follows[1, rank] = back
    on = back - unpack
    for rank in range(p - 1, -1, -1):
        if rank < p - 1:
            on += post + sent.latency[0, rank] + sent.occupancy[0, rank].min()
        on += unpack + times.takes[0, rank].min()
        follows[0, rank] = on
    load = np.zeros(sent.num_links, np.int64)
    head = np.full(sent.num_links, np.iinfo(np.int64).max, np.int64)
    tail = head.copy()
    for way in range(2):
        for rank in range(p):
            receiver = (rank - 1) % p if way else (rank + 1) % p
            ring_ends = rank == 0 if way else rank == p - 1
            times_sent = microbatches * (chunks - 1 if ring_ends else chunks)
            for i in range(sent.first_link[way * p + rank], sent.first_link[way * p + rank + 1]):
                link = sent.links[i]
                load[link] += times_sent * sent.occupancy[way, rank].sum()
                head[link] = min(head[link], firsts[way, rank] + post)
                tail[link] = min(tail[link], sent.latency[way, rank] + follows[way, receiver])
    most = 0
    for link in range(sent.num_links):
        if load[link]:
            most = max(most, head[link] + load[link] + tail[link])
    return most


@compiled
def bound(
    sizes: Sizes,
    passes: I64,
    sent: Sent,
    route: Route,
    alike: NDArray[np.bool_],
    posted: I64,
    stages: I64,
    optimizer: I64,
    beside: bool,
    tied: int,
    norm: int,
) -> int:
    """When the last rank ends at least: `path`, and then the flush.

    posted: (num_ranks,): what a rank takes for messages after its last pass. stages: (3, num_ranks,
    num_chunks), a stage's reduction, how much of it may be hidden, and the gathering of its
    weights. beside: whether reductions run beside the passes. optimizer: (num_ranks,). tied, norm:
    -1 where there is no such reduction.
    """
    p, chunks = sizes.num_ranks, sizes.num_chunks
    ends, firsts = np.empty((p, chunks), np.int64), np.empty((2, p), np.int64)
    times = times_of(sizes, passes, sent)
    path(sizes, times, route, alike, ends, firsts)
    ends[0, 0] = max(ends[0, 0], all_sent(sizes, times, sent, firsts))
    at = np.empty(p, np.int64)
    for rank in range(p):
        at[rank] = ends[rank, 0] + posted[rank]
        reduced = 0
        for chunk in range(chunks - 1, -1, -1):
            took, hidden = stages[0, rank, chunk], stages[1, rank, chunk]
            if beside:
                reduced = max(ends[rank, chunk] + took - hidden, reduced + took)
            else:
                at[rank] += took
        at[rank] = max(at[rank], reduced)
    if tied >= 0:
        at[0] = at[p - 1] = max(at[0], at[p - 1]) + tied
    if norm >= 0:
        at[:] = at.max() + norm
    for rank in range(p):
        at[rank] += optimizer[rank]
        for chunk in range(chunks):
            at[rank] += stages[2, rank, chunk]
    return int(at.max())
