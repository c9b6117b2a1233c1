"""The cost table: what every action and message of a program takes, from the best source there is.

Times given outright in the scenario come first; else a profile's measured times of parts, matched
by shape; else the device and link models, with a profile's fitted parameters where it has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from scenarios.schema import PRECISION_BYTES, Scenario
from sim.cost.costs import Cost, CostKey, CostTable, Transfer
from sim.cost.data_parallel import gradient_reduction, sharded_times, weight_gather
from sim.cost.given import given_table
from sim.cost.measured import (
    fitted_cluster,
    message_time_ns,
    profiled_message,
    profiled_optimizer_ns,
    profiled_part_times,
)
from sim.cost.modelled import (
    PartTimes,
    Setup,
    exchange,
    gradient_norm,
    optimizer_step,
    parameters_summed,
    part_times,
    setup_in,
    setup_of,
    stage_times,
    tied_reduction,
)
from sim.cost.parts import Parts, rounded, total_ns
from sim.cost.profile import Profile
from sim.cost.shapes import Part, Pass
from sim.schedule.actions import COMPUTE, SENDS, Action, Kind
from sim.schedule.lowering import Program, partner, tied_ranks
from sim.workload.parameters import rank_parameters, stage_parameters, token_table_parameters
from sim.workload.partition import Piece, StagePart, group_pieces, partition

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
    groups = setup.plan.variant_groups
    pieces = [group_pieces(group, setup.model.sequence) for group in groups]
    setups = [setup_in(setup, group) for group in groups]
    variants = setup.plan.variants if len(groups) > 1 else ()
    distinct = program.distinct_in(variants) if variants else program.distinct
    passes = _Passes(setups=setups, pieces=pieces, profile=profile, parts=parts)
    for action in sorted(a for a in distinct if a.kind in COMPUTE):
        passes.add(action, variants[action.microbatch or 0] if variants else 0)
    costs, assumed = passes.costs, passes.assumed
    transfers: dict[CostKey, Transfer] = {}
    if profile is not None and profile.times and setup.plan.clip_gradients:
        assumed = (*assumed, ("gradient norm: not measured, device model as it is", 0.0))
    split = any(key.kind is Kind.BACKWARD_WEIGHT for key in costs)
    schedule = program.schedule
    held = [[parts[s] for s in schedule.stages_of(rank)] for rank in range(schedule.num_ranks)]
    # All ranks meet for the norm, so that the one with most to read decides for all.
    most = max(rank_parameters(own, scenario) for own in held)
    for action in distinct:
        key = CostKey(action.kind, action.stage)
        if action.kind in SENDS:
            variant = variants[action.microbatch or 0] if variants else 0
            tokens = pieces[variant][action.slice_index].tokens
            sent = _Message(setups[variant], program, profile, action, tokens, variant)
            _add_message(sent, costs, transfers)
        elif action.kind is Kind.REDUCE_GRADIENTS:
            order = schedule.orders[schedule.rank_of(action.stage)]
            last = next(a for a in reversed(order) if a.stage == action.stage)
            variant = variants[last.microbatch or 0] if variants else 0
            times, _ = passes.times_of(variant, last.slice_index)
            costs[key] = gradient_reduction(setup, parts[action.stage], times, split=split)
        elif action.kind is Kind.GRADIENT_NORM:
            costs[key] = rounded(gradient_norm(setup, most))
        elif action.kind is Kind.OPTIMIZER:
            costs[key] = rounded(_optimizer(setup, profile, held[action.stage]))
        elif action.kind is Kind.GATHER_WEIGHTS:
            count = stage_parameters(parts[action.stage], scenario)
            costs[key] = rounded(weight_gather(setup, count))
        elif action.kind is Kind.REDUCE_TIED:
            costs[key] = rounded(_tied(setup, profile, tied_ranks(schedule)))
    # In an `exchange` the device waits, and the host goes on.
    waits = program.mode in ("blocking", "serial")
    if waits and setup.cluster.device.efficiency.message_overhead:
        for rank in range(program.num_ranks):
            costs[CostKey(Kind.EXCHANGE, rank)] = rounded(exchange(setup))
    return CostTable(costs=costs, transfers=transfers, variants=variants, assumed=assumed)


class _Passes:
    """Costs of passes as they are asked for, with what is common to several made once."""

    def __init__(
        self,
        *,
        setups: Sequence[Setup],
        pieces: Sequence[Sequence[Piece]],
        profile: Profile | None,
        parts: tuple[StagePart, ...],
    ) -> None:
        """setups, pieces: by variant."""
        self.setups, self.pieces = setups, pieces
        self.profile, self.parts = profile, parts
        plan = setups[0].plan
        self.shards = plan.sharding == "full" and plan.data > 1
        self.costs: dict[CostKey, Cost] = {}
        self.shares: dict[str, float] = {}
        self._times: dict[tuple[int, int], tuple[PartTimes, dict[tuple[Part, Pass], str]]] = {}
        self._passes: dict[tuple[int, int, int, bool, bool], dict[Pass, Cost]] = {}

    def times_of(
        self, variant: int, slice_index: int
    ) -> tuple[PartTimes, dict[tuple[Part, Pass], str]]:
        """Times of the parts in a slice, and what had to be assumed for them."""
        key = (variant, slice_index)
        if key not in self._times:
            setup = self.setups[variant]
            _, context, tokens = self.pieces[variant][slice_index]
            if self.profile is None:
                self._times[key] = (part_times(setup, tokens, context), {})
            else:
                self._times[key] = profiled_part_times(setup, self.profile, tokens, context)
        return self._times[key]

    def add(self, action: Action, variant: int) -> None:
        """Enter the cost of a pass."""
        kind, stage, _, slice_index, pipe = action
        part, name, setup = self.parts[stage], _PASS_OF[kind], self.setups[variant]
        times, assumed = self.times_of(variant, slice_index)
        content = (variant, slice_index, part.num_layers, part.embedding, part.head)
        if content not in self._passes:
            device = setup.cluster.device
            loading = float(device.efficiency.data_loading) if slice_index == 0 else 0.0
            passes = stage_times(part, times, loading)
            if self.shards:
                passes = sharded_times(setup, part, times, passes)
            self._passes[content] = {n: rounded(p) for n, p in passes.items()}
        self.costs[CostKey(kind, stage, slice_index, pipe, variant)] = self._passes[content][name]
        counts: dict[Part, int] = {
            "layer": part.num_layers,
            "embedding": int(part.embedding),
            "head": int(part.head),
        }
        for which, count in counts.items():
            if count and (which, name) in assumed:
                amount = count * total_ns(times[which][name])
                text = assumed[which, name]
                self.shares[text] = self.shares.get(text, 0.0) + amount

    @property
    def assumed(self) -> tuple[tuple[str, float], ...]:
        """Each assumption's share of the time of the passes added."""
        total = sum(cost.duration_ns for cost in self.costs.values()) or 1
        return tuple((what, amount / total) for what, amount in self.shares.items())


class _Message(NamedTuple):
    """A message to be costed: of `tokens` a sequence, in a setup with its microbatch's size."""

    setup: Setup
    program: Program
    profile: Profile | None
    action: Action
    tokens: int
    variant: int


def _add_message(
    sent: _Message, costs: dict[CostKey, Cost], transfers: dict[CostKey, Transfer]
) -> None:
    setup, program, profile, action, tokens, variant = sent
    schedule, receive = program.schedule, partner(action)
    key = CostKey(action.kind, action.stage, action.slice_index, action.pipe, variant)
    receive_key = CostKey(receive.kind, receive.stage, receive.slice_index, receive.pipe, variant)
    source = schedule.rank_of(action.stage, action.pipe)
    target = schedule.rank_of(receive.stage, receive.pipe)
    transfers[key], post, unpack = profiled_message(setup, profile, source, target, tokens)
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
