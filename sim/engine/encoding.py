"""Encoding: a program to the ops that the compiled engine walks, and costs to the prices of its
slots.

Of each rank, in its steps' order: a pass is PASS, after an AWAIT for each of its messages where the
program is overlapped. A step of messages is a SEND or RECEIVE for each, in the step's order; in a
program that blocks then an AWAIT for each one received, an AWAIT_SENT for each one sent, and WORK,
its EXCHANGE. In a program with overlapped reductions a reduction of gradients is BESIDE, and DRAIN
comes before the optimizer step and before every other reduction. The optimizer step is WORK, every
other reduction MEET.

Slots are numbered as their first op comes, rank after rank; transfer slots as the first of their
messages; meetings as the first op that meets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sim.cost.costs import CostKey, Costs, CostTable, Transfer
from sim.engine.encoded import NOTHING, Encoded, Op, Prices
from sim.schedule.actions import COMPUTE, Action, Kind
from sim.schedule.lowering import Program, participants, receives

_Identity = tuple[int, int, int, int, int]
"""A message: 1 where it goes forward, then its receiving stage, microbatch, slice and pipe."""
_Key = Callable[[Action], CostKey | Action]

_AT_ONCE = Transfer(occupancy_ns=0, latency_ns=0, resources=(), payload_bytes=0)
_PASS, _WORK, _SEND, _RECEIVE = int(Op.PASS), int(Op.WORK), int(Op.SEND), int(Op.RECEIVE)
_AWAIT, _AWAIT_SENT = int(Op.AWAIT), int(Op.AWAIT_SENT)
_BESIDE, _DRAIN, _MEET = int(Op.BESIDE), int(Op.DRAIN), int(Op.MEET)
# Of each kind of message whether it goes forward, and from its stage to the receiving one.
_MESSAGES = {
    Kind.SEND_FORWARD: (1, 1, True),
    Kind.RECV_FORWARD: (1, 0, False),
    Kind.SEND_BACKWARD: (0, -1, True),
    Kind.RECV_BACKWARD: (0, 0, False),
}


def encode(program: Program, costs: Costs | None = None, *, by_action: bool = False) -> Encoded:
    """A program's ops, its slots by what `costs` depend on.

    With a CostTable a slot is a CostKey, of its variants; with other costs, or `by_action`, every
    action has one of its own. Without costs slots are CostKeys of microbatches that are all alike.
    """
    encoder = _Encoder(program, _itself if by_action else _key_of(costs))
    for rank in range(program.num_ranks):
        encoder.rank(rank)
    return encoder.encoded()


def _key_of(costs: Costs | None) -> _Key:
    if costs is None:
        return CostTable(costs={}).key
    return costs.key if isinstance(costs, CostTable) else _itself


def _itself(action: Action) -> Action:
    return action


class _Encoder:
    def __init__(self, program: Program, key: _Key) -> None:
        self.program, self.key = program, key
        self.op: list[int] = []
        self.slot: list[int] = []
        self.about: list[int] = []
        self.action: list[Action] = []
        self.step: list[int] = []
        self.first = [0]
        self.slots: dict[CostKey | Action, int] = {}
        self.messages: dict[_Identity, int] = {}
        self.meetings: dict[tuple[Action, int], int] = {}
        self.meeting_size: list[int] = []

    def add(self, op: int, action: Action, step: int, about: int = NOTHING) -> None:
        """An op that takes the time of its action."""
        self.op.append(op)
        key = self.key(action)
        slot = self.slots.get(key)
        if slot is None:
            slot = self.slots[key] = len(self.slots)
        self.slot.append(slot)
        self.about.append(about)
        self.action.append(action)
        self.step.append(step)

    def add_free(self, op: int, action: Action, step: int, about: int = NOTHING) -> None:
        """An op that takes no time of its own."""
        self.op.append(op)
        self.slot.append(NOTHING)
        self.about.append(about)
        self.action.append(action)
        self.step.append(step)

    def message(self, action: Action) -> int:
        """A message's number, as they come."""
        kind, stage, microbatch, slice_index, pipe = action
        forward, onward, _ = _MESSAGES[kind]
        identity = (forward, stage + onward, microbatch or 0, slice_index, pipe)
        return self.messages.setdefault(identity, len(self.messages))

    def rank(self, rank: int) -> None:
        """The ops of a rank's steps."""
        program = self.program
        overlapped = program.mode == "overlapped"
        exchanges = 0
        for number, step in enumerate(program.steps[rank]):
            action = step[0]
            kind = action.kind
            if kind in COMPUTE:
                if overlapped:
                    for message in receives(action, program.schedule):
                        self.add(_AWAIT, message, number, self.message(message))
                self.add(_PASS, action, number)
            elif kind in _MESSAGES:
                self.post(step, number)
                if not overlapped:
                    self.exchange(step, number, Action(Kind.EXCHANGE, rank, exchanges))
                    exchanges += 1
            elif kind is Kind.REDUCE_GRADIENTS and program.overlapped_reduction:
                self.add(_BESIDE, action, number)
            else:
                if program.overlapped_reduction:
                    self.add_free(_DRAIN, action, number)
                if kind is Kind.OPTIMIZER:
                    self.add(_WORK, action, number)
                else:
                    self.add(_MEET, action, number, self.meeting(action, rank))
        self.first.append(len(self.op))

    def post(self, step: Sequence[Action], number: int) -> None:
        """Post a step's messages."""
        for message in step:
            about = self.message(message)
            if _MESSAGES[message.kind][2]:
                self.add(_SEND, message, number, about)
            else:
                self.add_free(_RECEIVE, message, number, about)

    def exchange(self, step: Sequence[Action], number: int, exchange: Action) -> None:
        """Wait for a step's messages at either end, then take the host's time."""
        sent = [message for message in step if _MESSAGES[message.kind][2]]
        for message in step:
            if not _MESSAGES[message.kind][2]:
                self.add(_AWAIT, message, number, self.message(message))
        for message in sent:
            self.add_free(_AWAIT_SENT, message, number, self.message(message))
        self.add(_WORK, exchange, number)

    def meeting(self, action: Action, rank: int) -> int:
        """The number of the meeting that a rank comes to, a rank alone to its own."""
        size = len(participants(action, self.program))
        # NORM is numbered by rank, but is one.
        alone = rank if size == 1 else NOTHING
        norm = action.kind is Kind.GRADIENT_NORM
        key = (Action(Kind.GRADIENT_NORM, 0) if norm else action, alone)
        number = self.meetings.get(key)
        if number is None:
            number = self.meetings[key] = len(self.meetings)
            self.meeting_size.append(size)
        return number

    def encoded(self) -> Encoded:
        """All of it as arrays, messages numbered by (receiving rank, RECV action)."""
        schedule = self.program.schedule
        found = list(self.messages)
        ends = np.empty((len(found), 2), dtype=np.int32)
        for number, (forward, stage, _, _, pipe) in enumerate(found):
            ends[number, 0] = schedule.rank_of(stage - 1 if forward else stage + 1, pipe)
            ends[number, 1] = schedule.rank_of(stage, pipe)
        identities = np.array(found, dtype=np.int64).reshape(-1, 5)
        # lexsort's last key comes first. Kinds sort by name: RECV_B before RECV_F.
        order = np.lexsort((*identities.T[::-1], ends[:, 1]))
        renumbered = np.empty(len(found), dtype=np.int32)
        renumbered[order] = np.arange(len(found), dtype=np.int32)
        op = np.array(self.op, dtype=np.int8)
        about = np.array(self.about, dtype=np.int32)
        of_message = (op >= _SEND) & (op <= _AWAIT_SENT)
        about[of_message] = renumbered[about[of_message]]
        transfer_slots: dict[CostKey | Action, int] = {}
        transfer_slot = np.empty(len(found), dtype=np.int32)
        for place, number in enumerate(order.tolist()):
            forward, stage, microbatch, slice_index, pipe = found[number]
            kind = Kind.SEND_FORWARD if forward else Kind.SEND_BACKWARD
            source = stage - 1 if forward else stage + 1
            key = self.key(Action(kind, source, microbatch, slice_index, pipe))
            transfer_slot[place] = transfer_slots.setdefault(key, len(transfer_slots))
        first = np.array(self.first, dtype=np.int64)
        actions, steps = self.action, np.array(self.step, dtype=np.int32)

        def step_of(op_index: int) -> tuple[int, int]:
            rank = int(np.searchsorted(first, op_index, side="right")) - 1
            return rank, int(steps[op_index])

        return Encoded(
            first=first,
            op=op,
            slot=np.array(self.slot, dtype=np.int32),
            about=about,
            sender=np.ascontiguousarray(ends[order, 0]),
            receiver=np.ascontiguousarray(ends[order, 1]),
            transfer_slot=transfer_slot,
            meeting_size=np.array(self.meeting_size, dtype=np.int32),
            slots=tuple(self.slots),
            transfer_slots=tuple(transfer_slots),
            action_of=actions.__getitem__,
            step_of=step_of,
        )


def price(encoded: Encoded, costs: Costs) -> Prices:
    """What the slots of an encoded program cost.

    costs: a CostTable of the variants that the program was encoded for where its slots are
    CostKeys; any costs where they are actions.
    Raises ValueError for a negative time, or where slots are CostKeys and costs are no table;
    OverflowError for a time that is no 64-bit integer.
    """
    duration, hidden = [0] * len(encoded.slots), [0] * len(encoded.slots)
    table = costs if isinstance(costs, CostTable) else None
    for number, slot in enumerate(encoded.slots):
        if isinstance(slot, CostKey):
            if table is None:
                raise ValueError("the program was encoded for a table of costs, and these are none")
            cost = table.costs.get(slot)
            if cost is not None:
                duration[number], hidden[number] = cost.duration_ns, cost.hidden_ns
        else:
            duration[number] = costs.duration_ns(slot)
            if slot.kind is Kind.REDUCE_GRADIENTS:
                hidden[number] = costs.hidden_ns(slot)
    transfers = [_transfer(slot, costs, table) for slot in encoded.transfer_slots]
    held: dict[int, int] = {}
    links: list[int] = []
    first_link = [0]
    for transfer in transfers:
        links += [held.setdefault(link, len(held)) for link in transfer.resources]
        first_link.append(len(links))
    return Prices(
        duration_ns=_times(duration),
        hidden_ns=_times(hidden),
        occupancy_ns=_times([t.occupancy_ns for t in transfers]),
        latency_ns=_times([t.latency_ns for t in transfers]),
        first_link=np.array(first_link, dtype=np.int64),
        links=np.array(links, dtype=np.int32),
        num_links=len(held),
        processors=_processors(costs.processors),
    )


def beyond(longest_ns: float) -> OverflowError:
    """What is raised for times that are too long for 64-bit integers."""
    return OverflowError(
        f"the program's times come to {longest_ns:.4g} ns together, but the compiled engine counts "
        "to 2^62 ns (146 years)"
    )


def _times(values: Sequence[int]) -> NDArray[np.int64]:
    """Values that are not negative, as an array."""
    try:
        times = np.array(values, dtype=np.int64)
    except OverflowError:
        raise beyond(float(max(values))) from None
    if len(times) and times.min() < 0:
        raise ValueError(f"a cost of {times.min()} ns: no time is negative")
    return times


def _transfer(slot: CostKey | Action, costs: Costs, table: CostTable | None) -> Transfer:
    if not isinstance(slot, CostKey):
        return costs.transfer(slot)
    assert table is not None
    return table.transfers.get(slot, _AT_ONCE)


def _processors(processors: tuple[int, ...]) -> NDArray[np.int32]:
    """Processors numbered from 0 without gaps where ranks share some, NOTHING for a rank alone on
    its own; of length 0 where all are alone."""
    shared = sorted({p for p in processors if processors.count(p) > 1})
    if not shared:
        return np.zeros(0, dtype=np.int32)
    numbered = {p: number for number, p in enumerate(shared)}
    return np.array([numbered.get(p, NOTHING) for p in processors], dtype=np.int32)
