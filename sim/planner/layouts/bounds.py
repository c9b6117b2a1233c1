"""A lower bound of a layout's simulated time, without simulating it."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from sim.planner.layouts.bound_kernels import BLOCKING, EXCHANGE, I64, OVERLAPPED, Sizes, Times
from sim.planner.layouts.costs import LayoutCosts
from sim.schedule.shape import Shape, ShapeSchedule

MOST_PASSES = 1_000
"""Passes that the path goes through at most where there are more."""
_MODES = {"overlapped": OVERLAPPED, "blocking": BLOCKING, "exchange": EXCHANGE}


def bound_ns(shape: Shape, costs: LayoutCosts) -> int:
    """No engine that keeps the rules ends a layout's program earlier."""
    from sim.planner.layouts import bound_kernels as kernels

    p, v, n = shape.num_ranks, shape.num_chunks, shape.num_slices
    passes, messages, flush = costs.passes, costs.messages, costs.flush
    content = costs.cut.content.reshape(v, p).T
    if v > 1:
        forward, backward = passes.forward_ns[content, 0], passes.backward_ns[content, 0]
    else:
        forward, backward = passes.forward_ns[content[:, 0]], passes.backward_ns[content[:, 0]]
    plan = _plan(shape.schedule, p, v, n, shape.num_microbatches)
    times = Times(
        forward,
        backward,
        messages.occupancy_ns,
        messages.latency_ns,
        messages.shares,
        messages.post_ns,
        messages.unpack_ns,
        costs.exchange_ns,
    )
    sizes = Sizes(p, v, max(v, n), p * v if v > 1 else n, shape.num_passes, _MODES[shape.mode])
    alike = (forward == forward[:, :1]).all(axis=1) & (backward == backward[:, :1]).all(axis=1)
    if v > 1:
        alike[0] = alike[-1] = False
    elif n > 1:
        alike[:] = False
    ends = np.zeros((p, v), np.int64)
    kernels.path(sizes, times, plan.warm_ups, alike, plan.forwards, plan.backwards, ends)
    posted = np.zeros(p, np.int64)
    if p > 1:
        posted[1:] = messages.post_ns[0]
        if shape.mode != "overlapped":
            posted[1:] += messages.occupancy_ns[1, 1:, 0] + messages.latency_ns[1, 1:]
            posted[1:] += costs.exchange_ns
    program = shape.flush
    return int(
        kernels.finish(
            ends,
            posted,
            flush.reduce_ns[content],
            flush.hidden_ns[content],
            flush.gather_ns[content],
            flush.optimizer_ns[costs.cut.kind_of],
            program.overlapped,
            flush.tied_ns if program.reduce_tied else -1,
            flush.norm_ns if program.norm else -1,
        )
    )


class _Passes(NamedTuple):
    """Which passes the path goes through."""

    warm_ups: I64
    forwards: I64
    backwards: I64


@lru_cache(maxsize=4096)
def _plan(schedule: ShapeSchedule, p: int, v: int, n: int, m: int) -> _Passes:
    shape = Shape(schedule=schedule, num_ranks=p, num_microbatches=m, num_chunks=v, num_slices=n)
    total = shape.num_passes
    # One pass and its backward pass at the end are the same as none.
    warm_ups = [total if w == total - 1 else w for w in shape.warm_ups]
    numbers = np.arange(total)
    forwards = backwards = numbers
    if 2 * total * p > MOST_PASSES:
        forwards, backwards = _some(p, v, n, m)
    return _Passes(
        np.array(warm_ups, np.int64), forwards.astype(np.int64), backwards.astype(np.int64)
    )


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
