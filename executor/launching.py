"""Where ranks come from: started here on this host, or torchrun's, joined; and what they were.

The same target runs either way. Under torchrun the results meet on rank 0, the only one to go on.
"""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from executor.assembly import assemble, whole_tensors
from executor.clocks import measure_offset
from executor.launch import RankContext, joined, launch, under_torchrun
from executor.pinning import pin
from executor.session import Assignment, RankResult, run_visits
from sim.measurement import Measurement

RUN_LIMIT_S = 24 * 3600.0
FEW_RANKS = 16
"""So many ranks may share the cores of one host."""


class LaunchError(RuntimeError):
    """The ranks that are needed cannot be had; the message says why."""

    is_bad_input = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RankResults:
    """What every rank gave back, by rank, and what they ran on."""

    results: tuple[Any, ...]
    environment: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionResult:
    """A session's measurements, one per visit (fewer where it was interrupted); and, where asked,
    every copy of each whole gradient and weight by parameter name, of the last visit."""

    measurements: tuple[Measurement, ...]
    interrupted: bool
    gradients: dict[str, list[Tensor]]
    weights: dict[str, list[Tensor]]
    environment: Mapping[str, Any]


def device_kind(num_ranks: int, kind: str) -> str:
    """`cuda` where the scenario's devices are GPUs, else `cpu`.

    kind: scenarios.schema.Device.kind.
    Raises LaunchError where this host does not have a GPU for each of its ranks.
    """
    if kind != "gpu":
        return "cpu"
    local = int(os.environ.get("LOCAL_WORLD_SIZE", num_ranks))
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found < local:
        works = "start them with torchrun on hosts that have them"
        if local <= FEW_RANKS:
            works = "`--set cluster.device.kind=cpu` runs it on cores"
        raise LaunchError(
            f"the scenario's {local} ranks need a GPU each, and this host has {found} that torch "
            f"can use; {works}"
        )
    return "cuda"


def run_ranks(
    num_ranks: int,
    target: str,
    payload: Any,
    *,
    wait_s: float,
    device: str = "cpu",
    finish_on_interrupt: bool = False,
    progress: Callable[[str], None] | None = None,
) -> RankResults | None:
    """Run `module:function` (of a RankContext and the payload) on every rank.

    Starts the ranks here, or joins torchrun's; None on all but rank 0 of those.
    wait_s: the limit of each single wait in a collective, in seconds.
    finish_on_interrupt, progress: see executor.launch.launch.
    Raises LaunchError where torchrun started another number of ranks, RankFailure where one fails.
    """
    if not under_torchrun():
        results = launch(
            num_ranks,
            target,
            payload,
            deadline_s=RUN_LIMIT_S,
            wait_s=wait_s,
            pin=device == "cpu",
            device=device,
            finish_on_interrupt=finish_on_interrupt,
            progress=progress,
        )
        return RankResults(results=tuple(results), environment=describe_host(num_ranks, device))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != num_ranks:
        raise LaunchError(
            f"torchrun started {world} ranks, but the scenario's plan has {num_ranks}: start "
            f"{num_ranks}, as `torchrun --nproc-per-node {num_ranks}` on one machine"
        )
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cpu":
        pin(local, num_local_ranks=int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    module, name = target.split(":")
    with joined(deadline_s=wait_s, device=device) as context:
        result = getattr(importlib.import_module(module), name)(context, payload)
        gathered: list[Any] | None = [None] * num_ranks if context.rank == 0 else None
        dist.gather_object(result, gathered)
    if gathered is None:
        return None
    return RankResults(results=tuple(gathered), environment=describe_host(num_ranks, device))


def run_session(
    assignment: Assignment, progress: Callable[[str], None] | None = None
) -> SessionResult | None:
    """Run a session's visits and assemble its measurements; None on torchrun's other ranks.

    Interrupted once, it keeps what was finished; KeyboardInterrupt is raised where that is nothing.
    """
    first = assignment.scenarios[0]
    num_ranks = first.plan.num_devices
    kind = first.cluster.device.kind if first.cluster is not None else "cpu"
    device = device_kind(num_ranks, kind)
    found = run_ranks(
        num_ranks,
        "executor.launching:session_main",
        assignment,
        wait_s=2 * max(s.execution.deadline for s in assignment.scenarios) / 1e9 + 60,
        device=device,
        finish_on_interrupt=True,
        progress=progress,
    )
    if found is None:
        return None
    results: Sequence[RankResult] = found.results
    environment = {**found.environment, **results[0].environment}
    environment["clock_uncertainty_ns"] = max(
        int(str(r.environment.get("clock_uncertainty_ns", 0))) for r in results
    )
    measurements = assemble(assignment, results, environment)
    if not measurements:
        raise KeyboardInterrupt
    last = assignment.scenarios[assignment.visits[-1].job]
    return SessionResult(
        measurements=measurements,
        interrupted=any(r.interrupted for r in results),
        gradients=whole_tensors(last, [r.gradients for r in results]),
        weights=whole_tensors(last, [r.weights for r in results]),
        environment=environment,
    )


def session_main(context: RankContext, assignment: Assignment) -> RankResult:
    """A rank's part of a session, its times moved to rank 0's clock."""
    before = measure_offset(context.store, context.rank, context.num_ranks, name="before")
    result = run_visits(assignment, context)
    after = measure_offset(context.store, context.rank, context.num_ranks, name="after")
    return result.on_clock(before, after)


def describe_host(num_ranks: int, device: str) -> dict[str, Any]:
    """What a measurement depends on: versions, host, cores, pinning, and a warning where the ranks
    share cores."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    environment: dict[str, Any] = {
        "host": platform.node(),
        "machine": platform.machine(),
        "cores": cores,
        "ranks": num_ranks,
        "device": device,
        "software": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "cuda": str(torch.version.cuda or "none"),
        },
        "pinning": "one core and one thread a rank" if device == "cpu" else "one GPU a rank",
    }
    if device == "cuda":
        environment["gpu"] = torch.cuda.get_device_name(0)
    elif num_ranks > cores and not under_torchrun():
        environment["pinning"] = f"{num_ranks} ranks share {cores} cores"
        environment["note"] = (
            f"{num_ranks} ranks share {cores} cores: this run shows correctness and structure; do "
            "not calibrate from it"
        )
    return environment
