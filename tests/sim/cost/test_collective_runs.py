"""Files of measured all-reduces."""

from pathlib import Path

import pytest

from sim.cost.collective_runs import CollectivePoint, parse_collectives, read_collectives
from sim.cost.runs import RunsError

TEXT = """gpu,ranks,bytes,out_of_place_us,in_place_us
a100,2,1048576,44.21,45.1
V100,4,1048576,60,
"""


def test_reading_takes_the_time_in_place(tmp_path: Path) -> None:
    path = tmp_path / "nccl.csv"
    path.write_text(TEXT)
    point = CollectivePoint(gpu="a100", ranks=2, payload_bytes=1048576, time_ns=45.1e3)
    assert read_collectives(path, "A100-SXM4-80GB") == (point,)
    (other,) = read_collectives(path, "V100-SXM2-16GB")
    assert (other.gpu, other.ranks, other.time_ns) == ("v100", 4, 60e3)
    with pytest.raises(RunsError, match="has no row for H100-SXM5-80GB: only for a100, v100"):
        read_collectives(path, "H100-SXM5-80GB")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("gpu,", "card,", "x:1: gpu: missing"),
        ("a100,2", "a100,1", "x:2: ranks: '1' is not a whole number from 2 up"),
        ("a100,2", ",2", "x:2: gpu: is empty"),
        ("1048576,44", "1e6,44", "x:2: bytes: '1e6' is not a whole number"),
        ("60", "inf", "x:3: in_place_us: 'inf' is not a time"),
        ("60", "", "x:3: in_place_us: '' is not a time"),
    ],
)
def test_broken_files_name_the_line(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(RunsError) as caught:
        parse_collectives(TEXT.replace(old, new, 1), shown="x")
    assert message in str(caught.value)


def test_all_problems_at_once() -> None:
    with pytest.raises(RunsError) as caught:
        parse_collectives(TEXT.replace("1048576", "x"), shown="x")
    assert len(str(caught.value).split("\n")) == 2


def test_no_rows() -> None:
    with pytest.raises(RunsError, match="has no all-reduce"):
        parse_collectives(TEXT.split("\n")[0], shown="x")
