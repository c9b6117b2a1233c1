"""The compiled engine: the SimPy engine's twin, equal to it span for span, on integer arrays.

`simulate` gives a timeline as the SimPy engine does. `evaluate` gives an iteration's figures
without spans, of a program encoded once under as many prices as are wanted.

Times are 64-bit integers. Where all a program's times together reach 2^62 ns (146 years) an
OverflowError is raised before anything can wrap; the SimPy engine has no such limit.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property, partial
from weakref import WeakKeyDictionary, ref

import numpy as np
from numpy.typing import NDArray

from sim.cost.costs import Costs
from sim.engine.deadlock import Deadlock
from sim.engine.encoded import NOTHING, Encoded, Evaluation, Op, Prices
from sim.engine.encoding import beyond, encode, price
from sim.engine.kernels import uncontended, walk
from sim.engine.tape import Tape, played, rank_of_ops, recorded
from sim.schedule.actions import Action, Kind
from sim.schedule.checks import Waiting
from sim.schedule.lowering import Program, partner
from sim.timeline.spans import LANES, Span, Timeline

LONGEST_NS = 1 << 62
"""What all times of a program together stay below."""
FROM_TAPE = 4
"""The time from which on an encoded program is played from a tape, which takes about as long to
make as three or four walks."""
MOST_WAYS = 16
"""Ways in which a program's messages share links that are remembered at once."""
_COMPUTE, _FORWARD, _BACKWARD, _COLLECTIVE = (
    LANES.index(lane) for lane in ("compute", "forward", "backward", "collective")
)
_ALWAYS = (Op.PASS, Op.BESIDE, Op.MEET)


def simulate(program: Program, costs: Costs) -> Timeline:
    """Run a program under costs.

    Raises Deadlock where ranks wait for each other for ever, OverflowError for times that 64 bits
    may not hold, ValueError for a negative one.
    """
    encoded = encode(program, costs)
    prices = price(encoded, costs)
    run = _Walk(encoded, prices, with_spans=True)
    run.check_done(program)
    return Timeline(
        origin="simulated",
        num_ranks=program.num_ranks,
        spans=tuple(run.spans()),
        processors=costs.processors,
    )


def evaluate(encoded: Encoded, prices: Prices, program: Program | None = None) -> Evaluation:
    """The figures of an iteration; errors as of `simulate`.

    From its fourth time on a program in which nothing contends is played from a tape of it.
    program: what was encoded, for whole steps in Deadlock's `waiting`.
    """
    facts = _facts_of(encoded)
    if not len(prices.processors) and facts.contention(prices).is_free:
        facts.times += 1
        if facts.times >= FROM_TAPE and facts.tape is not None:
            facts.check_range(prices)
            return played(facts.tape, encoded, prices)
    run = _Walk(encoded, prices, with_spans=False)
    run.check_done(program)
    return Evaluation(
        iteration_ns=int(run.finished_ns.max(initial=0)),
        busy_ns=run.busy_ns,
        finished_ns=run.finished_ns,
    )


@dataclass(frozen=True, slots=True)
class _Contention:
    """direct: (num_messages,), which messages are booked at once (see `kernels.uncontended`).
    is_free: whether no message ever waits for a link."""

    direct: NDArray[np.bool_]
    is_free: bool


class _Facts:
    """What is found out once about an encoded program."""

    def __init__(self, encoded: Encoded) -> None:
        # Weak, as these facts are kept for as long as the program is.
        self._encoded = ref(encoded)
        self.times = 0
        # Shifted by one, as NOTHING is -1.
        count = np.bincount(encoded.slot + 1, minlength=len(encoded.slots) + 1)
        self._ops = count[1:].astype(float)
        count = np.bincount(encoded.transfer_slot, minlength=len(encoded.transfer_slots))
        self._messages = count.astype(float)
        self.sender = np.zeros(len(encoded.transfer_slots), np.int32)
        self.sender[encoded.transfer_slot] = encoded.sender
        self.receiver = np.zeros(len(encoded.transfer_slots), np.int32)
        self.receiver[encoded.transfer_slot] = encoded.receiver
        self._contention: OrderedDict[bytes, _Contention] = OrderedDict()

    @property
    def encoded(self) -> Encoded:
        encoded = self._encoded()
        assert encoded is not None
        return encoded

    @cached_property
    def tape(self) -> Tape | None:
        """The program's tape, where nothing contends."""
        return recorded(self.encoded)

    def check_range(self, prices: Prices) -> None:
        """Raises OverflowError where the sum of all times, which bounds every one that a walk can
        come to, might not fit."""
        total = float(self._ops @ prices.duration_ns)
        total += float(self._messages @ prices.occupancy_ns + self._messages @ prices.latency_ns)
        if total + float(prices.hidden_ns.max(initial=0)) >= LONGEST_NS * (1 - 1e-9):
            raise beyond(total)

    def contention(self, prices: Prices) -> _Contention:
        """Found once for each way in which messages share links."""
        encoded = self.encoded
        takes_time = (prices.occupancy_ns > 0) | (prices.latency_ns > 0)
        key = b"".join(a.tobytes() for a in (prices.first_link, prices.links, takes_time))
        found = self._contention.get(key)
        if found is None:
            direct = np.empty(encoded.num_messages, dtype=np.bool_)
            is_free = uncontended(
                encoded.first,
                encoded.op,
                encoded.about,
                encoded.sender,
                encoded.receiver,
                encoded.transfer_slot,
                prices.first_link,
                prices.links,
                prices.num_links,
                takes_time,
                direct,
            )
            found = self._contention[key] = _Contention(direct, is_free)
            if len(self._contention) > MOST_WAYS:
                self._contention.popitem(last=False)
        return found


_known: WeakKeyDictionary[Encoded, _Facts] = WeakKeyDictionary()


def _facts_of(encoded: Encoded) -> _Facts:
    found = _known.get(encoded)
    if found is None:
        found = _known[encoded] = _Facts(encoded)
    return found


class _Walk:
    """One walk of the kernel, and what it left."""

    def __init__(self, encoded: Encoded, prices: Prices, *, with_spans: bool) -> None:
        self.encoded, self.prices = encoded, prices
        facts = _facts_of(encoded)
        facts.check_range(prices)
        num_ranks, num_messages = encoded.num_ranks, encoded.num_messages
        self.position = np.zeros(num_ranks, dtype=np.int64)
        self.busy_ns = np.zeros(num_ranks, dtype=np.int64)
        self.finished_ns = np.zeros(num_ranks, dtype=np.int64)
        self.start_ns = np.zeros(encoded.num_ops if with_spans else 0, dtype=np.int64)
        self.sent_ns = np.zeros(num_messages if with_spans else 0, dtype=np.int64)
        self.arrived_ns = np.empty(num_messages, dtype=np.int64)
        walk(
            encoded.first,
            encoded.op,
            encoded.slot,
            encoded.about,
            facts.sender,
            facts.receiver,
            encoded.transfer_slot,
            encoded.meeting_size,
            prices.duration_ns,
            prices.hidden_ns,
            prices.occupancy_ns,
            prices.latency_ns,
            prices.first_link,
            prices.links,
            prices.num_links,
            prices.processors,
            facts.contention(prices).direct,
            self.position,
            self.busy_ns,
            self.finished_ns,
            self.start_ns,
            self.sent_ns,
            self.arrived_ns,
        )

    def check_done(self, program: Program | None) -> None:
        """Raises Deadlock where a rank did not come to its end."""
        if (self.position < self.encoded.first[1:]).any():
            raise Deadlock(_who_waits(self.encoded, self.position, program))

    def spans(self) -> list[Span]:
        """The spans of a walk that kept them."""
        encoded, prices = self.encoded, self.prices
        assert encoded.action_of is not None
        took = np.append(prices.duration_ns, 0)[encoded.slot]  # NOTHING is the last.
        meets = encoded.op == Op.MEET
        longest = np.zeros(len(encoded.meeting_size), dtype=np.int64)
        np.maximum.at(longest, encoded.about[meets], took[meets])
        took[meets] = longest[encoded.about[meets]]
        shown = (encoded.slot != NOTHING) & ((took > 0) | np.isin(encoded.op, _ALWAYS))
        rank = rank_of_ops(encoded)
        beside = np.isin(encoded.op, (Op.BESIDE, Op.MEET))
        own = np.flatnonzero(shown)
        # A transfer has a span at either end: that of its SEND op and that of its RECEIVE op.
        ends = np.flatnonzero((encoded.op == Op.SEND) | (encoded.op == Op.RECEIVE))
        message = encoded.about[ends]
        arrived = self.arrived_ns[message] >= 0
        ends, message = ends[arrived], message[arrived]
        actions = [encoded.action_of(op) for op in own.tolist()]
        lanes = np.where(beside[own], _COLLECTIVE, _COMPUTE)
        transfers = [encoded.action_of(op) for op in ends.tolist()]
        ways = np.array([_FORWARD if _is_forward(a) else _BACKWARD for a in transfers], dtype=int)
        names = np.array(LANES, dtype=object)
        columns = (
            np.concatenate((rank[own], rank[ends])).tolist(),
            names[np.concatenate((lanes, ways))].tolist(),
            actions + transfers,
            np.concatenate((self.start_ns[own], self.sent_ns[message])).tolist(),
            np.concatenate((self.start_ns[own] + took[own], self.arrived_ns[message])).tolist(),
        )
        return list(map(partial(tuple.__new__, Span), zip(*columns, strict=True)))


def _is_forward(message: Action) -> bool:
    return message.kind is Kind.SEND_FORWARD or message.kind is Kind.RECV_FORWARD


def _who_waits(
    encoded: Encoded, position: NDArray[np.int64], program: Program | None
) -> list[Waiting]:
    """What each rank that stopped before its end waits for, as the SimPy engine tells it; nothing
    of a program encoded without its actions."""
    if encoded.action_of is None or encoded.step_of is None:
        return []
    waiting = []
    for stopped in position[position < encoded.first[1:]].tolist():
        action = encoded.action_of(stopped)
        rank, number = encoded.step_of(stopped)
        step = program.steps[rank][number] if program is not None else (action,)
        needs = action if encoded.op[stopped] == Op.MEET else partner(action)
        waiting.append(Waiting(rank=rank, step=step, needs=str(needs)))
    return waiting
