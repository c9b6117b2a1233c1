"""The two ends of a mailbox channel: where sends queue for slots, and where receives find them."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import deque
from typing import Protocol

import torch
from torch import Tensor

from executor.transport.base import PeerGone, TransportError
from executor.transport.rings import Ring, create_memory
from executor.transport.sockets import Connection, Record, RecordKind, action_of
from sim.schedule.actions import Action
from sim.schedule.lowering import partner

_SMALLEST_SLOT_BYTES = 4096
_ACKNOWLEDGE_AT_ONCE_BYTES = 32768
_ACKNOWLEDGE_EVERY = 8


class Waiter(Protocol):
    """What pendings ask of their mailbox."""

    def look(self) -> None:
        """Take up what has come, without blocking."""

    def take(self, receive: MailboxReceive, deadline_s: float) -> Tensor:
        """Wait for a receive's message and copy it out."""

    def drain(self, pending: MailboxSend, deadline_s: float) -> None:
        """Wait until a queued send has its slot."""


class MailboxReceive:
    """A posted receive; see PendingReceive."""

    __slots__ = (
        "_mailbox",
        "_tensor",
        "arrived_ns",
        "dtype",
        "found_ns",
        "message",
        "record",
        "shape",
        "source",
    )

    def __init__(
        self,
        mailbox: Waiter,
        message: Action,
        source: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
    ) -> None:
        self._mailbox = mailbox
        self._tensor: Tensor | None = None
        self.message = message
        self.source = source
        self.shape = shape
        self.dtype = dtype
        self.record: Record | None = None
        self.found_ns: int | None = None
        self.arrived_ns: int | None = None

    @property
    def sent_ns(self) -> int | None:
        """When the sender had copied the message into its slot."""
        return None if self.record is None else self.record.sent_ns

    def done(self) -> bool:
        """Whether the message lies ready."""
        if self.record is None:
            self._mailbox.look()
        return self.record is not None

    def wait(self, deadline_s: float) -> Tensor:
        """Copy the message out, once it is there."""
        if self._tensor is None:
            self._tensor = self._mailbox.take(self, deadline_s)
            self.arrived_ns = time.monotonic_ns()
        return self._tensor


class MailboxSend:
    """A send, done or queued; see PendingSend."""

    __slots__ = ("_mailbox", "destination", "message", "sent_ns", "tensor")

    def __init__(self, mailbox: Waiter, message: Action, destination: int, tensor: Tensor) -> None:
        self._mailbox = mailbox
        self.message = message
        self.destination = destination
        self.tensor: Tensor | None = tensor
        self.sent_ns: int | None = None

    def done(self) -> bool:
        """Whether the tensor has been copied into a slot."""
        if self.sent_ns is None:
            self._mailbox.look()
        return self.sent_ns is not None

    def wait(self, deadline_s: float) -> None:
        """Return once the tensor has been copied into a slot."""
        if self.sent_ns is None:
            self._mailbox.drain(self, deadline_s)


class Outbox:
    """The sending end: a ring, its free slots, and the sends that wait for one."""

    def __init__(
        self, destination: int, channel: int, connection: Connection, *, num_slots: int
    ) -> None:
        self.queue: deque[MailboxSend] = deque()
        self._destination = destination
        self._channel = channel
        self._connection = connection
        self._num_slots = num_slots
        self._ring: Ring | None = None
        self._generation = 0
        self._free: list[int] = []
        self._asked = False

    @property
    def num_in_flight(self) -> int:
        """Slots that the receiver has not acknowledged, of the present ring."""
        return 0 if self._ring is None else self._num_slots - len(self._free)

    def push(self) -> None:
        """Copy queued tensors into free slots, as long as there are any.

        Raises PeerGone if the receiver has ended.
        """
        try:
            while self.queue and self._send_first():
                self.queue.popleft()
        except OSError as error:
            raise PeerGone(
                f"rank {self._destination} has ended; {self.queue[0].message} cannot be sent"
            ) from error

    def acknowledge(self, record: Record) -> None:
        """The receiver has copied slots out."""
        if record.generation == self._generation:
            self._free += [n for n in range(self._num_slots) if record.value >> n & 1]
            self._asked = False
            self.push()

    def _send_first(self) -> bool:
        """Send the first in the queue; False without a free slot."""
        pending = self.queue[0]
        tensor = pending.tensor
        assert tensor is not None
        num_bytes = tensor.numel() * tensor.element_size()
        ring = self._ring
        if ring is None or num_bytes > ring.slot_bytes:
            ring = self._new_ring(num_bytes)
        if not self._free:
            if not self._asked:
                self._connection.write(Record(RecordKind.HUNGRY, self._channel))
                self._asked = True
            return False
        slot = self._free.pop()
        if num_bytes:
            ring.view(slot, tuple(tensor.shape), tensor.dtype).copy_(tensor)
        sent_ns = time.monotonic_ns()
        _, stage, microbatch, slice_index, pipe = pending.message
        assert microbatch is not None
        where = (self._channel, slot, self._generation, num_bytes, sent_ns)
        self._connection.write(
            Record(RecordKind.DATA, *where, stage, microbatch, slice_index, pipe)
        )
        pending.sent_ns = sent_ns
        pending.tensor = None
        return True

    def _new_ring(self, num_bytes: int) -> Ring:
        """The first ring, or a larger one; sizes are powers of two, so there are few."""
        slot_bytes = _SMALLEST_SLOT_BYTES
        while slot_bytes < num_bytes:
            slot_bytes *= 2
        descriptor = create_memory(slot_bytes * self._num_slots)
        try:
            ring = Ring(descriptor, slot_bytes=slot_bytes, num_slots=self._num_slots)
            record = Record(
                RecordKind.RING, self._channel, self._num_slots, self._generation + 1, slot_bytes
            )
            self._connection.write(record, descriptor)
        finally:
            os.close(descriptor)
        self._ring = ring
        self._generation += 1
        self._free = list(reversed(range(self._num_slots)))
        self._asked = False
        return ring


class Inbox:
    """The receiving end: rings, posted receives without a message, messages without a receive."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._rings: dict[int, Ring] = {}
        self._generation = 0
        self._posted: deque[MailboxReceive] = deque()
        self._arrived: deque[Record] = deque()
        self._consumed = 0
        self._hungry = False

    def post(self, receive: MailboxReceive) -> None:
        """Add a receive; the first message without one is its own."""
        if self._arrived:
            receive.record = self._arrived.popleft()
        else:
            self._posted.append(receive)

    def arrive(self, record: Record) -> None:
        """Add a message; the first receive without one gets it."""
        if self._posted:
            self._posted.popleft().record = record
        else:
            self._arrived.append(record)

    def open_ring(self, connection: Connection, record: Record) -> None:
        """Map the ring that the sender has made."""
        descriptor = connection.file_descriptors.pop(0)
        try:
            ring = Ring(descriptor, slot_bytes=record.value, num_slots=record.slot)
        finally:
            os.close(descriptor)
        self._connection = connection
        self._rings[record.generation] = ring
        self._generation, self._consumed, self._hungry = record.generation, 0, False

    def hungry(self, channel: int) -> None:
        """The sender has no free slot."""
        self._hungry = True
        if self._consumed:
            self._acknowledge(channel)

    def copy_out(self, receive: MailboxReceive, device: torch.device, *, check: bool) -> Tensor:
        """A receive's tensor from its slot, which is free afterwards.

        Raises TransportError if the message has another size, or (`check`) is another one.
        """
        record = receive.record
        assert record is not None
        sent = action_of(record)
        if check and partner(receive.message) != sent:
            raise TransportError(
                f"{receive.message} from rank {receive.source} got {sent}:"
                " the receiver's order is not the sender's"
            )
        expected = math.prod(receive.shape) * receive.dtype.itemsize
        if record.value != expected:
            raise TransportError(
                f"{receive.message} from rank {receive.source} expects {expected} bytes"
                f" ({list(receive.shape)}, {receive.dtype}), and {sent} has {record.value}"
            )
        tensor = torch.empty(receive.shape, dtype=receive.dtype, device=device)
        if expected:
            ring = self._rings[record.generation]
            tensor.copy_(ring.view(record.slot, receive.shape, receive.dtype))
        self._free_slot(record)
        return tensor

    def _free_slot(self, record: Record) -> None:
        """Note a slot as free, and tell the sender; for small slots only every few messages."""
        if record.generation != self._generation:
            return  # Of a ring that a larger one has replaced.
        self._consumed |= 1 << record.slot
        ring = self._rings[record.generation]
        every = min(_ACKNOWLEDGE_EVERY, max(1, ring.num_slots // 2))
        large = ring.slot_bytes >= _ACKNOWLEDGE_AT_ONCE_BYTES
        if self._hungry or large or self._consumed.bit_count() >= every:
            self._acknowledge(record.channel)

    def _acknowledge(self, channel: int) -> None:
        assert self._connection is not None
        record = Record(RecordKind.ACK, channel, generation=self._generation, value=self._consumed)
        self._consumed, self._hungry = 0, False
        with contextlib.suppress(OSError):  # The sender may have finished and gone.
            self._connection.write(record)
