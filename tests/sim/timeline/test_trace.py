"""Chrome traces: the rules that their readers rely on, held by every kind of program."""

import gzip
import json
from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from scenarios.loader import load
from sim.prediction import predict
from sim.schedule.actions import RECEIVES, SENDS, parse_action
from sim.schedule.generators import one_forward_one_backward
from sim.schedule.lowering import lower
from sim.timeline.spans import LANES, Span, Timeline
from sim.timeline.trace import BESIDE, chrome_trace, rank_of

Events = list[dict[str, Any]]


def read(data: bytes) -> dict[str, Any]:
    document = json.loads(gzip.decompress(data), parse_float=Decimal)
    assert isinstance(document, dict)
    return document


def ns(microseconds: Any) -> int:
    """Exactly, and as Perfetto reads it: a double, cut off at the nanosecond."""
    exactly = int(Decimal(microseconds) * 1000)
    assert int(float(microseconds) * 1000.0) == exactly
    return exactly


def held_to_the_rules(events: Events) -> Mapping[str, int]:
    """Check every event; how many there are of each phase and how many arrows."""
    tracks: dict[tuple[int, int], list[tuple[int, int, int]]] = defaultdict(list)
    named: set[tuple[int, int]] = set()
    flows: dict[int, dict[str, tuple[int, int, int]]] = defaultdict(dict)
    counters: dict[int, list[int]] = defaultdict(list)
    count: dict[str, int] = defaultdict(int)
    for place, event in enumerate(events):
        count[event["ph"]] += 1
        assert isinstance(event["pid"], int) and event["pid"] > 0
        if event["ph"] == "X":
            start, duration = ns(event["ts"]), ns(event["dur"])
            assert start >= 0 and duration >= 0
            tracks[event["pid"], event["tid"]].append((start, start + duration, place))
        elif event["ph"] in "sf":
            assert isinstance(event["id"], int) and event["ph"] not in flows[event["id"]]
            assert event["ph"] == "s" or event["bp"] == "e"
            where = (event["pid"], event["tid"], ns(event["ts"]))
            flows[event["id"]][event["ph"]] = where
            # Readers sort by time and keep the file's order: the slice has to stand before.
            assert any(
                start <= where[2] < end and at < place for start, end, at in tracks[where[:2]]
            )
        elif event["ph"] == "C":
            assert all(isinstance(value, int) and value >= 0 for value in event["args"].values())
            counters[event["pid"]].append(ns(event["ts"]))
        else:
            assert event["ph"] == "M"
            if event["name"] == "thread_name":
                named.add((event["pid"], event["tid"]))
                assert event["args"]["name"].removesuffix(BESIDE).rstrip(" +") in LANES
    for slices in tracks.values():
        assert all(a[1] <= b[0] for a, b in pairwise(sorted(slices))), "slices of a track overlap"
    assert named == set(tracks), "a track without a name, or an idle one"
    numbers = [tid for _, tid in named]
    assert len(set(numbers)) == len(numbers) and not {pid for pid, _ in named} & set(numbers)
    assert all(list(f) == ["s", "f"] and f["s"][2] <= f["f"][2] for f in flows.values())
    assert all(a < b for times in counters.values() for a, b in pairwise(times))
    return count


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("local-4rank", ()),
        ("local-4rank", ("plan.p2p=blocking",)),
        ("local-4rank", ("plan.p2p=blocking", "cluster.intra_node.latency=0 us")),
        ("local-interleaved", ()),
        ("local-interleaved", ("plan.p2p=blocking",)),
        ("local-terapipe:uniform", ()),
        ("local-dp2-pp2", ("plan.gradient_reduction=overlapped",)),
        ("local-tp2-pp2-dp2", ()),
    ],
)
def test_the_formats_rules_hold(name: str, overrides: tuple[str, ...]) -> None:
    found = predict(load(name, overrides).scenario)
    sizes = found.costs.transfer
    data = chrome_trace(
        found.timeline,
        found.memory or (),
        program=found.program,
        payload_bytes=lambda send: sizes(send).payload_bytes,
        metadata={"scenario": name},
    )
    document = read(data)
    assert document["otherData"] == {"tool": "pipetwin", "origin": "simulated", "scenario": name}
    events = document["traceEvents"]
    count = held_to_the_rules(events)
    spans = found.timeline.spans
    messages = {s.action for s in spans if s.action.kind in SENDS}
    assert count["X"] == len(spans)
    assert count["s"] == count["f"] == len(messages) > 0
    assert count["C"] == sum(len(curve.times_ns) for curve in found.memory or ())
    for event in events:
        if event["ph"] == "X":
            action = parse_action(event["name"])
            if action.kind in SENDS or action.kind in RECEIVES:
                assert event["args"]["bytes"] > 0
            if action.microbatch is not None and "microbatch" in event["args"]:
                told = event["args"]
                assert (told["stage"], told["microbatch"], told["slice"]) == action[1:4]


def test_spans_tell_their_parts_and_what_they_waited_for() -> None:
    found = predict(load("local-4rank").scenario)
    events = read(chrome_trace(found.timeline, program=found.program))["traceEvents"]
    slices = [e for e in events if e["ph"] == "X"]
    for event in slices:
        if event["name"] == "2F0":
            parts = sum(event["args"]["parts_ms"].values())
            assert abs(parts * 1000 - event["dur"]) < Decimal("0.01")
    last = [e for e in slices if rank_of(e["pid"]) == 3 and "waited_for" in e["args"]]
    assert last[0]["args"]["waited_for"] == "3RECV_F0"
    arrival = found.timeline.arrivals[3, parse_action("3RECV_F0")]
    assert last[0]["args"]["waited_ms"] * 10**6 == arrival.end_ns
    # Waits and work fill a rank's compute lane up to its last span.
    for rank, spans in enumerate(found.timeline.compute):
        busy = sum(s.duration_ns for s in spans)
        waited = sum(
            ns(e["args"].get("waited_ms", 0) * 1000) for e in slices if rank_of(e["pid"]) == rank
        )
        assert busy + waited == spans[-1].end_ns


def test_messages_without_a_time_of_their_own_are_arrows_between_what_takes_time() -> None:
    """A measured message that was there before anyone waited, and lanes of compute alone."""
    program = lower(one_forward_one_backward(2, 1))
    text = {
        "0F0": (0, 0, 10),
        "0SEND_F0": (0, 10, 12),
        "1RECV_F0": (1, 20, 20),
        "1F0": (1, 20, 30),
        "1B0": (1, 30, 40),
        "1SEND_B0": (1, 40, 41),
        "0RECV_B0": (0, 41, 43),
        "0B0": (0, 43, 50),
    }
    spans = [
        Span(rank, "compute", parse_action(a), start * 1001, end * 1001)
        for a, (rank, start, end) in text.items()
    ]
    spans += [
        Span(rank, "forward", parse_action(a), 20_020, 20_020)
        for rank, a in ((0, "0SEND_F0"), (1, "1RECV_F0"))
    ]
    timeline = Timeline(origin="measured", num_ranks=2, spans=tuple(spans))
    events = read(chrome_trace(timeline, program=program))["traceEvents"]
    assert held_to_the_rules(events)["s"] == 2
    ends = [(e["ph"], rank_of(e["pid"]), ns(e["ts"])) for e in events if e["ph"] in "sf"]
    assert ends == [("s", 0, 10_010), ("f", 1, 30_029), ("s", 1, 40_040), ("f", 0, 43_042)]


def test_what_overlaps_in_a_lane_has_a_track_beside_it() -> None:
    overlapping = tuple(
        Span(0, "forward", parse_action(a), start, end)
        for a, start, end in (("0SEND_F0", 0, 10), ("0SEND_F1", 5, 15), ("0SEND_F2", 10, 20))
    )
    timeline = Timeline(origin="simulated", num_ranks=1, spans=overlapping)
    events = read(chrome_trace(timeline))["traceEvents"]
    held_to_the_rules(events)
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names == {1001: "forward", 1002: "forward +"}
    assert [e["tid"] for e in events if e["ph"] == "X"] == [1001, 1002, 1001]


def test_long_times_keep_every_nanosecond() -> None:
    late = 86_400 * 10**9 + 123_456_789  # a day
    span = Span(0, "compute", parse_action("0F0"), late, late + 1)
    data = chrome_trace(Timeline(origin="measured", num_ranks=1, spans=(span,)))
    (event,) = [e for e in read(data)["traceEvents"] if e["ph"] == "X"]
    assert (ns(event["ts"]), ns(event["dur"])) == (late, 1)
