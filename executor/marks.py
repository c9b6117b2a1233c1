"""Marks in time: the host's monotonic clock on CPU, events on the current stream on a GPU.

A mark is cheap to take inside an iteration and becomes nanoseconds after it.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

import torch

from executor.clocks import DeviceClock


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


class CudaMarks:
    """CUDA events on the current stream, read on the host's clock through one anchor an iteration
    (executor.clocks.DeviceClock)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._clock: DeviceClock | None = None

    def begin(self) -> None:
        """See Marks."""
        self._clock = DeviceClock(self._device)

    def mark(self) -> torch.cuda.Event:
        """See Marks."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def read(self, mark: torch.cuda.Event) -> int:
        """See Marks."""
        assert self._clock is not None, "begin was not called"
        return self._clock.time_ns(mark)

    def settle(self) -> None:
        """See Marks."""
        torch.cuda.synchronize(self._device)


def make_marks(device: torch.device) -> Marks:
    """The marks for a device."""
    return CudaMarks(device) if device.type == "cuda" else HostMarks()
