"""Costs given outright in a scenario: published or measured stage times under any schedule."""

from __future__ import annotations

from scenarios.schema import GivenCosts, MicrobatchGroup, Plan, Scenario, StageCosts
from sim.cost.costs import Cost, CostKey, CostTable, Transfer
from sim.schedule.actions import COMPUTE, SENDS, Kind
from sim.schedule.lowering import Program
from sim.schedule.schedule import Schedule


def given_table(scenario: Scenario, program: Program) -> CostTable:
    """The cost table of a scenario's `costs`.

    General times are a rank's, which its stages share evenly (its chunks); a stage's own are its
    own. Slices share a time by their tokens (evenly where only their number is given), and unequal
    microbatches have times in proportion to their sequences, the times given being those of one of
    `plan.micro_batch` (of one sequence, where the plan has groups). The whole backward pass is the
    stage's `backward`, else the sum of its halves, else the general ones in the same order. Where
    the schedule splits what is given whole, a half not given is the rest, and without either half
    both are half of it; where only `forward` is given, the backward pass takes twice as long: both
    are listed in `assumed`. Messages take `send` on a link of their own for each directed pair of
    ranks; the optimizer step is the rank's `optimizer`; what is not given is free.
    """
    costs = scenario.costs
    if costs is None:
        raise ValueError(f"scenario {scenario.name} gives no costs")
    schedule = program.schedule
    table: dict[CostKey, Cost] = {}
    transfers: dict[CostKey, Transfer] = {}
    assumed: dict[str, float] = {}
    plan = scenario.plan
    groups = plan.variant_groups
    variants = plan.variants if len(groups) > 1 else ()
    for action in program.distinct_in(variants):
        kind, stage, microbatch, index, pipe = action
        variant = variants[microbatch] if variants and microbatch is not None else 0
        key = CostKey(kind, stage, index, pipe, variant)
        if kind in COMPUTE:
            amount, note = _pass_ns(costs, kind, stage, _stages_beside(schedule, stage, pipe))
            amount = _of_slice(amount, groups[variant], index, plan)
            table[key] = _cost(amount)
            if note:
                assumed[note] = assumed.get(note, 0.0) + amount
        elif kind in SENDS:
            own = costs.stages.get(stage)
            send = own.send if own is not None and own.send is not None else costs.send
            amount = _of_slice(send or 0, groups[variant], index, plan)
            transfers[key] = _transfer(schedule, key, round(amount))
        elif kind is Kind.OPTIMIZER:
            step_ns = _optimizer_ns(costs, schedule.stages_of(stage))
            table[CostKey(Kind.OPTIMIZER, stage)] = _cost(step_ns)
    total = sum(c.duration_ns for k, c in table.items() if k.kind in COMPUTE) or 1
    shares = ((what, amount / total) for what, amount in assumed.items())
    return CostTable(
        costs=table,
        transfers=transfers,
        variants=variants,
        assumed=tuple((what, min(share, 1.0)) for what, share in shares),
    )


def _of_slice(amount: float, group: MicrobatchGroup, index: int, plan: Plan) -> float:
    """A microbatch's time or size as its slice and its number of sequences share it."""
    if plan.microbatch_groups is not None:
        amount *= group.micro_batch
    if isinstance(group.slices, tuple):
        return amount * group.slices[index] / sum(group.slices)
    return amount / group.num_slices


def _cost(amount: float) -> Cost:
    duration = round(amount)
    return Cost(duration_ns=duration, parts={"given": duration} if duration else {})


def _stages_beside(schedule: Schedule, stage: int, pipe: int) -> int:
    """Chunks among which a rank's time is divided: its stages in the same pipe."""
    rank = schedule.rank_of(stage, pipe)
    return sum(1 for holder in schedule.placement[pipe] if holder == rank)


def _pass_ns(costs: GivenCosts, kind: Kind, stage: int, chunks: int) -> tuple[float, str]:
    own = costs.stages.get(stage, StageCosts())
    if kind is Kind.FORWARD:
        return (own.forward if own.forward is not None else costs.forward / chunks), ""

    def pick(mine: int | None, general: int | None) -> float | None:
        if mine is not None:
            return float(mine)
        return None if general is None else general / chunks

    grad_input = pick(own.backward_input, costs.backward_input)
    grad_weight = pick(own.backward_weight, costs.backward_weight)
    has_own_half = own.backward_input is not None or own.backward_weight is not None
    note = ""
    if own.backward is not None:
        whole = float(own.backward)
    elif has_own_half or costs.backward is None:
        if grad_input is None and grad_weight is None:
            whole = 2 * _pass_ns(costs, Kind.FORWARD, stage, chunks)[0]
            note = "backward pass: not given, taken as twice the forward pass"
        else:
            whole = (grad_input or 0.0) + (grad_weight or 0.0)
    else:
        whole = costs.backward / chunks
    if kind is Kind.BACKWARD:
        return whole, note
    if grad_input is None and grad_weight is None:
        note = note or "halves of the backward pass: not given, taken as equal"
        return whole / 2, note
    if grad_input is None:
        grad_input = max(0.0, whole - (grad_weight or 0.0))
    if grad_weight is None:
        grad_weight = max(0.0, whole - grad_input)
    return (grad_input if kind is Kind.BACKWARD_INPUT else grad_weight), note


def _optimizer_ns(costs: GivenCosts, stages: tuple[int, ...]) -> float:
    total = 0.0
    for stage in stages:
        own = costs.stages.get(stage)
        if own is not None and own.optimizer is not None:
            total += own.optimizer
        else:
            total += (costs.optimizer or 0) / len(stages)
    return total


def _transfer(schedule: Schedule, key: CostKey, send_ns: int) -> Transfer:
    """One link for each directed pair of ranks, so that messages of one pair follow each other."""
    step = 1 if key.kind is Kind.SEND_FORWARD else -1
    source = schedule.rank_of(key.stage, key.pipe)
    target = schedule.rank_of(key.stage + step, key.pipe)
    return Transfer(
        occupancy_ns=send_ns,
        latency_ns=0,
        resources=(source * schedule.num_ranks + target,),
        payload_bytes=0,
    )
