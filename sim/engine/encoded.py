"""A program as arrays, which the compiled engine walks: what each rank does, one op after another.

An op is an opcode, the slot of the time it takes and the message or meeting that it is about. Times
are not in it: `Prices` holds those of every slot, so that one encoded program is evaluated under
many costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from sim.cost.costs import CostKey
from sim.schedule.actions import Action


class Op(IntEnum):
    """What a rank does next; the rules are the SimPy engine's (`sim.engine.simpy_engine`)."""

    PASS = 0
    """A pass through a stage: the compute lane (and the processor) for the slot's duration; its
    span is recorded though it be of 0 ns."""
    WORK = 1
    """An EXCHANGE or an optimizer step: the same, recorded only where it takes time."""
    SEND = 2
    """Work of posting a message, then its sending end is posted."""
    RECEIVE = 3
    """The receiving end of a message is posted (what unpacking it takes comes with AWAIT)."""
    AWAIT = 4
    """Wait until a message has arrived here, then work of unpacking it."""
    AWAIT_SENT = 5
    """Wait until a message has arrived at its other end."""
    BESIDE = 6
    """An overlapped reduction of gradients is posted and not waited for."""
    DRAIN = 7
    """Wait until the rank's overlapped reductions have ended."""
    MEET = 8
    """A reduction: wait for all ranks of the meeting, then take the longest of their durations."""


NOTHING = -1
"""In `slot` and `about`: this op has none."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Encoded:
    """A program's ops.

    first: (num_ranks + 1,) int64: rank r's ops are first[r] up to first[r + 1].
    op: (num_ops,) int8: an `Op` each.
    slot: (num_ops,) int32: into `slots`, which cost the op's duration is; NOTHING where it takes
        no time of its own.
    about: (num_ops,) int32: the message (SEND, RECEIVE, AWAIT, AWAIT_SENT) or meeting (MEET).
    sender, receiver: (num_messages,) int32: its ranks. Messages are numbered in the order in which
        the fabric serves those of one instant: by (receiving rank, RECV action).
    transfer_slot: (num_messages,) int32: into `transfer_slots`.
    meeting_size: (num_meetings,) int32: ranks that meet.
    slots: what each cost is of: a CostKey where costs depend on no more, else the action itself.
    transfer_slots: likewise, by the SEND action.
    action_of: an op's action, for spans and for who waits (that of an AWAIT is the RECV, of an
        AWAIT_SENT the SEND); None where nobody will ask.
    step_of: the (rank, step) of the program that an op came from, where there is a program.
    """

    first: NDArray[np.int64]
    op: NDArray[np.int8]
    slot: NDArray[np.int32]
    about: NDArray[np.int32]
    sender: NDArray[np.int32]
    receiver: NDArray[np.int32]
    transfer_slot: NDArray[np.int32]
    meeting_size: NDArray[np.int32]
    slots: tuple[CostKey | Action, ...]
    transfer_slots: tuple[CostKey | Action, ...]
    action_of: Callable[[int], Action] | None = None
    step_of: Callable[[int], tuple[int, int]] | None = None

    @property
    def num_ranks(self) -> int:
        """Ranks in the pipeline."""
        return len(self.first) - 1

    @property
    def num_ops(self) -> int:
        """Ops of all ranks."""
        return len(self.op)

    @property
    def num_messages(self) -> int:
        """Messages between ranks."""
        return len(self.sender)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prices:
    """What the slots of an encoded program cost, in nanoseconds.

    duration_ns, hidden_ns: (len(slots),) int64.
    occupancy_ns, latency_ns: (len(transfer_slots),) int64.
    first_link: (len(transfer_slots) + 1,) int64, and links: int32: a transfer's links are
        links[first_link[t]] up to links[first_link[t + 1]], numbered from 0 without gaps.
    num_links: how many there are.
    processors: (num_ranks,) int32 where ranks share processors, NOTHING for a rank alone on its
        own; else of length 0.
    """

    duration_ns: NDArray[np.int64]
    hidden_ns: NDArray[np.int64]
    occupancy_ns: NDArray[np.int64]
    latency_ns: NDArray[np.int64]
    first_link: NDArray[np.int64]
    links: NDArray[np.int32]
    num_links: int
    processors: NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """An iteration without its spans.

    iteration_ns: first span's start to last span's end over all ranks, as Timeline's.
    busy_ns: (num_ranks,) int64: time of the compute lane (passes, optimizer, messages' work).
    finished_ns: (num_ranks,) int64: end of each rank's last span on any lane.
    """

    iteration_ns: int
    busy_ns: NDArray[np.int64]
    finished_ns: NDArray[np.int64]
