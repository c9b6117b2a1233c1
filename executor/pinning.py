"""Pin a rank to one core and one thread, and say what was done; tell what others took of it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinning:
    """What pinning did.

    core: the core this process now runs on; None if it was not pinned.
    num_cores: the cores this process might use before; None if the system does not tell.
    note: why it was not pinned, or a warning; empty if all is well.
    """

    core: int | None
    num_cores: int | None
    note: str


def pin(local_rank: int, *, num_local_ranks: int) -> Pinning:
    """Pin this process to the core number `local_rank` (modulo their number) among those that it
    may use, and torch to one thread.

    Call it before torch is imported: on Linux only this thread moves, and those it starts later.
    Where the system has no affinities only the thread count is set, and the note says so.
    """
    pinning = _pin(local_rank, num_local_ranks)
    import torch

    torch.set_num_threads(1)
    return pinning


def _pin(local_rank: int, num_local_ranks: int) -> Pinning:
    if not hasattr(os, "sched_setaffinity"):
        return Pinning(core=None, num_cores=os.cpu_count(), note="this system cannot pin a process")
    cores = sorted(os.sched_getaffinity(0))
    core = cores[local_rank % len(cores)]
    try:
        os.sched_setaffinity(0, {core})
    except OSError as error:
        return Pinning(core=None, num_cores=len(cores), note=f"not pinned: {error.strerror}")
    note = ""
    if num_local_ranks > len(cores):
        note = f"{num_local_ranks} ranks share {len(cores)} cores: do not calibrate so"
    return Pinning(core=core, num_cores=len(cores), note=note)


DISTURBED = 0.05
"""Fraction of its time for which others held a thread up, above which it counts as disturbed."""


class HeldUp:
    """How much of the time from its making on the calling thread was held up by other processes.

    The system tells for how long the thread could have run and did not; what this process's own
    other threads (a carrier's) used meanwhile is not others' doing.
    """

    def __init__(self) -> None:
        self._began = self._now()

    def share(self) -> float | None:
        """The fraction so far, 0 to 1; None where the system does not tell."""
        begun, now = self._began, self._now()
        if begun is None or now is None:
            return None
        wall, held, own = (after - before for before, after in zip(begun, now, strict=True))
        return min(1.0, max(0, held - own) / max(1, wall))

    @staticmethod
    def _now() -> tuple[int, int, int] | None:
        """Wall time, time held up, and time of this process's other threads, in nanoseconds."""
        try:
            held = int(Path("/proc/thread-self/schedstat").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            return None
        return time.monotonic_ns(), held, time.process_time_ns() - time.thread_time_ns()
