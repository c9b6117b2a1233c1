"""What the iteration would take, were something free: the same program simulated without it.

A category's time is taken out of every pass, reduction and optimizer step that has it, and what it
hid then shows: of a reduction beside the passes less is hidden where they are shorter, so of
ZeRO-3's gathers and reduce-scatters, and the host's time to launch a layer may be the longer. The
collectives that recomputation repeats count with the others. Gains do not add up, as what is behind
one thing shows where that is gone.

Besides the categories of costs:

- `point_to_point`: messages arrive at once, and posting, unpacking and exchanging them is free.
- `latency`: messages take no latency. `contention`: no message waits for the link of another one;
  how many replicas' messages share a NIC stays in each message's own time.
- `imbalance`: of each kind of pass (and slice, and variant) every stage takes the mean over stages.
- `bubble`: no rank waits for another, or for a message, before the flush: the passes, messages
  handled and reductions of each follow one another without a gap, then comes the flush as it is.
  Perfect pipelining, as with endless microbatches: the busiest rank's own work decides. Its share
  is the pipeline bubble and the waiting for messages under way.
- `forward`, `backward`, `optimizer`: all such passes or steps, where times were given or measured
  and say no more.

Without contention for links or processors an iteration is the longest chain of its costs, so that
taking costs out never lengthens it (by more than the rounding of a hidden reduction). First come,
first served on a shared link or processor can lengthen it, and equal stages can be slower than
unequal ones: the gain is then below 0, and told as it is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from functools import partial

from sim.cost.costs import ActionCosts, Category, Cost, CostKey, CostTable
from sim.cost.modelled import PartTimes
from sim.cost.shapes import Pass
from sim.cost.table import passes_without, reductions_with
from sim.engine import simpy_engine
from sim.prediction import Prediction
from sim.schedule.actions import COMPUTE, FLUSH, RECEIVES, SENDS, Action, Kind
from sim.schedule.lowering import Program, Step
from sim.timeline.figures import BUBBLE, MESSAGES, POINT_TO_POINT
from sim.what_if.found import Freed
from sim.what_if.simulations import simulations

_MESSAGE = SENDS | RECEIVES | {Kind.EXCHANGE}
_KINDS: Mapping[str, frozenset[Kind]] = {
    "forward": frozenset({Kind.FORWARD}),
    "backward": COMPUTE - {Kind.FORWARD},
    "optimizer": frozenset({Kind.OPTIMIZER}),
}
_UNTOLD: frozenset[Category] = frozenset({"given", "measured"})
"""Categories that are whole passes: taking them out says nothing."""
WORDS: Mapping[str, str] = {
    "matmul": "matrix products",
    "attention": "attention",
    "memory_bound": "memory-bound kernels",
    "launch": "kernel launches",
    "recomputation": "recomputation",
    "tensor_parallel": "tensor-parallel collectives",
    "optimizer": "the optimizer step",
    "host": "host time",
    "data_loading": "data loading",
    "cache": "the cache of frozen layers",
    "point_to_point": "messages between stages",
    "data_parallel": "gradient reduction",
    "weight_gather": "gathering of sharded weights",
    "tied_embedding": "the tied-embedding all-reduce",
    "gradient_norm": "the gradient norm",
    "latency": "the latency of messages",
    "contention": "queueing for links",
    "imbalance": "the imbalance of stages",
    "bubble": "waiting for other ranks: the bubble, messages under way",
    "forward": "forward passes",
    "backward": "backward passes",
}


def freed(
    prediction: Prediction, progress: Callable[[str], None] = lambda text: None
) -> tuple[Freed, ...]:
    """The iteration without each thing that it has, most gain first."""
    table, program = prediction.costs, prediction.program
    wanted = _tables(prediction)
    iteration_ns = simulations(prediction, times=len(wanted))
    now_ns = prediction.figures.iteration_ns
    found = []

    def add(what: str, share: float | None, without_ns: int) -> None:
        gain = 1 - without_ns / now_ns if now_ns else 0.0
        found.append(
            Freed(what=what, words=WORDS[what], share=share, iteration_ns=without_ns, gain=gain)
        )

    shares = prediction.figures.breakdown
    for number, (what, (share, without)) in enumerate(wanted.items()):
        progress(f"what if {WORDS[what]} were free ({number + 1} of {len(wanted)})")
        add(what, share, iteration_ns(without))
    if program.num_ranks > 1:
        waits = shares.get(BUBBLE, 0.0) + shares.get(POINT_TO_POINT, 0.0)
        add(BUBBLE, waits, without_bubble_ns(program, table))
    return tuple(sorted(found, key=lambda one: (one.iteration_ns, one.what)))


def _tables(prediction: Prediction) -> dict[str, tuple[float | None, CostTable]]:
    """By name of what is free: its share of rank-time, and the costs without it."""
    table, program = prediction.costs, prediction.program
    shares = prediction.figures.breakdown
    found: dict[str, tuple[float | None, CostTable]] = {}
    present: Counter[Category] = Counter()
    for key, cost in table.costs.items():
        if key.kind not in _MESSAGE:
            present.update(cost.parts)
    for category, time in present.items():
        if time and category not in _UNTOLD:
            without = without_category(table, category)
            without = _less_hidden_in_passes(prediction, without, category)
            gone = partial(_is_category, category)
            found[category] = (shares.get(category, 0.0), less_hidden(prediction, without, gone))
    if any(present[category] for category in _UNTOLD):
        for what, kinds in _KINDS.items():
            if what in found or not _takes_time(table, kinds):
                continue
            without = without_kinds(table, kinds)
            if what == "backward":
                without = less_hidden(prediction, without, _is_backward)
            found[what] = (_share_of(prediction, kinds), without)
    on_their_way = any(t.occupancy_ns or t.latency_ns for t in table.transfers.values())
    if program.num_ranks > 1 and (on_their_way or _takes_time(table, _MESSAGE)):
        share = shares.get(POINT_TO_POINT, 0.0) + shares.get(MESSAGES, 0.0)
        found[POINT_TO_POINT] = (share, without_messages(table))
    if any(t.latency_ns for t in table.transfers.values()):
        found["latency"] = (None, without_latency(table))
    if any(t.occupancy_ns and t.resources for t in table.transfers.values()):
        found["contention"] = (None, without_contention(table))
    even = balanced(table)
    if program.num_ranks > 1 and even.costs != table.costs:
        found["imbalance"] = (_imbalance(prediction), even)
    return found


def _takes_time(table: CostTable, kinds: Container[Kind]) -> bool:
    """Whether any action of some kinds does."""
    return any(cost.duration_ns for key, cost in table.costs.items() if key.kind in kinds)


def without_category(table: CostTable, category: Category) -> CostTable:
    """Costs without a category; those of handling messages stay."""
    costs = {}
    for key, cost in table.costs.items():
        amount = cost.parts.get(category, 0)
        if amount and key.kind not in _MESSAGE:
            parts = {name: time for name, time in cost.parts.items() if name != category}
            cost = _lasting(cost, cost.duration_ns - amount, parts)
        costs[key] = cost
    return replace(table, costs=costs)


def without_kinds(table: CostTable, kinds: Iterable[Kind]) -> CostTable:
    """Costs in which all actions of some kinds are free."""
    gone = frozenset(kinds)
    costs = {key: cost for key, cost in table.costs.items() if key.kind not in gone}
    return replace(table, costs=costs)


def less_hidden(
    prediction: Prediction, table: CostTable, gone: Callable[[Pass, Category], bool]
) -> CostTable:
    """Costs in which of reductions beside passes no more is hidden than the passes allow once they
    have lost what is `gone`."""
    scenario, program = prediction.scenario, prediction.program
    if not program.overlapped_reduction or scenario.model is None or scenario.costs is not None:
        return table

    def change(times: PartTimes) -> PartTimes:
        return {
            part: {
                name: {c: time for c, time in parts.items() if not gone(name, c)}
                for name, parts in passes.items()
            }
            for part, passes in times.items()
        }

    costs = dict(table.costs)
    found = reductions_with(scenario, program, prediction.profile, change)
    for key, cost in found.items():
        own = costs[key]
        costs[key] = replace(own, hidden_ns=min(own.hidden_ns, cost.hidden_ns))
    return replace(table, costs=costs)


def _less_hidden_in_passes(
    prediction: Prediction, table: CostTable, category: Category
) -> CostTable:
    """Costs without a category with what it hid in passes: the host's launching of a layer, and
    collectives of replicas that keep shares of the weights."""
    scenario = prediction.scenario
    plan, cluster = scenario.plan, scenario.cluster
    if scenario.model is None or cluster is None or scenario.costs is not None:
        return table
    shards = plan.sharding == "full" and plan.data > 1
    if not shards and not cluster.device.efficiency.layer_overhead:
        return table
    seen = passes_without(scenario, prediction.program, prediction.profile, category)
    return replace(table, costs={**table.costs, **seen.costs})


def _is_category(wanted: Category, name: Pass, category: Category) -> bool:
    return category == wanted


def _is_backward(name: Pass, category: Category) -> bool:
    return name != "forward"


def without_messages(table: CostTable) -> CostTable:
    """Costs in which messages take no time: none on their way, none to be handled."""
    return replace(without_kinds(table, _MESSAGE), transfers={})


def without_latency(table: CostTable) -> CostTable:
    """Costs in which a message has arrived once it is sent whole."""
    transfers = {key: replace(t, latency_ns=0) for key, t in table.transfers.items()}
    return replace(table, transfers=transfers)


def without_contention(table: CostTable) -> CostTable:
    """Costs in which every message has links of its own."""
    transfers = {key: replace(t, resources=()) for key, t in table.transfers.items()}
    return replace(table, transfers=transfers)


def balanced(table: CostTable) -> CostTable:
    """Costs in which passes of one kind, slice, pipe and variant take the same on all stages that
    have them: the mean, in whole nanoseconds, down. Their parts are no longer told apart, and of
    reductions beside them as much is hidden as before."""
    alike: defaultdict[tuple[object, ...], list[CostKey]] = defaultdict(list)
    for key in table.costs:
        if key.kind in COMPUTE:
            alike[key.kind, key.slice_index, key.pipe, key.variant].append(key)
    costs = dict(table.costs)
    for keys in alike.values():
        times = [table.costs[key].duration_ns for key in keys]
        if min(times) < max(times):
            mean = sum(times) // len(times)
            costs |= dict.fromkeys(keys, Cost(duration_ns=mean, parts={}))
    return replace(table, costs=costs)


def without_bubble_ns(program: Program, costs: CostTable) -> int:
    """The iteration where no rank waits for another one before the flush.

    Each rank is simulated with its work between two reductions in one piece; ranks that share a
    processor still take turns on it.
    """
    durations: dict[Action, int] = {}
    steps = tuple(_own_work(program, costs, rank, durations) for rank in range(program.num_ranks))
    alone = replace(program, mode="blocking", steps=steps)
    hidden = {
        action: costs.hidden_ns(action)
        for one in steps
        for (action,) in one
        if action.kind is Kind.REDUCE_GRADIENTS
    }
    known = ActionCosts(durations=durations, hidden=hidden, processors=costs.processors)
    return simpy_engine.simulate(alone, known).iteration_ns


def _own_work(
    program: Program, costs: CostTable, rank: int, durations: dict[Action, int]
) -> tuple[Step, ...]:
    """A rank's steps with all between two actions of the flush as one pass, whose time, like that
    of the flush, is added to `durations`."""
    found: list[Step] = []
    work_ns = exchanges = 0
    waits = program.mode != "overlapped"

    def close() -> None:
        nonlocal work_ns
        if work_ns:
            piece = Action(Kind.FORWARD, rank, len(found))
            durations[piece] = work_ns
            found.append((piece,))
            work_ns = 0

    for step in program.steps[rank]:
        kind = step[0].kind
        if kind in FLUSH:
            close()
            durations[step[0]] = costs.duration_ns(step[0])
            found.append(step)
            continue
        work_ns += sum(costs.duration_ns(action) for action in step)
        if waits and kind not in COMPUTE:
            work_ns += costs.duration_ns(Action(Kind.EXCHANGE, rank, exchanges))
            exchanges += 1
    close()
    return tuple(found)


def _lasting(cost: Cost, duration_ns: int, parts: Mapping[Category, int]) -> Cost:
    """A cost that takes less; no more of it is hidden than it takes."""
    hidden_ns = min(cost.hidden_ns, duration_ns)
    return Cost(duration_ns=duration_ns, parts=parts, hidden_ns=hidden_ns)


def _share_of(prediction: Prediction, kinds: Iterable[Kind]) -> float:
    """What passes of some kinds take of all rank-time."""
    wanted = frozenset(kinds)
    timeline = prediction.timeline
    time = sum(s.duration_ns for s in timeline.spans if s.action.kind in wanted)
    return time / max(1, timeline.iteration_ns * timeline.num_ranks)


def _imbalance(prediction: Prediction) -> float:
    """By how much the passes of the rank that has most of them exceed the mean, of the iteration:
    what the others wait for it at least."""
    timeline = prediction.timeline
    times = [
        sum(s.duration_ns for s in spans if s.action.kind in COMPUTE) for spans in timeline.compute
    ]
    excess = max(times) - sum(times) / len(times)
    return excess / max(1, timeline.iteration_ns)
