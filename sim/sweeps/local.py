"""A sweep's points on this machine: joblib's loky processes, which outlive a killed one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterator
from concurrent.futures.process import BrokenProcessPool

from sim.sweeps.work import Chunk, Outcomes, Setting, Workers, lost, simulate_chunk, start_worker

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
        """Chunks done in any order. Where a process dies, all are started anew, and the points that
        were under way are simulated again one by one: one that ends its process then is lost."""
        from joblib.externals.loky import get_reusable_executor

        try:
            while True:
                with contextlib.suppress(BrokenProcessPool):
                    yield from self._parallel(chunks)
                left = self._left()
                if not left:
                    return
                for task in (task for chunk in left for task in chunk):
                    try:
                        yield from self._parallel(iter([(task,)]))
                    except BrokenProcessPool:
                        self._left()
                        yield (lost(task, times=2),)
        finally:
            get_reusable_executor().shutdown(wait=True, kill_workers=True)

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
