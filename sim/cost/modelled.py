"""Costs from the device and link models: parts of the model, messages, flush."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from scenarios.schema import PRECISION_BYTES, Cluster, Model, Plan, Scenario
from sim.cost.collectives import (
    Group,
    all_gather_ns,
    all_reduce_ns,
    data_group,
    group_of,
    tensor_group,
)
from sim.cost.costs import Category, Transfer
from sim.cost.device import operation_time, optimizer_ns, traffic_ns
from sim.cost.links import Network
from sim.cost.parts import Parts, at_least, summed
from sim.cost.profile import Part, Pass
from sim.workload.operations import FusedAttention, Operation, Product, TensorReduction, Work
from sim.workload.parameters import token_table_parameters
from sim.workload.partition import StagePart
from sim.workload.transformer import (
    embedding,
    head,
    layer,
    setting_of,
)

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


def part_times(setup: Setup, tokens: int, context: int) -> PartTimes:
    """Time of one layer, of the embedding and of the head in each pass, unrounded.

    `backward` is recomputation, input gradients and weight gradients in turn; in a split backward
    pass recomputation comes with the input gradients. A layer's pass takes at least
    the host's time to launch its kernels (`layer_overhead`; once more for full recomputation).
    Not modelled: gaps between kernels beyond their launch; that the halves of a split backward
    pass cost more than the whole.
    """
    setting = setting_of(setup.scenario, tokens, context)
    group = tensor_group(setup.cluster, setup.plan)
    overhead = float(setup.cluster.device.efficiency.layer_overhead)
    again = 1 if setup.plan.recomputation == "full" else 0

    def passes(work: Work, host_ns: float) -> PassTimes:
        recomputed = _times(work.recomputed, setup, group, repeated=True)
        grad_input = summed([(1, recomputed), (1, _times(work.backward_input, setup, group))])
        grad_weight = _times(work.backward_weight, setup, group)
        return {
            "forward": at_least(_times(work.forward, setup, group), host_ns),
            "backward": at_least(
                summed([(1, grad_input), (1, grad_weight)]), host_ns * (1 + again)
            ),
            "backward_input": at_least(grad_input, host_ns * (0.5 + again)),
            "backward_weight": at_least(grad_weight, host_ns * 0.5),
        }

    return {
        "layer": passes(layer(setting), overhead),
        "embedding": passes(embedding(setting), 0.0),
        "head": passes(head(setting), 0.0),
        "action": {},
    }


def _times(
    operations: Sequence[Operation], setup: Setup, group: Group, *, repeated: bool = False
) -> Parts:
    device = setup.cluster.device
    found: dict[Category, float] = {}

    def add(category: Category, amount: float) -> None:
        found[category] = found.get(category, 0.0) + amount

    for operation in operations:
        if isinstance(operation, TensorReduction):
            time = all_reduce_ns(operation.payload_bytes, group, setup.cluster)
            add("tensor_parallel", device.efficiency.launch + time)
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


def stage_times(part: StagePart, times: PartTimes) -> PassTimes:
    """A stage's passes: action + layers x layer + embedding + head, as far as it has them."""
    names: tuple[Pass, ...] = ("forward", "backward", "backward_input", "backward_weight")
    found: dict[Pass, Parts] = {}
    for name in names:
        pieces: list[tuple[float, Parts]] = [
            (1.0, times.get("action", {}).get(name, {})),
            (float(part.num_layers), times["layer"][name]),
        ]
        if part.embedding:
            pieces.append((1.0, times["embedding"][name]))
        if part.head:
            pieces.append((1.0, times["head"][name]))
        found[name] = summed(pieces)
    return found


def message(setup: Setup, sender: int, receiver: int, tokens: int) -> tuple[Transfer, Parts, Parts]:
    """A message between pipeline ranks: its transfer, and the time of posting and unpacking it.

    With plan.scatter_gather each tensor rank sends its share, and the receivers gather it within
    their group (arXiv 2104.04473, section 4.1). Posting and unpacking cost a launch each.
    Not modelled: waiting for the whole device at each message, as Megatron-LM of 2021 does.
    """
    plan, cluster = setup.plan, setup.cluster
    whole = PRECISION_BYTES[plan.precision] * plan.micro_batch * tokens * setup.model.hidden
    scattered = plan.scatter_gather and plan.tensor > 1
    payload = -(-whole // plan.tensor) if scattered else whole
    launch = float(cluster.device.efficiency.launch)
    gather = all_gather_ns(whole, tensor_group(cluster, plan), cluster) if scattered else 0.0
    transfer = setup.network.transfer(sender, receiver, payload)
    return transfer, {"launch": launch}, {"launch": launch, "point_to_point": gather}


def gradient_reduction(setup: Setup, parameters: int) -> Parts:
    """The all-reduce of a stage's gradients over the data-parallel replicas, after its last pass.

    Not modelled: buckets that overlap with the backward pass (torch DDP at pipeline degree 1).
    """
    if setup.plan.data == 1:
        return {}
    payload = parameters * PRECISION_BYTES[setup.plan.reduced_precision]
    group = data_group(setup.cluster, setup.plan)
    launch = setup.cluster.device.efficiency.launch
    return {"data_parallel": launch + all_reduce_ns(payload, group, setup.cluster)}


def tied_reduction(setup: Setup, ranks: Sequence[int]) -> Parts:
    """The all-reduce of the shared token table's gradient between the ranks that hold it."""
    network = setup.network
    table = token_table_parameters(setup.model, setup.plan.tensor)
    payload = table * PRECISION_BYTES[setup.plan.reduced_precision]
    if len(ranks) < 2 or not payload:
        return {}
    group = group_of([network.devices_of(rank)[0] for rank in ranks], network)
    launch = setup.cluster.device.efficiency.launch
    return {"tied_embedding": launch + all_reduce_ns(payload, group, setup.cluster)}


def gradient_norm(setup: Setup, parameters: int) -> Parts:
    """Reading a rank's gradients and an all-reduce of one number over all devices."""
    plan, device = setup.plan, setup.cluster.device
    payload = parameters * PRECISION_BYTES[plan.reduced_precision]
    group = group_of(range(plan.num_devices), setup.network)
    scalar = all_reduce_ns(4, group, setup.cluster)
    return {"gradient_norm": 2 * device.efficiency.launch + traffic_ns(payload, device) + scalar}


def optimizer_step(setup: Setup, parameters: int) -> Parts:
    """A rank's optimizer step: the bytes it touches, and the iteration's fixed time on the host.

    Adam reads and writes two moments and the weights (the fp32 copy, where kept, from which the
    weights are then written) and reads the gradients, through an fp32 copy where they are 16-bit.
    Not modelled: checks for overflow, a sharded optimizer.
    """
    plan, device = setup.plan, setup.cluster.device
    weight, gradient = PRECISION_BYTES[plan.precision], PRECISION_BYTES[plan.reduced_precision]
    moment = 8 if plan.precision == "fp64" else 4
    touched = gradient + 2 * weight
    if plan.keeps_master_weights:
        touched = 2 * 4 + weight + (gradient if gradient >= 4 else gradient + 2 * 4)
    if plan.optimizer == "adam":
        touched += 4 * moment
    return {
        "optimizer": device.efficiency.launch + optimizer_ns(touched * parameters, device),
        "host": float(device.efficiency.iteration_overhead),
    }
