"""Lowering without actions: from orders as arrays to the ops that the compiled engine walks.

The rules are those of `sim.schedule.lowering` and `sim.engine.encoding`, for one pipe with stage s
on rank s mod p, whose messages are of whole backward passes. A message is a number from the start:
those that a stage receives lie together, gradients of all a rank's stages before activations, by
stage, microbatch and slice. Compiled by numba where it is there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.engine.encoded import Op
from sim.schedule.compiling import compiled
from sim.schedule.shape import Orders

OVERLAPPED, BLOCKING, EXCHANGED, SERIAL = range(4)
"""A program's mode."""
FORWARD, BACKWARD, SEND_F, RECV_F, SEND_B, RECV_B = range(6)
EXCHANGE, REDUCE, TIED, NORM, STEP, GATHER = range(6, 12)
NUM_KINDS = 12
"""What a slot is of."""
NONE, AFTER, BESIDE = range(3)
"""Whether and when gradients are reduced."""
_PASS, _WORK, _SEND, _RECEIVE = int(Op.PASS), int(Op.WORK), int(Op.SEND), int(Op.RECEIVE)
_AWAIT, _AWAIT_SENT = int(Op.AWAIT), int(Op.AWAIT_SENT)
_BESIDE, _DRAIN, _MEET = int(Op.BESIDE), int(Op.DRAIN), int(Op.MEET)

Bytes = NDArray[np.int8]
Numbers = NDArray[np.int32]
Sizes = tuple[int, int, int]
Firsts = tuple[Numbers, Numbers]


@compiled
def number_messages(
    sizes: Sizes,
    num_microbatches: int,
    firsts: Firsts,
    sender: Numbers,
    receiver: Numbers,
    transfer_slot: Numbers,
    transfers: Numbers,
) -> None:
    """Number messages and transfer slots, by (receiving rank, kind, stage, microbatch, slice).

    sizes: ranks, stages, slices. firsts: (num_stages,) each: number of the first gradient and of
    the first activation that a stage receives. sender, receiver, transfer_slot: as in Encoded.
    transfers: (slots, 3): kind, sending stage and slice of each transfer slot. All but the sizes
    are written; with one rank, nothing is.
    """
    num_ranks, num_stages, num_slices = sizes
    first_backward, first_forward = firsts
    if num_ranks == 1:
        return
    each = num_microbatches * num_slices
    number = slots = 0
    for rank in range(num_ranks):
        for kind in (SEND_B, SEND_F):
            for stage in range(rank, num_stages, num_ranks):
                source = stage + 1 if kind == SEND_B else stage - 1
                if source < 0 or source == num_stages:
                    continue
                if kind == SEND_B:
                    first_backward[stage] = number
                else:
                    first_forward[stage] = number
                sender[number : number + each] = source % num_ranks
                receiver[number : number + each] = rank
                for j in range(num_slices):
                    transfers[slots + j, 0] = kind
                    transfers[slots + j, 1] = source
                    transfers[slots + j, 2] = j
                    transfer_slot[number + j : number + each : num_slices] = slots + j
                number += each
                slots += num_slices


@compiled
def _post(
    received: Numbers,
    sent: Numbers,
    stage: Numbers,
    backward: Bytes,
    posted: Numbers,
    sizes: Sizes,
    window: int,
) -> Numbers:
    """Where an overlapped program posts receives, up to the window ahead of their passes.

    received, sent: see `_find_messages`. posted: (num_ranks, length + 1), zeros, written: before
    position i rank r posts the messages returned from posted[r, i] up to posted[r, i + 1].
    """
    num_ranks, length = received.shape
    num_messages = 0
    for rank in range(num_ranks):
        for i in range(length):
            num_messages += received[rank, i] >= 0
    needed_at = np.empty(num_messages, np.int32)
    for rank in range(num_ranks):
        for i in range(length):
            if received[rank, i] >= 0:
                needed_at[received[rank, i]] = i
    at = np.empty(num_messages, np.int32)
    messages = np.empty(num_messages, np.int32)
    # A rank's messages of one sender are in a queue, in the order of sending; those of the sender
    # with the lower number are posted first.
    queues = np.empty((2, length), np.int32)
    counts = np.zeros(2, np.int64)
    start = 0
    for rank in range(num_ranks):
        counts[:] = 0
        for side in range(2):
            peer = (rank - 1) % num_ranks if side == 0 else (rank + 1) % num_ranks
            if side == 1 and num_ranks == 2:
                break
            for i in range(length):
                back = backward[peer, i]
                to = (stage[peer, i] - 1 if back else stage[peer, i] + 1) % num_ranks
                if sent[peer, i] >= 0 and to == rank:
                    queues[side, counts[side]] = sent[peer, i]
                    counts[side] += 1
            latest = length
            for n in range(counts[side] - 1, -1, -1):
                message = queues[side, n]
                latest = min(latest, needed_at[message])
                after = needed_at[queues[side, n - window]] + 1 if n >= window else 0
                at[message] = min(after, latest)
                posted[rank, at[message]] += 1
        for i in range(length + 1):
            here = posted[rank, i]
            posted[rank, i] = start
            start += here
        lower = 0 if (rank - 1) % num_ranks < (rank + 1) % num_ranks else 1
        for side in (lower, 1 - lower):
            for n in range(counts[side]):
                message = queues[side, n]
                messages[posted[rank, at[message]]] = message
                posted[rank, at[message]] += 1
        for i in range(length, 0, -1):
            posted[rank, i] = posted[rank, i - 1]
        posted[rank, 0] = start - counts[0] - counts[1]
    return messages


@compiled
def _put(
    op: Bytes, slot: Numbers, about: Numbers, at: int, code: int, its_slot: int, its_about: int
) -> int:
    """One more op; returns the place of the next."""
    op[at] = code
    slot[at] = its_slot
    about[at] = its_about
    return at + 1


@compiled
def _key(kind: int, stage: int, slice_index: int, sizes: Sizes) -> int:
    """What a slot is of, as one number; `number_slots` turns it into the slot's."""
    return (kind * sizes[1] + stage) * sizes[2] + slice_index


@compiled
def number_slots(slot: Numbers, numbers: Numbers, keys: Numbers) -> int:
    """Turn what slots are of into their numbers, in the order in which they come.

    slot: (ops,), NOTHING or a key, written. numbers: by key, NOTHING so far. keys: by number,
    written as far as there are slots, which are counted.
    """
    count = 0
    for at in range(len(slot)):
        key = slot[at]
        if key >= 0:
            if numbers[key] < 0:
                numbers[key] = count
                keys[count] = key
                count += 1
            slot[at] = numbers[key]
    return count


@compiled
def _flush(
    op: Bytes,
    slot: Numbers,
    about: Numbers,
    at: int,
    flush: Numbers,
    meetings: Numbers,
    rank: int,
    sizes: Sizes,
) -> int:
    """What follows a rank's passes; see `lower_orders`."""
    num_ranks, num_stages = sizes[0], sizes[1]
    early = flush[0] == BESIDE
    for kind in (REDUCE, TIED, NORM, STEP, GATHER):
        wanted = flush[kind - REDUCE] == 1
        if kind == TIED:
            wanted = wanted and num_ranks > 1 and rank % (num_ranks - 1) == 0
        if not wanted:
            continue
        by_stage = kind in (REDUCE, GATHER)
        for stage in range(rank, num_stages if by_stage else rank + 1, num_ranks):
            if early:
                at = _put(op, slot, about, at, _DRAIN, -1, -1)
            number = _key(kind, 0 if kind == TIED else stage, 0, sizes)
            if kind == STEP:
                at = _put(op, slot, about, at, _WORK, number, -1)
                continue
            key, size = 0, 2
            if kind == NORM:
                key, size = 1, num_ranks
            elif by_stage:
                key, size = 2 + stage + (num_stages if kind == GATHER else 0), 1
            if meetings[key, 0] < 0:
                meetings[key, 0] = meetings[-1, 0]
                meetings[meetings[-1, 0], 1] = size
                meetings[-1, 0] += 1
            at = _put(op, slot, about, at, _MEET, number, meetings[key, 0])
    return at


@compiled
def _step(
    op: Bytes,
    slot: Numbers,
    about: Numbers,
    at: int,
    batch: Numbers,
    begin: int,
    end: int,
    rank: int,
    sizes: Sizes,
) -> int:
    """A step of messages that is waited for; batch: see `_blocking_rank`."""
    for i in range(begin, end):
        if batch[i, 1] == SEND_F or batch[i, 1] == SEND_B:
            number = _key(batch[i, 1], batch[i, 2], batch[i, 3], sizes)
            at = _put(op, slot, about, at, _SEND, number, batch[i, 0])
        else:
            at = _put(op, slot, about, at, _RECEIVE, -1, batch[i, 0])
    for i in range(begin, end):
        if batch[i, 1] == RECV_F or batch[i, 1] == RECV_B:
            number = _key(batch[i, 1], batch[i, 2], batch[i, 3], sizes)
            at = _put(op, slot, about, at, _AWAIT, number, batch[i, 0])
    for i in range(begin, end):
        if batch[i, 1] == SEND_F or batch[i, 1] == SEND_B:
            at = _put(op, slot, about, at, _AWAIT_SENT, -1, batch[i, 0])
    number = _key(EXCHANGE, rank, 0, sizes)
    return _put(op, slot, about, at, _WORK, number, -1)


@compiled
def _blocking_rank(
    op: Bytes,
    slot: Numbers,
    about: Numbers,
    at: int,
    backward: Bytes,
    stage: Numbers,
    slice_index: Numbers,
    received: Numbers,
    sent: Numbers,
    reduced_after: Numbers,
    mode: int,
    rank: int,
    sizes: Sizes,
) -> int:
    """The ops of a rank's passes where messages are waited for between them."""
    length, num_ranks = len(backward), sizes[0]
    chunked = sizes[1] > num_ranks and mode != SERIAL
    joined = chunked or mode == EXCHANGED
    # A forward and the backward pass after it are one slot, unless all forward passes come first.
    last_forward, first_backward = -1, length
    for position in range(length):
        if not backward[position]:
            last_forward = position
        elif first_backward == length:
            first_backward = position
    paired = chunked and first_backward < last_forward
    batch = np.empty((4, 5), np.int32)  # Messages: number, kind, stage, slice, peer.
    position = count = 0
    while position <= length:
        end = min(position + 1, length)
        if paired and end < length and not backward[position] and backward[end]:
            end += 1
        for i in range(position, end):
            if received[i] >= 0:
                batch[count, 0] = received[i]
                batch[count, 1] = RECV_B if backward[i] else RECV_F
                batch[count, 2] = stage[i]
                batch[count, 3] = slice_index[i]
                batch[count, 4] = (stage[i] + (1 if backward[i] else -1)) % num_ranks
                count += 1
        begin = 0
        while begin < count:  # All at once, by peer (one of each kind at most), or one by one.
            after = count if joined else begin + 1
            if mode != SERIAL and after < count and batch[after, 4] == batch[begin, 4]:
                after += 1
            at = _step(op, slot, about, at, batch, begin, after, rank, sizes)
            begin = after
        count = 0
        for i in range(position, end):
            number = _key(backward[i], stage[i], slice_index[i], sizes)
            at = _put(op, slot, about, at, _PASS, number, -1)
            if reduced_after[stage[i]] == i:
                number = _key(REDUCE, stage[i], 0, sizes)
                at = _put(op, slot, about, at, _BESIDE, number, -1)
            if sent[i] >= 0:
                batch[count, 0] = sent[i]
                batch[count, 1] = SEND_B if backward[i] else SEND_F
                batch[count, 2] = stage[i]
                batch[count, 3] = slice_index[i]
                batch[count, 4] = (stage[i] - (1 if backward[i] else -1)) % num_ranks
                count += 1
        position = max(end, position + 1)
    return at


@compiled
def _overlapped_rank(
    op: Bytes,
    slot: Numbers,
    about: Numbers,
    at: int,
    backward: Bytes,
    stage: Numbers,
    slice_index: Numbers,
    received: Numbers,
    sent: Numbers,
    reduced_after: Numbers,
    posted: Numbers,
    messages: Numbers,
    sizes: Sizes,
) -> int:
    """The ops of a rank's passes where messages go on by themselves; posted: the rank's row."""
    for i in range(len(backward)):
        for n in range(posted[i], posted[i + 1]):
            at = _put(op, slot, about, at, _RECEIVE, -1, messages[n])
        back, here, j = backward[i], stage[i], slice_index[i]
        if received[i] >= 0:
            number = _key(RECV_B if back else RECV_F, here, j, sizes)
            at = _put(op, slot, about, at, _AWAIT, number, received[i])
        number = _key(back, here, j, sizes)
        at = _put(op, slot, about, at, _PASS, number, -1)
        if reduced_after[here] == i:
            number = _key(REDUCE, here, 0, sizes)
            at = _put(op, slot, about, at, _BESIDE, number, -1)
        if sent[i] >= 0:
            number = _key(SEND_B if back else SEND_F, here, j, sizes)
            at = _put(op, slot, about, at, _SEND, number, sent[i])
    return at


@compiled
def _find_messages(
    orders: Orders, sizes: Sizes, firsts: Firsts, received: Numbers, sent: Numbers
) -> None:
    """Of each pass the message that it waits for and the one that it makes, NOTHING for none."""
    backward, stage, microbatch, slice_index = orders
    num_ranks, num_stages, num_slices = sizes
    first_backward, first_forward = firsts
    received[:] = -1
    sent[:] = -1
    if num_ranks == 1:
        return
    for rank in range(num_ranks):
        for i in range(backward.shape[1]):
            here = stage[rank, i]
            within = microbatch[rank, i] * num_slices + slice_index[rank, i]
            if backward[rank, i]:
                if here < num_stages - 1:
                    received[rank, i] = first_backward[here] + within
                if here > 0:
                    sent[rank, i] = first_backward[here - 1] + within
            else:
                if here > 0:
                    received[rank, i] = first_forward[here] + within
                if here < num_stages - 1:
                    sent[rank, i] = first_forward[here + 1] + within


@compiled
def lower_orders(
    orders: Orders,
    sizes: Sizes,
    firsts: Firsts,
    mode: int,
    window: int,
    flush: Numbers,
    op: Bytes,
    slot: Numbers,
    about: Numbers,
    first: NDArray[np.int64],
    meetings: Numbers,
) -> None:
    """Write the ops of every rank.

    sizes: ranks, stages, slices. firsts: see `number_messages`. window: messages that an overlapped
    program receives ahead. flush: (5,): NONE, AFTER or BESIDE, then whether there are TIED, NORM,
    STEP and GATHER.
    op, slot, about: as in Encoded, with room for all, but slots as keys (see `number_slots`).
    first: (num_ranks + 1,).
    meetings: (3 + 2 num_stages, 2): by what meets its number (NOTHING so far); by number its size;
    the last row's first entry counts them (0 so far).
    """
    num_ranks, num_stages = sizes[0], sizes[1]
    backward, stage, _, slice_index = orders
    received = np.empty(backward.shape, np.int32)
    sent = np.empty(backward.shape, np.int32)
    _find_messages(orders, sizes, firsts, received, sent)
    reduced_after = np.full(num_stages, -1, np.int32)
    if flush[0] == BESIDE:
        for rank in range(num_ranks):
            for i in range(backward.shape[1]):
                if backward[rank, i]:
                    reduced_after[stage[rank, i]] = i
    posted = np.zeros((num_ranks, backward.shape[1] + 1), np.int32)
    messages = np.empty(0, np.int32)
    if mode == OVERLAPPED and num_ranks > 1:
        messages = _post(received, sent, stage, backward, posted, sizes, window)
    at = 0
    for rank in range(num_ranks):
        rows = backward[rank], stage[rank], slice_index[rank], received[rank], sent[rank]
        if mode == OVERLAPPED:
            at = _overlapped_rank(
                op, slot, about, at, *rows, reduced_after, posted[rank], messages, sizes
            )
        else:
            at = _blocking_rank(op, slot, about, at, *rows, reduced_after, mode, rank, sizes)
        at = _flush(op, slot, about, at, flush, meetings, rank, sizes)
        first[rank + 1] = at
