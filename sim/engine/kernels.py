"""The compiled engine's walk over encoded ops, compiled by numba where it is there.

Without numba the same functions run as plain Python, slowly, with the same results. The rules are
those of `sim.engine.simpy_engine`; the walk needs no queue of events for most of it:

Each rank has a clock of its own and goes on until it needs what is not known yet. A message whose
links cannot be contended (`direct`) is booked the moment its second end is posted, however far
other clocks are. The others, and the turns on shared processors, are asked for in a heap ordered by
time: once no rank can go on, nothing can be asked for before the least time in it, so all transfers
of that time are booked, in the order of their numbers, before any rank goes on. What then is asked
for in the same instant is booked in a next round, as in the SimPy engine, and processors are given
after the last.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.schedule.compiling import compiled

I8: TypeAlias = NDArray[np.int8]
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]

# Values of encoded.Op, which compiled code takes as constants.
PASS, WORK, SEND, RECEIVE, AWAIT, AWAIT_SENT, BESIDE, DRAIN, MEET = range(9)
UNKNOWN = -1
"""A time that has not come, a rank that waits for nothing."""
_POSTED = -2
"""A message whose one end was posted at time t has not arrived at _POSTED - t."""
_MEETING = -2
"""Waits below this number are for meeting _MEETING - wait."""


@compiled
def push(times: I64, numbers: I64, size: int, time: int, number: int) -> None:
    """Add to a heap of `size` entries, ordered by (time, number)."""
    place = size
    while place > 0:
        above = (place - 1) >> 1
        if times[above] < time or (times[above] == time and numbers[above] < number):
            break
        times[place], numbers[place] = times[above], numbers[above]
        place = above
    times[place], numbers[place] = time, number


@compiled
def pop(times: I64, numbers: I64, size: int) -> None:
    """Take the first of a heap of `size` entries away."""
    last = size - 1
    time, number = times[last], numbers[last]
    place = 0
    while True:
        below = 2 * place + 1
        if below >= last:
            break
        right = below + 1
        if right < last and (
            times[right] < times[below]
            or (times[right] == times[below] and numbers[right] < numbers[below])
        ):
            below = right
        if time < times[below] or (time == times[below] and number < numbers[below]):
            break
        times[place], numbers[place] = times[below], numbers[below]
        place = below
    times[place], numbers[place] = time, number


@compiled
def book(free: I64, links: I32, low: int, high: int, time: int, occupancy_ns: int) -> int:
    """The first instant from `time` on at which all links of a transfer, links[low] up to
    links[high], are free; they are held from then on for its occupancy."""
    for held in range(low, high):
        time = max(time, free[links[held]])
    for held in range(low, high):
        free[links[held]] = time + occupancy_ns
    return time


@compiled
def walk(
    first: I64,
    op: I8,
    slot: I32,
    about: I32,
    sender: I32,
    receiver: I32,
    transfer_slot: I32,
    meeting_size: I32,
    duration_ns: I64,
    hidden_ns: I64,
    occupancy_ns: I64,
    latency_ns: I64,
    first_link: I64,
    links: I32,
    num_links: int,
    processors: I32,
    direct: NDArray[np.bool_],
    position: I64,
    busy_ns: I64,
    finished_ns: I64,
    start_ns: I64,
    sent_ns: I64,
    arrived_ns: I64,
) -> None:
    """Walk all ops under prices (see `encoded` for the arrays up to `processors`).

    sender, receiver: (num_transfer_slots,), unlike there: of any message of a slot.
    direct: (num_messages,), whether a message's links are booked as soon as both ends are posted.
    position: (num_ranks,), takes the op at which each rank stopped: first[rank + 1] where it is
    done, else the one that waits for ever. busy_ns, finished_ns: see Evaluation.
    start_ns: (num_ops,) takes when each op's work, reduction or meeting began, of those that take
    time or have a span however short; of length 0 where nobody asks. sent_ns, arrived_ns:
    (num_messages,), take when each transfer began (sent_ns may be of length 0) and arrived, less
    than 0 where it did not.
    """
    num_ranks, num_messages = len(first) - 1, len(transfer_slot)
    with_spans = len(start_ns) > 0
    shared = len(processors) > 0
    clock = np.zeros(num_ranks, np.int64)
    reduced = np.zeros(num_ranks, np.int64)
    waits = np.full(num_ranks, UNKNOWN, np.int64)
    asked = np.full(num_ranks, UNKNOWN, np.int64)
    granted = np.zeros(num_ranks, np.bool_)
    released = np.zeros(num_ranks, np.int64)  # By processor: never more of them than ranks.
    came = np.zeros(len(meeting_size), np.int64)
    ready = np.zeros(len(meeting_size), np.int64)
    longest = np.zeros(len(meeting_size), np.int64)
    free = np.zeros(num_links, np.int64)
    times = np.empty(num_messages, np.int64)
    numbers = np.empty(num_messages, np.int64)
    size = 0
    stack = np.empty(num_ranks, np.int64)
    depth = num_ranks
    for rank in range(num_ranks):
        stack[rank] = num_ranks - 1 - rank
        position[rank] = first[rank]
    arrived_ns[:] = UNKNOWN
    while True:
        while depth > 0:
            depth -= 1
            rank = stack[depth]
            now, at, end = clock[rank], position[rank], first[rank + 1]
            while at < end:
                what, number = op[at], about[at]
                if AWAIT <= what <= AWAIT_SENT:
                    if arrived_ns[number] < 0:
                        waits[rank] = number
                        break
                    now = max(now, arrived_ns[number])
                elif what == DRAIN:
                    now = max(now, reduced[rank])
                elif what == BESIDE:
                    took = duration_ns[slot[at]]
                    begun = max(now - hidden_ns[slot[at]], reduced[rank])
                    reduced[rank] = begun + took
                    if with_spans:
                        start_ns[at] = begun
                elif what == MEET:
                    if waits[rank] != _MEETING - number:
                        waits[rank] = _MEETING - number
                        came[number] += 1
                        ready[number] = max(ready[number], now)
                        longest[number] = max(longest[number], duration_ns[slot[at]])
                        if came[number] == meeting_size[number]:
                            for other in range(num_ranks):
                                if waits[other] == _MEETING - number and other != rank:
                                    stack[depth] = other
                                    depth += 1
                    if came[number] < meeting_size[number]:
                        break
                    waits[rank] = UNKNOWN
                    now = max(now, ready[number])
                    if with_spans:
                        start_ns[at] = now
                    now += longest[number]
                if what <= SEND or what == AWAIT:
                    took = duration_ns[slot[at]]
                    if took > 0 and shared and processors[rank] >= 0:
                        if not granted[rank]:
                            asked[rank] = now
                            break
                        granted[rank] = False
                    if with_spans:
                        start_ns[at] = now
                    now += took
                    busy_ns[rank] += took
                    if took > 0 and shared and processors[rank] >= 0:
                        released[processors[rank]] = now
                if SEND <= what <= RECEIVE:
                    if arrived_ns[number] == UNKNOWN:
                        arrived_ns[number] = _POSTED - now
                    else:
                        time = max(now, _POSTED - arrived_ns[number])
                        if direct[number]:
                            which = transfer_slot[number]
                            low, high = first_link[which], first_link[which + 1]
                            time = book(free, links, low, high, time, occupancy_ns[which])
                            if with_spans:
                                sent_ns[number] = time
                            time += occupancy_ns[which] + latency_ns[which]
                            arrived_ns[number] = time
                            other = sender[which] if what == RECEIVE else receiver[which]
                            finished_ns[other] = max(finished_ns[other], time)
                            finished_ns[rank] = max(finished_ns[rank], time)
                            if waits[other] == number:
                                waits[other] = UNKNOWN
                                stack[depth] = other
                                depth += 1
                        else:
                            push(times, numbers, size, time, number)
                            size += 1
                at += 1
            clock[rank], position[rank] = now, at
        # No rank can go on: what comes first of all that was asked for?
        given = -1
        turn = np.int64(0)
        if shared:
            for rank in range(num_ranks):
                if asked[rank] != UNKNOWN:
                    time = max(asked[rank], released[processors[rank]])
                    if given < 0 or time < turn or (time == turn and asked[rank] < asked[given]):
                        given, turn = rank, time
        if size > 0 and (given < 0 or times[0] <= turn):
            now = times[0]
            while size > 0 and times[0] == now:
                number = numbers[0]
                pop(times, numbers, size)
                size -= 1
                which = transfer_slot[number]
                low, high = first_link[which], first_link[which + 1]
                time = book(free, links, low, high, now, occupancy_ns[which])
                if with_spans:
                    sent_ns[number] = time
                time += occupancy_ns[which] + latency_ns[which]
                arrived_ns[number] = time
                for other in (sender[which], receiver[which]):
                    finished_ns[other] = max(finished_ns[other], time)
                    if waits[other] == number:
                        waits[other] = UNKNOWN
                        stack[depth] = other
                        depth += 1
        elif given >= 0:
            clock[given] = turn
            asked[given] = UNKNOWN
            granted[given] = True
            stack[depth] = given
            depth += 1
        else:
            break
    for rank in range(num_ranks):
        finished_ns[rank] = max(finished_ns[rank], clock[rank], reduced[rank])


@compiled
def uncontended(
    first: I64,
    op: I8,
    about: I32,
    sender: I32,
    receiver: I32,
    transfer_slot: I32,
    first_link: I64,
    links: I32,
    num_links: int,
    takes_time: NDArray[np.bool_],
    direct: NDArray[np.bool_],
) -> bool:
    """Which messages can be booked as soon as both ends are posted, whatever the times.

    Those of whose links each is one of two kinds. Taken in turn: all messages over it have a rank
    in common, which has always waited for the one before it posts the next, so that the link is
    free. First in, first out: all messages over it go from one rank to one other, both of which
    post them in ascending order, and all are booked so.
    takes_time: (num_transfer_slots,), whether a transfer takes time at all. One that takes none and
    is booked at once would put what follows it in the same instant into too early a round, so that
    then no message is booked at once if any is not.
    direct: (num_messages,), takes the answer. Returns whether no link is ever waited for, as all
    are taken in turn.
    """
    num_ranks, num_messages = len(first) - 1, len(sender)
    # The rank that all messages over a link have in common, two where one pair is all there is.
    common = np.full((num_links, 2), -1, np.int64)
    is_used = np.zeros(num_links, np.bool_)
    in_turn = np.zeros((num_links, 2), np.bool_)
    in_order = np.ones(num_links, np.bool_)
    for number in range(num_messages):
        which = transfer_slot[number]
        for held in range(first_link[which], first_link[which + 1]):
            link = links[held]
            if not is_used[link]:
                is_used[link] = True
                common[link, 0], common[link, 1] = sender[number], receiver[number]
                in_turn[link] = True
            else:
                if common[link, 0] != sender[number] or common[link, 1] != receiver[number]:
                    in_order[link] = False
                for end in range(2):
                    rank = common[link, end]
                    if rank != sender[number] and rank != receiver[number]:
                        in_turn[link, end] = False
    opened = np.full(num_links, -1, np.int64)  # The message over a link that is not waited for yet.
    latest = np.full((num_links, 2), -1, np.int64)
    for rank in range(num_ranks):
        opened[:] = -1
        for at in range(first[rank], first[rank + 1]):
            what = op[at]
            if what < SEND or what > AWAIT_SENT:
                continue
            number = about[at]
            which = transfer_slot[number]
            for held in range(first_link[which], first_link[which + 1]):
                link = links[held]
                end = 0 if common[link, 0] == rank else 1
                if common[link, end] != rank:
                    continue
                if what <= RECEIVE:
                    if opened[link] != -1 and opened[link] != number:
                        in_turn[link, end] = False
                    opened[link] = number
                    if number < latest[link, end]:
                        in_order[link] = False
                    latest[link, end] = number
                elif opened[link] == number:
                    opened[link] = -1
    direct[:] = True
    again = True
    while again:
        again = False
        for number in range(num_messages):
            if not direct[number]:
                continue
            which = transfer_slot[number]
            for held in range(first_link[which], first_link[which + 1]):
                link = links[held]
                if not (in_turn[link, 0] or in_turn[link, 1] or in_order[link]):
                    direct[number] = False
            if not direct[number]:
                for held in range(first_link[which], first_link[which + 1]):
                    in_order[links[held]] = False
                again = True
    if not direct.all():
        for number in range(num_messages):
            if direct[number] and not takes_time[transfer_slot[number]]:
                direct[:] = False
                break
    for link in range(num_links):
        if is_used[link] and not (in_turn[link, 0] or in_turn[link, 1]):
            return False
    return True
