"""Encoded programs straight from their shapes, without a schedule, a program or an action."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from sys import getsizeof

import numpy as np

from sim.cost.costs import CostKey
from sim.engine.encoded import NOTHING, Encoded
from sim.schedule.actions import Kind
from sim.schedule.lowering import RECEIVE_WINDOW, Flush
from sim.schedule.shape import Shape as Shape
from sim.schedule.shape import shape_of as shape_of

_MODES = {"overlapped": 0, "blocking": 1, "exchange": 2, "serial": 3}
"""By their number in `sim.engine.shape_kernels`, as below."""
_KINDS = (
    Kind.FORWARD,
    Kind.BACKWARD,
    Kind.SEND_FORWARD,
    Kind.RECV_FORWARD,
    Kind.SEND_BACKWARD,
    Kind.RECV_BACKWARD,
    Kind.EXCHANGE,
    Kind.REDUCE_GRADIENTS,
    Kind.REDUCE_TIED,
    Kind.GRADIENT_NORM,
    Kind.OPTIMIZER,
    Kind.GATHER_WEIGHTS,
)
MAX_KEPT_BYTES = 128 << 20
"""Of encoded programs, in each process: 13 of 64 ranks and 1,536 microbatches."""


class KeptShapes:
    """Encoded programs of the shapes used last, as many as fit in a number of bytes."""

    def __init__(self, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.found: OrderedDict[Shape, Encoded] = OrderedDict()

    def encoded(self, shape: Shape) -> Encoded:
        """The program of a shape; one larger than all that may be kept is made every time."""
        found = self.found.get(shape)
        if found is not None:
            self.found.move_to_end(shape)
            return found
        made = _encode(shape)
        size = encoded_bytes(made)
        if size <= self.max_bytes:
            self.found[shape] = made
            self.num_bytes += size
        while self.num_bytes > self.max_bytes:
            _, oldest = self.found.popitem(last=False)
            self.num_bytes -= encoded_bytes(oldest)
        return made


_kept = KeptShapes(max_bytes=MAX_KEPT_BYTES)


def encoded_shape(shape: Shape) -> Encoded:
    """The ops of a shape's program: `encode(lower(schedule, mode, flush))` array for array.

    Not to be written to: those used last are kept, up to MAX_KEPT_BYTES. No op knows its action.
    """
    return _kept.encoded(shape)


def encoded_bytes(encoded: Encoded) -> int:
    """Bytes of an encoded program: its arrays and the keys of its slots."""
    arrays = (encoded.first, encoded.op, encoded.slot, encoded.about, encoded.meeting_size)
    ends = (encoded.sender, encoded.receiver, encoded.transfer_slot)
    keys = encoded.slots + encoded.transfer_slots
    return sum(array.nbytes for array in arrays + ends) + sum(map(getsizeof, keys))


def _encode(shape: Shape) -> Encoded:
    from sim.engine import shape_kernels as kernels  # Here, for a compiler takes a while to import.

    ranks, stages, slices = shape.num_ranks, shape.num_stages, shape.num_slices
    each = shape.num_microbatches * slices
    neighbours = 2 * (stages - 1) if ranks > 1 else 0
    num_messages = neighbours * each
    firsts = (np.zeros(stages, np.int32), np.zeros(stages, np.int32))
    sender, receiver, transfer_slot = (np.empty(num_messages, np.int32) for _ in range(3))
    transfers = np.empty((neighbours * slices, 3), np.int32)
    sizes = (ranks, stages, slices)
    kernels.number_messages(
        sizes, shape.num_microbatches, firsts, sender, receiver, transfer_slot, transfers
    )
    # Room for the passes, the reductions beside them and the flush; of each message SEND, RECEIVE
    # and AWAIT, or these with AWAIT_SENT and an exchange at either end.
    most = 2 * ranks * shape.num_passes + 2 * stages
    most += (3 if shape.mode == "overlapped" else 6) * num_messages + 2 * (3 * ranks + 2 * stages)
    op, slot, about = np.empty(most, np.int8), np.empty(most, np.int32), np.empty(most, np.int32)
    first = np.zeros(ranks + 1, np.int64)
    meetings = np.full((3 + 2 * stages, 2), NOTHING, np.int32)
    meetings[-1, 0] = 0
    kernels.lower_orders(
        shape.orders(),
        sizes,
        firsts,
        _MODES[shape.mode],
        RECEIVE_WINDOW,
        _flush_numbers(shape.flush),
        op,
        slot,
        about,
        first,
        meetings,
    )
    num_ops = int(first[-1])
    for array in (op, slot, about):
        array.resize(num_ops, refcheck=False)  # Cut in place: a copy takes as long as all the rest.
    numbers = np.full(len(_KINDS) * stages * slices, NOTHING, np.int32)
    keys = np.empty(len(numbers), np.int32)
    num_slots = kernels.number_slots(slot, numbers, keys)
    kind_and_stage, slice_index = np.divmod(keys[:num_slots], slices)
    slot_of = np.stack((*np.divmod(kind_and_stage, stages), slice_index), axis=1)
    return Encoded(
        first=first,
        op=op,
        slot=slot,
        about=about,
        sender=sender,
        receiver=receiver,
        transfer_slot=transfer_slot,
        meeting_size=meetings[: int(meetings[-1, 0]), 1].copy(),
        slots=_keys(slot_of.tolist()),
        transfer_slots=_keys(transfers.tolist()),
    )


def _flush_numbers(flush: Flush) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    reduce = (2 if flush.overlapped else 1) if flush.reduce_gradients else 0
    rest = (flush.reduce_tied, flush.norm, flush.optimizer, flush.gather_weights)
    return np.array([reduce, *rest], np.int32)


def _keys(listed: Sequence[Sequence[int]]) -> tuple[CostKey, ...]:
    return tuple(CostKey(_KINDS[kind], stage, index) for kind, stage, index in listed)
