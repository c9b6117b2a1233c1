"""What a rank holds as it walks its order, compiled by numba where it is there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.schedule.compiling import compiled

Numbers = NDArray[np.int32]
Sizes = NDArray[np.int64]


@compiled
def most_held(
    backward: NDArray[np.int8],
    alike: Numbers,
    slice_index: Numbers,
    num_alike: int,
    num_slices: int,
    passes: Numbers,
    counts: Numbers,
) -> int:
    """The moments of a rank's order at which it may hold most, whatever each piece takes.

    backward, alike, slice_index: (length,); alike: the stage, or which of the stages that take as
    much. Of the moments in passes of one direction through one of these, one is left out where
    another one holds at least as many of everything.
    passes: (rows, 2), written: direction and stage of each moment's pass. counts: (rows, num_alike,
    num_slices, 2), written: activations, and keys and values (or their gradients), held then.
    Returns how many moments there are, or -1 where rows do not suffice.
    """
    held = np.zeros((num_alike, num_slices, 2), np.int32)
    found = 0
    for i in range(len(backward)):
        c, j = alike[i], slice_index[i]
        if not backward[i]:
            held[c, j, 0] += 1
            held[c, j, 1] += 1
        elif j == num_slices - 1:
            held[c, :, 1] += 1
        kept = 0
        beaten = False
        for row in range(found):
            if not beaten and passes[row, 0] == backward[i] and passes[row, 1] == c:
                no_less = no_more = True
                for other in range(num_alike):
                    for k in range(num_slices):
                        for what in range(2):
                            more = counts[row, other, k, what] - held[other, k, what]
                            no_less = no_less and more >= 0
                            no_more = no_more and more <= 0
                    if not no_less and not no_more:
                        break
                beaten = no_less
                if no_more and not no_less:
                    continue
            if kept < row:
                passes[kept] = passes[row]
                counts[kept] = counts[row]
            kept += 1
        found = kept
        if not beaten:
            if found == len(passes):
                return -1
            passes[found, 0] = backward[i]
            passes[found, 1] = c
            counts[found] = held
            found += 1
        if backward[i]:
            held[c, j, 0] -= 1
            if j == 0:
                held[c, :, 1] -= 2
    return found


@compiled
def peaks(
    first: Numbers,
    passes: Numbers,
    counts: Numbers,
    chunk: Numbers,
    content: Numbers,
    activations: Sizes,
    caches: Sizes,
    forward_working: Sizes,
    backward_working: Sizes,
    static: Sizes,
    optimizer: Sizes,
    found: Sizes,
) -> None:
    """Each rank's peak from its moments; found: (num_ranks,), written.

    The rest: see `sim.workload.peaks`, Moments and Contents.
    """
    num_ranks, num_alike, num_slices = len(first) - 1, counts.shape[1], counts.shape[2]
    for rank in range(num_ranks):
        peak = optimizer[rank]
        for row in range(first[rank], first[rank + 1]):
            here = content[chunk[rank, passes[row, 1]] * num_ranks + rank]
            live = backward_working[here] if passes[row, 0] else forward_working[here]
            for c in range(num_alike):
                there = content[chunk[rank, c] * num_ranks + rank]
                for j in range(num_slices):
                    live += counts[row, c, j, 0] * activations[there, j]
                    live += counts[row, c, j, 1] * caches[there, j]
            peak = max(peak, live)
        found[rank] = static[rank] + peak
