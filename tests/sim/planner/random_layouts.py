"""Random scenarios and plans that the rules allow, for tests of what evaluates layouts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scenarios.hardware import Cluster, Device, Efficiency, Link
from scenarios.rules import check
from scenarios.schema import Model, Plan, Scenario
from sim.planner.layouts.cuts import Cut
from sim.planner.layouts.layout_costs import (
    LayoutCosts,
    Messages,
    RankFlush,
    links_of,
    passes_of,
    stage_flush_of,
)
from sim.schedule.lowering import Flush
from sim.schedule.shape import Shape

PLACEMENTS = (
    "tensor-data-pipeline",
    "tensor-pipeline-data",
    "data-tensor-pipeline",
    "data-pipeline-tensor",
    "pipeline-tensor-data",
    "pipeline-data-tensor",
)


def scenario(draw: random.Random, num_devices: int) -> Scenario:
    """A small model on a cluster of so many devices, whose links and overheads differ widely."""
    per_node = draw.choice([d for d in (1, 2, 4, 8) if num_devices % d == 0])
    efficiency = Efficiency(
        launch=draw.choice([0, 1_000, 4_000]),
        layer_overhead=draw.choice([0, 0, 50_000]),
        pass_overhead=draw.choice([0, 0, 0, 20_000]),
        data_loading=draw.choice([0, 0, 30_000]),
        message_overhead=draw.choice([0, 10_000, 200_000]),
        collective_launch=draw.choice([0, 5_000]),
        iteration_overhead=draw.choice([0, 1_000_000]),
        overlap_slowdown=draw.choice([0.0, 0.3, 1.0]),
    )
    device = Device(
        name="device",
        memory=80 << 30,
        memory_bandwidth=2e12,
        matmul_peak={"fp16": 312e12, "fp32": 19e12},
        reserved_memory=draw.choice([0, 1 << 30]),
        efficiency=efficiency,
    )
    cluster = Cluster(
        nodes=num_devices // per_node,
        devices_per_node=per_node,
        nics_per_node=draw.choice([d for d in (1, 2, 4, 8) if per_node % d == 0]),
        device=device,
        intra_node=Link(bandwidth=draw.choice([3e9, 3e11]), latency=draw.choice([0, 3_000])),
        inter_node=Link(
            bandwidth=draw.choice([1e8, 2.5e9, 2.5e10]), latency=draw.choice([0, 10_000, 1_000_000])
        ),
        oversubscription=draw.choice([1.0, 2.0]),
    )
    model = Model(
        family=draw.choice(["gpt", "gpt", "bert"]),
        layers=draw.choice([8, 12, 16]),
        hidden=draw.choice([64, 512, 2048]),
        heads=8,
        sequence=draw.choice([64, 512]),
        vocabulary=draw.choice([1000, 50_257]),
        tied_embeddings=draw.random() < 0.7,
        ends=draw.random() < 0.9,
    )
    return Scenario(name="random", model=model, cluster=cluster)


def plans(draw: random.Random, base: Scenario) -> Iterator[Plan]:
    """Plans for a scenario's devices that break no rule, without end."""
    assert base.cluster is not None
    while True:
        plan = _plan(draw, base.cluster.num_devices)
        if not check(replace(base, plan=plan)):
            yield plan


def _plan(draw: random.Random, num_devices: int) -> Plan:
    divisors = [d for d in range(1, num_devices + 1) if num_devices % d == 0]
    pipeline = draw.choice(divisors)
    tensor = draw.choice([d for d in divisors if num_devices // pipeline % d == 0])
    schedule = draw.choice(["1f1b", "1f1b", "gpipe", "interleaved", "interleaved", "terapipe"])
    cut = schedule in ("1f1b", "terapipe", "gpipe") and draw.random() < 0.5
    microbatches = draw.choice([1, 2, 3, 5, 8, 12, 20])
    if schedule == "interleaved":
        microbatches = pipeline * draw.choice([1, 1, 2, 3, 5])
    recomputation = draw.choice(["none", "selective", "full"])
    plan = Plan(
        schedule=schedule,
        pipeline=pipeline,
        chunks=draw.choice([1, 2, 3, 4]) if schedule == "interleaved" else 1,
        tensor=tensor,
        data=num_devices // pipeline // tensor,
        micro_batch=draw.choice([1, 1, 2, 4]),
        microbatches=microbatches,
        slices=draw.choice([2, 3, 4]) if cut else None,
        recomputation=recomputation,
        recompute_every=draw.choice([1, 2]) if recomputation == "full" else 1,
        sequence_parallel=draw.random() < 0.4,
        sharding=draw.choice(["none", "optimizer", "full"]),
        gradient_reduction=draw.choice(["after", "overlapped"]),
        gradient_bucket=draw.choice([25 << 20, 1 << 16]),
        gpipe_backward=draw.choice(["same", "reversed"]) if schedule == "gpipe" else "same",
        p2p=draw.choice(["overlapped", "blocking", "exchange"]),
        precision=draw.choice(["fp16", "fp32"]),
        optimizer=draw.choice(["adam", "sgd"]),
        clip_gradients=draw.random() < 0.5,
        scatter_gather=draw.random() < 0.5,
        broadcast_messages=draw.random() < 0.2,
        placement=draw.choice(PLACEMENTS),
    )
    return plan


def costs(draw: random.Random, shape: Shape) -> LayoutCosts:
    """Costs of a shape's program that hang together in no way: short times, so that there are many
    ties, and messages that share links at random."""
    p, v, n = shape.num_ranks, shape.num_chunks, shape.num_slices
    largest = draw.choice([1, 4, 1000])

    def some(*sizes: int, up_to: int = largest) -> NDArray[np.int64]:
        count = int(np.prod(sizes))
        return np.array([draw.randint(0, up_to) for _ in range(count)], np.int64).reshape(sizes)

    stages = p * v
    passes, by_stage = some(2, stages, n), some(3, stages)
    by_stage[1] = np.minimum(by_stage[1], by_stage[0])
    by_stage[:2] *= shape.flush.reduce_gradients
    by_stage[2] *= shape.flush.gather_weights
    occupancy, latency = some(2, p, n, up_to=draw.choice([0, largest])), some(2, p)
    num_links = draw.randint(1, 2 * p)
    held = [draw.sample(range(num_links), min(num_links, draw.randint(0, 2))) for _ in range(2 * p)]
    return LayoutCosts(
        cut=Cut(
            parts=(),
            content=np.arange(stages, dtype=np.int32),
            held=(),
            kind_of=np.zeros(p, np.int32),
        ),
        passes=passes_of(passes, np.arange(stages, dtype=np.int32), p),
        messages=Messages(
            occupancy_ns=occupancy,
            latency_ns=latency,
            post_ns=some(n, up_to=draw.choice([0, largest])),
            unpack_ns=some(n, up_to=draw.choice([0, largest])),
            links=links_of(held),
        ),
        stages=stage_flush_of(by_stage, p),
        ranks=RankFlush(
            optimizer_ns=some(p),
            tied_ns=draw.randint(0, largest),
            norm_ns=draw.randint(0, largest),
        ),
        exchange_ns=draw.choice([0, draw.randint(0, largest)]) if shape.mode == "blocking" else 0,
    )


def shape(draw: random.Random) -> Shape:
    """A shape of any schedule, mode and flush."""
    schedule = draw.choice(["1f1b", "gpipe", "interleaved", "terapipe"])
    ranks = draw.choice([1, 2, 2, 3, 4, 5, 8])
    chunked = schedule == "interleaved"
    return Shape(
        schedule=schedule,
        num_ranks=ranks,
        num_microbatches=ranks * draw.randint(1, 4) if chunked else draw.randint(1, 12),
        num_chunks=draw.randint(1, 4) if chunked else 1,
        num_slices=1 if chunked else draw.choice([1, 1, 2, 3, 5]),
        gpipe_backward=draw.choice(["same", "reversed"]) if schedule == "gpipe" else "same",
        mode=draw.choice(["overlapped", "blocking", "exchange"]),
        flush=Flush(
            reduce_gradients=draw.random() < 0.7,
            overlapped=draw.random() < 0.5,
            reduce_tied=ranks > 1 and draw.random() < 0.5,
            norm=draw.random() < 0.5,
            gather_weights=draw.random() < 0.5,
        ),
    )
