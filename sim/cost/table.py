"""The cost table: what every action and message of a program takes, from the best source there is.

Times given outright in the scenario come first; else a profile's measured times of parts, matched
by shape; else the device and link models, with a profile's fitted parameters where it has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from scenarios.schema import PRECISION_BYTES, MicrobatchGroup, Plan, Scenario
from sim.cost.cache import cache_ns
from sim.cost.costs import Category, Cost, CostKey, CostTable, Transfer
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
    PassTimes,
    Setup,
    exchange,
    gradient_norm,
    optimizer_step,
    parameters_summed,
    part_counts,
    part_times,
    setup_in,
    setup_of,
    stage_times,
    tied_reduction,
)
from sim.cost.parts import Parts, apart_from, rounded, summed, total_ns
from sim.cost.processors import with_sharing
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
    """Costs of every action and message of a program, with what sharing of processors makes of
    them.

    Raises ValueError where the scenario has neither costs nor both a model and a cluster.
    """
    given = scenario.costs is not None
    table = given_table(scenario, program) if given else _table(scenario, program, profile)
    if scenario.cluster is None or scenario.cluster.processors_per_node is None:
        return table
    return with_sharing(table, program, scenario.plan, scenario.cluster)


def _table(scenario: Scenario, program: Program, profile: Profile | None) -> CostTable:
    passes = _passes(scenario, program, profile)
    setup, setups, pieces, parts = passes.setup, passes.setups, passes.pieces, passes.parts
    variants = cost_variants(setup.plan)
    distinct = program.distinct_in(variants) if variants else program.distinct
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
    most = max(rank_parameters([part.active for part in own], scenario) for own in held)
    for action in distinct:
        key = CostKey(action.kind, action.stage)
        if action.kind in SENDS:
            variant = variants[action.microbatch or 0] if variants else 0
            tokens = pieces[variant][action.slice_index].tokens
            sent = _Message(setups[variant], program, profile, action, tokens, variant)
            _add_message(sent, costs, transfers)
        elif action.kind is Kind.REDUCE_GRADIENTS:
            times = _last_times(passes, program, action.stage)
            costs[key] = gradient_reduction(setup, parts[action.stage], times, split=split)
        elif action.kind is Kind.GRADIENT_NORM:
            costs[key] = rounded(gradient_norm(setup, most))
        elif action.kind is Kind.OPTIMIZER:
            costs[key] = rounded(optimizer_parts(setup, profile, held[action.stage]))
        elif action.kind is Kind.GATHER_WEIGHTS:
            count = stage_parameters(parts[action.stage], scenario)
            costs[key] = rounded(weight_gather(setup, count))
        elif action.kind is Kind.REDUCE_TIED:
            costs[key] = rounded(tied_parts(setup, profile, tied_ranks(schedule)))
    # In an `exchange` the device waits, and the host goes on.
    waits = program.mode in ("blocking", "serial")
    if waits and setup.cluster.device.efficiency.message_overhead:
        for rank in range(program.num_ranks):
            costs[CostKey(Kind.EXCHANGE, rank)] = rounded(exchange(setup))
    return CostTable(costs=costs, transfers=transfers, variants=variants, assumed=assumed)


def reductions_with(
    scenario: Scenario,
    program: Program,
    profile: Profile | None,
    change: Callable[[PartTimes], PartTimes],
) -> dict[CostKey, Cost]:
    """The reductions of gradients beside passes whose parts take other times than a cost table has:
    as long, but less of a reduction is hidden where its pass is shorter."""
    passes = _passes(scenario, program, profile)
    actions = [a for a in program.distinct if a.kind is Kind.REDUCE_GRADIENTS]
    split = any(a.kind is Kind.BACKWARD_WEIGHT for a in program.distinct)
    found = {}
    for stage in (a.stage for a in actions):
        times = change(_last_times(passes, program, stage))
        cost = gradient_reduction(passes.setup, passes.parts[stage], times, split=split)
        found[CostKey(Kind.REDUCE_GRADIENTS, stage)] = cost
    return found


def passes_without(
    scenario: Scenario, program: Program, profile: Profile | None, free: Category
) -> CostTable:
    """Costs of a program's passes where a category takes no time, and what it hid shows: the host's
    time to launch a layer, and with full sharding the gathers and reduce-scatters beside."""
    passes = _passes(scenario, program, profile, free)
    variants = cost_variants(passes.setup.plan)
    distinct = program.distinct_in(variants) if variants else program.distinct
    for action in sorted(a for a in distinct if a.kind in COMPUTE):
        passes.add(action, variants[action.microbatch or 0] if variants else 0)
    table = CostTable(costs=passes.costs)
    cluster = passes.setup.cluster
    if cluster.processors_per_node is None:
        return table
    return with_sharing(table, program, scenario.plan, cluster)


def _passes(
    scenario: Scenario, program: Program, profile: Profile | None, free: Category | None = None
) -> _Passes:
    setup = setup_of(scenario)
    if profile is not None:
        setup = setup_of(scenario, fitted_cluster(setup.cluster, profile.efficiency))
    groups = setup.plan.variant_groups
    if setup.plan.runs_frozen_first:
        groups *= 2
    return _Passes(
        setup=setup,
        setups=[setup_in(setup, group) for group in groups],
        pieces=[group_pieces(group, setup.model.sequence) for group in groups],
        profile=profile,
        parts=partition(scenario, program.schedule.num_stages),
        free=free,
    )


def _last_times(passes: _Passes, program: Program, stage: int) -> PartTimes:
    """Times of the parts in a stage's last pass."""
    schedule, variants = program.schedule, cost_variants(passes.setup.plan)
    order = schedule.orders[schedule.rank_of(stage)]
    last = next(a for a in reversed(order) if a.stage == stage)
    variant = variants[last.microbatch or 0] if variants else 0
    return passes.times_of(variant, last.slice_index)[0]


def cost_variants(plan: Plan) -> tuple[int, ...]:
    """Of each microbatch which costs it has: those of its size and slicing; where frozen layers run
    over the whole batch first, microbatch 0 has its own (1) and all others theirs (0). Empty where
    all microbatches are alike."""
    if plan.runs_frozen_first:
        return (1, *(0 for _ in plan.variants[1:]))
    return plan.variants if len(plan.variant_groups) > 1 else ()


class _Passes:
    """Costs of passes as they are asked for, with what is common to several made once."""

    def __init__(
        self,
        *,
        setup: Setup,
        setups: Sequence[Setup],
        pieces: Sequence[Sequence[Piece]],
        profile: Profile | None,
        parts: tuple[StagePart, ...],
        free: Category | None = None,
    ) -> None:
        """setup: of the whole plan. setups, pieces: by variant. free: what takes no time."""
        self.setup, self.setups, self.pieces = setup, setups, pieces
        self.profile, self.parts, self.free = profile, parts, free
        plan = setups[0].plan
        self.shards = plan.sharding == "full" and plan.data > 1
        self.first = plan.runs_frozen_first
        self.costs: dict[CostKey, Cost] = {}
        self.shares: dict[str, float] = {}
        self._times: dict[tuple[int, int], tuple[PartTimes, dict[tuple[Part, Pass], str]]] = {}
        self._passes: dict[tuple[int, int, StagePart], dict[Pass, Cost]] = {}
        self._whole: tuple[PartTimes, dict[tuple[Part, Pass], str]] | None = None

    def times_of(
        self, variant: int, slice_index: int
    ) -> tuple[PartTimes, dict[tuple[Part, Pass], str]]:
        """Times of the parts in a slice, and what had to be assumed for them."""
        key = (variant, slice_index)
        if key not in self._times:
            _, context, tokens = self.pieces[variant][slice_index]
            self._times[key] = self._times_in(self.setups[variant], tokens, context)
        return self._times[key]

    def _times_in(
        self, setup: Setup, tokens: int, context: int
    ) -> tuple[PartTimes, dict[tuple[Part, Pass], str]]:
        free = self.free
        if self.profile is None:
            return part_times(setup, tokens, context, free=free), {}
        times, assumed = profiled_part_times(setup, self.profile, tokens, context)
        if free is not None:
            times = {w: _apart_from(free, passes) for w, passes in times.items()}
        return times, assumed

    def add(self, action: Action, variant: int) -> None:
        """Enter the cost of a pass."""
        kind, stage, _, slice_index, pipe = action
        part, name, setup = self.parts[stage], _PASS_OF[kind], self.setups[variant]
        times, assumed = self.times_of(variant, slice_index)
        content = (variant, slice_index, replace(part, stage=min(part.stage, 1), first_layer=0))
        if content not in self._passes:
            passes = self._stage(part, variant, slice_index)
            if self.free is not None:
                passes = _apart_from(self.free, passes)
            if self.shards:
                passes = sharded_times(setup, part, times, passes, self.free)
            self._passes[content] = {n: rounded(p) for n, p in passes.items()}
        self.costs[CostKey(kind, stage, slice_index, pipe, variant)] = self._passes[content][name]
        if name == "forward" and stage == 0 and self.first:
            if variant:
                whole, assumed_whole = self._whole_batch()
                self._share(_frozen(part), name, whole, assumed_whole)
            part = part.active
        self._share(part, name, times, assumed)

    def _stage(self, part: StagePart, variant: int, slice_index: int) -> PassTimes:
        """A stage's passes; where frozen layers run over the whole batch first, microbatch 0's
        forward pass has that in it, with its loading and caching, and no other one has them."""
        setup = self.setups[variant]
        efficiency, scenario = setup.cluster.device.efficiency, setup.scenario
        times, _ = self.times_of(variant, slice_index)
        loading = float(efficiency.data_loading) if slice_index == 0 else 0.0
        cached = (
            cache_ns(scenario, setup.cluster, setup.plan.micro_batch) if not part.stage else 0.0
        )
        if not self.first or part.stage:
            return stage_times(part, times, loading, cached)
        # Inputs and targets of a stage with both ends are loaded at once.
        passes = stage_times(part.active, times, 0.0 if part.computes_embedding else loading)
        if variant == 0:
            return passes
        count = setup.plan.num_microbatches
        whole, _ = self._whole_batch()
        ahead = {**whole, "action": {}}
        frozen = stage_times(_frozen(part), ahead, count * loading, count * cached)
        forward = summed([(1.0, passes["forward"]), (1.0, frozen["forward"])])
        return {**passes, "forward": forward}

    def _whole_batch(self) -> tuple[PartTimes, dict[tuple[Part, Pass], str]]:
        """Times of the parts over the whole batch of a pipeline at once, all its microbatches."""
        if self._whole is None:
            plan = self.setups[0].plan
            group = MicrobatchGroup(micro_batch=plan.micro_batch * plan.num_microbatches)
            setup = setup_in(self.setups[0], group)
            self._whole = self._times_in(setup, setup.model.sequence, 0)
        return self._whole

    def _share(
        self,
        part: StagePart,
        name: Pass,
        times: PartTimes,
        assumed: Mapping[tuple[Part, Pass], str],
    ) -> None:
        """Count what had to be assumed for a pass."""
        for which, count in part_counts(part, name).items():
            if count and (which, name) in assumed:
                amount = count * total_ns(times[which][name])
                text = assumed[which, name]
                self.shares[text] = self.shares.get(text, 0.0) + amount

    @property
    def assumed(self) -> tuple[tuple[str, float], ...]:
        """Each assumption's share of the time of the passes added."""
        total = sum(cost.duration_ns for cost in self.costs.values()) or 1
        return tuple((what, amount / total) for what, amount in self.shares.items())


def _apart_from(category: Category, passes: PassTimes) -> PassTimes:
    return {name: apart_from(category, parts) for name, parts in passes.items()}


def _frozen(part: StagePart) -> StagePart:
    """The frozen layers of a part, and the embedding before them."""
    return replace(part, num_layers=part.frozen_layers, head=False)


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


def tied_parts(setup: Setup, profile: Profile | None, ranks: Sequence[int]) -> Parts:
    """The all-reduce of the shared token table's gradient, measured where it was."""
    if not setup.model.shares_table:
        return {}
    if profile is not None and profile.all_reduce is not None and setup.cluster.nodes == 1:
        table = token_table_parameters(setup.model, setup.plan.tensor)
        payload = table * PRECISION_BYTES[setup.plan.reduced_precision]
        return {"tied_embedding": message_time_ns(profile.all_reduce, payload)}
    return tied_reduction(setup, ranks)


def optimizer_parts(setup: Setup, profile: Profile | None, held: Sequence[StagePart]) -> Parts:
    """The optimizer step of a rank that holds these parts: of what is trained in them."""
    held = [part.active for part in held]
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
