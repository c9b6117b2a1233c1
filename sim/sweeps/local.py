"""A sweep's points on this machine: joblib's loky processes, which outlive a killed one."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Generator, Iterator
from concurrent.futures.process import BrokenProcessPool

from sim.sweeps.setting import Setting
from sim.sweeps.work import Chunk, Outcomes, Workers, lost, simulate_chunk, start_worker

_AHEAD = 2
"""Chunks that wait for each process, so that none is idle while results are written."""


def cores() -> int:
    """Cores that this process may use (its affinity and its control group's share)."""
    import joblib

    return int(joblib.cpu_count())


def on_this_machine(jobs: int) -> Workers:
    """Workers: so many processes; with one the points are simulated in this very process."""

    def run(setting: Setting, chunks: Iterator[Chunk]) -> Generator[Outcomes, None, None]:
        if jobs == 1:
            return (simulate_chunk(setting, chunk) for chunk in chunks)
        return _Processes(setting, jobs).run(chunks)

    return run


class _Processes:
    """What is under way is known at any moment, whichever of joblib's threads asks for more."""

    def __init__(self, setting: Setting, jobs: int) -> None:
        self._setting = setting
        self._jobs = jobs
        self._lock = threading.Lock()
        self._round = 0
        self._under_way: dict[int, Chunk] = {}

    def run(self, chunks: Iterator[Chunk]) -> Generator[Outcomes, None, None]:
        """Chunks done in any order. Where a process dies, all are started anew, and what was under
        way is simulated again chunk by chunk; one that ends its process alone is taken apart, and a
        point that does it alone is lost."""
        from joblib.externals.loky import get_reusable_executor

        try:
            while True:
                with contextlib.suppress(BrokenProcessPool):
                    yield from self._parallel(chunks)
                left = self._left()
                if not left:
                    return
                for chunk in left:
                    yield from self._alone(chunk)
        finally:
            get_reusable_executor().shutdown(wait=True, kill_workers=True)

    def _alone(self, chunk: Chunk) -> Iterator[Outcomes]:
        try:
            yield from self._parallel(iter([chunk]))
        except BrokenProcessPool:
            self._left()
            if len(chunk) == 1:
                yield (lost(chunk[0], times=2),)
                return
            for task in chunk:
                yield from self._alone((task,))

    def _left(self) -> list[Chunk]:
        """Take what is under way; whoever still asks for more in this round gets nothing."""
        with self._lock:
            self._round += 1
            left = list(self._under_way.values())
            self._under_way.clear()
        return left

    def _parallel(self, chunks: Iterator[Chunk]) -> Iterator[Outcomes]:
        import joblib

        parallel = joblib.Parallel(
            n_jobs=self._jobs,
            backend="loky",
            return_as="generator_unordered",
            batch_size=1,
            pre_dispatch=_AHEAD * self._jobs,
            initializer=start_worker,
            initargs=(os.getpid(),),
        )
        calls = (
            joblib.delayed(_numbered)(number, self._setting, chunk)
            for number, chunk in self._taken(chunks, self._round)
        )
        with contextlib.closing(parallel(calls)) as found:
            for number, outcomes in found:
                with self._lock:
                    del self._under_way[number]
                yield outcomes

    def _taken(self, chunks: Iterator[Chunk], round_number: int) -> Iterator[tuple[int, Chunk]]:
        while True:
            with self._lock:
                chunk = next(chunks, None) if self._round == round_number else None
                if chunk is None:
                    return
                number = chunk[0].head.index
                self._under_way[number] = chunk
            yield number, chunk


def _numbered(number: int, setting: Setting, chunk: Chunk) -> tuple[int, Outcomes]:
    return number, simulate_chunk(setting, chunk)
