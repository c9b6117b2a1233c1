"""The peak of memory of each rank from a program's shape, without walking its order each time.

What a rank holds at a moment is so many activations, and keys and values, of each of its stages and
slices. Which moments hold most depends on the shape, and on which stages are alike, but not on how
many microbatches there are beyond those ever in flight: they are found once by walking a short
order, and a peak is then the largest of a few sums. Equal to `sim.workload.memory.peak_bytes`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.schedule.actions import Kind
from sim.schedule.shape import Shape
from sim.workload.memory import MemoryModel


class Moments(NamedTuple):
    """The moments at which ranks may hold most; rank r's are first[r] up to first[r + 1].

    A rank counts together what it holds of its stages that are alike. passes: (moments, 2): whether
    the pass then is a backward one, and through which of the rank's kinds of stages. counts:
    (moments, kinds, slices, 2): activations held then, and keys and values or their gradients.
    chunk: (num_ranks, kinds): of each kind one of the rank's chunks that is of it. All int32.
    """

    first: NDArray[np.int32]
    passes: NDArray[np.int32]
    counts: NDArray[np.int32]
    chunk: NDArray[np.int32]


class Contents(NamedTuple):
    """Bytes by content: stages with equal sizes share one, so that many shapes share these arrays.

    All int64, but content, int32. content: (num_stages,): which of the rows below a stage has.
    activations, caches: (contents, slices), as in MemoryModel. forward_working, backward_working:
    (contents,). static, optimizer: (num_ranks,).
    """

    content: NDArray[np.int32]
    activations: NDArray[np.int64]
    caches: NDArray[np.int64]
    forward_working: NDArray[np.int64]
    backward_working: NDArray[np.int64]
    static: NDArray[np.int64]
    optimizer: NDArray[np.int64]


def peaks_by_content(shape: Shape, contents: Contents) -> NDArray[np.int64]:
    """Each rank's peak in bytes, (num_ranks,); arrays of contents have to be contiguous."""
    from sim.workload import peak_kernels as kernels  # Here: a compiler takes a while to import.

    found = np.empty(shape.num_ranks, np.int64)
    first, passes, counts, chunk = moments_of(shape, contents.content)
    content, activations, caches, forward, backward, static, optimizer = contents
    kernels.peaks(
        first,
        passes,
        counts,
        chunk,
        content,
        activations,
        caches,
        forward,
        backward,
        static,
        optimizer,
        found,
    )
    return found


def peak_bytes_of_shape(shape: Shape, model: MemoryModel) -> tuple[int, ...]:
    """`peak_bytes` of a memory model whose microbatches are all alike and all trained."""
    return tuple(peaks_by_content(shape, contents_of(shape, model)).tolist())


def contents_of(shape: Shape, model: MemoryModel) -> Contents:
    """The bytes of a memory model by content.

    Raises ValueError where microbatches differ in what they take.
    """
    if model.variants or model.ahead or model.first_working:
        raise ValueError("microbatches differ in the memory that they take")
    numbers: dict[tuple[tuple[int, ...], tuple[int, ...], int, int], int] = {}
    content = []
    for stage in range(shape.num_stages):
        (activations,) = model.activations[stage]
        caches = model.caches[stage][0] if model.caches else (0,) * len(activations)
        forward = model.working_bytes(stage, Kind.FORWARD)
        key = (activations, caches, forward, model.working_bytes(stage, Kind.BACKWARD))
        content.append(numbers.setdefault(key, len(numbers)))
    by_slice = np.array([key[:2] for key in numbers], np.int64)
    working_bytes = np.array([key[2:] for key in numbers], np.int64).T.copy()
    ranks = range(shape.num_ranks)
    return Contents(
        content=np.array(content, np.int32),
        activations=by_slice[:, 0].copy(),
        caches=by_slice[:, 1].copy(),
        forward_working=working_bytes[0],
        backward_working=working_bytes[1],
        static=np.array([sum(model.static_bytes(rank).values()) for rank in ranks], np.int64),
        optimizer=np.array([model.working_bytes(r, Kind.OPTIMIZER) for r in ranks], np.int64),
    )


def moments_of(shape: Shape, content: NDArray[np.int32]) -> Moments:
    """The moments of a shape, kept for all shapes that have the same; content: see Contents."""
    ranks, microbatches = shape.num_ranks, shape.num_microbatches
    if shape.schedule in ("gpipe", "terapipe"):
        return _all_forward_first(ranks, microbatches, shape.num_slices)
    # Enough for the longest warm-up, and for two periods of the order after it.
    if shape.num_chunks == 1:
        return _walked(ranks, min(microbatches, ranks + 3), 1, shape.num_slices)
    return _walked(ranks, min(microbatches, 4 * ranks), shape.num_chunks, 1, content.tobytes())


@lru_cache(maxsize=4096)
def _all_forward_first(num_ranks: int, num_microbatches: int, num_slices: int) -> Moments:
    """All is held in the last forward pass, and with it, in the first backward pass, the gradients
    of a microbatch's keys and values; in each later pass less of everything."""
    counts = np.full((2 * num_ranks, 1, num_slices, 2), num_microbatches, np.int32)
    counts[1::2, :, :, 1] += 1
    passes = np.zeros((2 * num_ranks, 2), np.int32)
    passes[1::2, 0] = 1
    first = np.arange(0, 2 * num_ranks + 1, 2, dtype=np.int32)
    return Moments(first, passes, counts, np.zeros((num_ranks, 1), np.int32))


@lru_cache(maxsize=4096)
def _walked(
    num_ranks: int, num_microbatches: int, num_chunks: int, num_slices: int, content: bytes = b""
) -> Moments:
    from sim.workload import peak_kernels as kernels

    shape = Shape(
        schedule="interleaved" if num_chunks > 1 else "1f1b",
        num_ranks=num_ranks,
        num_microbatches=num_microbatches,
        num_chunks=num_chunks,
        num_slices=num_slices,
    )
    orders = shape.orders()
    kind_of, chunk = _alike(num_ranks, num_chunks, content)
    rows = 2 * num_slices
    first = [0]
    all_passes, all_counts = [], []
    for rank in range(num_ranks):
        kinds = kind_of[rank][orders.stage[rank] // num_ranks]
        found = -1
        while found < 0:
            rows *= 2
            passes = np.empty((rows, 2), np.int32)
            counts = np.empty((rows, chunk.shape[1], num_slices, 2), np.int32)
            found = kernels.most_held(
                orders.backward[rank],
                kinds,
                orders.slice_index[rank],
                chunk.shape[1],
                num_slices,
                passes,
                counts,
            )
        rows //= 2
        all_passes.append(passes[:found])
        all_counts.append(counts[:found])
        first.append(first[-1] + found)
    return Moments(
        np.array(first, np.int32), np.concatenate(all_passes), np.concatenate(all_counts), chunk
    )


def _alike(
    num_ranks: int, num_chunks: int, content: bytes
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Of each rank which of its chunks are alike, (num_ranks, num_chunks), numbered as they come;
    and one chunk of each number, (num_ranks, kinds)."""
    if num_chunks == 1:
        return np.zeros((num_ranks, 1), np.int32), np.zeros((num_ranks, 1), np.int32)
    contents = np.frombuffer(content, np.int32).reshape(num_chunks, num_ranks).T.tolist()
    numbered = [list(dict.fromkeys(own)) for own in contents]
    kind_of = [[kinds.index(c) for c in own] for own, kinds in zip(contents, numbered, strict=True)]
    chunk = np.zeros((num_ranks, max(map(len, numbered))), np.int32)
    for rank, (own, kinds) in enumerate(zip(contents, numbered, strict=True)):
        chunk[rank, : len(kinds)] = [own.index(c) for c in kinds]
    return np.array(kind_of, np.int32), chunk
