"""How much of the processors' time others took during an epoch.

What the system says of one thread's waiting (executor.pinning) does not tell here: where ranks
share processors, each is held up by the others of its own run. So the use of the ranks' cores is
counted, and the processes of all ranks taken from it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from executor.clocks import host_id

_BUSY = (0, 1, 2, 5, 6, 7)
"""Of a core's counters those of work: user, nice, system, both kinds of interrupts, and what a
hypervisor took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What one rank saw: its host, for each core that it may run on the seconds for which it was
    busy, the rank's own processor time, and the time that went by; seconds."""

    host: str
    cores: Mapping[int, float]
    own_s: float
    wall_s: float


class Meter:
    """Measures from its making on."""

    def __init__(self) -> None:
        self._cores = _busy_s()
        self._own_s, self._began_s = time.process_time(), time.monotonic()

    def use(self) -> Use | None:
        """Until now; None where the system does not tell."""
        now = _busy_s()
        if self._cores is None or now is None:
            return None
        return Use(
            host=host_id(),
            cores={core: busy - self._cores.get(core, busy) for core, busy in now.items()},
            own_s=time.process_time() - self._own_s,
            wall_s=time.monotonic() - self._began_s,
        )


def foreign_share(uses: Sequence[Use | None]) -> float | None:
    """The share of the cores' time that none of these ranks used and others did; None where one of
    them does not know."""
    known = [use for use in uses if use is not None]
    if not known or len(known) < len(uses):
        return None
    cores: dict[tuple[str, int], float] = {}
    for use in known:
        for core, busy in use.cores.items():
            cores[use.host, core] = max(busy, cores.get((use.host, core), 0.0))
    own_s = sum(use.own_s for use in known)
    room_s = len(cores) * max(use.wall_s for use in known)
    return min(1.0, max(0.0, sum(cores.values()) - own_s) / room_s) if room_s else None


def _busy_s() -> dict[int, float] | None:
    """Seconds for which each core that this process may use was busy since the system started."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
        mine, tick = os.sched_getaffinity(0), os.sysconf("SC_CLK_TCK")
        found = {}
        for line in lines:
            name, *counts = line.split()
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in mine:
                found[int(name[3:])] = sum(int(counts[n]) for n in _BUSY) / tick
    except (AttributeError, IndexError, OSError, ValueError):
        return None
    return found or None
