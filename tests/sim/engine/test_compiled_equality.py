"""The compiled engine is the SimPy engine, span for span, over random programs.

PIPETWIN_PROGRAMS=50000 tries so many, of another seed each time; else 2,000, always the same.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.cost.costs import ActionCosts, Cost, CostKey, Costs, CostTable, Transfer
from sim.engine import compiled, simpy_engine
from sim.engine.encoding import encode, price
from sim.engine.simpy_engine import Deadlock
from sim.schedule.actions import SENDS, Action, Kind
from sim.schedule.generators import gpipe, interleaved, one_forward_one_backward, terapipe
from sim.schedule.lowering import Flush, Mode, Program, lower
from sim.schedule.schedule import Schedule, dependencies
from sim.timeline.spans import Timeline

PROGRAMS = int(os.environ.get("PIPETWIN_PROGRAMS", "2000"))
MODES: tuple[Mode, ...] = ("overlapped", "blocking", "exchange", "serial")
WHOLE = (Kind.FORWARD, Kind.BACKWARD)
VALUES = ([0], [1, 2], [0, 1], [0, 0, 0, 0, 1], [0, 1, 2, 3], list(range(100)), [5, 10**6])
SPLIT = (Kind.FORWARD, Kind.BACKWARD_INPUT, Kind.BACKWARD_WEIGHT)


def listed(
    rng: random.Random, placement: tuple[tuple[int, ...], ...], ranks: int, counts: list[int]
) -> Schedule:
    """A random order of all passes that keeps their dependencies: any placement of stages, several
    pipes, backward passes whole or split at random."""
    wanted: set[Action] = set()
    stages = len(placement[0])
    for pipe in range(len(placement)):
        for microbatch, slices in enumerate(counts):
            split = rng.random() < 0.4
            for stage in range(stages):
                for index in range(slices):
                    kinds = SPLIT if split else WHOLE
                    wanted |= {Action(k, stage, microbatch, index, pipe) for k in kinds}
    whole = Schedule(
        name="listed",
        orders=tuple(
            tuple(sorted(a for a in wanted if placement[a.pipe][a.stage] == rank))
            for rank in range(ranks)
        ),
        placement=placement,
    )
    orders: list[list[Action]] = [[] for _ in range(ranks)]
    done: set[Action] = set()
    while len(done) < len(wanted):
        ready = sorted(a for a in wanted - done if all(n in done for n in dependencies(a, whole)))
        action = rng.choice(ready)
        orders[placement[action.pipe][action.stage]].append(action)
        done.add(action)
    return replace(whole, orders=tuple(map(tuple, orders)))


def schedule_of(rng: random.Random) -> Schedule:
    ranks, microbatches = rng.randint(1, 4), rng.randint(1, 5)
    slices = [rng.choice((1, 1, 2, 3)) for _ in range(microbatches)]
    frozen = rng.choice((0, 0, rng.randrange(ranks)))
    kind = rng.randrange(6)
    if kind == 0:
        backward = rng.choice(("same", "reversed"))
        return gpipe(ranks, microbatches, slices=slices, backward=backward, frozen_stages=frozen)
    if kind == 1:
        return one_forward_one_backward(ranks, microbatches, slices=slices, frozen_stages=frozen)
    if kind == 2:
        return interleaved(ranks, ranks * rng.randint(1, 2), rng.randint(1, 3))
    if kind == 3:
        return terapipe(ranks, microbatches, slices=slices)
    stages = rng.randint(1, 4)
    pipes = rng.choice((1, 1, 2))
    placement = tuple(tuple(rng.randrange(ranks) for _ in range(stages)) for _ in range(pipes))
    if kind == 4 and pipes == 2:  # A bidirectional pair, as Chimera's.
        placement = (tuple(range(ranks)), tuple(reversed(range(ranks))))
    return listed(rng, placement, ranks, slices[: 3 if pipes == 1 else 2])


def disturbed(rng: random.Random, program: Program) -> Program:
    """The same with steps of a rank exchanged at random, so that it may deadlock."""
    steps = [list(own) for own in program.steps]
    for _ in range(rng.randint(1, 4)):
        own = rng.choice(steps)
        if len(own) > 1:
            place = rng.randrange(len(own) - 1)
            other = min(len(own) - 1, place + rng.choice((1, 1, 2, 5)))
            own[place], own[other] = own[other], own[place]
    return replace(program, steps=tuple(map(tuple, steps)))


def program_of(rng: random.Random) -> Program:
    flush = Flush(
        *(),
        **{  # type: ignore[arg-type]
            name: rng.random() < 0.5 for name in Flush.__dataclass_fields__
        },
    )
    program = lower(schedule_of(rng), rng.choice(MODES), flush)
    return disturbed(rng, program) if rng.random() < 0.25 else program


def costs_of(rng: random.Random, program: Program) -> Costs:
    """Random integers, of few values so that many times are equal, or of many."""
    small = rng.choice(VALUES)
    ranks = program.num_ranks
    actions = [a for steps in program.steps for step in steps for a in step]
    actions += [Action(Kind.EXCHANGE, r, k) for r in range(ranks) for k in range(30)]
    linked = link_rule(rng, program)

    def transfer(message: Action) -> Transfer:
        return Transfer(
            occupancy_ns=rng.choice(small),
            latency_ns=rng.choice(small),
            resources=linked(message),
            payload_bytes=0,
        )

    processors: tuple[int, ...] = ()
    if rng.random() < 0.4:
        processors = tuple(rng.randrange(rng.randint(1, 3)) for _ in range(ranks))
    if rng.random() < 0.4:
        return ActionCosts(
            durations={a: rng.choice(small) for a in actions},
            transfers={a: transfer(a) for a in actions if a.kind in SENDS},
            hidden={a: rng.choice(small) for a in actions if a.kind is Kind.REDUCE_GRADIENTS},
            processors=processors,
        )
    variants = tuple(rng.randrange(2) for _ in range(8)) if rng.random() < 0.3 else ()
    costs: dict[CostKey, Cost] = {}
    transfers: dict[CostKey, Transfer] = {}
    table = CostTable(costs=costs, transfers=transfers, variants=variants, processors=processors)
    free = rng.choice((frozenset(), SENDS, frozenset({Kind.EXCHANGE}), SENDS | {Kind.EXCHANGE}))
    for action in actions:
        key = table.key(action)
        if key not in costs and action.kind not in free:
            costs[key] = Cost(duration_ns=rng.choice(small), parts={}, hidden_ns=rng.choice(small))
        if action.kind in SENDS and key not in transfers and rng.random() < 0.95:
            transfers[key] = transfer(action)
    return table


def link_rule(rng: random.Random, program: Program) -> Callable[[Action], tuple[int, ...]]:
    """Which links a message holds: none, its pair's, those of its ends, of a shared pool."""
    schedule, rule = program.schedule, rng.randrange(7)
    pool = rng.randint(1, 3)

    def links(message: Action) -> tuple[int, ...]:
        forward = message.kind is Kind.SEND_FORWARD
        source = schedule.rank_of(message.stage, message.pipe)
        target = schedule.rank_of(message.stage + (1 if forward else -1), message.pipe)
        if rule == 0:
            return ()
        if rule == 1:
            return (source * 10 + target,)
        if rule == 2:
            return tuple(sorted((4 * source, 4 * target + 1)))
        if rule == 3:
            return tuple(sorted((100 + source, 100 + target)))
        if rule == 4:
            return tuple(sorted(rng.sample(range(pool), rng.randint(0, pool))))
        if rule == 5:  # Some messages through what is shared, some on no link at all.
            return (0,) if rng.random() < 0.5 else ()
        own = (source * 10 + target,)
        return (*own, 1000) if rng.random() < 0.3 else own

    return links


def outcome(run: Callable[[], Timeline]) -> object:
    try:
        timeline = run()
    except Deadlock as error:
        return error.waiting
    return sorted(timeline.spans), timeline.processors, timeline.num_ranks, timeline.origin


def check_equal(program: Program, costs: Costs) -> bool:
    """Whether it deadlocks; fails where the engines differ."""
    expected = outcome(lambda: simpy_engine.simulate(program, costs))
    assert outcome(lambda: compiled.simulate(program, costs)) == expected
    encoded = encode(program, costs)
    prices = price(encoded, costs)
    if not isinstance(expected, tuple) or not isinstance(expected[0], list):
        with pytest.raises(Deadlock) as caught:
            compiled.evaluate(encoded, prices, program)
        assert caught.value.waiting == expected
        return True
    spans = expected[0]
    ranks = range(program.num_ranks)
    busy = [sum(s.duration_ns for s in spans if s.rank == r and s.lane == "compute") for r in ranks]
    finished = [max((s.end_ns for s in spans if s.rank == r), default=0) for r in ranks]
    whole = Timeline(origin="simulated", num_ranks=program.num_ranks, spans=tuple(spans))
    for _ in range(compiled.FROM_TAPE):
        found = compiled.evaluate(encoded, prices)
        assert found.iteration_ns == whole.iteration_ns
        assert found.busy_ns.tolist() == busy
        assert found.finished_ns.tolist() == finished
    other = replace(
        prices, duration_ns=prices.duration_ns[::-1] * 3, latency_ns=prices.latency_ns + 1
    )
    played = compiled.evaluate(encoded, other)
    walked = compiled.evaluate(encode(program, costs), other)
    assert played.finished_ns.tolist() == walked.finished_ns.tolist()
    assert played.busy_ns.tolist() == walked.busy_ns.tolist()
    return False


@settings(
    max_examples=PROGRAMS,
    derandomize=PROGRAMS == 2000,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.integers(0, 2**64 - 1))
def test_engines_are_equal_over_random_programs(seed: int) -> None:
    rng = random.Random(seed)
    program = program_of(rng)
    check_equal(program, costs_of(rng, program))
