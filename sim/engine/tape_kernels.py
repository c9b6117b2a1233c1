"""A program without contention as a row of instructions, compiled once and played for any prices.

Where every message starts the moment both its ends are posted, nothing depends on the order in
which times come: every time is a longest path. So the ops are put into one row in which what an
instruction reads has been written before it, and neighbours of one rank are joined:

    t = max(clock[lane], cell[await_1] + way[way_1]) + work[work_1]
    t = max(t, cell[await_2] + way[way_2]) + work[work_2]
    clock[lane] = t; cell[post_1] = max(cell[post_1], t); cell[post_2] likewise

A cell is a message (posted by both ranks, read with what it takes), a meeting (posted by all its
ranks, read with its longest duration) or an overlapped reduction, which has a lane of its own
beside its rank's. The first cell is never written and the last never read: they stand for none.
"""

from __future__ import annotations

import numpy as np

from sim.engine.kernels import I8, I32, I64
from sim.schedule.compiling import compiled

# Not imported from kernels: numba compiles anew what the date of its own file says has changed.
PASS, WORK, SEND, RECEIVE, AWAIT, AWAIT_SENT, BESIDE, DRAIN, MEET = range(9)
LANE, AWAIT_1, WAY_1, WORK_1, AWAIT_2, WAY_2, WORK_2, POST_1, POST_2 = range(9)
FIELDS = 9
RECORDED, DEADLOCK, SHARED, FULL = range(4)


@compiled
def play(
    tape: I32,
    work_before: I32,
    work_slot: I32,
    duration_ns: I64,
    way_ns: I64,
    work_ns: I64,
    cell: I64,
    slot_rank: I32,
    slot_count: I64,
    clock: I64,
    busy_ns: I64,
) -> None:
    """Play a tape.

    tape: (num_instructions, FIELDS). work_before, work_slot: (num_works,), of each joined piece of
    work the piece that it prolongs, and the slot by which it does; the first is no work at all.
    way_ns: by way. work_ns: (num_works,) and cell: (num_cells,) are written over.
    slot_rank, slot_count: (num_slots,), whose compute lane takes a slot's time, and how often.
    clock: (num_lanes,), takes when each lane is done. busy_ns: (num_ranks,), all zeros, takes how
    long each rank's compute lane is at work.
    """
    for which in range(len(slot_rank)):
        busy_ns[slot_rank[which]] += slot_count[which] * duration_ns[which]
    work_ns[0] = 0
    for which in range(1, len(work_slot)):
        work_ns[which] = work_ns[work_before[which]] + duration_ns[work_slot[which]]
    cell[:] = 0
    clock[:] = 0
    for row in range(len(tape)):
        lane = tape[row, LANE]
        time = max(clock[lane], cell[tape[row, AWAIT_1]] + way_ns[tape[row, WAY_1]])
        time += work_ns[tape[row, WORK_1]]
        time = max(time, cell[tape[row, AWAIT_2]] + way_ns[tape[row, WAY_2]])
        time += work_ns[tape[row, WORK_2]]
        clock[lane] = time
        post = tape[row, POST_1]
        cell[post] = max(cell[post], time)
        post = tape[row, POST_2]
        cell[post] = max(cell[post], time)


@compiled
def prolonged(work: int, slot: int, table: I64, before: I32, slots: I32, count: I64) -> int:
    """The piece of work that is another one and then a slot's; found again where there is one.

    table: a power of two of entries, more than twice the pieces, -1 where empty. count: (1,),
    pieces so far.
    """
    mixed = np.int64(work) * np.int64(1000003) + np.int64(slot) * np.int64(7919)
    place = (mixed ^ (mixed >> 17)) & np.int64(len(table) - 1)
    while table[place] != -1:
        found = table[place]
        if before[found] == work and slots[found] == slot:
            return int(found)
        place = (place + 1) & np.int64(len(table) - 1)
    found = count[0]
    count[0] += 1
    table[place] = found
    before[found], slots[found] = work, slot
    return int(found)


@compiled
def emit(row: I32, tape: I32, size: int, posted: I32, unused: int) -> None:
    """Put an instruction on the tape, note its posts, and have it do nothing from here on."""
    for field in range(FIELDS):
        tape[size, field] = row[field]
    if row[POST_1] != unused:
        posted[row[POST_1]] += 1
    if row[POST_2] != unused:
        posted[row[POST_2]] += 1
    for field in range(AWAIT_1, POST_1):
        row[field] = 0
    row[POST_1] = row[POST_2] = unused


@compiled
def record(
    first: I64,
    op: I8,
    slot: I32,
    about: I32,
    sender: I32,
    receiver: I32,
    transfer_slot: I32,
    num_transfers: int,
    meeting_size: I32,
    tape: I32,
    work_before: I32,
    work_slot: I32,
    table: I64,
    hidden_slot: I32,
    slot_rank: I32,
    slot_count: I64,
    counts: I64,
) -> int:
    """Put all ops of a program without contention on a tape: RECORDED, DEADLOCK, SHARED where the
    work of two ranks has one slot, or FULL where the table is too small for the pieces of work.

    Cells: none, messages, meetings, two for each overlapped reduction, none. Ways: none, transfer
    slots, meetings, and for each overlapped reduction what of it is hidden, by `hidden_slot`.
    tape, work_before, work_slot, hidden_slot: long enough, take the answer (see `play`); table: see
    `prolonged`. slot_rank, slot_count: (num_slots,), take their part of the answer (see `play`).
    counts: (2,), takes how many pieces of work and instructions there are.
    """
    num_ranks, num_messages, num_meetings = len(first) - 1, len(sender), len(meeting_size)
    num_besides = len(hidden_slot)
    unused = 1 + num_messages + num_meetings + 2 * num_besides
    posted = np.zeros(unused + 1, np.int32)
    waits = np.full(num_ranks, -1, np.int64)
    reduced = np.zeros(num_ranks, np.int64)
    position = first[:-1].copy()
    rows = np.zeros((num_ranks, FIELDS), np.int32)
    stack = np.empty(num_ranks, np.int64)
    depth = num_ranks
    for rank in range(num_ranks):
        stack[rank] = num_ranks - 1 - rank
        rows[rank, LANE] = rank
        rows[rank, POST_1] = rows[rank, POST_2] = unused
    works, size, besides = counts[:1], 0, 0
    slot_count[:] = 0
    # What a piece was last prolonged by, and what that made.
    last_slot = np.full(len(work_slot), -1, np.int32)
    last_work = np.zeros(len(work_slot), np.int32)
    works[0] = 1
    work_before[0] = work_slot[0] = -1
    table[:] = -1
    while depth > 0:
        depth -= 1
        rank = stack[depth]
        row = rows[rank]
        at = position[rank]
        while at <= first[rank + 1]:
            if 2 * works[0] + 4 > len(table):
                return FULL
            # What was posted goes on the tape before anything that may come after it.
            what = op[at] if at < first[rank + 1] else DRAIN
            if row[POST_1] != unused and (what != RECEIVE or row[POST_2] != unused):
                emit(row, tape, size, posted, unused)
                for field in range(POST_1, POST_2 + 1):
                    cell = tape[size, field]
                    if cell == unused:
                        continue
                    if cell <= num_messages:
                        # The one that waits is at the other end.
                        other = (
                            sender[cell - 1] if receiver[cell - 1] == rank else receiver[cell - 1]
                        )
                        if waits[other] == cell and posted[cell] == 2:
                            waits[other] = -1
                            stack[depth] = other
                            depth += 1
                    elif (
                        cell <= num_messages + num_meetings
                        and posted[cell] == meeting_size[cell - 1 - num_messages]
                    ):
                        for other in range(num_ranks):
                            if waits[other] == cell and other != rank:
                                stack[depth] = other
                                depth += 1
                size += 1
            if at == first[rank + 1]:
                break
            cell = way = 0
            if AWAIT <= what <= AWAIT_SENT:
                cell = 1 + about[at]
                way = 1 + transfer_slot[about[at]]
                if posted[cell] < 2:
                    waits[rank] = cell
                    break
            elif what == DRAIN:
                cell = reduced[rank]
            elif what == MEET:
                cell = 1 + num_messages + about[at]
                way = 1 + num_transfers + about[at]
                if waits[rank] != cell:
                    waits[rank] = cell
                    row[POST_1] = cell
                    continue
                if posted[cell] < meeting_size[about[at]]:
                    break
                waits[rank] = -1
            if cell > 0:
                which = AWAIT_1 if row[AWAIT_1] == 0 and row[WORK_1] == 0 else AWAIT_2
                if which == AWAIT_2 and (row[AWAIT_2] != 0 or row[WORK_2] != 0):
                    emit(row, tape, size, posted, unused)
                    size += 1
                    which = AWAIT_1
                row[which], row[which + 1] = cell, way
            if what <= SEND or what == AWAIT:
                field = WORK_2 if row[AWAIT_2] != 0 else WORK_1
                work, by = row[field], slot[at]
                if slot_rank[by] != rank:
                    if slot_count[by] > 0:
                        return SHARED
                    slot_rank[by] = rank
                slot_count[by] += 1
                if last_slot[work] != by:
                    found = prolonged(work, by, table, work_before, work_slot, works)
                    last_slot[work], last_work[work] = by, found
                row[field] = last_work[work]
            if SEND <= what <= RECEIVE:
                row[POST_1 if row[POST_1] == unused else POST_2] = 1 + about[at]
            elif what == BESIDE:
                began = 1 + num_messages + num_meetings + 2 * besides
                row[POST_1] = began
                emit(row, tape, size, posted, unused)
                size += 1
                tape[size, :] = 0
                tape[size, LANE] = num_ranks + rank
                tape[size, AWAIT_1] = began
                tape[size, WAY_1] = 1 + num_transfers + num_meetings + besides
                tape[size, WORK_1] = prolonged(0, slot[at], table, work_before, work_slot, works)
                tape[size, POST_1], tape[size, POST_2] = began + 1, unused
                size += 1
                reduced[rank] = began + 1
                hidden_slot[besides] = slot[at]
                besides += 1
            at += 1
        position[rank] = at
    for rank in range(num_ranks):
        if position[rank] < first[rank + 1]:
            return DEADLOCK
        emit(rows[rank], tape, size, posted, unused)
        size += 1
    counts[1] = size
    return RECORDED
