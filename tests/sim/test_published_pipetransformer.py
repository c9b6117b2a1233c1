"""PipeTransformer's published figures, predicted from what it publishes without freezing."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest

from scenarios.loader import load
from scenarios.published import PublishedTable, load_table
from scenarios.published_elastic import load_runs
from scenarios.schema import Scenario
from sim.cost.measured import with_parameters
from sim.elastic_run import predict_run
from sim.prediction import predict
from sim.published import JudgedTable, predict_tables
from sim.published_elastic import JudgedRuns, predict_runs, run_scores
from sim.published_gains import fastest


def silent(text: str) -> None:
    pass


@cache
def judged(table_id: str) -> JudgedRuns:
    (found,) = predict_runs([load_runs(table_id)], silent)
    return found


@pytest.fixture(scope="module")
def chunks() -> JudgedTable:
    return predict_tables([load_table("pt.chunks")], None, silent)[0]


def rms(table: PublishedTable, **changed: float) -> float:
    """Root mean square of a table's relative errors of time, with parameters of the device."""
    errors = []
    for row in table.rows:
        cluster = row.scenario.cluster
        assert cluster is not None and row.figure is not None
        scenario = replace(row.scenario, cluster=with_parameters(cluster, changed))
        seconds = predict(scenario).iteration_ns / 1e9
        errors.append(seconds * row.figure / scenario.plan.num_sequences - 1)
    return math.sqrt(math.fsum(e * e for e in errors) / len(errors))


def test_the_device_is_fitted_to_the_log_without_freezing() -> None:
    """Both fitted parameters are at the least squares of the log's rows."""
    table = load_table("pt.chunks_log")
    cluster = table.rows[0].scenario.cluster
    assert cluster is not None
    best = rms(table)
    assert best < 0.03
    for name in ("matmul_max", "pass_overhead"):
        value = getattr(cluster.device.efficiency, name)
        for factor in (0.96, 1.04):
            assert rms(table, **{name: value * factor}) > best


def test_the_baseline_is_what_was_published_without_freezing() -> None:
    found = judged("pt.epoch_throughput")
    baseline = [f for f in found.figures if f.run == "no freeze"]
    assert len(baseline) == 10 and all(f.calibration for f in baseline)
    assert all(abs(f.error) < 0.005 for f in baseline)


def test_the_breakdown() -> None:
    """Each of the five within 15 %, in the right order; freezing alone slows the run down."""
    found = judged("pt.breakdown")
    speedups = [f.predicted for f in found.figures]
    assert [f.published for f in found.figures] == [1.0, 0.95, 1.26, 2.27, 2.83]
    assert speedups[0] == 1.0
    assert all(abs(f.error) < 0.15 for f in found.figures)
    assert speedups[1] < speedups[0] < speedups[2] < speedups[3] < speedups[4]
    scores = run_scores(found)
    assert (scores["n"], scores["within_15_percent"]) == (4, 4)
    assert scores["kendall_tau"] == 1.0 and scores["right"] == scores["pairs"] == 10


def test_the_chunk_curve_peaks_at_twice_the_length(chunks: JudgedTable) -> None:
    assert fastest(chunks) == {"predicted": "2", "published": ["2"]}
    assert len(chunks.judged) == 6
    assert all(row.error is not None and abs(row.error) < 0.12 for row in chunks.rows)


def test_alpha() -> None:
    found = judged("pt.alpha")
    assert [f.run for f in found.judged] == ["1/5", "1/4", "1/3", "2/5", "1/2"]
    assert all(abs(f.error) < 0.2 for f in found.judged)
    assert run_scores(found)["wrong"] == 0


def test_what_its_source_leaves_open_is_not_judged() -> None:
    found = judged("pt.table1")
    assert [f.run for f in found.judged] == ["ImageNet (ViT-B/16)", "CIFAR-100 (ViT-B/16)"]
    (open_one,) = (f for f in found.figures if f.assumed)
    assert open_one.run == "SQuAD 1.1 (BERT-large)"
    scores = run_scores(found)
    assert scores["n"] == 2 and scores["worst"] == max(abs(f.error) for f in found.judged)


def test_throughputs_of_epochs_follow_the_published_curves() -> None:
    found = judged("pt.epoch_throughput")
    runs: dict[str, list[float]] = {}
    for figure in found.judged:
        runs.setdefault(figure.run, []).append(figure.error)
    assert {len(errors) for errors in runs.values()} == {10}
    for errors in runs.values():
        assert all(abs(error) < 0.35 for error in errors)
        assert all(abs(error) < 0.2 for error in errors[:4])


def pipelines(scenario: Scenario) -> list[tuple[int, int]]:
    return [(epoch.pipeline, epoch.data) for epoch in predict_run(scenario).epochs]


def test_the_pipeline_shrinks_as_the_authors_did() -> None:
    """Eight GPUs a pipeline in the first two epochs, then 4, 2, 2 and 1, and as many replicas."""
    scenario = load("pipetransformer/vit-imagenet").scenario
    lengths = [8, 8, 4, 2, 2, 1, 1, 1, 1, 1]
    assert pipelines(scenario) == [(length, 16 // length) for length in lengths]


def test_figures_follow_the_scenario() -> None:
    """A slower cache makes those runs slower that have one, and those alone."""
    table = load_runs("pt.breakdown", ["elastic.cache.one_rank=300 MB/s"])
    (slow,) = predict_runs([table], silent)
    before, after = (
        {f.run: f.predicted for f in found.figures} for found in (judged("pt.breakdown"), slow)
    )
    for run in before:
        if "AutoCache" in run:
            assert after[run] < before[run]
        else:
            assert after[run] == before[run]


def test_fewer_epochs_have_fewer_points() -> None:
    table = load_runs("pt.epoch_throughput", ["elastic.epochs=3"])
    (found,) = predict_runs([table], silent)
    assert len(found.figures) == 3 * 4
