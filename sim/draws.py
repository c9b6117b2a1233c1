"""Iterations of a program whose durations are drawn anew, action by action."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sim.cost.costs import ActionCosts, CostTable
from sim.engine.choice import Engine, choose
from sim.engine.simpy_engine import simulate
from sim.schedule.actions import COMPUTE, RECEIVES, SENDS, Action, Kind
from sim.schedule.lowering import Program


def drawn_iterations(
    program: Program,
    costs: CostTable,
    ratios: Sequence[float],
    *,
    draws: int,
    seed: int = 0,
    engine: Engine = "auto",
) -> list[int]:
    """So many iteration times in nanoseconds, each with the duration of every pass and optimizer
    step multiplied by one of `ratios`, drawn for it alone.

    seed: the draws are the same in either engine.
    Raises OverflowError as `sim.engine.choice.run`.
    """
    actions = [action for steps in program.steps for step in steps for action in step]
    drawn = [a for a in actions if a.kind in COMPUTE or a.kind is Kind.OPTIMIZER]
    medians = [costs.duration_ns(action) for action in drawn]
    generator = random.Random(seed)
    rows = [[round(ns * generator.choice(ratios)) for ns in medians] for _ in range(draws)]
    if choose(program, engine, times=draws).engine == "compiled":
        try:
            return _compiled(program, costs, drawn, rows)
        except OverflowError:
            if engine == "compiled":
                raise
    return _interpreted(program, costs, drawn, rows)


def _compiled(
    program: Program, costs: CostTable, drawn: list[Action], rows: list[list[int]]
) -> list[int]:
    from sim.engine.compiled import evaluate
    from sim.engine.encoding import encode, price

    encoded = encode(program, costs, by_action=True)
    medians = price(encoded, costs)
    slot_of = {action: slot for slot, action in enumerate(encoded.slots)}
    slots = np.array([slot_of[action] for action in drawn], dtype=np.int64)
    times = []
    for row in rows:
        durations = medians.duration_ns.copy()
        durations[slots] = row
        times.append(evaluate(encoded, replace(medians, duration_ns=durations)).iteration_ns)
    return times


def _interpreted(
    program: Program, costs: CostTable, drawn: list[Action], rows: list[list[int]]
) -> list[int]:
    actions = [action for steps in program.steps for step in steps for action in step]
    if program.mode != "overlapped":
        for rank, steps in enumerate(program.steps):
            exchanges = sum(s[0].kind in SENDS or s[0].kind in RECEIVES for s in steps)
            actions += [Action(Kind.EXCHANGE, rank, number) for number in range(exchanges)]
    medians = {a: costs.duration_ns(a) for a in actions}
    transfers = {a: costs.transfer(a) for a in actions if a.kind in SENDS}
    hidden = {a: costs.hidden_ns(a) for a in actions if a.kind is Kind.REDUCE_GRADIENTS}
    times = []
    for row in rows:
        one = ActionCosts(
            durations=medians | dict(zip(drawn, row, strict=True)),
            transfers=transfers,
            hidden=hidden,
            processors=costs.processors,
        )
        times.append(simulate(program, one).iteration_ns)
    return times
