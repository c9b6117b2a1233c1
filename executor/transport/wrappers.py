"""Transports around another one, for tests: delays, failures, and checks of what arrives."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from executor.transport.base import (
    PendingReceive,
    PendingSend,
    Post,
    ReceiveAround,
    Transport,
    TransportAround,
    TransportError,
    post_each,
)
from sim.schedule.actions import Action, Kind
from sim.schedule.lowering import partner

_KINDS = tuple(Kind)


class _HookedReceive(ReceiveAround):
    """A receive that runs a hook before it is waited for."""

    def __init__(self, inner: PendingReceive, hook: Callable[[Action], None]) -> None:
        super().__init__(inner)
        self._hook = hook

    def wait(self, deadline_s: float) -> Tensor:
        """The hook, then the message."""
        self._hook(self._inner.message)
        return self._inner.wait(deadline_s)


class _Wrapper(TransportAround):
    """Passes everything on, with a hook before each send and before each wait for a receive."""

    def _before(self, message: Action) -> None:
        raise NotImplementedError

    def post_receive(
        self, message: Action, source: int, shape: tuple[int, ...], dtype: torch.dtype
    ) -> PendingReceive:
        """See Transport."""
        return _HookedReceive(self._inner.post_receive(message, source, shape, dtype), self._before)

    def send(self, message: Action, destination: int, tensor: Tensor) -> PendingSend:
        """See Transport."""
        self._before(message)
        return self._inner.send(message, destination, tensor)

    def batch(self, posts: Sequence[Post]) -> tuple[PendingReceive | PendingSend, ...]:
        """See Transport; one after another, since each has its hook."""
        return post_each(self, posts)


class DelayingTransport(_Wrapper):
    """Delays every message at both ends by seeded random times, to shake out races."""

    def __init__(self, inner: Transport, *, seed: int, rank: int, longest_s: float = 0.002) -> None:
        """longest_s: delays are uniform from 0 to this, seconds. Ranks draw different ones."""
        super().__init__(inner)
        self._random = np.random.default_rng((seed, rank))
        self._longest_s = longest_s

    def _before(self, message: Action) -> None:
        time.sleep(self._random.uniform(0.0, self._longest_s))


class InjectedFailure(TransportError):
    """The failure that a FailingTransport was asked for."""


class FailingTransport(_Wrapper):
    """Fails at this rank's n-th message, counting sends and waits for receives from 0."""

    def __init__(
        self, inner: Transport, *, at_message: int, how: Literal["raise", "kill", "hang"] = "raise"
    ) -> None:
        """how: `raise` InjectedFailure, `kill` this process with SIGKILL, or `hang` for ever."""
        super().__init__(inner)
        self._left = at_message
        self._how = how

    def _before(self, message: Action) -> None:
        self._left -= 1
        if self._left >= 0:
            return
        if self._how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        while self._how == "hang":
            time.sleep(1.0)
        raise InjectedFailure(f"injected failure at {message}")


class _CheckedReceive(_HookedReceive):
    def __init__(self, inner: PendingReceive, label: PendingReceive) -> None:
        super().__init__(inner, lambda message: None)
        self._label = label

    def done(self) -> bool:
        return self._label.done() and self._inner.done()

    def wait(self, deadline_s: float) -> Tensor:
        numbers = [int(number) for number in self._label.wait(deadline_s).tolist()]
        sent = Action(_KINDS[numbers[0]], *numbers[1:])
        if sent != partner(self.message):
            raise TransportError(
                f"{self.message} from rank {self.source} got {sent}:"
                " the receiver's order is not the sender's"
            )
        return self._inner.wait(deadline_s)


class CheckingTransport(_Wrapper):
    """Sends a label (kind, stage, microbatch, slice, pipe) before every message over the same
    channel, and checks it where it is received; works over any carrier that sends messages."""

    def post_receive(
        self, message: Action, source: int, shape: tuple[int, ...], dtype: torch.dtype
    ) -> PendingReceive:
        """See Transport; `wait` raises TransportError if another message came."""
        label = self._inner.post_receive(message, source, (5,), torch.int64)
        return _CheckedReceive(self._inner.post_receive(message, source, shape, dtype), label)

    def send(self, message: Action, destination: int, tensor: Tensor) -> PendingSend:
        """See Transport."""
        kind, *rest = message
        label = torch.tensor([_KINDS.index(kind), *rest], dtype=torch.int64, device=tensor.device)
        self._inner.send(message, destination, label)
        return self._inner.send(message, destination, tensor)
