"""The null transport: the same calls in the same order, and no messages; for calibration.

With it every rank runs its passes without ever waiting, all ranks busy, so durations are those of
a real run without the waiting.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from executor.transport.base import (
    PendingReceive,
    PendingSend,
    Post,
    check_receive,
    check_send,
    post_each,
)
from sim.schedule.actions import Action


class NullReceive:
    """A receive whose tensor is there at once."""

    __slots__ = ("_tensor", "arrived_ns", "found_ns", "message", "sent_ns", "source")

    def __init__(self, message: Action, source: int, tensor: Tensor) -> None:
        self.message = message
        self.source = source
        self.sent_ns: int | None = time.monotonic_ns()
        self.found_ns: int | None = None
        self.arrived_ns: int | None = None
        self._tensor = tensor

    def done(self) -> bool:
        """Always."""
        return True

    def wait(self, deadline_s: float) -> Tensor:
        """The tensor, at once."""
        self.arrived_ns = time.monotonic_ns()
        return self._tensor


class NullSend:
    """A send that goes nowhere."""

    __slots__ = ("destination", "message", "sent_ns")

    def __init__(self, message: Action, destination: int) -> None:
        self.message = message
        self.destination = destination
        self.sent_ns: int | None = time.monotonic_ns()

    def done(self) -> bool:
        """Always."""
        return True

    def wait(self, deadline_s: float) -> None:
        """Return at once."""


class NullTransport:
    """Receives give a fixed random tensor, made once for each shape; sends go nowhere."""

    def __init__(self, device: torch.device, *, seed: int = 0) -> None:
        self._device = device
        self._generator = torch.Generator().manual_seed(seed)
        self._tensors: dict[tuple[tuple[int, ...], torch.dtype], Tensor] = {}

    def post_receive(
        self, message: Action, source: int, shape: tuple[int, ...], dtype: torch.dtype
    ) -> PendingReceive:
        """A receive that has already arrived; its tensor shares memory with the others of its
        shape, so it must not be written to."""
        check_receive(message)
        key = (tuple(shape), dtype)
        tensor = self._tensors.get(key)
        if tensor is None:
            tensor = torch.randn(key[0], generator=self._generator).to(self._device, dtype)
            self._tensors[key] = tensor
        return NullReceive(message, source, tensor.detach())

    def send(self, message: Action, destination: int, tensor: Tensor) -> PendingSend:
        """Drop the tensor."""
        check_send(message)
        return NullSend(message, destination)

    def batch(self, posts: Sequence[Post]) -> tuple[PendingReceive | PendingSend, ...]:
        """One pending for each post."""
        return post_each(self, posts)

    def flush(self, deadline_s: float) -> None:
        """Nothing is outstanding."""

    def describe(self) -> str:
        """Nothing is outstanding."""
        return "no messages (null transport)"

    def close(self) -> None:
        """Drop the tensors."""
        self._tensors.clear()
