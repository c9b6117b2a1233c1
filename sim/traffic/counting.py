"""Counting: every byte that an iteration's program sends, from device to device.

What is sent is what the cost model times: messages of the program, collectives of the tensor group
in its passes, reductions and gathers of the replicas, the flush; by the algorithms of
`sim.cost.collectives` (`sim.traffic.routes`), between the devices where the plan puts its ranks.
Not modelled: headers and acknowledgements, retransmission, what is read from disk or loaded from
the host; that libraries choose other algorithms.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from scenarios.schema import PRECISION_BYTES, Cluster, Device, Link, Scenario
from sim.cost.collectives import Group, group_of, takes_tree, tied_group, whole_group
from sim.cost.data_parallel import gradient_buckets, gradient_sizes
from sim.cost.links import devices_by_rank, message_ends, placed
from sim.cost.measured import fitted_cluster
from sim.cost.modelled import (
    NORM_BYTES,
    Setup,
    message_payload,
    parameters_summed,
    part_counts,
    setup_in,
    setup_of,
    tied_bytes,
)
from sim.cost.shapes import Part, Pass
from sim.prediction import Prediction, without_collector
from sim.schedule.actions import COMPUTE, FLUSH, SENDS, Action, Kind
from sim.schedule.lowering import Program, peer, tied_ranks
from sim.traffic.found import FLOWS, Flow, Traffic
from sim.traffic.link_use import link_use
from sim.traffic.matrices import matrix_of
from sim.traffic.routes import Collective, Form, Routes, routes
from sim.workload.operations import (
    Operation,
    TensorGather,
    TensorReduction,
    TensorScatter,
    Work,
)
from sim.workload.parameters import part_parameters, stage_parameters
from sim.workload.partition import StagePart, partition
from sim.workload.setting import Setting, settings_by_variant
from sim.workload.transformer import embedding, head, layer

Sent: TypeAlias = dict[Flow, Counter[tuple[int, int]]]
"""Bytes by flow and (sending, receiving) device."""
Demand: TypeAlias = Counter[Collective]
"""How often a collective is asked for."""

_PASS_OF: dict[Kind, Pass] = {
    Kind.FORWARD: "forward",
    Kind.BACKWARD: "backward",
    Kind.BACKWARD_INPUT: "backward_input",
    Kind.BACKWARD_WEIGHT: "backward_weight",
}


class _Key(NamedTuple):
    """Actions that send the same: `variant` is that of the microbatch in `Plan.variants`."""

    kind: Kind
    stage: int
    slice_index: int
    pipe: int
    variant: int


def traffic(prediction: Prediction) -> Traffic | None:
    """Everything that a predicted iteration sends, and how busy that keeps the links.

    Without a cluster, ranks send as if they were in one node, and no links are known. None where
    the scenario has no model, as the sizes of messages are then unknown.
    """
    scenario = prediction.scenario
    if scenario.model is None:
        return None
    cluster = scenario.cluster
    if cluster is not None and prediction.profile is not None:
        cluster = fitted_cluster(cluster, prediction.profile.efficiency)
    with without_collector():
        return _traffic(prediction, scenario, cluster)


def _traffic(prediction: Prediction, scenario: Scenario, cluster: Cluster | None) -> Traffic:
    sent = sent_bytes(scenario, prediction.program, cluster)
    held = devices_by_rank(scenario.plan)
    rank_of = {device: rank for rank, devices in enumerate(held) for device in devices}
    ranks: list[dict[Flow, int]] = [{} for _ in held]
    for flow, pairs in sent.items():
        for (source, _), num_bytes in pairs.items():
            own = ranks[rank_of[source]]
            own[flow] = own.get(flow, 0) + num_bytes
    return Traffic(
        iteration_ns=prediction.iteration_ns,
        num_devices=scenario.plan.num_devices,
        total_bytes={flow: sum(pairs.values()) for flow, pairs in sent.items()},
        node_bytes=None if scenario.cluster is None else _within(sent, scenario.cluster),
        rank_bytes=tuple(ranks),
        matrix=matrix_of(sent, scenario),
        links=link_use(sent, scenario, prediction.iteration_ns),
    )


def _within(sent: Mapping[Flow, Routes], cluster: Cluster) -> dict[Flow, int]:
    size = cluster.devices_per_node
    return {
        flow: sum(n for (a, b), n in pairs.items() if a // size == b // size)
        for flow, pairs in sent.items()
    }


def sent_bytes(scenario: Scenario, program: Program, cluster: Cluster | None = None) -> Sent:
    """What devices send one another in an iteration, by flow; flows without any are left out.

    cluster: in place of the scenario's; with neither, all devices are in one node.
    Raises ValueError where the scenario has no model.
    """
    counting = _Counting(scenario, program, cluster)
    counting.passes()
    counting.messages()
    counting.reductions()
    found = counting.sent
    return {flow: Counter(found[flow]) for flow in FLOWS if any(found[flow].values())}


class _Counting:
    """Bytes by flow and pair of devices, as they are counted."""

    def __init__(self, scenario: Scenario, program: Program, cluster: Cluster | None) -> None:
        known = cluster or scenario.cluster
        self.setup = setup_of(scenario, known or _one_node(scenario.plan.num_devices))
        self.rings_only = known is None
        self.program = program
        self.sent: dict[Flow, Counter[tuple[int, int]]] = defaultdict(Counter)
        plan = scenario.plan
        self.where = placed(plan)
        self.held = devices_by_rank(plan)
        self.parts = partition(scenario, program.schedule.num_stages)
        self.actions = _counted(program, plan.variants)
        self.settings = settings_by_variant(scenario)
        self.part_demands: dict[tuple[int, int], Mapping[Pass, Mapping[Part, Demand]]] = {}

    def passes(self) -> None:
        """Collectives of the tensor group in passes; with full sharding, those of replicas."""
        plan = self.setup.plan
        tensor, gathers, scatters = (self._demands() for _ in range(3))
        shards = plan.sharding == "full" and plan.data > 1
        for key, times in self.actions.items():
            if key.kind not in COMPUTE:
                continue
            rank = self.program.schedule.rank_of(key.stage, key.pipe)
            part, name = self.parts[key.stage], _PASS_OF[key.kind]
            if plan.tensor > 1:
                counts = part_counts(part, name)
                for which, demand in self._demands_in(key.variant, key.slice_index)[name].items():
                    _add(tensor[rank], demand, times * counts[which])
            if shards:
                _add(gathers[rank], _gathered(self.setup, part, name), times)
                _add(scatters[rank], _scattered(self.setup, part, name), times)
        for key, times in self.actions.items():
            if key.kind is Kind.OPTIMIZER:
                own = [self.parts[s].active for s in self.program.schedule.stages_of(key.stage)]
                width = PRECISION_BYTES[plan.reduced_precision]
                summed = parameters_summed(self.setup, own) * width
                tensor[key.stage][Collective("all_reduce", summed)] += times
        self._over_tensor("tensor_parallel", tensor)
        self._over_data("weight_gather", gathers)
        self._over_data("data_parallel", scatters)

    def _demands_in(self, variant: int, slice_index: int) -> Mapping[Pass, Mapping[Part, Demand]]:
        found = self.part_demands.get((variant, slice_index))
        if found is None:
            found = _part_demands(self.settings[variant][slice_index])
            self.part_demands[variant, slice_index] = found
        return found

    def messages(self) -> None:
        """Messages between pipeline ranks, and their spreading in the receivers' tensor group."""
        schedule, plan = self.program.schedule, self.setup.plan
        setups = [setup_in(self.setup, group) for group in plan.variant_groups]
        between: Counter[tuple[int, int]] = Counter()
        spreading = self._demands()
        backward = self._demands()
        for key, times in self.actions.items():
            if key.kind not in SENDS:
                continue
            kind, stage, slice_index, pipe, variant = key
            sender = schedule.rank_of(stage, pipe)
            receiver = peer(Action(kind, stage, 0, slice_index, pipe), schedule)
            tokens = self.settings[variant][slice_index].tokens
            whole, payload, is_share = message_payload(setups[variant], tokens)
            between[sender, receiver] += times * payload
            if is_share and not plan.sequence_parallel:
                spreading[receiver][Collective("all_gather", whole)] += times
            elif not is_share and plan.broadcast_messages and plan.tensor > 1:
                wanted = spreading if sender < receiver else backward
                wanted[receiver][Collective("broadcast", whole)] += times
        found = self.sent["point_to_point"]
        for (sender, receiver), num_bytes in between.items():
            for pair in message_ends(self.where, sender, receiver):
                found[pair] += num_bytes
        self._over_tensor("point_to_point", spreading)
        self._over_tensor("point_to_point", backward, backward=True)

    def reductions(self) -> None:
        """The flush: gradients over replicas, updated weights, tied table, norm."""
        schedule, plan, setup = self.program.schedule, self.setup.plan, self.setup
        reduced, gathered = self._demands(), self._demands()
        form: Form = "reduce_scatter" if plan.sharding == "optimizer" else "all_reduce"
        for key, times in self.actions.items():
            if key.kind is Kind.REDUCE_GRADIENTS:
                buckets = gradient_buckets(setup, self.parts[key.stage])
                own = reduced[schedule.rank_of(key.stage)]
                own[Collective(form, plan.gradient_bucket)] += times * buckets.num_full
                own[Collective(form, buckets.rest)] += times
            elif key.kind is Kind.GATHER_WEIGHTS:
                count = stage_parameters(self.parts[key.stage], setup.scenario)
                payload = count * PRECISION_BYTES[plan.precision]
                own = gathered[schedule.rank_of(key.stage)]
                own[Collective("all_gather", payload)] += times
        self._over_data("data_parallel", reduced)
        self._over_data("weight_gather", gathered)
        kinds = {key.kind for key in self.actions}
        ranks = tied_ranks(schedule)
        if Kind.REDUCE_TIED in kinds and setup.model.shares_table and len(ranks) > 1:
            active = tied_group(setup.cluster, plan, ranks).active_per_node
            groups = zip(*(self.held[rank] for rank in ranks), strict=True)
            demand = Counter({Collective("all_reduce", tied_bytes(setup)): 1})
            self._add("tied_embedding", demand, groups, active)
        if Kind.GRADIENT_NORM in kinds:
            everyone = [device for devices in self.held for device in devices]
            active = whole_group(setup.cluster, plan).active_per_node
            demand = Counter({Collective("all_reduce", NORM_BYTES): 1})
            self._add("gradient_norm", demand, [everyone], active)

    def _demands(self) -> list[Demand]:
        """What each pipeline rank's groups are asked for: nothing yet."""
        return [Counter() for _ in self.held]

    def _over_tensor(self, flow: Flow, demands: list[Demand], *, backward: bool = False) -> None:
        t = self.setup.plan.tensor
        for devices, demand in zip(self.held, demands, strict=True):
            groups = [devices[i : i + t] for i in range(0, len(devices), t)]
            self._add(flow, demand, [g[::-1] for g in groups] if backward else groups)

    def _over_data(self, flow: Flow, demands: list[Demand]) -> None:
        t = self.setup.plan.tensor
        for devices, demand in zip(self.held, demands, strict=True):
            self._add(flow, demand, [devices[i::t] for i in range(t)])

    def _add(
        self,
        flow: Flow,
        demand: Demand,
        groups: Iterable[Sequence[int]],
        num_active: int | None = None,
    ) -> None:
        """Count what groups of devices send for the same demand.

        num_active: devices of each node that do so at once; all of the plan's unless given.
        """
        demand = Counter({c: times for c, times in demand.items() if times and c.payload_bytes})
        if not demand:
            return
        size, found = self.setup.cluster.devices_per_node, self.sent[flow]
        known: dict[tuple[int, ...], Routes] = {}
        for group in groups:
            by_node: dict[int, list[int]] = {}
            for device in group:
                by_node.setdefault(device // size, []).append(device)
            members = [device for own in by_node.values() for device in own]
            spread = tuple(map(len, by_node.values()))
            if spread not in known:
                known[spread] = self._routes(
                    demand, spread, group_of(members, self.setup.network, num_active)
                )
            for (a, b), num_bytes in known[spread].items():
                found[members[a], members[b]] += num_bytes

    def _routes(self, demand: Demand, spread: tuple[int, ...], group: Group) -> Routes:
        """What the members of a group so spread send one another for all of a demand."""
        total: Counter[tuple[int, int]] = Counter()
        for collective, times in demand.items():
            tree = collective.form == "all_reduce" and not self.rings_only
            tree = tree and takes_tree(collective.payload_bytes, group, self.setup.cluster)
            for pair, num_bytes in routes(collective, spread, tree=tree).items():
                total[pair] += times * num_bytes
        return total


def _one_node(num_devices: int) -> Cluster:
    """Devices of which nothing is known but that messages reach each from each."""
    link = Link(bandwidth=1, latency=0)
    device = Device(name="rank", memory=1, memory_bandwidth=1, matmul_peak={})
    return Cluster(devices_per_node=num_devices, device=device, intra_node=link, inter_node=link)


def _counted(program: Program, variants: Sequence[int]) -> Counter[_Key]:
    """How often each action happens that sends something."""
    wanted = COMPUTE | SENDS | FLUSH
    found: Counter[tuple[Kind, int, int, int, int]] = Counter()
    several = len(set(variants)) > 1
    for steps in program.steps:
        for step in steps:
            for kind, stage, microbatch, slice_index, pipe in step:
                if kind in wanted:
                    variant = variants[microbatch] if several and microbatch is not None else 0
                    found[kind, stage, slice_index, pipe, variant] += 1
    return Counter({_Key(*key): times for key, times in found.items()})


def _add(demand: Demand, more: Demand, times: int) -> None:
    if not times:
        return
    for collective, number in more.items():
        demand[collective] += number * times


def _part_demands(setting: Setting) -> Mapping[Pass, Mapping[Part, Demand]]:
    """The collectives of the tensor group in each pass of a layer, of the embedding, of the head,
    where there are any."""
    works: dict[Part, Work] = {
        "layer": layer(setting),
        "embedding": embedding(setting),
        "head": head(setting),
    }
    return {
        name: {
            which: demand
            for which, work in works.items()
            if (demand := _collectives(_operations(work, name)))
        }
        for name in _PASS_OF.values()
    }


def _operations(work: Work, name: Pass) -> Iterator[Operation]:
    if name == "forward":
        yield from work.forward
    if name in ("backward", "backward_input"):
        yield from work.recomputed
        yield from work.backward_input
    if name in ("backward", "backward_weight"):
        yield from work.backward_weight


def _collectives(operations: Iterable[Operation]) -> Demand:
    found: Demand = Counter()
    for operation in operations:
        if isinstance(operation, TensorReduction):
            found[Collective("all_reduce", operation.payload_bytes)] += 1
        elif isinstance(operation, TensorGather):
            found[Collective("all_gather", operation.payload_bytes)] += 1
        elif isinstance(operation, TensorScatter):
            found[Collective("reduce_scatter", operation.payload_bytes)] += 1
    return found


def _gathered(setup: Setup, part: StagePart, name: Pass) -> Demand:
    """The weights that a pass gathers with full sharding: the embedding's only going forward."""
    if name == "backward_weight":
        return Counter()
    width = PRECISION_BYTES[setup.plan.precision]
    sizes = dict(part_parameters(part, setup.scenario))
    if name != "forward":
        sizes.pop("embedding", None)
    return _by_part(part, sizes, "all_gather", width)


def _scattered(setup: Setup, part: StagePart, name: Pass) -> Demand:
    """The gradients that a pass reduce-scatters with full sharding."""
    if name not in ("backward", "backward_weight"):
        return Counter()
    width = PRECISION_BYTES[setup.plan.reduced_precision]
    return _by_part(part, gradient_sizes(setup, part), "reduce_scatter", width)


def _by_part(part: StagePart, sizes: Mapping[str, int], form: Form, width: int) -> Demand:
    found: Demand = Counter()
    for which, size in sizes.items():
        found[Collective(form, size * width)] += part.num_layers if which == "layer" else 1
    return found
