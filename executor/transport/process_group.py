"""Messages through torch.distributed's send and receive: gloo and NCCL.

Forward and backward traffic have a process group each, so neither waits behind the other. On NCCL
each of the two is again divided by direction (to a higher or to a lower rank), because the sends
and receives of a pair within one group share a stream and block each other if the two ranks issue
them in different orders; NCCL makes communicators only for groups that are used.

gloo messages carry the SEND action as their tag: a receiver whose order is not the sender's gets
its own message all the same, or a timeout, never another one's tensor. CUDA tensors travel over
gloo through pinned host memory, which synchronises with the device: for correctness, not speed.

What gloo cannot tell: whether a message has come before somebody waits for it. A wait that times
out on gloo closes its connections, so the run cannot go on after it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from executor.clocks import DeviceClock
from executor.transport.base import (
    PEER_GONE_WORDS,
    PeerGone,
    PendingReceive,
    PendingSend,
    Post,
    ReceivePost,
    SendPost,
    TransportError,
    as_send,
    channel_of,
    check_receive,
    check_send,
    plainly,
    post_each,
    receive_timeout,
    send_timeout,
)
from sim.schedule.actions import Action

_POLL_S = 0.0002


class GroupReceive:
    """A posted receive; see PendingReceive."""

    def __init__(
        self,
        transport: ProcessGroupTransport,
        message: Action,
        source: int,
        tensor: Tensor,
        target: Tensor,
        work: Any,
    ) -> None:
        self.message = message
        self.source = source
        self.sent_ns: int | None = None
        self._transport = transport
        self._tensor = tensor
        self._target = target
        self._work = work
        self._waited = False
        self._arrived_ns: int | None = None
        self._event: torch.cuda.Event | None = None

    @property
    def found_ns(self) -> int | None:
        """Unknown: waiting and copying are one."""
        return None

    @property
    def arrived_ns(self) -> int | None:
        """When the message was there: on CPU, the end of `wait`; on CUDA the device's time, None
        until it has happened."""
        if self._arrived_ns is None and self._event is not None and self._event.query():  # type: ignore[no-untyped-call]
            self._arrived_ns = self._transport.device_time_ns(self._event)
        return self._arrived_ns

    def done(self) -> bool:
        """Whether `wait` would return at once (gloo: whether it has returned)."""
        return self._waited or bool(self._work.is_completed())

    def wait(self, deadline_s: float) -> Tensor:
        """The tensor; on CUDA the current stream waits, and the host goes on."""
        if self._waited:
            return self._target
        if self._transport.on_stream:
            self._event = self._transport.record_end(self._work)
            self._work.wait()
        else:
            began_ns = time.monotonic_ns()
            try:
                self._work.wait(_limit(deadline_s))
            except RuntimeError as error:
                late = receive_timeout(self.message, self.source, deadline_s)
                gone = f"rank {self.source} has ended; {self.message} will not come"
                raise _explain(error, began_ns, deadline_s, late, gone) from error
            if self._target is not self._tensor:
                self._target.copy_(self._tensor)
            self._arrived_ns = time.monotonic_ns()
        self._waited = True
        self._transport.forget(self)
        return self._target


class GroupSend:
    """A send; see PendingSend. It keeps its tensor until it is done."""

    def __init__(
        self,
        transport: ProcessGroupTransport,
        message: Action,
        destination: int,
        tensor: Tensor,
        work: Any,
    ) -> None:
        self.message = message
        self.destination = destination
        self.sent_ns: int | None = None
        self._transport = transport
        self._tensor: Tensor | None = tensor
        self._work = work

    def done(self) -> bool:
        """Whether the tensor may be overwritten (gloo: whether `wait` has returned)."""
        return self._tensor is None or bool(self._work.is_completed())

    def wait(self, deadline_s: float) -> None:
        """Return once the tensor may be overwritten."""
        if self._tensor is None:
            return
        began_ns = time.monotonic_ns()
        late = send_timeout(self.message, self.destination, deadline_s)
        if self._transport.on_stream:
            while not self._work.is_completed():
                if time.monotonic_ns() - began_ns > deadline_s * 1e9:
                    raise late
                time.sleep(_POLL_S)
        else:
            try:
                self._work.wait(_limit(deadline_s))
            except RuntimeError as error:
                gone = f"rank {self.destination} has ended; {self.message} cannot be sent"
                raise _explain(error, began_ns, deadline_s, late, gone) from error
            # On gloo only the end of the wait is known, and the message may have left before it.
        self._tensor = None
        self._transport.forget(self)


_Pending = TypeVar("_Pending", GroupReceive, GroupSend)


class ProcessGroupTransport:
    """gloo or NCCL; see the module."""

    def __init__(
        self,
        backend: Literal["gloo", "nccl"],
        *,
        device: torch.device,
        deadline_s: float,
        pairs: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Make the process groups; all ranks of the default group call it together.

        pairs: the ranks that will exchange messages, either way; NCCL connects them here.

        Raises TransportError if torch was built without the backend.
        """
        if backend == "nccl" and (device.type != "cuda" or not dist.is_nccl_available()):
            raise TransportError("nccl needs a CUDA device and a torch built with it: use gloo")
        self.on_stream = backend == "nccl"
        """Whether messages run on the device's streams, beside the host."""
        self._rank = dist.get_rank()
        self._device = device
        self._staged = backend == "gloo" and device.type == "cuda"
        self._outstanding: dict[int, GroupReceive | GroupSend] = {}
        self._clock = DeviceClock(device) if self.on_stream else None
        self._side_stream: torch.cuda.Stream | None = None
        if self.on_stream:
            self._side_stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        timeout = timedelta(seconds=deadline_s)
        count = 4 if self.on_stream else 2
        self._groups: list[dist.ProcessGroup] = [
            dist.new_group(backend=backend, timeout=timeout) for _ in range(count)
        ]
        if self.on_stream:
            self._connect(pairs)

    def post_receive(
        self, message: Action, source: int, shape: tuple[int, ...], dtype: torch.dtype
    ) -> PendingReceive:
        """See Transport."""
        check_receive(message)
        tensor, target = self._buffers(tuple(shape), dtype)
        group = self._group(message, source, self._rank)
        work = dist.irecv(tensor, source, group=group, tag=_tag(message))
        return self._keep(GroupReceive(self, message, source, tensor, target, work))

    def send(self, message: Action, destination: int, tensor: Tensor) -> PendingSend:
        """See Transport. The tensor must not be written to before the send is done."""
        check_send(message)
        payload = self._payload(tensor)
        group = self._group(message, self._rank, destination)
        work = dist.isend(payload, destination, group=group, tag=_tag(message))
        return self._keep(GroupSend(self, message, destination, payload, work))

    def batch(self, posts: Sequence[Post]) -> tuple[PendingReceive | PendingSend, ...]:
        """See Transport; on NCCL one batch_isend_irecv for each channel, forward first."""
        if not self.on_stream:
            return post_each(self, posts)
        pendings: dict[int, PendingReceive | PendingSend] = {}
        for channel in (0, 1):
            chosen = [n for n, post in enumerate(posts) if channel_of(post.message) == channel]
            if chosen:
                found = self._batch_on(self._groups[channel], [posts[n] for n in chosen])
                pendings.update(zip(chosen, found, strict=True))
        return tuple(pendings[n] for n in range(len(posts)))

    def flush(self, deadline_s: float) -> None:
        """See Transport. On CUDA it waits for the device, and anchors its clock anew."""
        for pending in list(self._outstanding.values()):
            if isinstance(pending, GroupSend):
                pending.wait(deadline_s)
        if self._outstanding:
            raise TransportError(f"at the end of an iteration: {self.describe()}")
        if self.on_stream:
            self._clock = DeviceClock(self._device)

    def describe(self) -> str:
        """See Transport."""
        pendings = list(self._outstanding.values())
        lines = [
            f"{pending.message} from rank {pending.source}: not waited for or not arrived"
            for pending in pendings
            if isinstance(pending, GroupReceive)
        ]
        sends = [pending for pending in pendings if isinstance(pending, GroupSend)]
        if sends:
            last = f"{sends[-1].message} to rank {sends[-1].destination}"
            lines.append(f"{len(sends)} sends not known to be done, the last {last}")
        return "; ".join(lines) if lines else "no messages outstanding"

    def close(self) -> None:
        """See Transport; all ranks call it together."""
        for group in self._groups:
            dist.destroy_process_group(group)
        self._groups = []
        self._outstanding.clear()

    # What pendings call.

    def forget(self, pending: GroupReceive | GroupSend) -> None:
        """A pending is done."""
        self._outstanding.pop(id(pending), None)

    def record_end(self, work: Any) -> torch.cuda.Event:
        """An event when a message has come, recorded beside the compute stream."""
        assert self._side_stream is not None
        event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._side_stream):
            work.wait()
            event.record(self._side_stream)
        return event

    def device_time_ns(self, event: torch.cuda.Event) -> int:
        """An event's time on the monotonic clock."""
        assert self._clock is not None
        return self._clock.time_ns(event)

    # Parts.

    def _connect(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Exchange one number between each pair on each group, in one order that all ranks share.

        NCCL makes a pair's communicator inside its first send or receive, and the host blocks until
        the peer has made the same call on the same group: left to a schedule's own order, two ranks
        that begin on different groups would wait for each other for ever.
        """
        number = torch.zeros(1, device=self._device)
        for group in self._groups:
            for low, high in sorted({(min(pair), max(pair)) for pair in pairs}):
                if self._rank == low:
                    dist.send(number, high, group=group)
                elif self._rank == high:
                    dist.recv(number, low, group=group)
        torch.cuda.synchronize(self._device)

    def _keep(self, pending: _Pending) -> _Pending:
        self._outstanding[id(pending)] = pending
        return pending

    def _group(self, message: Action, source: int, destination: int) -> dist.ProcessGroup:
        channel = channel_of(message)
        if self.on_stream and source > destination:
            channel += 2
        return self._groups[channel]

    def _buffers(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The tensor to receive into, and the one to hand out."""
        target = torch.empty(shape, dtype=dtype, device=self._device)
        if not self._staged:
            return target, target
        return torch.empty(shape, dtype=dtype, pin_memory=True), target

    def _payload(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach().contiguous()
        if not self._staged:
            return tensor
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor)

    def _batch_on(
        self, group: dist.ProcessGroup, posts: list[Post]
    ) -> list[PendingReceive | PendingSend]:
        operations = []
        buffers: list[Tensor] = []
        for post in posts:
            if isinstance(post, ReceivePost):
                check_receive(post.message)
                buffers.append(self._buffers(post.shape, post.dtype)[0])
                operations.append(dist.P2POp(dist.irecv, buffers[-1], post.source, group))
            else:
                check_send(post.message)
                buffers.append(self._payload(post.tensor))
                operations.append(dist.P2POp(dist.isend, buffers[-1], post.destination, group))
        works: list[Any] = dist.batch_isend_irecv(operations)
        if len(works) != len(posts):  # NCCL: one for all.
            works = [works[-1]] * len(posts)
        pendings: list[PendingReceive | PendingSend] = []
        for post, tensor, work in zip(posts, buffers, works, strict=True):
            if isinstance(post, SendPost):
                sent = GroupSend(self, post.message, post.destination, tensor, work)
                pendings.append(self._keep(sent))
            else:
                receive = GroupReceive(self, post.message, post.source, tensor, tensor, work)
                pendings.append(self._keep(receive))
        return pendings


def _tag(message: Action) -> int:
    """A positive 31-bit number that tells messages apart; equal ones are matched in order."""
    _, stage, microbatch, slice_index, pipe = as_send(message)
    assert microbatch is not None
    mixed = (stage * 8 + pipe) * 1_000_003 + microbatch * 1_009 + slice_index
    return mixed % 2_147_483_629 + 1


def _limit(deadline_s: float) -> timedelta:
    """torch reads zero as no limit."""
    return timedelta(seconds=max(deadline_s, 0.001))


def _explain(
    error: RuntimeError, began_ns: int, deadline_s: float, late: TransportError, gone: str
) -> TransportError:
    """gloo raises RuntimeError for all that goes wrong: what it is, by its time and words."""
    text = plainly(error)
    if any(words in text for words in PEER_GONE_WORDS):
        return PeerGone(f"{gone} ({text})")
    if (time.monotonic_ns() - began_ns) * 1e-9 >= deadline_s * 0.99:
        return late
    return TransportError(text)
