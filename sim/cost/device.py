"""Times of operations on a device: a roofline with an efficiency that depends on the shape."""

from __future__ import annotations

from typing import NamedTuple

from scenarios.schema import Device, Precision
from sim.cost.parts import larger
from sim.workload.operations import FusedAttention, Product, Traffic


class Time(NamedTuple):
    """Time of a kernel in nanoseconds: its fixed part and its work, unrounded."""

    launch_ns: float
    work_ns: float

    @property
    def total_ns(self) -> float:
        """Both together."""
        return self.launch_ns + self.work_ns


def matmul_efficiency(device: Device, m: int, k: int, n: int) -> float:
    """Fraction of the matmul peak that one product reaches: matmul_max x prod d/(d + half), where
    the rows m may have a half of their own.

    A saturating law in each dimension; tiles and waves are smoothed over.
    Not modelled: steps at multiples of the tile size and of the number of multiprocessors;
    alignment of dimensions to 8 elements.
    """
    half, half_rows = device.efficiency.matmul_half_dimension, device.efficiency.matmul_half_rows
    reached = device.efficiency.matmul_max
    for size, at in ((m, half if half_rows is None else half_rows), (k, half), (n, half)):
        reached = reached * (size / (size + at))  # No `*=`: sizes may be arrays, which grow.
    return reached


def operation_time(
    operation: Product | FusedAttention | Traffic, device: Device, precision: Precision
) -> Time:
    """Time of one operation's kernels: launch + the longer of arithmetic and memory traffic.

    Raises ValueError where the device has no matmul peak in that precision.
    Not modelled: overlap of a kernel's launch with the previous kernel (launch is what remains of
    it), reuse of what an earlier kernel left in the cache.
    """
    efficiency = device.efficiency
    reached = efficiency.attention_memory if operation.core else efficiency.memory
    bytes_per_ns = device.memory_bandwidth * reached / 1e9
    if isinstance(operation, Traffic):
        return Time(efficiency.launch * operation.kernels, operation.num_bytes / bytes_per_ns)
    if isinstance(operation, Product):
        m, k, n = operation.m, operation.k, operation.n
    else:
        m, k, n = operation.queries, operation.head_size, operation.keys
    peak = device.matmul_peak.get(precision)
    if peak is None:
        known = ", ".join(sorted(device.matmul_peak))
        raise ValueError(f"device {device.name} has no matmul peak for {precision}, only {known}")
    arithmetic = operation.flops / (peak * matmul_efficiency(device, m, k, n)) * 1e9
    return Time(
        efficiency.launch, larger(arithmetic, operation.traffic_bytes(precision) / bytes_per_ns)
    )


def traffic_ns(num_bytes: float, device: Device) -> float:
    """Time to move bytes through memory in large kernels, without launch."""
    return num_bytes / (device.memory_bandwidth * device.efficiency.memory) * 1e9


def optimizer_ns(num_bytes: float, device: Device) -> float:
    """Time of an optimizer step that touches `num_bytes` of memory."""
    return num_bytes / (device.memory_bandwidth * device.efficiency.optimizer_bandwidth) * 1e9
