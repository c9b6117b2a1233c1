"""Sharded replicas and reductions in buckets, against brute force and limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.rules import check
from scenarios.schema import (
    Cluster,
    Device,
    Efficiency,
    Link,
    MicrobatchGroup,
    Model,
    Plan,
    Scenario,
)
from sim.cost.collectives import all_gather_ns, data_group, reduce_scatter_ns
from sim.cost.costs import Cost, CostKey, CostTable
from sim.cost.data_parallel import bucketed, gradient_reduction, reduction_tail_ns
from sim.cost.modelled import part_times, setup_of
from sim.cost.table import cost_table
from sim.engine.simpy_engine import simulate
from sim.schedule.actions import Action, Kind
from sim.schedule.build import build_program, build_schedule, flush_of
from sim.schedule.lowering import Program, lower
from sim.schedule.schedule import Schedule
from sim.workload.parameters import stage_parameters
from sim.workload.partition import partition

MODEL = Model(layers=8, hidden=1024, heads=16, sequence=512, vocabulary=8192)
CLUSTER = Cluster(
    nodes=2,
    devices_per_node=8,
    device=Device(name="d", memory=80 << 30, memory_bandwidth=2e12, matmul_peak={"fp16": 300e12}),
    intra_node=Link(bandwidth=300e9, latency=8_000),
    inter_node=Link(bandwidth=25e9, latency=10_000),
    nics_per_node=8,
)

ALONE = replace(CLUSTER.device, efficiency=Efficiency(overlap_slowdown=0.0))


def scenario(cluster: Cluster = CLUSTER, **plan: object) -> Scenario:
    fields = {"data": 16, "microbatches": 2, "clip_gradients": True, **plan}
    s = Scenario(name="s", model=MODEL, cluster=cluster, plan=Plan(**fields))  # type: ignore[arg-type]
    assert not check(s)
    return s


def table(s: Scenario, program: Program | None = None) -> CostTable:
    return cost_table(s, program or build_program(s))


def iteration_ns(s: Scenario) -> int:
    program = build_program(s)
    return simulate(program, table(s, program)).iteration_ns


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 90)), min_size=1, max_size=12),
    st.integers(1, 70),
)
def test_buckets_are_those_of_counting_byte_by_byte(
    parts: list[tuple[int, int]], bucket: int
) -> None:
    left = 0
    payloads: list[tuple[int, float]] = []
    for size, time in reversed(parts):
        payloads.insert(0, (size, left))
        left += time
    expected: list[tuple[int, float]] = []
    filled = 0
    for size, until in payloads:
        for _ in range(size):
            filled += 1
            if filled == bucket:
                expected.append((filled, until))
                filled = 0
    if filled:
        expected.append((filled, payloads[-1][1]))
    found = bucketed(tuple(size for size, _ in payloads), bucket)
    sizes = [bucket] * found.num_full + ([found.rest] if found.rest else [])
    lasts = [payloads[place][1] for place in found.last]
    assert list(zip(sizes, lasts, strict=True)) == expected


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 300)), max_size=12))
def test_the_tail_is_that_of_running_the_buckets(buckets: list[tuple[int, int]]) -> None:
    """Each bucket's reduction starts when it is full and the one before has ended."""
    left = sorted((ready for ready, _ in buckets), reverse=True)
    durations = [duration for _, duration in buckets]
    end = -10_000
    for ready, duration in zip(left, durations, strict=True):
        end = max(end, -ready) + duration
    assert reduction_tail_ns(left, durations) == max(0, end)


def overlapped(bucket: int, **plan: object) -> Cost:
    s = scenario(gradient_reduction="overlapped", gradient_bucket=bucket, **plan)
    return table(s).costs[CostKey(Kind.REDUCE_GRADIENTS, 0)]


def test_one_bucket_hides_nothing() -> None:
    after = table(scenario()).costs[CostKey(Kind.REDUCE_GRADIENTS, 0)]
    one = overlapped(1 << 40)
    assert (one.duration_ns, one.hidden_ns) == (after.duration_ns, 0)
    assert after.hidden_ns == 0


def test_a_reduction_is_beside_its_own_stage_s_last_pass() -> None:
    """Ranks may end with different microbatches, and these may be of different sizes."""
    groups = (MicrobatchGroup(micro_batch=1), MicrobatchGroup(micro_batch=8))

    def ending_with(first: Literal["same", "reversed"]) -> Scenario:
        return scenario(
            data=8,
            pipeline=2,
            schedule="gpipe",
            gpipe_backward=first,
            microbatches=None,
            microbatch_groups=groups,
            gradient_reduction="overlapped",
            gradient_bucket=1 << 20,
        )

    large, small = ending_with("same"), ending_with("reversed")
    schedule = build_schedule(large)
    orders = (schedule.orders[0], build_schedule(small).orders[1])
    mixed = table(large, lower(replace(schedule, orders=orders), flush=flush_of(large)))
    for stage, alike in enumerate((large, small)):
        key = CostKey(Kind.REDUCE_GRADIENTS, stage)
        assert mixed.costs[key] == table(alike).costs[key]
    key = CostKey(Kind.REDUCE_GRADIENTS, 1)
    assert table(large).costs[key].hidden_ns > table(small).costs[key].hidden_ns > 0


def test_what_a_fast_network_cannot_hide_is_the_last_bucket() -> None:
    """With links far faster than the passes: the tail is the embedding's remainder alone."""
    fast = replace(
        CLUSTER,
        device=ALONE,
        intra_node=Link(bandwidth=1e15, latency=0),
        inter_node=Link(bandwidth=1e15, latency=0),
    )
    s = scenario(fast, gradient_reduction="overlapped", gradient_bucket=25 << 20)
    cost = table(s).costs[CostKey(Kind.REDUCE_GRADIENTS, 0)]
    launch = CLUSTER.device.efficiency.launch
    # The embedding, with the table tied to it, completes one bucket and starts another.
    assert cost.duration_ns - cost.hidden_ns == pytest.approx(2 * launch, rel=0.1)
    assert cost.duration_ns > 8 * launch


def test_overlap_never_slows_down_and_smaller_buckets_cost_more_in_all() -> None:
    """Against the same buckets one after the other once the passes have ended."""
    costs = [overlapped(size << 20) for size in (5, 25, 1000)]
    assert costs[0].duration_ns > costs[1].duration_ns > costs[2].duration_ns
    for bucket in (5, 25, 1000):
        s = scenario(gradient_reduction="overlapped", gradient_bucket=bucket << 20)
        program, found = build_program(s), table(s)
        key = CostKey(Kind.REDUCE_GRADIENTS, 0)
        later = {**found.costs, key: replace(found.costs[key], hidden_ns=0)}
        times = [simulate(program, t).iteration_ns for t in (found, CostTable(costs=later))]
        assert times[1] - times[0] == found.costs[key].hidden_ns


def test_a_split_backward_pass_counts_from_its_last_w() -> None:
    s = scenario(gradient_reduction="overlapped", gradient_bucket=5 << 20)
    kinds = (Kind.FORWARD, Kind.BACKWARD_INPUT, Kind.BACKWARD_WEIGHT)
    order = tuple(Action(kind, 0, 0) for kind in kinds)
    program = lower(Schedule(name="split", orders=(order,), placement=((0,),)))
    setup = setup_of(s)
    times = part_times(setup, 512, 0)
    (part,) = partition(s)
    whole = gradient_reduction(setup, part, times)
    split = gradient_reduction(setup, part, times, split=True)
    assert split.duration_ns == whole.duration_ns
    # A pass over the weights alone is shorter, so that less fits beside it.
    assert split.hidden_ns < whole.hidden_ns
    assert CostKey(Kind.BACKWARD_WEIGHT, 0) in table(s, program).costs


def test_a_sharded_optimizer_reduces_to_shares_and_gathers_weights() -> None:
    s = scenario(sharding="optimizer", pipeline=2, data=8)
    found, plain = table(s), table(scenario(pipeline=2, data=8))
    count = stage_parameters(partition(s)[1], s)
    group, launch = data_group(CLUSTER, s.plan), CLUSTER.device.efficiency.launch
    key = CostKey(Kind.REDUCE_GRADIENTS, 1)
    assert found.costs[key].duration_ns == round(
        launch + reduce_scatter_ns(2 * count, group, CLUSTER)
    )
    gather = found.costs[CostKey(Kind.GATHER_WEIGHTS, 1)]
    assert gather.parts == {"weight_gather": gather.duration_ns}
    assert gather.duration_ns == round(launch + all_gather_ns(2 * count, group, CLUSTER))
    step = CostKey(Kind.OPTIMIZER, 1)
    alone = found.costs[step].parts["optimizer"] - launch
    assert alone == pytest.approx((plain.costs[step].parts["optimizer"] - launch) / 8, rel=1e-3)
    norm = CostKey(Kind.GRADIENT_NORM, 1)
    assert found.costs[norm].duration_ns < plain.costs[norm].duration_ns


def full(cluster: Cluster = CLUSTER, **plan: object) -> tuple[Cost, Cost, CostTable]:
    found = table(scenario(cluster, sharding="full", **plan))
    return found.costs[CostKey(Kind.FORWARD, 0)], found.costs[CostKey(Kind.BACKWARD, 0)], found


def test_full_sharding_on_a_fast_network_costs_the_ends_alone() -> None:
    fast = replace(
        CLUSTER,
        device=replace(CLUSTER.device, efficiency=Efficiency(launch=1)),
        intra_node=Link(bandwidth=1e15, latency=0),
        inter_node=Link(bandwidth=1e15, latency=0),
    )
    forward, backward, found = full(fast)
    plain = table(scenario(fast))
    for cost, kind in ((forward, Kind.FORWARD), (backward, Kind.BACKWARD)):
        alone = plain.costs[CostKey(kind, 0)].duration_ns
        assert alone < cost.duration_ns < alone + 1000
    assert {k.kind for k in found.costs}.isdisjoint({Kind.REDUCE_GRADIENTS, Kind.GATHER_WEIGHTS})


def test_what_full_sharding_hides_slows_the_passes_by_the_share_given() -> None:
    """Linear in overlap_slowdown, from what is seen alone to all of the communication."""

    def forward_ns(slowdown: float) -> int:
        efficiency = Efficiency(overlap_slowdown=slowdown)
        device = replace(CLUSTER.device, efficiency=efficiency)
        return full(replace(CLUSTER, device=device))[0].duration_ns

    none, half, all_of_it = map(forward_ns, (0.0, 0.5, 1.0))
    assert none < half < all_of_it
    assert half - none == pytest.approx(all_of_it - half, abs=2)


def test_full_sharding_on_a_slow_network_costs_its_communication() -> None:
    """All weights gathered going forward; all but the embedding's again going backward (once, also
    with recomputation), and all gradients reduce-scattered; and the last part's computation."""
    slow = replace(CLUSTER, device=ALONE, inter_node=Link(bandwidth=1e8, latency=10_000))
    s = scenario(slow)
    group, launch = data_group(slow, s.plan), slow.device.efficiency.launch
    layer = 12 * 1024**2 + 13 * 1024
    embedding, head = (8192 + 512) * 1024, 8192 * 1024 + 2 * 1024

    def gathers(*counts: int) -> float:
        return sum(launch + all_gather_ns(2 * n, group, slow) for n in counts)

    matrices = [layer, 0, 0, 0] * 8  # Four a layer; only the sum of their sizes matters.
    everything = gathers(embedding, *matrices, head)
    again = gathers(*matrices, head)
    scatters = gathers(embedding, *[layer] * 8, head - 8192 * 1024)
    for recomputation in ("none", "full"):
        forward, backward, _ = full(slow, recomputation=recomputation)
        compute = part_times(setup_of(scenario(slow, recomputation=recomputation)), 512, 0)
        last = sum(compute["head"]["forward"].values())
        assert forward.duration_ns == pytest.approx(everything + last, rel=1e-6)
        last = sum(compute["embedding"]["backward"].values())
        assert backward.duration_ns == pytest.approx(again + scatters + last, rel=1e-6)
        assert backward.parts["weight_gather"] / backward.parts["data_parallel"] == pytest.approx(
            again / scatters, rel=1e-3
        )


@given(factor=st.floats(1.0, 20.0), what=st.sampled_from(["intra", "inter", "matmul", "memory"]))
def test_more_hardware_never_slows_sharded_plans_down(factor: float, what: str) -> None:
    device, fast = CLUSTER.device, CLUSTER
    if what == "matmul":
        fast = replace(fast, device=replace(device, matmul_peak={"fp16": 300e12 * factor}))
    elif what == "memory":
        fast = replace(fast, device=replace(device, memory_bandwidth=2e12 * factor))
    else:
        name = f"{what}_node"
        link = getattr(fast, name)
        fast = replace(fast, **{name: replace(link, bandwidth=link.bandwidth * factor)})
    for sharding in ("optimizer", "full"):
        quick, base = (scenario(c, sharding=sharding, microbatches=1) for c in (fast, CLUSTER))
        assert iteration_ns(quick) <= iteration_ns(base) + 5


def test_the_ends_load_data_and_the_step_checks_for_overflow() -> None:
    loading = replace(
        CLUSTER, device=replace(CLUSTER.device, efficiency=Efficiency(data_loading=5_000_000))
    )
    plan = {"pipeline": 4, "data": 4}
    found, plain = table(scenario(loading, **plan)), table(scenario(**plan))
    for stage in range(4):
        key = CostKey(Kind.FORWARD, stage)
        more = found.costs[key].duration_ns - plain.costs[key].duration_ns
        assert more == (5_000_000 if stage in (0, 3) else 0)
        assert found.costs[key].parts.get("data_loading", 0) == more
        key = CostKey(Kind.BACKWARD, stage)
        assert found.costs[key] == plain.costs[key]
    bf16 = replace(
        CLUSTER,
        device=replace(CLUSTER.device, matmul_peak={"fp16": 300e12, "bf16": 300e12}),
    )
    steps = [
        table(scenario(bf16, precision=p)).costs[CostKey(Kind.OPTIMIZER, 0)].parts["optimizer"]
        for p in ("fp16", "bf16")
    ]
    assert steps[0] > steps[1]


def test_sequence_parallelism_sums_the_gradients_of_norms() -> None:
    plain, shared = (
        table(scenario(tensor=8, data=2, sequence_parallel=on)) for on in (False, True)
    )
    key = CostKey(Kind.OPTIMIZER, 0)
    assert "tensor_parallel" not in plain.costs[key].parts
    assert shared.costs[key].parts["tensor_parallel"] > CLUSTER.intra_node.latency
    key = CostKey(Kind.FORWARD, 0)
    assert shared.costs[key].parts["memory_bound"] < plain.costs[key].parts["memory_bound"]
    assert shared.costs[key].parts["matmul"] == plain.costs[key].parts["matmul"]


def test_sequence_parallel_messages_are_shares_that_nobody_gathers() -> None:
    plan = {"tensor": 8, "pipeline": 2, "data": 1, "p2p": "blocking"}
    whole, scattered, shared = (
        table(scenario(**plan, **more))
        for more in ({}, {"scatter_gather": True}, {"sequence_parallel": True})
    )
    send, receive = CostKey(Kind.SEND_FORWARD, 0), CostKey(Kind.RECV_FORWARD, 1)
    assert whole.transfers[send].payload_bytes == 8 * shared.transfers[send].payload_bytes
    assert scattered.transfers[send] == shared.transfers[send]
    assert "point_to_point" in scattered.costs[receive].parts
    assert shared.costs[receive] == whole.costs[receive]
