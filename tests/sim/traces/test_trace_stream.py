"""Traces read event by event: whole, cut anywhere, damaged, and no traces at all."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kineto_cases import event, kineto_text

import sim.traces.stream
from sim.traces.stream import TraceError, TraceFile, nanoseconds


@given(st.integers(-(10**19), 10**19))
def test_times_keep_every_digit(time_ns: int) -> None:
    """Also where a float of microseconds would not: one in 2026 has steps of 250 ns."""
    sign = "-" if time_ns < 0 else ""
    assert nanoseconds(f"{sign}{abs(time_ns) // 1000}.{abs(time_ns) % 1000:03d}") == time_ns
    assert nanoseconds(time_ns) == time_ns * 1000


def test_times_of_other_forms() -> None:
    assert nanoseconds("12.5") == 12_500
    assert nanoseconds("12.34567") == 12_345
    assert nanoseconds("1.5e3") == 1_500_000
    with pytest.raises(ValueError, match="could not"):
        nanoseconds("soon.")
    with pytest.raises(ValueError, match="too long for a time"):
        nanoseconds("1e400")


EVENTS = [event(f"aten::op{n}", 1000 * n + n, 1000 * n + 900, "cpu_op") for n in range(40)]
TEXT = kineto_text(EVENTS, rank=3, host="node7")


@pytest.mark.parametrize("chunk", [1, 7, 100, 1 << 20])
@pytest.mark.parametrize("packed", [False, True])
def test_events_are_those_of_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, packed: bool
) -> None:
    monkeypatch.setattr(sim.traces.stream, "_CHUNK", chunk)
    path = tmp_path / "t.json"
    path.write_bytes(gzip.compress(TEXT.encode()) if packed else TEXT.encode())
    file = TraceFile(path)
    found = list(file.events())
    whole = json.loads(TEXT, parse_float=str)
    assert found == whole.pop("traceEvents") and file.num_events == len(EVENTS)
    assert file.header == whole and whole["distributedInfo"]["rank"] == 3


def test_a_bare_list_of_events_is_a_trace_too(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps([{"ph": "X", "name": "a"}, {"ph": "M"}]))
    assert [e["ph"] for e in TraceFile(path).events()] == ["X", "M"]


@pytest.mark.parametrize("packed", [False, True])
def test_wherever_a_trace_is_cut_it_is_said_so(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "t.json"
    data = gzip.compress(TEXT.encode()) if packed else TEXT.encode()
    begin = 40 if packed else TEXT.index("traceEvents") + 20
    for end in range(begin, len(data) - 10, 97):
        path.write_bytes(data[:end])
        with pytest.raises(TraceError, match=r"t\.json: ends in the middle, after \d+ events"):
            list(TraceFile(path).events())


def test_damage_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    broken = TEXT.replace('"name": "aten::op20"', '"name" "aten::op20"')
    assert broken != TEXT
    path.write_text(broken)
    with pytest.raises(TraceError, match=r"is no JSON after 20 events, near .*aten::op20"):
        list(TraceFile(path).events())


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a": ' * 100_000, '{"traceEvents": [' + "[" * 100_000, '{"a": ' + "9" * 5000],
)
def test_what_has_no_end_is_damage(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text + ' , "traceEvents": []}')
    with pytest.raises(TraceError, match="is no JSON after 0 events"):
        list(TraceFile(path).events())


@pytest.mark.parametrize("text", ["", "hello", "{}", '{"a": 1}', "name: x\n", '{"traceEvents": 3}'])
def test_other_files_are_no_traces(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(TraceError, match="is no trace: it has no `traceEvents`"):
        list(TraceFile(path).events())


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be read: No such file"):
        list(TraceFile(tmp_path / "none.json").events())
    with pytest.raises(TraceError, match="cannot be read: Is a directory"):
        list(TraceFile(tmp_path).events())
