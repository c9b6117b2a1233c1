"""Schedules travel to torch.distributed.pipelining and back."""

from pathlib import Path

import pytest

from scenarios.loader import load
from sim.schedule.build import build_schedule
from sim.schedule.checks import ScheduleError, check
from sim.schedule.generators import gpipe, one_forward_one_backward
from sim.schedule.lowering import lower
from sim.schedule.torch_csv import compute_csv, program_csv, read_csv


def test_round_trip(tmp_path: Path) -> None:
    for schedule in (gpipe(4, 6), one_forward_one_backward(3, 5), one_forward_one_backward(1, 1)):
        path = tmp_path / f"{schedule.name}.csv"
        path.write_text(compute_csv(schedule))
        assert read_csv(path).orders == schedule.orders
        path.write_text(program_csv(lower(schedule)))
        assert read_csv(path).orders == schedule.orders
        assert read_csv(path).placement == schedule.placement


def test_what_torch_writes_beside_passes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("0UNSHARD,0F0,,0F1,(0F2;0B0)OVERLAP_F_B,0B1,0B2,0REDUCE_GRAD,0RESHARD\n")
    assert " ".join(map(str, read_csv(path).orders[0])) == "0F0 0F1 0F2 0B0 0B1 0B2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no action"),
        ("0F0,0X0\n", ":1: cell 2: '0X0' is not an action"),
        ("0F0,0B0\n0F1,0B1\n", ":2: 0F1: stage 0 is on rank 0"),
        ("2F0,2B0\n", "no rank runs stage 0"),
        ("\x00\x01", "not an action"),
    ],
)
def test_bad_files_are_refused_with_their_place(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ScheduleError, match=r"bad\.csv") as caught:
        read_csv(path)
    assert words in str(caught.value)


def test_missing_file_and_other_sizes(tmp_path: Path) -> None:
    with pytest.raises(ScheduleError, match="cannot be read"):
        read_csv(tmp_path / "none.csv")
    path = tmp_path / "s.csv"
    path.write_text(compute_csv(gpipe(2, 3)))
    with pytest.raises(ScheduleError, match="is for 3 microbatches, but the plan has 4"):
        read_csv(path, num_ranks=2, num_microbatches=4)


def test_torchs_own_reader_loads_ours(tmp_path: Path) -> None:
    pipelining = pytest.importorskip("torch.distributed.pipelining.schedules")
    schedule = one_forward_one_backward(4, 6)
    for text, layout in (
        (compute_csv(schedule), "compute_only"),
        (program_csv(lower(schedule)), "compute_comms"),
    ):
        path = tmp_path / f"{layout}.csv"
        path.write_text(text)
        rows = [
            [pipelining._Action.from_str(cell) for cell in line.split(",")]
            for line in path.read_text().splitlines()
        ]
        assert [[str(a) for a in row] for row in rows] == [
            line.split(",") for line in path.read_text().splitlines()
        ]


def test_ours_loads_torchs_own_schedule(tmp_path: Path) -> None:
    """torch's interleaved 1F1B as torch writes it, blanks for idle slots included."""
    pipelining = pytest.importorskip("torch.distributed.pipelining.schedules")

    class Recorded(pipelining.ScheduleInterleaved1F1B):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self._n_microbatches, self.pp_group_size, self.rank = 8, 4, 0
            self.n_local_stages, self._num_stages = 2, 8
            self.number_of_rounds, self.microbatches_per_round = 2, 4
            self.pipeline_order = {
                rank: self._calculate_single_rank_operations(rank) for rank in range(4)
            }

    path = tmp_path / "torch.csv"
    Recorded()._dump_csv(path, format="compute_only")
    schedule = read_csv(path)
    assert schedule.num_ranks == 4
    assert schedule.num_stages == 8
    assert schedule.placement == ((0, 1, 2, 3, 0, 1, 2, 3),)
    assert not check(schedule).deadlocks["buffered"]


def test_a_given_order_has_the_plans_chunks(tmp_path: Path) -> None:
    file = tmp_path / "order.csv"
    file.write_text("0F0,0B0\n1F0,1B0\n")
    plan = {"schedule": "given", "pipeline": 2, "microbatches": 1}
    lines = [f"  {key}: {value}" for key, value in plan.items()]
    text = "\n".join(["plan:", *lines, f"  schedule_file: {file}"])
    scenario = tmp_path / "s.yaml"
    scenario.write_text(f"{text}\ncosts: {{forward: 1 ms, backward: 2 ms}}\n")
    assert build_schedule(load(scenario).scenario).num_stages == 2
    with pytest.raises(ScheduleError, match="is for 2 stages, but pipeline x chunks is 4"):
        build_schedule(load(scenario, ["plan.chunks=2"]).scenario)
