"""The watchdog: a thread in each rank that notices when another rank has failed, and ends this one.

The first failure of a run is a text under one key of the store, written by whoever notices it: the
rank itself, its launcher, or another rank's watchdog. Every watchdog looks at that key four times a
second; when it is set, it prints what this rank was doing and ends the process.

Who notices a rank that ends without a word: on its own host, the process table, so that a rank
which is merely slow, stopped, or holds the interpreter's lock for long is never taken for dead. On
other hosts, a counter that all ranks of a host beat together: it stands still only if the whole
host (or each of its ranks) is gone. Each rank watches one other on its host and one other host, in
a ring, so the work does not grow with their number.

Not covered: a host that vanishes with the store on it, without closing its connections; then the
deadline of each wait ends the ranks.
"""

from __future__ import annotations

import json
import os
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from executor.clocks import host_id
from executor.transport.base import PEER_GONE_WORDS, PeerGone

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

FAILURE_KEY = "failure"
EXIT_CODE = 3
"""What a rank ends with when another one has failed."""
_CONSEQUENCE_S = 1.5


class Watchdog:
    """Watches the other ranks from a thread; see the module."""

    def __init__(
        self,
        store: Store,
        rank: int,
        num_ranks: int,
        *,
        describe: Callable[[], str] | None = None,
        poll_s: float = 0.25,
        stale_s: float = 4.0,
        host: str | None = None,
    ) -> None:
        """store: a connection of the watchdog's own, since a blocked `get` holds its connection.

        describe: tells what this rank is doing (its program counter, its pending messages); called
        from the watchdog's thread.
        poll_s, stale_s: how often it looks, and after how long without a beat another host is
        declared dead, seconds.
        host: replaced in tests.
        """
        self._store = store
        self._rank = rank
        self._num_ranks = num_ranks
        self._describe = describe
        self._poll_s = poll_s
        self._stale_s = stale_s
        self._host = host if host is not None else host_id()
        self._stopping = threading.Event()
        self._reported = False
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._cards: dict[int, tuple[str, int, int | None]] = {}
        self._finished: set[int] = set()
        self._dead_since: dict[int, float] = {}
        self._beats: dict[str, tuple[int, float]] = {}

    def start(self) -> None:
        """Begin to watch."""
        card = json.dumps([self._host, os.getpid(), _started(os.getpid())])
        self._store.set(f"watchdog/card/{self._rank}", card)
        self._thread.start()

    def describe_with(self, describe: Callable[[], str]) -> None:
        """Replace what tells this rank's last words."""
        self._describe = describe

    def stop(self) -> None:
        """This rank has finished well: tell the others, and stop watching."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._thread.join(timeout=5.0)
        self._store.set(f"watchdog/finished/{self._rank}", "")

    def report(self, error: BaseException) -> str:
        """Write this rank's failure to the store, unless another came first; return the first.

        An error that only says that a peer has ended waits a moment for the peer's own story.
        """
        self._reported = True
        self._stopping.set()
        last = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
        if is_consequence(error):
            limit = time.monotonic() + _CONSEQUENCE_S
            while time.monotonic() < limit and not self._store.check([FAILURE_KEY]):
                time.sleep(0.05)
        return write_failure(self._store, f"rank {self._rank} failed: {last}")

    def last_words(self) -> str:
        """What this rank was doing, in words."""
        if self._describe is None:
            return "nothing known of its program"
        try:
            return self._describe()
        except Exception as error:  # The last words must not hide the failure itself.
            return f"its program could not be described: {error!r}"

    def __enter__(self) -> Watchdog:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.stop()
        else:
            self.report(error)

    # The thread.

    def _run(self) -> None:
        previous = time.monotonic()
        while not self._stopping.wait(self._poll_s):
            now = time.monotonic()
            if now - previous > self._poll_s + 1.0:
                self._beats.clear()  # It is this process that was held up: observe anew.
            previous = now
            try:
                if self._store.check([FAILURE_KEY]):
                    self._end(self._store.get(FAILURE_KEY).decode())
                    return
                self._store.add(f"watchdog/beat/{self._host}", 1)
                self._watch(now)
            except Exception as error:
                if not self._stopping.is_set():
                    reason = str(error).splitlines()[0] if str(error) else repr(error)
                    self._end(f"the store is lost, so the launcher or its host is gone ({reason})")
                return

    def _watch(self, now: float) -> None:
        if len(self._cards) < self._num_ranks and not self._read_cards():
            return
        neighbour = self._next([r for r in self._cards if self._cards[r][0] == self._host])
        if neighbour is not None and self._dead_for(neighbour, now) > 1.0:
            # A launcher on this host knows more (the signal): it had a second to say so.
            pid = self._cards[neighbour][1]
            self._declare(neighbour, f"rank {neighbour} died: its process {pid} is gone")
        firsts: dict[str, int] = {}
        for rank in sorted(self._cards):
            firsts.setdefault(self._cards[rank][0], rank)
        hosts = list(firsts)
        if len(hosts) > 1:
            host = hosts[(hosts.index(self._host) + 1) % len(hosts)]
            ranks = [rank for rank in sorted(self._cards) if self._cards[rank][0] == host]
            silent_s = self._silent_for(host, now)
            if silent_s > self._stale_s and not all(self._has_finished(r) for r in ranks):
                names = ", ".join(str(rank) for rank in ranks)
                self._declare(
                    ranks[0], f"rank {names} died: no sign of its host for {silent_s:.1f} s"
                )

    def _read_cards(self) -> bool:
        """Read the cards of ranks that have started since; whether all have."""
        for rank in range(self._num_ranks):
            if rank not in self._cards:
                key = f"watchdog/card/{rank}"
                if not self._store.check([key]):
                    return False
                host, pid, started = json.loads(self._store.get(key))
                self._cards[rank] = (host, pid, started)
        return True

    def _next(self, ranks: list[int]) -> int | None:
        """The rank after this one, in a ring of those that have not finished."""
        ranks = sorted(ranks)
        place = ranks.index(self._rank)
        for rank in ranks[place + 1 :] + ranks[:place]:
            if not self._has_finished(rank):
                return rank
        return None

    def _has_finished(self, rank: int) -> bool:
        if rank not in self._finished and self._store.check([f"watchdog/finished/{rank}"]):
            self._finished.add(rank)
        return rank in self._finished

    def _dead_for(self, rank: int, now: float) -> float:
        """For how long a local rank's process has been seen to be gone, seconds."""
        _, pid, started = self._cards[rank]
        if is_alive(pid, started):
            self._dead_since.pop(rank, None)
            return 0.0
        return now - self._dead_since.setdefault(rank, now)

    def _silent_for(self, host: str, now: float) -> float:
        """For how long a host's counter has stood still, seconds."""
        count = self._store.add(f"watchdog/beat/{host}", 0)
        seen = self._beats.get(host)
        if seen is None or seen[0] != count:
            self._beats[host] = (count, now)
            return 0.0
        return now - seen[1]

    def _declare(self, rank: int, text: str) -> None:
        if not self._has_finished(rank):
            self._end(write_failure(self._store, text))

    def _end(self, failure: str) -> None:
        """The last words, and the end of this process without any clean-up that could hang."""
        if self._stopping.is_set() or self._reported:
            return
        try:
            # Not sys.stderr, whose lock the main thread may hold.
            os.write(2, f"stopped: {failure}\nthis rank: {self.last_words()}\n".encode())
        finally:
            os._exit(EXIT_CODE)


def write_failure(store: Store, text: str) -> str:
    """Write the run's first failure; return the one that was first."""
    return store.compare_set(FAILURE_KEY, "", text).decode()


def is_consequence(error: BaseException) -> bool:
    """Whether an error only says that another process has ended: ours, or gloo's own words."""
    if isinstance(error, PeerGone):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in PEER_GONE_WORDS)


def is_alive(pid: int, started: int | None = None) -> bool:
    """Whether a process of this host runs (a zombie does not); `started` guards against a process
    number that was given out anew."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    found = _status(pid)
    if found is None:
        return not Path("/proc/self/stat").exists()
    state, since = found
    return state not in "ZX" and (started is None or since == started)


def _started(pid: int) -> int | None:
    found = _status(pid)
    return None if found is None else found[1]


def _status(pid: int) -> tuple[str, int] | None:
    """A process's state and start time in clock ticks, from /proc; None without it."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])
