"""The cost table: what every action and message of a program takes, from the best source there is.

Times given outright in the scenario come first; else a profile's measured times of parts, matched
by shape; else the device and link models, with a profile's fitted parameters where it has them.
"""

from __future__ import annotations

from collections.abc import Sequence

from scenarios.schema import PRECISION_BYTES, Scenario
from sim.cost.costs import Cost, CostKey, CostTable, Transfer
from sim.cost.data_parallel import gradient_reduction, sharded_times, weight_gather
from sim.cost.given import given_table
from sim.cost.measured import (
    fitted_cluster,
    message_time_ns,
    profiled_optimizer_ns,
    profiled_part_times,
)
from sim.cost.modelled import (
    PartTimes,
    Setup,
    exchange,
    gradient_norm,
    message,
    optimizer_step,
    parameters_summed,
    part_times,
    setup_of,
    stage_times,
    tied_reduction,
)
from sim.cost.parts import Parts, rounded, total_ns
from sim.cost.profile import Part, Pass, Profile
from sim.schedule.actions import COMPUTE, SENDS, Action, Kind
from sim.schedule.lowering import Program, partner, tied_ranks
from sim.workload.memory import rank_parameters, stage_parameters
from sim.workload.parameters import token_table_parameters
from sim.workload.partition import StagePart, partition, slices_of

_PASS_OF: dict[Kind, Pass] = {
    Kind.FORWARD: "forward",
    Kind.BACKWARD: "backward",
    Kind.BACKWARD_INPUT: "backward_input",
    Kind.BACKWARD_WEIGHT: "backward_weight",
}


def cost_table(
    scenario: Scenario,
    program: Program,
    profile: Profile | None = None,
) -> CostTable:
    """Costs of every action and message of a program.

    Raises ValueError where the scenario has neither costs nor both a model and a cluster.
    """
    if scenario.costs is not None:
        return given_table(scenario, program)
    setup = setup_of(scenario)
    if profile is not None:
        setup = setup_of(scenario, fitted_cluster(setup.cluster, profile.efficiency))
    parts = partition(scenario, program.schedule.num_stages)
    costs, last_times, assumed = _passes(setup, program, profile, parts)
    transfers: dict[CostKey, Transfer] = {}
    if profile is not None and profile.times and setup.plan.clip_gradients:
        assumed = (*assumed, ("gradient norm: not measured, device model as it is", 0.0))
    split = any(key.kind is Kind.BACKWARD_WEIGHT for key in costs)
    schedule = program.schedule
    held = [[parts[s] for s in schedule.stages_of(rank)] for rank in range(schedule.num_ranks)]
    # All ranks meet for the norm, so that the one with most to read decides for all.
    most = max(rank_parameters(own, scenario) for own in held)
    for action in program.distinct:
        key = CostKey(action.kind, action.stage)
        if action.kind in SENDS:
            _add_message(setup, program, profile, action, costs, transfers)
        elif action.kind is Kind.REDUCE_GRADIENTS:
            part = parts[action.stage]
            costs[key] = gradient_reduction(setup, part, last_times, split=split)
        elif action.kind is Kind.GRADIENT_NORM:
            costs[key] = rounded(gradient_norm(setup, most))
        elif action.kind is Kind.OPTIMIZER:
            costs[key] = rounded(_optimizer(setup, profile, held[action.stage]))
        elif action.kind is Kind.GATHER_WEIGHTS:
            count = stage_parameters(parts[action.stage], scenario)
            costs[key] = rounded(weight_gather(setup, count))
        elif action.kind is Kind.REDUCE_TIED:
            costs[key] = rounded(_tied(setup, profile, tied_ranks(schedule)))
    if program.mode != "overlapped" and setup.cluster.device.efficiency.message_overhead:
        for rank in range(program.num_ranks):
            costs[CostKey(Kind.EXCHANGE, rank)] = rounded(exchange(setup))
    return CostTable(costs=costs, transfers=transfers, assumed=assumed)


def _passes(
    setup: Setup, program: Program, profile: Profile | None, parts: tuple[StagePart, ...]
) -> tuple[dict[CostKey, Cost], PartTimes, tuple[tuple[str, float], ...]]:
    """Costs of all passes through stages, the times of the parts in a stage's last backward pass,
    and each assumption's share of the passes' time."""
    schedule = program.schedule
    passes_of = [a for a in program.distinct if a.kind in COMPUTE]
    kinds = sorted((a.kind, a.slice_index, a.stage, a.pipe) for a in passes_of)
    costs: dict[CostKey, Cost] = {}
    shares: dict[str, float] = {}
    last_times: PartTimes = {}
    shards = setup.plan.sharding == "full" and setup.plan.data > 1
    for index, (context, tokens) in enumerate(slices_of(setup.model.sequence, schedule.num_slices)):
        assumed: dict[tuple[Part, Pass], str] = {}
        if profile is None:
            times: PartTimes = part_times(setup, tokens, context)
        else:
            times, assumed = profiled_part_times(setup, profile, tokens, context)
        # Backward passes go from the last slice to the first.
        last_times = last_times or times
        loading = float(setup.cluster.device.efficiency.data_loading) if index == 0 else 0.0
        cache: dict[tuple[int, bool, bool], dict[Pass, Cost]] = {}
        for kind, slice_index, stage, pipe in kinds:
            if slice_index != index:
                continue
            part, name = parts[stage], _PASS_OF[kind]
            content = (part.num_layers, part.embedding, part.head)
            if content not in cache:
                passes = stage_times(part, times, loading)
                if shards:
                    passes = sharded_times(setup, part, times, passes)
                cache[content] = {n: rounded(p) for n, p in passes.items()}
            costs[CostKey(kind, stage, slice_index, pipe)] = cache[content][name]
            counts: dict[Part, int] = {
                "layer": part.num_layers,
                "embedding": int(part.embedding),
                "head": int(part.head),
            }
            for which, count in counts.items():
                if count and (which, name) in assumed:
                    amount = count * total_ns(times[which][name])
                    text = assumed[which, name]
                    shares[text] = shares.get(text, 0.0) + amount
    total = sum(cost.duration_ns for cost in costs.values()) or 1
    return costs, last_times, tuple((what, amount / total) for what, amount in shares.items())


def _add_message(
    setup: Setup,
    program: Program,
    profile: Profile | None,
    action: Action,
    costs: dict[CostKey, Cost],
    transfers: dict[CostKey, Transfer],
) -> None:
    schedule, receive = program.schedule, partner(action)
    key = CostKey(action.kind, action.stage, action.slice_index, action.pipe)
    receive_key = CostKey(receive.kind, receive.stage, receive.slice_index, receive.pipe)
    source = schedule.rank_of(action.stage, action.pipe)
    target = schedule.rank_of(receive.stage, receive.pipe)
    _, tokens = slices_of(setup.model.sequence, schedule.num_slices)[action.slice_index]
    transfer, post, unpack = message(setup, source, target, tokens)
    if profile is not None:
        rows = setup.plan.micro_batch * tokens
        payload = PRECISION_BYTES[setup.plan.precision] * rows * setup.model.hidden
        network = setup.network
        ends = (network.devices_of(rank)[0] for rank in (source, target))
        near = len({network.node_of(device) for device in ends}) == 1
        plan = setup.plan
        scattered = plan.tensor > 1 and (plan.scatter_gather or plan.sequence_parallel)
        if profile.transfer is not None and near and not scattered:
            transfer = Transfer(
                occupancy_ns=round(payload * profile.transfer.ns_per_byte),
                latency_ns=round(profile.transfer.fixed_ns),
                resources=(source * schedule.num_ranks + target,),
                payload_bytes=payload,
            )
        if profile.post is not None:
            post = {"point_to_point": message_time_ns(profile.post, payload)}
        if profile.unpack is not None:
            unpack = {"point_to_point": message_time_ns(profile.unpack, payload)}
    transfers[key] = transfer
    costs[key] = rounded(post)
    costs[receive_key] = rounded(unpack)


def _tied(setup: Setup, profile: Profile | None, ranks: Sequence[int]) -> Parts:
    if not setup.model.tied_embeddings:
        return {}
    if profile is not None and profile.all_reduce is not None and setup.cluster.nodes == 1:
        table = token_table_parameters(setup.model, setup.plan.tensor)
        payload = table * PRECISION_BYTES[setup.plan.reduced_precision]
        return {"tied_embedding": message_time_ns(profile.all_reduce, payload)}
    return tied_reduction(setup, ranks)


def _optimizer(setup: Setup, profile: Profile | None, held: Sequence[StagePart]) -> Parts:
    """The optimizer step of a rank that holds these parts."""
    count = rank_parameters(held, setup.scenario)
    step = optimizer_step(setup, count, parameters_summed(setup, held))
    if profile is not None:
        measured = profiled_optimizer_ns(
            setup,
            profile,
            sum(part.num_layers for part in held),
            any(part.embedding for part in held),
            any(part.head for part in held),
        )
        if measured is not None:
            return {**step, "optimizer": 0.0, "measured": measured}
    return step
