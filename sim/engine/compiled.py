"""The compiled engine: the SimPy engine's twin, equal to it span for span, on integer arrays.

`simulate` gives a timeline as the SimPy engine does. `evaluate` gives an iteration's figures
without spans, of a program encoded once under as many prices as are wanted.

Times are 64-bit integers. Where all a program's times together reach 2^62 ns (146 years) an
OverflowError is raised before anything can wrap; the SimPy engine has no such limit.
"""

from __future__ import annotations

from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from sim.cost.costs import Costs
from sim.engine.deadlock import Deadlock
from sim.engine.encoded import NOTHING, Encoded, Evaluation, Op, Prices
from sim.engine.encoding import encode, price
from sim.engine.kernels import UNKNOWN, uncontended, walk
from sim.schedule.actions import Action, Kind
from sim.schedule.checks import Waiting
from sim.schedule.lowering import Program, partner
from sim.timeline.spans import LANES, Span, Timeline

LONGEST_NS = 1 << 62
"""What all times of a program together stay below."""
_COMPUTE, _FORWARD, _BACKWARD, _COLLECTIVE = (
    LANES.index(lane) for lane in ("compute", "forward", "backward", "collective")
)
_ALWAYS = (Op.PASS, Op.BESIDE, Op.MEET)
_Direct = NDArray[np.bool_]
_known: WeakKeyDictionary[Encoded, dict[bytes, _Direct]] = WeakKeyDictionary()


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

    program: what was encoded, for whole steps in Deadlock's `waiting`.
    """
    run = _Walk(encoded, prices, with_spans=False)
    run.check_done(program)
    return Evaluation(
        iteration_ns=int(run.finished_ns.max(initial=0)),
        busy_ns=run.busy_ns,
        finished_ns=run.finished_ns,
    )


def direct_messages(encoded: Encoded, prices: Prices) -> _Direct:
    """(num_messages,): which are booked at once (see `kernels.uncontended`); found once for each
    program and way of its links."""
    found = _known.setdefault(encoded, {})
    takes_time = (prices.occupancy_ns > 0) | (prices.latency_ns > 0)
    key = b"".join(a.tobytes() for a in (prices.first_link, prices.links, takes_time))
    direct = found.get(key)
    if direct is None:
        direct = np.empty(encoded.num_messages, dtype=np.bool_)
        uncontended(
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
        found[key] = direct
    return direct


class _Walk:
    """One walk of the kernel, and what it left."""

    def __init__(self, encoded: Encoded, prices: Prices, *, with_spans: bool) -> None:
        self.encoded, self.prices = encoded, prices
        _check_range(encoded, prices)
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
            encoded.sender,
            encoded.receiver,
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
            direct_messages(encoded, prices),
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
        took = np.where(encoded.slot >= 0, prices.duration_ns[encoded.slot], 0)
        meets = encoded.op == Op.MEET
        longest = np.zeros(len(encoded.meeting_size), dtype=np.int64)
        np.maximum.at(longest, encoded.about[meets], took[meets])
        took[meets] = longest[encoded.about[meets]]
        shown = (encoded.slot != NOTHING) & ((took > 0) | np.isin(encoded.op, _ALWAYS))
        rank = np.repeat(np.arange(encoded.num_ranks), np.diff(encoded.first))
        beside = np.isin(encoded.op, (Op.BESIDE, Op.MEET))
        own = np.flatnonzero(shown)
        # A transfer has a span at either end: that of its SEND op and that of its RECEIVE op.
        ends = np.flatnonzero((encoded.op == Op.SEND) | (encoded.op == Op.RECEIVE))
        message = encoded.about[ends]
        arrived = self.arrived_ns[message] != UNKNOWN
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


def _check_range(encoded: Encoded, prices: Prices) -> None:
    """Raises OverflowError where the sum of all times, which bounds every one that the walk can
    come to, might not fit."""
    used = encoded.slot[encoded.slot >= 0]
    total = float(
        np.bincount(used, minlength=len(encoded.slots)) @ prices.duration_ns.astype(float)
    )
    messages = np.bincount(encoded.transfer_slot, minlength=len(encoded.transfer_slots))
    total += float(messages @ (prices.occupancy_ns.astype(float) + prices.latency_ns))
    if total >= LONGEST_NS * (1 - 1e-9):
        raise OverflowError(
            f"all times of the program together are {total:.4g} ns, and the compiled engine counts "
            f"to 2^62 ns (146 years): `--engine simpy` has no such limit"
        )


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
