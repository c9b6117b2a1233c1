"""Files of runs, fits, baselines, and profiles in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from scenarios.schema import Cluster, Device, Link
from sim.cost.baselines import constant_rate, constant_rate_with_bubble
from sim.cost.collective_runs import CollectivePoint
from sim.cost.collectives import Group, all_reduce_ns
from sim.cost.fit import fit_runs, predict_runs
from sim.cost.path import closed_form
from sim.cost.profile import Fitted, MessageTime, Profile
from sim.cost.profile_file import ProfileError, read_profile, write_profile
from sim.cost.runs import COLUMNS, Run, RunsError, parse_runs, read_runs
from sim.cost.shapes import PartTime, Shape
from sim.scores import score

CLUSTER = Cluster(
    devices_per_node=8,
    device=Device(
        name="A100",
        memory=80 * 2**30,
        memory_bandwidth=2.039e12,
        matmul_peak={"fp16": 312e12},
    ),
    intra_node=Link(bandwidth=300e9, latency=8_000, efficiency=0.78),
    inter_node=Link(bandwidth=12.5e9, latency=8_000, efficiency=0.8),
    nics_per_node=8,
)
HEADER = ",".join(COLUMNS)
ROWS = [
    "8,64,2,2048,16,24,2048,1,8,1,1",
    "8,64,4,2048,16,24,2048,2,4,1,1",
    "16,64,1,4096,32,24,2048,8,1,2,1",
    "16,64,4,4096,32,24,2048,4,2,2,1",
    "32,64,2,6144,48,24,2048,8,1,4,1",
    "32,64,1,1024,16,24,2048,4,2,4,1",
    "16,32,1,8192,64,16,2048,8,1,2,1",
    "16,64,2,3072,32,24,2048,16,1,1,1",
]


def runs_of(values: dict[str, float]) -> tuple[Run, ...]:
    """Runs whose times are the model's own under the given parameters."""
    runs = parse_runs("\n".join([HEADER, *ROWS]), CLUSTER)
    times = predict_runs(runs, values, closed_form)
    return tuple(replace(r, measured_ns=t) for r, t in zip(runs, times, strict=True))


def test_reading_runs() -> None:
    runs = parse_runs("\n".join([HEADER, *ROWS]), CLUSTER)
    plan = runs[3].scenario.plan
    assert (plan.tensor, plan.data, plan.pipeline, plan.micro_batch) == (4, 2, 2, 4)
    assert (plan.recomputation, plan.p2p, plan.schedule) == ("full", "blocking", "1f1b")
    assert runs[3].scenario.cluster is not None and runs[3].scenario.cluster.nodes == 2
    assert (runs[3].measured_ns, runs[3].line) == (1e6, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpus,layers\n8,3", "runs:1: global_batch, micro_batch"),
        (HEADER, "runs:2: has no run"),
        (HEADER + "\n" + ROWS[0].replace("2048", "x", 1), "runs:2: hidden: 'x' is not a whole"),
        (HEADER + "\n" + ROWS[0][:-1] + "nan", "runs:2: iteration_ms: 'nan' is not a time"),
        (HEADER + "\n" + ROWS[0] + "\n9" + ROWS[0][1:], "runs:3: gpus: is 9, but"),
        (HEADER + "\n8,64", "runs:2: micro_batch: ''"),
    ],
)
def test_broken_runs_name_the_line(text: str, message: str) -> None:
    with pytest.raises(RunsError) as caught:
        parse_runs(text, CLUSTER)
    assert message in str(caught.value)


def test_missing_file_of_runs(tmp_path: Path) -> None:
    with pytest.raises(RunsError, match="cannot be read"):
        read_runs(tmp_path / "none.csv", CLUSTER)


def mape(runs: Sequence[Run], predicted_ns: Sequence[float]) -> float:
    points = [("", p, run.measured_ns) for run, p in zip(runs, predicted_ns, strict=True)]
    found = score(points)["mape"]
    assert isinstance(found, float)
    return found


def test_a_fit_finds_the_parameters_it_was_made_with() -> None:
    truth = {"matmul_max": 0.6, "matmul_half_dimension": 300.0}
    runs = runs_of(truth)
    before = mape(runs, predict_runs(runs, {}, closed_form))
    fit = fit_runs(runs, closed_form)
    assert mape(runs, fit.predicted_ns) < 0.02 < before
    assert fit.values["matmul_max"] == pytest.approx(0.6, rel=0.15)
    assert fit.parameters["optimizer_bandwidth"].interval is None


def test_exact_collectives_do_not_narrow_what_noisy_runs_tell() -> None:
    runs = [
        replace(run, measured_ns=run.measured_ns * (1.15 if i % 2 else 0.85))
        for i, run in enumerate(runs_of({}))
    ]
    group = Group(per_node=8, nodes=1, active_per_node=8)
    points = [
        CollectivePoint(
            gpu="a100", ranks=8, payload_bytes=size, time_ns=all_reduce_ns(size, group, CLUSTER)
        )
        for size in range(1 << 20, 1 << 26, 1 << 20)
    ]

    def width(collectives: Sequence[CollectivePoint]) -> float:
        fit = fit_runs(runs, closed_form, collectives=collectives)
        interval = fit.parameters["matmul_max"].interval
        assert interval is not None
        return interval[1] - interval[0]

    assert width(points) > 0.9 * width(())


def test_no_runs() -> None:
    with pytest.raises(ValueError, match="there are no runs"):
        fit_runs((), closed_form)


def test_baselines_are_exact_on_their_own_model() -> None:
    runs = runs_of({})
    flat = constant_rate(runs, runs)
    made = tuple(replace(r, measured_ns=t) for r, t in zip(runs, flat, strict=True))
    assert mape(made, constant_rate(made, made)) == pytest.approx(0)
    assert mape(made, constant_rate_with_bubble(made, made)) > 0


PROFILE = Profile(
    device="cpu",
    provenance="test: yes",
    created="2024-01-01",
    software={"torch": "2.6"},
    host="h",
    times={
        Shape("gpt", 64, 4, 256, 512, 2, 32, 0, 1, "fp32", "none"): {
            ("layer", "forward"): PartTime(median_ns=1.5, quartiles_ns=(1.25, 2.0), samples=7)
        }
    },
    post=MessageTime(fixed_ns=1.0, ns_per_byte=1e-6, error=0.1),
    ratios=(0.9, 1.1),
    efficiency={
        "matmul_max": Fitted(value=0.7, interval=(0.6, 0.8)),
        "memory": Fitted(value=0.8, interval=None),
    },
    raw=({"scenario": "s", "iteration_ns": [1, 2]},),
)


@pytest.mark.parametrize("name", ["p.yaml", "p.json"])
def test_profiles_round_trip(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_profile(PROFILE, path)
    assert read_profile(path) == PROFILE
    with pytest.raises(FileExistsError):
        write_profile(PROFILE, path)
    write_profile(PROFILE, path, force=True)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"device": "cpu"', '"device": 3', "device: 3 is not text"),
        ('"median_ns": 1.5', '"median_ns": -1', "times[0].parts[0].median_ns: -1 is not a finite"),
        ('"part": "layer"', '"part": "tail"', "times[0].parts[0].part: 'tail' is none of"),
        ('"hidden": 64,', "", "times[0].shape.hidden: is missing"),
        ("pipetwin profile 1", "pipetwin profile 9", "this version reads"),
        ("{", "", "is not json"),
    ],
)
def test_broken_profiles_name_the_field(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "p.json"
    write_profile(PROFILE, path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ProfileError) as caught:
        read_profile(path)
    assert message in str(caught.value)
