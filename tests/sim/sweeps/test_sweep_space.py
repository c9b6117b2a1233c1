"""The points of a sweep: grids, ranges, side by side, from files."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.sweeps.space import Dimension, Space, SweepError, dimension, read_points, space


@pytest.mark.parametrize(
    ("text", "field", "values"),
    [
        ("plan.pipeline=4,8,16", "plan.pipeline", ["4", "8", "16"]),
        ("plan.micro_batch=1..4", "plan.micro_batch", ["1", "2", "3", "4"]),
        ("a=4..1", "a", ["4", "3", "2", "1"]),
        ("a=8..32..8,100", "a", ["8", "16", "24", "32", "100"]),
        ("a=1..6..2", "a", ["1", "3", "5"]),
        ("b.c = 100 Gbit/s, 200 Gbit/s", "b.c", ["100 Gbit/s", "200 Gbit/s"]),
        ("a=[1, 2],[3, 4]", "a", ["[1, 2]", "[3, 4]"]),
        ("a={x: 1, y: [2, 3]},null", "a", ["{x: 1, y: [2, 3]}", "null"]),
        ('a="x, y",z', "a", ['"x, y"', "z"]),
        ("a='it''s, so',z", "a", ["'it''s, so'", "z"]),
        ('a="a \\" , b",c', "a", ['"a \\" , b"', "c"]),
        ("a=it's,so", "a", ["it's", "so"]),
        ('a=["]", 1],2', "a", ['["]", 1]', "2"]),
        ("a=''", "a", ["''"]),
        ("a=1.5..2", "a", ["1.5..2"]),
    ],
)
def test_values(text: str, field: str, values: list[str]) -> None:
    assert dimension(text) == Dimension(field=field, values=tuple(values))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("plan.pipeline", "write a field and its values"),
        ("=4", "write a field and its values"),
        ("a=", "a value is empty"),
        ("a=4,,8", "a value is empty"),
        ("a=[1, 2", "`]` is missing"),
        ('a="x', "is not closed"),
        ("a=1..9..0", "steps are of at least 1"),
        ("a=1..99999999999", "over 1,000,000 values"),
        ("a=4,8,4", "`4` is given twice"),
    ],
)
def test_what_cannot_be_read(text: str, words: str) -> None:
    with pytest.raises(SweepError, match=words.replace("]", r"\]")):
        dimension(text)


def test_the_last_field_changes_fastest() -> None:
    found = space(["a=1,2", "b=x,y,z"])
    assert [found.overrides(i) for i in range(len(found))] == [
        (f"a={a}", f"b={b}") for a in "12" for b in "xyz"
    ]
    assert found.fields == ("a", "b") and found.samples() == ("a=1", "b=x")


def test_side_by_side() -> None:
    found = space(["a=1,2,3", "b=x,y,z"], zipped=True)
    assert [found.overrides(i) for i in range(len(found))] == [
        ("a=1", "b=x"),
        ("a=2", "b=y"),
        ("a=3", "b=z"),
    ]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 3))
def test_every_point_once(lengths: list[int], num_rows: int) -> None:
    dimensions = tuple(
        Dimension(field=f"f{n}", values=tuple(f"{n}.{v}" for v in range(length)))
        for n, length in enumerate(lengths)
    )
    rows = tuple((f"r={row}",) for row in range(num_rows)) or ((),)
    found = Space(dimensions=dimensions, rows=rows)
    wanted = [
        (*row, *(f"{d.field}={value}" for d, value in zip(dimensions, values, strict=True)))
        for row in rows
        for values in itertools.product(*(d.values for d in dimensions))
    ]
    assert [found.overrides(i) for i in range(len(found))] == wanted


def test_a_huge_grid_is_not_made() -> None:
    found = space([f"f{n}=1..1000" for n in range(5)])
    assert len(found) == 10**15
    assert found.overrides(10**15 - 1) == tuple(f"f{n}=1000" for n in range(5))


@pytest.mark.parametrize(
    ("vary", "zipped", "words"),
    [
        ([], False, "nothing is varied"),
        (["a=1", "a=2"], False, "a is varied twice"),
        (["a=1,2", "b=1"], True, "as many values of each field; there are a 2, b 1"),
        (["a=1,2"], True, "two or more"),
        ([f"f{n}=1..1000000" for n in range(4)], False, r"over 1e\+18 points"),
    ],
)
def test_what_is_no_space(vary: list[str], zipped: bool, words: str) -> None:
    with pytest.raises(SweepError, match=words):
        space(vary, zipped=zipped)


def test_points_from_a_csv(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text('a, b.c\n4, 100 Gbit/s\n\n8,\n,"[1, 2]"\n')
    assert read_points(file) == (("a=4", "b.c=100 Gbit/s"), ("a=8",), ("b.c=[1, 2]",))
    found = space(["d=1,2"], points=file)
    assert len(found) == 6
    assert found.overrides(1) == ("a=4", "b.c=100 Gbit/s", "d=2")
    assert found.overrides(2) == ("a=8", "d=1")
    assert found.fields == ("a", "b.c", "d")
    with pytest.raises(SweepError, match="a is varied twice"):
        space(["a=1"], points=file)


def test_points_from_jsonl(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"a": 4, "b": "x, é"}\n\n{"a": null, "plan": {"pipeline": [1]}}\n{}\n')
    assert read_points(file) == (
        ("a=4", 'b="x, é"'),
        ("a=null", 'plan={"pipeline": [1]}'),
        (),
    )


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.csv", "", "lists no points"),
        ("p.csv", "a,b\n", "lists no points"),
        ("p.csv", "a,a\n1,2\n", "p.csv:1: names a field a column"),
        ("p.csv", "a,\n1,2\n", "p.csv:1: names a field a column"),
        ("p.csv", "a,b\n1,2\n1,2,3\n", "p.csv:3: has 3 cells for 2 fields"),
        ("p.csv", 'a\n"1\n', "p.csv:2: is not CSV"),
        ("p.jsonl", '{"a": 1}\n[1]\n', "p.jsonl:2: is no object"),
        ("p.jsonl", '{"a": 1}\n{"a"\n', "p.jsonl:2: is not JSON"),
        ("p.jsonl", "\n", "lists no points"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SweepError, match=words):
        read_points(tmp_path / name)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="cannot be read: No such file"):
        read_points(tmp_path / "p.csv")
    (tmp_path / "q.csv").write_bytes(b"a\n\xff\n")
    with pytest.raises(SweepError, match="is not UTF-8"):
        read_points(tmp_path / "q.csv")
