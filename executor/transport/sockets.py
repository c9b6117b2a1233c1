"""Records between processes of one host, over local stream sockets; used by the mailbox."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
import uuid
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from sim.schedule.actions import Action, Kind


class RecordKind(IntEnum):
    """What a record says.

    HELLO: the first one of a connection; `value` is the sender's rank.
    RING: a new ring of `slot` slots of `value` bytes each; its file descriptor comes along.
    DATA: a message of `value` bytes lies in a slot.
    ACK: the receiver has copied out the slots whose bits are set in `value`.
    HUNGRY: the sender has no free slot and wants to be told of the next one at once.
    """

    HELLO = 0
    RING = 1
    DATA = 2
    ACK = 3
    HUNGRY = 4


class Record(NamedTuple):
    """One record of 40 bytes: a connection carries nothing else.

    `stage`, `microbatch`, `slice_index` and `pipe` name the SEND action of a DATA record.
    """

    kind: int
    channel: int = 0
    slot: int = 0
    generation: int = 0
    value: int = 0
    sent_ns: int = 0
    stage: int = 0
    microbatch: int = 0
    slice_index: int = 0
    pipe: int = 0


_LAYOUT = struct.Struct("<BBHIQqiiii")
_SEND_KINDS = (Kind.SEND_FORWARD, Kind.SEND_BACKWARD)


def action_of(record: Record) -> Action:
    """The SEND action that a DATA record names."""
    return Action(
        _SEND_KINDS[record.channel],
        record.stage,
        record.microbatch,
        record.slice_index,
        record.pipe,
    )


class Connection:
    """One end of a stream of records between two processes; file descriptors may come along."""

    def __init__(self, stream: socket.socket) -> None:
        stream.setblocking(False)
        self._stream = stream
        self._unread = b""
        self.file_descriptors: list[int] = []
        self.peer: int | None = None
        self.closed = False

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._stream.fileno()

    def write(self, record: Record, file_descriptor: int | None = None) -> None:
        """Send one record.

        Raises OSError if the other end is gone. The number of records under way is bounded by the
        slots, far below what a socket buffers, so this does not wait in practice.
        """
        data = _LAYOUT.pack(*record)
        if file_descriptor is not None:
            sent = socket.send_fds(self._stream, [data], [file_descriptor])
        else:
            try:
                sent = self._stream.send(data)
            except BlockingIOError:
                sent = 0
        if sent < len(data):
            self._stream.settimeout(10.0)
            try:
                self._stream.sendall(data[sent:])
            finally:
                self._stream.setblocking(False)

    def read(self) -> list[Record]:
        """The records that have come; sets `closed` at the end of the stream. Never blocks."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._stream, 4096, 4)
        except BlockingIOError:
            return []
        except OSError:
            self.closed = True
            return []
        self.file_descriptors += descriptors
        if not data:
            self.closed = True
            return []
        if self._unread:
            data = self._unread + data
        whole = len(data) - len(data) % _LAYOUT.size
        self._unread = data[whole:]
        return [Record._make(fields) for fields in _LAYOUT.iter_unpack(data[:whole])]

    def close(self) -> None:
        """Close this end; the other sees the end of the stream after what was sent."""
        self.closed = True
        self._stream.close()
        for descriptor in self.file_descriptors:
            os.close(descriptor)
        self.file_descriptors.clear()


def listen() -> tuple[socket.socket, str]:
    """A listening socket at a fresh address: an abstract one on Linux, elsewhere a file."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    name = f"pipetwin-{uuid.uuid4().hex}"
    if hasattr(os, "memfd_create"):
        address = f"\0{name}"
    else:
        address = str(Path(tempfile.gettempdir()) / name)
    listener.bind(address)
    listener.listen(1024)
    listener.setblocking(False)
    return listener, address


def same_user(stream: socket.socket) -> bool:
    """Whether the process at the other end belongs to this user (Linux; elsewhere the file
    system decides who may connect)."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    credentials = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1]) == os.geteuid()
