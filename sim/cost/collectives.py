"""Collectives: all-reduce, reduce-scatter and all-gather, within a node and across nodes.

Within a node, ring and tree (Thakur et al. 2005; NCCL's double binary tree, Sanders et al. 2009);
across nodes, hierarchically: reduce-scatter inside each node, all-reduce of the shards across
nodes, all-gather inside. Every device sends its shard through its part of the node's NICs, which it
shares with the devices of the groups running beside.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from scenarios.schema import Cluster, Plan
from sim.cost.links import (
    Network,
    Placed,
    bytes_per_ns,
    devices_placed,
    placed,
)
from sim.cost.parts import larger


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Devices of a collective: `per_node` of them on each of `nodes` nodes.

    active_per_node: devices of a node that take part in this or in an equal group at the same time.
    """

    per_node: int
    nodes: int
    active_per_node: int

    @property
    def size(self) -> int:
        """Devices of the group."""
        return self.per_node * self.nodes


def group_of(devices: Sequence[int], network: Network, num_active: int | None = None) -> Group:
    """The group of the given devices; `num_active` devices of each node reduce at once, all of the
    plan's unless given. Where nodes hold unequal shares, the group counts as equally spread."""
    counts = Counter(network.node_of(device) for device in devices)
    cluster, plan = network.cluster, network.plan
    active = min(cluster.devices_per_node, num_active or plan.num_devices)
    per_node = math.ceil(len(devices) / len(counts))
    return Group(per_node=per_node, nodes=len(counts), active_per_node=max(active, per_node))


def whole_group(cluster: Cluster, plan: Plan) -> Group:
    """All devices of a plan."""
    per_node = min(cluster.devices_per_node, plan.num_devices)
    nodes = math.ceil(plan.num_devices / per_node)
    return Group(per_node=per_node, nodes=nodes, active_per_node=per_node)


def tensor_group(cluster: Cluster, plan: Plan) -> Group:
    """The tensor-parallel group that spans most nodes, with all others beside it."""
    return _beside_all_others(
        plan, cluster, _widest_tensor_group(placed(plan), cluster.devices_per_node)
    )


def data_group(cluster: Cluster, plan: Plan) -> Group:
    """The data-parallel group that spans most nodes, with all others beside it."""
    return _beside_all_others(
        plan, cluster, _widest_data_group(placed(plan), cluster.devices_per_node)
    )


def tied_group(cluster: Cluster, plan: Plan, ranks: Sequence[int]) -> Group:
    """Of the groups of counterparts on the given pipeline ranks the one that spans most nodes,
    with the other devices of these ranks, and no others, beside it."""
    return _tied_group(placed(plan), cluster.devices_per_node, tuple(ranks))


@lru_cache(maxsize=1024)
def _tied_group(where: Placed, devices_per_node: int, ranks: tuple[int, ...]) -> Group:
    held = [devices_placed(where)[rank] for rank in ranks]
    on_node = Counter(device // devices_per_node for rank in held for device in rank)
    per_node, nodes = _widest(zip(*held, strict=True), devices_per_node)
    return Group(per_node=per_node, nodes=nodes, active_per_node=max(per_node, *on_node.values()))


def _beside_all_others(plan: Plan, cluster: Cluster, spread: tuple[int, int]) -> Group:
    per_node, nodes = spread
    active = min(cluster.devices_per_node, plan.num_devices)
    return Group(per_node=per_node, nodes=nodes, active_per_node=max(active, per_node))


@lru_cache(maxsize=1024)
def _widest_tensor_group(where: Placed, devices_per_node: int) -> tuple[int, int]:
    t = where.tensor
    groups = (
        devices[i * t : (i + 1) * t] for devices in devices_placed(where) for i in range(where.data)
    )
    return _widest(groups, devices_per_node)


@lru_cache(maxsize=1024)
def _widest_data_group(where: Placed, devices_per_node: int) -> tuple[int, int]:
    groups = (
        devices[i :: where.tensor] for devices in devices_placed(where) for i in range(where.tensor)
    )
    return _widest(groups, devices_per_node)


def _widest(groups: Iterable[tuple[int, ...]], devices_per_node: int) -> tuple[int, int]:
    """Devices a node (the most, spread evenly) and nodes of the group that spans most nodes."""
    nodes, size = max((len({d // devices_per_node for d in group}), len(group)) for group in groups)
    return math.ceil(size / nodes), nodes


def across_bytes_per_ns(group: Group, cluster: Cluster) -> float:
    """What one device of the group reaches between nodes: a NIC, or its share of the node's."""
    fair = min(1.0, cluster.nics_per_node / group.active_per_node)
    return bytes_per_ns(cluster.inter_node) * fair / cluster.oversubscription


def all_reduce_ns(payload_bytes: float, group: Group, cluster: Cluster) -> float:
    """Time of an all-reduce of `payload_bytes` on each device, once all have come.

    The device's `collective_launch`, and within a node the cheaper of ring, 2(n-1) steps and
    2(n-1)/n of the bytes, and tree, 2 ceil(log2 n) steps and 2 of the bytes; across nodes the same
    over the shards.
    Not modelled: the protocol's lower bandwidth at small sizes, in-network reduction, pipelining of
    the three phases, the ramp between latency and bandwidth beyond the fixed time.
    """
    n, k = group.per_node, group.nodes
    within, fixed = cluster.intra_node, _fixed_ns(group, cluster)
    if k == 1:
        return fixed + _all_reduce_ns(payload_bytes, n, within.latency, bytes_per_ns(within))
    inside = 2 * _half_ns(payload_bytes, n, within.latency, bytes_per_ns(within))
    across = across_bytes_per_ns(group, cluster)
    return fixed + inside + _all_reduce_ns(payload_bytes / n, k, cluster.inter_node.latency, across)


def reduce_scatter_ns(payload_bytes: float, group: Group, cluster: Cluster) -> float:
    """Time of a reduce-scatter of `payload_bytes` on each device: inside nodes, then across.

    Not modelled: as `all_reduce_ns`.
    """
    n, k = group.per_node, group.nodes
    within = cluster.intra_node
    inside = _half_ns(payload_bytes, n, within.latency, bytes_per_ns(within))
    across = across_bytes_per_ns(group, cluster)
    across_ns = _half_ns(payload_bytes / n, k, cluster.inter_node.latency, across)
    return _fixed_ns(group, cluster) + inside + across_ns


def all_gather_ns(payload_bytes: float, group: Group, cluster: Cluster) -> float:
    """Time of an all-gather to `payload_bytes` on each device: a reduce-scatter backwards.

    Not modelled: as `all_reduce_ns`.
    """
    return reduce_scatter_ns(payload_bytes, group, cluster)


def broadcast_ns(payload_bytes: float, group: Group, cluster: Cluster) -> float:
    """Time of a broadcast of `payload_bytes` from one device to the others: all of them pass it on
    along a ring, piece by piece, between nodes each group through its share of a NIC.

    Not modelled: as `all_reduce_ns`.
    """
    within, across = cluster.intra_node, cluster.inter_node
    rate, latency = bytes_per_ns(within), (group.size - 1) * within.latency
    if group.nodes > 1:
        rate = min(rate, across_bytes_per_ns(group, cluster) * group.per_node)
        latency += (group.nodes - 1) * (across.latency - within.latency)
    return _fixed_ns(group, cluster) + latency + payload_bytes / rate


def _fixed_ns(group: Group, cluster: Cluster) -> float:
    """What every collective takes beside its steps; nothing where there is nobody to meet."""
    return float(cluster.device.efficiency.collective_launch) if group.size > 1 else 0.0


def takes_tree(payload_bytes: float, group: Group, cluster: Cluster) -> bool:
    """Whether `all_reduce_ns` goes by tree: within the node, or across nodes over the shards."""
    n, k = group.per_node, group.nodes
    if k == 1:
        within = cluster.intra_node
        forms = _ring_and_tree_ns(payload_bytes, n, within.latency, bytes_per_ns(within))
    else:
        across = across_bytes_per_ns(group, cluster)
        forms = _ring_and_tree_ns(payload_bytes / n, k, cluster.inter_node.latency, across)
    return forms[1] is not None and forms[1] < forms[0]


def _all_reduce_ns(payload_bytes: float, n: int, latency_ns: float, rate: float) -> float:
    """The cheaper of ring and tree over n equal devices; `rate` in bytes per nanosecond."""
    ring, tree = _ring_and_tree_ns(payload_bytes, n, latency_ns, rate)
    return ring if tree is None else -larger(-ring, -tree)


def _ring_and_tree_ns(
    payload_bytes: float, n: int, latency_ns: float, rate: float
) -> tuple[float, float | None]:
    """Both, of two devices only the ring."""
    ring = 2 * _half_ns(payload_bytes, n, latency_ns, rate)
    if n <= 2:
        return ring, None
    return ring, 2 * math.ceil(math.log2(n)) * latency_ns + 2 * payload_bytes / rate


def _half_ns(payload_bytes: float, n: int, latency_ns: float, rate: float) -> float:
    """A ring's reduce-scatter or all-gather: (n-1) steps and (n-1)/n of the bytes."""
    return (n - 1) * latency_ns + (n - 1) / n * payload_bytes / rate
