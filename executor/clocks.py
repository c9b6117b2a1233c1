"""Clocks: which ranks share one, how far apart the others are, and the device's.

Times are time.monotonic_ns, CLOCK_MONOTONIC on Linux, which all processes of a host share. Across
hosts the offset is measured by the best of repeated round trips, before and after a run; between
the two it is taken to drift evenly.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch._C._distributed_c10d import Store


@cache
def host_id() -> str:
    """A text that is equal for two processes exactly if they share a kernel, its clock, its
    process ids and its sockets: host name, boot and namespaces."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts += [str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("pid", "net", "time")]
    except OSError:
        pass  # Not Linux, or an old one: the host's name decides.
    return "|".join(parts)


def gather(store: Store, prefix: str, rank: int, num_ranks: int, text: str) -> list[str]:
    """Every rank's text, by rank; each rank calls it once for a prefix and waits for the others.

    Raises torch.distributed.DistStoreError when a rank does not come within the store's timeout.
    """
    store.set(f"{prefix}/{rank}", text)
    return [store.get(f"{prefix}/{other}").decode() for other in range(num_ranks)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockOffset:
    """What to add to this rank's clock to get rank 0's.

    offset_ns: the best estimate, nanoseconds.
    uncertainty_ns: half the shortest round trip; the truth is within offset +- uncertainty.
    at_ns: when it was measured, on this rank's clock.
    """

    offset_ns: int
    uncertainty_ns: int
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockMap:
    """Rank 0's clock as seen from this rank, from an offset before and one after a run."""

    before: ClockOffset
    after: ClockOffset

    @property
    def uncertainty_ns(self) -> int:
        """The larger of the two uncertainties, nanoseconds. Not modelled: uneven drift."""
        return max(self.before.uncertainty_ns, self.after.uncertainty_ns)

    def to_reference_ns(self, local_ns: int) -> int:
        """A time of this rank's clock on rank 0's, by linear interpolation of the offset."""
        span_ns = self.after.at_ns - self.before.at_ns
        change_ns = self.after.offset_ns - self.before.offset_ns
        if span_ns <= 0 or change_ns == 0:
            return local_ns + self.before.offset_ns
        drift_ns = change_ns * (local_ns - self.before.at_ns) // span_ns
        return local_ns + self.before.offset_ns + drift_ns


def measure_offset(
    store: Store,
    rank: int,
    num_ranks: int,
    *,
    name: str,
    num_rounds: int = 50,
    host: str | None = None,
    clock_ns: Callable[[], int] = time.monotonic_ns,
) -> ClockOffset:
    """This rank's offset to rank 0's clock; every rank calls it, with the same name.

    On rank 0's host it is 0, with uncertainty 0, and nothing is sent. Elsewhere the rank asks
    rank 0 for the time `num_rounds` times through the store, one rank after another, and the
    shortest round trip counts (as in NTP). `host` and `clock_ns` are replaced in tests.
    """
    prefix = f"clock/{name}"
    hosts = gather(store, f"{prefix}/host", rank, num_ranks, host if host else host_id())
    remote = [other for other in range(num_ranks) if hosts[other] != hosts[0]]
    if rank == 0:
        for other in remote:
            _answer(store, f"{prefix}/{other}", num_rounds, clock_ns)
    if rank in remote:
        return _ask(store, f"{prefix}/{rank}", num_rounds, clock_ns)
    return ClockOffset(offset_ns=0, uncertainty_ns=0, at_ns=clock_ns())


def _answer(store: Store, prefix: str, num_rounds: int, clock_ns: Callable[[], int]) -> None:
    store.set(f"{prefix}/ready", "")
    for n in range(num_rounds):
        store.get(f"{prefix}/ask/{n}")
        received_ns = clock_ns()
        store.set(f"{prefix}/answer/{n}", f"{received_ns} {clock_ns()}")


def _ask(store: Store, prefix: str, num_rounds: int, clock_ns: Callable[[], int]) -> ClockOffset:
    found: list[ClockOffset] = []
    store.get(f"{prefix}/ready")
    for n in range(num_rounds):
        asked_ns = clock_ns()
        store.set(f"{prefix}/ask/{n}", "")
        answer = store.get(f"{prefix}/answer/{n}")
        ended_ns = clock_ns()
        received_ns, replied_ns = (int(part) for part in answer.split())
        found.append(
            ClockOffset(
                offset_ns=(received_ns - asked_ns + replied_ns - ended_ns) // 2,
                uncertainty_ns=(ended_ns - asked_ns - (replied_ns - received_ns) + 1) // 2,
                at_ns=ended_ns,
            )
        )
    return min(found, key=lambda offset: offset.uncertainty_ns)


class DeviceClock:
    """Times of CUDA events on the monotonic clock, through one anchor event.

    Make it when an iteration starts, read events after the iteration has been synchronised.
    CUDA's event clock has a resolution of about half a microsecond, and elapsed_time returns a
    32-bit float of milliseconds, so anchor each iteration anew.
    """

    def __init__(self, device: torch.device) -> None:
        import torch

        torch.cuda.synchronize(device)
        self._anchor: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._anchor.record(torch.cuda.current_stream(device))
        self._anchor.synchronize()
        self._anchor_ns = time.monotonic_ns()

    def time_ns(self, event: torch.cuda.Event) -> int:
        """When a recorded and completed event happened, monotonic nanoseconds."""
        elapsed_ms = float(self._anchor.elapsed_time(event))
        return self._anchor_ns + round(elapsed_ms * 1e6)
