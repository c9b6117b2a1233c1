"""What a scenario holds: model, cluster, plan, training, given costs, and how to execute it.

Each class is a frozen dataclass that pydantic fills and checks at the file's edge; everything
inside the project reads these objects and never a file. Rules that span several fields are in
`scenarios.rules`. Quantities are in base units: bytes, bytes/s, FLOP/s, nanoseconds, dollars.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, field
from functools import cached_property
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StrictBool, StrictInt
from pydantic.dataclasses import dataclass

from scenarios.units import (
    Bytes,
    BytesPerSecond,
    Count,
    DollarsPerHour,
    DurationNs,
    FlopsPerSecond,
)

_CONFIG = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
Positive = Annotated[int, Field(ge=1, strict=True)]
Fraction01 = Annotated[float, Field(gt=0, le=1)]
Precision = Literal["fp64", "fp32", "bf16", "fp16"]
PRECISION_BYTES: dict[Precision, int] = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Model:
    """A Transformer as a stack of equal layers between an embedding and a head."""

    name: str = "model"
    """What tables and reports call it."""
    family: Literal["gpt", "bert", "vit"] = "gpt"
    """`gpt`: causal, next-token loss; `bert`: bidirectional, masked-token loss; `vit`: image
    patches and a classifier."""
    layers: Positive
    """Number of Transformer layers."""
    hidden: Positive
    """Width of the residual stream."""
    heads: Positive
    """Attention heads; must divide `hidden`."""
    ffn_hidden: Positive | None = None
    """Width inside the MLP; four times `hidden` unless given."""
    sequence: Positive
    """Tokens in a sequence (for `vit`: patches plus the class token)."""
    vocabulary: Positive
    """Vocabulary entries (for `vit`: number of classes)."""
    patch_inputs: Positive | None = None
    """`vit` only: numbers in one image patch (channels x patch height x patch width)."""
    tied_embeddings: StrictBool = True
    """Whether the head multiplies by the token embedding's weights."""
    source: str = ""
    """Where these numbers come from."""

    @property
    def ffn(self) -> int:
        """Width inside the MLP, resolved."""
        return self.ffn_hidden if self.ffn_hidden is not None else 4 * self.hidden

    @property
    def causal(self) -> bool:
        """Whether a token attends only to itself and those before it."""
        return self.family == "gpt"


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Efficiency:
    """What a device reaches of its peaks with a given software: fitted by `pipetwin calibrate`."""

    matmul_max: Fraction01 = 0.75
    """Fraction of the matmul peak that very large products reach."""
    matmul_half_dimension: Annotated[float, Field(ge=0)] = 150.0
    """Size in elements of any one dimension (m, k, n) at which it halves the efficiency."""
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


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
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


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Link:
    """A connection with a fixed latency and a bandwidth in each direction."""

    bandwidth: BytesPerSecond
    """Bandwidth per direction: per device within a node, per NIC between nodes."""
    latency: DurationNs
    """Time from the first byte sent to the first byte received."""
    efficiency: Fraction01 = 0.8
    """Fraction of the bandwidth that large collectives reach."""
    message_share: Fraction01 = 1.0
    """Of what collectives reach, the fraction that one large message between two devices does:
    below 1 where the library gives it fewer channels."""
    source: str = ""
    """Where these numbers come from."""


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
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


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Plan:
    """How the model is laid over the devices, and in which order the pipeline runs."""

    schedule: Literal["gpipe", "1f1b", "interleaved", "given"] = "1f1b"
    """Pipeline schedule; `interleaved` is 1F1B with `chunks` stages a rank (Megatron-LM's order);
    `given` is the order in `schedule_file` or `schedule_order`."""
    schedule_file: str | None = None
    """For `given`: a CSV of actions in torch.distributed.pipelining's notation, a row a rank."""
    schedule_order: tuple[str, ...] | None = None
    """For `given`: the rows themselves, as `0F0,0F1,0B0,0B1`; read from `schedule_file` unless
    written here, so that the scenario says all by itself."""
    gpipe_backward: Literal["same", "reversed"] = "same"
    """For `gpipe`: backward passes in the microbatches' order (as torch does), or reversed."""
    pipeline: Positive = 1
    """Pipeline-parallel degree: ranks a microbatch passes through."""
    chunks: Positive = 1
    """For `interleaved`: model chunks (stages) that each rank holds; stage s is on rank s mod
    pipeline. One chunk is plain 1F1B."""
    tensor: Positive = 1
    """Tensor-parallel degree: devices that share each layer's products."""
    data: Positive = 1
    """Data-parallel degree: replicas of the pipeline."""
    micro_batch: Positive = 1
    """Sequences in one microbatch."""
    microbatches: Positive | None = None
    """Microbatches a pipeline runs in one iteration; from `global_batch` unless given."""
    global_batch: Positive | None = None
    """Sequences in one iteration over all replicas; from `microbatches` unless given."""
    layers_per_stage: tuple[Positive, ...] | None = None
    """Layers of each stage; an even split unless given."""
    precision: Precision = "fp16"
    """Type of weights and activations in the forward and backward passes."""
    gradient_precision: Precision | None = None
    """Type in which gradients are accumulated and reduced; as `precision` unless given."""
    master_weights: StrictBool | None = None
    """Whether the optimizer keeps an fp32 copy of the weights; for fp16 and bf16 unless given."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Optimizer; `adam` keeps two moments per weight (fp32, or fp64 in fp64)."""
    sequence_parallel: StrictBool = False
    """Whether the tensor group also shares what tensor parallelism leaves whole, norms, dropouts
    and their activations, by tokens (Korthikanti et al. 2022, arXiv 2205.05198)."""
    sharding: Literal["none", "optimizer", "full"] = "none"
    """What each data-parallel replica keeps only a share of: nothing; the optimizer's state
    (ZeRO-1, Megatron-LM's distributed optimizer); or weights, gradients and state (ZeRO-3, FSDP;
    Rajbhandari et al. 2020, arXiv 1910.02054)."""
    gradient_reduction: Literal["after", "overlapped"] = "after"
    """When data-parallel replicas sum their gradients: at once after the last pass, or in buckets
    as soon as a stage's last backward pass has made them (torch DistributedDataParallel)."""
    gradient_bucket: Bytes = 25 << 20
    """For `overlapped`: gradients summed at once."""
    recomputation: Literal["none", "selective", "full"] = "none"
    """Activations recomputed in the backward pass: none, attention's core, or whole layers."""
    recompute_every: Positive = 1
    """For `recomputation: full`: layers in a recomputed group, of which only the first one's input
    is kept."""
    p2p: Literal["overlapped", "blocking"] = "overlapped"
    """Transfers between stages: on their own lanes, or on the compute lane as a rendezvous of both
    ends (Megatron-LM's batched isend/irecv and wait)."""
    scatter_gather: StrictBool = False
    """Whether each tensor rank sends its share of a message and the receivers gather it within
    their group (arXiv 2104.04473, section 4.1)."""
    clip_gradients: StrictBool = False
    """Whether the optimizer waits for the gradient norm over all ranks."""
    placement: Literal[
        "tensor-data-pipeline",
        "tensor-pipeline-data",
        "data-tensor-pipeline",
        "data-pipeline-tensor",
        "pipeline-tensor-data",
        "pipeline-data-tensor",
    ] = "tensor-data-pipeline"
    """Which degree's ranks sit on neighbouring devices, innermost first; Megatron-LM's unless
    given."""
    devices: tuple[Annotated[int, Field(ge=0, strict=True)], ...] | None = None
    """The device of every rank, instead of `placement`: ranks with tensor innermost, then data,
    then pipeline."""

    @property
    def num_devices(self) -> int:
        """Devices the plan uses: tensor x pipeline x data."""
        return self.tensor * self.pipeline * self.data

    @property
    def num_stages(self) -> int:
        """Stages of the model: pipeline x chunks, or as `layers_per_stage` says."""
        if self.layers_per_stage is not None:
            return len(self.layers_per_stage)
        return self.pipeline * self.chunks

    def device_of(self, pipeline: int, data: int, tensor: int) -> int:
        """The device that holds a rank, by its index in each degree: as placed, or as given."""
        if self.devices is not None:
            return self.devices[(pipeline * self.data + data) * self.tensor + tensor]
        found, step = 0, 1
        for axis in self.placement.split("-"):
            index, size = {
                "tensor": (tensor, self.tensor),
                "data": (data, self.data),
                "pipeline": (pipeline, self.pipeline),
            }[axis]
            found += index * step
            step *= size
        return found

    @property
    def num_microbatches(self) -> int:
        """Microbatches a pipeline runs in one iteration, resolved."""
        if self.microbatches is not None:
            return self.microbatches
        if self.global_batch is not None:
            return self.global_batch // (self.micro_batch * self.data)
        return 1

    @property
    def num_sequences(self) -> int:
        """Sequences in one iteration over all replicas, resolved."""
        return self.num_microbatches * self.micro_batch * self.data

    @property
    def keeps_master_weights(self) -> bool:
        """Whether an fp32 copy of the weights is kept, resolved."""
        if self.master_weights is not None:
            return self.master_weights
        return self.precision in ("fp16", "bf16")

    @property
    def reduced_precision(self) -> Precision:
        """Type in which gradients are accumulated and reduced, resolved."""
        return self.gradient_precision if self.gradient_precision is not None else self.precision


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Training:
    """The whole training run, for days and money."""

    tokens: Count
    """Tokens to train on."""


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class StageCosts:
    """Times of one stage's actions, where they differ from the others'."""

    forward: DurationNs | None = None
    """One microbatch's forward pass."""
    backward: DurationNs | None = None
    """One microbatch's whole backward pass; `backward_input` + `backward_weight` unless given."""
    backward_input: DurationNs | None = None
    """The half of the backward pass that makes the gradient of the stage's input."""
    backward_weight: DurationNs | None = None
    """The half that makes the gradients of the weights."""
    send: DurationNs | None = None
    """Sending one microbatch's activations or gradients out of this stage."""
    optimizer: DurationNs | None = None
    """The optimizer step."""
    activation: Bytes | None = None
    """Memory of one microbatch's activations between forward and backward."""


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class GivenCosts(StageCosts):
    """Times given outright: the scenario then needs no model and no cluster."""

    forward: DurationNs = 0
    """One microbatch's forward pass of a rank (chunks divide it evenly)."""
    stages: dict[int, StageCosts] = field(default_factory=dict)
    """A stage's own times, by stage number; what it leaves out is as above."""


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Execution:
    """How `pipetwin run` executes the scenario; the simulator does not read it."""

    iterations: Positive = 20
    """Measured iterations."""
    warmup: Annotated[int, Field(ge=0, strict=True)] = 3
    """Iterations before those, not measured."""
    transport: Literal["auto", "mailbox", "gloo", "nccl", "none"] = "auto"
    """How messages travel: `auto` is nccl on GPUs, mailbox between processes of one host, gloo
    otherwise; `none` sends nothing (for calibration)."""
    seed: StrictInt = 0
    """Seed of weights and data."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate of the optimizer."""
    deadline: DurationNs = 60_000_000_000
    """Longest wait for any one message before the run is stopped."""


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Scenario:
    """Model x cluster x plan (x training): the only input of everything."""

    name: str
    """What tables and reports call it."""
    description: str = ""
    """One sentence on what it is for."""
    model: Model | None = None
    """The model; may be left out where `costs` are given."""
    cluster: Cluster | None = None
    """The cluster; may be left out where `costs` are given."""
    plan: Plan = field(default_factory=Plan)
    """How the model is laid over the cluster."""
    training: Training | None = None
    """The whole training run."""
    costs: GivenCosts | None = None
    """Times given outright, instead of those computed from model and cluster."""
    execution: Execution = field(default_factory=Execution)
    """How `pipetwin run` executes it."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the resolved scenario without its name, description and execution (hex)."""
        content = asdict(self)
        del content["plan"]["schedule_file"]  # Its rows are in schedule_order.
        for key in ("name", "description", "execution"):
            del content[key]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def __hash__(self) -> int:
        return hash((self.name, self.digest))
