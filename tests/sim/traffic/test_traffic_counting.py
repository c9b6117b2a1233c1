"""Traffic against closed forms, against the cost model's own bytes, and against itself."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import pairwise, product

import pytest

from scenarios.catalogue import catalogue
from scenarios.loader import load
from scenarios.schema import PRECISION_BYTES, Scenario
from sim.cost.collectives import (
    across_bytes_per_ns,
    data_group,
    takes_tree,
    tensor_group,
)
from sim.cost.links import bytes_per_ns
from sim.prediction import Prediction, predict
from sim.schedule.actions import SENDS
from sim.traffic.counting import sent_bytes, traffic
from sim.traffic.found import Flow, Traffic
from sim.traffic.json import traffic_json
from sim.traffic.link_use import link_use
from sim.workload.parameters import (
    part_parameters,
    stage_parameters,
    token_table_parameters,
)
from sim.workload.partition import partition

FREE = (  # Collectives that take their bytes over their bandwidth, and nothing else.
    "cluster.device.efficiency.launch=0 ns",
    "cluster.device.efficiency.collective_launch=0 ns",
    "cluster.device.efficiency.layer_overhead=0 ns",
    "cluster.device.efficiency.pass_overhead=0 ns",
    "cluster.intra_node.latency=0 ns",
    "cluster.inter_node.latency=0 ns",
)


@cache
def predicted(name: str) -> Prediction:
    """Of the catalogue; the largest takes seconds."""
    return predict(load(name).scenario)


def small(*overrides: str) -> Scenario:
    """A GPT of 16 layers: tensor 4 x pipeline 4 x data 2 on four nodes of eight unless said."""
    base = (
        "model.layers=16",
        "model.hidden=512",
        "model.heads=8",
        "model.sequence=256",
        "model.vocabulary=8192",
        "cluster.nodes=4",
        "plan.schedule=1f1b",
        "plan.chunks=1",
        "plan.tensor=4",
        "plan.pipeline=4",
        "plan.data=2",
        "plan.micro_batch=2",
        "plan.global_batch=32",
        "plan.recomputation=none",
        "plan.scatter_gather=false",
    )
    return load("megatron/175b", [*base, *overrides]).scenario


def counted(scenario: Scenario) -> Traffic:
    found = traffic(predict(scenario))
    assert found is not None
    return found


def bsh(scenario: Scenario) -> int:
    """Bytes of a microbatch's activations between two layers."""
    assert scenario.model is not None
    return 2 * scenario.plan.micro_batch * scenario.model.sequence * scenario.model.hidden


def test_messages_are_bsh() -> None:
    """Between neighbouring stages, b s h elements a microbatch and direction (arXiv 2104.04473,
    section 3.2), from each tensor rank."""
    scenario = small()
    found = counted(scenario)
    plan = scenario.plan
    crossings = 2 * (plan.pipeline - 1) * plan.num_microbatches * plan.tensor * plan.data
    assert found.total_bytes["point_to_point"] == crossings * bsh(scenario)


def test_scatter_gather_sends_a_share() -> None:
    """1/t of it over the network (section 4.1); the rest is gathered within the receivers' node."""
    scenario = small("plan.scatter_gather=true")
    t, plan = scenario.plan.tensor, scenario.plan
    found = counted(scenario)
    assert found.node_bytes is not None
    crossings = 2 * (plan.pipeline - 1) * plan.num_microbatches * plan.data
    across = found.total_bytes["point_to_point"] - found.node_bytes["point_to_point"]
    assert across == crossings * bsh(scenario)
    assert found.node_bytes["point_to_point"] == crossings * (t - 1) * bsh(scenario)


@pytest.mark.parametrize(("recomputation", "collectives"), [("none", 4), ("full", 6)])
def test_tensor_parallel_traffic_of_layers(recomputation: str, collectives: int) -> None:
    """8 b s h (t - 1) / t elements a layer, microbatch and device (section 3.2): two all-reduces
    forward and two backward; recomputation repeats those of the forward pass."""
    scenario = small(f"plan.recomputation={recomputation}")
    plan = scenario.plan
    ranks = counted(scenario).rank_bytes
    each = collectives * 2 * bsh(scenario) * (plan.tensor - 1) // plan.tensor
    layers = 4 * plan.num_microbatches * each
    for rank in (1, 2):
        assert ranks[rank]["tensor_parallel"] == plan.tensor * plan.data * layers
    # The embedding sums looked-up rows; the head its input's gradient, and three numbers a token.
    one = 2 * bsh(scenario) * (plan.tensor - 1) // plan.tensor
    rows = plan.micro_batch * 256
    scalars = 3 * 2 * 4 * rows * (plan.tensor - 1) // plan.tensor
    copies = plan.num_microbatches * plan.tensor * plan.data
    assert ranks[0]["tensor_parallel"] - ranks[1]["tensor_parallel"] == copies * one
    assert ranks[3]["tensor_parallel"] - ranks[1]["tensor_parallel"] == copies * (one + scalars)


def test_sequence_parallelism_sends_no_more_but_what_it_gathers_again() -> None:
    """Reduce-scatters and all-gathers in place of the all-reduces, and two all-gathers more in a
    layer's backward pass (arXiv 2205.05198, section 4.2.2)."""
    plain, near = small(), small("plan.sequence_parallel=true")
    plan = near.plan
    again = 2 * bsh(near) * (plan.tensor - 1) // plan.tensor
    more = 4 * plan.num_microbatches * plan.tensor * plan.data * again
    a, b = (counted(one).rank_bytes[1]["tensor_parallel"] for one in (plain, near))
    # Gradients of norms and of second biases are summed once an iteration.
    norms = 4 * 6 * 512 * PRECISION_BYTES[plan.reduced_precision]
    assert b - a == more + 2 * norms * (plan.tensor - 1) * plan.data
    found = counted(near)
    crossings = 2 * (plan.pipeline - 1) * plan.num_microbatches * plan.data
    assert found.total_bytes["point_to_point"] == crossings * bsh(near)


@pytest.mark.parametrize("sharding", ["none", "optimizer"])
def test_replicas(sharding: str) -> None:
    """An all-reduce of a stage's gradients; or a reduce-scatter, and an all-gather of its
    weights."""
    scenario = small(f"plan.sharding={sharding}")
    plan, found = scenario.plan, counted(scenario)
    gradient = PRECISION_BYTES[plan.reduced_precision]
    all_but_one = plan.data - 1
    for part, own in zip(partition(scenario), found.rank_bytes, strict=True):
        count = plan.tensor * stage_parameters(part, scenario)
        if sharding == "none":
            assert own["data_parallel"] == 2 * all_but_one * count * gradient
            assert "weight_gather" not in own
        else:
            assert own["data_parallel"] == all_but_one * count * gradient
            assert own["weight_gather"] == all_but_one * count * 2


def test_full_sharding_gathers_in_every_pass() -> None:
    """Weights twice a microbatch, the embedding's only for its lookup; gradients once."""
    scenario = small("plan.sharding=full", "plan.pipeline=1", "plan.data=8")
    plan, found = scenario.plan, counted(scenario)
    (part,) = partition(scenario)
    sizes = part_parameters(part, scenario)
    again = 16 * sizes["layer"] + sizes["head"]
    each = plan.num_microbatches * (plan.data - 1) * plan.tensor
    assert found.total_bytes["weight_gather"] == each * 2 * (2 * again + sizes["embedding"])
    gradient = PRECISION_BYTES[plan.reduced_precision]
    assert found.total_bytes["data_parallel"] == each * gradient * stage_parameters(part, scenario)


def test_buckets_send_as_much_as_one_reduction() -> None:
    whole = counted(small())
    cut = counted(small("plan.gradient_reduction=overlapped", "plan.gradient_bucket=1 MB"))
    assert cut.total_bytes == whole.total_bytes


def test_tied_table_and_norm() -> None:
    scenario = small("plan.clip_gradients=true")
    assert scenario.model is not None
    plan, found = scenario.plan, counted(scenario)
    table = token_table_parameters(scenario.model, plan.tensor)
    width = PRECISION_BYTES[plan.reduced_precision]
    assert found.total_bytes["tied_embedding"] == 2 * plan.tensor * plan.data * table * width
    assert found.total_bytes["gradient_norm"] == 2 * (plan.num_devices - 1) * 4


def test_broadcast_messages() -> None:
    """One tensor rank sends each message for all, and it goes on along the others."""
    scenario = small("plan.broadcast_messages=true")
    plan, found = scenario.plan, counted(scenario)
    crossings = 2 * (plan.pipeline - 1) * plan.num_microbatches * plan.data
    assert found.total_bytes["point_to_point"] == crossings * plan.tensor * bsh(scenario)
    assert found.node_bytes is not None
    near = found.node_bytes["point_to_point"]
    assert near == crossings * (plan.tensor - 1) * bsh(scenario)
    # Forward the last sends to the first, and it goes up; back the first to the last, and down.
    sent = sent_bytes(scenario, predict(scenario).program)["point_to_point"]
    one = [plan.device_of(1, 0, part) for part in range(plan.tensor)]
    two = [plan.device_of(2, 0, part) for part in range(plan.tensor)]
    across = {(a, b) for a, b in sent if {a, b} & set(one) and {a, b} & set(two)}
    assert across == {(one[-1], two[0]), (two[0], one[-1])}
    whole = plan.num_microbatches * bsh(scenario)
    for rank in (0, 3):
        own = [plan.device_of(rank, 0, part) for part in range(plan.tensor)]
        steps = list(pairwise(own if rank else own[::-1]))
        assert {pair: sent[pair] for pair in sent if set(pair) <= set(own)} == dict.fromkeys(
            steps, whole
        )


def times_of(prediction: Prediction, category: str) -> Counter[int]:
    """Nanoseconds of a category by pipeline rank, over its whole program."""
    found = Counter[int]()
    for rank, steps in enumerate(prediction.program.steps):
        for step in steps:
            for action in step:
                found[rank] += prediction.costs.cost(action).parts.get(category, 0)  # type: ignore[call-overload]
    return found


@pytest.mark.parametrize("tensor", [2, 4, 8])
def test_agrees_with_the_times_of_collectives(tensor: int) -> None:
    """Where nothing but bandwidth counts, a ring's bytes are the cost model's time x bandwidth."""
    data = 8 // tensor
    scenario = small(*FREE, f"plan.tensor={tensor}", f"plan.data={data}")
    prediction = predict(scenario)
    cluster = scenario.cluster
    assert cluster is not None
    assert not takes_tree(1 << 20, tensor_group(cluster, scenario.plan), cluster)
    rate = bytes_per_ns(cluster.intra_node)
    found = traffic(prediction)
    assert found is not None
    for rank, time_ns in times_of(prediction, "tensor_parallel").items():
        own = found.rank_bytes[rank]["tensor_parallel"] / (tensor * data)
        assert own == pytest.approx(time_ns * rate, rel=1e-3)
    for rank, time_ns in times_of(prediction, "data_parallel").items():
        if data > 1:  # Replicas of a rank are neighbours, in one node.
            own = found.rank_bytes[rank]["data_parallel"] / (tensor * data)
            assert own == pytest.approx(time_ns * rate, rel=1e-3)


@pytest.mark.parametrize("placement", ["tensor-pipeline-data", "data-tensor-pipeline"])
def test_agrees_with_the_times_across_nodes(placement: str) -> None:
    """Of replicas one on each node, and of sixteen over two nodes, what goes within nodes and
    across takes the reduction's time, each at its bandwidth."""
    size = ("plan.tensor=1", "plan.pipeline=8", "plan.data=4")
    if placement == "data-tensor-pipeline":
        size = ("plan.tensor=1", "plan.pipeline=2", "plan.data=16")
    scenario = small(*FREE, *size, f"plan.placement={placement}", "plan.global_batch=64")
    prediction, cluster, plan = predict(scenario), scenario.cluster, scenario.plan
    assert cluster is not None
    group = data_group(cluster, plan)
    assert group.nodes > 1 and not takes_tree(1 << 20, group, cluster)
    near, far = bytes_per_ns(cluster.intra_node), across_bytes_per_ns(group, cluster)
    sent = sent_bytes(scenario, prediction.program)["data_parallel"]
    times = times_of(prediction, "data_parallel")
    for rank in range(plan.pipeline):
        for device in (plan.device_of(rank, replica, 0) for replica in range(plan.data)):
            time = 0.0
            for (a, b), num_bytes in sent.items():
                if a == device:
                    time += num_bytes / (near if a // 8 == b // 8 else far)
            assert time == pytest.approx(times[rank], rel=1e-4)


@pytest.mark.parametrize(
    "name", ["local/local-interleaved", "terapipe/13b-setting5", "pipetransformer/bert-squad"]
)
def test_messages_are_those_of_the_costs(name: str) -> None:
    prediction = predicted(name)
    plan = prediction.scenario.plan
    found = traffic(prediction)
    assert found is not None and not plan.scatter_gather
    sent = sum(
        prediction.costs.transfer(action).payload_bytes
        for steps in prediction.program.steps
        for step in steps
        for action in step
        if action.kind in SENDS
    )
    copies = plan.data if plan.broadcast_messages else plan.data * plan.tensor
    spread = plan.tensor if plan.broadcast_messages else 1
    assert found.total_bytes["point_to_point"] == sent * copies * spread


SCENARIOS = [entry.name for entry in catalogue() if entry.kind == "scenario"]
LARGE = ("megatron/175b", "megatron/1t", "planning/gpt3-175b-dgx-a100")


@pytest.mark.parametrize("name", [n for n in SCENARIOS if n != "megatron/175b-run"])
def test_no_link_carries_more_than_it_can(name: str) -> None:
    prediction = predicted(name)
    found = traffic(prediction)
    if prediction.scenario.model is None:
        assert found is None
        return
    assert found is not None
    assert all(0 <= link.utilisation <= 1 for link in found.links)
    assert all(link.mean_bytes <= link.busiest_bytes for link in found.links)
    consistent(found)
    assert (name in LARGE) == bool(found.matrix.note)


def consistent(found: Traffic) -> None:
    """Matrix, ranks, links and totals tell of the same bytes."""
    matrix, size = found.matrix, len(found.matrix.labels)
    for flow, rows in matrix.flows.items():
        assert len(rows) == size and all(len(row) == size for row in rows)
        shown = sum(map(sum, rows))
        whole = found.total_bytes[flow]
        assert shown == whole if matrix.shown == matrix.of else shown <= whole
        assert sum(own.get(flow, 0) for own in found.rank_bytes) == whole
        assert found.node_bytes is None or 0 <= found.node_bytes[flow] <= whole
    for link in found.links:
        assert sum(link.flows.values()) == link.busiest_bytes
    assert len(matrix.about) == size == matrix.shown


@pytest.mark.parametrize(
    "placement", ["tensor-data-pipeline", "pipeline-data-tensor", "data-pipeline-tensor"]
)
def test_placement_decides_what_stays_near(placement: str) -> None:
    """The bytes are the same wherever ranks are; which of them cross a node is the placement's."""
    scenario = small(f"plan.placement={placement}")
    found, plan = counted(scenario), scenario.plan
    base = counted(small())
    consistent(found)
    assert found.total_bytes == base.total_bytes
    assert found.node_bytes is not None and found.matrix.ends == "device"
    inner = placement.split("-")[0]
    flow = {"tensor": "tensor_parallel", "pipeline": "point_to_point", "data": "data_parallel"}
    near = found.node_bytes[flow[inner]]  # type: ignore[index]
    assert near == found.total_bytes[flow[inner]]  # type: ignore[index]
    outer = placement.split("-")[-1]
    assert found.node_bytes[flow[outer]] < found.total_bytes[flow[outer]]  # type: ignore[index]
    assert plan.num_devices == found.matrix.of == 32


def test_replicas_are_alike() -> None:
    """What replicas send among themselves is the same for each, device for device."""
    scenario = small("plan.scatter_gather=true")
    plan, program = scenario.plan, predict(scenario).program
    sent = sent_bytes(scenario, program)
    places = list(product(range(plan.pipeline), range(plan.tensor)))
    for flow in ("tensor_parallel", "point_to_point"):
        by_replica = []
        for replica in range(plan.data):
            index = {plan.device_of(rank, replica, part): (rank, part) for rank, part in places}
            pairs = sent[flow].items()
            by_replica.append({(index[a], index[b]): n for (a, b), n in pairs if a in index})
        assert by_replica[0] and all(one == by_replica[0] for one in by_replica[1:])


def test_replicas_unevenly_over_nodes() -> None:
    """Three replicas of two tensor ranks do not divide nodes of eight; no byte is lost."""
    scenario = small("plan.tensor=2", "plan.data=4", "plan.pipeline=4")
    uneven = small(
        *("plan.tensor=2", "plan.data=3", "plan.pipeline=4", "plan.global_batch=24"),
        "cluster.nodes=3",
    )
    a, b = counted(scenario), counted(uneven)
    consistent(b)
    gradients = a.total_bytes["data_parallel"] / (2 * 3)
    assert b.total_bytes["data_parallel"] == gradients * 2 * 2
    assert b.node_bytes is not None
    assert 0 < b.node_bytes["data_parallel"] < b.total_bytes["data_parallel"]


def test_without_a_cluster_ranks_are_the_ends() -> None:
    scenario = small()
    prediction = predict(scenario)
    bare = replace(prediction, scenario=replace(scenario, cluster=None))
    found, with_cluster = traffic(bare), traffic(prediction)
    assert found is not None and with_cluster is not None
    consistent(found)
    assert found.matrix.ends == "rank" and found.matrix.labels == ("0", "1", "2", "3")
    assert found.links == () and found.node_bytes is None and found.near_share is None
    assert found.total_bytes == with_cluster.total_bytes


def test_nodes_of_a_large_cluster() -> None:
    found = traffic(predicted("megatron/1t"))
    assert found is not None
    assert (found.matrix.ends, found.matrix.shown, found.matrix.of) == ("node", 64, 384)
    assert "the first replica" in found.matrix.note and "nodes not shown" in found.matrix.note
    assert found.matrix.about[1] == "pipeline rank 1, replica 0"
    # The pipeline of one replica: a node talks to itself and to its neighbours, round the chunks.
    for row, columns in enumerate(found.matrix.flows["point_to_point"]):
        talks = {column for column, num_bytes in enumerate(columns) if num_bytes}
        assert talks <= {(row + step) % 64 for step in (-1, 0, 1)}


def test_more_nodes_than_one_replica_may_show() -> None:
    scenario = small(
        *("model.layers=72", "plan.pipeline=72", "plan.tensor=8", "plan.data=1"),
        *("cluster.nodes=72", "plan.global_batch=4"),
    )
    found = counted(scenario)
    assert (found.matrix.shown, found.matrix.of) == (64, 72)
    assert found.matrix.labels == tuple(map(str, range(64)))
    assert "first pipeline ranks" in found.matrix.note


def test_oversubscription_and_shared_cards_make_links_busier() -> None:
    plain = counted(small())
    tight = counted(small("cluster.oversubscription=4", "cluster.nics_per_node=2"))
    assert [link.link for link in plain.links] == [link.link for link in tight.links]
    nic, fabric = plain.links[1], plain.links[2]
    shared, narrow = tight.links[1], tight.links[2]
    assert nic.bandwidth_bytes_per_s * 8 == fabric.bandwidth_bytes_per_s
    assert shared.mean_bytes == pytest.approx(4 * nic.mean_bytes)
    assert narrow.bandwidth_bytes_per_s == shared.bandwidth_bytes_per_s * 2 / 4
    assert narrow.mean_bytes == fabric.mean_bytes
    assert sum(nic.flows.values()) == nic.busiest_bytes


def test_the_busier_direction_of_the_busiest_link_counts() -> None:
    scenario = small("cluster.nics_per_node=4")
    sent: dict[Flow, dict[tuple[int, int], int]] = {
        "data_parallel": {(0, 1): 5, (8, 1): 30, (16, 1): 20},
        "tensor_parallel": {(16, 1): 1, (2, 1): 4, (3, 2): 7},
    }
    inside, card, fabric = link_use(sent, scenario, 1_000_000_000)
    assert (inside.busiest, inside.busiest_bytes) == ("device 1", 9)
    assert inside.flows == {"data_parallel": 5, "tensor_parallel": 4}
    assert inside.mean_bytes == 16 / 32
    assert (card.busiest, card.busiest_bytes, card.mean_bytes) == ("NIC 0", 51, 51 / 16)
    assert card.utilisation == 51 / card.bandwidth_bytes_per_s
    assert (fabric.busiest, fabric.busiest_bytes, fabric.mean_bytes) == ("node 0", 51, 51 / 4)


def test_json_has_every_pair() -> None:
    found = counted(small())
    value = json.loads(json.dumps(traffic_json(found), allow_nan=False))
    for flow, pairs in value["matrix"]["flows"].items():
        assert sum(num_bytes for _, _, num_bytes in pairs) == found.total_bytes[flow]
    assert value["sent_bytes"] == found.sent_bytes
    assert value["near_share"] == found.near_share
    assert value["links"][1]["utilisation"] == found.links[1].utilisation
