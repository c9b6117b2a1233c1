"""Marks in time: the host's monotonic clock on CPU, events on the current stream on a GPU.

A mark is cheap to take inside an iteration and becomes nanoseconds after it.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

import torch


class Marks(Protocol):
    """Takes marks, and reads them as nanoseconds of the host's monotonic clock afterwards."""

    def begin(self) -> None:
        """Start an iteration."""
        ...

    def mark(self) -> Any:
        """The present, on the lane that computes."""
        ...

    def read(self, mark: Any) -> int:
        """A mark in nanoseconds; call `settle` first."""
        ...

    def settle(self) -> None:
        """Wait until every mark has passed."""
        ...


class HostMarks:
    """time.monotonic_ns, common to all processes of a host."""

    def begin(self) -> None:
        """See Marks."""

    mark = staticmethod(time.monotonic_ns)

    def read(self, mark: int) -> int:
        """See Marks."""
        return mark

    def settle(self) -> None:
        """See Marks."""


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


class CudaMarks:
    """CUDA events on the current stream, tied to the host's clock once an iteration.

    The tie is taken with the device idle, so its error is the time of one event record and
    synchronisation (about 10 us); within an iteration events are exact to 0.5 us.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._origin = _event()
        self._origin_ns = 0

    def begin(self) -> None:
        """See Marks."""
        torch.cuda.synchronize(self._device)
        self._origin = _event()
        self._origin.record()
        self._origin.synchronize()
        self._origin_ns = time.monotonic_ns()

    def mark(self) -> torch.cuda.Event:
        """See Marks."""
        event = _event()
        event.record()
        return event

    def read(self, mark: torch.cuda.Event) -> int:
        """See Marks."""
        milliseconds: float = self._origin.elapsed_time(mark)
        return self._origin_ns + round(milliseconds * 1e6)

    def settle(self) -> None:
        """See Marks."""
        torch.cuda.synchronize(self._device)


def make_marks(device: torch.device) -> Marks:
    """The marks for a device."""
    return CudaMarks(device) if device.type == "cuda" else HostMarks()
