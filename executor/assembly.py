"""From what every rank gave back to measurements, and to whole gradients and weights.

A measurement is that of one pipeline: of the ranks with data and tensor index 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from torch import Tensor

from executor.interpreter import IterationRecord, Record
from executor.mesh import Mesh, Place
from executor.pinning import DISTURBED
from executor.session import Assignment, RankResult
from executor.shards import split_dimension, unshard
from scenarios.schema import Scenario
from sim.measurement import Measurement
from sim.schedule.actions import RECEIVES, SENDS, Action, Kind, parse_action
from sim.schedule.build import build_program
from sim.schedule.lowering import Program, partner, peer
from sim.timeline.spans import Lane, Span, Timeline


def assemble(
    assignment: Assignment, results: Sequence[RankResult], environment: Mapping[str, object]
) -> tuple[Measurement, ...]:
    """One measurement per visit that finished an iteration, from what all ranks recorded.

    results: by world rank. Times are those of data and tensor index 0; an iteration is disturbed
    where any rank was; losses are averaged over the replicas.
    """
    measurements = []
    for v, visit in enumerate(assignment.visits[: len(results[0].visits)]):
        if not results[0].visits[v]:
            continue
        scenario = assignment.scenarios[visit.job]
        program, mesh = build_program(scenario), Mesh.of(scenario.plan)
        timelines, disturbed, losses = [], [], []
        for n in range(len(results[0].visits[v])):
            records = [r.visits[v][n] for r in results]
            line = mesh.along(mesh.ranks[Place(0, 0, 0)], "pipeline")
            timelines.append(timeline_of(program, [records[rank] for rank in line]))
            disturbed.append(any((r.foreign or 0.0) > DISTURBED for r in records))
            # The ranks of a tensor group have all the same loss.
            found = [r.loss for r in records if r.loss is not None]
            losses.append(sum(found) / len(found))
        measurements.append(
            Measurement(
                scenario=scenario,
                timelines=tuple(timelines),
                disturbed=tuple(disturbed),
                losses=tuple(losses),
                peak_memory_bytes=_peaks(mesh, [r.peak_memory[visit.job] for r in results]),
                environment=environment,
            )
        )
    return tuple(measurements)


def _peaks(mesh: Mesh, by_rank: Sequence[int | None]) -> tuple[int | None, ...]:
    """By pipeline rank, the largest of its copies' that are known."""
    found = []
    for rank in mesh.along(mesh.ranks[Place(0, 0, 0)], "pipeline"):
        known = [by_rank[copy] for copy in mesh.along(rank, "data", "tensor")]
        found.append(max((peak for peak in known if peak is not None), default=None))
    return tuple(found)


def whole_tensors(
    scenario: Scenario, by_rank: Sequence[Mapping[str, Tensor]]
) -> dict[str, list[Tensor]]:
    """Every copy of each parameter (or gradient) by name, put together from its tensor group's.

    by_rank: what each world rank holds. A copy is that of one replica and one stage; of what every
    rank of a tensor group holds whole, that of each rank.
    """
    assert scenario.model is not None
    found: dict[str, list[Tensor]] = {}
    for group in Mesh.of(scenario.plan).families("tensor"):
        for name in by_rank[group[0]]:
            shares = [by_rank[rank][name] for rank in group]
            if len(shares) > 1 and split_dimension(name, scenario.model) is not None:
                shares = [unshard(shares, name, scenario.model)]
            found.setdefault(name, []).extend(shares)
    return found


def timeline_of(program: Program, ranks: Sequence[IterationRecord]) -> Timeline:
    """One iteration's timeline from every rank's record, from time 0.

    A message is on its way from when its sender had written it (or had posted it, where the
    carrier does not tell) until its receiver had it; one that was there before anyone waited is
    given no time.
    """
    begin = min(r.start_ns for rank in ranks for r in rank.records if r.start_ns is not None)
    posted: dict[Action, int] = {}
    spans: list[Span] = []
    arrivals: list[tuple[int, Record, Action]] = []
    for rank, iteration in enumerate(ranks):
        for record in iteration.records:
            action = parse_action(record.action)
            lane: Lane = record.lane  # type: ignore[assignment]
            if lane in ("forward", "backward"):
                arrivals.append((rank, record, action))
                continue
            assert record.start_ns is not None and record.end_ns is not None
            if action.kind in SENDS:
                posted[action] = record.end_ns
            spans.append(Span(rank, lane, action, record.start_ns - begin, record.end_ns - begin))
    for step in itertools.chain(*program.steps):
        batch = [message for message in step if message.kind in SENDS]
        for message in batch[1:]:
            posted[message] = posted[batch[0]]  # They were posted together, and recorded as one.
    for rank, record, action in arrivals:
        assert action.kind in RECEIVES
        send = partner(action)
        start = record.start_ns if record.start_ns is not None else posted[send]
        end = max(start, record.end_ns if record.end_ns is not None else start)
        lane = "forward" if action.kind is Kind.RECV_FORWARD else "backward"
        spans.append(Span(rank, lane, action, start - begin, end - begin))
        spans.append(Span(peer(action, program.schedule), lane, send, start - begin, end - begin))
    return Timeline(origin="measured", num_ranks=len(ranks), spans=tuple(spans))
