"""What has been simulated, and what that settles: the best so far, and the front of time, memory
and cost.

On a number of devices cost is time, so that its front is of time and memory; over several numbers
cost is a third measure. Of candidates that tie in all of them the plainest counts, so that nothing
depends on the order in which they were simulated.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from sim.planner.layouts.found import Candidate

Key = tuple[int, int, int]
"""Time, peak of memory, position in the space (the plainer first): less is better."""


class Record:
    """The simulated candidates of one space that settle others.

    top: how many of the best are asked for.
    """

    def __init__(self, top: int) -> None:
        self.top = top
        self.best: list[Key] = []
        self.stair: list[Key] = []
        """The front, by time; peaks fall strictly."""

    def add(self, key: Key) -> None:
        """Enter a simulated candidate."""
        insort(self.best, key)
        del self.best[self.top :]
        at = bisect_left(self.stair, key)
        if at and self.stair[at - 1][1] <= key[1]:
            return
        end = at
        while end < len(self.stair) and self.stair[end][1] >= key[1]:
            end += 1
        self.stair[at:end] = [key]

    def settled(
        self,
        bound_ns: NDArray[np.int64],
        peak_bytes: NDArray[np.int64],
        position: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Which candidates need no simulation, whatever time between their bound and infinity they
        take: neither among the best nor on the front can they be.

        Not among the best: `top` simulated ones are before (bound, peak, position), and so before
        the candidate, which takes no less than its bound. Not on the front: a simulated one takes
        no longer than the bound, needs no more memory (so costs no more, on as many devices), and
        is before it in (time, peak, position), so that a tie is its own, too.
        """
        if len(self.best) < self.top or not self.stair:
            return np.zeros(len(bound_ns), np.bool_)
        worst = self.best[-1]
        behind = _after(bound_ns, peak_bytes, position, worst)
        times, peaks, positions = (np.array(column) for column in zip(*self.stair, strict=True))
        # Of those as fast as the bound the last needs least memory.
        at = np.searchsorted(times, bound_ns, side="right") - 1
        there = at >= 0
        at = np.maximum(at, 0)
        dominated = (peaks[at] < peak_bytes) | (
            (peaks[at] == peak_bytes)
            & ((times[at] < bound_ns) | ((times[at] == bound_ns) & (positions[at] < position)))
        )
        found: NDArray[np.bool_] = behind & there & dominated
        return found


def _after(
    bound_ns: NDArray[np.int64],
    peak_bytes: NDArray[np.int64],
    position: NDArray[np.int64],
    key: Key,
) -> NDArray[np.bool_]:
    time, peak, place = key
    later: NDArray[np.bool_] = (bound_ns > time) | (
        (bound_ns == time) & ((peak_bytes > peak) | ((peak_bytes == peak) & (position > place)))
    )
    return later


def front(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Those that no other one equals or beats in time, memory and cost at once, by time; of equal
    ones the first.

    Cost is that of `cost`: the price of a device is the same for all.
    """
    found: list[Candidate] = []
    # (peak, cost) that is not beaten, by peak; costs fall.
    cheapest: list[tuple[int, tuple[bool, float]]] = []
    ordered = sorted(
        enumerate(candidates),
        key=lambda pair: (pair[1].iteration_ns, pair[1].peak_bytes, cost(pair[1]), pair[0]),
    )
    for _, candidate in ordered:
        point = (candidate.peak_bytes, cost(candidate))
        at = bisect_right(cheapest, (point[0], point[1]))
        if at and cheapest[at - 1][1] <= point[1]:
            continue
        found.append(candidate)
        end = at
        while end < len(cheapest) and cheapest[end][1] >= point[1]:
            end += 1
        cheapest[at:end] = [point]
    return tuple(found)


def cost(candidate: Candidate) -> tuple[bool, float]:
    """What a candidate costs, but for the price of its devices: their days over the training run as
    it is expected to be; where that is unknown, or no end is expected, their time of an iteration,
    above all that is known."""
    if candidate.days is not None:
        return False, candidate.days * candidate.num_devices
    return True, float(candidate.iteration_ns * candidate.num_devices)
