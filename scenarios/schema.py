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
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.dataclasses import dataclass

from scenarios.elastic import Elastic as Elastic
from scenarios.elastic import ElasticCache as ElasticCache
from scenarios.elastic import Transition as Transition
from scenarios.hardware import CONFIG, NonNegative, Positive
from scenarios.hardware import PRECISION_BYTES as PRECISION_BYTES
from scenarios.hardware import Cluster as Cluster
from scenarios.hardware import Device as Device
from scenarios.hardware import Efficiency as Efficiency
from scenarios.hardware import Link as Link
from scenarios.hardware import Precision as Precision
from scenarios.training import Stragglers as Stragglers
from scenarios.training import Training as Training
from scenarios.units import Bytes, DurationNs


@dataclass(frozen=True, kw_only=True, config=CONFIG)
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
    classes: Positive | None = None
    """`bert` only: classes of a classifier of the first token, instead of the masked-token loss."""
    tied_embeddings: StrictBool = True
    """Whether the head multiplies by the token embedding's weights (never where it classifies)."""
    ends: StrictBool = True
    """Whether embedding and head are there; without them the layers are simulated alone."""
    source: str = ""
    """Where these numbers come from."""

    @property
    def ffn(self) -> int:
        """Width inside the MLP, resolved."""
        return self.ffn_hidden if self.ffn_hidden is not None else 4 * self.hidden

    @property
    def classifies(self) -> bool:
        """Whether the head reads the first token alone and gives it a class."""
        return self.family == "vit" or self.classes is not None

    @property
    def outputs(self) -> int:
        """What the head chooses from: classes, or the vocabulary."""
        return self.classes if self.classes is not None else self.vocabulary

    @property
    def shares_table(self) -> bool:
        """Whether the head multiplies by the token embedding's weights, resolved."""
        return self.tied_embeddings and not self.classifies

    @property
    def causal(self) -> bool:
        """Whether a token attends only to itself and those before it."""
        return self.family == "gpt"


class SlicesNotFound(ValueError):
    """The plan's slices are still to be searched."""

    is_bad_input = True


def _explained(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError:
        raise ValueError(
            f"`{value}` is no slicing: write how many even slices, as `slices: 4`, the tokens of "
            "each, as `slices: [704, 688, 656]`, or `slices: optimal`"
        ) from None


Slices = Annotated[
    Positive | tuple[Positive, ...] | Literal["optimal"] | None, WrapValidator(_explained)
]
GroupSlices = Annotated[Positive | tuple[Positive, ...] | None, WrapValidator(_explained)]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class MicrobatchGroup:
    """Equal microbatches in a row, in a plan whose microbatches are not all equal."""

    microbatches: Positive = 1
    """How many they are."""
    micro_batch: Positive = 1
    """Sequences in each of them."""
    slices: GroupSlices = None
    """Token slices of each: how many even ones, or the tokens of each; whole unless given."""

    @property
    def num_slices(self) -> int:
        """Slices of each microbatch."""
        if self.slices is None:
            return 1
        return self.slices if isinstance(self.slices, int) else len(self.slices)


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Plan:
    """How the model is laid over the devices, and in which order the pipeline runs."""

    schedule: Literal["gpipe", "1f1b", "interleaved", "terapipe", "given"] = "1f1b"
    """Pipeline schedule; `interleaved` is 1F1B with `chunks` stages a rank (Megatron-LM's order);
    `terapipe` runs all forward passes, then all backward passes in exactly the reverse order;
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
    slices: Slices = None
    """Token slices of each microbatch (TeraPipe, arXiv 2102.07988): how many even ones, or the
    tokens of each, as `[704, 688, 656]`; whole unless given. `optimal`: those that the search
    finds for the scenario before anything is simulated or run."""
    microbatch_groups: tuple[MicrobatchGroup, ...] | None = None
    """Microbatches of different sizes or slicings, in order, instead of `micro_batch`,
    `microbatches` and `slices`."""
    layers_per_stage: tuple[Positive, ...] | None = None
    """Layers of each stage; an even split unless given."""
    frozen_layers: NonNegative = 0
    """Layers, from the first on, that are not trained, and with them the embedding: their passes
    run forward only, and nothing of theirs is reduced or updated (PipeTransformer)."""
    cached_layers: NonNegative = 0
    """Of the frozen layers, those whose output is read from a cache instead of being computed; all
    on the first stage."""
    fills_cache: StrictBool = False
    """Whether the output of the last frozen layer is written to the cache; it is on the first
    stage."""
    frozen_first: StrictBool = False
    """Whether the frozen layers, all on the first stage, run over the pipeline's whole batch before
    its first microbatch (as PipeTransformer's authors have it), not microbatch by microbatch."""
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
    kernels: Literal["fused", "plain"] = "fused"
    """What a simulated layer consists of: Megatron-LM's fused kernels, or PyTorch's plain ones with
    keys and values in a cache (the layer of TeraPipe's authors); `run` has a layer of its own."""
    p2p: Literal["overlapped", "blocking", "exchange"] = "overlapped"
    """Transfers between stages: on their own lanes; on the compute lane as a rendezvous of both
    ends (`blocking`, Megatron-LM's batched isend/irecv and wait); or so, but all that a rank sends
    and receives between two passes at once, whoever the peers are (`exchange`)."""
    scatter_gather: StrictBool = False
    """Whether each tensor rank sends its share of a message and the receivers gather it within
    their group (arXiv 2104.04473, section 4.1)."""
    broadcast_messages: StrictBool = False
    """Whether one tensor rank sends each message for all, the last one forward and the first one
    back, and the first of the receivers broadcasts it within their group (back, the last one)."""
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
        """Microbatches a pipeline runs in one iteration, resolved; one where the batch holds none,
        which the rules refuse."""
        if self.microbatch_groups is not None:
            return sum(group.microbatches for group in self.microbatch_groups)
        if self.microbatches is not None:
            return self.microbatches
        if self.global_batch is not None:
            return max(1, self.global_batch // (self.micro_batch * self.data))
        return 1

    @property
    def num_sequences(self) -> int:
        """Sequences in one iteration over all replicas, resolved."""
        return self.data * sum(g.microbatches * g.micro_batch for g in self.groups)

    @cached_property
    def groups(self) -> tuple[MicrobatchGroup, ...]:
        """The microbatches of one iteration in runs of equal ones, resolved.

        Raises SlicesNotFound where `slices` is still `optimal`.
        """
        if self.microbatch_groups is not None:
            return self.microbatch_groups
        if self.slices == "optimal":
            raise SlicesNotFound(
                "plan.slices is `optimal`: `pipetwin slice` finds them, and `simulate`, `run` and "
                "`validate` have them found first; here give how many, as `plan.slices=4`"
            )
        return (
            MicrobatchGroup(
                microbatches=self.num_microbatches,
                micro_batch=self.micro_batch,
                slices=self.slices,
            ),
        )

    @cached_property
    def variants(self) -> tuple[int, ...]:
        """Of each microbatch, which of the distinct (size, slicing) it has: 0 for the first."""
        kinds: dict[tuple[int, object], int] = {}
        found: list[int] = []
        for group in self.groups:
            kind = kinds.setdefault((group.micro_batch, group.slices), len(kinds))
            found += [kind] * group.microbatches
        return tuple(found)

    @cached_property
    def variant_groups(self) -> tuple[MicrobatchGroup, ...]:
        """The first group of each variant."""
        found: dict[tuple[int, object], MicrobatchGroup] = {}
        for group in self.groups:
            found.setdefault((group.micro_batch, group.slices), group)
        return tuple(found.values())

    def group_of(self, microbatch: int) -> MicrobatchGroup:
        """The size and slicing of a microbatch (its `microbatches` is its run's length)."""
        for group in self.groups:
            if microbatch < group.microbatches:
                return group
            microbatch -= group.microbatches
        raise IndexError(f"the plan has {self.num_microbatches} microbatches")

    @property
    def runs_frozen_first(self) -> bool:
        """Whether frozen layers do run over the whole batch before its first microbatch: where some
        are frozen, and there are several microbatches."""
        return self.frozen_first and self.frozen_layers > 0 and self.num_microbatches > 1

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


@dataclass(frozen=True, kw_only=True, config=CONFIG)
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


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class GivenCosts(StageCosts):
    """Times given outright: the scenario then needs no model and no cluster."""

    forward: DurationNs = 0
    """One microbatch's forward pass of a rank (chunks divide it evenly)."""
    stages: dict[int, StageCosts] = field(default_factory=dict)
    """A stage's own times, by stage number; what it leaves out is as above."""


for _name, _info in vars(StageCosts)["__pydantic_fields__"].items():
    # A field's docstring is not inherited with the field.
    _own = vars(GivenCosts)["__pydantic_fields__"][_name]
    _own.description = _own.description or _info.description


@dataclass(frozen=True, kw_only=True, config=CONFIG)
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


@dataclass(frozen=True, kw_only=True, config=CONFIG)
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
    elastic: Elastic | None = None
    """A run of epochs in which the pipeline changes."""
    costs: GivenCosts | None = None
    """Times given outright, instead of those computed from model and cluster."""
    execution: Execution = field(default_factory=Execution)
    """How `pipetwin run` executes it."""
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Named scenarios that differ from this one in a few fields, as `{uniform: {plan.slices: 8}}`;
    `NAME:uniform` is one of them, and `run` and `validate` put them beside one another."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the resolved scenario without its name, description, execution and
        variants."""
        content = asdict(self)
        del content["plan"]["schedule_file"]  # Its rows are in schedule_order.
        for key in ("name", "description", "execution", "variants"):
            del content[key]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def __hash__(self) -> int:
        return hash((self.name, self.digest))
