"""The changes of an elastic run without its training: how long its process groups and stages take
to build, and how long sums of gradients among its replicas.

As many ranks as the run has, sharing processors as it does, build each of its phases in turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist
from scipy.optimize import nnls

from executor.elastic.datasets import load_dataset
from executor.elastic.feeding import EpochData
from executor.elastic.stages import build
from executor.joining import RankContext
from executor.launching import run_ranks
from executor.mesh import GroupMaker
from scenarios.schema import Scenario
from sim.cost.profile import Fitted
from sim.elastic.phases import Layout, Phase

_BYTES = (1 << 12, 1 << 16, 1 << 18, 1 << 20, 1 << 22)
"""Sizes of the gradients that are summed."""
_SUMS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Phases to build one after another, as the run will."""

    run: Scenario
    phases: tuple[Phase, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """rebuild_s: of each phase after the first. sums: (ranks, bytes, seconds) of all-reduces."""

    rebuild_s: tuple[float, ...]
    sums: tuple[tuple[int, int, float], ...]


def changes(
    scenario: Scenario, phases: Sequence[Phase], progress: Callable[[str], None]
) -> Changes:
    """Build a run's phases one after another, on as many ranks as it has."""
    whole = scenario.plan.num_devices
    progress(f"calibrating {scenario.name}: {len(phases)} phases built on {whole} ranks ...")
    found = run_ranks(
        whole,
        f"{__name__}:changes_main",
        Order(run=scenario, phases=tuple(phases)),
        wait_s=2 * scenario.execution.deadline / 1e9,
        progress=progress,
    )
    assert found is not None, "these ranks were started here"
    card: Changes = found.results[0]
    return card


def changes_main(context: RankContext, order: Order) -> Changes:
    """A rank's part of the changes: every phase's stages built, and sums over their replicas."""
    dataset = load_dataset(order.run)
    groups = GroupMaker(deadline_s=order.run.execution.deadline / 1e9)
    rebuild: list[float] = []
    sums: dict[tuple[int, int], list[float]] = {}
    layout: Layout | None = None
    for phase in order.phases:
        data = EpochData(
            dataset,
            phase,
            seed=order.run.execution.seed,
            device=context.device,
            reads_inputs=context.rank
            in {phase.layout.rank_of(0, d) for d in range(phase.layout.data)},
        )
        _meet(context)
        began = time.monotonic()
        stages = build(order.run, replace(phase, cached_layers=0), context, groups, data)
        _meet(context)
        if layout is not None and layout != phase.layout:
            rebuild.append(time.monotonic() - began)
        replicas = phase.layout.data
        for size in _BYTES if replicas > 1 else ():
            if (replicas, size) not in sums:
                sums[replicas, size] = _time_sums(context, stages.data_group, size)
        stages.transport.close()
        layout = phase.layout
    return Changes(
        rebuild_s=tuple(rebuild),
        sums=tuple((n, size, statistics.median(found)) for (n, size), found in sums.items()),
    )


def _time_sums(
    context: RankContext, group: dist.ProcessGroup | None, payload_bytes: int
) -> list[float]:
    """Seconds of all-reduces of a buffer, on the slowest rank; every group sums at once, and ranks
    that are in none only meet the others."""
    buffer = torch.zeros(payload_bytes // 4, dtype=torch.float32, device=context.device)
    times = []
    for _ in range(_SUMS + 2):
        _meet(context)
        began = time.perf_counter()
        if group is not None:
            dist.all_reduce(buffer, group=group)
        took = torch.tensor([time.perf_counter() - began], dtype=torch.float64)
        dist.all_reduce(took, op=dist.ReduceOp.MAX)
        times.append(float(took.item()))
    return times[2:]


def fit_sums(sums: Sequence[tuple[int, int, float]], scenario: Scenario) -> dict[str, Fitted]:
    """The fixed time, step latency and bandwidth of sums, in the form of `all_reduce_ns`: a ring of
    2 (n - 1) steps and 2 (n - 1) / n of the bytes; weighted by 1 / t."""
    cluster = scenario.cluster
    if not sums or cluster is None:
        return {}
    times = np.array([seconds * 1e9 for _, _, seconds in sums])
    columns = [[1.0, 2 * (n - 1) / n * size] for n, size, _ in sums]
    solution, _ = nnls(np.array(columns) / times[:, None], np.ones(len(times)))
    fixed_ns, ns_per_byte = (float(value) for value in solution)
    launch = cluster.device.efficiency.launch
    bandwidth = 1e9 / max(ns_per_byte, 1e-3) / cluster.intra_node.efficiency
    return {
        "collective_launch": Fitted(value=max(0.0, fixed_ns - launch), interval=None),
        "intra_node.latency": Fitted(value=0.0, interval=None),
        "intra_node.bandwidth": Fitted(value=bandwidth, interval=None),
    }


def _meet(context: RankContext) -> None:
    if context.num_ranks > 1:
        dist.all_reduce(torch.zeros(1, device=context.device))
