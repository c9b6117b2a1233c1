"""The SimPy engine: the reference that a reader can follow.

A process per rank walks its steps; one process, the fabric, gives the links to transfers. The clock
is an int in nanoseconds.

The rules, which the compiled engine shares:

- A pass waits for its messages, unpacks each, then takes the compute lane for its duration.
- A message is on its way once its send *and* its receive are posted (rendezvous). It holds all its
  links at once for its occupancy and arrives a latency later. Links serve transfers first come,
  first served; transfers that come in the same nanosecond, by (receiving rank, message).
- In an `overlapped` program sends and receives go on by themselves; in a `blocking` one a step of
  messages ends when all of them have arrived, and then the rank's host takes its EXCHANGE time.
- A reduction starts when all its ranks have come, and ends for all at once, after the longest of
  their durations.
- An overlapped reduction of gradients is posted and not waited for; a rank's run one after another
  beside its passes, and one posted at time t ends at the later of t + duration - hidden (its first
  buckets were full before t) and the end of the one before + duration. What follows the passes
  waits for the last one.
- Ranks that share a processor (`costs.processors`) take turns on it. Each piece of work on the
  compute lane of more than zero ns (a pass, posting or unpacking a message, an EXCHANGE, an
  optimizer step) asks for the processor when its rank comes to it, holds it without break for its
  whole duration, and then gives it back; work of zero ns does not ask. At the end of each instant,
  once all else in it has happened, a processor that nobody holds goes to who asked first, and of
  those that asked in the same nanosecond to the lowest rank: so a rank that goes on to further work
  asks anew, behind those that wait. The span is the holding; the wait for it is idle time.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import simpy

from sim.cost.costs import Costs
from sim.engine.deadlock import Deadlock
from sim.schedule.actions import COMPUTE, RECEIVES, SENDS, Action, Kind
from sim.schedule.checks import Waiting
from sim.schedule.lowering import Program, Step, participants, partner, peer, receives
from sim.timeline.spans import Lane, Span, Timeline

_END_OF_INSTANT = 2
_AFTER_LINKS = 3
_Process = Generator[simpy.Event, Any, None]
__all__ = ["Deadlock", "simulate"]


def simulate(program: Program, costs: Costs) -> Timeline:
    """Run a program under costs.

    Raises Deadlock where ranks wait for each other for ever.
    """
    return _Engine(program, costs).run()


class _Engine:
    def __init__(self, program: Program, costs: Costs) -> None:
        self.program = program
        self.costs = costs
        self.env = simpy.Environment(initial_time=0)
        self.spans: list[Span] = []
        self.arrived: dict[Action, simpy.Event] = {}
        self.posted: set[Action] = set()
        self.link_free_ns: dict[int, int] = {}
        self.requests: list[tuple[int, Action]] = []
        self.wake_fabric = self.env.event()
        self.meetings: dict[Action, tuple[simpy.Event, dict[int, int]]] = {}
        self.at: list[tuple[Step, Action] | None] = [None] * program.num_ranks
        self.reduced_ns = [0] * program.num_ranks
        self.processors = _Processors(self.env, costs.processors)

    def run(self) -> Timeline:
        ranks = [self.env.process(self.rank(r)) for r in range(self.program.num_ranks)]
        self.env.process(self.fabric())
        self.env.run()
        if any(process.is_alive for process in ranks):
            raise Deadlock(self.who_waits())
        return Timeline(
            origin="simulated",
            num_ranks=self.program.num_ranks,
            spans=tuple(self.spans),
            processors=self.costs.processors,
        )

    def rank(self, rank: int) -> _Process:
        """Walk the rank's steps."""
        overlapped = self.program.mode == "overlapped"
        exchanges = 0
        for step in self.program.steps[rank]:
            kind = step[0].kind
            if kind in COMPUTE:
                yield from self.compute(rank, step)
            elif kind in SENDS or kind in RECEIVES:
                for message in step:
                    if message.kind in SENDS:
                        yield from self.work(rank, message)
                    self.post(message)
                if not overlapped:
                    yield from self.finish_messages(rank, step)
                    yield from self.work(rank, Action(Kind.EXCHANGE, rank, exchanges))
                    exchanges += 1
            elif kind is Kind.REDUCE_GRADIENTS and self.program.overlapped_reduction:
                self.reduce_beside(rank, step[0])
            elif kind is Kind.OPTIMIZER:
                yield from self.reductions(rank)
                yield from self.work(rank, step[0])
            else:
                yield from self.reductions(rank)
                yield from self.collective(rank, step)
        yield from self.reductions(rank)
        self.at[rank] = None

    def compute(self, rank: int, step: Step) -> _Process:
        """Wait for the pass's messages, unpack them, run the pass."""
        if self.program.mode == "overlapped":
            for message in receives(step[0], self.program.schedule):
                yield from self.arrival(rank, step, message)
        yield from self.work(rank, step[0])

    def finish_messages(self, rank: int, step: Step) -> _Process:
        """Wait until every message of a blocking step has arrived, at whichever end."""
        for message in step:
            if message.kind in RECEIVES:
                yield from self.arrival(rank, step, message)
        for message in step:
            if message.kind in SENDS:
                self.at[rank] = (step, partner(message))
                yield self.arrival_event(partner(message))

    def arrival(self, rank: int, step: Step, message: Action) -> _Process:
        """Wait for a received message and unpack it."""
        event = self.arrival_event(message)
        if not event.processed:
            self.at[rank] = (step, partner(message))
            yield event
        yield from self.work(rank, message)

    def work(self, rank: int, action: Action) -> _Process:
        """Take the rank's compute lane, and its processor, for an action's duration."""
        duration = self.costs.duration_ns(action)
        if duration:
            yield from self.processors.turn(rank)
        start = self.env.now
        if duration:
            yield self.env.timeout(duration)
            self.processors.give_back(rank)
        if duration or action.kind in COMPUTE:
            self.record(rank, "compute", action, int(start), int(self.env.now))

    def collective(self, rank: int, step: Step) -> _Process:
        """Meet the other ranks of a reduction, then take its duration together."""
        action = _meeting_of(step[0])
        everyone = participants(step[0], self.program)
        ready, came = self.meetings.setdefault(action, (self.env.event(), {}))
        came[rank] = self.costs.duration_ns(step[0])
        if len(came) == len(everyone):
            ready.succeed()
        self.at[rank] = (step, step[0])
        yield ready
        start = int(self.env.now)
        yield self.env.timeout(max(came.values()))
        self.record(rank, "collective", step[0], start, int(self.env.now))

    def reduce_beside(self, rank: int, action: Action) -> None:
        """Book an overlapped reduction on the rank's collective lane."""
        duration = self.costs.duration_ns(action)
        own = int(self.env.now) + duration - self.costs.hidden_ns(action)
        end = max(own, self.reduced_ns[rank] + duration)
        self.reduced_ns[rank] = end
        self.record(rank, "collective", action, end - duration, end)

    def reductions(self, rank: int) -> _Process:
        """Wait until the rank's overlapped reductions have ended."""
        left = self.reduced_ns[rank] - int(self.env.now)
        if left > 0:
            yield self.env.timeout(left)

    def post(self, message: Action) -> None:
        """Post one end of a message; the second of the two asks the fabric for a transfer."""
        self.posted.add(message)
        if partner(message) in self.posted:
            receive = message if message.kind in RECEIVES else partner(message)
            rank = self.program.schedule.rank_of(receive.stage, receive.pipe)
            self.requests.append((rank, receive))
            if not self.wake_fabric.triggered:
                self.wake_fabric.succeed()

    def fabric(self) -> _Process:
        """At the end of every instant in which transfers were asked for, book their links."""
        while True:
            yield self.wake_fabric
            settled = self.env.event()
            settled._ok, settled._value = True, None
            self.env.schedule(settled, priority=_END_OF_INSTANT)  # type: ignore[arg-type]
            yield settled
            self.wake_fabric = self.env.event()
            requests, self.requests = sorted(self.requests), []
            for receiver, receive in requests:
                self.transfer(receiver, receive)

    def transfer(self, receiver: int, receive: Action) -> None:
        """Book a message's links from the first instant they are all free, and deliver it."""
        send = partner(receive)
        transfer = self.costs.transfer(send)
        start = now = int(self.env.now)
        for link in transfer.resources:
            start = max(start, self.link_free_ns.get(link, 0))
        for link in transfer.resources:
            self.link_free_ns[link] = start + transfer.occupancy_ns
        end = start + transfer.occupancy_ns + transfer.latency_ns
        lane: Lane = "forward" if send.kind is Kind.SEND_FORWARD else "backward"
        sender = peer(receive, self.program.schedule)
        self.record(sender, lane, send, start, end)
        self.record(receiver, lane, receive, start, end)
        arrived = self.arrival_event(receive)
        if end == now:
            arrived.succeed()
        else:
            delivery = self.env.timeout(end - now)
            assert delivery.callbacks is not None
            delivery.callbacks.append(arrived.trigger)

    def arrival_event(self, receive: Action) -> simpy.Event:
        """The event of a message's arrival, by its RECV action."""
        event = self.arrived.get(receive)
        if event is None:
            event = self.arrived[receive] = self.env.event()
        return event

    def record(self, rank: int, lane: Lane, action: Action, start_ns: int, end_ns: int) -> None:
        self.spans.append(Span(rank, lane, action, start_ns, end_ns))

    def who_waits(self) -> list[Waiting]:
        waiting = []
        for rank, at in enumerate(self.at):
            if at is not None:
                step, need = at
                waiting.append(Waiting(rank=rank, step=step, needs=str(need)))
        return waiting


class _Processors:
    """Processors that ranks take turns on; a rank alone on its processor never waits."""

    def __init__(self, env: simpy.Environment, processors: tuple[int, ...]) -> None:
        self.env = env
        shared = {p for p in processors if processors.count(p) > 1}
        self.of_rank = {rank: p for rank, p in enumerate(processors) if p in shared}
        self.busy: set[int] = set()
        self.waiting: dict[int, list[tuple[int, int, simpy.Event]]] = {p: [] for p in shared}
        self.settling: set[int] = set()

    def turn(self, rank: int) -> _Process:
        """Ask for the rank's processor and wait for it."""
        processor = self.of_rank.get(rank)
        if processor is not None:
            granted = self.env.event()
            self.waiting[processor].append((int(self.env.now), rank, granted))
            self.settle(processor)
            yield granted

    def give_back(self, rank: int) -> None:
        """Let others have the rank's processor."""
        processor = self.of_rank.get(rank)
        if processor is not None:
            self.busy.remove(processor)
            self.settle(processor)

    def settle(self, processor: int) -> None:
        """Have a processor given at the end of this instant, after links were booked."""
        if processor not in self.settling:
            self.settling.add(processor)
            end = self.env.event()
            end._ok, end._value = True, None
            assert end.callbacks is not None
            end.callbacks.append(lambda _: self.give(processor))
            self.env.schedule(end, priority=_AFTER_LINKS)  # type: ignore[arg-type]

    def give(self, processor: int) -> None:
        """Give a processor that nobody holds to who asked first, then by rank."""
        self.settling.remove(processor)
        if processor not in self.busy and self.waiting[processor]:
            first = min(self.waiting[processor], key=lambda request: request[:2])
            self.waiting[processor].remove(first)
            self.busy.add(processor)
            first[2].succeed()


def _meeting_of(action: Action) -> Action:
    """The key under which the ranks of a reduction meet: NORM is numbered by rank, but is one."""
    if action.kind is Kind.GRADIENT_NORM:
        return Action(Kind.GRADIENT_NORM, 0)
    return action
