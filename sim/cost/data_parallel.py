"""Costs of data parallelism: reductions after the passes or beside them, and sharded replicas.

Sharding is that of Rajbhandari et al. 2020, "ZeRO" (arXiv 1910.02054): of the optimizer's state
alone (stage 1; Megatron-LM's distributed optimizer), or of weights, gradients and state (stage 3;
PyTorch's FSDP). Overlapped reductions are bucketed as torch's DistributedDataParallel buckets them
(Li et al. 2020, arXiv 2006.15704, section 3.2.3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from operator import sub
from typing import NamedTuple

from scenarios.schema import PRECISION_BYTES
from sim.cost.collectives import all_gather_ns, all_reduce_ns, data_group, reduce_scatter_ns
from sim.cost.costs import Category, Cost
from sim.cost.modelled import PartTimes, PassTimes, Setup
from sim.cost.parts import Parts, larger, rounded, summed, total_ns
from sim.cost.shapes import Part, Pass
from sim.workload.parameters import LAYER_MATRICES, part_parameters, token_table_parameters
from sim.workload.partition import StagePart


def gradient_reduction(
    setup: Setup, part: StagePart, times: PartTimes, *, split: bool = False
) -> Cost:
    """The reduction of a stage's gradients, of what is trained in it, over the data-parallel
    replicas: an all-reduce, or a reduce-scatter where the optimizer's state is sharded.

    With `plan.gradient_reduction: overlapped` in buckets during the stage's last backward pass (its
    last W, where the backward pass is split): its duration is the sum of the buckets', and hidden
    is what can lie before that pass ends, less what the pass loses to it (the device's
    `overlap_slowdown`).
    Not modelled: DDP's smaller first bucket.
    """
    plan, cluster = setup.plan, setup.cluster
    group, launch = data_group(cluster, plan), cluster.device.efficiency.launch
    reduce = reduce_scatter_ns if plan.sharding == "optimizer" else all_reduce_ns

    def time_of(payload_bytes: float) -> float:
        return launch + reduce(payload_bytes, group, cluster)

    made = _gradients(setup, part.active)
    if plan.gradient_reduction == "after":
        return rounded({"data_parallel": time_of(_bytes_of(made, setup))})
    buckets = gradient_buckets(setup, part)
    durations = [time_of(plan.gradient_bucket)] * buckets.num_full
    if buckets.rest:
        durations.append(time_of(buckets.rest))
    name: Pass = "backward_weight" if split else "backward"
    totals = {which: total_ns(times[which][name]) for which, _ in made}
    left_ns = _left_ns([totals[which] for which, _ in made])
    tail = reduction_tail_ns([left_ns[place] for place in buckets.last], durations)
    cost = rounded({"data_parallel": sum(durations)})
    hidden = max(0.0, cost.duration_ns - tail)
    slowdown = cluster.device.efficiency.overlap_slowdown
    return replace(cost, hidden_ns=round(hidden * (1.0 - slowdown)))


def gradient_buckets(setup: Setup, part: StagePart) -> Buckets:
    """In what buckets a stage's gradients are reduced; all in one that is not full, after the
    passes."""
    made = _gradients(setup, part.active)
    if setup.plan.gradient_reduction == "after":
        return Buckets(0, _bytes_of(made, setup), ())
    width = PRECISION_BYTES[setup.plan.reduced_precision]
    return bucketed(tuple(size * width for _, size in made), setup.plan.gradient_bucket)


def _bytes_of(made: Sequence[tuple[Part, int]], setup: Setup) -> int:
    return sum(size for _, size in made) * PRECISION_BYTES[setup.plan.reduced_precision]


def _gradients(setup: Setup, part: StagePart) -> list[tuple[Part, int]]:
    """Parts and their numbers of gradients in the order in which a backward pass makes them: head,
    layers from the last to the first, embedding; a tied table that both ends of one stage use is
    complete with the embedding."""
    sizes = gradient_sizes(setup, part)
    numbers: dict[Part, int] = {
        "head": int(part.head),
        "layer": part.num_layers,
        "embedding": int(part.embedding),
    }
    return [(which, sizes[which]) for which, number in numbers.items() for _ in range(number)]


def gradient_sizes(setup: Setup, part: StagePart) -> Mapping[str, int]:
    """Gradients of one layer, of the embedding and of the head, as far as a stage has them; those
    of a tied table that both ends of it use count with the embedding."""
    sizes = dict(part_parameters(part, setup.scenario))
    if part.head and part.embedding and setup.model.shares_table:
        sizes["head"] -= token_table_parameters(setup.model, setup.plan.tensor)
    return sizes


def _left_ns(durations_ns: Sequence[float]) -> list[float]:
    """What is left of a pass after each of its parts."""
    left = sum(durations_ns)
    found = []
    for duration in durations_ns:
        left -= duration
        found.append(max(0.0, left))
    return found


class Buckets(NamedTuple):
    """How many buckets are full, the bytes of one more (0 for none), and of each the place of the
    last gradient in it."""

    num_full: int
    rest: int
    last: tuple[int, ...]


@lru_cache(maxsize=1024)
def bucketed(sizes: tuple[int, ...], bucket_bytes: int) -> Buckets:
    """Buckets of at most `bucket_bytes` of gradients of so many bytes, in their order."""
    last: list[int] = []
    filled = 0
    for place, size in enumerate(sizes):
        full, filled = divmod(filled + size, bucket_bytes)
        last += [place] * full
    num_full = len(last)
    if filled:
        last.append(len(sizes) - 1)
    return Buckets(num_full, filled, tuple(last))


def reduction_tail_ns(left_ns: Sequence[float], durations_ns: Sequence[float]) -> float:
    """How long reductions go on after a pass, one after the other, each from when it is ready.

    left_ns: how long before the end of the pass each is ready, the first one first. The tail is the
    largest over them of what is left to reduce from its being ready on, less what the pass still
    takes then.
    """
    following = accumulate(reversed(durations_ns))
    longest: float = max(map(sub, following, reversed(left_ns)), default=0.0)
    return max(0.0, longest)


def weight_gather(setup: Setup, parameters: int) -> Parts:
    """The all-gather of a stage's updated weights, of which each replica made a share."""
    plan, cluster = setup.plan, setup.cluster
    payload = parameters * PRECISION_BYTES[plan.precision]
    time = all_gather_ns(payload, data_group(cluster, plan), cluster)
    return {"weight_gather": cluster.device.efficiency.launch + time}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lane:
    """What one pass communicates: the sums, and what nothing can hide at its ends."""

    gather: float
    scatter: float
    first: float
    last: float


def sharded_times(
    setup: Setup,
    part: StagePart,
    times: PartTimes,
    passes: PassTimes,
    free: Category | None = None,
) -> PassTimes:
    """A stage's passes with full sharding: each gathers the weights of its layers, matrix by matrix
    ahead of their use, and a backward pass reduce-scatters every microbatch's gradients behind it.

    A pass ends when both lanes have: the first part's gather, all computation and the last part's
    reduce-scatter; or all communication and the computation of the last part. The backward pass
    gathers once, also for recomputation, which happens in it; the embedding's lookup gathers only
    going forward. What is longer than the computation is exposed, and of what is hidden the pass
    loses the device's `overlap_slowdown`: `weight_gather` and `data_parallel` in proportion to
    their times.
    free: `weight_gather` or `data_parallel` where that takes no time.
    Not modelled: limits to how far ahead weights are gathered, a second stream for reduce-scatters,
    gathers that reach less than a collective's bandwidth (the times published for ZeRO-3 on 768 to
    2240 A100 mean about 17 GB/s a device).
    """
    plan, cluster = setup.plan, setup.cluster
    group, launch = data_group(cluster, plan), cluster.device.efficiency.launch
    counts: Mapping[str, int] = part_parameters(part, setup.scenario)

    def each(
        width: int, time: Callable[..., float], sizes: Mapping[str, int], matrices: int
    ) -> dict[str, float]:
        once = {w: launch + time(n * width, group, cluster) for w, n in sizes.items()}
        more = (matrices - 1) * (launch + time(0, group, cluster))
        return {**once, "layer": once["layer"] + more}

    gathers = each(PRECISION_BYTES[plan.precision], all_gather_ns, counts, LAYER_MATRICES)
    made = gradient_sizes(setup, part)
    scatters = each(PRECISION_BYTES[plan.reduced_precision], reduce_scatter_ns, made, 1)
    numbers = {"layer": part.num_layers, "embedding": 1, "head": 1}
    first: Part = "embedding" if part.embedding else "layer"
    last: Part = "head" if part.head else "layer"

    if free == "weight_gather":
        gathers = dict.fromkeys(gathers, 0.0)
    if free == "data_parallel":
        scatters = dict.fromkeys(scatters, 0.0)

    def whole(of: Mapping[str, float], *, without: str = "") -> float:
        return sum(numbers[which] * time for which, time in of.items() if which != without)

    again = whole(gathers, without="embedding")
    lanes: dict[Pass, tuple[_Lane, Part]] = {
        "forward": (
            _Lane(gather=whole(gathers), scatter=0.0, first=gathers[first], last=0.0),
            last,
        ),
        "backward": (
            _Lane(gather=again, scatter=whole(scatters), first=gathers[last], last=scatters[first]),
            first,
        ),
        "backward_input": (
            _Lane(gather=again, scatter=0.0, first=gathers[last], last=0.0),
            first,
        ),
        "backward_weight": (
            _Lane(gather=0.0, scatter=whole(scatters), first=0.0, last=scatters[first]),
            last,
        ),
    }
    slowdown = cluster.device.efficiency.overlap_slowdown
    return {name: _both(passes[name], times, name, *lanes[name], slowdown) for name in lanes}


def _both(
    compute: Parts, times: PartTimes, name: Pass, lane: _Lane, end: Part, slowdown: float
) -> Parts:
    alone = total_ns(compute)
    communication = lane.gather + lane.scatter
    if not communication:
        return compute
    communicated = communication + total_ns(times[end][name])
    longest = larger(lane.first + alone + lane.last, communicated)
    seen = (longest - alone) / communication
    exposed = seen + slowdown * (1.0 - seen)
    parts: Parts = {
        "weight_gather": exposed * lane.gather,
        "data_parallel": exposed * lane.scatter,
    }
    return summed([(1.0, compute), (1.0, parts)])
