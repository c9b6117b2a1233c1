"""Messages that one tensor rank sends for all, exchanged while the device stands still; links on
which messages reach more than collectives do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scenarios.loader import load
from scenarios.schema import Scenario
from sim.cost.collectives import Group, broadcast_ns
from sim.cost.links import Network, bytes_per_ns, message_bytes_per_ns
from sim.cost.measured import message_time_ns, profiled_message, with_parameters
from sim.cost.modelled import message, setup_of
from sim.cost.profile import MessageTime, Profile
from sim.cost.table import cost_table
from sim.schedule.actions import Kind
from sim.schedule.build import build_program


def scenario(name: str = "published/terapipe.latency/without/9", **plan: object) -> Scenario:
    found = load(name).scenario
    return replace(found, plan=replace(found.plan, **plan))  # type: ignore[arg-type]


def test_one_copy_crosses_the_nic_whichever_way() -> None:
    """Setting 9: stages of 4 GPUs, two a node; those of ranks 1 and 2 are on different nodes."""
    setup = setup_of(scenario())
    whole = 2 * 2048 * 12288
    for ends in ((1, 2), (2, 1)):
        transfer, _, unpack = message(setup, *ends, 2048)
        rate = message_bytes_per_ns(setup.cluster.inter_node)
        assert transfer.payload_bytes == whole
        assert transfer.occupancy_ns == pytest.approx(whole / rate, rel=1e-6)
        group = Group(per_node=4, nodes=1, active_per_node=8)
        spread = broadcast_ns(whole, group, setup.cluster)
        assert unpack["point_to_point"] == pytest.approx(spread)
    shares = setup_of(scenario(broadcast_messages=False, scatter_gather=True))
    gathered, _, _ = message(shares, 1, 2, 2048)
    copies = setup_of(scenario(broadcast_messages=False))
    four, _, _ = message(copies, 1, 2, 2048)
    assert gathered.occupancy_ns == pytest.approx(transfer.occupancy_ns, rel=1e-6)
    assert four.occupancy_ns == pytest.approx(4 * transfer.occupancy_ns, rel=1e-6)


def test_the_last_of_a_group_sends_forward_and_the_first_back() -> None:
    """Setting 9 by its devices' ports: 3 to 4 forward, 4 to 3 back, within the node."""
    network = Network(cluster=setup_of(scenario()).cluster, plan=scenario().plan)
    assert network.transfer(0, 1, 1).resources == (4 * 3 + 2, 4 * 4 + 3)
    assert network.transfer(1, 0, 1).resources == (4 * 3 + 3, 4 * 4 + 2)


def test_replicas_share_a_nic_with_each_other_s_copies() -> None:
    """Two replicas on a node, each with a copy of its own."""
    own = scenario(tensor=4, data=2, pipeline=48, placement="tensor-data-pipeline", global_batch=4)
    setup = setup_of(own)
    transfer, _, _ = message(setup, 0, 1, 2048)
    rate = message_bytes_per_ns(setup.cluster.inter_node)
    assert transfer.occupancy_ns == pytest.approx(2 * transfer.payload_bytes / rate, rel=1e-6)


def test_a_message_never_outruns_its_link() -> None:
    cluster = setup_of(scenario()).cluster
    link = replace(cluster.inter_node, efficiency=0.5, message_share=1.5)
    assert message_bytes_per_ns(link) == pytest.approx(1.5 * bytes_per_ns(link))
    link = replace(link, message_share=3.0)
    assert message_bytes_per_ns(link) == pytest.approx(link.bandwidth / 1e9)


def test_a_broadcast_passes_all_on_along_the_ring() -> None:
    cluster = setup_of(scenario()).cluster
    within = Group(per_node=8, nodes=1, active_per_node=8)
    fixed = broadcast_ns(0, within, cluster)
    assert fixed == pytest.approx(
        7 * cluster.intra_node.latency + cluster.device.efficiency.collective_launch
    )
    gained = broadcast_ns(1e9, within, cluster) - fixed
    assert gained == pytest.approx(1e9 / bytes_per_ns(cluster.intra_node))
    across = Group(per_node=8, nodes=2, active_per_node=8)
    assert broadcast_ns(1e9, across, cluster) > 10 * broadcast_ns(1e9, within, cluster)


def test_a_profile_s_messages_are_broadcast_as_well() -> None:
    """What was measured is one message alone: no run broadcasts."""
    setup = setup_of(scenario())
    line = MessageTime(fixed_ns=5_000.0, ns_per_byte=0.01, error=0.0)
    profile = Profile(device="d", provenance="", created="", unpack=line)
    _, _, modelled = message(setup, 1, 2, 2048)
    transfer, _, unpack = profiled_message(setup, profile, 1, 2, 2048)
    alone = message_time_ns(line, transfer.payload_bytes)
    assert unpack["point_to_point"] == pytest.approx(alone + modelled["point_to_point"])


def test_the_host_goes_on_in_an_exchange() -> None:
    """Its messages are waited for by the device, so they cost no fixed time of the host's."""
    for mode, there in (("blocking", True), ("exchange", False)):
        found = scenario("published/terapipe.latency/without/10", p2p=mode)
        assert found.cluster is not None
        slow = with_parameters(found.cluster, {"message_overhead": 1e6})
        program = build_program(replace(found, cluster=slow))
        table = cost_table(replace(found, cluster=slow), program)
        assert any(key.kind is Kind.EXCHANGE for key in table.costs) == there
