"""A sweep's points on a cluster, through dask.distributed: a scheduler and any number of workers.

Points are pure, so what a lost worker had is simply simulated again, by dask; a chunk that several
workers died of is taken apart, and a point that does it alone is recorded as lost.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import itertools
import logging
import uuid
from collections.abc import Callable, Generator, Iterator
from typing import Any

from sim.sweeps.space import SweepError
from sim.sweeps.work import Chunk, Outcome, Outcomes, Setting, Workers, lost, simulate_chunk

CONNECT_S = 10
_AHEAD = 2
"""Chunks under way for each thread of a worker, so that none waits for the next."""


class ClusterLost(Exception):
    """The connection to the scheduler ended; what was finished is kept."""

    is_run_failure = True


def on_cluster(address: str, told: Callable[[str], None] = lambda text: None) -> Workers:
    """Workers: those of the dask scheduler at an address, as `tcp://host:8786`.

    told: hears once where there are no workers (the sweep then waits for some).
    Raises SweepError where dask is not installed, or no scheduler answers.
    """
    try:
        distributed = _distributed()
    except ImportError:
        raise SweepError(
            "--cluster needs dask: pip install 'pipetwin[cluster]'; without it, --jobs uses this "
            "machine's cores and --shard parts the points over several machines"
        ) from None
    try:
        client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise SweepError(
            f"--cluster {address}: no dask scheduler answers there ({error}); start one with "
            "`dask scheduler --port 8786`, and workers with `dask worker tcp://HOST:8786`"
        ) from None

    # What it would say of a lost connection, ClusterLost does.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)

    def run(setting: Setting, chunks: Iterator[Chunk]) -> Generator[Outcomes, None, None]:
        try:
            yield from _Run(client, setting, told).run(chunks)
        finally:
            client.close(timeout=CONNECT_S)

    return run


class _Run:
    def __init__(self, client: Any, setting: Setting, told: Callable[[str], None]) -> None:
        self._client = client
        self._told = told
        self._name = f"pipetwin-sweep-{uuid.uuid4().hex}"
        # A task, not scattered data: a copy lost with its worker is made again.
        self._setting = client.submit(_same, setting, key=f"{self._name}-setting")
        self._under_way: dict[Any, Chunk] = {}
        self._numbers = itertools.count()

    def run(self, chunks: Iterator[Chunk]) -> Generator[Outcomes, None, None]:
        done = _distributed().as_completed(
            loop=self._client.loop, with_results=True, raise_errors=False
        )
        if not self._client.nthreads():
            self._told("the cluster has no workers yet: `dask worker ADDRESS` starts one")
        try:
            self._fill(chunks, done)
            while self._under_way:
                for future, result in done.next_batch(block=True):
                    chunk = self._under_way.pop(future)
                    if _is_done(result):
                        yield result
                    else:
                        yield from self._failed(chunk, result, done)
                self._fill(chunks, done)
        finally:
            self._client.cancel([self._setting, *self._under_way], force=True)

    def _fill(self, chunks: Iterator[Chunk], done: Any) -> None:
        room = _AHEAD * max(1, sum(self._client.nthreads().values()))
        for chunk in itertools.islice(chunks, max(0, room - len(self._under_way))):
            self._submit(chunk, done)

    def _submit(self, chunk: Chunk, done: Any) -> None:
        future = self._client.submit(
            simulate_chunk,
            self._setting,
            chunk,
            key=f"{self._name}-{next(self._numbers)}",
            pure=False,
        )
        self._under_way[future] = chunk
        done.add(future)

    def _failed(self, chunk: Chunk, result: Any, done: Any) -> Iterator[Outcomes]:
        """What becomes of a chunk that no worker finished."""
        # dask gives errors as (type, error, traceback), but a cancelled task as the error itself.
        error = result[1] if isinstance(result, tuple) else result
        if isinstance(error, (asyncio.CancelledError, concurrent.futures.CancelledError)):
            raise ClusterLost(
                "the connection to the cluster's scheduler is lost; what is finished is kept, and "
                "the same command goes on"
            )
        if not isinstance(error, _distributed().KilledWorker):
            raise SweepError(
                f"a worker of the cluster cannot simulate ({type(error).__name__}: {error}): it "
                "needs the same pipetwin and Python as here"
            )
        if len(chunk) == 1:
            yield (lost(chunk[0], times=error.allowed_failures + 1),)
            return
        for task in chunk:
            self._submit((task,), done)


def _is_done(result: Any) -> bool:
    return isinstance(result, tuple) and all(isinstance(one, Outcome) for one in result)


def _distributed() -> Any:
    """dask.distributed, an extra; untyped, so that types are checked alike with and without it."""
    return importlib.import_module("distributed")


def _same(setting: Setting) -> Setting:
    return setting
