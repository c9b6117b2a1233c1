"""Traces of every rank put together: exact where they hold everything, told where they do not."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kineto_cases import event, rank_events, write_traces

from scenarios.loader import load
from scenarios.schema import Scenario
from sim.comparison import compare, structural_error
from sim.measurement import read_measurement, write_measurement
from sim.prediction import Prediction, predict
from sim.schedule.actions import COMPUTE, Action, Kind
from sim.timeline.spans import Timeline
from sim.traces.clocks import Sent, align
from sim.traces.importing import Imported, import_traces
from sim.traces.stream import TraceError

AN_HOUR_NS = 3_600 * 10**9
UNPACKING_NS = 20_000
"""What the host's exchange of a message takes at most in these scenarios."""
Events = list[list[dict[str, Any]]]


def predicted(name: str = "local-2rank", *overrides: str) -> Prediction:
    return predict(load(name, overrides).scenario)


def events_of(timeline: Timeline, **fields: Any) -> Events:
    ranks = range(timeline.num_ranks)
    return [rank_events(timeline, rank, shift_ns=AN_HOUR_NS, **fields) for rank in ranks]


def imported(scenario: Scenario, folder: Path, events: Events, **fields: Any) -> Imported:
    return import_traces(scenario, write_traces(folder, events, **fields))


def passes(timeline: Timeline) -> dict[Action, tuple[int, int]]:
    spans = (s for s in timeline.spans if s.lane == "compute" and s.action.kind in COMPUTE)
    return {s.action: (s.start_ns, s.end_ns) for s in spans}


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("local-4rank", ()),
        ("local-interleaved", ()),
        ("local-2rank", ("plan.schedule=gpipe",)),
        ("local-terapipe:uniform", ()),
        ("local-4rank", ("plan.clip_gradients=true",)),
        ("local-dp2-pp2", ("plan.gradient_reduction=overlapped",)),
        ("local-4rank", ("plan.p2p=blocking",)),
    ],
)
def test_an_iteration_comes_back_from_its_annotations(
    name: str, overrides: tuple[str, ...], tmp_path: Path
) -> None:
    """Each pass's end to the nanosecond; its begin but for what unpacking its message took, which
    has no annotation; and with the same waits, so that replaying gives the same time."""
    found = predicted(name, *overrides)
    result = imported(found.scenario, tmp_path, events_of(found.timeline))
    timeline = result.measurement.typical
    assert result.notes == () and timeline.origin == "measured"
    assert timeline.iteration_ns == found.timeline.iteration_ns
    before, after = passes(found.timeline), passes(timeline)
    assert before.keys() == after.keys()
    for action, (start, end) in after.items():
        assert before[action][1] == end
        assert 0 <= before[action][0] - start <= UNPACKING_NS, action
    tolerance = 0.001 if found.program.mode == "blocking" else 0.0
    assert structural_error(result.measurement, found.program) == pytest.approx(0, abs=tolerance)
    compared = compare(found, result.measurement)
    assert compared.num_iterations == 1 and compared.measured_spread == 0


def test_a_measurement_of_traces_is_one_like_any_other(tmp_path: Path) -> None:
    found = predicted()
    result = imported(found.scenario, tmp_path, events_of(found.timeline))
    path = tmp_path / "m.json"
    write_measurement(result.measurement, path)
    again = read_measurement(path)
    assert again.timelines == result.measurement.timelines
    assert again.environment["traces"] == ["rank0.json.gz", "rank1.json.gz"]
    assert again.environment["times"] == "host"
    assert again.environment["clock_uncertainty_ns"] == 0


@pytest.mark.parametrize("packed", [False, True])
def test_the_profilers_steps_are_iterations(tmp_path: Path, packed: bool) -> None:
    found = predicted()
    events: Events = [[], []]
    for step in range(3):
        for rank in range(2):
            shift = AN_HOUR_NS + step * 2 * found.timeline.iteration_ns
            events[rank] += rank_events(found.timeline, rank, shift_ns=shift, step=step + 7)
    result = imported(found.scenario, tmp_path, events, packed=packed)
    assert result.steps == (7, 8, 9)
    assert len({t.spans for t in result.measurement.timelines}) == 1
    # Without them a new one begins where a pass is there again.
    bare = [[e for e in own if "Step#" not in e["name"]] for own in events]
    again = imported(found.scenario, tmp_path, bare)
    assert again.steps == (0, 1, 2)
    assert [t.spans for t in again.measurement.timelines] == [
        t.spans for t in result.measurement.timelines
    ]


def test_an_iteration_that_is_not_whole_is_left_out_and_told(tmp_path: Path) -> None:
    found = predicted()
    events: Events = [[], []]
    for step in range(3):
        for rank in range(2):
            shift = AN_HOUR_NS + step * 2 * found.timeline.iteration_ns
            own = rank_events(found.timeline, rank, shift_ns=shift, step=step)
            events[rank] += [e for e in own if (step, rank, e["name"]) != (2, 1, "pipetwin:1B5")]
    result = imported(found.scenario, tmp_path, events)
    assert result.steps == (0, 1)
    (note,) = result.notes
    assert "1 of 3 iterations are left out" in note and "iteration 2 has no 1B5 (of rank 1)" in note


# Which trace is whose


def test_ranks_are_told_by_the_traces_else_by_their_order_else_by_the_user(tmp_path: Path) -> None:
    found = predicted()
    paths = write_traces(tmp_path, events_of(found.timeline))
    swapped = import_traces(found.scenario, paths[::-1])
    assert [t.path for t in swapped.traces] == paths
    silent = [Path(str(p) + ".plain.json") for p in paths]
    for path, own in zip(silent, events_of(found.timeline), strict=True):
        path.write_text(_without_header(own))
    assert [t.path for t in import_traces(found.scenario, silent).traces] == silent
    with pytest.raises(TraceError, match="taken for rank 0, which has stages 0, but its passes"):
        import_traces(found.scenario, silent[::-1])
    again = import_traces(found.scenario, silent[::-1], ranks=[1, 0])
    assert [t.path for t in again.traces] == silent


def _without_header(events: list[dict[str, Any]]) -> str:
    return json.dumps([{**e, "ts": e["ts"] / 1000, "dur": e["dur"] / 1000} for e in events])


# Waiting


def test_gaps_are_waiting_where_a_message_is_needed(tmp_path: Path) -> None:
    """Hand-made: rank 1's first pass begins when its message came; its second one's was there."""
    scenario = load("local-2rank", ["plan.microbatches=2", "plan.schedule=gpipe"]).scenario
    ms = 1_000_000

    def rank(stage: int, *times: tuple[str, int, int]) -> list[dict[str, Any]]:
        found = []
        for name, start, end in times:
            found.append(event(f"pipetwin:{stage}{name}", start * ms, end * ms))
            found.append(event("aten::mm", start * ms, end * ms, "cpu_op"))
        return found

    first = rank(0, ("F0", 0, 10), ("F1", 10, 20), ("B0", 90, 110), ("B1", 112, 130))
    second = rank(1, ("F0", 12, 32), ("F1", 32, 52), ("B0", 55, 85), ("B1", 85, 105))
    # Computing that nobody named, right after 1F1: its loss. And some before 0B1.
    second.append(event("aten::nll_loss", 52 * ms, 55 * ms - 50_000, "cpu_op"))
    first.append(event("aten::cat", 111 * ms, 112 * ms, "cpu_op"))
    result = imported(scenario, tmp_path, [first, second])
    spans = {(s.lane, str(s.action)): s for s in result.measurement.typical.spans}
    assert spans["compute", "1F1"].end_ns == 55 * ms - 50_000
    assert spans["compute", "1B0"].start_ns == 55 * ms - 50_000
    assert spans["compute", "0B1"].start_ns == 111 * ms
    transfer = {str(s.action): s[3:] for k, s in spans.items() if k[0] != "compute"}
    assert transfer["1RECV_F0"] == transfer["0SEND_F0"] == (10 * ms, 12 * ms)
    assert transfer["1RECV_F1"] == (20 * ms, 20 * ms)  # It was there: no time is known.
    assert transfer["0RECV_B0"] == (85 * ms, 90 * ms)
    assert transfer["0RECV_B1"] == (105 * ms, 111 * ms)
    assert any("no optimizer step" in note for note in result.notes)


def test_what_torch_names_holds_the_waiting_and_is_freed_of_it(tmp_path: Path) -> None:
    """`PP:1F0` begins before its message came; the carrier, else the first operator, tells when."""
    scenario = load("local-2rank", ["plan.microbatches=1"]).scenario
    ms = 1_000_000
    first = [
        event("PP:0UNSHARD", 0, 1000),
        event("PP:0F0", 1 * ms, 11 * ms),
        event("aten::mm", 1 * ms, 11 * ms, "cpu_op"),
        event("PP:0SEND_F0", 11 * ms, 12 * ms),
        event("c10d::send", 11 * ms, 12 * ms, "cpu_op"),
        event("PP:0B0", 12 * ms, 60 * ms),
        event("aten::mm", 41 * ms, 60 * ms, "cpu_op"),
        event("Optimizer.step#AdamW.step", 60 * ms, 66 * ms),
    ]
    second = [
        event("PP:1RECV_F0", 0, 1000),
        event("gloo:recv", 500, 14 * ms),
        event("PP:1F0", 1 * ms, 24 * ms),
        event("aten::mm", 14 * ms + 300_000, 24 * ms, "cpu_op"),
        event("PP:1B0", 24 * ms, 39 * ms),
        event("aten::mm", 24 * ms, 39 * ms, "cpu_op"),
        event("PP:1SEND_B0", 39 * ms, 39 * ms + 500_000),
        event("Optimizer.step#AdamW.step", 40 * ms, 41 * ms),
        event("Optimizer.step#AdamW.step", 41 * ms, 43 * ms),
    ]
    timeline = imported(scenario, tmp_path, [first, second]).measurement.typical
    spans = {(s.lane, str(s.action)): (s.start_ns / ms, s.end_ns / ms) for s in timeline.spans}
    assert spans["compute", "1F0"] == (13, 23)  # From when the carrier had it; 0F0 begins at 0.
    assert spans["forward", "1RECV_F0"] == (11, 13)
    assert spans["compute", "0SEND_F0"] == (10, 11)
    assert spans["compute", "0B0"] == (40, 59)
    assert spans["backward", "0RECV_B0"] == (38.5, 40)
    assert spans["compute", "1STEP"] == (38.5, 42)
    assert spans["compute", "0STEP"] == (59, 65)


def test_an_annotation_within_torchs_own_is_taken(tmp_path: Path) -> None:
    """Ours, which holds no waiting, inside of `PP:`; and of two of ours the inner one."""
    found = predicted()
    events = events_of(found.timeline)
    bare = imported(found.scenario, tmp_path, events).measurement.typical
    for own in events:
        for e in [e for e in own if e["name"].startswith("pipetwin:") and "STEP" not in e["name"]]:
            torch = e["name"].replace("pipetwin:", "PP:")
            own.append({**e, "name": torch, "ts": e["ts"] - 300, "dur": e["dur"] + 600})
            own.append({**e, "ts": e["ts"] - 200, "dur": e["dur"] + 400})
    again = imported(found.scenario, tmp_path, events)
    assert again.notes == () and again.measurement.typical.spans == bare.spans


def test_on_a_gpu_a_pass_is_the_time_of_its_kernels(tmp_path: Path) -> None:
    """gpu_user_annotation, by its number; a step of the host's ends before the device's does."""
    scenario = load("local-2rank", ["plan.microbatches=1"]).scenario
    ms = 1_000_000
    events: Events = [[], []]
    times = {
        0: {"0F0": (0, 10), "0B0": (50, 70), "Optimizer.step#Adam.step": (70, 75)},
        1: {"1F0": (12, 22), "1B0": (22, 45), "Optimizer.step#Adam.step": (45, 51)},
    }
    for step in range(2):
        at = step * 80 * ms
        for rank, named in times.items():
            own = events[rank]
            own.append(event(f"ProfilerStep#{step}", at, at + 8 * ms))
            for n, (name, (start, end)) in enumerate(named.items()):
                full = name if "#" in name else f"PP:{name}"
                number: dict[str, Any] = {"args": {"External id": 100 * step + n}}
                device: dict[str, Any] = {"pid": 0, "tid": 7, **number}
                own.append(event(full, at + (n + 1) * ms, at + (n + 2) * ms, **number))
                low, high = at + start * ms, at + end * ms
                own.append(event(full, low, high, "gpu_user_annotation", **device))
                own.append(event("gemm", low, high, "kernel", pid=0, tid=7))
                # Another stream's part of it, which is not when it computes.
                other = {**device, "tid": 20}
                own.append(event(full, low, low + ms, "gpu_user_annotation", **other))
    result = imported(scenario, tmp_path, events)
    assert result.notes == () and result.measurement.environment["times"] == "device"
    assert result.steps == (0, 1)
    for timeline in result.measurement.timelines:
        spans = {(s.lane, str(s.action)): (s.start_ns, s.end_ns) for s in timeline.spans}
        assert spans["compute", "1B0"] == (22 * ms, 45 * ms)
        assert spans["compute", "1STEP"] == (45 * ms, 51 * ms)
        assert spans["backward", "0RECV_B0"] == (45 * ms, 50 * ms)
    # One pass without kernels: the two clocks of host and device are not mixed.
    events[1] = [e for e in events[1] if (e["cat"], e["name"]) != ("gpu_user_annotation", "PP:1F0")]
    result = imported(scenario, tmp_path, events)
    assert "2 of 4 passes have no device time (as 1F0)" in " ".join(result.notes)
    assert result.measurement.environment["times"] == "host"


def test_the_hosts_times_of_a_run_on_gpus_are_told_to_be_that(tmp_path: Path) -> None:
    found = predicted()
    events = events_of(found.timeline)
    begin = events[1][0]["ts"]
    events[1].append(event("nccl:recv 1<-0", begin, begin + 10))
    (note,) = imported(found.scenario, tmp_path, events).notes
    assert note.startswith("rank1.json.gz: messages went by NCCL, and the trace has no device tim")


# Clocks


def test_clocks_of_hosts_are_aligned_by_what_must_be(tmp_path: Path) -> None:
    found = predicted("local-4rank")
    shifts = [AN_HOUR_NS, AN_HOUR_NS, AN_HOUR_NS - 7_654_321, AN_HOUR_NS - 7_654_321]
    events = [rank_events(found.timeline, r, shift_ns=shift) for r, shift in enumerate(shifts)]
    result = imported(found.scenario, tmp_path, events, hosts=["a", "a", "b", "b"])
    (alignment,) = result.alignments
    assert alignment.offsets_ns[:2] == (0, 0) and alignment.offsets_ns[2] == alignment.offsets_ns[3]
    assert alignment.uncertainty_ns is not None
    error = abs(alignment.offsets_ns[2] - 7_654_321)
    # Both directions of the simulated link take as long, so that the middle is the truth.
    assert error <= 1_000 and error <= alignment.uncertainty_ns < 200_000
    assert any("clocks of 2 hosts are aligned" in note for note in result.notes)
    assert abs(result.measurement.iteration_ns - found.timeline.iteration_ns) <= 1_000


def test_unknown_hosts_share_a_clock_unless_that_cannot_be(tmp_path: Path) -> None:
    found = predicted()
    same = imported(found.scenario, tmp_path, events_of(found.timeline), hosts=[None, None])
    assert same.alignments[0].uncertainty_ns == 0 and same.notes == ()
    events = [rank_events(found.timeline, r, shift_ns=AN_HOUR_NS - 10**8 * r) for r in range(2)]
    apart = imported(found.scenario, tmp_path, events, hosts=[None, None])
    assert abs(apart.alignments[0].offsets_ns[1] - 10**8) < 1_000


@settings(max_examples=50)
@given(
    st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=4),
    st.lists(st.integers(0, 10**6), min_size=8, max_size=40),
)
def test_the_true_offsets_are_within_the_uncertainty(later: list[int], delays: list[int]) -> None:
    """Messages both ways between neighbours, each of its own delay."""
    offsets = [0, *later]
    messages = []
    for n, delay in enumerate(delays):
        for a in range(len(offsets) - 1):
            pair = (a, a + 1) if n % 2 else (a + 1, a)
            at = 10**6 * n
            here, there = pair
            messages.append(Sent(here, there, at - offsets[here], at + delay - offsets[there]))
    found = align(messages, range(len(offsets)))
    assert found.uncertainty_ns is not None and found.impossible_ns == 0
    for truth, offset in zip(offsets, found.offsets_ns, strict=True):
        assert abs(truth - offset) <= found.uncertainty_ns + 1
    # Aligned, no message comes before it was sent.
    for here, there, sent, came in messages:
        assert came + found.offsets_ns[there] - sent - found.offsets_ns[here] >= -1


def test_messages_one_way_give_no_uncertainty_and_impossible_ones_are_told() -> None:
    one_way = align([Sent(0, 1, 100, 40), Sent(0, 1, 200, 190)], (0, 1))
    assert one_way.offsets_ns == (0, 60) and one_way.uncertainty_ns is None
    torn = align([Sent(0, 1, 100, 90), Sent(1, 0, 100, 90)], (0, 1))
    assert torn.impossible_ns > 0 and torn.offsets_ns == (0, 0)
    assert align([Sent(0, 1, 100, 90)], (0, 0)).impossible_ns == 10


# What is wrong is told, with what would work


Change = Callable[[Events], None]


def _drop(name: str) -> Change:
    def change(events: Events) -> None:
        for own in events:
            own[:] = [e for e in own if e["name"] != f"pipetwin:{name}"]

    return change


def _rename(old: str, new: str) -> Change:
    def change(events: Events) -> None:
        for e in (e for own in events for e in own if e["name"] == f"pipetwin:{old}"):
            e["name"] = new

    return change


def _again(name: str) -> Change:
    def change(events: Events) -> None:
        for own in events:
            for e in [e for e in own if e["name"] == f"pipetwin:{name}"]:
                step = next(s for s in own if s["name"].startswith("ProfilerStep#"))
                step["dur"] += 10**10
                own.append({**e, "ts": e["ts"] + 10**9})

    return change


def _stretch(name: str) -> Change:
    def change(events: Events) -> None:
        for e in (e for own in events for e in own if e["name"] == f"pipetwin:{name}"):
            e["dur"] += 5_000_000

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_drop("1B3"), r"rank1\.json\.gz: iteration 4 has no 1B3 \(of rank 1\)\. An iteration"),
        (_again("0F2"), r"rank0\.json\.gz: iteration 4: 0F2 stands 2 times, 1000\.000 ms apart"),
        (_stretch("0F2"), r"iteration 4: 0B1 begins \d\.\d+ ms before 0F2 ends"),
        (_rename("0F2", "pipetwin:forward2"), r"as pipetwin:forward2: write stage, kind and micr"),
        (_rename("0F2", "pipetwin:0F"), r"as pipetwin:0F: write stage, kind and microbatch, as `"),
        (_rename("0F2", "pipetwin:7F2"), r"has 7F2, which local-2rank has not: it has 2 stages, "),
        (_rename("0F2", "pipetwin:0F12"), r"8 microbatches, 0 to 7; `--set plan.microbatches=13`"),
        (_rename("0F2", "pipetwin:0I2"), r"its passes are B, F; an order with other ones is given"),
        (_rename("0F2", "pipetwin:0F2.1"), r"its microbatches have 1 slices; see plan\.slices"),
        (_rename("0F2", "PP:(0F2;0B1)OVERLAP_F_B"), r"iteration 4 has no 0F2 \(of rank 0\)"),
    ],
)
def test_wrong_traces_are_told(change: Change, told: str, tmp_path: Path) -> None:
    found = predicted()
    events = events_of(found.timeline, step=4)
    change(events)
    with pytest.raises(TraceError, match=told):
        imported(found.scenario, tmp_path, events)


def _also(**fields: Any) -> Change:
    """One more event, with something in it that no profiler writes."""

    def change(events: Events) -> None:
        events[0].insert(1, event("aten::odd", 0, 1, "cpu_op") | fields)

    return change


@pytest.mark.parametrize(
    "change",
    [
        _also(pid=[1]),
        _also(tid={}),
        _also(cat=[1]),
        _also(name=["pipetwin:0F0"], cat="user_annotation"),
        _also(name="Forward " + "9" * 5000, cat="user_annotation"),
        _also(name="ProfilerStep#" + "9" * 5000, cat="user_annotation"),
        _also(name="PP:" + "9" * 5000 + "F0", cat="user_annotation"),
    ],
)
def test_odd_events_are_passed_over(change: Change, tmp_path: Path) -> None:
    found = predicted()
    events = events_of(found.timeline, step=4)
    change(events)
    result = imported(found.scenario, tmp_path, events)
    assert abs(result.measurement.iteration_ns - found.timeline.iteration_ns) <= 1_000


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_also(ts=10**30), "event 'aten::odd' has no time"),
        (_also(dur=10**30), "event 'aten::odd' has no time"),
        (_rename("0F2", "pipetwin:" + "9" * 5000 + "F2"), "1 names are no actions, as pipetwin:9"),
    ],
)
def test_numbers_beyond_all_measure_are_told(change: Change, told: str, tmp_path: Path) -> None:
    found = predicted()
    events = events_of(found.timeline, step=4)
    change(events)
    with pytest.raises(TraceError, match=told):
        imported(found.scenario, tmp_path, events)


def test_hosts_of_one_name_whose_clocks_cannot_be_one_are_aligned(tmp_path: Path) -> None:
    """Containers are often all called alike."""
    found = predicted()
    events = [rank_events(found.timeline, r, shift_ns=AN_HOUR_NS * r) for r in range(2)]
    apart = imported(found.scenario, tmp_path, events, hosts=["localhost", "localhost"])
    assert abs(apart.alignments[0].offsets_ns[1] + AN_HOUR_NS) < 1_000
    assert abs(apart.measurement.iteration_ns - found.timeline.iteration_ns) <= 1_000
    assert any("clocks of 2 hosts are aligned" in note for note in apart.notes)


def test_traces_without_annotations_are_told(tmp_path: Path) -> None:
    scenario = load("local-2rank").scenario
    events = [[event("aten::mm", 0, 10, "cpu_op"), event("Optimizer.step#SGD.step", 20, 30)]] * 2
    with pytest.raises(TraceError, match=r"no annotation is a pass.*record_function\(.pipetwin:"):
        imported(scenario, tmp_path, events)


def test_the_number_of_traces_and_their_ranks_are_checked(tmp_path: Path) -> None:
    found = predicted()
    paths = write_traces(tmp_path, events_of(found.timeline))
    for wrong, ranks, told in (
        (paths[:1], None, r"has 2 pipeline ranks, and 1 traces are given.*plan\.pipeline=1"),
        ([paths[0], paths[0]], None, "a trace is given twice"),
        (paths, [0, 2], r"--ranks 0,2: give each of the pipeline's ranks once.*as 0,1"),
    ):
        with pytest.raises(TraceError, match=told):
            import_traces(found.scenario, wrong, ranks)
    twin = tmp_path / "twin.json.gz"
    twin.write_bytes(paths[0].read_bytes())
    with pytest.raises(TraceError, match="say that both are of rank 0"):
        import_traces(found.scenario, [paths[0], twin])
    replicated = load("local-dp2-pp2").scenario
    with pytest.raises(TraceError, match="of the 2 pipelines and tensor ranks beside each other"):
        import_traces(replicated, [*paths, twin])


def test_another_order_of_passes_is_told(tmp_path: Path) -> None:
    found = predicted("local-2rank", "plan.schedule=gpipe")
    scenario = load("local-2rank").scenario
    result = imported(scenario, tmp_path, events_of(found.timeline))
    assert any("rank 0 ran 0F2 where" in n and "schedule_file" in n for n in result.notes)


def test_time_without_a_name_before_the_step_is_the_flushs(tmp_path: Path) -> None:
    """A gradient norm that nobody annotated, and so is told."""
    found = predicted("local-4rank", "plan.clip_gradients=true")
    events = events_of(found.timeline)
    for own in events:
        own[:] = [e for e in own if "NORM" not in e["name"]]
    result = imported(found.scenario, tmp_path, events)
    assert any(note.startswith(("0NORM", "1NORM", "2NORM", "3NORM")) for note in result.notes)
    kinds = Counter(s.action.kind for s in result.measurement.typical.spans)
    assert kinds[Kind.GRADIENT_NORM] > 0 and kinds[Kind.OPTIMIZER] == 4
    assert result.measurement.iteration_ns == found.timeline.iteration_ns
