"""The watchdog: who is declared dead, and who is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from torch._C._distributed_c10d import TCPStore

from executor.transport import PeerGone
from executor.transport.base import plainly
from executor.watchdog import (
    EXIT_CODE,
    FAILURE_KEY,
    Watchdog,
    is_alive,
    is_consequence,
    write_failure,
)

pytestmark = pytest.mark.timeout(90)
ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys, time
from datetime import timedelta
from torch._C._distributed_c10d import TCPStore
from executor.watchdog import Watchdog
port, rank, number, host, seconds, end = sys.argv[1:7]
store = TCPStore("127.0.0.1", int(port), None, False, timeout=timedelta(seconds=20))
watchdog = Watchdog(store, int(rank), int(number), host=host, stale_s=1.5, poll_s=0.1,
    describe=lambda: "at step 4 of 9; 1RECV_F2 from rank 0: not arrived")
watchdog.start()
print("up", flush=True)
time.sleep(float(seconds))
if end == "stop":
    watchdog.stop()
"""


@pytest.fixture
def store() -> TCPStore:
    return TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=20), False)


class Ranks:
    """Processes with a watchdog each."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.processes: list[subprocess.Popen[str]] = []

    def start(
        self, rank: int, number: int, host: str, seconds: float, end: str = "stop"
    ) -> subprocess.Popen[str]:
        arguments = [str(self.port), str(rank), str(number), host, str(seconds), end]
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def wait_until_up(self) -> None:
        for process in self.processes:
            assert process.stdout is not None and process.stdout.readline() == "up\n"


@pytest.fixture
def ranks(store: TCPStore) -> Iterator[Ranks]:
    made = Ranks(store.port)
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()


def test_a_failure_in_the_store_ends_the_rank_with_its_last_words(
    store: TCPStore, ranks: Ranks
) -> None:
    process = ranks.start(0, 2, "here", 60)
    ranks.wait_until_up()
    assert write_failure(store, "rank 1 was killed by signal 9 (SIGKILL)").startswith("rank 1")
    assert write_failure(store, "another").startswith("rank 1")
    _, errors = process.communicate(timeout=5)
    assert process.returncode == EXIT_CODE
    assert "stopped: rank 1 was killed by signal 9 (SIGKILL)" in errors
    assert "this rank: at step 4 of 9; 1RECV_F2 from rank 0: not arrived" in errors


def test_a_dead_process_on_this_host_is_noticed(store: TCPStore, ranks: Ranks) -> None:
    zero, one = ranks.start(0, 2, "here", 60), ranks.start(1, 2, "here", 60)
    ranks.wait_until_up()
    time.sleep(0.5)
    one.kill()
    _, errors = zero.communicate(timeout=6)
    assert zero.returncode == EXIT_CODE and "rank 1 died: its process" in errors


def test_a_stopped_process_on_this_host_is_not_dead(store: TCPStore, ranks: Ranks) -> None:
    zero, one = ranks.start(0, 2, "here", 60), ranks.start(1, 2, "here", 60)
    ranks.wait_until_up()
    one.send_signal(signal.SIGSTOP)
    time.sleep(3.5)
    assert zero.poll() is None and not store.check([FAILURE_KEY])
    one.send_signal(signal.SIGCONT)
    time.sleep(0.5)
    assert one.poll() is None and zero.poll() is None


def test_a_silent_host_is_dead_and_a_host_with_one_slow_rank_is_not(
    store: TCPStore, ranks: Ranks
) -> None:
    zero = ranks.start(0, 3, "here", 60)
    one, two = ranks.start(1, 3, "there", 60), ranks.start(2, 3, "there", 60)
    ranks.wait_until_up()
    one.send_signal(signal.SIGSTOP)
    time.sleep(3.0)
    assert zero.poll() is None and two.poll() is None
    two.send_signal(signal.SIGSTOP)
    _, errors = zero.communicate(timeout=8)
    assert "rank 1, 2 died: no sign of its host for" in errors
    assert store.get(FAILURE_KEY).decode().startswith("rank 1, 2 died")


def test_a_rank_that_has_finished_is_not_dead(store: TCPStore, ranks: Ranks) -> None:
    zero, one = ranks.start(0, 2, "here", 5.0), ranks.start(1, 2, "there", 0.5)
    ranks.wait_until_up()
    assert one.wait(10) == 0
    assert zero.wait(20) == 0 and not store.check([FAILURE_KEY])


def test_a_lost_store_ends_the_rank(ranks: Ranks) -> None:
    store = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=20), False)
    lonely = Ranks(store.port)
    process = lonely.start(0, 2, "here", 60)
    lonely.wait_until_up()
    del store
    _, errors = process.communicate(timeout=10)
    assert process.returncode == EXIT_CODE and "the store is lost" in errors


def test_reports_and_consequences(store: TCPStore) -> None:
    watchdog = Watchdog(store, 2, 4)
    assert watchdog.report(ValueError("bad\nvalue")) == "rank 2 failed: value"
    assert Watchdog(store, 3, 4).report(KeyError("x")) == "rank 2 failed: value"
    assert is_consequence(PeerGone("rank 1 has ended"))
    assert is_consequence(RuntimeError("[gloo] Connection closed by peer [127.0.0.1]"))
    assert not is_consequence(RuntimeError("shapes differ"))


def test_torchs_general_advice_is_left_out() -> None:
    advice = "Connection reset by peer. This is typically caused by a remote worker. GLHF!"
    assert plainly(RuntimeError(f"{advice}\nC++ stack")) == "Connection reset by peer."
    assert plainly(RuntimeError()) == ""


def test_it_costs_next_to_nothing(store: TCPStore) -> None:
    with Watchdog(store, 0, 1):
        time.sleep(0.1)
        before = time.process_time()
        time.sleep(2.0)
        assert time.process_time() - before < 0.1


def test_is_alive() -> None:
    assert is_alive(os.getpid())
    assert not is_alive(os.getpid(), started=1)
    child = os.fork()
    if child == 0:
        os._exit(0)
    time.sleep(0.1)
    assert not is_alive(child)  # A zombie.
    os.waitpid(child, 0)
    assert not is_alive(child)
