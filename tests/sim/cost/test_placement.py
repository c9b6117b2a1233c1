"""Where ranks sit decides which links their groups and messages use."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scenarios.rules import check
from scenarios.schema import Cluster, Device, Link, Model, Plan, Scenario
from sim.cost.collectives import Group, data_group, tensor_group, tied_group
from sim.cost.costs import CostKey
from sim.cost.links import Network
from sim.cost.table import cost_table
from sim.schedule.actions import Kind
from sim.schedule.build import build_program

CLUSTER = Cluster(
    nodes=4,
    devices_per_node=8,
    device=Device(name="d", memory=80 << 30, memory_bandwidth=2e12, matmul_peak={"fp16": 3e14}),
    intra_node=Link(bandwidth=300e9, latency=1_000),
    inter_node=Link(bandwidth=25e9, latency=9_000),
    nics_per_node=8,
)
MODEL = Model(layers=8, hidden=1024, heads=16, sequence=512, vocabulary=8192)


def plan(placement: str, tensor: int = 4, pipeline: int = 4, data: int = 2, **more: object) -> Plan:
    return Plan(
        tensor=tensor,
        pipeline=pipeline,
        data=data,
        placement=placement,  # type: ignore[arg-type]
        microbatches=4,
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("placement", "tensor", "data"),
    [
        # Of 8 devices a node: 4 x 2, 4 x 2, 2 x 4 and so on of the two innermost degrees.
        ("tensor-data-pipeline", (4, 1), (2, 1)),
        ("tensor-pipeline-data", (4, 1), (1, 2)),
        ("data-tensor-pipeline", (4, 1), (2, 1)),
        ("data-pipeline-tensor", (1, 4), (2, 1)),
        ("pipeline-tensor-data", (2, 2), (1, 2)),
        ("pipeline-data-tensor", (1, 4), (2, 1)),
    ],
)
def test_groups_span_the_nodes_that_the_placement_gives_them(
    placement: str, tensor: tuple[int, int], data: tuple[int, int]
) -> None:
    p = plan(placement)
    assert tensor_group(CLUSTER, p) == Group(per_node=tensor[0], nodes=tensor[1], active_per_node=8)
    assert data_group(CLUSTER, p) == Group(per_node=data[0], nodes=data[1], active_per_node=8)


def test_every_device_holds_one_rank() -> None:
    for placement in ("tensor-data-pipeline", "pipeline-tensor-data", "data-pipeline-tensor"):
        network = Network(cluster=CLUSTER, plan=plan(placement))
        held = sorted(device for rank in range(4) for device in network.devices_of(rank))
        assert held == list(range(32))
    network = Network(cluster=CLUSTER, plan=plan("tensor-data-pipeline"))
    assert network.devices_of(1) == tuple(range(8, 16))
    network = Network(cluster=CLUSTER, plan=plan("pipeline-tensor-data"))
    assert network.devices_of(1) == tuple(range(1, 32, 4))


def test_pipeline_innermost_sends_within_the_node_and_reduces_across() -> None:
    inner, outer = (
        Network(cluster=CLUSTER, plan=plan(name))
        for name in ("pipeline-tensor-data", "tensor-data-pipeline")
    )
    assert inner.transfer(0, 1, 10**6).latency_ns == 1_000
    assert outer.transfer(0, 1, 10**6).latency_ns == 9_000
    tables = {}
    for name in ("pipeline-tensor-data", "tensor-data-pipeline"):
        s = Scenario(name="s", model=MODEL, cluster=CLUSTER, plan=plan(name))
        assert not check(s)
        tables[name] = cost_table(s, build_program(s)).costs
    near, far = tables["tensor-data-pipeline"], tables["pipeline-tensor-data"]
    for key, part in (
        (CostKey(Kind.FORWARD, 1), "tensor_parallel"),
        (CostKey(Kind.REDUCE_GRADIENTS, 1), "data_parallel"),
    ):
        assert far[key].parts[part] > 2 * near[key].parts[part]  # type: ignore[index]


def test_devices_as_given_are_the_placement_written_out() -> None:
    placed = plan("pipeline-data-tensor")
    devices = tuple(
        placed.device_of(rank, replica, part)
        for rank in range(4)
        for replica in range(2)
        for part in range(4)
    )
    given = replace(placed, placement="tensor-data-pipeline", devices=devices)
    tables = []
    for p in (placed, given):
        s = Scenario(name="s", model=MODEL, cluster=CLUSTER, plan=p)
        assert not check(s)
        tables.append(cost_table(s, build_program(s)))
    assert tables[0] == tables[1]


def test_the_widest_of_unlike_groups_decides() -> None:
    """Three neighbours a group on nodes of 8: the third group lies on two nodes."""
    cluster = replace(CLUSTER, nodes=3)
    p = plan("tensor-data-pipeline", tensor=3, pipeline=4, data=2)
    assert tensor_group(cluster, p) == Group(per_node=2, nodes=2, active_per_node=8)


def test_only_the_ends_meet_over_tied_embeddings() -> None:
    p = plan("tensor-data-pipeline")
    assert tied_group(CLUSTER, p, (0, 3)) == Group(per_node=1, nodes=2, active_per_node=8)
    p = plan("pipeline-tensor-data")
    assert tied_group(CLUSTER, p, (0, 3)) == Group(per_node=2, nodes=1, active_per_node=4)
