"""The inner loops of the slicing search, compiled by numba where it is there.

Without numba the same functions run as plain Python, slowly, with the same results. Tables of
slice times are packed: row `end` (1 to N) holds the times of the slices that end there, by their
context, so that the N (N + 1) / 2 slices of a sequence lie in the order they are read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.schedule.compiling import compiled

NEVER = 1 << 61
"""A time that no splitting reaches; the sum of two of them still fits an int64."""


@compiled
def cheapest_sums(
    packed: NDArray[np.int64], bound: int, longest: int, sums: NDArray[np.int64]
) -> int:
    """The least sum of times of slices that cover a sequence, each slice within a bound.

    packed: one batch size's times, of shape (N (N + 1) / 2,); bound: below NEVER; longest: no
    slice of more units is within the bound; sums: of shape (N + 1,), takes the least sum of each
    number of units, NEVER where there is none. Source: arXiv 2102.07988, equation 7.
    """
    sums[0] = 0
    for end in range(1, len(sums)):
        row = packed[end * (end - 1) // 2 : end * (end + 1) // 2]
        least = np.int64(NEVER)
        for context in range(max(0, end - longest), end):
            time = row[context]
            least = min(least, sums[context] + time if time <= bound else np.int64(NEVER))
        sums[end] = least
    return int(sums[-1])


@compiled
def narrowest(
    packed: NDArray[np.int64],
    bound: int,
    longest: int,
    sums: NDArray[np.int64],
    begins: NDArray[np.int64],
) -> int:
    """The least possible largest time among the slicings of least sum.

    sums: as `cheapest_sums` left them for the same bound, the last one not NEVER; begins: of shape
    (N + 1,), takes the begin of the slice that ends at each position such a slicing may pass (of
    equal ones the longest), and -1 for the other positions.
    """
    units = len(sums) - 1
    peaks = np.zeros(units + 1, np.int64)
    begins[:] = -1
    begins[units] = 0  # positions that a slicing of least sum passes
    for end in range(units, 0, -1):
        if begins[end] < 0:
            continue
        base = end * (end - 1) // 2
        for context in range(max(0, end - longest), end):
            time = packed[base + context]
            if time <= bound and sums[context] + time == sums[end]:
                begins[context] = 0
    for end in range(1, units + 1):
        if begins[end] < 0:
            continue
        base = end * (end - 1) // 2
        peak = np.int64(NEVER)
        for context in range(max(0, end - longest), end):
            time = packed[base + context]
            if time <= bound and sums[context] + time == sums[end]:
                larger = max(peaks[context], time)
                if larger < peak:
                    peak, begins[end] = larger, context
        peaks[end] = peak
    return int(peaks[units])


@compiled
def knapsack(
    sums: NDArray[np.int64],
    peaks: NDArray[np.int64],
    chosen: NDArray[np.int64],
) -> tuple[int, int]:
    """The least sum over microbatches that make up a number of sequences, and its largest time.

    sums, peaks: of a microbatch of each size from 0 (not looked at); a sum may be NEVER. Of equal
    sums the one whose largest peak is least. chosen: of shape (sequences + 1,), takes the size of
    one microbatch for each number of sequences (of equal ones the largest); the rest follows from
    what is left. Source: arXiv 2102.07988, section 3.4.
    """
    totals = np.zeros(len(chosen), np.int64)
    largest = np.zeros(len(chosen), np.int64)
    for sequences in range(1, len(chosen)):
        total, peak, size = np.int64(NEVER), np.int64(NEVER), 0
        for candidate in range(min(sequences, len(sums) - 1), 0, -1):
            new_total = totals[sequences - candidate] + sums[candidate]
            if new_total > total or new_total >= NEVER:
                continue
            new_peak = max(largest[sequences - candidate], peaks[candidate])
            if new_total < total or new_peak < peak:
                total, peak, size = new_total, new_peak, candidate
        totals[sequences], largest[sequences], chosen[sequences] = total, peak, size
    return totals[-1], largest[-1]
