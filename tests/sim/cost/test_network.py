"""Links and collectives: limits, placement, and measured all-reduces."""

from __future__ import annotations

import csv
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.schema import Cluster, Device, Link, Plan
from sim.cost.collectives import (
    Group,
    all_gather_ns,
    all_reduce_ns,
    data_group,
    reduce_scatter_ns,
    tensor_group,
)
from sim.cost.links import Network

DATA = Path(__file__).parents[4] / "shared" / "data" / "nccl_allreduce.csv"
CLUSTER = Cluster(
    nodes=8,
    devices_per_node=8,
    device=Device(name="d", memory=1, memory_bandwidth=1e12, matmul_peak={"fp16": 1e12}),
    intra_node=Link(bandwidth=300e9, latency=8_000, efficiency=0.78),
    inter_node=Link(bandwidth=25e9, latency=10_000, efficiency=0.8),
    nics_per_node=8,
)


def network(tensor: int, data: int, pipeline: int, **changes: object) -> Network:
    cluster = replace(CLUSTER, **changes)  # type: ignore[arg-type]
    return Network(cluster=cluster, plan=Plan(tensor=tensor, data=data, pipeline=pipeline))


def test_large_and_small_all_reduces() -> None:
    """2(n-1)/n of the bytes at the link's bandwidth; the latency of the fewest steps."""
    group = Group(per_node=8, nodes=1, active_per_node=8)
    large = all_reduce_ns(1e12, group, CLUSTER)
    assert large == pytest.approx(2 * 7 / 8 * 1e12 / (300 * 0.78), rel=1e-3)
    assert all_reduce_ns(0, group, CLUSTER) == 2 * 3 * 8_000
    alone = Group(per_node=1, nodes=1, active_per_node=8)
    assert all_reduce_ns(1e9, alone, CLUSTER) == 0


@given(st.integers(0, 10**10), st.integers(1, 8), st.integers(1, 16))
def test_all_reduce_is_at_most_its_halves(payload: int, per_node: int, nodes: int) -> None:
    group = Group(per_node=per_node, nodes=nodes, active_per_node=8)
    halves = reduce_scatter_ns(payload, group, CLUSTER) + all_gather_ns(payload, group, CLUSTER)
    assert all_reduce_ns(payload, group, CLUSTER) <= halves * (1 + 1e-12)
    more = all_reduce_ns(payload + 1000, group, CLUSTER)
    assert all_reduce_ns(payload, group, CLUSTER) <= more


def test_groups() -> None:
    plan = Plan(tensor=16, data=2, pipeline=2)
    assert tensor_group(CLUSTER, plan) == Group(per_node=8, nodes=2, active_per_node=8)
    assert data_group(CLUSTER, plan) == Group(per_node=1, nodes=2, active_per_node=8)
    plan = Plan(tensor=2, data=8, pipeline=4)
    assert data_group(CLUSTER, plan) == Group(per_node=4, nodes=2, active_per_node=8)


def test_an_all_reduce_over_nodes_uses_all_its_nics() -> None:
    """A tensor group of 16 sends its shards over 8 NICs: far faster than a flat ring over one."""
    group = Group(per_node=8, nodes=2, active_per_node=8)
    flat = 2 * 15 / 16 * 1e9 / (25 * 0.8)
    assert all_reduce_ns(1e9, group, CLUSTER) < flat / 3
    few = replace(CLUSTER, nics_per_node=1)
    assert all_reduce_ns(1e9, group, few) > 3 * all_reduce_ns(1e9, group, CLUSTER)


def test_messages_within_a_node_use_their_ports() -> None:
    net = network(2, 1, 4)
    transfer = net.transfer(0, 1, 1 << 20)
    assert transfer.resources == (2, 11)
    assert transfer.occupancy_ns == round((1 << 20) / (300 * 0.78))
    assert net.transfer(1, 0, 1 << 20).resources == (3, 10)


def test_copies_share_the_nics() -> None:
    own = network(8, 1, 2).transfer(0, 1, 10**8)
    assert own.occupancy_ns == round(10**8 / 20)
    assert own.latency_ns == 10_000
    shared = network(8, 1, 2, nics_per_node=1).transfer(0, 1, 10**8)
    assert shared.occupancy_ns == 8 * own.occupancy_ns
    thin = network(8, 1, 2, oversubscription=2.0).transfer(0, 1, 10**8)
    assert thin.occupancy_ns == 2 * own.occupancy_ns


def test_pipeline_ranks_of_a_node_share_its_nic() -> None:
    """p = 16 on nodes of 8 with one NIC: only ranks 7 and 8 talk across, in both directions."""
    net = network(1, 1, 16, nics_per_node=1)
    assert net.transfer(7, 8, 100).resources == (0, 5)
    assert net.transfer(8, 7, 100).resources == (1, 4)
    assert 0 not in net.transfer(6, 7, 100).resources


def test_message_share_lowers_only_messages() -> None:
    """Half of what collectives reach: a message holds its links for twice as long."""
    whole = network(1, 1, 16)
    link = replace(CLUSTER.inter_node, message_share=0.5)
    halved = replace(whole, cluster=replace(whole.cluster, inter_node=link))
    before, after = (n.transfer(7, 8, 10**9).occupancy_ns for n in (whole, halved))
    assert after == pytest.approx(2 * before, abs=1)


@pytest.mark.skipif(not DATA.exists(), reason="the measured all-reduces are not here")
def test_measured_all_reduces_of_a100() -> None:
    """NCCL on 2 to 8 A100 of one node, 1 MB to 1 GB: within 12 % on average."""
    errors = []
    with DATA.open() as stream:
        for row in csv.DictReader(stream):
            if row["gpu"] == "a100":
                group = Group(per_node=int(row["ranks"]), nodes=1, active_per_node=8)
                time = all_reduce_ns(int(row["bytes"]), group, CLUSTER)
                errors.append(time / (float(row["out_of_place_us"]) * 1e3) - 1)
    assert statistics.fmean(abs(e) for e in errors) < 0.12
