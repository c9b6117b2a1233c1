"""A lower bound of a layout's simulated time, without simulating it.

The bound is the longest path through the passes of a few microbatches, and never above what the
engine finds, as each step of the path is one that no rule of the engine shortens
(`sim.engine.simpy_engine`):

- A rank's process does one thing after another: from the end of one pass to the end of a later one
  it takes at least all passes between them, posting and unpacking their messages and, where
  messages block, each step of messages whole. Such a step posts its sends first; it ends no earlier
  than a message that it waits for, which starts no earlier than it is posted here, holds its links
  for its occupancy (two that share a link one after the other) and arrives a latency later; what it
  received is then unpacked, and the host takes its exchange time.
- A pass starts after its message was unpacked here, which was posted after the pass that made it
  (where ranks hold several stages and messages block: after the slot which that was in, and it is
  received before the slot that needs it).
- A link serves one message at a time: all that it carries lies between the first pass that sends
  through it and what its last message must still go through, back to the first rank.
- The flush of a rank follows its last backward pass and the steps of messages after it. A reduction
  beside the passes ends at its own time after the stage's last backward pass, less what may be
  hidden, and after the one before it. Tied weights wait for the first and the last rank, the norm
  for all, then come optimizer step and gathering.

What only makes ranks wait is left out: a rendezvous that keeps a sender back, messages that queue
on a link behind others', a processor in turn. So the bound is exact where nobody waits for these,
and where the path may go through all passes (few of them).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from sim.planner.layouts.bound_inputs import (
    BLOCKING,
    EXCHANGE,
    I64,
    OVERLAPPED,
    Route,
    Sent,
    Sizes,
)
from sim.planner.layouts.bound_kernels import bound
from sim.planner.layouts.layout_costs import LayoutCosts
from sim.schedule.shape import Shape, ShapeSchedule

MOST_PASSES = 1_000
"""Passes of all ranks that the path goes through, about, where there are more."""
_MODES = {"overlapped": OVERLAPPED, "blocking": BLOCKING, "exchange": EXCHANGE}


def bound_ns(shape: Shape, costs: LayoutCosts) -> int:
    """What a layout's program takes at least: see above.

    costs: no more than the program's; sharing of processors only adds to them.
    """
    p, v, n = shape.num_ranks, shape.num_chunks, shape.num_slices
    passes, messages, ranks = costs.passes, costs.messages, costs.ranks
    mode = _MODES[shape.mode]
    posted = np.zeros(p, np.int64)
    if p > 1:
        posted[1:] = messages.post_ns[0]
        if mode != OVERLAPPED:
            posted[1:] += messages.occupancy_ns[1, 1:, 0]
            posted[1:] += messages.latency_ns[1, 1:] + costs.exchange_ns
    after = shape.flush
    return bound(
        Sizes(p, v, max(v, n), p * v if v > 1 else n, shape.num_passes, mode),
        passes.by_rank_ns,
        Sent(
            messages.occupancy_ns,
            messages.latency_ns,
            messages.links.shares,
            messages.post_ns,
            messages.unpack_ns,
            costs.exchange_ns,
            messages.links.first,
            messages.links.links,
            messages.links.num_links,
        ),
        _route(shape.schedule, p, v, n, shape.num_microbatches),
        passes.alike,
        posted,
        costs.stages.by_rank_ns,
        ranks.optimizer_ns,
        after.overlapped,
        ranks.tied_ns if after.reduce_tied else -1,
        ranks.norm_ns if after.norm else -1,
    )


@lru_cache(maxsize=4096)
def _route(schedule: ShapeSchedule, p: int, v: int, n: int, m: int) -> Route:
    shape = Shape(schedule=schedule, num_ranks=p, num_microbatches=m, num_chunks=v, num_slices=n)
    total = shape.num_passes
    # One forward pass and the first backward one at the end are no pair: all passes of one
    # direction come first.
    warm_ups = [total if w == total - 1 else w for w in shape.warm_ups]
    forwards = backwards = np.arange(total)
    if 2 * total * p > MOST_PASSES:
        forwards, backwards = _some(p, v, n, m)
    most = max(len(forwards), len(backwards))
    kinds, turns = np.zeros((2, most), np.int64), np.full((2, most), -1, np.int64)
    for row, numbers in enumerate((forwards, backwards)):
        kinds[row, : len(numbers)] = _types(numbers, row, p, v, n)
        if v > 1:
            place = np.searchsorted(numbers, numbers - p)
            turns[row, : len(numbers)] = np.where(numbers[place] == numbers - p, place, -1)
    all_numbers = np.arange(2 * (p * v if v > 1 else n) + 2)
    return Route(
        warm_ups=np.array(warm_ups, np.int64),
        forwards=forwards.astype(np.int64),
        backwards=backwards.astype(np.int64),
        kinds=kinds,
        turns=turns,
        types=np.stack([_types(all_numbers, row, p, v, n) for row in range(2)]).astype(np.int64),
    )


def _types(numbers: I64, row: int, p: int, v: int, n: int) -> I64:
    """The chunk or slice of each pass of a row."""
    found = numbers % (p * v) // p if v > 1 else numbers % n
    return max(v, n) - 1 - found if row else found


def _some(p: int, v: int, n: int, m: int) -> tuple[I64, I64]:
    """Numbers of the passes at the beginning and at the end, and some between."""
    total = m * v * n
    numbers = np.arange(total)
    if v > 1:
        group, within = np.divmod(numbers, p * v)
        taken = np.isin(group * p + within % p, [0, p - 1, m - p, m - 1])
        return numbers[taken], numbers[taken]
    pieces = np.unique(np.linspace(0, n - 1, min(n, 4)).astype(np.int64))
    ends = np.isin(numbers, pieces) | np.isin(total - 1 - numbers, pieces)
    # The longest way to and fro between two ranks comes back to a rank p passes later.
    step = p * max(1, -(-2 * total // MOST_PASSES))
    return (
        numbers[ends | (numbers % step == (n - 1) % step)],
        numbers[ends | (numbers % step == 0)],
    )
