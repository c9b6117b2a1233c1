"""Join a run that a launcher has started, torchrun or executor.launch, and leave it again."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from executor.watchdog import FAILURE_KEY, Watchdog

STOP_KEY = "stop"
"""Set in the store by a launcher that was interrupted: ranks end after what they are doing."""
PROGRESS_KEY = "progress"
"""Where rank 0 writes how far it is, in words, for the launcher to show."""

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_LAST_S = 5.0


class RankFailure(RuntimeError):
    """A rank of a run failed, or the run did not end in time.

    failure: the first failure, in words, naming the rank.
    stories: what became of each rank, by rank.
    """

    is_run_failure = True

    def __init__(self, failure: str, stories: tuple[str, ...]) -> None:
        super().__init__(failure, stories)
        self.failure = failure
        self.stories = stories

    def __str__(self) -> str:
        return "\n".join([self.failure, *self.stories])


@dataclass(frozen=True, slots=True, kw_only=True)
class RankContext:
    """A rank's place in its run.

    store: shared by all ranks; `watchdog` has a connection of its own.
    device: the CPU, or the GPU of this local rank.
    deadline_s: the limit of each wait, seconds.
    """

    rank: int
    num_ranks: int
    local_rank: int
    num_local_ranks: int
    store: Store
    device: torch.device
    deadline_s: float
    watchdog: Watchdog


def under_torchrun() -> bool:
    """Whether torchrun, or a launcher with the same environment, has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or {"RANK", "WORLD_SIZE"} <= os.environ.keys()


def join(*, deadline_s: float, device: str = "cpu", stale_s: float = 4.0) -> RankContext:
    """Join the run that this process's environment describes: the store, torch's default process
    group (gloo on `cpu`, nccl on `cuda`), and the watchdog. End it with `leave`.

    deadline_s: the limit of waits in the store and in collectives, seconds.
    Raises RuntimeError where the environment is not complete.
    """
    environment = os.environ
    missing = [
        name
        for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        if name not in environment
    ]
    if missing:
        raise RuntimeError(f"not started by torchrun: {', '.join(missing)} not set")
    rank, num_ranks = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    local_rank = int(environment.get("LOCAL_RANK", "0"))
    agent = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    timeout = timedelta(seconds=deadline_s)

    def connect(*, host_it: bool) -> Store:
        base = TCPStore(
            environment["MASTER_ADDR"],
            int(environment["MASTER_PORT"]),
            None,
            host_it,
            timeout=timeout,
            wait_for_workers=False,
        )
        # An agent that restarts its ranks keeps its store, the last attempt's failure included.
        restart = environment.get("TORCHELASTIC_RESTART_COUNT", "")
        return PrefixStore(f"pipetwin/{restart}", base) if restart else base

    store = connect(host_it=rank == 0 and not agent)
    place = torch.device("cpu")
    if device == "cuda":
        place = torch.device("cuda", local_rank)
        torch.cuda.set_device(place)
    watchdog = Watchdog(connect(host_it=False), rank, num_ranks, stale_s=stale_s)
    watchdog.start()
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        store=PrefixStore("default", store),
        rank=rank,
        world_size=num_ranks,
        timeout=timeout,
    )
    return RankContext(
        rank=rank,
        num_ranks=num_ranks,
        local_rank=local_rank,
        num_local_ranks=int(environment.get("LOCAL_WORLD_SIZE", "1")),
        store=store,
        device=place,
        deadline_s=deadline_s,
        watchdog=watchdog,
    )


def leave(context: RankContext) -> None:
    """End a run well: stop the watchdog, wait for the other ranks, drop the process group."""
    store = context.store
    if store.add("left", 1) == context.num_ranks:
        store.set("all_left", "")
    # Nobody drops its connections while another one still needs them.
    while not store.check(["all_left"]):
        if store.check([FAILURE_KEY]):
            raise RankFailure(store.get(FAILURE_KEY).decode(), ())
        time.sleep(0.02)
    context.watchdog.stop()
    dist.destroy_process_group()
    store.add("gone", 1)
    limit = time.monotonic() + _LAST_S
    while (
        context.rank == 0 and time.monotonic() < limit and store.add("gone", 0) < context.num_ranks
    ):
        time.sleep(0.02)  # It may host the store, which the others' watchdogs still look at.


@contextlib.contextmanager
def joined(*, deadline_s: float, device: str = "cpu") -> Iterator[RankContext]:
    """`join`, then `leave`; an exception is written to the store as the run's failure."""
    context = join(deadline_s=deadline_s, device=device)
    try:
        yield context
    except BaseException as error:
        context.watchdog.report(error)
        raise
    leave(context)
