"""Lowering: from a schedule of passes to the program that both twins run, messages and flush
included.

A program is a list of steps per rank; a step is one action, or several messages that are posted
together and waited for together. Four ways to place messages:

- `overlapped`: sends right after the pass that makes them, not waited for; receives posted in the
  *sender's* order for each directed pair of ranks, up to four messages ahead of the pass that needs
  them (so a latency of up to three passes is hidden), and waited for only by that pass.
- `blocking`: Megatron-LM's: before each pass, its receives and the previous pass's sends, waited
  for at once; those with the same peer in one batch, else sends first. Where ranks hold several
  stages, the exchange is between slots (a forward and backward pair, or a pass alone), and all its
  messages are one batch, as in Megatron-LM's interleaved schedule.
- `exchange`: `blocking` with all messages between two passes in one batch, whoever the peers are.
- `serial`: `blocking` without batches, one message at a time: what naive code would do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from sim.schedule.actions import Action, Kind
from sim.schedule.schedule import Schedule, crosses, dependencies

Mode = Literal["overlapped", "blocking", "exchange", "serial"]
Step = tuple[Action, ...]
RECEIVE_WINDOW = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Flush:
    """What follows the last pass of an iteration.

    reduce_gradients: an all-reduce of each trained stage's gradients over the data-parallel
        replicas (a reduce-scatter, where the optimizer's state is sharded).
    overlapped: that reduction starts with the stage's last backward pass, and goes on beside the
        passes after it; NORM and STEP wait for it.
    reduce_tied: an all-reduce of the shared embedding's gradient between first and last stage.
    norm: the gradient norm over all ranks, which every optimizer step waits for.
    optimizer: the optimizer step of each rank.
    gather_weights: an all-gather of each stage's updated weights, of which each replica made a
        share.
    """

    reduce_gradients: bool = False
    overlapped: bool = False
    reduce_tied: bool = False
    norm: bool = False
    optimizer: bool = True
    gather_weights: bool = False


@dataclass(frozen=True, kw_only=True)
class Program:
    """What every rank does, step by step; the input of the engines and of the executor."""

    schedule: Schedule
    mode: Mode
    steps: tuple[tuple[Step, ...], ...]
    overlapped_reduction: bool = False
    """Whether REDUCE_GRADIENTS is only posted where it stands, and waited for by NORM or STEP."""

    @property
    def num_ranks(self) -> int:
        """Ranks in the pipeline."""
        return len(self.steps)

    @cached_property
    def distinct(self) -> tuple[Action, ...]:
        """The first action of each (kind, stage, slice, pipe): they cost the same for every
        microbatch of one size and slicing."""
        return self.distinct_in(())

    def distinct_in(self, variants: Sequence[int]) -> tuple[Action, ...]:
        """The same for each variant, where `variants` tells every microbatch's."""
        found: dict[tuple[Kind, int, int, int, int], Action] = {}
        for steps in self.steps:
            for step in steps:
                for action in step:
                    kind, stage, microbatch, slice_index, pipe = action
                    variant = variants[microbatch] if variants and microbatch is not None else 0
                    found.setdefault((kind, stage, slice_index, pipe, variant), action)
        return tuple(found.values())


def partner(message: Action) -> Action:
    """The action at a message's other end: RECV for a SEND, SEND for a RECV."""
    kind, stage, microbatch, slice_index, pipe = message
    if kind is Kind.SEND_FORWARD:
        return Action(Kind.RECV_FORWARD, stage + 1, microbatch, slice_index, pipe)
    if kind is Kind.SEND_BACKWARD:
        return Action(Kind.RECV_BACKWARD, stage - 1, microbatch, slice_index, pipe)
    if kind is Kind.RECV_FORWARD:
        return Action(Kind.SEND_FORWARD, stage - 1, microbatch, slice_index, pipe)
    if kind is Kind.RECV_BACKWARD:
        return Action(Kind.SEND_BACKWARD, stage + 1, microbatch, slice_index, pipe)
    raise ValueError(f"{message} is not a message")


def peer(message: Action, schedule: Schedule) -> int:
    """The rank at a message's other end."""
    return schedule.rank_of(partner(message).stage, message.pipe)


def receives(action: Action, schedule: Schedule) -> tuple[Action, ...]:
    """The messages a pass waits for, as RECV actions."""
    found = []
    for producer in dependencies(action, schedule):
        if crosses(producer, action, schedule):
            forward = producer.kind is Kind.FORWARD
            kind = Kind.RECV_FORWARD if forward else Kind.RECV_BACKWARD
            found.append(
                Action(kind, action.stage, action.microbatch, action.slice_index, action.pipe)
            )
    return tuple(found)


def sends(action: Action, schedule: Schedule) -> tuple[Action, ...]:
    """The messages a pass makes, as SEND actions; the first stage that is trained, which may have
    frozen ones before it, makes no gradient of its input."""
    kind, stage, microbatch, slice_index, pipe = action
    if kind is Kind.FORWARD and stage < schedule.num_stages - 1:
        message = Action(Kind.SEND_FORWARD, stage, microbatch, slice_index, pipe)
    elif kind in (Kind.BACKWARD, Kind.BACKWARD_INPUT) and stage > schedule.frozen_stages:
        message = Action(Kind.SEND_BACKWARD, stage, microbatch, slice_index, pipe)
    else:
        return ()
    here = schedule.rank_of(stage, pipe)
    return (message,) if peer(message, schedule) != here else ()


def lower(schedule: Schedule, mode: Mode = "overlapped", flush: Flush | None = None) -> Program:
    """Place messages and the flush around a schedule's passes."""
    if mode == "overlapped":
        passes = _overlapped(schedule)
    elif mode in ("blocking", "exchange") and schedule.num_stages > schedule.num_ranks:
        passes = [_slotted(schedule, order) for order in schedule.orders]
    else:
        passes = [_blocking(schedule, order, mode) for order in schedule.orders]
    tail = flush if flush is not None else Flush()
    early = tail.reduce_gradients and tail.overlapped
    if early:
        passes = [_with_reductions(steps, schedule.stages_of(r)) for r, steps in enumerate(passes)]
    steps = tuple(
        tuple(passes[rank]) + _flush(schedule, rank, tail) for rank in range(schedule.num_ranks)
    )
    return Program(schedule=schedule, mode=mode, steps=steps, overlapped_reduction=early)


def message_orders(schedule: Schedule) -> dict[tuple[int, int], list[Action]]:
    """For each directed pair (from, to) of ranks, its SEND actions in the sender's order."""
    orders: dict[tuple[int, int], list[Action]] = defaultdict(list)
    for rank, order in enumerate(schedule.orders):
        for action in order:
            for message in sends(action, schedule):
                orders[rank, peer(message, schedule)].append(message)
    return dict(orders)


def _overlapped(schedule: Schedule) -> list[list[Step]]:
    """Posts[rank][i] are the receives to post before the rank's i-th pass."""
    posts: list[dict[int, list[Action]]] = [defaultdict(list) for _ in schedule.orders]
    for (_, receiver), messages in message_orders(schedule).items():
        needed_at = [
            _consumer_position(schedule, receiver, partner(message)) for message in messages
        ]
        latest = list(needed_at)
        for n in reversed(range(len(messages) - 1)):
            latest[n] = min(latest[n], latest[n + 1])
        for n, message in enumerate(messages):
            after = needed_at[n - RECEIVE_WINDOW] + 1 if n >= RECEIVE_WINDOW else 0
            posts[receiver][min(after, latest[n])].append(partner(message))
    result: list[list[Step]] = []
    for rank, order in enumerate(schedule.orders):
        steps: list[Step] = []
        for i, action in enumerate(order):
            steps += [(message,) for message in posts[rank].get(i, ())]
            steps.append((action,))
            steps += [(message,) for message in sends(action, schedule)]
        result.append(steps)
    return result


def _consumer_position(schedule: Schedule, rank: int, receive: Action) -> int:
    kind, stage, microbatch, slice_index, pipe = receive
    if kind is Kind.RECV_FORWARD:
        consumer = Action(Kind.FORWARD, stage, microbatch, slice_index, pipe)
    else:
        consumer = schedule.input_gradient(stage, microbatch, slice_index, pipe)
    holder, position = schedule.actions[consumer]
    assert holder == rank, f"{consumer} is not on rank {rank}"
    return position


def _blocking(schedule: Schedule, order: tuple[Action, ...], mode: Mode) -> list[Step]:
    steps: list[Step] = []
    outgoing: tuple[Action, ...] = ()
    for action in order:
        incoming = receives(action, schedule)
        steps += _exchange(schedule, outgoing, incoming, mode)
        steps.append((action,))
        outgoing = sends(action, schedule)
    return steps + _exchange(schedule, outgoing, (), mode)


def _slotted(schedule: Schedule, order: tuple[Action, ...]) -> list[Step]:
    """Between two slots one batch: what the earlier one made, what the later one needs."""
    steps: list[Step] = []
    outgoing: tuple[Action, ...] = ()
    for slot in _slots(order):
        incoming = tuple(message for action in slot for message in receives(action, schedule))
        if outgoing or incoming:
            steps.append(outgoing + incoming)
        steps += [(action,) for action in slot]
        outgoing = tuple(message for action in slot for message in sends(action, schedule))
    return [*steps, outgoing] if outgoing else steps


def _slots(order: tuple[Action, ...]) -> list[tuple[Action, ...]]:
    """A forward pass with the backward pass right after it is one slot, unless all forward passes
    come first; every other pass is a slot of its own."""
    last_forward = max((i for i, a in enumerate(order) if a.kind is Kind.FORWARD), default=-1)
    if all(a.kind is Kind.FORWARD for a in order[: last_forward + 1]):
        return [(action,) for action in order]
    slots: list[tuple[Action, ...]] = []
    for action in order:
        follows = bool(slots) and len(slots[-1]) == 1 and slots[-1][0].kind is Kind.FORWARD
        if follows and action.kind in (Kind.BACKWARD, Kind.BACKWARD_INPUT):
            slots[-1] += (action,)
        else:
            slots.append((action,))
    return slots


def _with_reductions(steps: list[Step], stages: tuple[int, ...]) -> list[Step]:
    """The steps with each stage's reduction posted right after its last backward pass."""
    makes = (Kind.BACKWARD, Kind.BACKWARD_WEIGHT)
    last = {step[0].stage: i for i, step in enumerate(steps) if step[0].kind in makes}
    found: list[Step] = []
    for i, step in enumerate(steps):
        found.append(step)
        found += [
            (Action(Kind.REDUCE_GRADIENTS, stage),) for stage in stages if last.get(stage) == i
        ]
    return found


def _exchange(
    schedule: Schedule, outgoing: tuple[Action, ...], incoming: tuple[Action, ...], mode: Mode
) -> list[Step]:
    if mode == "serial":
        return [(message,) for message in outgoing + incoming]
    if mode == "exchange":
        return [outgoing + incoming] if outgoing or incoming else []
    by_peer: dict[int, list[Action]] = {}
    for message in outgoing + incoming:
        by_peer.setdefault(peer(message, schedule), []).append(message)
    return [tuple(messages) for messages in by_peer.values()]


def _flush(schedule: Schedule, rank: int, flush: Flush) -> tuple[Step, ...]:
    actions = []
    stages = [stage for stage in schedule.stages_of(rank) if stage >= schedule.frozen_stages]
    if flush.reduce_gradients and not flush.overlapped:
        actions += [Action(Kind.REDUCE_GRADIENTS, stage) for stage in stages]
    if flush.reduce_tied and rank in tied_ranks(schedule):
        actions.append(Action(Kind.REDUCE_TIED, 0))
    if flush.norm:
        actions.append(Action(Kind.GRADIENT_NORM, rank))
    if flush.optimizer:
        actions.append(Action(Kind.OPTIMIZER, rank))
    if flush.gather_weights:
        actions += [Action(Kind.GATHER_WEIGHTS, stage) for stage in stages]
    return tuple((action,) for action in actions)


def tied_ranks(schedule: Schedule) -> tuple[int, ...]:
    """The ranks of the first and the last stage, where they differ; else none."""
    ends = {ranks[end] for ranks in schedule.placement for end in (0, -1)}
    return tuple(sorted(ends)) if len(ends) > 1 else ()


def participants(action: Action, program: Program) -> tuple[int, ...]:
    """The pipeline ranks that meet in a collective of the flush (replicas are not among them)."""
    if action.kind is Kind.GRADIENT_NORM:
        return tuple(range(program.num_ranks))
    if action.kind is Kind.REDUCE_TIED:
        return tied_ranks(program.schedule)
    if action.kind in (Kind.REDUCE_GRADIENTS, Kind.GATHER_WEIGHTS):
        return (program.schedule.rank_of(action.stage),)
    raise ValueError(f"{action} is not a collective")
