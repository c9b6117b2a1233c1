"""The best way to cut a row of items into stages: the largest stage as small as it can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

_SLACK = 1 + 1e-9
"""Sums of floats that differ by less than this are equal."""


class _Way(NamedTuple):
    """How well items are cut into stages, and where the last cut is."""

    cost: float
    cut: int


def balanced(
    costs: Sequence[float],
    num_stages: int,
    *,
    ends: tuple[float, float] = (0.0, 0.0),
    together: int = 0,
) -> tuple[int, ...]:
    """Items of each stage, in order, so that the largest stage's cost is least; of the ways to
    reach it that whose squared costs sum up to least. Every stage gets an item.

    ends: what the first and the last stage have on top of their items.
    together: items, from the first on, that must be on the first stage.
    Exact: two dynamic programs over all contiguous cuts, O(stages x items^2).
    Raises ValueError where there are fewer items than stages need.
    """
    num_items = len(costs)
    if num_items - max(together, 1) < num_stages - 1:
        raise ValueError(
            f"{num_items} items, of which {together} stay together, cannot fill {num_stages} stages"
        )
    sums = [0.0, *accumulate(costs)]

    def stage_cost(stage: int, first: int, last: int) -> float:
        own = sums[last] - sums[first]
        return own + (ends[0] if stage == 0 else 0.0) + (ends[1] if stage == num_stages - 1 else 0)

    def search(join: Callable[[float, float], float], limit: float) -> list[list[_Way | None]]:
        ways: list[list[_Way | None]] = [[None] * (num_items + 1) for _ in range(num_stages)]
        for stage in range(num_stages):
            for last in range(max(together, stage + 1), num_items + 1):
                firsts = range(stage, last) if stage else (0,)
                for first in firsts:
                    before = ways[stage - 1][first] if stage else _Way(0.0, 0)
                    cost = stage_cost(stage, first, last)
                    if before is None or cost > limit * _SLACK:
                        continue
                    found = _Way(join(before.cost, cost), first)
                    best = ways[stage][last]
                    if best is None or found.cost < best.cost:
                        ways[stage][last] = found
        return ways

    least = search(max, float("inf"))[-1][-1]
    assert least is not None
    ways = search(lambda a, b: a + b * b, least.cost)
    counts: list[int] = []
    last = num_items
    for stage in reversed(range(num_stages)):
        way = ways[stage][last]
        assert way is not None
        counts.append(last - way.cut)
        last = way.cut
    return tuple(reversed(counts))


def largest(
    costs: Sequence[float], counts: Sequence[int], ends: tuple[float, float] = (0.0, 0.0)
) -> float:
    """The largest stage's cost under such a cut."""
    found = []
    first = 0
    for stage, count in enumerate(counts):
        extra = (ends[0] if stage == 0 else 0.0) + (ends[1] if stage == len(counts) - 1 else 0.0)
        found.append(sum(costs[first : first + count]) + extra)
        first += count
    return max(found)
