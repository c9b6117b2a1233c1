"""The launcher: results, deaths, exceptions, deadlines, and that nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from executor.launch import RankContext, RankFailure, launch, under_torchrun
from executor.pinning import pin
from executor.watchdog import is_alive

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]
ROOT = Path(__file__).resolve().parents[2]


def children_of(pid: int) -> set[int]:
    """Processes whose parent this is."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] not in "ZX":
                found.add(int(entry.name))
    return found


def shared_memory() -> set[str]:
    return {entry.name for entry in Path("/dev/shm").glob("*pipetwin*")}


@pytest.fixture(autouse=True)
def nothing_is_left() -> Any:
    processes, files = children_of(os.getpid()), shared_memory()
    yield
    assert children_of(os.getpid()) <= processes
    assert shared_memory() <= files


def work(context: RankContext, payload: dict[str, Any]) -> Any:
    """Passes messages round for a while; meets its fate at the tenth."""
    import torch

    from executor.transport import make_transport
    from sim.schedule.actions import Action, Kind

    transport = make_transport(
        payload.get("transport", "mailbox"),
        rank=context.rank,
        num_ranks=context.num_ranks,
        store=context.store,
        device=context.device,
        deadline_s=context.deadline_s,
    )
    counter = 0
    context.watchdog.describe_with(lambda: f"at step {counter}; {transport.describe()}")
    following = (context.rank + 1) % context.num_ranks
    previous = (context.rank - 1) % context.num_ranks
    for counter in range(20):
        receive = transport.post_receive(
            Action(Kind.RECV_FORWARD, previous + 1, counter), previous, (4,), torch.float32
        )
        sent = Action(Kind.SEND_FORWARD, context.rank, counter)
        transport.send(sent, following, torch.full((4,), float(counter)))
        if counter == 10 and context.rank == payload.get("rank"):
            if payload["fate"] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if payload["fate"] == "raise":
                raise ArithmeticError("the loss is not a number")
            if payload["fate"] == "exit":
                os._exit(7)
            time.sleep(300)
        assert float(receive.wait(context.deadline_s)[0]) == counter
    transport.flush(10)
    transport.close()
    return {"rank": context.rank, "pid": os.getpid(), "payload": payload}


def test_results_come_back_by_rank(capfd: pytest.CaptureFixture[str]) -> None:
    results = launch(3, f"{__name__}:work", {"a": [1, 2]}, deadline_s=60, pin=True)
    assert [result["rank"] for result in results] == [0, 1, 2]
    assert results[0]["payload"] == {"a": [1, 2]}
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("transport", ["mailbox", "gloo"])
@pytest.mark.parametrize(
    ("fate", "failure"),
    [
        ("kill", "rank 1 was killed by signal 9 (SIGKILL)"),
        ("raise", "rank 1 failed: ArithmeticError: the loss is not a number"),
        ("exit", "rank 1 exited with code 7"),
    ],
)
def test_a_rank_that_fails_ends_the_run(transport: str, fate: str, failure: str) -> None:
    payload = {"transport": transport, "rank": 1, "fate": fate}
    began = time.monotonic()
    with pytest.raises(RankFailure) as caught:
        launch(3, f"{__name__}:work", payload, deadline_s=100, pin=False)
    assert time.monotonic() - began < 40.0  # Start-up included; the deadline is 100 s.
    assert caught.value.failure == failure
    assert len(caught.value.stories) == 3
    stories = [caught.value.stories[rank] for rank in (0, 2)]
    assert all("stopped because of the failure" in story for story in stories)
    assert all("at step " in story for story in stories)
    if fate == "raise":
        assert "ArithmeticError" in caught.value.stories[1]


def die_at(context: RankContext, payload: str) -> None:
    """Rank 0 writes down when it kills itself, once rank 1 cannot stop by itself any more."""
    if context.rank == 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        context.watchdog._stopping.set()
        context.watchdog._thread.join()
        context.store.set("go", "")
    if context.rank == 0:
        context.store.get("go")
        Path(payload).write_text(str(time.monotonic()))
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(100)


def test_all_ranks_are_gone_within_five_seconds_of_a_death(tmp_path: Path) -> None:
    with pytest.raises(RankFailure) as caught:
        launch(3, f"{__name__}:die_at", str(tmp_path / "t"), deadline_s=60, pin=False)
    assert time.monotonic() - float((tmp_path / "t").read_text()) < 5.0
    assert "did not stop by itself" in caught.value.stories[1]
    assert "stopped because of the failure" in caught.value.stories[2]


def test_a_run_that_hangs_ends_at_its_deadline() -> None:
    began = time.monotonic()
    with pytest.raises(RankFailure, match="did not end within 12 s") as caught:
        payload = {"rank": 1, "fate": "hang"}
        launch(2, f"{__name__}:work", payload, deadline_s=12, pin=False)
    assert time.monotonic() - began < 18.0
    assert "at step 1" in caught.value.stories[1]


def leave_a_process(context: RankContext, payload: None) -> int:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"]).pid


def test_what_a_rank_leaves_behind_is_ended_too() -> None:
    (pid,) = launch(1, f"{__name__}:leave_a_process", None, deadline_s=60, pin=False)
    limit = time.monotonic() + 5.0
    while is_alive(pid) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not is_alive(pid)


def write_pid(context: RankContext, payload: str) -> None:
    (Path(payload) / str(context.rank)).write_text(str(os.getpid()))
    time.sleep(100)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_ranks_end_with_the_launcher(tmp_path: Path, number: signal.Signals) -> None:
    code = (
        "from executor.launch import launch\n"
        f"launch(2, 'tests.executor.test_launch:write_pid', {str(tmp_path)!r},"
        " deadline_s=90, pin=False)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        # A shell's commands in the background ignore Ctrl-C, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        limit = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < limit:
            time.sleep(0.05)
        time.sleep(0.2)
        pids = [int(path.read_text()) for path in tmp_path.iterdir()]
        assert len(pids) == 2 and all(is_alive(pid) for pid in pids)
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    limit = time.monotonic() + 5
    while any(is_alive(pid) for pid in pids) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not any(is_alive(pid) for pid in pids)
    if number == signal.SIGINT:
        assert "KeyboardInterrupt" in errors


TORCHRUN_SCRIPT = """
import sys
import torch
import torch.distributed as dist
from executor.launch import joined, under_torchrun
from executor.transport import make_transport
assert under_torchrun()
with joined(deadline_s=60) as context:
    total = torch.tensor([context.rank + 1.0])
    dist.all_reduce(total)
    transport = make_transport("auto", rank=context.rank, num_ranks=context.num_ranks,
        store=context.store, device=context.device, deadline_s=60)
    if context.rank == 1 and "fail" in sys.argv:
        raise ValueError("broken on purpose")
    transport.close()
    print(f"rank {context.rank} of {context.num_ranks}: {total.item()}, "
        f"{type(transport).__name__}", flush=True)
"""


@pytest.mark.parametrize("fail", [False, True])
def test_torchrun(tmp_path: Path, fail: bool) -> None:
    script = tmp_path / "script.py"
    script.write_text(TORCHRUN_SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(script), "fail" if fail else "pass"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    if fail:
        assert done.returncode != 0 and "ValueError: broken on purpose" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        for rank in (0, 1):
            assert f"rank {rank} of 2: 3.0, MailboxTransport" in done.stdout


def test_malformed_targets_and_detection(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="write it as module:function"):
        launch(1, "nonsense", None, deadline_s=5, pin=False)
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    assert not under_torchrun()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert under_torchrun()


def pinned(context: RankContext, payload: None) -> tuple[list[int], int]:
    import torch

    return sorted(os.sched_getaffinity(0)), torch.get_num_threads()


def test_pinning() -> None:
    cores = sorted(os.sched_getaffinity(0))
    results = launch(2, f"{__name__}:pinned", None, deadline_s=60, pin=True)
    assert results == [([cores[rank % len(cores)]], 1) for rank in range(2)]
    child = os.fork()
    if child == 0:
        found = pin(1, num_local_ranks=len(cores) + 1)
        good = found.core == cores[1 % len(cores)] and "do not calibrate" in found.note
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
