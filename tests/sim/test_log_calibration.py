"""Calibration from logs: folds, what is fitted to what, samples, hints."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scenarios.loader import load_cluster
from sim import log_calibration
from sim.calibration import CalibrationError
from sim.cost.baselines import constant_rate, constant_rate_with_bubble
from sim.cost.fit import Fit, Parameter
from sim.cost.profile import Fitted, Profile, ProfileMismatch, Source
from sim.cost.profile_file import ProfileError, from_data, to_data
from sim.cost.runs import COLUMNS, Run, RunLog, parse_runs
from sim.hints import worst_rows
from sim.log_calibration import (
    Folding,
    calibrate_from_log,
    flagged,
    folds_of,
    sample_of,
    score_runs,
    validate_log,
)
from sim.training_data import read_training

CLUSTER = load_cluster("a100-80gb")
HEADER = ",".join(COLUMNS)
ROWS = [
    "8,32,2,1024,16,4,512,1,8,1,100",
    "8,32,2,1024,16,4,512,1,8,1,104",
    "8,32,1,1024,16,4,512,2,4,1,130",
    "8,32,4,1024,16,4,512,2,2,2,170",
    "8,32,2,2048,16,4,512,1,8,1,300",
    "8,32,2,2048,16,4,512,2,4,1,330",
    "8,32,1,2048,16,4,512,2,2,2,350",
    "16,32,1,4096,32,4,512,16,1,1,900",
]


def write(path: Path, rows: Sequence[str] = ROWS) -> Path:
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path


def silent(text: str) -> None:
    """No progress."""


RUNS = parse_runs("\n".join([HEADER, *ROWS]), CLUSTER)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Run, ...]]:
    """In place of the engine's fit, one that predicts the number of runs it was fitted to (ms);
    the runs of each fit, in order."""
    seen: list[tuple[Run, ...]] = []

    def fit(runs: Sequence[Run], simulate: object, collectives: Sequence[Any] = ()) -> Fit:
        seen.append(tuple(runs))
        amount = float(len(runs) + len(collectives))
        return Fit(
            parameters={"launch": Fitted(value=amount, interval=None)},
            predicted_ns=(amount * 1e6,) * len(runs),
            rounds=1,
        )

    def predict(
        runs: Sequence[Run], values: Mapping[str, float], simulate: object
    ) -> tuple[float, ...]:
        return (values["launch"] * 1e6,) * len(runs)

    monkeypatch.setattr(log_calibration, "fit_runs", fit)
    monkeypatch.setattr(log_calibration, "predict_runs", predict)
    return seen


def test_folds_are_even_seeded_and_of_everything() -> None:
    first = folds_of(RUNS, Folding(count=3, seed=1))
    assert sorted(first.count(f) for f in range(3)) == [2, 3, 3]
    assert first == folds_of(RUNS, Folding(count=3, seed=1))
    assert any(first != folds_of(RUNS, Folding(count=3, seed=seed)) for seed in range(2, 6))


@pytest.mark.parametrize("seed", range(5))
def test_folds_keep_replicates_or_models_together(seed: int) -> None:
    by_plan = folds_of(RUNS, Folding(count=7, seed=seed, by="plan"))
    assert by_plan[0] == by_plan[1] and len(set(by_plan)) == 7
    by_model = folds_of(RUNS, Folding(count=3, seed=seed, by="model"))
    assert [len(set(by_model[a:b])) for a, b in ((0, 4), (4, 7), (7, 8))] == [1, 1, 1]
    assert len(set(by_model)) == 3


@pytest.mark.parametrize(
    ("folding", "message"),
    [
        (Folding(count=1), "--folds 1: must be from 2 to 8, the number of runs"),
        (Folding(count=9), "--folds 9: must be from 2 to 8"),
        (Folding(count=4, by="model"), "must be from 2 to 3, the number of models"),
    ],
)
def test_too_few_and_too_many_folds(folding: Folding, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        folds_of(RUNS, folding)


def test_one_run_makes_no_folds() -> None:
    with pytest.raises(CalibrationError, match="--folds 5: needs two runs, but the file has 1"):
        folds_of(RUNS[:1], Folding(count=5))


def test_cross_validation_predicts_only_what_was_not_fitted_to(
    tmp_path: Path, fits: list[tuple[Run, ...]]
) -> None:
    training = read_training(CLUSTER, log=write(tmp_path / "r.csv"))
    found = calibrate_from_log(training, CLUSTER, silent, Folding(count=4), workers=1)
    assert [len(f) for f in fits] == [8, 6, 6, 6, 6]
    lines = [{run.line for run in f} for f in fits]
    assert set.union(*(lines[0] - part for part in lines[1:])) == lines[0]
    crossed, within = found.sets
    assert (crossed["id"], crossed["sample"]) == ("r.csv", "cross-validated")
    assert crossed["folds"] == {"count": 4, "seed": 0, "by": "run"}
    assert (within["id"], within["sample"]) == ("r.csv (in-sample)", "in-sample")
    # The stand-in predicts the number of runs it saw: 6 fold by fold, 8 from all.
    assert {p["predicted_s"] for p in points(crossed)} == {0.006}
    assert {p["predicted_s"] for p in points(within)} == {0.008}
    assert found.profile.efficiency["launch"].value == 8


def points(scores: Mapping[str, Any]) -> Any:
    return scores["points"]


def test_without_folds_the_only_set_says_in_sample(
    tmp_path: Path, fits: list[tuple[Run, ...]]
) -> None:
    training = read_training(CLUSTER, log=write(tmp_path / "r.csv"))
    (only,) = calibrate_from_log(training, CLUSTER, silent, workers=1).sets
    assert (only["id"], only["sample"]) == ("r.csv", "in-sample")


def test_published_rows_and_collectives_join_every_fit_but_no_fold(
    tmp_path: Path, fits: list[tuple[Run, ...]]
) -> None:
    nccl = tmp_path / "nccl.csv"
    nccl.write_text("gpu,ranks,bytes,in_place_us\na100,2,1024,9\nv100,2,1024,9\n")
    training = read_training(
        CLUSTER,
        log=write(tmp_path / "r.csv"),
        published="ptdp.table1:2, megatron.2020_tp",
        collectives=nccl,
    )
    others = len(training.others)
    assert others == 2 + 8 and len(training.collectives) == 1
    assert training.notes == ("megatron.2020_tp: 4 of 12 rows are on V100-SXM2-32GB: left out",)
    # 512 sequences of a 1.7B model on 32 GPUs at 137 TFLOP/s each by equation 3.
    assert training.others[0].measured_ns == pytest.approx(3.528e9, rel=1e-3)
    found = calibrate_from_log(training, CLUSTER, silent, Folding(count=2), workers=1)
    assert [len(f) for f in fits] == [8 + others, 4 + others, 4 + others]
    assert [s["id"] for s in found.sets] == [
        "r.csv",
        "r.csv (in-sample)",
        "ptdp.table1 (in-sample)",
        "megatron.2020_tp (in-sample)",
    ]
    assert [(s.kind, s.name, len(s.points)) for s in found.profile.sources] == [
        ("runs", "r.csv", 8),
        ("published", "ptdp.table1", 2),
        ("published", "megatron.2020_tp", 8),
        ("collectives", "nccl.csv", 0),
    ]
    assert "2 rows of ptdp.table1" in found.profile.provenance


@pytest.mark.parametrize(
    ("published", "message"),
    [
        ("", "no whole-iteration times to fit to"),
        ("ptdp.table1:x", "after the colon stands how many"),
        ("ptdp.table1:99", "ptdp.table1 has only 10 rows"),
    ],
)
def test_published_rows_that_cannot_be(published: str, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        read_training(CLUSTER, published=published)


def profile_of(*sources: Source, device: str = CLUSTER.device.name) -> Profile:
    return Profile(device=device, provenance="test", sources=sources)


def test_a_file_that_the_profile_was_fitted_to_is_in_sample(tmp_path: Path) -> None:
    whole = read_training(CLUSTER, log=write(tmp_path / "r.csv"))
    assert whole.log is not None
    profile = profile_of(*whole.sources)

    def log_of(rows: Sequence[str]) -> RunLog:
        log = read_training(CLUSTER, log=write(tmp_path / "s.csv", rows)).log
        assert log is not None
        return log

    assert sample_of(whole.log, None) == "not calibrated"
    assert sample_of(whole.log, profile) == "in-sample"
    assert sample_of(log_of(ROWS[::-1][:5]), profile) == "in-sample"
    assert sample_of(log_of([*ROWS, ROWS[0].replace("100", "150")]), profile) == "partly in-sample"
    assert sample_of(log_of([ROWS[0].replace("100", "150")]), profile) == "other data"


def test_validation_simulates_and_refuses_another_device(tmp_path: Path) -> None:
    log = write(tmp_path / "r.csv", ROWS[:3])
    scores, notes = validate_log(log, CLUSTER, None, silent, workers=1)
    assert (scores["n"], scores["sample"], notes) == (3, "not calibrated", ())
    assert all(0.001 < p["predicted_s"] < 1 for p in points(scores))
    smaller = profile_of(device="A100-SXM4-40GB")
    assert validate_log(log, CLUSTER, smaller, silent, workers=1)[0]["sample"] == "other data"
    with pytest.raises(ProfileMismatch, match="the profile is of V100"):
        validate_log(log, CLUSTER, profile_of(device="V100-SXM2-32GB"), silent)


def test_baselines_learn_from_the_other_folds_only() -> None:
    folds = [i % 2 for i in range(8)]
    exact = [run.measured_ns for run in RUNS]
    inside = score_runs("x", RUNS, exact, "in-sample")
    across = score_runs("x", RUNS, exact, "cross-validated", folds=folds)
    assert inside["mape"] == across["mape"] == 0
    assert inside["baselines_fitted_to"] != across["baselines_fitted_to"]
    even, odd = RUNS[::2], RUNS[1::2]
    times = [*constant_rate(odd, even), *constant_rate(even, odd)]
    by_hand = [t / run.measured_ns - 1 for t, run in zip(times, [*even, *odd], strict=True)]
    baselines: Any = across["baselines"]
    assert baselines["constant_tflops"]["mape"] == pytest.approx(sum(map(abs, by_hand)) / 8)
    # A constant rate cannot tell plans of a group apart; means of the replicates are one plan.
    assert baselines["constant_tflops"]["num_groups"] == 2
    single: Any = inside["baselines"]
    assert single["constant_tflops"]["kendall_tau"] == 0


def test_the_bubble_of_chunks() -> None:
    """(p - 1)/(v m): 1/8 with two chunks of two stages and four microbatches."""
    base = RUNS[6].scenario
    plan = replace(base.plan, data=4, pipeline=2, tensor=1, micro_batch=2)
    one = Run(scenario=replace(base, plan=plan), measured_ns=1.0, line=1)
    two = replace(one, scenario=replace(base, plan=replace(plan, schedule="interleaved", chunks=2)))
    (ratio,) = constant_rate_with_bubble([one], [two])
    assert ratio == pytest.approx((1 + 1 / 8) / (1 + 1 / 4))


LAUNCH = Parameter(name="launch", low=100.0, high=10_000.0, scale="log", spread=1.0)


@pytest.mark.parametrize(("value", "bound"), [(101.0, "low"), (9_900.0, "high"), (1_000.0, None)])
def test_values_at_their_bounds_are_flagged(value: float, bound: str | None) -> None:
    fitted = flagged("launch", Fitted(value=value, interval=None), (LAUNCH,))
    assert fitted.at_bound == bound
    assert flagged("other", Fitted(value=100.0, interval=None), (LAUNCH,)).at_bound is None


def test_sources_and_bounds_round_trip_and_may_be_missing() -> None:
    fitted = {"launch": Fitted(value=1.0, interval=(0.5, 2.0), at_bound="low")}
    source = Source(kind="published", name="ptdp.table1", points=("a", "b"))
    profile = replace(profile_of(source), efficiency=fitted)
    data = to_data(profile)
    assert from_data(data) == profile
    del data["sources"]
    assert from_data(data).sources == ()
    with pytest.raises(ProfileError, match=r"sources\[0\].points\[0\]: 1 is not text"):
        from_data({**data, "sources": [{"kind": "runs", "name": "", "digest": "", "points": [1]}]})


def test_hints_name_what_the_worst_have_in_common_or_that_they_stand_alone() -> None:
    # All with tensor 2 are 30 % off, and one other by itself.
    factors = [1.0, 1.0, 0.7, 0.68, 1.0, 0.7, 0.7, 1.5]
    times = [f * run.measured_ns for f, run in zip(factors, RUNS, strict=True)]
    worst = worst_rows(RUNS, times, count=2)
    assert [(row.line, round(row.error, 2)) for row in worst] == [(9, 0.5), (5, -0.32)]
    assert worst[0].hint.startswith("no run like it is off so")
    assert worst[1].hint.startswith("so are the other 3 runs with tensor 2 (-30.0%)")


def test_a_replicate_that_differs_is_told() -> None:
    factors = [1.0, 1.3, *[1.0] * 6]
    times = [f * run.measured_ns for f, run in zip(factors, RUNS, strict=True)]
    (row,) = worst_rows(RUNS, times, count=1)
    assert row.line == 3 and "1.04 times its replicate's time" in row.hint
