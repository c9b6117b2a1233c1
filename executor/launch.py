"""Start the ranks of a run on this host. (`executor.joining` is the ranks' side.)

`launch` starts one process for each rank, hosts the store, passes on what the ranks print, collects
their results, and leaves no process behind: when a rank dies, the others are told, have three
seconds to say what they were doing, and are then ended; when this process dies, the kernel ends
them (Linux), or they notice that the store is gone. Nothing is written to the file system.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch._C._distributed_c10d import TCPStore

from executor.joining import (
    PROGRESS_KEY,
    STOP_KEY,
    RankContext,
    RankFailure,
    join,
    joined,
    leave,
    under_torchrun,
)
from executor.watchdog import EXIT_CODE, write_failure

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

__all__ = [
    "RankContext",
    "RankFailure",
    "join",
    "joined",
    "launch",
    "leave",
    "under_torchrun",
]

GRACE_S = 3.0
"""How long ranks may take to say their last words after another one has failed."""
_TERMINATE_S = 0.5
_TELL_S = 1.0
_LAST_LINES = 20
_LENGTH = struct.Struct("<Q")


def launch(
    num_ranks: int,
    target: str,
    payload: Any,
    *,
    deadline_s: float,
    pin: bool,
    device: str = "cpu",
    wait_s: float | None = None,
    finish_on_interrupt: bool = False,
    progress: Callable[[str], None] | None = None,
) -> list[Any]:
    """Run `module:function` in each of `num_ranks` new processes; return their results by rank.

    The function is called with a RankContext and the payload; payload and results are pickled.
    Call it from a thread that outlives it (on Linux a rank ends with the thread that started it).

    deadline_s: the whole run's limit, seconds.
    wait_s: the limit of each wait in it, seconds (RankContext.deadline_s); None: the run's.
    pin: pin each rank to a core.
    device: `cpu` (gloo) or `cuda` (nccl, one GPU for each rank).

    finish_on_interrupt: at the first KeyboardInterrupt set STOP_KEY in the store, which the target
        is to look at, and wait on for its results; only a second one is passed on.
    progress: told, once a second, what the target has written under PROGRESS_KEY in the store.

    Raises RankFailure with every rank's story when one fails or the deadline passes, ValueError
    for a malformed target, and passes on KeyboardInterrupt after all ranks have ended.
    """
    if target.count(":") != 1:
        raise ValueError(f"target {target!r}: write it as module:function")
    store = TCPStore(
        "127.0.0.1",
        0,
        None,
        True,
        timeout=timedelta(seconds=deadline_s),
        wait_for_workers=False,
    )
    order = {
        "target": target,
        "payload": pickle.dumps(payload),
        "wait_s": deadline_s if wait_s is None else wait_s,
        "pin": pin,
        "device": device,
        "sys_path": [str(Path(entry).absolute()) for entry in sys.path],
        "parent": os.getpid(),
    }
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()
    children: list[_Child] = []
    limit = time.monotonic() + deadline_s
    try:
        data = pickle.dumps(order)
        for rank in range(num_ranks):
            children.append(_Child(rank, num_ranks, store.port, data, ended, pin=pin))
        running = set(range(num_ranks))
        try:
            failure = _wait(children, ended, running, store, deadline_s, limit, progress)
        except KeyboardInterrupt:
            if not finish_on_interrupt:
                raise
            sys.stderr.write(
                "\nstopping after this iteration or epoch; interrupt again to stop at once\n"
            )
            store.set(STOP_KEY, "")
            failure = _wait(children, ended, running, store, deadline_s, limit, progress)
    finally:
        stop(children)
    if failure is not None:
        raise RankFailure(failure, tuple(child.story() for child in children))
    return [child.result for child in children]


def _wait(
    children: list[_Child],
    ended: queue.SimpleQueue[int],
    running: set[int],
    store: Store,
    deadline_s: float,
    limit: float,
    progress: Callable[[str], None] | None,
) -> str | None:
    """Wait for all ranks; return the first failure, once the others had time to end.

    running: the ranks that have not ended, kept up to date. limit: on the monotonic clock, seconds.
    """
    failure: str | None = None
    while running:
        try:
            rank = ended.get(timeout=min(_TELL_S, max(0.0, limit - time.monotonic())))
        except queue.Empty:
            if time.monotonic() < limit:
                if progress is not None and store.check([PROGRESS_KEY]):
                    progress(store.get(PROGRESS_KEY).decode())
                continue
            if failure is not None:
                return failure
            failure = write_failure(store, f"the run did not end within {deadline_s:g} s")
            limit = time.monotonic() + GRACE_S
            continue
        running.discard(rank)
        if failure is None and not children[rank].succeeded:
            failure = write_failure(store, children[rank].death())
            limit = time.monotonic() + GRACE_S
    return failure


class _Child:
    """One rank's process, and the threads that read what comes out of it."""

    def __init__(
        self,
        rank: int,
        num_ranks: int,
        port: int,
        order: bytes,
        ended: queue.SimpleQueue[int],
        *,
        pin: bool,
    ) -> None:
        self.rank = rank
        self.result: Any = None
        self._has_result = False
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._ended = ended
        self._stopped = False
        environment = os.environ | {
            "RANK": str(rank),
            "WORLD_SIZE": str(num_ranks),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(num_ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # The store is ours: no rank hosts it.
            "PYTHONUNBUFFERED": "1",
        }
        if Path("/sys/class/net/lo").exists():
            environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
        if pin:
            environment["OMP_NUM_THREADS"] = "1"
        root = str(Path(__file__).resolve().parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join(
            [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        results, results_end = os.pipe()
        try:
            environment["PIPETWIN_RESULTS"] = str(results_end)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "executor.child"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[results_end],
                start_new_session=True,
            )
        except BaseException:
            os.close(results)
            raise
        finally:
            os.close(results_end)
        self._readers = [
            threading.Thread(target=self._write_order, args=(order,), daemon=True),
            threading.Thread(target=self._read_lines, daemon=True),
            threading.Thread(target=self._read_result, args=(results,), daemon=True),
        ]
        for thread in self._readers:
            thread.start()
        threading.Thread(target=self._await_end, daemon=True).start()

    @property
    def succeeded(self) -> bool:
        """Whether the rank ended well and left a result."""
        return self.process.returncode == 0 and self._has_result

    def signal(self, number: int) -> None:
        """Send a signal to the rank and all that it has started."""
        if self.process.poll() is None:
            self._stopped = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def death(self) -> str:
        """How the rank ended, in words."""
        code = self.process.returncode
        if code is None:
            return f"rank {self.rank} still runs"
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = "unknown"
            return f"rank {self.rank} was killed by signal {-code} ({name})"
        if code == 0 and not self._has_result:
            return f"rank {self.rank} ended without a result"
        return f"rank {self.rank} exited with code {code}"

    def story(self) -> str:
        """What became of the rank, with the last lines it printed if it did not end well."""
        if self.succeeded:
            return f"rank {self.rank} finished"
        text = self.death()
        if self.process.returncode == EXIT_CODE:
            text = f"rank {self.rank} stopped because of the failure"
        elif self._stopped:
            text = f"rank {self.rank} did not stop by itself and was ended"
        return "\n".join([text, *(f"    {line}" for line in list(self._lines))])

    def finish(self) -> None:
        """Wait for what is still in the pipes."""
        for thread in self._readers:
            thread.join(timeout=1.0)

    def _write_order(self, order: bytes) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # It died before reading: its end tells.
            self.process.stdin.write(order)
            self.process.stdin.close()

    def _read_lines(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            line = raw.decode(errors="replace").rstrip("\n")
            self._lines.append(line)
            sys.stderr.write(f"[rank {self.rank}] {line}\n")

    def _read_result(self, descriptor: int) -> None:
        with contextlib.suppress(EOFError, OSError), os.fdopen(descriptor, "rb") as pipe:
            head = pipe.read(_LENGTH.size)
            if len(head) < _LENGTH.size:
                return
            (length,) = _LENGTH.unpack(head)
            data = pipe.read(length)
            if len(data) == length:
                self.result = pickle.loads(data)
                self._has_result = True

    def _await_end(self) -> None:
        self.process.wait()
        self._readers[-1].join(timeout=1.0)
        self._ended.put(self.rank)


def stop(children: list[_Child]) -> None:
    """End all ranks and what they started: ask, then kill."""
    if any(child.process.poll() is None for child in children):
        for child in children:
            child.signal(signal.SIGTERM)
        limit = time.monotonic() + _TERMINATE_S
        while time.monotonic() < limit and any(c.process.poll() is None for c in children):
            time.sleep(0.01)
    for child in children:
        child.signal(signal.SIGKILL)  # Also to what a rank that has ended left behind.
    for child in children:
        child.process.wait()
        child.finish()
