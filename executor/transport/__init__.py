"""How messages travel between ranks: one small interface, several carriers behind it.

`base` holds the interface, `factory.make_transport` chooses a carrier. Carriers: `mailbox` (shared
memory between processes of one host), `process_group` (gloo, NCCL), `null` (no messages: for
calibration), and `wrappers` (delays, failures and checks around another one: for tests).
"""

from executor.transport.base import (
    PeerGone,
    PendingReceive,
    PendingSend,
    Post,
    ReceivePost,
    SendPost,
    Transport,
    TransportError,
    TransportTimeout,
)
from executor.transport.factory import make_transport

__all__ = [
    "PeerGone",
    "PendingReceive",
    "PendingSend",
    "Post",
    "ReceivePost",
    "SendPost",
    "Transport",
    "TransportError",
    "TransportTimeout",
    "make_transport",
]
