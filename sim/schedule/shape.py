"""A program's shape: the few numbers that give all its steps, where no order was given.

Two scenarios of one shape run the same steps, whatever their model, cluster and costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scenarios.schema import Scenario
from sim.schedule import rules
from sim.schedule.build import flush_of
from sim.schedule.compiling import compiled_with
from sim.schedule.generators import gpipe, interleaved, one_forward_one_backward, terapipe
from sim.schedule.lowering import Flush, Mode
from sim.schedule.schedule import Schedule

ShapeSchedule = Literal["gpipe", "1f1b", "interleaved", "terapipe"]

_PLAIN = Flush()


class Orders(NamedTuple):
    """The passes of every rank in order.

    backward: (num_ranks, num_passes) int8, 1 for a backward pass; stage, microbatch, slice_index:
    likewise, int32.
    """

    backward: NDArray[np.int8]
    stage: NDArray[np.int32]
    microbatch: NDArray[np.int32]
    slice_index: NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the steps of a program depend on.

    num_slices: of every microbatch. num_chunks: of `interleaved` alone. gpipe_backward: of `gpipe`
    alone. mode, flush: as `sim.schedule.lowering.lower` takes them.
    """

    schedule: ShapeSchedule
    num_ranks: int
    num_microbatches: int
    num_chunks: int = 1
    num_slices: int = 1
    gpipe_backward: Literal["same", "reversed"] = "same"
    mode: Mode = "overlapped"
    flush: Flush = _PLAIN

    def __post_init__(self) -> None:
        counts = (self.num_ranks, self.num_microbatches, self.num_chunks, self.num_slices)
        if min(counts) < 1:
            raise ValueError(f"ranks, microbatches, chunks and slices are at least 1, not {counts}")
        if self.num_chunks > 1 and self.schedule != "interleaved":
            raise ValueError(f"{self.schedule} has 1 chunk a rank, not {self.num_chunks}")
        if self.num_slices > 1 and self.schedule == "interleaved":
            raise ValueError(f"interleaved has whole microbatches, not {self.num_slices} slices")
        if self.num_chunks > 1 and self.num_microbatches % self.num_ranks:
            raise ValueError(
                f"an interleaved schedule of {self.num_ranks} ranks needs a multiple of "
                f"{self.num_ranks} microbatches, not {self.num_microbatches}"
            )

    @property
    def num_stages(self) -> int:
        """Stages of the model: stage s is on rank s mod p."""
        return self.num_ranks * self.num_chunks

    @property
    def num_passes(self) -> int:
        """Forward passes of one rank, and as many backward ones."""
        return self.num_microbatches * self.num_chunks * self.num_slices

    @property
    def descending(self) -> bool:
        """Whether backward passes go through the microbatches from the last to the first."""
        if self.schedule == "gpipe":
            return self.gpipe_backward == "reversed"
        return self.schedule == "terapipe"

    @property
    def warm_ups(self) -> tuple[int, ...]:
        """Of each rank the forward passes before its first backward one."""
        total, ranks = self.num_passes, range(self.num_ranks)
        if self.schedule in ("gpipe", "terapipe"):
            return (total,) * self.num_ranks
        if self.num_chunks > 1:
            return tuple(
                rules.interleaved_warm_up(self.num_ranks, rank, self.num_chunks, total)
                for rank in ranks
            )
        return tuple(
            rules.one_forward_one_backward_warm_up(self.num_ranks, rank, self.num_slices, total)
            for rank in ranks
        )

    def orders(self) -> Orders:
        """The passes of every rank in order, those of `generated()`."""
        size = (self.num_ranks, 2 * self.num_passes)
        found = Orders(
            np.empty(size, np.int8),
            np.empty(size, np.int32),
            np.empty(size, np.int32),
            np.empty(size, np.int32),
        )
        _fill_orders()(
            np.array(self.warm_ups, np.int64),
            self.num_microbatches,
            self.num_chunks,
            self.num_slices,
            self.descending,
            *found,
        )
        return found

    def generated(self) -> Schedule:
        """The same as actions: the schedule of the generators."""
        ranks, microbatches, slices = self.num_ranks, self.num_microbatches, self.num_slices
        if self.schedule == "interleaved":
            return interleaved(ranks, microbatches, self.num_chunks)
        if self.schedule == "1f1b":
            return one_forward_one_backward(ranks, microbatches, slices=slices)
        if self.schedule == "terapipe":
            return terapipe(ranks, microbatches, slices=slices)
        return gpipe(ranks, microbatches, slices=slices, backward=self.gpipe_backward)


@cache
def _fill_orders() -> Callable[..., Any]:
    """Compiled when first asked for: importing a compiler takes a while."""
    return compiled_with(rules.fill_orders, rules.turn, rules.forward_piece, rules.backward_piece)


def shape_of(scenario: Scenario) -> Shape | None:
    """The shape of a scenario's program; None where it has none.

    That is where the order is given, where layers are frozen, or where microbatches differ.
    Raises ValueError where the schedule cannot be, as `build_schedule`.
    """
    plan = scenario.plan
    if plan.schedule == "given" or plan.frozen_layers:
        return None
    slices = plan.slices
    if plan.microbatch_groups is None and (slices is None or isinstance(slices, int)):
        num_slices = slices or 1  # Quicker than by groups.
    elif len(plan.variant_groups) > 1:
        return None
    else:
        num_slices = plan.groups[0].num_slices
    return _shape(
        plan.schedule,
        plan.pipeline,
        plan.num_microbatches,
        plan.chunks if plan.schedule == "interleaved" else 1,
        num_slices,
        plan.gpipe_backward if plan.schedule == "gpipe" else "same",
        plan.p2p,
        flush_of(scenario),
    )


@lru_cache(maxsize=1 << 14)
def _shape(
    schedule: ShapeSchedule,
    num_ranks: int,
    num_microbatches: int,
    num_chunks: int,
    num_slices: int,
    gpipe_backward: Literal["same", "reversed"],
    mode: Mode,
    flush: Flush,
) -> Shape:
    """A shape made once, as many scenarios have the same."""
    return Shape(
        schedule=schedule,
        num_ranks=num_ranks,
        num_microbatches=num_microbatches,
        num_chunks=num_chunks,
        num_slices=num_slices,
        gpipe_backward=gpipe_backward,
        mode=mode,
        flush=flush,
    )
