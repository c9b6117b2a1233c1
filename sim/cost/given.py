"""Costs given outright in a scenario: published or measured stage times under any schedule."""

from __future__ import annotations

from scenarios.schema import GivenCosts, Scenario, StageCosts
from sim.cost.costs import Cost, CostKey, CostTable, Transfer
from sim.schedule.actions import COMPUTE, SENDS, Kind
from sim.schedule.lowering import Program
from sim.schedule.schedule import Schedule


def given_table(scenario: Scenario, program: Program) -> CostTable:
    """The cost table of a scenario's `costs`.

    General times are a rank's, which its stages share evenly (its chunks); a stage's own are its
    own. Slices share a time evenly. The whole backward pass is the stage's `backward`, else the sum
    of its halves, else the general ones in the same order. Where the schedule splits what is given
    whole, a half not given is the rest, and without either half both are half of it; where only
    `forward` is given, the backward pass takes twice as long: both are listed in `assumed`.
    Messages take `send` on a link of their own for each directed pair of ranks; the optimizer step
    is the rank's `optimizer`; what is not given is free.
    """
    costs = scenario.costs
    if costs is None:
        raise ValueError(f"scenario {scenario.name} gives no costs")
    schedule = program.schedule
    table: dict[CostKey, Cost] = {}
    transfers: dict[CostKey, Transfer] = {}
    assumed: dict[str, float] = {}
    for key in sorted({(a.kind, a.stage, a.slice_index, a.pipe) for a in schedule.actions}):
        kind, stage, _, pipe = key
        amount, note = _pass_ns(costs, kind, stage, _stages_beside(schedule, stage, pipe))
        table[CostKey(*key)] = _cost(amount / schedule.num_slices)
        if note:
            assumed[note] = assumed.get(note, 0.0) + amount
    for step in (step for rank in program.steps for step in rank):
        for action in step:
            if action.kind in SENDS:
                own = costs.stages.get(action.stage)
                send = own.send if own is not None and own.send is not None else costs.send
                where = CostKey(action.kind, action.stage, action.slice_index, action.pipe)
                transfers[where] = _transfer(schedule, where, send or 0)
            elif action.kind is Kind.OPTIMIZER:
                step_ns = _optimizer_ns(costs, schedule.stages_of(action.stage))
                table[CostKey(Kind.OPTIMIZER, action.stage)] = _cost(step_ns)
    total = sum(c.duration_ns for k, c in table.items() if k.kind in COMPUTE) or 1
    shares = ((what, amount / schedule.num_slices / total) for what, amount in assumed.items())
    return CostTable(
        costs=table,
        transfers=transfers,
        assumed=tuple((what, min(share, 1.0)) for what, share in shares),
    )


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
        occupancy_ns=round(send_ns / schedule.num_slices),
        latency_ns=0,
        resources=(source * schedule.num_ranks + target,),
        payload_bytes=0,
    )
