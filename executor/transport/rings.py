"""Slots in memory that two processes share; used by the mailbox."""

from __future__ import annotations

import mmap
import os
import tempfile

import torch
from torch import Tensor

MAX_SLOTS = 64
"""An acknowledgement has one bit for each slot."""


class Ring:
    """Slots of equal size in memory that two processes share.

    The memory has no name in any file system: its descriptor is handed to the other process over
    the connection, so nothing is left when both have ended, however they ended. Pages are
    allocated when first written to.
    """

    def __init__(self, descriptor: int, *, slot_bytes: int, num_slots: int) -> None:
        self.slot_bytes = slot_bytes
        self.num_slots = num_slots
        self._memory = mmap.mmap(descriptor, slot_bytes * num_slots)
        self._views: dict[tuple[int, torch.dtype, tuple[int, ...]], Tensor] = {}

    def view(self, slot: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A slot as a tensor of this shape; it must have at least one element."""
        key = (slot, dtype, shape)
        found = self._views.get(key)
        if found is None:
            count = 1
            for size in shape:
                count *= size
            offset = slot * self.slot_bytes
            flat = torch.frombuffer(self._memory, dtype=dtype, count=count, offset=offset)
            found = self._views[key] = flat.view(shape)
        return found


def create_memory(num_bytes: int) -> int:
    """The descriptor of new shared memory without a name; the caller closes it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pipetwin", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, num_bytes)
    return descriptor
