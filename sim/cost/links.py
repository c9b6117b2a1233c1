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

from scenarios.schema import Cluster, Link, Plan
from sim.cost.costs import Transfer


def bytes_per_ns(link: Link) -> float:
    """What large messages reach on a link, in bytes per nanosecond."""
    return link.bandwidth * link.efficiency / 1e9


def message_ns(payload_bytes: float, link: Link) -> float:
    """Time of a message alone on a link: latency + bytes / (bandwidth x efficiency)."""
    return link.latency + payload_bytes / bytes_per_ns(link)


@lru_cache(maxsize=1024)
def devices_by_rank(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """The devices of each pipeline rank: its data replicas in turn, tensor ranks innermost."""
    return tuple(
        tuple(
            plan.device_of(rank, replica, part)
            for replica in range(plan.data)
            for part in range(plan.tensor)
        )
        for rank in range(plan.pipeline)
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
        here, on_node = divmod(device, self.cluster.devices_per_node)
        nics = self.cluster.nics_per_node
        return here * nics + on_node * nics // self.cluster.devices_per_node

    def devices_of(self, rank: int) -> tuple[int, ...]:
        """The devices of a pipeline rank, its data replicas in turn, their tensor ranks innermost.

        Raises IndexError for a rank that the plan does not have.
        """
        return devices_by_rank(self.plan)[rank]

    def transfer(self, sender: int, receiver: int, payload_bytes: int) -> Transfer:
        """A message of `payload_bytes` from each device of a pipeline rank to its counterpart.

        The slowest copy stands for all: it holds its sender's egress and its receiver's ingress,
        for as long as all copies through the same NIC take. Resources are 4 x number + 0 egress or
        1 ingress of a NIC, + 2 egress or 3 ingress of a device's port within the node.
        Not modelled: contention inside the fabric beyond its oversubscription, which holds for
        every message between nodes; copies that drift apart.
        """
        pairs = list(zip(self.devices_of(sender), self.devices_of(receiver), strict=True))
        crossing = [(a, b) for a, b in pairs if self.node_of(a) != self.node_of(b)]
        if not crossing:
            link, (source, target) = self.cluster.intra_node, pairs[0]
            occupancy = payload_bytes / bytes_per_ns(link)
            resources = (4 * source + 2, 4 * target + 3)
        else:
            link = self.cluster.inter_node
            egress = Counter(self.nic_of(a) for a, _ in crossing)
            ingress = Counter(self.nic_of(b) for _, b in crossing)
            source, target = max(
                crossing, key=lambda p: max(egress[self.nic_of(p[0])], ingress[self.nic_of(p[1])])
            )
            sharing = max(egress[self.nic_of(source)], ingress[self.nic_of(target)])
            occupancy = payload_bytes * sharing * self.cluster.oversubscription / bytes_per_ns(link)
            resources = (4 * self.nic_of(source), 4 * self.nic_of(target) + 1)
        return Transfer(
            occupancy_ns=round(occupancy),
            latency_ns=round(link.latency),
            resources=tuple(sorted(resources)),
            payload_bytes=payload_bytes,
        )
