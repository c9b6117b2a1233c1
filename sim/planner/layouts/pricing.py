"""A layout's costs as the prices of an encoded program's slots."""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from sim.cost.costs import CostKey
from sim.engine.encoded import Encoded, Prices
from sim.planner.layouts.layout_costs import LayoutCosts
from sim.schedule.actions import Kind

_KINDS = (
    Kind.FORWARD,
    Kind.BACKWARD,
    Kind.SEND_FORWARD,
    Kind.RECV_FORWARD,
    Kind.SEND_BACKWARD,
    Kind.RECV_BACKWARD,
    Kind.EXCHANGE,
    Kind.REDUCE_GRADIENTS,
    Kind.GATHER_WEIGHTS,
    Kind.OPTIMIZER,
    Kind.REDUCE_TIED,
    Kind.GRADIENT_NORM,
)
_NUMBER = {kind: number for number, kind in enumerate(_KINDS)}
_REDUCE = _NUMBER[Kind.REDUCE_GRADIENTS]


class _Where(NamedTuple):
    """Of each slot, and of each transfer slot, its place in a table by kind, stage and slice, and
    by way, rank and slice; `message` is a transfer slot's way and rank alone."""

    slot: NDArray[np.int64]
    hidden: NDArray[np.int64]
    transfer: NDArray[np.int64]
    message: NDArray[np.int64]


_known: WeakKeyDictionary[Encoded, _Where] = WeakKeyDictionary()


def priced(encoded: Encoded, costs: LayoutCosts) -> Prices:
    """What the slots of a layout's program cost: as `sim.engine.encoding.price` of its cost table.

    encoded: of the layout's shape.
    """
    cut, passes, messages = costs.cut, costs.passes, costs.messages
    stages, ranks = costs.stages.by_stage_ns, costs.ranks
    content, num_ranks = cut.content, len(cut.kind_of)
    num_slices = passes.forward_ns.shape[1]
    where = _known.get(encoded)
    if where is None:
        where = _known[encoded] = _where(encoded, num_ranks, len(content), num_slices)
    times = np.zeros((len(_KINDS), len(content), num_slices), np.int64)
    times[0], times[1] = passes.forward_ns[content], passes.backward_ns[content]
    times[2], times[4] = messages.post_ns, messages.post_ns
    times[3], times[5] = messages.unpack_ns, messages.unpack_ns
    times[6] = costs.exchange_ns
    times[7, :, 0], times[8, :, 0] = stages[0], stages[2]
    times[9, :num_ranks, 0] = ranks.optimizer_ns
    times[10], times[11] = ranks.tied_ns, ranks.norm_ns
    duration = times.ravel()[where.slot]
    hidden = np.zeros(len(duration), np.int64)
    reduces = where.hidden >= 0
    hidden[reduces] = stages[1, where.hidden[reduces]]
    held, message = messages.links, where.message
    first = held.first
    count = first[message + 1] - first[message]
    first_link = np.zeros(len(message) + 1, np.int64)
    np.cumsum(count, out=first_link[1:])
    taken = np.repeat(first[message] - first_link[:-1], count) + np.arange(first_link[-1])
    return Prices(
        duration_ns=duration,
        hidden_ns=hidden,
        occupancy_ns=messages.occupancy_ns.ravel()[where.transfer],
        latency_ns=messages.latency_ns.ravel()[message],
        first_link=first_link,
        links=held.links[taken],
        num_links=held.num_links,
        processors=np.zeros(0, np.int32),
    )


def _where(encoded: Encoded, num_ranks: int, num_stages: int, num_slices: int) -> _Where:
    slots = [(_NUMBER[s.kind], s.stage, s.slice_index) for s in map(_keyed, encoded.slots)]
    sends = [
        (int(s.kind is Kind.SEND_BACKWARD), s.stage % num_ranks, s.slice_index)
        for s in map(_keyed, encoded.transfer_slots)
    ]
    kind, stage, index = np.array(slots, np.int64).reshape(-1, 3).T
    way, rank, piece = np.array(sends, np.int64).reshape(-1, 3).T
    message = way * num_ranks + rank
    return _Where(
        slot=(kind * num_stages + stage) * num_slices + index,
        hidden=np.where(kind == _REDUCE, stage, -1),
        transfer=message * num_slices + piece,
        message=message,
    )


def _keyed(slot: object) -> CostKey:
    assert isinstance(slot, CostKey), "a shape's slots are keys"
    return slot
