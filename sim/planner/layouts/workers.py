"""Desks in several processes: calls go out, results come back as they are made.

One process works without any other. Several are joblib's (loky), each with a desk of its own,
started anew for a search and gone with it, also where it is interrupted.
"""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from sim.planner.layouts.desk import Desk

_IDLE_S = 120
"""After which a process without work ends by itself: one that lost its master does not linger."""

_ENDING_S = 10.0
_MOST_GROWTH = 4 << 30
Call = tuple[str, tuple[Any, ...]]
"""A method of a desk and its arguments."""

_desk: Desk | None = None
_wrong: Exception | None = None


class Workers:
    """Runs calls at desks like the one given, in `jobs` processes (all cores unless given)."""

    def __init__(self, desk: Desk, jobs: int | None = None) -> None:
        self.desk = desk
        self.jobs = max(1, jobs if jobs is not None else _cores())
        self._executor: Any = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._executor is not None:
            _end(self._executor)

    def run(self, calls: Sequence[Call]) -> Iterator[tuple[int, Any]]:
        """Each call's number and result, as they come.

        What a call raises is raised here.
        """
        if self.jobs == 1 or len(calls) == 1:
            for number, (name, arguments) in enumerate(calls):
                yield number, getattr(self.desk, name)(*arguments)
            return
        executor, waiting = self._started(), dict[Any, int]()
        # Ctrl-C may come anywhere: concurrent.futures.wait would leave futures locked then, and the
        # thread that ends the processes waiting for them.
        done: SimpleQueue[Any] = SimpleQueue()
        coming = iter(enumerate(calls))
        while True:
            # No more than the processes can take: what is queued cannot be called off cleanly.
            for number, (name, arguments) in islice(coming, 2 * self.jobs - len(waiting)):
                future = executor.submit(_at_desk, name, arguments)
                waiting[future] = number
                future.add_done_callback(done.put)
            if not waiting:
                return
            first = done.get()
            yield waiting.pop(first), first.result()

    def _started(self) -> Any:
        if self._executor is None:
            from joblib.externals.loky import ProcessPoolExecutor

            # One that had nothing to do for long is started again.
            warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")
            desk = self.desk
            self._executor = ProcessPoolExecutor(
                max_workers=self.jobs,
                timeout=_IDLE_S,
                initializer=_open,
                initargs=(desk.scenario, desk.profile, desk.only, desk.make),
            )
            with _ctrl_c_ignored():
                self._executor.submit(_cores)  # Starts all of them.
        return self._executor


def _end(executor: Any) -> None:
    """End an executor's processes, if need be without its help: an interruption can leave it
    waiting for a lock that nobody will give back."""
    from joblib.externals.loky import process_executor

    processes = list((executor._processes or {}).values())
    manager = executor._executor_manager_thread
    ending = threading.Thread(
        target=partial(executor.shutdown, wait=True, kill_workers=True), daemon=True
    )
    ending.start()
    ending.join(_ENDING_S)
    if ending.is_alive():
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        # Else the interpreter would wait for it at its own end.
        process_executor._threads_wakeups.pop(manager, None)


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Processes that are started in here ignore Ctrl-C from their first instant: one in the middle
    of its imports would die of it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _open(*arguments: Any) -> None:
    """Open a process's desk. Ctrl-C goes to all processes of a terminal: the master ends these.

    What goes wrong is kept for the first call to raise: a process that ends as it starts would be
    replaced by another.
    """
    global _desk, _wrong
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _grow_freely()
    try:
        _desk = Desk(*arguments)
    except Exception as error:
        _wrong = error


def _grow_freely() -> None:
    """Let a process grow by more than loky's 300 MB, after which it would take it for leaking and
    replace it: what grows is the caches, which another one would only fill anew."""
    from joblib.externals.loky import process_executor

    if hasattr(process_executor, "_MAX_MEMORY_LEAK_SIZE"):
        process_executor._MAX_MEMORY_LEAK_SIZE = _MOST_GROWTH


def _at_desk(name: str, arguments: tuple[Any, ...]) -> Any:
    if _wrong is not None:
        raise _wrong
    assert _desk is not None, "a process starts by opening its desk"
    return getattr(_desk, name)(*arguments)


def _cores() -> int:
    """Cores that this process may use."""
    from joblib import cpu_count

    return int(cpu_count())
