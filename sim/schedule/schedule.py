"""Schedule: per rank an ordered tuple of actions, and where each stage is placed. No times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from sim.schedule.actions import Action, Kind


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Which rank runs which passes in which order.

    orders: one tuple of compute actions (F, B, I, W) per rank, in program order.
    placement: `placement[pipe][stage]` is the rank that holds that stage.
    frozen_stages: stages, from the first on, in which nothing is trained: they have forward passes
        only, and the stage after them sends no gradient back.
    """

    name: str
    orders: tuple[tuple[Action, ...], ...]
    placement: tuple[tuple[int, ...], ...]
    frozen_stages: int = 0

    @property
    def num_ranks(self) -> int:
        """Ranks in the pipeline."""
        return len(self.orders)

    @property
    def num_stages(self) -> int:
        """Stages of the model (of each pipe)."""
        return len(self.placement[0])

    @cached_property
    def num_microbatches(self) -> int:
        """Microbatches over all pipes."""
        return len({(a.pipe, a.microbatch) for a in self.actions})

    @cached_property
    def num_slices(self) -> int:
        """Slices of a microbatch."""
        return 1 + max((a.slice_index for a in self.actions), default=0)

    @cached_property
    def actions(self) -> Mapping[Action, tuple[int, int]]:
        """Each action's (rank, position in that rank's order)."""
        return {a: (r, i) for r, order in enumerate(self.orders) for i, a in enumerate(order)}

    def rank_of(self, stage: int, pipe: int = 0) -> int:
        """The rank that holds a stage."""
        return self.placement[pipe][stage]

    def stages_of(self, rank: int) -> tuple[int, ...]:
        """The stages a rank holds, of any pipe, ascending."""
        return self._stages[rank]

    @cached_property
    def _stages(self) -> tuple[tuple[int, ...], ...]:
        held: list[set[int]] = [set() for _ in self.orders]
        for ranks in self.placement:
            for stage, rank in enumerate(ranks):
                held[rank].add(stage)
        return tuple(tuple(sorted(stages)) for stages in held)

    def input_gradient(
        self, stage: int, microbatch: int | None, slice_index: int, pipe: int
    ) -> Action:
        """The action that makes the gradient of a stage's input: I where the backward pass is
        split, else B."""
        split = Action(Kind.BACKWARD_INPUT, stage, microbatch, slice_index, pipe)
        if split in self.actions:
            return split
        return Action(Kind.BACKWARD, stage, microbatch, slice_index, pipe)


def dependencies(action: Action, schedule: Schedule) -> tuple[Action, ...]:
    """What must have ended before an action may start: the one readiness rule of the project.

    Compute actions name compute actions, also where a message lies between; `crosses` tells
    whether one does. Communication names the action at its other end or the one that makes its
    payload. (The flush's rules are in `sim.schedule.lowering`, which places it.)
    """
    kind, stage, microbatch, slice_index, pipe = action
    last_stage = schedule.num_stages - 1
    if kind is Kind.FORWARD:
        needs = []
        if stage > 0:
            needs.append(Action(Kind.FORWARD, stage - 1, microbatch, slice_index, pipe))
        if slice_index > 0:
            needs.append(Action(Kind.FORWARD, stage, microbatch, slice_index - 1, pipe))
        return tuple(needs)
    if kind is Kind.BACKWARD or kind is Kind.BACKWARD_INPUT:
        needs = [Action(Kind.FORWARD, stage, microbatch, slice_index, pipe)]
        if stage < last_stage:
            needs.append(schedule.input_gradient(stage + 1, microbatch, slice_index, pipe))
        if slice_index < schedule.num_slices - 1:
            later = schedule.input_gradient(stage, microbatch, slice_index + 1, pipe)
            if later in schedule.actions:
                needs.append(later)
        return tuple(needs)
    if kind is Kind.BACKWARD_WEIGHT:
        return (Action(Kind.BACKWARD_INPUT, stage, microbatch, slice_index, pipe),)
    if kind is Kind.SEND_FORWARD:
        return (Action(Kind.FORWARD, stage, microbatch, slice_index, pipe),)
    if kind is Kind.RECV_FORWARD:
        return (Action(Kind.SEND_FORWARD, stage - 1, microbatch, slice_index, pipe),)
    if kind is Kind.SEND_BACKWARD:
        return (schedule.input_gradient(stage, microbatch, slice_index, pipe),)
    if kind is Kind.RECV_BACKWARD:
        return (Action(Kind.SEND_BACKWARD, stage + 1, microbatch, slice_index, pipe),)
    raise ValueError(f"{action} belongs to the flush: sim.schedule.lowering orders it")


def crosses(producer: Action, consumer: Action, schedule: Schedule) -> bool:
    """Whether a message between two ranks lies between two compute actions."""
    if producer.stage == consumer.stage:
        return False
    return schedule.rank_of(producer.stage, producer.pipe) != schedule.rank_of(
        consumer.stage, consumer.pipe
    )


def looped_placement(num_stages: int, num_ranks: int) -> tuple[tuple[int, ...], ...]:
    """Stage s on rank s mod p, one pipe."""
    return (tuple(stage % num_ranks for stage in range(num_stages)),)
