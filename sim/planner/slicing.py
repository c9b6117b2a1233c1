"""The best way to cut a batch into microbatches and their sequences into token slices, where the
stages of a pipeline are alike: TeraPipe's search (arXiv 2102.07988, sections 3.3 and 3.4), exact.

Slices go through K stages one behind the other, so an iteration takes the sum of all slices' times
on one stage and K - 1 times the largest. The paper bounds the largest time, finds the least sum
within the bound by a dynamic program over a sequence, and tries every bound. Here few bounds are
tried. The least sum is a falling staircase over the bound, and a slicing found at one bound tells
its step: nothing else is to be found down to the slicing's own largest time. Going down, sums only
rise, so a bound whose sum and K - 1 times itself are no better than the best yet leads straight to
the next that could be. And a batch size is sliced at a bound only when the knapsack over batch
sizes would take it at the best its neighbouring bounds allow.

Not modelled: unequal stages, contention, waiting between dependent slices of one stage, the flush.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from types import ModuleType

SLACK_SHIFTS = (3, 6, 9, 12, 15)
"""Passes over the bounds look for improvements of 1/8, 1/64, ... of the best, then for any."""
Ranked: TypeAlias = tuple[int, int, int]
"""Objective, largest time and sum of a splitting: what comes first in order is the better."""


class NoSplit(ValueError):
    """No way of cutting the batch has slices that are all allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One microbatch: how many sequences it has, and its slices in units, in order."""

    micro_batch: int
    slices: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Splitting:
    """A batch cut into microbatches, those of most sequences first, and these into slices.

    total_ns: the sum of all slices' times on one stage; largest_ns: the largest of them;
    objective_ns: total_ns + (K - 1) largest_ns; bounds_tried: at how many bounds on the largest
    time the search that found it looked for the least sum, until then.
    """

    microbatches: tuple[Split, ...]
    total_ns: int
    largest_ns: int
    objective_ns: int
    bounds_tried: int


def uniform_slices(num_units: int, num_slices: int) -> tuple[int, ...]:
    """Slices as even as whole units allow, the longer ones first, where the context is short.

    Raises ValueError for fewer than one slice or one unit a slice.
    """
    if not 1 <= num_slices <= num_units:
        raise ValueError(f"{num_units} units cannot make {num_slices} slices of a unit or more")
    length, longer = divmod(num_units, num_slices)
    return (length + 1,) * longer + (length,) * (num_slices - longer)


def best_splitting(
    times: NDArray[np.int64],
    num_sequences: int,
    num_stages: int,
    *,
    allowed: NDArray[np.bool_] | None = None,
) -> Splitting:
    """The splitting of least objective: of equal ones one with the smallest largest time.

    times: of shape (max_batch + 1, N + 1, N), in ns: times[b, l, c] is that of a slice of l units
    after c units of context in a microbatch of b sequences, on one stage; entries with b = 0,
    l = 0 or l + c > N are not looked at. allowed: of the same shape, False where a slice does not
    fit. Any times from 0 will do: they need not grow with l, c or b. Among splittings of equal sum
    and equal largest time the choice is fixed: the largest microbatches and, from the sequence's
    end, the longest slices.

    Raises NoSplit where no splitting is allowed, and ValueError for arguments out of range.
    """
    return frontier(times, num_sequences, num_stages=num_stages, allowed=allowed, limit=1)[0]


def frontier(
    times: NDArray[np.int64],
    num_sequences: int,
    *,
    num_stages: int,
    allowed: NDArray[np.bool_] | None = None,
    limit: int = 8,
    apart: float = 0.0,
) -> tuple[Splitting, ...]:
    """The splittings that no other beats in both sum and largest time, those of least objective
    first, as many as `limit`: candidates for a closer look.

    apart: leave out what is less than this fraction away in its largest time from a better one.
    The other arguments, and what is raised, are those of `best_splitting`.
    """
    if num_stages < 1 or limit < 1 or apart < 0:
        raise ValueError(
            "num_stages and limit must be 1 or more and apart 0 or more, "
            f"not {num_stages}, {limit} and {apart}"
        )
    ratio = 1 + Fraction(apart)
    search = _Search.of(times, num_sequences, num_stages, allowed)
    queue: list[tuple[Ranked, int, int]] = []

    def look(low: int, high: int) -> None:
        best = search.best_between(low, high)
        if best is not None:
            heapq.heappush(queue, (best, low, high))

    look(0, search.ceiling)
    found: list[Splitting] = []
    while queue and len(found) < limit:
        best, low, high = heapq.heappop(queue)
        found.append(search.splitting(best))
        if len(found) < limit:
            peak = best[1]
            look(low, min(peak - 1, floor(peak / ratio)))
            look(max(peak + 1, ceil(peak * ratio)), high)
    if not found:
        raise NoSplit(
            f"no splitting of {num_sequences} sequences: for every batch size some part of the "
            "sequence fits in no slice, or the batch sizes that fit do not add up"
        )
    return tuple(found)


@dataclass(slots=True)
class _Steps:
    """What is known of one batch size's least sum, a staircase over the bound.

    Step j: for bounds from peaks[j] to ends[j] the least sum is sums[j] (NEVER, with peak 0, where
    no slicing is within the bound); ends rise.
    """

    ends: list[int] = field(default_factory=list)
    sums: list[int] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)

    def at(self, bound: int) -> tuple[int, int, bool]:
        """The least sum and its largest time, and whether known; else no more than they are."""
        index = bisect_left(self.ends, bound)
        if index == len(self.ends):
            return 0, 0, False
        if self.peaks[index] <= bound:
            return self.sums[index], self.peaks[index], True
        return self.sums[index] + 1, 0, False

    def add(self, bound: int, total: int, peak: int) -> None:
        index = bisect_left(self.ends, bound)
        if index and self.peaks[index - 1] == peak:
            self.ends[index - 1] = bound
            return
        self.ends.insert(index, bound)
        self.sums.insert(index, total)
        self.peaks.insert(index, peak)


@dataclass(slots=True, kw_only=True)
class _Search:
    """One table's search: its packed times and what has been learnt of them.

    packed: of shape (batch sizes, N (N + 1) / 2), see `slicing_kernels`; floors: of shape (batch
    sizes, N), the least time of any slice as long or longer, by length from 1; ceiling: the
    largest time of all.
    """

    kernels: ModuleType
    packed: NDArray[np.int64]
    floors: NDArray[np.int64]
    ceiling: int
    num_stages: int
    sums: NDArray[np.int64]
    begins: NDArray[np.int64]
    chosen: NDArray[np.int64]
    steps: list[_Steps]
    bounds_tried: int = 0
    programs_run: int = 0

    @staticmethod
    def of(
        times: NDArray[np.int64],
        num_sequences: int,
        num_stages: int,
        allowed: NDArray[np.bool_] | None,
    ) -> _Search:
        from sim.planner import slicing_kernels  # here, for numba takes a while to import

        never = slicing_kernels.NEVER
        _check(times, num_sequences, allowed)
        units = times.shape[2]
        sizes = min(times.shape[0] - 1, num_sequences)
        contexts = np.concatenate([np.arange(end) for end in range(1, units + 1)])
        lengths = np.repeat(np.arange(1, units + 1), np.arange(1, units + 1)) - contexts
        index = lengths * units + contexts
        packed = times[1 : sizes + 1].reshape(sizes, -1).take(index, axis=1).astype(np.int64)
        if allowed is not None:
            fits = allowed[1 : sizes + 1].reshape(sizes, -1).take(index, axis=1)
            packed[~fits] = never
        finite = packed[packed < never]
        smallest, ceiling = (int(finite.min()), int(finite.max())) if finite.size else (0, 0)
        top = (never - 1) // (num_sequences * units + num_stages)
        if smallest < 0 or ceiling > top:
            raise ValueError(f"times must be between 0 and {top} ns, or not allowed")
        floors = np.full((sizes, units), never, np.int64)
        for length in range(1, units + 1):
            ends = np.arange(length, units + 1)
            floors[:, length - 1] = packed[:, ends * (ends - 1) // 2 + ends - length].min(axis=1)
        return _Search(
            kernels=slicing_kernels,
            packed=packed,
            floors=np.minimum.accumulate(floors[:, ::-1], axis=1)[:, ::-1],
            ceiling=ceiling,
            num_stages=num_stages,
            sums=np.zeros(units + 1, np.int64),
            begins=np.zeros(units + 1, np.int64),
            chosen=np.zeros(num_sequences + 1, np.int64),
            steps=[_Steps() for _ in range(sizes)],
        )

    def best_between(self, low: int, high: int) -> Ranked | None:
        """The best of the splittings whose largest time is from low to high and that none with a
        smaller sum has a largest time as small; None where there is none.

        Each pass goes down from the highest bound, from one that could improve on the best by more
        than the pass's slack to the next; the last pass's slack is zero.
        """
        best: Ranked | None = None
        for shift in (*SLACK_SHIFTS, None):
            bound = high
            while bound >= low:
                total, peak = self.joint(bound)
                if total >= self.kernels.NEVER or peak < low:
                    break
                ranked = (total + (self.num_stages - 1) * peak, peak, total)
                best = ranked if best is None else min(best, ranked)
                slack = 0 if shift is None else best[0] >> shift
                bound = min(peak - 1, self._could_improve(best, slack, total + 1))
            if best is None:
                return None
        return best

    def _could_improve(self, best: Ranked, slack: int, least_total: int) -> int:
        """The highest bound where a sum of least_total would be as good as the best, or -1."""
        room = best[0] - slack - least_total
        if room < 0 or self.num_stages == 1:  # one stage: the sum alone counts, and it rises
            return -1
        return room // (self.num_stages - 1)

    def joint(self, bound: int) -> tuple[int, int]:
        """The least sum of a splitting with no time above the bound, and its largest time.

        The knapsack takes what is known of each batch size, where need be as a lower limit, until
        all that it picks is known. `chosen` then has its choice. The sum is NEVER for none.
        """
        self.bounds_tried += 1
        known = [step.at(bound) for step in self.steps]
        totals = np.array([0, *(entry[0] for entry in known)], np.int64)
        peaks = np.array([0, *(entry[1] for entry in known)], np.int64)
        while True:
            total, peak = self.kernels.knapsack(totals, peaks, self.chosen)
            if total >= self.kernels.NEVER:
                return int(total), 0
            open_sizes = [size for size in sorted(set(self.sizes())) if not known[size - 1][2]]
            if not open_sizes:
                return int(total), int(peak)
            for size in open_sizes:
                entry = self.slice_at(size, bound)
                self.steps[size - 1].add(bound, *entry)
                known[size - 1] = (*entry, True)
                totals[size], peaks[size] = entry

    def sizes(self) -> list[int]:
        """The microbatches that the last knapsack chose."""
        left, found = len(self.chosen) - 1, []
        while left:
            found.append(int(self.chosen[left]))
            left -= found[-1]
        return found

    def slice_at(self, size: int, bound: int) -> tuple[int, int]:
        """The least sum of a batch size's slices within the bound and their least largest time;
        `begins` then has the slicing. The sum is NEVER, the time 0, for none."""
        self.programs_run += 1
        packed = self.packed[size - 1]
        longest = int(np.searchsorted(self.floors[size - 1], bound, side="right"))
        total = self.kernels.cheapest_sums(packed, bound, longest, self.sums)
        if total >= self.kernels.NEVER:
            return int(total), 0
        peak = self.kernels.narrowest(packed, bound, longest, self.sums, self.begins)
        return int(total), int(peak)

    def splitting(self, ranked: Ranked) -> Splitting:
        """The splitting that `best_between` ranked so."""
        objective, peak, total = ranked
        tried = self.bounds_tried
        self.joint(peak)
        sizes = sorted(self.sizes(), reverse=True)
        slices = {size: self._slices(size, peak) for size in set(sizes)}
        self.bounds_tried = tried
        return Splitting(
            microbatches=tuple(Split(micro_batch=size, slices=slices[size]) for size in sizes),
            total_ns=total,
            largest_ns=peak,
            objective_ns=objective,
            bounds_tried=tried,
        )

    def _slices(self, size: int, bound: int) -> tuple[int, ...]:
        self.slice_at(size, bound)
        end, found = len(self.sums) - 1, []
        while end:
            begin = int(self.begins[end])
            found.append(end - begin)
            end = begin
        return tuple(reversed(found))


def _check(times: NDArray[np.int64], num_sequences: int, allowed: NDArray[np.bool_] | None) -> None:
    if times.ndim != 3 or times.shape[1] != times.shape[2] + 1 or 0 in times.shape:
        raise ValueError(f"times must have the shape (batch + 1, N + 1, N), not {times.shape}")
    if not np.issubdtype(times.dtype, np.integer):
        raise ValueError(f"times must be whole nanoseconds, not {times.dtype}")
    if num_sequences < 1 or times.shape[0] < 2:
        raise ValueError("there must be a sequence, and times of a batch of one")
    if allowed is not None and (allowed.shape != times.shape or allowed.dtype != np.bool_):
        raise ValueError(
            f"allowed must be true or false for each of times {times.shape}, "
            f"not {allowed.dtype} {allowed.shape}"
        )
