"""Sweeps on a dask cluster of this machine: the same results, whoever dies."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sweep_cases import FEW, THOUSAND, canonical, records, run, tiny_sweep, undisturbed, with_bomb

from sim.sweeps import cluster as cluster_module
from sim.sweeps.cluster import ClusterLost, on_cluster
from sim.sweeps.results import ResultsFile
from sim.sweeps.setting import Setting
from sim.sweeps.space import SweepError
from sim.sweeps.sweep import read_known
from sim.sweeps.work import Chunk, Outcomes

distributed = pytest.importorskip(
    "distributed", reason="dask.distributed is not installed (pip install 'pipetwin[cluster]')"
)
PATIENCE_S = 60
pytestmark = pytest.mark.timeout(180)


def local_cluster(*, num_workers: int) -> Any:
    """A cluster at free ports of this machine."""
    return distributed.LocalCluster(
        n_workers=num_workers,
        threads_per_worker=1,
        host="127.0.0.1",
        scheduler_port=0,
        dashboard_address=":0",
        silence_logs=50,
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two workers, a process each."""
    with local_cluster(num_workers=2) as found:
        yield found


def test_the_same_results_though_a_worker_is_killed(tmp_path: Path, cluster: Any) -> None:
    out = tmp_path / "r.jsonl"
    killed_at: list[int] = []

    def kill() -> None:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            count = out.read_bytes().count(b"\n") if out.exists() else 0
            if count >= 200:
                os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)
                killed_at.append(count)
                return
            time.sleep(0.002)

    killer = threading.Thread(target=kill)
    killer.start()
    run(tiny_sweep(tmp_path, THOUSAND), out, on_cluster(cluster.scheduler_address))
    killer.join()
    assert len(killed_at) == 1 and 200 <= killed_at[0] < 1000
    assert len(records(out)) == 1000
    assert canonical(out) == undisturbed(THOUSAND)


def test_a_point_that_ends_its_workers_is_recorded_and_no_other(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker's death is enough here; dask blames the whole chunk, and those that waited."""
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    out = tmp_path / "r.jsonl"

    def workers(setting: Setting, chunks: Iterator[Chunk]) -> Iterator[Outcomes]:
        bombed = with_bomb((task for chunk in chunks for task in chunk), index=5)
        twos = (tuple(itertools.islice(bombed, 2)) for _ in range(6))
        return on_cluster(cluster.scheduler_address)(setting, twos)

    run(tiny_sweep(tmp_path), out, workers)  # type: ignore[arg-type]
    pairs = zip(canonical(out), undisturbed(), strict=True)
    assert [a == b for a, b in pairs] == [i != 5 for i in range(12)]
    lost = sorted(records(out), key=lambda r: int(r["index"]))[5]
    assert lost["error"]["type"] == "WorkerLost" and "suddenly, once" in lost["error"]["message"]


def test_a_lost_scheduler_ends_the_sweep_and_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "CONNECT_S", 1)
    out, steps, sweep = tmp_path / "r.jsonl", 0, tiny_sweep(tmp_path, THOUSAND)
    with ResultsFile(out) as file, local_cluster(num_workers=1) as found:
        workers = on_cluster(found.scheduler_address)
        with pytest.raises(ClusterLost, match="the same command goes on"):
            for _ in sweep.run(file, read_known(file, sweep.id), workers):
                steps += 1
                if steps == 2:
                    found.close()
    assert 0 < len(records(out)) < 1000


def test_where_nobody_answers_it_says_how_to_start_a_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster_module, "CONNECT_S", 0.5)
    for address in ("tcp://127.0.0.1:1", "nothing at all"):
        with pytest.raises(SweepError, match="dask scheduler --port 8786"):
            on_cluster(address)


def test_without_workers_it_says_so_and_waits(tmp_path: Path) -> None:
    told: list[str] = []
    out = tmp_path / "r.jsonl"
    with local_cluster(num_workers=0) as found:

        def tell(text: str) -> None:
            told.append(text)
            found.scale(1)

        run(tiny_sweep(tmp_path, FEW), out, on_cluster(found.scheduler_address, tell))
    assert len(told) == 1 and "no workers yet" in told[0]
    assert len(records(out)) == 12
