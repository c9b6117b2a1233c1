"""Figures, critical path, memory curve and trace of timelines small enough to check by hand."""

import gzip
import json
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.cost.costs import Cost, CostKey, CostTable, Transfer
from sim.engine.simpy_engine import simulate
from sim.schedule.actions import Action, Kind, parse_action
from sim.schedule.generators import gpipe, one_forward_one_backward
from sim.schedule.lowering import Flush, Mode, lower
from sim.timeline.critical_path import critical_path
from sim.timeline.figures import figures
from sim.timeline.memory import memory_curves
from sim.timeline.spans import Span, Timeline
from sim.timeline.trace import chrome_trace


def costs(times: Mapping[str, int], occupancy: int = 0, latency: int = 0) -> CostTable:
    """Costs by `F0` (kind and stage), and one transfer for every message."""
    stages = {int(name[-1]) for name in times}
    return CostTable(
        costs={
            CostKey(Kind(name[:-1]), int(name[-1])): Cost(duration_ns=t, parts={"given": t})
            for name, t in times.items()
        },
        transfers={
            CostKey(kind, stage): Transfer(
                occupancy_ns=occupancy, latency_ns=latency, resources=(stage,), payload_bytes=0
            )
            for stage in stages
            for kind in (Kind.SEND_FORWARD, Kind.SEND_BACKWARD)
        },
    )


def test_gaps_are_divided_between_communication_and_bubble() -> None:
    program = lower(gpipe(2, 1), "overlapped", Flush(norm=True))
    table = costs({"F0": 10, "B0": 20, "F1": 10, "B1": 20, "NORM0": 3, "NORM1": 3}, latency=4)
    timeline = simulate(program, table)
    found = figures(timeline, program)
    # rank 0: F 0-10, waits 10-48 of which the gradient travels 44-48, B 48-68, NORM 68-71
    first, second = found.ranks
    assert (first.busy_ns, first.exposed_ns, first.bubble_ns) == (30, 4 + 3, 34)
    assert first.breakdown_ns == {
        "forward": 10,
        "backward": 20,
        "bubble": 34,
        "point_to_point": 4,
        "gradient_norm": 3,
    }
    # rank 1: waits 0-14 of which the activation travels 10-14, F 14-24, B 24-44, NORM 68-71
    assert (second.busy_ns, second.exposed_ns, second.bubble_ns) == (30, 4 + 3, 10 + 24)
    assert found.iteration_ns == 71
    assert found.bubble_fraction == pytest.approx((34 + 34) / 142)
    assert found.span_bubble_fraction == pytest.approx(1 - 30 / 68)


def test_the_critical_path_of_two_stages() -> None:
    program = lower(one_forward_one_backward(2, 2))
    table = costs({"F0": 10, "B0": 20, "F1": 15, "B1": 20}, occupancy=3, latency=1)
    path = critical_path(simulate(program, table), program)
    assert [str(s.action) for s in path.spans if s.lane == "compute"] == [
        "0F0",
        "1F0",
        "1B0",
        "1F1",
        "1B1",
        "0B1",
    ]
    assert path.queued_ns == 0
    assert path.time_by_kind() == {"forward": 40, "backward": 60, "transfer": 8}
    counts = path.composition()
    assert all(counts["compute", Action(Kind.FORWARD, 1, i)] == 1 for i in range(2))
    assert sum(counts.values()) == len(path.spans)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 8),
    st.lists(st.integers(1, 1000), min_size=10, max_size=10),
    st.integers(0, 300),
    st.sampled_from(["overlapped", "blocking"]),
)
def test_the_critical_path_is_as_long_as_the_iteration(
    p: int, m: int, times: list[int], c: int, mode: Mode
) -> None:
    """Each span on it starts where the one before ended, or after a wait for a busy link."""
    program = lower(one_forward_one_backward(p, m), mode)
    named = {f"F{s}": times[2 * s] for s in range(p)} | {
        f"B{s}": times[2 * s + 1] for s in range(p)
    }
    timeline = simulate(program, costs(named, occupancy=c // 2, latency=c - c // 2))
    path = critical_path(timeline, program)
    assert path.spans[0].start_ns == 0
    assert path.spans[-1].end_ns == timeline.iteration_ns
    assert all(a.end_ns <= b.start_ns for a, b in zip(path.spans, path.spans[1:], strict=False))
    total = sum(s.duration_ns for s in path.spans) + path.queued_ns
    assert total == timeline.iteration_ns
    if c == 0:
        assert path.queued_ns == 0


class Sizes:
    """Activations of 7 bytes, 3 bytes of work in a backward pass, 100 static."""

    def static_bytes(self, rank: int) -> Mapping[str, int]:
        return {"parameters": 60, "optimizer": 40}

    def taken_bytes(self, action: Action) -> int:
        return 7 if action.kind is Kind.FORWARD else 0

    def freed_bytes(self, action: Action) -> int:
        return 7 if action.kind is Kind.BACKWARD else 0

    def working_bytes(self, stage: int, kind: Kind, microbatch: int | None = None) -> int:
        return 3 if kind is Kind.BACKWARD else 0


@given(st.integers(1, 6), st.integers(1, 12))
def test_memory_peaks_at_the_microbatches_in_flight(p: int, m: int) -> None:
    """m for GPipe, min(m, p - r) for 1F1B, with free messages."""
    times = {f"{kind}{s}": 10 for s in range(p) for kind in "FB"}
    for schedule, in_flight in (
        (gpipe(p, m), [m] * p),
        (one_forward_one_backward(p, m), [min(m, p - r) for r in range(p)]),
    ):
        curves = memory_curves(simulate(lower(schedule), costs(times)), Sizes())
        assert [c.peak_bytes for c in curves] == [100 + 3 + 7 * n for n in in_flight]
        assert all(c.bytes_held[-1] == 100 for c in curves)


def test_the_trace_opens_as_chrome_json() -> None:
    program = lower(one_forward_one_backward(2, 3))
    timeline = simulate(
        program, costs({"F0": 1000, "B0": 2000, "F1": 1000, "B1": 2000}, occupancy=500)
    )
    data = json.loads(gzip.decompress(chrome_trace(timeline, memory_curves(timeline, Sizes()))))
    events = data["traceEvents"]
    spans = [e for e in events if e["ph"] == "X"]
    assert len(spans) == len(timeline.spans)
    assert {"pid": 1000, "tid": 1001, "ts": 0.0, "dur": 1.0}.items() <= spans[0].items()
    starts = {e["id"] for e in events if e["ph"] == "s"}
    assert starts == {e["id"] for e in events if e["ph"] == "f"} and len(starts) == 6
    assert {e["args"]["name"] for e in events if e["name"] == "process_name"} == {
        "rank 0 (simulated)",
        "rank 1 (simulated)",
    }
    assert any(e["ph"] == "C" for e in events)


def test_timelines_travel_as_json() -> None:
    timeline = Timeline(
        origin="measured",
        num_ranks=2,
        spans=(Span(1, "compute", parse_action("1F0"), 5, 9),),
        metadata={"a": 1},
    )
    again = Timeline.from_json(json.loads(json.dumps(timeline.to_json())))
    assert again == timeline and again.iteration_ns == 4
    for broken in (
        {},
        {**timeline.to_json(), "origin": "made up"},
        {**timeline.to_json(), "spans": [[0, "compute", "nonsense", 0, 1]]},
        {**timeline.to_json(), "spans": [[9, "compute", "1F0", 0, 1]]},
    ):
        with pytest.raises(ValueError, match="not a timeline"):
            Timeline.from_json(broken)
