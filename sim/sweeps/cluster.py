"""A sweep's points on a cluster, through dask.distributed: a scheduler and any number of workers.

Points are pure, so what a lost worker had is simply simulated again, by dask; a chunk that several
workers died of is taken apart, and a point that does it alone is recorded as lost.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib
import itertools
import logging
import re
import uuid
from collections.abc import Callable, Generator, Iterator
from typing import Any

from sim.sweeps.setting import Setting
from sim.sweeps.space import SweepError
from sim.sweeps.work import Chunk, Outcome, Outcomes, Workers, lost, simulate_chunk

CONNECT_S = 10
_AHEAD = 2
"""Chunks under way for each thread of a worker, so that none waits for the next."""


class ClusterLost(Exception):
    """The connection to the scheduler ended."""

    is_run_failure = True

    def __init__(self) -> None:
        super().__init__(
            "the connection to the cluster's scheduler is lost; what is finished is kept, and the "
            "same command goes on"
        )


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
    if re.fullmatch(r"(\w+://)?\S+:\d+/?|inproc://\S+", address) is None:
        # The client of such an address is never made, and says so once more when it is cleared up.
        raise SweepError(
            f"--cluster {address}: is no address of a dask scheduler, as tcp://host:8786; start "
            "one with `dask scheduler --port 8786`"
        )
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
        with contextlib.closing(client):
            run = _Run(client, setting, told)
            try:
                yield from run.run(chunks)
                run.cancel()
            except (KeyboardInterrupt, GeneratorExit):
                run.cancel()
                raise
            except OSError as error:
                raise ClusterLost from error

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
        self._done = _distributed().as_completed(
            loop=client.loop, with_results=True, raise_errors=False
        )

    def run(self, chunks: Iterator[Chunk]) -> Generator[Outcomes, None, None]:
        """Chunks done in any order; at the end, alone, those that workers died of. dask blames all
        that a dead worker was to do, and most of it is innocent."""
        if not self._client.nthreads():
            self._told("the cluster has no workers yet: `dask worker ADDRESS` starts one")
        suspects: list[Chunk] = []
        self._fill(chunks)
        while self._under_way:
            for chunk, found in self._finished():
                if isinstance(found, int):
                    suspects.append(chunk)
                else:
                    yield found
            self._fill(chunks)
        for chunk in suspects:
            yield from self._alone(chunk)

    def cancel(self) -> None:
        """Have nothing more done."""
        self._client.cancel([self._setting, *self._under_way], force=True)

    def _alone(self, chunk: Chunk) -> Iterator[Outcomes]:
        """A chunk with nothing else under way; taken apart where workers die of it again."""
        self._submit(chunk)
        ((_, found),) = self._finished()
        if not isinstance(found, int):
            yield found
        elif len(chunk) == 1:
            yield (lost(chunk[0], times=found),)
        else:
            for task in chunk:
                yield from self._alone((task,))

    def _fill(self, chunks: Iterator[Chunk]) -> None:
        room = _AHEAD * max(1, sum(self._client.nthreads().values()))
        for chunk in itertools.islice(chunks, max(0, room - len(self._under_way))):
            self._submit(chunk)

    def _submit(self, chunk: Chunk) -> None:
        key = f"{self._name}-{next(self._numbers)}"
        future = self._client.submit(simulate_chunk, self._setting, chunk, key=key, pure=False)
        self._under_way[future] = chunk
        self._done.add(future)

    def _finished(self) -> list[tuple[Chunk, Outcomes | int]]:
        """Wait for chunks; with each its outcomes, or how many workers died of it."""
        return [
            (self._under_way.pop(future), _outcomes(result))
            for future, result in self._done.next_batch(block=True)
        ]


def _outcomes(result: Any) -> Outcomes | int:
    """What dask made of a chunk; an error is (type, error, traceback), but of a cancelled task the
    error itself."""
    if isinstance(result, tuple) and all(isinstance(one, Outcome) for one in result):
        return result
    error = result[1] if isinstance(result, tuple) else result
    if isinstance(error, _distributed().KilledWorker):
        return int(error.allowed_failures) + 1
    if isinstance(error, (asyncio.CancelledError, concurrent.futures.CancelledError)):
        raise ClusterLost
    raise SweepError(
        f"a worker of the cluster cannot simulate ({type(error).__name__}: {error}): it needs the "
        "same pipetwin and Python as here"
    )


def _distributed() -> Any:
    """dask.distributed, an extra; untyped, so that types are checked alike with and without it."""
    return importlib.import_module("distributed")


def _same(setting: Setting) -> Setting:
    return setting
