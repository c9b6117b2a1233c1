"""Traces that `--trace` wrote of a measured run, read back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from scenarios.schema import Scenario
from sim.measurement import Measurement
from sim.schedule.actions import COMPUTE, parse_action
from sim.schedule.build import build_program
from sim.timeline.spans import LANES, Lane, Span, Timeline
from sim.timeline.trace import BESIDE, rank_of
from sim.traces.stream import TraceError, TraceFile, nanoseconds


def is_own(path: Path) -> bool:
    """Whether a file begins as our traces do, which tell their tool before the first event."""
    file = TraceFile(path)
    next(file.events(), None)
    other = file.header.get("otherData")
    return isinstance(other, dict) and other.get("tool") == "pipetwin"


def read_own(path: Path) -> tuple[Timeline, dict[str, object]]:
    """The timeline of a trace of ours, and what it tells of itself.

    Raises TraceError where the file is damaged, or none of ours.
    """
    file = TraceFile(path)
    lanes: dict[tuple[int, int], Lane] = {}
    found: list[tuple[int, int, str, int, int]] = []
    ranks = 0
    try:
        for event in file.events():
            if event["ph"] == "M" and event["name"] == "thread_name":
                name = str(event["args"]["name"])
                lane = next(lane for lane in LANES if name.rstrip(BESIDE) == lane)
                lanes[event["pid"], event["tid"]] = lane
            elif event["ph"] == "M":
                ranks = max(ranks, rank_of(event["pid"]) + 1)
            elif event["ph"] == "X":
                start = nanoseconds(event["ts"])
                end = start + nanoseconds(event["dur"])
                found.append((event["pid"], event["tid"], event["name"], start, end))
        spans = tuple(
            Span(rank_of(process), lanes[process, track], parse_action(name), start, end)
            for process, track, name, start, end in found
        )
    except (KeyError, TypeError, StopIteration, ValueError, AttributeError) as error:
        raise TraceError(f"{path}: is damaged, or was changed: {error!r}") from error
    other = file.header["otherData"]
    return (
        Timeline(origin=other.get("origin"), num_ranks=ranks, spans=spans, metadata={}),
        other,
    )


def import_own(scenario: Scenario, paths: Sequence[Path]) -> Measurement:
    """A measurement of the iterations that our own traces hold, one a file.

    Raises TraceError for a trace of another scenario, or of a simulation.
    """
    timelines = []
    for path in paths:
        timeline, other = read_own(path)
        if timeline.origin != "measured":
            raise TraceError(
                f"{path}: is of a simulation, which is no measurement: give traces of "
                "torch.profiler, or of `pipetwin run --trace`"
            )
        if other.get("digest") != scenario.digest:
            raise TraceError(
                f"{path}: is of {other.get('scenario')} with other settings than {scenario.name} "
                "has now: give that scenario with the same --set"
            )
        program = build_program(scenario)
        if timeline.num_ranks != program.num_ranks:
            raise TraceError(f"{path}: is damaged: it has {timeline.num_ranks} ranks")
        ran = Counter(s.action for s in timeline.spans if s.action.kind in COMPUTE)
        if ran != Counter(chain(*program.schedule.orders)):
            raise TraceError(f"{path}: is damaged: it has not every pass once")
        if any(s.end_ns < s.start_ns or s.rank < 0 for s in timeline.spans):
            raise TraceError(f"{path}: is damaged: it has a span of no rank, or of negative time")
        timelines.append(timeline)
    return Measurement(
        scenario=scenario,
        timelines=tuple(timelines),
        disturbed=(False,) * len(timelines),
        environment={
            "transport": "traces of pipetwin",
            "traces": [path.name for path in paths],
        },
    )
