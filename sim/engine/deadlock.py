"""Deadlock: what an engine raises where ranks wait for each other for ever."""

from __future__ import annotations

from collections.abc import Sequence

from sim.schedule.checks import Waiting


class Deadlock(RuntimeError):
    """Every process waits for ever; `waiting` tells what each rank waits for."""

    def __init__(self, waiting: Sequence[Waiting]) -> None:
        super().__init__(tuple(waiting))
        self.waiting = tuple(waiting)

    def __str__(self) -> str:
        return "\n  ".join(["the schedule deadlocks:", *map(str, self.waiting)])
