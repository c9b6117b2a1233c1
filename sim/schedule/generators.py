"""The orders of the known schedules, from their rules.

Sources: GPipe (arXiv 1811.06965); 1F1B, also called PipeDream-Flush (arXiv 2104.04473, section
2.2.1); interleaved 1F1B (the same, section 2.2.2, in the order of Megatron-LM's code); TeraPipe
(arXiv 2102.07988); 1F1B over token slices (Seq1F1B, arXiv 2406.03488).

`slices` is how many token slices each microbatch has: one number a microbatch, or one for all. The
slices of a microbatch go forward in order, and backward in the reverse order.

`frozen_stages`, of GPipe and 1F1B: the first so many stages train nothing and have forward passes
alone (PipeTransformer, arXiv 2102.03161, section 3.1); the others' orders are as they would be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from sim.schedule.actions import Action, Kind
from sim.schedule.rules import (
    backward_piece,
    forward_piece,
    interleaved_warm_up,
    one_forward_one_backward_warm_up,
    turn,
)
from sim.schedule.schedule import Schedule, looped_placement


def gpipe(
    num_ranks: int,
    num_microbatches: int,
    *,
    slices: int | Sequence[int] = 1,
    backward: Literal["same", "reversed"] = "same",
    frozen_stages: int = 0,
) -> Schedule:
    """Every forward pass, then every backward pass, microbatches in the same or reversed order.

    Bubble (p - 1)(f + b) with free messages, f and b those of the largest slice; in flight at every
    rank: all slices of m microbatches. With k frozen stages as quick as the others, an iteration
    takes (m + p - 1) f + (m + p - k - 1) b.
    Raises ValueError where all stages would be frozen.
    """
    counts = _slice_counts(num_ranks, num_microbatches, slices)
    _check_frozen(num_ranks, frozen_stages)
    backwards = range(num_microbatches)
    if backward == "reversed":
        backwards = backwards[::-1]
    orders = tuple(
        tuple(
            Action(Kind.FORWARD, rank, i, j)
            for i in range(num_microbatches)
            for j in range(counts[i])
        )
        + tuple(
            Action(Kind.BACKWARD, rank, i, j)
            for i in (backwards if rank >= frozen_stages else ())
            for j in reversed(range(counts[i]))
        )
        for rank in range(num_ranks)
    )
    return Schedule(
        name="gpipe",
        orders=orders,
        placement=looped_placement(num_ranks, num_ranks),
        frozen_stages=frozen_stages,
    )


def terapipe(num_ranks: int, num_microbatches: int, *, slices: int | Sequence[int] = 1) -> Schedule:
    """All forward passes, microbatches and slices ascending, then exactly the reverse.

    With free messages an iteration takes sum t + (p - 1) max t over all slices, t being a slice's
    time forward and backward, where the same slice is the largest both ways (arXiv 2102.07988,
    section 3.3); in flight at every rank: all slices of m microbatches.
    """
    found = gpipe(num_ranks, num_microbatches, slices=slices, backward="reversed")
    return replace(found, name="terapipe")


def one_forward_one_backward(
    num_ranks: int,
    num_microbatches: int,
    *,
    slices: int | Sequence[int] = 1,
    frozen_stages: int = 0,
) -> Schedule:
    """min(p - 1 - r, m) forward passes to warm up, then pairs F B, then the remaining B.

    Bubble (p - 1)(f + b) with free messages; in flight at rank r: min(m, p - r) microbatches. With
    n slices a microbatch the same over slices: min(p - 1 - r + n - 1, m n) forward passes warm up
    (the first backward pass is of a microbatch's last slice); in flight p - 1 - r + n slices.
    Raises ValueError where all stages would be frozen.
    """
    counts = _slice_counts(num_ranks, num_microbatches, slices)
    _check_frozen(num_ranks, frozen_stages)
    orders = []
    for rank in range(num_ranks):
        forwards = [
            Action(Kind.FORWARD, rank, i, j)
            for i in range(num_microbatches)
            for j in range(counts[i])
        ]
        backwards = [
            Action(Kind.BACKWARD, rank, i, j)
            for i in range(num_microbatches)
            for j in reversed(range(counts[i]))
        ]
        if rank < frozen_stages:
            orders.append(tuple(forwards))
            continue
        warm_up = one_forward_one_backward_warm_up(num_ranks, rank, max(counts), len(forwards))
        orders.append(tuple(interleave(forwards, backwards, warm_up)))
    return Schedule(
        name="1f1b",
        orders=tuple(orders),
        placement=looped_placement(num_ranks, num_ranks),
        frozen_stages=frozen_stages,
    )


def interleaved(num_ranks: int, num_microbatches: int, num_chunks: int) -> Schedule:
    """1F1B over `num_chunks` stages a rank, stage s on rank s mod p, as Megatron-LM orders it.

    Forward passes go through the microbatches in groups of p, each group through chunk 0, then
    chunk 1 and so on; backward passes the same through the chunks from the last to the first.
    min(2(p - 1 - r) + (v - 1)p, m v) forward passes warm up (all of them where m = p). Bubble
    (p - 1)(f + b)/v with free messages; in flight at rank r: min(m v, (v - 1)p + 2(p - 1 - r) + 1)
    chunks. One chunk is plain 1F1B.
    Raises ValueError where m is not a multiple of p.
    """
    _check(num_ranks, num_microbatches)
    if num_chunks < 1:
        raise ValueError(f"an interleaved schedule needs at least 1 chunk, not {num_chunks}")
    if num_chunks == 1:
        return replace(one_forward_one_backward(num_ranks, num_microbatches), name="interleaved")
    if num_microbatches % num_ranks:
        raise ValueError(
            f"an interleaved schedule of {num_ranks} ranks needs a multiple of {num_ranks} "
            f"microbatches, not {num_microbatches}"
        )
    total = num_microbatches * num_chunks
    forwards = [forward_piece(k, num_ranks, num_chunks, 1) for k in range(total)]
    backwards = [backward_piece(k, num_ranks, num_chunks, 1) for k in range(total)]
    orders = []
    for rank in range(num_ranks):
        forth = [Action(Kind.FORWARD, c * num_ranks + rank, i) for c, i, _ in forwards]
        back = [Action(Kind.BACKWARD, c * num_ranks + rank, i) for c, i, _ in backwards]
        warm_up = interleaved_warm_up(num_ranks, rank, num_chunks, total)
        orders.append(tuple(interleave(forth, back, warm_up)))
    return Schedule(
        name="interleaved",
        orders=tuple(orders),
        placement=looped_placement(num_ranks * num_chunks, num_ranks),
    )


def interleave(forwards: list[Action], backwards: list[Action], warm_up: int) -> list[Action]:
    """`warm_up` forward passes, then one forward and one backward in turn, then the backwards."""
    turns = (turn(position, warm_up, len(forwards)) for position in range(2 * len(forwards)))
    return [backwards[number] if back else forwards[number] for back, number in turns]


GENERATORS: dict[str, Callable[..., Schedule]] = {
    "gpipe": gpipe,
    "1f1b": one_forward_one_backward,
    "terapipe": terapipe,
}


def _slice_counts(
    num_ranks: int, num_microbatches: int, slices: int | Sequence[int]
) -> tuple[int, ...]:
    """How many slices each microbatch has."""
    _check(num_ranks, num_microbatches)
    counts = (slices,) * num_microbatches if isinstance(slices, int) else tuple(slices)
    if len(counts) != num_microbatches or min(counts) < 1:
        raise ValueError(
            f"{num_microbatches} microbatches need as many numbers of slices, each at least 1, "
            f"not {list(counts)}"
        )
    return counts


def _check_frozen(num_ranks: int, frozen_stages: int) -> None:
    if not 0 <= frozen_stages < num_ranks:
        raise ValueError(
            f"of {num_ranks} stages {frozen_stages} are to be frozen: the last one, with the loss, "
            f"is always trained, so that at most {num_ranks - 1} can be"
        )


def _check(num_ranks: int, num_microbatches: int) -> None:
    if num_ranks < 1 or num_microbatches < 1:
        raise ValueError(
            f"a schedule needs at least 1 rank and 1 microbatch, "
            f"not {num_ranks} and {num_microbatches}"
        )
