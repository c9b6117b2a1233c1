"""The orders' rules as functions of whole numbers, which the generators read and numba compiles.

A rank of p ranks and v chunks has m v n forward passes (m microbatches, n slices each), numbered in
the order in which it runs them, and as many backward passes. Every schedule here is a number of
forward passes to warm up, then forward and backward passes in turn, then the backward passes left.
Sources: see `sim.schedule.generators`.
"""

from __future__ import annotations

from typing import Any


def one_forward_one_backward_warm_up(
    num_ranks: int, rank: int, num_slices: int, num_passes: int
) -> int:
    """Forward passes before the first backward one, of 1F1B over slices; num_passes: m n."""
    return min(num_ranks - 1 - rank + num_slices - 1, num_passes)


def interleaved_warm_up(num_ranks: int, rank: int, num_chunks: int, num_passes: int) -> int:
    """The same of interleaved 1F1B with several chunks; num_passes: m v.

    All of them where m = p, as in Megatron-LM.
    """
    if num_passes == num_ranks * num_chunks:
        return num_passes
    return min(2 * (num_ranks - 1 - rank) + (num_chunks - 1) * num_ranks, num_passes)


def turn(position: int, warm_up: int, num_passes: int) -> tuple[bool, int]:
    """Which pass a rank runs at a position: whether it is a backward one, and its number."""
    steady = position - warm_up
    if steady < 0:
        return False, position
    if steady < 2 * (num_passes - warm_up):
        return steady % 2 == 1, steady // 2 + (0 if steady % 2 else warm_up)
    return True, position - num_passes


def forward_piece(
    number: int, num_ranks: int, num_chunks: int, num_slices: int
) -> tuple[int, int, int]:
    """(chunk, microbatch, slice) of a rank's forward pass of a number.

    Slices innermost; with several chunks, groups of p microbatches through one chunk after another.
    """
    whole, slice_index = number // num_slices, number % num_slices
    group, within = whole // (num_ranks * num_chunks), whole % (num_ranks * num_chunks)
    return within // num_ranks, group * num_ranks + within % num_ranks, slice_index


def backward_piece(
    number: int, num_ranks: int, num_chunks: int, num_slices: int
) -> tuple[int, int, int]:
    """The same of a backward pass: slices and chunks from the last to the first."""
    whole, slice_index = number // num_slices, num_slices - 1 - number % num_slices
    group, within = whole // (num_ranks * num_chunks), whole % (num_ranks * num_chunks)
    chunk = num_chunks - 1 - within // num_ranks
    return chunk, group * num_ranks + within % num_ranks, slice_index


def fill_orders(
    warm_ups: Any,
    num_microbatches: int,
    num_chunks: int,
    num_slices: int,
    descending: bool,
    backward: Any,
    stage: Any,
    microbatch: Any,
    slice_index: Any,
) -> None:
    """Write every rank's order: all microbatches with the same number of slices.

    warm_ups: by rank. descending: backward passes through the microbatches from the last to the
    first. backward, stage, microbatch, slice_index: (p, 2 m v n) arrays of whole numbers, written.
    """
    num_ranks = len(warm_ups)
    num_passes = num_microbatches * num_chunks * num_slices
    for rank in range(num_ranks):
        for position in range(2 * num_passes):
            back, number = turn(position, warm_ups[rank], num_passes)
            if back:
                chunk, i, j = backward_piece(number, num_ranks, num_chunks, num_slices)
                if descending:
                    i = num_microbatches - 1 - i
            else:
                chunk, i, j = forward_piece(number, num_ranks, num_chunks, num_slices)
            backward[rank, position] = back
            stage[rank, position] = chunk * num_ranks + rank
            microbatch[rank, position] = i
            slice_index[rank, position] = j
