"""The changes of an elastic run without its training: how long its process groups and stages take
to build, and how long sums of gradients among its replicas.

As many ranks as the run has, sharing processors as it does, build each of its phases in turn.
"""

from __future__ import annotations

import math
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
from executor.elastic.stages import PhaseStages, build
from executor.joining import RankContext
from executor.launching import run_ranks
from executor.mesh import GroupMaker
from scenarios.schema import Scenario
from sim.cost.profile import Fitted
from sim.elastic.phases import Layout, Phase

_SUMS = 15
_WARM = 2
_WORK_S = 2e-3
"""Each rank's work before a sum: gloo is slower after a while without one than in a row of them."""
_SIDE = 128


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
        largest = round(_meet(context, float(_gradient_bytes(stages))))
        for size in (largest // 2, largest) if replicas > 1 else ():
            if (replicas, size) not in sums:
                sums[replicas, size] = _time_sums(context, stages.data_group, size)
        stages.close()
        layout = phase.layout
    return Changes(
        rebuild_s=tuple(rebuild),
        sums=tuple((n, size, statistics.median(t)) for (n, size), t in sums.items() if t),
    )


def _gradient_bytes(stages: PhaseStages) -> int:
    """Bytes of the gradients that this rank sums over replicas."""
    runners = stages.job.runners.values() if stages.job is not None else ()
    return max((r.gradient_buffer.nbytes for r in runners), default=0)


def _time_sums(
    context: RankContext, group: dist.ProcessGroup | None, payload_bytes: int
) -> list[float]:
    """Seconds of all-reduces of a buffer from when the last rank of a group has come, after some
    work; every group sums at once, and ranks that are in none only meet the others."""
    buffer = torch.zeros(payload_bytes // 4, dtype=torch.float32, device=context.device)
    factor = torch.eye(_SIDE, device=context.device)
    times = []
    for _ in range(_WARM + _SUMS):
        _meet(context)
        if group is None:
            continue
        before = time.thread_time()
        while time.thread_time() - before < _WORK_S:
            factor = factor @ factor
        came = time.monotonic()
        dist.all_reduce(buffer, group=group)
        both = torch.tensor([came, time.monotonic()], dtype=torch.float64, device=context.device)
        dist.all_reduce(both, op=dist.ReduceOp.MAX, group=group)
        times.append(float(both[1] - both[0]))
    return times[_WARM:]


def fit_sums(sums: Sequence[tuple[int, int, float]], scenario: Scenario) -> dict[str, Fitted]:
    """The fixed time, step latency and bandwidth of sums, in the form of `all_reduce_ns`: between
    two ranks 2 steps and as many bytes as are summed, among more a tree of 2 ceil(log2 n) steps and
    twice the bytes; weighted by 1 / t. The bandwidth is at most the scenario's own.

    sums: (ranks, bytes, seconds).
    """
    cluster = scenario.cluster
    if not sums or cluster is None:
        return {}
    link, launch = cluster.intra_node, cluster.device.efficiency.launch
    steps = np.array([2.0 * math.ceil(math.log2(n)) for n, _, _ in sums])
    sent = np.array([float(size if n == 2 else 2 * size) for n, size, _ in sums])
    times = np.array([seconds * 1e9 for _, _, seconds in sums])
    own = 1e9 / (link.bandwidth * link.efficiency)
    left = np.maximum(times - launch - own * sent, 0.0)
    design = np.stack([np.ones(len(sums)), steps, sent], axis=1)
    (fixed_ns, step_ns, more), _ = nnls(design / times[:, None], left / times)
    return {
        "collective_launch": Fitted(value=float(fixed_ns), interval=None),
        "intra_node.latency": Fitted(value=float(step_ns), interval=None),
        "intra_node.bandwidth": Fitted(
            value=float(1e9 / (own + more) / link.efficiency), interval=None
        ),
    }


def _meet(context: RankContext, value: float = 0.0) -> float:
    """Meet all ranks; the largest value that one of them brings."""
    found = torch.tensor([value], dtype=torch.float64, device=context.device)
    if context.num_ranks > 1:
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return float(found.item())
