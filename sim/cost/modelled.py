"""Costs from the device and link models: parts of the model, messages, flush."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from scenarios.schema import PRECISION_BYTES, Cluster, MicrobatchGroup, Model, Plan, Scenario
from sim.cost.collectives import (
    Group,
    all_gather_ns,
    all_reduce_ns,
    broadcast_ns,
    reduce_scatter_ns,
    tensor_group,
    tied_group,
    whole_group,
)
from sim.cost.costs import Category, Transfer
from sim.cost.device import operation_time, optimizer_ns, traffic_ns
from sim.cost.links import Network
from sim.cost.parts import Parts, apart_from, at_least, larger, summed
from sim.cost.shapes import Part, Pass
from sim.workload.operations import (
    FusedAttention,
    Operation,
    Product,
    TensorCollective,
    TensorGather,
    TensorReduction,
    TensorScatter,
    Work,
)
from sim.workload.parameters import (
    sequence_parallel_parameters,
    token_table_parameters,
    updated_parameters,
)
from sim.workload.partition import StagePart
from sim.workload.setting import Setting, setting_of
from sim.workload.transformer import embedding, head, layer

PassTimes: TypeAlias = Mapping[Pass, Parts]
PartTimes: TypeAlias = Mapping[Part, PassTimes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What every estimate here needs: a scenario's model, cluster and plan, all present."""

    scenario: Scenario
    model: Model
    cluster: Cluster
    plan: Plan

    @property
    def network(self) -> Network:
        """The links between the plan's pipeline ranks."""
        return Network(cluster=self.cluster, plan=self.plan)


def setup_of(scenario: Scenario, cluster: Cluster | None = None) -> Setup:
    """The setup of a scenario, on another cluster where given.

    Raises ValueError, naming what is missing, where there is no model or no cluster.
    """
    where = cluster if cluster is not None else scenario.cluster
    if scenario.model is None or where is None:
        missing = "model" if scenario.model is None else "cluster"
        raise ValueError(
            f"scenario {scenario.name} has no {missing}: give one, or give `costs` outright"
        )
    return Setup(scenario=scenario, model=scenario.model, cluster=where, plan=scenario.plan)


def setup_in(setup: Setup, group: MicrobatchGroup) -> Setup:
    """The setup of a plan all of whose microbatches are like a group's, whole."""
    plan = setup.plan
    cut = plan.microbatch_groups is not None or plan.slices is not None
    if not cut and plan.micro_batch == group.micro_batch:
        return setup
    plan = replace(
        plan,
        micro_batch=group.micro_batch,
        microbatches=plan.num_microbatches,
        global_batch=None,
        slices=None,
        microbatch_groups=None,
    )
    return replace(setup, scenario=replace(setup.scenario, plan=plan), plan=plan)


TimedWork: TypeAlias = dict[tuple[object, ...], Sequence[Parts]]
"""Times of a part's operations: forward, input gradients, those in a split pass, and weights'; or
what is recomputed."""


def part_times(
    setup: Setup,
    tokens: int,
    context: int,
    known: TimedWork | None = None,
    free: Category | None = None,
) -> PartTimes:
    """Time of one layer, of the embedding and of the head in each pass, unrounded.

    `backward` is recomputation, input gradients and weight gradients in turn; in a split backward
    pass recomputation comes with the input gradients. A layer's pass takes at least
    the host's time to launch its kernels (`layer_overhead`; once more for full recomputation), and
    any pass `pass_overhead` for each rank of its pipeline (half of it each half of a split one).
    tokens, context: integers, or arrays of them for many pieces at once, which broadcast.
    known: of the same model and cluster and whatever plan, what was timed before, and is added to.
    free: a category that takes no time; the host's time to launch a layer shows where it is then
    the longer.
    Not modelled: gaps between kernels beyond their launch; that the halves of a split backward
    pass cost more than the whole.
    """
    plan = setup.plan
    setting = setting_of(setup.scenario, tokens, context)
    group = tensor_group(setup.cluster, plan)
    overhead = float(setup.cluster.device.efficiency.layer_overhead)
    again = 1 if plan.recomputation == "full" else 0
    key = (
        *(plan.tensor, plan.micro_batch, plan.sequence_parallel, plan.kernels, group),
        *(plan.precision, plan.reduced_precision),
    )

    def timed(work: Work) -> Sequence[Parts]:
        apart = grad_input = _times(work.backward_input, setup, group)
        if plan.sequence_parallel:
            apart = _times(work.backward_input, setup, group, split=True)
        forward = _times(work.forward, setup, group)
        return forward, grad_input, apart, _times(work.backward_weight, setup, group)

    def repeated(work: Work) -> Sequence[Parts]:
        return (_times(work.recomputed, setup, group, repeated=True),)

    def passes(name: Part, make: Callable[[Setting], Work], host_ns: float) -> PassTimes:
        # Only a layer depends on the context, and only of a layer anything is recomputed.
        own = (name, tokens, context, *key) if name == "layer" else (name, tokens, *key)
        again_key = (*own, plan.recomputation if name == "layer" else "none")
        if known is None:
            work = make(setting)
            found, recomputed = timed(work), repeated(work)
        else:
            if own not in known or again_key not in known:
                work = make(setting)
                if own not in known:
                    known[own] = timed(work)
                known[again_key] = repeated(work)
            found, recomputed = known[own], known[again_key]
        forward, grad_input, apart, grad_weight = found
        grad_input = summed([(1, recomputed[0]), (1, grad_input)])
        alone = summed([(1, recomputed[0]), (1, apart)])
        if free is not None:
            forward, grad_input, alone, grad_weight = (
                apart_from(free, parts) for parts in (forward, grad_input, alone, grad_weight)
            )
        return {
            "forward": at_least(forward, host_ns),
            "backward": at_least(
                summed([(1, grad_input), (1, grad_weight)]), host_ns * (1 + again)
            ),
            "backward_input": at_least(alone, host_ns * (0.5 + again)),
            "backward_weight": at_least(grad_weight, host_ns * 0.5),
        }

    return {
        "layer": passes("layer", layer, overhead if free != "host" else 0.0),
        "embedding": passes("embedding", embedding, 0.0),
        "head": passes("head", head, 0.0),
        "action": _started(setup) if free != "host" else {},
    }


def _started(setup: Setup) -> PassTimes:
    """Time of one process that drives a whole pipeline to start a pass on all its devices."""
    time = float(setup.cluster.device.efficiency.pass_overhead * setup.plan.pipeline)
    if not time:
        return {}
    half: Parts = {"host": time / 2}
    whole: Parts = {"host": time}
    return {
        "forward": whole,
        "backward": whole,
        "backward_input": half,
        "backward_weight": half,
    }


def _times(
    operations: Sequence[Operation],
    setup: Setup,
    group: Group,
    *,
    repeated: bool = False,
    split: bool = False,
) -> Parts:
    """repeated: whether recomputation repeats them; split: whether they run without the other half
    of the backward pass."""
    device = setup.cluster.device
    found: dict[Category, float] = {}

    def add(category: Category, amount: float) -> None:
        found[category] = found.get(category, 0.0) + amount

    for operation in operations:
        if isinstance(operation, (TensorReduction, TensorGather, TensorScatter)):
            add("tensor_parallel", _collective_ns(operation, setup, group, split=split))
            continue
        launch, work = operation_time(operation, device, setup.plan.precision)
        category: Category = "memory_bound"
        if operation.core:
            category = "attention"
        elif isinstance(operation, (Product, FusedAttention)):
            category = "matmul"
        add("recomputation" if repeated else "launch", launch)
        add("recomputation" if repeated else category, work)
    return found


def _collective_ns(
    operation: TensorCollective, setup: Setup, group: Group, *, split: bool
) -> float:
    """Time of a collective of the tensor group that nothing hides; a reduce-scatter runs beside a
    weight gradient only where both halves of the backward pass do."""
    cluster, payload = setup.cluster, operation.payload_bytes
    launch = cluster.device.efficiency.launch
    if isinstance(operation, TensorReduction):
        return launch + all_reduce_ns(payload, group, cluster)
    if isinstance(operation, TensorGather):
        time = launch + all_gather_ns(payload, group, cluster)
    else:
        time = launch + reduce_scatter_ns(payload, group, cluster)
    if operation.beside is None or (split and isinstance(operation, TensorScatter)):
        return time
    beside = operation_time(operation.beside, cluster.device, setup.plan.precision)
    return larger(0.0, time - beside.total_ns)


_STAGE_PASSES: tuple[Pass, ...] = ("forward", "backward", "backward_input", "backward_weight")


def part_counts(part: StagePart, name: Pass) -> Mapping[Part, int]:
    """How many layers, embeddings and heads a stage's pass goes through: forward through all but
    what is cached, back (and in the optimizer step) through what is trained."""
    forward = name == "forward"
    return {
        "layer": part.num_computed if forward else part.num_active,
        "embedding": int(part.computes_embedding if forward else part.trains_embedding),
        "head": int(part.head),
    }


def stage_times(
    part: StagePart,
    times: PartTimes,
    data_loading_ns: float = 0.0,
    cache_ns: float = 0.0,
    passes: Sequence[Pass] | None = None,
) -> PassTimes:
    """A stage's passes: action + layers x layer + embedding + head, as far as a pass goes through
    them, and going forward the loading of a microbatch at either end of the model (what is read
    from the cache is not loaded), and what the cache takes.

    passes: those wanted; all unless given.
    Not modelled: that the first active layer makes no gradient of its input (its first norm's
    weights still need that of its first product's), and that frozen layers keep nothing.
    """
    found: dict[Pass, Parts] = {}
    for name in passes or _STAGE_PASSES:
        counts = part_counts(part, name)
        pieces: list[tuple[float, Parts]] = [
            (1.0, times.get("action", {}).get(name, {})),
            (float(counts["layer"]), times["layer"][name]),
        ]
        if counts["embedding"]:
            pieces.append((1.0, times["embedding"][name]))
        if counts["head"]:
            pieces.append((1.0, times["head"][name]))
        if name == "forward" and data_loading_ns and (counts["embedding"] or counts["head"]):
            pieces.append((1.0, {"data_loading": data_loading_ns}))
        if name == "forward" and cache_ns:
            pieces.append((1.0, {"cache": cache_ns}))
        found[name] = summed(pieces)
    return found


def message(setup: Setup, sender: int, receiver: int, tokens: int) -> tuple[Transfer, Parts, Parts]:
    """A message between pipeline ranks: its transfer, and the time of posting and unpacking it.

    With plan.scatter_gather each tensor rank sends its share, and the receivers gather it within
    their group (arXiv 2104.04473, section 4.1); with plan.sequence_parallel a share is all that a
    tensor rank has and needs. With plan.broadcast_messages one of them sends all, and it is
    broadcast in the receivers' group. Posting and unpacking cost a launch each.
    """
    plan, cluster = setup.plan, setup.cluster
    whole, payload, scattered = message_payload(setup, tokens)
    launch = float(cluster.device.efficiency.launch)
    transfer = setup.network.transfer(sender, receiver, payload)
    unpack: Parts = {"launch": launch}
    if scattered and not plan.sequence_parallel:
        gather = all_gather_ns(whole, tensor_group(cluster, plan), cluster)
        unpack = {**unpack, "point_to_point": gather}
    elif plan.broadcast_messages and plan.tensor > 1:
        spread = broadcast_ns(whole, tensor_group(cluster, plan), cluster)
        unpack = {"launch": 2 * launch, "point_to_point": spread}
    return transfer, {"launch": launch}, unpack


def message_payload(setup: Setup, tokens: int) -> tuple[int, int, bool]:
    """The bytes of a message, those that each sending device sends of it, and whether that is a
    share."""
    plan = setup.plan
    whole = PRECISION_BYTES[plan.precision] * plan.micro_batch * tokens * setup.model.hidden
    scattered = (plan.scatter_gather or plan.sequence_parallel) and plan.tensor > 1
    return whole, -(-whole // plan.tensor) if scattered else whole, scattered


def exchange(setup: Setup) -> Parts:
    """The host's time over one exchange of blocking messages: it waits for the device, which then
    stands still until the host has filled its queue anew."""
    return {"host": float(setup.cluster.device.efficiency.message_overhead)}


def tied_reduction(setup: Setup, ranks: Sequence[int]) -> Parts:
    """The all-reduce of the shared token table's gradient between the ranks that hold it."""
    payload = tied_bytes(setup)
    if len(ranks) < 2 or not payload:
        return {}
    group = tied_group(setup.cluster, setup.plan, ranks)
    launch = setup.cluster.device.efficiency.launch
    return {"tied_embedding": launch + all_reduce_ns(payload, group, setup.cluster)}


def tied_bytes(setup: Setup) -> int:
    """The bytes of the shared token table's gradient on a device."""
    table = token_table_parameters(setup.model, setup.plan.tensor)
    return table * PRECISION_BYTES[setup.plan.reduced_precision]


NORM_BYTES = 4
"""One number, of which the gradient norm is an all-reduce over all devices."""


def gradient_norm(setup: Setup, parameters: int) -> Parts:
    """Reading a rank's gradients (its share of them, where replicas keep shares) and an all-reduce
    of one number over all devices."""
    plan, device = setup.plan, setup.cluster.device
    payload = updated_parameters(parameters, plan) * PRECISION_BYTES[plan.reduced_precision]
    group = whole_group(setup.cluster, plan)
    scalar = all_reduce_ns(NORM_BYTES, group, setup.cluster)
    return {"gradient_norm": 2 * device.efficiency.launch + traffic_ns(payload, device) + scalar}


def optimizer_step(setup: Setup, parameters: int, summed_parameters: int = 0) -> Parts:
    """A rank's optimizer step: the bytes it touches, and the iteration's fixed time on the host.

    Adam reads and writes two moments and the weights (the fp32 copy, where kept, which is read once
    more to write the weights from) and reads the gradients, through an fp32 copy where they are
    16-bit. Fp16 gradients are first unscaled, and clipped ones scaled: each reads and writes them
    once. Gradients are set to zero. Where the state is sharded, a replica updates its share.
    summed_parameters: those whose gradients the tensor group must first sum with an all-reduce
    (`tensor_parallel`), as each device has seen only its own tokens (arXiv 2205.05198).
    """
    plan, device = setup.plan, setup.cluster.device
    weight, gradient = PRECISION_BYTES[plan.precision], PRECISION_BYTES[plan.reduced_precision]
    moment = 8 if plan.precision == "fp64" else 4
    read = max(4, gradient) if plan.keeps_master_weights else gradient
    touched = 2 * gradient + 2 * weight
    if plan.keeps_master_weights:
        touched = 3 * 4 + weight + 2 * gradient + (read + 4 if gradient < 4 else 0)
    if plan.optimizer == "adam":
        touched += 4 * moment
    touched += 2 * read * ((plan.precision == "fp16") + plan.clip_gradients)
    updated = updated_parameters(parameters, plan)
    found: dict[Category, float] = {
        "optimizer": device.efficiency.launch + optimizer_ns(touched * updated, device),
        "host": float(device.efficiency.iteration_overhead),
    }
    if summed_parameters:
        group = tensor_group(setup.cluster, plan)
        time = all_reduce_ns(summed_parameters * gradient, group, setup.cluster)
        found["tensor_parallel"] = device.efficiency.launch + time
    return found


def parameters_summed(setup: Setup, parts: Sequence[StagePart]) -> int:
    """Trained weights of a rank's stages whose gradients sequence parallelism leaves to be
    summed."""
    plan = setup.plan
    if not plan.sequence_parallel or plan.tensor == 1:
        return 0
    return sum(
        sequence_parallel_parameters(setup.model, part.num_active, head=part.head) for part in parts
    )
