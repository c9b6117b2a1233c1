"""Tapes: programs without contention, ready to be played for any prices (see `tape_kernels`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.engine.encoded import Encoded, Evaluation, Op, Prices
from sim.engine.tape_kernels import FIELDS, FULL, RECORDED, play, record


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tape:
    """An encoded program as a row of instructions.

    rows: (num_instructions, FIELDS) int32. work_before, work_slot: (num_works,) int32.
    meeting_slot, meeting: int32, each rank's slot at each meeting. hidden_slot: int32, of each
    overlapped reduction. slot_rank: (num_slots,) int32, whose compute lane takes a slot's time,
    and slot_count: (num_slots,) int64, how often.
    """

    rows: NDArray[np.int32]
    work_before: NDArray[np.int32]
    work_slot: NDArray[np.int32]
    meeting_slot: NDArray[np.int32]
    meeting: NDArray[np.int32]
    hidden_slot: NDArray[np.int32]
    slot_rank: NDArray[np.int32]
    slot_count: NDArray[np.int64]


def recorded(encoded: Encoded) -> Tape | None:
    """The tape of a program none of whose messages ever waits for a link.

    None where there is none: where the program deadlocks, a message is not waited for by its sender
    (whose last span then may be that message), or two ranks' work has one slot.
    """
    counted = np.bincount(encoded.op, minlength=len(Op))
    if counted[Op.SEND] != counted[Op.AWAIT_SENT]:
        return None
    worked = (Op.PASS, Op.WORK, Op.SEND, Op.AWAIT, Op.BESIDE)
    num_works = 1 + int(counted[list(worked)].sum())
    slot_rank = np.zeros(len(encoded.slots), np.int32)
    slot_count = np.zeros(len(encoded.slots), np.int64)
    rows = np.empty(
        (encoded.num_ops + int(counted[Op.BESIDE]) + encoded.num_ranks, FIELDS), np.int32
    )
    work_before, work_slot = np.empty(num_works, np.int32), np.empty(num_works, np.int32)
    hidden_slot = np.empty(int(counted[Op.BESIDE]), np.int32)
    counts = np.zeros(2, np.int64)
    # Mostly few pieces of work are found again and again, in a table that a cache holds.
    for entries in (1 << 13, 1 << (2 * num_works + 8).bit_length()):
        found = record(
            encoded.first,
            encoded.op,
            encoded.slot,
            encoded.about,
            encoded.sender,
            encoded.receiver,
            encoded.transfer_slot,
            len(encoded.transfer_slots),
            encoded.meeting_size,
            rows,
            work_before,
            work_slot,
            np.empty(entries, np.int64),
            hidden_slot,
            slot_rank,
            slot_count,
            counts,
        )
        if found != FULL:
            break
    if found != RECORDED:
        return None
    num_works, size = counts.tolist()
    meets = encoded.op == Op.MEET
    return Tape(
        rows=rows[:size].copy(),
        work_before=work_before[:num_works].copy(),
        work_slot=work_slot[:num_works].copy(),
        meeting_slot=encoded.slot[meets],
        meeting=encoded.about[meets],
        hidden_slot=hidden_slot,
        slot_rank=slot_rank,
        slot_count=slot_count,
    )


def rank_of_ops(encoded: Encoded) -> NDArray[np.int32]:
    """(num_ops,): the rank of each op."""
    return np.repeat(np.arange(encoded.num_ranks, dtype=np.int32), np.diff(encoded.first))


def played(tape: Tape, encoded: Encoded, prices: Prices) -> Evaluation:
    """An iteration under prices, by its tape."""
    num_ranks, num_meetings = encoded.num_ranks, len(encoded.meeting_size)
    longest = np.zeros(num_meetings, np.int64)
    np.maximum.at(longest, tape.meeting, prices.duration_ns[tape.meeting_slot])
    way_ns = np.concatenate(
        (
            np.zeros(1, np.int64),
            prices.occupancy_ns + prices.latency_ns,
            longest,
            -prices.hidden_ns[tape.hidden_slot],
        )
    )
    num_cells = 2 + encoded.num_messages + num_meetings + 2 * len(tape.hidden_slot)
    clock, busy_ns = np.empty(2 * num_ranks, np.int64), np.zeros(num_ranks, np.int64)
    play(
        tape.rows,
        tape.work_before,
        tape.work_slot,
        prices.duration_ns,
        way_ns,
        np.empty(len(tape.work_slot), np.int64),
        np.empty(num_cells, np.int64),
        tape.slot_rank,
        tape.slot_count,
        clock,
        busy_ns,
    )
    finished_ns = np.maximum(clock[:num_ranks], clock[num_ranks:])
    return Evaluation(
        iteration_ns=int(finished_ns.max(initial=0)), busy_ns=busy_ns, finished_ns=finished_ns
    )
