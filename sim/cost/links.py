"""Links: where devices sit, which link a message holds, and for how long.

Which device holds a rank is the plan's to say (`Plan.device_of`); unless it does otherwise, tensor
ranks are innermost, data replicas next, pipeline ranks outermost, as Megatron-LM places them (arXiv
2104.04473, commit 6985e589). Device i is on node i div devices_per_node. One pipeline stands for
t x d copies of itself that do the same at the same time; a message's occupancy counts those that
share its NIC.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from scenarios.schema import Cluster, Link, Plan
from sim.cost.costs import Transfer


def bytes_per_ns(link: Link) -> float:
    """What large collectives reach on a link, in bytes per nanosecond."""
    return link.bandwidth * link.efficiency / 1e9


def message_bytes_per_ns(link: Link) -> float:
    """What one large message between two devices reaches on a link, in bytes per nanosecond."""
    return min(link.bandwidth / 1e9, bytes_per_ns(link) * link.message_share)


class Placed(NamedTuple):
    """Where a plan puts its ranks: all of it that links and groups depend on, whatever the rest."""

    tensor: int
    data: int
    pipeline: int
    placement: str
    devices: tuple[int, ...] | None
    broadcast_messages: bool


def placed(plan: Plan) -> Placed:
    """What of a plan says where its ranks are."""
    return Placed(
        plan.tensor,
        plan.data,
        plan.pipeline,
        plan.placement,
        plan.devices,
        plan.broadcast_messages,
    )


def devices_by_rank(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """The devices of each pipeline rank: its data replicas in turn, tensor ranks innermost."""
    return devices_placed(placed(plan))


@lru_cache(maxsize=256)
def devices_placed(where: Placed) -> tuple[tuple[int, ...], ...]:
    """The same by where the ranks are."""
    tensor, data, pipeline, placement, devices, _ = where
    plan = Plan(
        tensor=tensor,
        data=data,
        pipeline=pipeline,
        placement=placement,  # type: ignore[arg-type]
        devices=devices,
    )
    if devices is not None:
        return tuple(
            tuple(plan.device_of(r, i, part) for i in range(data) for part in range(tensor))
            for r in range(pipeline)
        )
    # A placement gives each degree a step between neighbours.
    onward, beside, within = (plan.device_of(*one) for one in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    return tuple(
        tuple(
            r * onward + i * beside + part * within for i in range(data) for part in range(tensor)
        )
        for r in range(pipeline)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The links between the pipeline ranks of a plan on a cluster."""

    cluster: Cluster
    plan: Plan

    def node_of(self, device: int) -> int:
        """The node a device is on."""
        return device // self.cluster.devices_per_node

    def nic_of(self, device: int) -> int:
        """The NIC a device sends and receives through, numbered over all nodes.

        Devices are shared out evenly over the NICs of their node, neighbours together; where there
        are more NICs than devices, a device uses one.
        """
        return _nic_of(device, self.cluster.devices_per_node, self.cluster.nics_per_node)

    def devices_of(self, rank: int) -> tuple[int, ...]:
        """The devices of a pipeline rank, its data replicas in turn, their tensor ranks innermost.

        Raises IndexError for a rank that the plan does not have.
        """
        return devices_by_rank(self.plan)[rank]

    def transfer(self, sender: int, receiver: int, payload_bytes: int) -> Transfer:
        """A message of `payload_bytes` from each device of a pipeline rank to its counterpart; with
        `plan.broadcast_messages` from the last of a tensor group to the first of the next one, or
        back.

        The slowest copy stands for all: it holds its sender's egress and its receiver's ingress,
        for as long as all copies through the same NIC take. Resources are 4 x number + 0 egress or
        1 ingress of a NIC, + 2 egress or 3 ingress of a device's port within the node.
        Not modelled: contention inside the fabric beyond its oversubscription, which holds for
        every message between nodes; copies that drift apart.
        """
        cluster = self.cluster
        route = route_of(placed(self.plan), cluster, sender, receiver)
        link = cluster.inter_node if route.sharing else cluster.intra_node
        shared = route.sharing * cluster.oversubscription if route.sharing else 1
        return Transfer(
            occupancy_ns=round(payload_bytes * shared / message_bytes_per_ns(link)),
            latency_ns=round(link.latency),
            resources=route.resources,
            payload_bytes=payload_bytes,
        )


def message_ends(where: Placed, sender: int, receiver: int) -> list[tuple[int, int]]:
    """The (sending, receiving) devices of a message's copies between two pipeline ranks."""
    held = devices_placed(where)
    sources, targets = held[sender], held[receiver]
    if where.broadcast_messages:
        t, onward = where.tensor, sender < receiver
        sources = sources[t - 1 :: t] if onward else sources[::t]
        targets = targets[::t] if onward else targets[t - 1 :: t]
    return list(zip(sources, targets, strict=True))


class Route(NamedTuple):
    """Of a message's copies the one that takes longest: how many share its NIC (0 within a node),
    and the links that it holds."""

    sharing: int
    resources: tuple[int, ...]


def route_of(where: Placed, cluster: Cluster, sender: int, receiver: int) -> Route:
    """The route of a message between two pipeline ranks."""
    return _route(where, cluster.devices_per_node, cluster.nics_per_node, sender, receiver)


@lru_cache(maxsize=16384)
def _route(
    where: Placed, devices_per_node: int, nics_per_node: int, sender: int, receiver: int
) -> Route:
    pairs = message_ends(where, sender, receiver)
    crossing = [(a, b) for a, b in pairs if a // devices_per_node != b // devices_per_node]
    if not crossing:
        source, target = pairs[0]
        return Route(0, tuple(sorted((4 * source + 2, 4 * target + 3))))
    nics = [
        (_nic_of(a, devices_per_node, nics_per_node), _nic_of(b, devices_per_node, nics_per_node))
        for a, b in crossing
    ]
    egress, ingress = Counter(a for a, _ in nics), Counter(b for _, b in nics)
    source, target = max(nics, key=lambda pair: max(egress[pair[0]], ingress[pair[1]]))
    resources = tuple(sorted((4 * source, 4 * target + 1)))
    return Route(max(egress[source], ingress[target]), resources)


def _nic_of(device: int, devices_per_node: int, nics_per_node: int) -> int:
    node, on_node = divmod(device, devices_per_node)
    return node * nics_per_node + on_node * nics_per_node // devices_per_node
