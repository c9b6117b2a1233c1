"""The interpreter: runs a rank's list of steps for real, and records what it did when.

It knows no schedule: whatever order the program holds, it posts receives where the program says,
sends without waiting, and waits for a message only at the pass that consumes it (in a `blocking`
program, at the end of the step of messages). The program counts pipeline ranks, and the transport
world ranks; `line` leads from one to the other.

Spans touch: an action's begins where the one before ended, unless it waited, so that the
interpreter's own time is inside the spans and not lost between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from executor.data import Batch, Source
from executor.marks import Marks
from executor.mesh import Place
from executor.optimizer import Optimizer
from executor.pinning import HeldUp
from executor.reductions import Reductions
from executor.stages import StageRunner
from executor.transport.base import (
    PendingReceive,
    PendingSend,
    Post,
    ReceivePost,
    SendPost,
    Transport,
)
from sim.schedule.actions import COMPUTE, RECEIVES, SENDS, Action, Kind
from sim.schedule.lowering import Program, Step, partner, peer, receives, sends

_NO_WAIT_NS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One thing a rank did: `lane` as in Span. For a RECV on its way, `start_ns` is None where only
    the sender knows when the message left, `end_ns` where it was there before anyone waited."""

    lane: str
    action: str
    start_ns: int | None
    end_ns: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationRecord:
    """One rank's iteration: what it did, and the share of its time in which its thread could have
    run and did not, because others did (None on a GPU, or where the system does not tell)."""

    records: tuple[Record, ...]
    foreign: float | None
    loss: float | None

    def moved(self, to_reference_ns: Callable[[int], int]) -> IterationRecord:
        """The same with this rank's times on another clock; a message's start is its sender's own,
        known only on one host, and dropped."""
        records = tuple(
            replace(
                r,
                start_ns=to_reference_ns(r.start_ns)
                if r.start_ns is not None and r.lane in ("compute", "collective")
                else None,
                end_ns=to_reference_ns(r.end_ns) if r.end_ns is not None else None,
            )
            for r in self.records
        )
        return replace(self, records=records)


class Interpreter:
    """Runs iterations of one rank's program.

    place: this rank's indices. line: the world ranks of its pipeline, by pipeline rank.
    runners, optimizers: of its stages.
    read_at_pass: whether the data is read as a pass begins that needs it, its time within that of
        the pass; else before the iteration.
    keep_gradients: copy them, before they are clipped, to `kept`.
    """

    def __init__(
        self,
        *,
        program: Program,
        place: Place,
        line: Sequence[int],
        runners: Mapping[int, StageRunner],
        optimizers: Mapping[int, Optimizer],
        transport: Transport,
        reductions: Reductions,
        data: Source,
        marks: Marks,
        deadline_s: float,
        read_at_pass: bool = False,
        keep_gradients: bool = False,
    ) -> None:
        self.program, self.place, self.line = program, place, line
        self.keep_gradients = keep_gradients
        self.kept: dict[str, Tensor] = {}
        self.schedule = program.schedule
        self.runners, self.optimizers = runners, optimizers
        self.transport, self.reductions, self.data, self.marks = transport, reductions, data, marks
        self.deadline_s = deadline_s
        self.overlapped = program.mode == "overlapped"
        self.device = next(iter(runners.values())).device
        self.on_host = all(r.device.type == "cpu" for r in runners.values())
        self.counter = 0
        self.iteration = 0
        self.receiving: dict[Action, PendingReceive] = {}
        self.sending: list[tuple[Action, PendingSend]] = []
        self.arrived: dict[Action, Tensor] = {}
        self.made: dict[Action, Tensor] = {}
        self.read_at_pass = read_at_pass
        self.num_ends = sum(r.part.embedding or r.part.head for r in runners.values())
        self.batches: dict[tuple[int, int], Batch] = {}
        self.raw: list[tuple[str, Action, Any, Any]] = []
        self.messages: list[tuple[Action, int | None, int | None]] = []
        self.timed: list[tuple[Action, PendingReceive]] = []
        self.reducing: list[tuple[Action, Any]] = []
        self.settled = False
        self.steps = program.steps[place.pipeline]
        self.peers = {
            message: line[peer(message, self.schedule)]
            for step in self.steps
            for message in step
            if message.kind in SENDS or message.kind in RECEIVES
        }
        self.code = [(self._handler(step), step, self._inputs(step[0])) for step in self.steps]

    def run_iteration(self, iteration: int) -> IterationRecord:
        """Run every step once.

        Raises TransportTimeout where a message does not come within the deadline.
        """
        self.iteration = iteration
        self._reset()
        held_up = HeldUp() if self.on_host else None
        self.marks.begin()
        last = self.marks.mark()
        for counter, (handler, step, inputs) in enumerate(self.code):
            self.counter = counter
            last = handler(step, inputs, last)
        self.counter = len(self.code)
        self._finish_sends()
        self.transport.flush(self.deadline_s)
        return self._record(held_up.share() if held_up is not None else None)

    def close(self) -> None:
        """Run no more; its steps are its own methods, by which it would keep itself."""
        self.code = []

    def describe(self) -> str:
        """Where this rank is: its program counter and pending messages, for its last words."""
        who = f"rank {self.line[self.place.pipeline]} ({self.place})"
        if self.counter >= len(self.steps):
            return f"{who} has ended iteration {self.iteration}"
        at = " ".join(map(str, self.steps[self.counter]))
        return (
            f"{who} is in iteration {self.iteration} at step {self.counter} of "
            f"{len(self.steps)} ({at}); {self.transport.describe()}"
        )

    def _handler(self, step: Step) -> Callable[[Step, tuple[Action, ...], Any], Any]:
        kind = step[0].kind
        if kind in COMPUTE:
            return self._compute
        if kind in SENDS or kind in RECEIVES:
            return self._messages_overlapped if self.overlapped else self._messages_blocking
        early = self.program.overlapped_reduction
        return {
            Kind.REDUCE_GRADIENTS: self._reduction_posted if early else self._reduce_gradients,
            Kind.REDUCE_TIED: self._reduce_tied,
            Kind.GRADIENT_NORM: self._gradient_norm,
            Kind.OPTIMIZER: self._optimizer,
            Kind.GATHER_WEIGHTS: self._gather_weights,
        }[kind]

    def _inputs(self, action: Action) -> tuple[Action, ...]:
        if action.kind in COMPUTE and self.overlapped:
            return receives(action, self.schedule)
        return ()

    def _compute(self, step: Step, inputs: tuple[Action, ...], last: Any) -> Any:
        action = step[0]
        for message in inputs:
            last = self._receive(message, last)
        kind, stage, microbatch, slice_index, _ = action
        assert microbatch is not None
        runner = self.runners[stage]
        result: Tensor | None = None
        if kind is Kind.FORWARD:
            result = self._forward(action, runner)
        elif kind is Kind.BACKWARD_WEIGHT:
            runner.backward_weight(microbatch, slice_index)
        else:
            gradient = None if runner.part.head else self._take_gradient(action)
            split = kind is Kind.BACKWARD_INPUT
            run = runner.backward_input if split else runner.backward
            result = run(microbatch, slice_index, gradient)
        if result is not None:
            for message in sends(action, self.schedule) or (_local(action),):
                self.made[message] = result
        end = self.marks.mark()
        self.raw.append(("compute", action, last, end))
        return end

    def _forward(self, action: Action, runner: StageRunner) -> Tensor | None:
        place = cast(int, action.microbatch), action.slice_index
        part = runner.part
        batch = self._batch(*place) if part.embedding or part.head else None
        if part.embedding:
            assert batch is not None
            inputs, targets, depth, samples = batch
            return runner.forward(*place, inputs, targets, depth=depth, samples=samples)
        message = Action(Kind.RECV_FORWARD, *action[1:])
        arrived = message in self.arrived
        received = self.arrived.pop(message) if arrived else self.made.pop(partner(message))
        return runner.forward(*place, received, None if batch is None else batch.targets)

    def _batch(self, microbatch: int, slice_index: int) -> Batch:
        """The data of a pass; let go with its last use, for it may be as large as activations."""
        place = (microbatch, slice_index)
        if place not in self.batches:
            self._read(microbatch)
        return self.batches.pop(place) if self.num_ends == 1 else self.batches[place]

    def _read(self, microbatch: int) -> None:
        found = self.data.slices(self.iteration, self.place.data, microbatch)
        self.batches |= {(microbatch, n): batch for n, batch in enumerate(found)}

    def _take_gradient(self, action: Action) -> Tensor:
        message = Action(Kind.RECV_BACKWARD, *action[1:])
        if message in self.arrived:
            return self.arrived.pop(message)
        return self.made.pop(partner(message))

    def _receive(self, message: Action, last: Any) -> Any:
        """Wait for a message and take it over; the wait is not in a span, the taking over is."""
        pending = self.receiving.pop(message)
        waited = not pending.done()
        tensor = pending.wait(self.deadline_s)
        ready, arrived = last, None
        if waited or not self.on_host:
            found = pending.found_ns if self.on_host else None
            ready = found if found is not None else self.marks.mark()
            # Where the carrier cannot tell, a wait that took no time says that nobody waited.
            if found is not None or (self.on_host and ready - last > _NO_WAIT_NS):
                arrived = ready
        if self.on_host:
            # Not the pending itself: it holds the tensor, and the iteration would hold all of them.
            self.messages.append((message, pending.sent_ns, arrived))
        else:
            self.timed.append((message, pending))
        self.arrived[message] = tensor
        end = self.marks.mark()
        self.raw.append(("compute", message, ready, end))
        return end

    def _receive_post(self, message: Action) -> ReceivePost:
        runner = self.runners[message.stage]
        forward = message.kind is Kind.RECV_FORWARD
        assert message.microbatch is not None
        place = (message.microbatch, message.slice_index)
        shape = runner.input_shape(*place) if forward else runner.output_shape(*place)
        assert shape is not None
        return ReceivePost(
            message=message,
            source=self.peers[message],
            shape=shape,
            dtype=runner.dtype,
        )

    def _messages_overlapped(self, step: Step, inputs: tuple[Action, ...], last: Any) -> Any:
        message = step[0]
        if message.kind in RECEIVES:
            post = self._receive_post(message)
            self.receiving[message] = self.transport.post_receive(
                message, post.source, post.shape, post.dtype
            )
            return last
        tensor = self.made.pop(message)
        destination = self.peers[message]
        self.sending = [(m, pending) for m, pending in self.sending if not pending.done()]
        self.sending.append((message, self.transport.send(message, destination, tensor)))
        end = self.marks.mark()
        self.raw.append(("compute", message, last, end))
        return end

    def _messages_blocking(self, step: Step, inputs: tuple[Action, ...], last: Any) -> Any:
        outgoing = [message for message in step if message.kind in SENDS]
        posts: list[Post] = [
            SendPost(
                message=message,
                destination=self.peers[message],
                tensor=self.made.pop(message),
            )
            if message.kind in SENDS
            else self._receive_post(message)
            for message in step
        ]
        for message, pending in zip(step, self.transport.batch(posts), strict=True):
            if message.kind in SENDS:
                self.sending.append((message, cast(PendingSend, pending)))
            else:
                self.receiving[message] = cast(PendingReceive, pending)
        if outgoing:
            end = self.marks.mark()
            self.raw.append(("compute", outgoing[0], last, end))
            last = end
        for message in step:
            if message.kind in RECEIVES:
                last = self._receive(message, last)
        if not all(pending.done() for _, pending in self.sending):
            self._finish_sends()
            return self.marks.mark()
        self.sending.clear()
        return last

    def _finish_sends(self) -> None:
        for _, pending in self.sending:
            pending.wait(self.deadline_s)
        self.sending.clear()

    def _reduce_gradients(self, step: Step, inputs: tuple[Action, ...], last: Any) -> Any:
        self.reductions.reduce(step[0].stage)
        return self._collective(step[0], last)

    def _reduction_posted(self, step: Step, inputs: tuple[Action, ...], last: Any) -> Any:
        """Its buckets are under way since they were made, within the pass before."""
        self.reducing.append((step[0], last))
        return last

    def _settle(self, last: Any) -> Any:
        """Before the first use of the gradients: wait for all that was posted, and sum parts."""
        if self.settled:
            return last
        self.settled = True
        for n, (action, posted) in enumerate(self.reducing):
            self.reductions.wait(action.stage)
            # One after the other on their lane, as far as the host can tell them apart.
            last = self._collective(action, last if n else posted)
        self.reductions.sum_partial()
        return last

    def _reduce_tied(self, step: Step, inputs: tuple[Action, ...], last: Any) -> Any:
        last = self._settle(last)
        self.reductions.sum_tied()
        return self._collective(step[0], last)

    def _gradient_norm(self, step: Step, inputs: tuple[Action, ...], last: Any) -> Any:
        last = self._settle(last)
        self._keep_gradients()
        norms = [o.squared_norm().to(self.device) for o in self.optimizers.values()]
        squared = torch.stack(norms).sum()
        self.reductions.sum_norm(squared)
        for optimizer in self.optimizers.values():
            optimizer.clip(squared.sqrt())
        return self._collective(step[0], last)

    def _gather_weights(self, step: Step, inputs: tuple[Action, ...], last: Any) -> Any:
        self.reductions.gather(step[0].stage)
        return self._collective(step[0], last)

    def _collective(self, action: Action, start: Any) -> Any:
        """Record what has just ended; the present."""
        end = self.marks.mark()
        self.raw.append(("collective", action, start, end))
        return end

    def _keep_gradients(self) -> None:
        """Copy the whole gradients, once an iteration, before clipping and the step change them."""
        if self.keep_gradients and not self.kept:
            self.kept = self.reductions.whole_gradients()

    def _optimizer(self, step: Step, inputs: tuple[Action, ...], last: Any) -> Any:
        last = self._settle(last)
        self._keep_gradients()
        for optimizer in self.optimizers.values():
            optimizer.step()
        end = self.marks.mark()
        self.raw.append(("compute", step[0], last, end))
        return end

    def _reset(self) -> None:
        """What is prepared outside the measured time: data, and gradients set to zero."""
        self.batches = {}
        if self.num_ends and not self.read_at_pass:
            found = {a.microbatch for a in self.schedule.orders[self.place.pipeline]}
            for microbatch in sorted(m for m in found if m is not None):
                self._read(microbatch)
        for runner in self.runners.values():
            runner.zero_grad()
        self.raw, self.messages, self.timed, self.reducing = [], [], [], []
        self.settled = False
        self.kept = {}

    def _record(self, foreign: float | None) -> IterationRecord:
        self.marks.settle()
        read = self.marks.read
        records = [
            Record(lane=lane, action=str(action), start_ns=read(start), end_ns=read(end))
            for lane, action, start, end in self.raw
        ]
        on_device = [(m, pending.sent_ns, pending.arrived_ns) for m, pending in self.timed]
        for message, sent, arrived in (*self.messages, *on_device):
            lane = "forward" if message.kind is Kind.RECV_FORWARD else "backward"
            records.append(Record(lane=lane, action=str(message), start_ns=sent, end_ns=arrived))
        losses = [r.mean_loss() for r in self.runners.values() if r.losses]
        return IterationRecord(
            records=tuple(records),
            foreign=foreign,
            loss=float(losses[0]) if losses else None,
        )


def _local(action: Action) -> Action:
    """The key under which a pass leaves its result for the next stage on the same rank."""
    kind = Kind.SEND_FORWARD if action.kind is Kind.FORWARD else Kind.SEND_BACKWARD
    return Action(kind, *action[1:])
