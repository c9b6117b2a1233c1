"""What a change of the pipeline takes between two phases: groups made anew, stages loaded, weights
and optimizer state moved and forked to the new replicas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scenarios.schema import PRECISION_BYTES, Plan, Scenario
from sim.cost.collectives import broadcast_ns, group_of
from sim.cost.links import Network, message_bytes_per_ns
from sim.cost.measured import fitted_cluster
from sim.cost.profile import Profile
from sim.elastic.moves import Fork, Move, forks, moves
from sim.elastic.phases import Phase, elastic_of, phase_scenario
from sim.workload.parameters import embedding_parameters, head_parameters, layer_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionTime:
    """The time between two phases, by what takes it.

    phase: index of the phase after it. parts: nanoseconds of `rebuild` (process groups), `load`
    (stages onto their devices) and `move` (weights and optimizer state). moved_bytes: sent from
    rank to rank, and by broadcasts once for each replica that receives them.
    """

    phase: int
    parts: Mapping[str, int]
    moved_bytes: int = 0

    @property
    def total_ns(self) -> int:
        """All parts."""
        return sum(self.parts.values())


def transition_time(
    scenario: Scenario, before: Phase, after: Phase, profile: Profile | None = None
) -> TransitionTime | None:
    """What lies between two phases of a scenario's run; None where only the cache is used
    otherwise, for which nothing is rebuilt.

    Rebuilding and loading are the scenario's own figures, a pipeline's devices loaded one after
    another. Parts go point to point all at once, each through the port of its device or, between
    nodes, the NIC that the devices of a node share; then each stage's holder in replica 0
    broadcasts to the others, all stages at once. What is newly frozen travels as weights alone.
    Not modelled: work that other processes of a node do at the same time, pages not yet touched.
    """
    old, new = before.layout, after.layout
    if old == new:
        return None
    change = elastic_of(scenario).transition
    move_ns = moved = 0
    if scenario.cluster is not None and scenario.model is not None:
        cluster = scenario.cluster
        if profile is not None:
            cluster = fitted_cluster(cluster, profile.efficiency)
        sizes = part_bytes(scenario, after.frozen_layers)
        devices = run_devices(scenario.plan)
        sent, spread = moves(old, new), forks(old, new)
        plan = phase_scenario(scenario, after).plan
        move_ns = round(
            moves_ns(sent, sizes, devices, Network(cluster=cluster, plan=plan))
            + forks_ns(spread, sizes, devices, Network(cluster=cluster, plan=plan))
        )
        moved = sum(sizes[move.part] for move in sent)
        moved += sum((len(f.ranks) - 1) * sum(sizes[p] for p in f.parts) for f in spread)
    return TransitionTime(
        phase=after.index,
        parts={
            "rebuild": round(change.rebuild),
            "load": round(change.device_start * new.pipeline),
            "move": move_ns,
        },
        moved_bytes=moved,
    )


def run_devices(plan: Plan) -> tuple[int, ...]:
    """The device of each world rank of a run: the devices of its first plan, in order."""
    return tuple(
        sorted(
            plan.device_of(p, d, t)
            for p in range(plan.pipeline)
            for d in range(plan.data)
            for t in range(plan.tensor)
        )
    )


def part_bytes(scenario: Scenario, frozen_layers: int) -> Mapping[str, int]:
    """Bytes of each part that travel: its weights, and where it is trained the master copy and the
    optimizer's moments."""
    model, plan = scenario.model, scenario.plan
    assert model is not None
    weights = PRECISION_BYTES[plan.precision]
    state = 4 if plan.keeps_master_weights else 0
    if plan.optimizer == "adam":
        state += 2 * (8 if plan.precision == "fp64" else 4)
    layer = layer_parameters(model)
    found = {
        f"layer {n}": layer * (weights + (0 if n < frozen_layers else state))
        for n in range(model.layers)
    }
    found["embedding"] = found["head"] = 0
    if model.ends:
        embedding = embedding_parameters(model)
        found["embedding"] = embedding * (weights + (0 if frozen_layers else state))
        found["head"] = head_parameters(model) * (weights + state)
    return found


def moves_ns(
    sent: Sequence[Move], sizes: Mapping[str, int], devices: Sequence[int], network: Network
) -> float:
    """Time of messages that all start at once: the busiest port or NIC has to let all of its own
    through, and a latency comes on top."""
    cluster = network.cluster
    busy: dict[tuple[str, int], float] = {}
    latency = 0.0
    for move in sent:
        source, target = devices[move.source], devices[move.target]
        if network.node_of(source) == network.node_of(target):
            link, rate = cluster.intra_node, message_bytes_per_ns(cluster.intra_node)
            ends = (("port out", source), ("port in", target))
        else:
            link = cluster.inter_node
            rate = message_bytes_per_ns(link) / cluster.oversubscription
            ends = (("nic out", network.nic_of(source)), ("nic in", network.nic_of(target)))
        for end in ends:
            busy[end] = busy.get(end, 0.0) + sizes[move.part] / rate
        latency = max(latency, link.latency)
    return latency + max(busy.values(), default=0.0)


def forks_ns(
    spread: Sequence[Fork], sizes: Mapping[str, int], devices: Sequence[int], network: Network
) -> float:
    """Time of broadcasts that all start at once: the longest of them."""
    found = 0.0
    for fork in spread:
        group = group_of([devices[rank] for rank in fork.ranks], network)
        payload = sum(sizes[part] for part in fork.parts)
        found = max(found, broadcast_ns(payload, group, network.cluster))
    return found
