"""Files of results: whole lines or none, whoever else writes, whatever was cut."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from sim.sweeps.results import ResultsFile
from sim.sweeps.space import SweepError


def line(number: int, size: int = 0) -> str:
    record = {"key": str(number), "sweep": "one", "pad": "x" * size}
    return json.dumps(record, separators=(",", ":")) + "\n"


def append(file: ResultsFile, *lines: str) -> list[int]:
    """Append lines; the numbers that others have appended since."""
    found = file.append({str(json.loads(text)["key"]): text for text in lines})
    return [int(record["key"]) for _, record in found]


def numbers(path: Path) -> list[int]:
    with ResultsFile(path) as file:
        return [int(record["key"]) for _, record in file.records()]


def test_appended_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with ResultsFile(path) as file:
        assert list(file.records()) == []
        append(file, line(1), line(2, 100_000))
        append(file)
        append(file, line(3))
    assert numbers(path) == [1, 2, 3]
    assert path.read_text() == line(1) + line(2, 100_000) + line(3)


@pytest.mark.parametrize("size", [0, 200_000])
def test_a_torn_line_is_cut_off_wherever_it_was_torn(tmp_path: Path, size: int) -> None:
    path, last = tmp_path / "r.jsonl", line(2, size)
    cuts = range(1, len(last)) if size == 0 else (1, 8, 9, 70_000, len(last) - 1)
    for cut in cuts:
        for first in ("", line(1)):
            path.write_text(first + last[:cut])
            assert numbers(path) == ([1] if first else [])
            assert path.read_text() == first


def test_whoever_appends_next_cuts_off_what_another_left_torn(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with ResultsFile(path) as one:
        append(one, line(1))
        with path.open("a") as other:
            other.write(line(2)[:5])
        append(one, line(3))
    assert numbers(path) == [1, 3]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("# Read me\n", ":1"),
        ("no newline", ""),
        ('{"key":"of something else"}', ""),
        ('{"key":', ""),
        ('# Read me\n{"key":"1', ""),
        (line(1) + "torn{\n" + line(2), ":2"),
        (line(1) + "what\n", ":2"),
        (line(1) + "what", ""),
        (line(1) + '{"key":"2",\n', ":2"),
        ("\n", ":1"),
    ],
)
def test_another_file_is_refused_and_left_as_it_is(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(text)
    if text == '{"key":':
        # As torn as a record can be: it is one.
        assert numbers(path) == []
        return
    with pytest.raises(SweepError, match=rf"r\.jsonl{place}: is no result of a sweep"):
        numbers(path)
    assert path.read_text() == text


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="is no file"):
        ResultsFile(tmp_path)
    with pytest.raises(SweepError, match="is not a directory"):
        ResultsFile(tmp_path / "none" / "r.jsonl")


def test_writers_do_not_mix_their_lines(tmp_path: Path) -> None:
    """Each with a file of its own, as processes have; a lock is an open file's."""
    path = tmp_path / "r.jsonl"

    def write(writer: int) -> None:
        with ResultsFile(path) as file:
            for turn in range(20):
                begin = writer * 1000 + turn * 3
                append(file, *(line(begin + i, 20_000 * (turn % 3)) for i in range(3)))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(numbers(path)) == [w * 1000 + n for w in range(4) for n in range(60)]


def test_what_others_have_appended_is_not_appended_again(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with ResultsFile(path) as one, ResultsFile(path) as other:
        assert list(one.records()) == list(other.records()) == []
        assert append(one, line(1), line(2)) == []
        assert append(other, line(2), line(3)) == [1, 2]
        assert append(other, line(4)) == []
        assert append(one, line(1)) == [3, 4]
    assert numbers(path) == [1, 2, 3, 4, 1]


def test_what_others_append_must_be_results(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with ResultsFile(path) as file:
        append(file, line(1))
        with path.open("a") as other:
            other.write("what\n")
        with pytest.raises(SweepError, match=r"r\.jsonl:2: is no result of a sweep"):
            append(file, line(2))
    assert path.read_text() == line(1) + "what\n"


def test_without_room_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.jsonl"
    import os

    real = os.write
    with ResultsFile(path) as file:
        append(file, line(1))
        monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[: len(data) // 2]))
        with pytest.raises(OSError, match="only"):
            append(file, line(2, 100))
        monkeypatch.undo()
        append(file, line(3))
    assert numbers(path) == [1, 3]
