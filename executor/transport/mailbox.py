"""The mailbox: messages between processes of one host, through shared memory.

For each directed pair of ranks and channel there is a ring of slots. The sender copies the tensor
into a free slot and returns at once; a record of 40 bytes over a local stream socket tells the
receiver where it lies; the receiver copies it out in `wait` and acknowledges the slot the same
way. Without a free slot the send is queued and goes out during any later call of this transport,
so a full ring delays but never deadlocks.

The socket does three things besides. It orders memory on every processor: the slot is written
before the record is sent and read after it was received, and both calls take the lock of the
socket's queue in the kernel, a release and an acquire. It wakes the receiver, which first polls
without sleeping for `spin_us`, if there is a core for each rank, and then sleeps in poll(2). And it
tells at once when the peer's process has ended. Sockets and memory have no name in the file
system (Linux: abstract addresses and memfd), so nothing is left after a crash.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from executor.clocks import gather, host_id
from executor.transport.base import (
    PeerGone,
    PendingReceive,
    PendingSend,
    Post,
    TransportError,
    channel_of,
    check_receive,
    check_send,
    post_each,
    receive_timeout,
    send_timeout,
)
from executor.transport.channels import Inbox, MailboxReceive, MailboxSend, Outbox
from executor.transport.rings import MAX_SLOTS
from executor.transport.sockets import Connection, Record, RecordKind, listen, same_user
from sim.schedule.actions import Action

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

DEFAULT_SPIN_US = 100.0
_LONGEST_SLEEP_MS = 1000


class MailboxTransport:
    """Shared memory between the processes of one host; see the module."""

    def __init__(
        self,
        store: Store,
        rank: int,
        num_ranks: int,
        *,
        device: torch.device | None = None,
        debug: bool = False,
        num_slots: int = MAX_SLOTS,
        spin_us: float | None = None,
    ) -> None:
        """Meet the other ranks: all make their transports together, in the same order.

        num_slots: messages buffered in each channel, 1 to 64.
        spin_us: how long a wait polls before it sleeps, microseconds; None: 100 if the ranks have
        a core each, else 0.
        debug: check that each message is the one its receive names.

        Raises TransportError if the ranks are not all on one host.
        """
        if not 1 <= num_slots <= MAX_SLOTS:
            raise ValueError(f"num_slots is {num_slots}: it must be 1 to {MAX_SLOTS}")
        self._rank = rank
        self._device = device if device is not None else torch.device("cpu")
        self._debug = debug
        self._num_slots = num_slots
        self._outboxes: dict[tuple[int, int], Outbox] = {}
        self._inboxes: dict[tuple[int, int], Inbox] = {}
        self._outgoing: dict[int, Connection] = {}
        self._connections: dict[int, Connection] = {}
        self._ended_senders: set[int] = set()
        self._ended_receivers: set[int] = set()
        self._outstanding: dict[int, MailboxReceive] = {}
        self._closed = False
        self._poller = select.poll()
        self._listener, address = listen()
        self._listener_descriptor = self._listener.fileno()
        self._path = None if address.startswith("\0") else Path(address)
        self._poller.register(self._listener, select.POLLIN)
        try:
            self._addresses, cores = _meet(store, rank, num_ranks, address)
        except BaseException:
            self.close()
            raise
        if spin_us is None:
            spin_us = DEFAULT_SPIN_US if _enough_cores(cores) else 0.0
        self._spin_ns = round(spin_us * 1000)

    def post_receive(
        self, message: Action, source: int, shape: tuple[int, ...], dtype: torch.dtype
    ) -> PendingReceive:
        """See Transport."""
        check_receive(message)
        receive = MailboxReceive(self, message, source, tuple(shape), dtype)
        self._outstanding[id(receive)] = receive
        self._inbox(source, channel_of(message)).post(receive)
        return receive

    def send(self, message: Action, destination: int, tensor: Tensor) -> PendingSend:
        """See Transport. The tensor may be overwritten at once unless the ring was full."""
        check_send(message)
        pending = MailboxSend(self, message, destination, tensor.detach())
        outbox = self._outbox(destination, channel_of(message))
        if outbox.num_in_flight > 1:
            self._progress(0)  # Takes up acknowledgements, so that few slots stay warm in cache.
        outbox.queue.append(pending)
        outbox.push()
        return pending

    def batch(self, posts: Sequence[Post]) -> tuple[PendingReceive | PendingSend, ...]:
        """See Transport."""
        return post_each(self, posts)

    def flush(self, deadline_s: float) -> None:
        """See Transport."""
        for outbox in self._outboxes.values():
            while outbox.queue:
                self.drain(outbox.queue[-1], deadline_s)
        if self._outstanding:
            raise TransportError(f"at the end of an iteration: {self.describe()}")

    def describe(self) -> str:
        """See Transport."""
        lines = [
            f"{receive.message} from rank {receive.source}: "
            + ("arrived, not taken" if receive.record is not None else "not arrived")
            for receive in list(self._outstanding.values())
        ]
        lines += [
            f"{pending.message} to rank {pending.destination}: waits for a free slot"
            for outbox in list(self._outboxes.values())
            for pending in list(outbox.queue)
        ]
        return "; ".join(lines) if lines else "no messages outstanding"

    def close(self) -> None:
        """See Transport; messages already sent can still be received."""
        if self._closed:
            return
        self._closed = True
        for connection in self._connections.values():
            connection.close()
        self._listener.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self._outboxes.clear()
        self._inboxes.clear()

    # What pendings call.

    def look(self) -> None:
        """Take up what has come, without blocking."""
        self._progress(0)

    def take(self, receive: MailboxReceive, deadline_s: float) -> Tensor:
        """Wait for a receive's message and copy it out."""
        source, message = receive.source, receive.message
        if receive.record is None:
            self._until(
                lambda: receive.record is not None,
                lambda: source in self._ended_senders,
                deadline_s,
                lambda: receive_timeout(message, source, deadline_s),
                f"rank {source} has ended; {message} will not come",
            )
        receive.found_ns = time.monotonic_ns()
        tensor = self._inbox(source, channel_of(message)).copy_out(
            receive, self._device, check=self._debug
        )
        del self._outstanding[id(receive)]
        return tensor

    def drain(self, pending: MailboxSend, deadline_s: float) -> None:
        """Wait until a queued send has its slot."""
        destination, message = pending.destination, pending.message
        self._until(
            lambda: pending.sent_ns is not None,
            lambda: destination in self._ended_receivers,
            deadline_s,
            lambda: send_timeout(message, destination, deadline_s),
            f"rank {destination} has ended; {message} cannot be sent",
        )

    # Progress.

    def _until(
        self,
        reached: Callable[[], bool],
        gone: Callable[[], bool],
        deadline_s: float,
        late: Callable[[], TransportError],
        gone_text: str,
    ) -> None:
        """Make progress until `reached`, polling for a while, then sleeping in poll(2)."""
        began_ns = time.monotonic_ns()
        limit_ns = began_ns + round(deadline_s * 1e9)
        spin_until_ns = began_ns + self._spin_ns
        timeout_ms = 0
        while True:
            self._progress(timeout_ms)
            if reached():
                return
            if gone():
                raise PeerGone(gone_text)
            now_ns = time.monotonic_ns()
            if now_ns >= limit_ns:
                raise late()
            if now_ns >= spin_until_ns:
                timeout_ms = min(_LONGEST_SLEEP_MS, -(-(limit_ns - now_ns) // 1_000_000))

    def _progress(self, timeout_ms: int) -> None:
        """Take up records that have come, waiting up to `timeout_ms` for the first."""
        for descriptor, _ in self._poller.poll(timeout_ms):
            if descriptor == self._listener_descriptor:
                self._accept()
                continue
            connection = self._connections[descriptor]
            for record in connection.read():
                self._handle(connection, record)
            if connection.closed:
                self._poller.unregister(descriptor)
                if connection.peer is not None:
                    outgoing = self._outgoing.get(connection.peer) is connection
                    ended = self._ended_receivers if outgoing else self._ended_senders
                    ended.add(connection.peer)

    def _handle(self, connection: Connection, record: Record) -> None:
        if record.kind == RecordKind.HELLO:
            connection.peer = record.value
            return
        assert connection.peer is not None
        key = (connection.peer, record.channel)
        if record.kind == RecordKind.DATA:
            self._inbox(*key).arrive(record)
        elif record.kind == RecordKind.ACK:
            self._outboxes[key].acknowledge(record)
        elif record.kind == RecordKind.RING:
            self._inbox(*key).open_ring(connection, record)
        elif record.kind == RecordKind.HUNGRY:
            self._inbox(*key).hungry(record.channel)

    # Connections.

    def _inbox(self, source: int, channel: int) -> Inbox:
        inbox = self._inboxes.get((source, channel))
        if inbox is None:
            inbox = self._inboxes[source, channel] = Inbox()
        return inbox

    def _outbox(self, destination: int, channel: int) -> Outbox:
        outbox = self._outboxes.get((destination, channel))
        if outbox is None:
            connection = self._outgoing.get(destination) or self._connect(destination)
            outbox = Outbox(destination, channel, connection, num_slots=self._num_slots)
            self._outboxes[destination, channel] = outbox
        return outbox

    def _connect(self, destination: int) -> Connection:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            stream.connect(self._addresses[destination])
            connection = Connection(stream)
            connection.write(Record(RecordKind.HELLO, value=self._rank))
        except OSError as error:
            stream.close()
            raise PeerGone(f"rank {destination} cannot be reached: {error.strerror}") from error
        connection.peer = destination
        self._outgoing[destination] = connection
        self._watch(connection)
        return connection

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            stream, _ = self._listener.accept()
            if same_user(stream):
                self._watch(Connection(stream))
            else:
                stream.close()

    def _watch(self, connection: Connection) -> None:
        self._connections[connection.fileno()] = connection
        self._poller.register(connection.fileno(), select.POLLIN)


def _meet(
    store: Store, rank: int, num_ranks: int, address: str
) -> tuple[list[str], list[list[int] | None]]:
    """Every rank's address and cores (None if unknown)."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    card = json.dumps({"address": address, "host": host_id(), "cores": cores})
    # Counted in the store, so that every transport of a run has keys of its own.
    count = store.add(f"mailbox/made/{rank}", 1)
    texts = gather(store, f"mailbox/{count}", rank, num_ranks, card)
    cards = [json.loads(text) for text in texts]
    for other, found in enumerate(cards):
        if found["host"] != cards[rank]["host"]:
            raise TransportError(
                f"rank {other} is on another host than rank {rank}, and the mailbox is shared"
                " memory of one host: use gloo or nccl"
            )
    return [found["address"] for found in cards], [found["cores"] for found in cards]


def _enough_cores(cores: list[list[int] | None]) -> bool:
    """Whether the ranks' cores together are at least as many as the ranks."""
    known = {core for found in cores if found is not None for core in found}
    return len(cores) <= (len(known) if known else os.cpu_count() or 1)
