"""Traces of every rank of a pipeline -> a Measurement, like one of the executor's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scenarios.schema import Scenario
from sim.measurement import Measurement
from sim.schedule.actions import COMPUTE, Action, Kind
from sim.schedule.build import build_program
from sim.schedule.lowering import Program, partner, peer
from sim.timeline.spans import Lane, Span, Timeline
from sim.traces.actions import RankIteration, rank_iteration
from sim.traces.clocks import Alignment, Sent, align
from sim.traces.kineto import RankTrace, iterations, read_kineto
from sim.traces.laying import NO_WAIT_NS, Laid, lay
from sim.traces.stream import TraceError

_MAX_TOLD = 3
Iterations = Mapping[int, RankIteration]


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """measurement: what the traces hold of the scenario; traces: by pipeline rank; steps: the
    number of each iteration (the profiler's, where it counts them); alignments: of each iteration;
    notes: what a reader has to know of it."""

    measurement: Measurement
    traces: tuple[RankTrace, ...]
    steps: tuple[int, ...]
    alignments: tuple[Alignment, ...]
    notes: tuple[str, ...]


def import_traces(
    scenario: Scenario,
    paths: Sequence[Path],
    ranks: Sequence[int] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Imported:
    """Read a trace a rank of one pipeline (data and tensor index 0), and put them together.

    ranks: the pipeline rank of each path; else by what the traces say of their rank, else their
    order. Raises TraceError, with what is wrong and what would work.
    """
    program = build_program(scenario)
    _check_number(scenario, program, paths, ranks)
    found = []
    for path in paths:
        progress(f"reading {path} ({path.stat().st_size / 1e6:,.0f} MB) ...")
        found.append(read_kineto(path))
    traces = _by_rank(found, ranks)
    own = tuple(
        {n: rank_iteration(a, program, rank) for n, a in iterations(trace)}
        for rank, trace in enumerate(traces)
    )
    _check_passes(scenario, program, traces, own)
    steps, dropped = _complete(traces, own)
    laid = [
        [lay(trace, own[rank][n], program, rank) for rank, trace in enumerate(traces)]
        for n in steps
    ]
    clocks = _clocks(traces)
    alignments = [align(_messages(each, program), clocks) for each in laid]
    impossible = max(a.impossible_ns for a in alignments)
    if impossible > (_shortest(laid) if any(t.host for t in traces) else NO_WAIT_NS):
        clocks = tuple(range(len(traces)))  # Hosts unknown, or of one name, without a clock of all.
        alignments = [align(_messages(each, program), clocks) for each in laid]
    timelines = [
        _timeline(each, alignment, program, number)
        for each, alignment, number in zip(laid, alignments, steps, strict=True)
    ]
    notes = [
        *dropped,
        *(f"{t.path.name}: {note}" for t in traces for note in t.notes),
        *_order_notes(program, own, steps),
        *_laid_notes(laid, program, own, steps),
        *_clock_notes(clocks, alignments),
    ]
    return Imported(
        measurement=Measurement(
            scenario=scenario,
            timelines=tuple(timelines),
            disturbed=(False,) * len(timelines),
            peak_memory_bytes=(),
            environment=_environment(traces, clocks, alignments, notes),
        ),
        traces=traces,
        steps=tuple(steps),
        alignments=tuple(alignments),
        notes=tuple(notes),
    )


def _check_number(
    scenario: Scenario, program: Program, paths: Sequence[Path], ranks: Sequence[int] | None
) -> None:
    wanted = program.num_ranks
    if len(set(paths)) < len(paths):
        raise TraceError("a trace is given twice: give each rank's once")
    if ranks is not None and sorted(ranks) != list(range(len(paths))):
        raise TraceError(
            f"--ranks {','.join(map(str, ranks))}: give each of the pipeline's ranks once, one a "
            f"trace, as {','.join(map(str, range(len(paths))))}"
        )
    if len(paths) != wanted:
        copies = scenario.plan.num_devices // wanted
        of_copies = (
            f"; of the {copies} pipelines and tensor ranks beside each other, those with data and "
            "tensor index 0"
            if copies > 1
            else ""
        )
        raise TraceError(
            f"{scenario.name} has {wanted} pipeline ranks, and {len(paths)} traces are given: give "
            f"one a rank of one pipeline{of_copies}; or the scenario with "
            f"`--set plan.pipeline={len(paths)}`"
        )


def _by_rank(found: Sequence[RankTrace], ranks: Sequence[int] | None) -> tuple[RankTrace, ...]:
    """The traces by pipeline rank: as asked, else as they say, else in their order."""
    if ranks is not None:
        order = sorted(range(len(found)), key=lambda i: ranks[i])
        return tuple(found[i] for i in order)
    told = [t.rank for t in found]
    if None in told:
        return tuple(found)
    twice = [rank for rank, count in Counter(told).items() if count > 1]
    if twice and len(found) > 1:
        names = [str(t.path) for t in found if t.rank == twice[0]]
        raise TraceError(
            f"{' and '.join(names)} say that both are of rank {twice[0]}: give one trace a rank, "
            "or tell with --ranks which is which, as --ranks 0,1"
        )
    return tuple(sorted(found, key=lambda t: t.rank or 0))


def _check_passes(
    scenario: Scenario,
    program: Program,
    traces: Sequence[RankTrace],
    own: Sequence[Iterations],
) -> None:
    """Refuse traces of another scenario, or of other ranks."""
    schedule = program.schedule
    for rank, (trace, iterations_) in enumerate(zip(traces, own, strict=True)):
        foreign = Counter(a for it in iterations_.values() for a in it.foreign)
        if not foreign:
            continue
        known = [a for a in foreign if a in schedule.actions]
        if len(known) == len(foreign):
            stages = sorted({a.stage for a in known})
            holders = sorted({schedule.rank_of(a.stage, a.pipe) for a in known})
            raise TraceError(
                f"{trace.path}: taken for rank {rank}, which has stages "
                f"{_listed(schedule.stages_of(rank))}, but its passes are of stages "
                f"{_listed(stages)}, which {scenario.name} has on rank {_listed(holders)}: tell "
                "with --ranks which trace is which"
            )
        other = next(a for a in foreign if a not in schedule.actions)
        raise TraceError(
            f"{trace.path}: has {other}, which {scenario.name} has not: {_why(other, program)}"
        )


def _why(action: Action, program: Program) -> str:
    schedule = program.schedule
    if action.stage >= schedule.num_stages:
        return (
            f"it has {schedule.num_stages} stages, 0 to {schedule.num_stages - 1}; another "
            "`--set plan.pipeline=` or `plan.chunks=` would give more"
        )
    microbatches = {a.microbatch for a in schedule.actions if a.microbatch is not None}
    if action.microbatch not in microbatches:
        return (
            f"it has {len(microbatches)} microbatches, 0 to {max(microbatches)}; "
            f"`--set plan.microbatches={1 + (action.microbatch or 0)}` would have this one"
        )
    if action.slice_index >= schedule.num_slices:
        return f"its microbatches have {schedule.num_slices} slices; see plan.slices"
    kinds = sorted({a.kind.value for a in schedule.actions})
    return (
        f"its passes are {', '.join(kinds)}; an order with other ones is given as a file, "
        "`plan.schedule_file`, in torch's notation"
    )


def _complete(
    traces: Sequence[RankTrace], own: Sequence[Iterations]
) -> tuple[list[int], list[str]]:
    """The iterations that every rank has whole, and what is left out."""
    numbers = sorted(set().union(*own))
    bad: dict[int, str] = {}
    for number in numbers:
        for rank, trace in enumerate(traces):
            iteration = own[rank].get(number)
            if iteration is None:
                bad.setdefault(number, f"{trace.path}: rank {rank} has no iteration {number}")
            elif iteration.problems:
                told = "; ".join(iteration.problems[:_MAX_TOLD])
                bad.setdefault(number, f"{trace.path}: iteration {number}: {told}")
            elif iteration.missing:
                missing = iteration.missing
                bad.setdefault(
                    number,
                    f"{trace.path}: iteration {number} has no {_listed(missing)} (of rank {rank})",
                )
    steps = [number for number in numbers if number not in bad]
    if not steps:
        raise TraceError(
            f"{next(iter(bad.values()))}. An iteration needs each pass of each rank once; "
            "several iterations in one trace are told apart by the profiler's steps, so call "
            "`prof.step()` after each"
        )
    if not bad:
        return steps, []
    first = next(iter(bad.values()))
    return steps, [f"{len(bad)} of {len(numbers)} iterations are left out, as {first}"]


def _listed(items: Sequence[object]) -> str:
    told = ", ".join(map(str, items[:_MAX_TOLD]))
    more = len(items) - _MAX_TOLD
    return f"{told} and {more} more" if more > 0 else told


def _clocks(traces: Sequence[RankTrace]) -> tuple[int, ...]:
    """By rank the number of its host, in the order of ranks."""
    hosts: dict[str | None, int] = {}
    return tuple(hosts.setdefault(t.host, len(hosts)) for t in traces)


def _messages(laid: Sequence[Laid], program: Program) -> list[Sent]:
    """Every message, with the earliest that it can have been sent, by the trace."""
    found = []
    sent = [_sent(each) for each in laid]
    for rank, each in enumerate(laid):
        for receive, there in each.there_ns.items():
            sender = peer(receive, program.schedule)
            at = sent[sender].get(partner(receive))
            if at is not None:
                found.append(Sent(sender, rank, at, there))
    return found


def _sent(laid: Laid) -> dict[Action, int]:
    """When each message can have been sent at the earliest: posted, or made."""
    made: dict[Action, int] = {}
    for span in laid.spans:
        action = span.action
        if action.kind is Kind.FORWARD:
            made[Action(Kind.SEND_FORWARD, *action[1:])] = span.end_ns
        elif action.kind is Kind.BACKWARD or action.kind is Kind.BACKWARD_INPUT:
            made[Action(Kind.SEND_BACKWARD, *action[1:])] = span.end_ns
    return made | laid.sent_ns


def _timeline(
    laid: Sequence[Laid], alignment: Alignment, program: Program, number: int
) -> Timeline:
    """One iteration on rank 0's clock, from time 0."""
    spans: list[Span] = []
    moved = alignment.offsets_ns
    begin = min(s.start_ns + moved[s.rank] for each in laid for s in each.spans)
    sent = [_sent(each) for each in laid]
    posted = [s | each.posted_ns for s, each in zip(sent, laid, strict=True)]
    for rank, each in enumerate(laid):
        shift = moved[rank] - begin
        spans += [
            s._replace(start_ns=s.start_ns + shift, end_ns=s.end_ns + shift) for s in each.spans
        ]
        for receive in each.there_ns:
            sender = peer(receive, program.schedule)
            send = partner(receive)
            start, end = posted[sender][send] + moved[sender] - begin, 0
            came = each.arrived_ns.get(receive)
            if came is not None:
                # It may come before its sender is done with posting it, not before that began.
                end = max(came + shift, sent[sender][send] + moved[sender] - begin)
                if program.mode != "overlapped":
                    # Both ends meet: nothing is under way before its receiver asks for it.
                    start = max(start, each.wanted_ns.get(receive, came) + shift)
                start = min(start, end)
            # There before anyone waited: no time is known, and none is given.
            end = max(start, end)
            lane: Lane = "forward" if receive.kind is Kind.RECV_FORWARD else "backward"
            spans.append(Span(rank, lane, receive, start, end))
            spans.append(Span(sender, lane, partner(receive), start, end))
    return Timeline(
        origin="measured",
        num_ranks=program.num_ranks,
        spans=tuple(spans),
        metadata={"iteration": number},
    )


def _order_notes(program: Program, own: Sequence[Iterations], steps: Sequence[int]) -> list[str]:
    """Whether the ranks ran their passes in the scenario's order."""
    for rank, iterations_ in enumerate(own):
        order = program.schedule.orders[rank]
        ran = [d.action for d in iterations_[steps[0]].done if d.action.kind in COMPUTE]
        for asked, did in zip(order, ran, strict=True):
            if asked != did:
                return [
                    f"rank {rank} ran {did} where {program.schedule.name} has {asked}: the "
                    "structural error is that of another order; give the run's own as "
                    "`plan.schedule_file`"
                ]
    return []


def _laid_notes(
    laid: Sequence[Sequence[Laid]],
    program: Program,
    own: Sequence[Iterations],
    steps: Sequence[int],
) -> list[str]:
    notes = []
    unnamed = [each for ranks in laid for each in ranks if each.unnamed is not None]
    if unnamed:
        longest = max(unnamed, key=lambda each: each.unnamed_ns)
        notes.append(
            f"{longest.unnamed} and what else lies between the last pass and the optimizer has no "
            f"name in the trace: up to {longest.unnamed_ns / 1e6:.3f} ms are taken to be that"
        )
    idle = max(each.idle_ns for ranks in laid for each in ranks)
    if idle > _shortest(laid) / 100:
        notes.append(
            f"up to {idle / 1e6:.3f} ms an iteration a rank did nothing before a pass that waits "
            "for no message: for its own sends, its data, or what is not annotated; the model "
            "knows no such time"
        )
    optimizers = {a for rank in program.steps for step in rank for a in step}
    if any(a.kind is Kind.OPTIMIZER for a in optimizers) and not any(
        d.action.kind is Kind.OPTIMIZER for it in own for d in it[steps[0]].done
    ):
        notes.append(
            "no optimizer step is in the traces (`Optimizer.step#...` or `pipetwin:0STEP`): the "
            "iterations end with the last pass"
        )
    return notes


def _shortest(laid: Sequence[Sequence[Laid]]) -> int:
    """How long the busiest rank took for the quickest iteration."""
    return min(_length(ranks) for ranks in laid)


def _length(laid: Sequence[Laid]) -> int:
    return max(
        each.spans[-1].end_ns - min(s.start_ns for s in each.spans) for each in laid if each.spans
    )


def _clock_notes(clocks: Sequence[int], alignments: Sequence[Alignment]) -> list[str]:
    notes = []
    if max(clocks):
        known = [a.uncertainty_ns for a in alignments]
        if None in known:
            notes.append(
                "messages go one way only between some hosts: their clocks are aligned as if the "
                "quickest message took no time"
            )
        else:
            worst = max(u for u in known if u is not None)
            notes.append(
                f"the clocks of {1 + max(clocks)} hosts are aligned by causality (no message comes "
                f"before it was sent), to +-{worst / 1e3:.1f} us"
            )
    impossible = max(a.impossible_ns for a in alignments)
    if impossible > NO_WAIT_NS:
        notes.append(
            f"a message is there {impossible / 1e3:.1f} us before it was sent, also with clocks "
            "aligned: they drift, or an annotation does not hold what its name says"
        )
    return notes


def _environment(
    traces: Sequence[RankTrace],
    clocks: Sequence[int],
    alignments: Sequence[Alignment],
    notes: Sequence[str],
) -> dict[str, object]:
    hosts = sorted({t.host for t in traces if t.host})
    uncertain = [a.uncertainty_ns for a in alignments]
    found: dict[str, object] = {
        "transport": "traces of torch.profiler",
        "host": ", ".join(hosts) or "unknown",
        "times": "device" if all(t.on_device for t in traces) else "host",
        "traces": [t.path.name for t in traces],
        "clock_uncertainty_ns": None
        if None in uncertain
        else max(u for u in uncertain if u is not None),
    }
    if max(clocks):
        found["clock_offsets_ns"] = [list(a.offsets_ns) for a in alignments]
    if notes:
        found["note"] = "; ".join(notes)
    return found
