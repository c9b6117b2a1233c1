"""Link use: what each kind of link carries in an iteration, and how busy that keeps it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping

from scenarios.schema import Scenario
from sim.cost.links import Network
from sim.traffic.found import Flow, LinkUse
from sim.traffic.routes import Routes

IN_NODE = "Link of a device in its node"
NIC = "Network card (NIC)"
FABRIC = "Fabric, the share of a node"


def link_use(
    sent: Mapping[Flow, Routes], scenario: Scenario, iteration_ns: int
) -> tuple[LinkUse, ...]:
    """The use of devices' links within nodes, of network cards, and of the nodes' shares of the
    fabric, which carries `oversubscription` times less than the cards below it could; none without
    a cluster, and only the kinds that the plan's devices have between them.

    Not modelled: when within the iteration a link is busy.
    """
    cluster, plan = scenario.cluster, scenario.plan
    if cluster is None or iteration_ns <= 0:
        return ()
    network = Network(cluster=cluster, plan=plan)
    devices = range(cluster.num_devices)
    nics = {network.nic_of(device) for device in devices}
    within, across = cluster.intra_node.bandwidth, cluster.inter_node.bandwidth
    found: list[LinkUse] = []

    def add(
        link: str, name: str, number: int, rate: float, near: bool, at: Callable[[int], int]
    ) -> None:
        out, into = _carried(sent, cluster.devices_per_node, near, at)
        _, busiest, flows = max(
            (
                (sum(flows.values()), -end, flows)
                for way in (out, into)
                for end, flows in way.items()
            ),
            key=lambda one: one[:2],
            default=(0, 0, Counter[Flow]()),
        )
        num_bytes = sum(flows.values())
        found.append(
            LinkUse(
                link=link,
                bandwidth_bytes_per_s=rate,
                busiest=f"{name} {-busiest}" if num_bytes else "",
                busiest_bytes=num_bytes,
                mean_bytes=sum(sum(flows.values()) for flows in out.values()) / number,
                utilisation=num_bytes / (rate * iteration_ns / 1e9),
                flows=dict(flows),
            )
        )

    if cluster.devices_per_node > 1:
        add(IN_NODE, "device", cluster.num_devices, within, True, lambda device: device)
    if cluster.nodes > 1:
        add(NIC, "NIC", len(nics), across, False, network.nic_of)
        rate = across * len(nics) / cluster.nodes / cluster.oversubscription
        add(FABRIC, "node", cluster.nodes, rate, False, network.node_of)
    return tuple(found)


def _carried(
    sent: Mapping[Flow, Routes], devices_per_node: int, near: bool, at: Callable[[int], int]
) -> tuple[dict[int, Counter[Flow]], dict[int, Counter[Flow]]]:
    """Bytes by flow that leave and that enter each link, of what stays in its node or of the
    rest."""
    out: dict[int, Counter[Flow]] = defaultdict(Counter)
    into: dict[int, Counter[Flow]] = defaultdict(Counter)
    for flow, pairs in sent.items():
        for (source, target), num_bytes in pairs.items():
            if (source // devices_per_node == target // devices_per_node) is near:
                out[at(source)][flow] += num_bytes
                into[at(target)][flow] += num_bytes
    return out, into
