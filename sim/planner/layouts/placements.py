"""Placements of a plan's ranks: which of them come to the same."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from scenarios.schema import Cluster, Plan
from sim.cost.links import Network
from sim.cost.processors import processor_of


def distinct_placements(
    cluster: Cluster, degrees: tuple[int, int, int], names: Iterable[str]
) -> tuple[str, ...]:
    """Of placements of pipeline x data x tensor ranks on a cluster those that differ in which ranks
    share a node, a NIC or a processor; of equal ones the first."""
    pipeline, data, tensor = degrees
    devices = range(pipeline * data * tensor)
    network = Network(cluster=cluster, plan=Plan())
    shared = [[f(device) for device in devices] for f in (network.node_of, network.nic_of)]
    if cluster.processors_per_node is not None:
        shared.append([processor_of(device, cluster) for device in devices])
    found: dict[tuple[bytes, ...], str] = {}
    for name in names:
        held = _devices(name, pipeline, data, tensor)
        found.setdefault(tuple(_alike(np.array(s)[held]) for s in shared), name)
    return tuple(found.values())


def _devices(placement: str, pipeline: int, data: int, tensor: int) -> np.ndarray:
    """The device of every rank, tensor innermost, then data, then pipeline."""
    sizes = {"pipeline": pipeline, "data": data, "tensor": tensor}
    found, step = np.zeros((pipeline, data, tensor), np.int64), 1
    for axis in placement.split("-"):
        shape = [size if name == axis else 1 for name, size in sizes.items()]
        found += step * np.arange(sizes[axis]).reshape(shape)
        step *= sizes[axis]
    return found.ravel()


def _alike(labels: np.ndarray) -> bytes:
    """Which ranks have the same label, whatever it is: labels numbered as they first appear."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    numbers = np.empty(len(first), np.int32)
    numbers[np.argsort(first)] = np.arange(len(first))
    return numbers[inverse].tobytes()
