"""A cluster of another number of devices: whole nodes, or a part of one."""

from __future__ import annotations

from dataclasses import replace

from scenarios.schema import Cluster


class NotWholeNodes(ValueError):
    """A number of devices that leaves a node partly used; the text says which would work."""

    is_bad_input = True


def resized(cluster: Cluster, num_devices: int) -> Cluster:
    """The cluster with as many nodes as hold `num_devices`; fewer than a node's are one node of so
    many, with its share of the NICs.

    Raises NotWholeNodes where devices of a node would be left over.
    """
    each = cluster.devices_per_node
    if num_devices > 0 and num_devices % each == 0:
        return replace(cluster, nodes=num_devices // each)
    if 0 < num_devices < each:
        # Devices share NICs evenly, a rule of every cluster.
        share = -(-cluster.nics_per_node * num_devices // each)
        nics = max(n for n in range(1, share + 1) if num_devices % n == 0)
        own = cluster.processors_per_node
        return replace(
            cluster,
            nodes=1,
            devices_per_node=num_devices,
            nics_per_node=nics,
            processors_per_node=None if own is None else min(own, num_devices),
        )
    below, above = num_devices // each * each, (num_devices // each + 1) * each
    works = f"{below} or {above}" if below > 0 else str(above)
    raise NotWholeNodes(
        f"{num_devices} devices are no whole number of {cluster.name}'s nodes of {each}: "
        f"{works} would work"
    )
