"""The interface of a transport, and its errors.

A channel is a directed pair of ranks and a direction of traffic, forward (SEND_F, RECV_F) or
backward (SEND_B, RECV_B). Each channel is first in, first out, and receives are posted in the
sender's order; channels are independent of each other. Shapes are known on both sides, so there is
no handshake. Ranks are global ranks. A transport belongs to one thread of its process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sim.schedule.actions import RECEIVES, SENDS, Action, Kind
from sim.schedule.lowering import partner

FORWARD_CHANNEL = 0
BACKWARD_CHANNEL = 1
CHANNEL_NAMES = ("forward", "backward")

PEER_GONE_WORDS = ("closed by peer", "reset by peer", "Broken pipe", "pair closure")
"""What gloo's errors say when the other process has ended."""


class TransportError(RuntimeError):
    """A message could not be sent or received, or is not the one that was expected."""


class TransportTimeout(TransportError):
    """A message was waited for past its deadline."""


class PeerGone(TransportError):
    """The process at the other end ended with messages outstanding: a consequence, not a cause."""


def plainly(error: BaseException) -> str:
    """The first line of an error of torch.distributed's, without its general advice."""
    return str(error).partition("\n")[0].partition(" This is typically")[0]


class PendingReceive(Protocol):
    """A receive that was posted."""

    @property
    def message(self) -> Action:
        """The RECV action."""

    @property
    def source(self) -> int:
        """The sender's rank."""

    @property
    def sent_ns(self) -> int | None:
        """When the sender had written the message completely, on the common monotonic clock in
        nanoseconds; None before it is known, and always where the carrier does not tell."""

    @property
    def found_ns(self) -> int | None:
        """When `wait` saw the message, before it copied it out, in nanoseconds; None before, and
        always where the carrier does not tell."""

    @property
    def arrived_ns(self) -> int | None:
        """When this rank had the message in its tensor, in nanoseconds; None before `wait`.

        On CPU that is the end of `wait`, thus an upper bound if nobody waited when it came. On
        CUDA it is the device's time, to be read after the iteration.
        """

    def done(self) -> bool:
        """Whether `wait` would return at once; never blocks. (gloo cannot tell: False until
        `wait` returned.)"""

    def wait(self, deadline_s: float) -> Tensor:
        """The tensor, once it is there.

        Raises TransportTimeout after `deadline_s` seconds, PeerGone if the sender has ended.
        """


class ReceiveAround:
    """A receive around another one, which it passes on; see PendingReceive."""

    def __init__(self, inner: PendingReceive) -> None:
        self._inner = inner

    @property
    def message(self) -> Action:
        """See PendingReceive."""
        return self._inner.message

    @property
    def source(self) -> int:
        """See PendingReceive."""
        return self._inner.source

    @property
    def sent_ns(self) -> int | None:
        """See PendingReceive."""
        return self._inner.sent_ns

    @property
    def found_ns(self) -> int | None:
        """See PendingReceive."""
        return self._inner.found_ns

    @property
    def arrived_ns(self) -> int | None:
        """See PendingReceive."""
        return self._inner.arrived_ns

    def done(self) -> bool:
        """See PendingReceive."""
        return self._inner.done()

    def wait(self, deadline_s: float) -> Tensor:
        """See PendingReceive."""
        return self._inner.wait(deadline_s)


class PendingSend(Protocol):
    """A send that was posted; the carrier holds what it needs of the tensor until it is done."""

    @property
    def message(self) -> Action:
        """The SEND action."""

    @property
    def destination(self) -> int:
        """The receiver's rank."""

    @property
    def sent_ns(self) -> int | None:
        """When the message was written completely, in nanoseconds; None before, or if unknown."""

    def done(self) -> bool:
        """Whether the tensor may be overwritten; never blocks. (gloo cannot tell: False until
        `wait` returned.)"""

    def wait(self, deadline_s: float) -> None:
        """Return once the tensor may be overwritten.

        Raises TransportTimeout after `deadline_s` seconds, PeerGone if the receiver has ended.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivePost:
    """A receive to be posted in a batch; `message` is the RECV action."""

    message: Action
    source: int
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class SendPost:
    """A send to be posted in a batch; `message` is the SEND action."""

    message: Action
    destination: int
    tensor: Tensor


Post = ReceivePost | SendPost


class Transport(Protocol):
    """Posts receives and sends, and finishes iterations."""

    def post_receive(
        self, message: Action, source: int, shape: tuple[int, ...], dtype: torch.dtype
    ) -> PendingReceive:
        """Announce that a tensor of this shape will be received; does not block."""

    def send(self, message: Action, destination: int, tensor: Tensor) -> PendingSend:
        """Send a tensor; does not wait for the receiver."""

    def batch(self, posts: Sequence[Post]) -> tuple[PendingReceive | PendingSend, ...]:
        """Post several sends and receives at once; one pending for each, in the order given.

        What Megatron-LM does with batch_isend_irecv; carriers without such a call post the
        receives first, then the sends.
        """

    def flush(self, deadline_s: float) -> None:
        """End an iteration: return once all sends are done.

        Raises TransportTimeout after `deadline_s` seconds, and TransportError if a receive was
        posted and not waited for.
        """

    def describe(self) -> str:
        """The messages outstanding, in words, for a rank's last words; safe from any thread."""

    def close(self) -> None:
        """Release everything held; may be called twice."""


class TransportAround:
    """What a transport around another one passes on unchanged; see Transport."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner

    def flush(self, deadline_s: float) -> None:
        """See Transport."""
        self._inner.flush(deadline_s)

    def describe(self) -> str:
        """See Transport."""
        return self._inner.describe()

    def close(self) -> None:
        """See Transport."""
        self._inner.close()


def channel_of(message: Action) -> int:
    """The channel a message belongs to. Raises ValueError for an action that is no message."""
    if message.kind is Kind.SEND_FORWARD or message.kind is Kind.RECV_FORWARD:
        return FORWARD_CHANNEL
    if message.kind is Kind.SEND_BACKWARD or message.kind is Kind.RECV_BACKWARD:
        return BACKWARD_CHANNEL
    raise ValueError(f"{message} is not a message")


def as_send(message: Action) -> Action:
    """The SEND action of a message, given either end."""
    return message if message.kind in SENDS else partner(message)


def check_receive(message: Action) -> None:
    """Raise ValueError unless the action is a receive."""
    if message.kind not in RECEIVES:
        raise ValueError(f"{message} is not a receive: post its other end, {partner(message)}")


def check_send(message: Action) -> None:
    """Raise ValueError unless the action is a send."""
    if message.kind not in SENDS:
        raise ValueError(f"{message} is not a send")


def post_each(
    transport: Transport, posts: Sequence[Post]
) -> tuple[PendingReceive | PendingSend, ...]:
    """A batch for carriers that have none: the receives first, then the sends, each in order."""
    pendings: dict[int, PendingReceive | PendingSend] = {}
    for index, post in enumerate(posts):
        if isinstance(post, ReceivePost):
            pendings[index] = transport.post_receive(
                post.message, post.source, post.shape, post.dtype
            )
    for index, post in enumerate(posts):
        if isinstance(post, SendPost):
            pendings[index] = transport.send(post.message, post.destination, post.tensor)
    return tuple(pendings[index] for index in range(len(posts)))


def receive_timeout(message: Action, source: int, waited_s: float) -> TransportTimeout:
    """The error of a receive past its deadline."""
    return TransportTimeout(
        f"{message} from rank {source} ({CHANNEL_NAMES[channel_of(message)]} channel)"
        f" did not arrive within {waited_s:.3g} s"
    )


def send_timeout(message: Action, destination: int, waited_s: float) -> TransportTimeout:
    """The error of a send past its deadline."""
    return TransportTimeout(
        f"{message} to rank {destination} ({CHANNEL_NAMES[channel_of(message)]} channel)"
        f" was not taken within {waited_s:.3g} s"
    )
