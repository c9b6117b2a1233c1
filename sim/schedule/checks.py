"""Static checks: everything that can go wrong with a schedule, found before anything runs.

1. Every pass of every (pipe, stage, microbatch, slice) exactly once, on the rank of its stage; of
   a frozen stage the forward pass alone.
2. Dependencies and program order together are acyclic.
3. For each directed pair of ranks, messages are received in the order they are sent. Messages of
   equal shape match first-in first-out, so a difference is not a hang but wrong gradients.
4. Which meanings of *send* the schedule survives.
5. Passes in flight per rank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sim.schedule.actions import COMPUTE, RECEIVES, SENDS, Action, Kind
from sim.schedule.drawing import grid
from sim.schedule.lowering import Program, lower, message_orders, partner, receives
from sim.schedule.schedule import Schedule, dependencies

Meaning = Literal["buffered", "rendezvous, receives posted early", "blocking rendezvous", "batched"]


class ScheduleError(ValueError):
    """A schedule is wrong; the message holds every problem found and the grid with the fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A rank that cannot go on."""

    rank: int
    step: tuple[Action, ...]
    needs: str

    def __str__(self) -> str:
        return f"rank {self.rank} at {' '.join(map(str, self.step))} waits for {self.needs}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What the checks of a sound schedule found.

    deadlocks: for each meaning of send, who waits for what where it deadlocks; empty where it
    holds.
    in_flight: per rank, the most (microbatch, slice) activations held at once.
    """

    deadlocks: dict[Meaning, tuple[Waiting, ...]]
    in_flight: tuple[int, ...]


def check(schedule: Schedule) -> CheckReport:
    """Run every check.

    Raises ScheduleError where the schedule cannot run, or would run and be wrong (1 to 3).
    """
    check_complete(schedule)
    check_acyclic(schedule)
    overlapped = lower(schedule, "overlapped")
    check_message_order(overlapped)
    check_message_order(lower(schedule, "serial"))
    return CheckReport(
        deadlocks={
            "buffered": run_untimed(overlapped, synchronous=False),
            "rendezvous, receives posted early": run_untimed(overlapped, synchronous=True),
            "blocking rendezvous": run_untimed(lower(schedule, "serial"), synchronous=True),
            "batched": run_untimed(lower(schedule, "blocking"), synchronous=True),
        },
        in_flight=in_flight(schedule),
    )


def check_complete(schedule: Schedule) -> None:
    """Check 1; raises ScheduleError with every missing, repeated or misplaced pass."""
    problems = []
    counts = Counter(a for order in schedule.orders for a in order)
    problems += [f"{a} appears {n} times" for a, n in counts.items() if n > 1]
    for rank, order in enumerate(schedule.orders):
        for action in order:
            if action.kind not in COMPUTE:
                problems.append(f"{action} on rank {rank} is not a pass through a stage")
            elif action.pipe >= len(schedule.placement) or action.stage >= schedule.num_stages:
                problems.append(f"{action} on rank {rank}: no such stage or pipe")
            elif schedule.rank_of(action.stage, action.pipe) != rank:
                holder = schedule.rank_of(action.stage, action.pipe)
                problems.append(
                    f"{action} is on rank {rank}, but rank {holder} holds stage {action.stage}"
                )
    labels = {a.microbatch for a in counts if a.microbatch is not None}
    if labels != set(range(len(labels))):
        problems.append(
            f"microbatches are numbered {sorted(labels)[:8]}, not from 0 on without gaps"
        )
    work = {(a.pipe, a.microbatch, a.slice_index) for a in counts if a.kind in COMPUTE}
    for pipe, microbatch, slice_index in sorted(work, key=str):
        for stage in range(schedule.num_stages):
            forward, backward, grad_input, grad_weight = (
                Action(kind, stage, microbatch, slice_index, pipe) in counts
                for kind in (
                    Kind.FORWARD,
                    Kind.BACKWARD,
                    Kind.BACKWARD_INPUT,
                    Kind.BACKWARD_WEIGHT,
                )
            )
            name = str(Action(Kind.FORWARD, stage, microbatch, slice_index, pipe))
            if not forward:
                problems.append(f"{name} is missing")
            if stage < schedule.frozen_stages:
                if backward or grad_input or grad_weight:
                    problems.append(f"stage {stage} is frozen, but {name} has a backward pass")
            elif backward == (grad_input or grad_weight) or grad_input != grad_weight:
                problems.append(
                    f"{name} needs either one B, or one I and one W: found "
                    f"{'B ' * backward}{'I ' * grad_input}{'W ' * grad_weight}".rstrip()
                    + ("none" if not (backward or grad_input or grad_weight) else "")
                )
    if problems:
        raise ScheduleError(_several("the schedule is not complete", problems))


def check_acyclic(schedule: Schedule) -> None:
    """Check 2; raises ScheduleError with what each rank waits for and the grid, fault marked."""
    done: set[Action] = set()
    position = [0] * schedule.num_ranks
    progress = True
    while progress:
        progress = False
        for rank, order in enumerate(schedule.orders):
            while position[rank] < len(order) and all(
                need in done for need in dependencies(order[position[rank]], schedule)
            ):
                done.add(order[position[rank]])
                position[rank] += 1
                progress = True
    stuck = [r for r in range(schedule.num_ranks) if position[r] < len(schedule.orders[r])]
    if stuck:
        faults = {schedule.orders[r][position[r]] for r in stuck}
        lines = []
        for rank in stuck:
            action = schedule.orders[rank][position[rank]]
            missing = [str(n) for n in dependencies(action, schedule) if n not in done]
            lines.append(f"rank {rank} at {action} waits for {', '.join(missing)}")
        raise ScheduleError(
            _several("program order and dependencies form a cycle", lines)
            + "\n"
            + grid(schedule.orders, faults)
        )


def check_message_order(program: Program) -> None:
    """Check 3; raises ScheduleError naming the pair of ranks and the first difference."""
    schedule = program.schedule
    problems = []
    for (sender, receiver), sent in message_orders(schedule).items():
        expected = [partner(message) for message in sent]
        wanted = set(expected)
        received = [a for step in program.steps[receiver] for a in step if a in wanted]
        if received != expected:
            n = next(
                (i for i, (a, b) in enumerate(zip(expected, received, strict=False)) if a != b),
                min(len(expected), len(received)),
            )
            got = str(received[n]) if n < len(received) else "nothing"
            problems.append(
                f"message {n} from rank {sender} to rank {receiver} is sent as {sent[n]} "
                f"but received as {got}"
            )
    if problems:
        raise ScheduleError(
            _several("messages are not received in the order they are sent", problems)
        )


def run_untimed(program: Program, *, synchronous: bool) -> tuple[Waiting, ...]:
    """Run a program without times and tell who is stuck at its end: nobody, if it cannot deadlock.

    synchronous: a send ends only once its receive is posted; else it is buffered and ends at once.
    In an `overlapped` program receives are posted and go on; elsewhere they wait for their send.
    """
    asynchronous_receives = program.mode == "overlapped"
    schedule = program.schedule
    done: set[Action] = set()
    posted: set[Action] = set()
    position = [0] * program.num_ranks

    def missing(action: Action) -> Action | None:
        if action.kind in SENDS:
            return partner(action) if synchronous and partner(action) not in posted else None
        if action.kind in RECEIVES:
            return None if asynchronous_receives or partner(action) in posted else partner(action)
        if action.kind in COMPUTE:
            for message in receives(action, schedule):
                if partner(message) not in posted:
                    return partner(message)
            for need in dependencies(action, schedule):
                if schedule.rank_of(need.stage, need.pipe) == rank and need not in done:
                    return need
        return None

    progress = True
    while progress:
        progress = False
        for rank, steps in enumerate(program.steps):
            while position[rank] < len(steps):
                step = steps[position[rank]]
                new = {a for a in step if a.kind in SENDS or a.kind in RECEIVES} - posted
                progress = progress or bool(new)
                posted |= new
                if any(missing(a) is not None for a in step):
                    break
                done.update(step)
                position[rank] += 1
                progress = True
    waiting = []
    for rank, steps in enumerate(program.steps):
        if position[rank] < len(steps):
            step = steps[position[rank]]
            needs = [need for a in step if (need := missing(a)) is not None]
            waiting.append(Waiting(rank=rank, step=step, needs=", ".join(map(str, needs))))
    return tuple(waiting)


def in_flight(schedule: Schedule) -> tuple[int, ...]:
    """Check 5: per rank, the most activations held between F's start and the end of B, or of W; a
    frozen stage holds none."""
    peaks = []
    for order in schedule.orders:
        live = peak = 0
        for action in order:
            if action.kind is Kind.FORWARD and action.stage >= schedule.frozen_stages:
                live += 1
                peak = max(peak, live)
            elif action.kind in (Kind.BACKWARD, Kind.BACKWARD_WEIGHT):
                live -= 1
        peaks.append(peak)
    return tuple(peaks)


def _several(title: str, problems: Sequence[str]) -> str:
    shown = list(problems[:20])
    if len(problems) > 20:
        shown.append(f"... and {len(problems) - 20} more")
    return "\n  ".join([title + ":", *shown])
