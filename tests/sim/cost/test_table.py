"""Cost tables: exact sums, the sum of the parts, monotonicity, given costs, profiles."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.schema import Cluster, Device, GivenCosts, Link, Model, Plan, Scenario, StageCosts
from sim.cost.costs import CostKey, CostTable
from sim.cost.measured import with_parameters
from sim.cost.modelled import part_times, setup_of
from sim.cost.parts import rounded, total_ns
from sim.cost.profile import Fitted, MessageTime, Profile
from sim.cost.shapes import PartTime, shape_of
from sim.cost.table import cost_table
from sim.schedule.actions import Action, Kind
from sim.schedule.build import build_program
from sim.schedule.lowering import Program, lower
from sim.schedule.schedule import Schedule, looped_placement

A100 = Device(
    name="A100",
    memory=80 * 2**30,
    memory_bandwidth=2.039e12,
    matmul_peak={"fp16": 312e12, "fp32": 19.5e12},
)
CLUSTER = Cluster(
    nodes=4,
    devices_per_node=8,
    device=A100,
    intra_node=Link(bandwidth=300e9, latency=8_000),
    inter_node=Link(bandwidth=25e9, latency=10_000),
    nics_per_node=8,
)
MODEL = Model(layers=8, hidden=1024, heads=16, sequence=512, vocabulary=51200)


def scenario(cluster: Cluster = CLUSTER, **plan: object) -> Scenario:
    fields = {"pipeline": 4, "tensor": 4, "data": 2, "microbatches": 4, "clip_gradients": True}
    return Scenario(
        name="s",
        model=MODEL,
        cluster=cluster,
        plan=Plan(**{**fields, **plan}),  # type: ignore[arg-type]
    )


def table(s: Scenario, profile: Profile | None = None) -> CostTable:
    return cost_table(s, build_program(s), profile)


@given(st.dictionaries(st.sampled_from(["matmul", "launch", "host"]), st.floats(0, 1e12)))
def test_rounding_is_exact(parts: dict[str, float]) -> None:
    cost = rounded(parts)  # type: ignore[arg-type]
    assert cost.duration_ns == round(total_ns(parts)) == sum(cost.parts.values())  # type: ignore[arg-type]
    assert all(n > 0 for n in cost.parts.values())


@pytest.mark.parametrize("recomputation", ["none", "selective", "full"])
@pytest.mark.parametrize("p2p", ["overlapped", "blocking"])
def test_every_cost_is_the_sum_of_its_parts(recomputation: str, p2p: str) -> None:
    found = table(scenario(recomputation=recomputation, p2p=p2p))
    assert {k.kind for k in found.costs} >= {
        Kind.FORWARD,
        Kind.BACKWARD,
        Kind.SEND_FORWARD,
        Kind.RECV_BACKWARD,
        Kind.REDUCE_GRADIENTS,
        Kind.REDUCE_TIED,
        Kind.GRADIENT_NORM,
        Kind.OPTIMIZER,
    }
    for cost in found.costs.values():
        assert cost.duration_ns == sum(cost.parts.values()) > 0
    assert ("recomputation" in found.costs[CostKey(Kind.BACKWARD, 3)].parts) == (
        recomputation != "none"
    )


def test_the_last_stage_is_slower() -> None:
    found = table(scenario())
    forward = [found.costs[CostKey(Kind.FORWARD, s)].duration_ns for s in range(4)]
    assert forward[3] > forward[0] > forward[1] == forward[2]


def test_all_degrees_one_is_the_sum_of_the_parts() -> None:
    s = scenario(replace(CLUSTER, nodes=1, devices_per_node=1), pipeline=1, tensor=1, data=1)
    found = table(s)
    times = part_times(setup_of(s), 512, 0)
    for kind, name in ((Kind.FORWARD, "forward"), (Kind.BACKWARD, "backward")):
        parts = {p: total_ns(times[p][name]) for p in ("layer", "embedding", "head")}  # type: ignore[index]
        expected = 8 * parts["layer"] + parts["embedding"] + parts["head"]
        assert found.costs[CostKey(kind, 0)].duration_ns == round(expected)
    kinds = {k.kind for k in found.costs}
    assert Kind.REDUCE_GRADIENTS not in kinds and Kind.REDUCE_TIED not in kinds
    assert not any("tensor_parallel" in c.parts for c in found.costs.values())


def slower_or_equal(a: CostTable, b: CostTable) -> bool:
    return all(c.duration_ns <= b.costs[k].duration_ns for k, c in a.costs.items()) and all(
        t.occupancy_ns + t.latency_ns <= b.transfers[k].occupancy_ns + b.transfers[k].latency_ns
        for k, t in a.transfers.items()
    )


@given(
    factor=st.floats(1.0, 10.0),
    what=st.sampled_from(["matmul", "memory", "intra", "inter", "nics"]),
    tensor=st.sampled_from([1, 4, 16]),
)
def test_more_hardware_never_slows_down(factor: float, what: str, tensor: int) -> None:
    slow = replace(CLUSTER, nics_per_node=2) if what == "nics" else CLUSTER
    device, intra, inter = slow.device, slow.intra_node, slow.inter_node
    if what == "matmul":
        peaks = {k: v * factor for k, v in device.matmul_peak.items()}
        fast = replace(slow, device=replace(device, matmul_peak=peaks))
    elif what == "memory":
        more = device.memory_bandwidth * factor
        fast = replace(slow, device=replace(device, memory_bandwidth=more))
    elif what == "intra":
        fast = replace(slow, intra_node=replace(intra, bandwidth=intra.bandwidth * factor))
    elif what == "inter":
        fast = replace(slow, inter_node=replace(inter, bandwidth=inter.bandwidth * factor))
    else:
        fast = replace(slow, nics_per_node=8)
    plan = {"tensor": tensor, "data": 32 // tensor // 2, "pipeline": 2}
    assert slower_or_equal(table(scenario(fast, **plan)), table(scenario(slow, **plan)))


def split_program(num_ranks: int = 1) -> Program:
    kinds = (Kind.FORWARD, Kind.BACKWARD_INPUT, Kind.BACKWARD_WEIGHT)
    return lower(
        Schedule(
            name="split",
            orders=tuple(tuple(Action(k, r, 0) for k in kinds) for r in range(num_ranks)),
            placement=looped_placement(num_ranks, num_ranks),
        )
    )


def given_scenario(**costs: object) -> Scenario:
    plan = Plan(pipeline=2, microbatches=2)
    return Scenario(name="s", plan=plan, costs=GivenCosts(**costs))  # type: ignore[arg-type]


def test_given_costs() -> None:
    s = given_scenario(
        forward=100,
        backward_input=110,
        backward_weight=50,
        send=7,
        stages={1: StageCosts(forward=130, backward=200, optimizer=9)},
    )
    found = table(s)
    assert found.costs[CostKey(Kind.FORWARD, 0)].duration_ns == 100
    assert found.costs[CostKey(Kind.BACKWARD, 0)].duration_ns == 160
    assert found.costs[CostKey(Kind.FORWARD, 1)].duration_ns == 130
    assert found.costs[CostKey(Kind.BACKWARD, 1)].duration_ns == 200
    assert found.costs[CostKey(Kind.OPTIMIZER, 1)].duration_ns == 9
    assert found.transfers[CostKey(Kind.SEND_FORWARD, 0)].occupancy_ns == 7
    assert found.transfers[CostKey(Kind.SEND_BACKWARD, 1)].resources != (
        found.transfers[CostKey(Kind.SEND_FORWARD, 0)].resources
    )
    assert not found.assumed


def test_given_whole_backward_under_a_split_schedule() -> None:
    found = cost_table(given_scenario(forward=100, backward=180), split_program())
    assert found.costs[CostKey(Kind.BACKWARD_INPUT, 0)].duration_ns == 90
    assert found.costs[CostKey(Kind.BACKWARD_WEIGHT, 0)].duration_ns == 90
    ((what, part),) = found.assumed
    assert "halves" in what and part == pytest.approx(180 / 280)
    found = cost_table(given_scenario(backward=180, backward_input=120), split_program())
    assert found.costs[CostKey(Kind.BACKWARD_WEIGHT, 0)].duration_ns == 60


def test_given_forward_alone() -> None:
    found = table(given_scenario(forward=100))
    assert found.costs[CostKey(Kind.BACKWARD, 0)].duration_ns == 200
    assert "twice" in found.assumed[0][0]


def profile_of(s: Scenario) -> Profile:
    parts = ("embedding", "layer", "head", "action")
    names = ("forward", "backward")
    values = {
        (p, n): PartTime(median_ns=1000.0 * (i + 1) * (j + 1), quartiles_ns=(1, 2), samples=3)
        for i, p in enumerate(parts)
        for j, n in enumerate(names)
    }
    return Profile(
        device="d",
        provenance="test",
        times={shape_of(s): values},  # type: ignore[dict-item]
        post=MessageTime(fixed_ns=10, ns_per_byte=0.0, error=0),
        transfer=MessageTime(fixed_ns=100, ns_per_byte=0.001, error=0),
    )


def test_measured_parts_add_up() -> None:
    s = scenario()
    found = table(s, profile_of(s))
    assert found.costs[CostKey(Kind.FORWARD, 0)].duration_ns == 4000 + 2 * 2000 + 1000
    assert found.costs[CostKey(Kind.BACKWARD, 3)].duration_ns == 2 * (4000 + 2 * 2000 + 3000)
    assert found.costs[CostKey(Kind.FORWARD, 1)].parts == {"measured": 8000}
    assert found.costs[CostKey(Kind.SEND_FORWARD, 0)].duration_ns == 10
    assert [what for what, _ in found.assumed] == [
        "gradient norm: not measured, device model as it is"
    ]


def test_measured_messages_are_of_one_node() -> None:
    """The line that was measured within a node does not replace what joins the nodes."""
    key = CostKey(Kind.SEND_FORWARD, 0)
    across = scenario()
    assert table(across, profile_of(across)).transfers[key] == table(across).transfers[key]
    node = replace(CLUSTER, nodes=1, devices_per_node=4, nics_per_node=1)
    within = scenario(node, tensor=1, data=1)
    transfer = table(within, profile_of(within)).transfers[key]
    assert (transfer.latency_ns, transfer.payload_bytes) == (100, 2 * 512 * 1024)


def test_other_shapes_are_assumed_with_their_share() -> None:
    s = scenario()
    found = table(replace(s, model=replace(MODEL, hidden=2048)), profile_of(s))
    assert 0.5 < sum(part for _, part in found.assumed) <= 1
    assert any("layer forward" in what for what, _ in found.assumed)


def test_fitted_parameters_replace_the_device_s() -> None:
    fitted = {"matmul_max": Fitted(value=0.3, interval=None)}
    slow = table(scenario(), Profile(device="d", provenance="test", efficiency=fitted))
    assert slower_or_equal(table(scenario()), slow)
    with pytest.raises(ValueError, match="no parameter is called 'speed'"):
        with_parameters(CLUSTER, {"speed": 1.0})


def test_what_is_missing_is_named() -> None:
    s = scenario()
    with pytest.raises(ValueError, match="no cluster"):
        cost_table(replace(s, cluster=None), build_program(s))
