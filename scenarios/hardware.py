"""What a scenario says of the hardware: devices, links, the cluster they make.

Quantities are in base units: bytes, bytes/s, FLOP/s, nanoseconds, dollars.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from scenarios.units import (
    Bytes,
    BytesPerSecond,
    DollarsPerHour,
    DurationNs,
    FlopsPerSecond,
)

CONFIG = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
Positive = Annotated[int, Field(ge=1, strict=True)]
NonNegative = Annotated[int, Field(ge=0, strict=True)]
Fraction01 = Annotated[float, Field(gt=0, le=1)]
Precision = Literal["fp64", "fp32", "bf16", "fp16"]
PRECISION_BYTES: dict[Precision, int] = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Efficiency:
    """What a device reaches of its peaks with a given software: fitted by `pipetwin calibrate`."""

    matmul_max: Fraction01 = 0.75
    """Fraction of the matmul peak that very large products reach."""
    matmul_half_dimension: Annotated[float, Field(ge=0)] = 150.0
    """Size in elements of any one dimension (m, k, n) at which it halves the efficiency."""
    matmul_half_rows: Annotated[float, Field(ge=0)] | None = None
    """The same for the rows m of a product, which are a slice's tokens; as any other dimension
    unless given."""
    memory: Fraction01 = 0.8
    """Fraction of the memory bandwidth that memory-bound operations reach."""
    attention_memory: Fraction01 = 0.8
    """Fraction of the memory bandwidth that the kernels of unfused attention reach, through which
    the scores pass several times."""
    launch: DurationNs = 4_000
    """Fixed time of every kernel."""
    layer_overhead: DurationNs = 0
    """Host time of one layer's forward or backward pass: a floor under the time of its kernels,
    which the host launches one by one."""
    pass_overhead: DurationNs = 0
    """Fixed time of every forward or backward pass for each rank of its pipeline: where one process
    drives them all (torch's Pipe), it starts their passes in turn."""
    optimizer_bandwidth: Fraction01 = 0.8
    """Fraction of the memory bandwidth that the optimizer step reaches."""
    data_loading: DurationNs = 0
    """Time to get one microbatch's tokens on the first stage, and its targets on the last."""
    message_overhead: DurationNs = 0
    """For `p2p: blocking`: fixed time of each exchange of messages, in which the host waits for the
    device and then fills its queue anew."""
    collective_launch: DurationNs = 0
    """Fixed time of every collective, beside the latency of its steps."""
    overlap_slowdown: Annotated[float, Field(ge=0, le=1)] = 0.3
    """What passes lose to a reduction of gradients that runs beside them, as a fraction of the time
    for which they overlap: both need the device's processors and memory."""
    iteration_overhead: DurationNs = 0
    """Fixed time of every iteration on the host: logging, schedulers, Python."""
    source: str = "default: typical of tuned kernels, not measured"
    """Where these numbers come from."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Device:
    """One accelerator, or one CPU core used as one."""

    name: str
    """What tables and reports call it."""
    kind: Literal["gpu", "cpu"] = "gpu"
    """`gpu`: CUDA and NCCL execute it; `cpu`: one core, gloo or shared memory."""
    memory: Bytes
    """Memory of one device."""
    memory_bandwidth: BytesPerSecond
    """Peak bandwidth of that memory."""
    matmul_peak: dict[Precision, FlopsPerSecond]
    """Dense matmul peak by precision, without sparsity."""
    reserved_memory: Bytes = 0
    """Memory that the driver, context and communicators take before the first tensor."""
    efficiency: Efficiency = field(default_factory=Efficiency)
    """What of these peaks is reached."""
    source: str = ""
    """Where the peaks come from."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Link:
    """A connection with a fixed latency and a bandwidth in each direction."""

    bandwidth: BytesPerSecond
    """Bandwidth per direction: per device within a node, per NIC between nodes."""
    latency: DurationNs
    """Time from the first byte sent to the first byte received."""
    efficiency: Fraction01 = 0.8
    """Fraction of the bandwidth that large collectives reach."""
    message_share: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Of what collectives reach, the fraction that one large message between two devices does:
    below 1 where the library gives it fewer channels, above 1 where collectives of many devices
    get in each other's way; never more than the bandwidth."""
    source: str = ""
    """Where these numbers come from."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Cluster:
    """Equal nodes of equal devices."""

    name: str = "cluster"
    """What tables and reports call it."""
    nodes: Positive = 1
    """Number of nodes."""
    devices_per_node: Positive
    """Devices in each node."""
    device: Device
    """The device."""
    intra_node: Link
    """What joins the devices of one node (NVLink, PCIe, shared memory); bandwidth per device."""
    inter_node: Link
    """What joins the nodes; bandwidth per NIC."""
    processors_per_node: Positive | None = None
    """Processors that the devices of a node share: device i computes on processor i modulo this,
    and those on one take turns (ranks that share cores); each has its own unless given."""
    nics_per_node: Positive = 1
    """NICs in each node: equal to `devices_per_node` where every device has its own."""
    oversubscription: Annotated[float, Field(ge=1)] = 1.0
    """How many times more NIC bandwidth hangs below the fabric than it carries; 1 is full
    bisection."""
    price_per_device_hour: DollarsPerHour | None = None
    """What one device costs for one hour."""
    source: str = ""
    """Where these numbers come from."""

    @property
    def num_devices(self) -> int:
        """Devices in all."""
        return self.nodes * self.devices_per_node
