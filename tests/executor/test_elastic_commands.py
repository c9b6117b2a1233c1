"""Elastic runs as the command line makes them: calibrated, predicted, executed, compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import elastic_cases as cases
import pytest

from executor.elastic.calibration import calibration_scenarios
from executor.elastic.changes import fit_sums
from executor.elastic.checking import check_plain
from executor.elastic.commands import CALIBRATION, run_elastic
from executor.elastic.errors import ElasticError
from scenarios.loader import Loaded, load
from scenarios.schema import Cluster, Elastic
from sim.cost.collectives import Group, all_reduce_ns
from sim.cost.measured import fitted_cluster, with_parameters
from sim.elastic.phases import elastic_of
from sim.elastic_comparison import ElasticComparison, summary

SMALL = (
    "model.hidden=16",
    "model.heads=2",
    "model.layers=4",
    "model.sequence=5",
    "model.patch_inputs=16",
    "plan.micro_batch=4",
    "plan.microbatches=2",
    "plan.pipeline=2",
    "cluster.devices_per_node=2",
    "elastic.samples=32",
    "elastic.epochs=3",
    "elastic.interval=1",
    "elastic.alpha=0.5",
    "elastic.microbatches=null",
)


@pytest.fixture(scope="module")
def small() -> Loaded:
    """The catalogue's run and its static variant, on two ranks and four small layers."""
    return load("local-elastic-vit", SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def runs(small: Loaded, folder: Path, told: list[str]) -> ElasticComparison:
    found = run_elastic(small, checkpoints=folder, progress=told.append)
    assert found is not None
    return found


def test_every_run_is_predicted_before_it_is_made(runs: ElasticComparison, told: list[str]) -> None:
    assert [case.name for case in runs.cases] == ["local-elastic-vit", "static"]
    assert not runs.interrupted
    said = [text for text in told if "predicted beforehand" in text or "epoch 1 of" in text]
    assert said[0].startswith("local-elastic-vit: predicted beforehand")
    assert next(n for n, text in enumerate(told) if "predicted" in text) < min(
        (n for n, text in enumerate(told) if "epoch 1 of" in text), default=len(told)
    )
    assert "each run predicted from short runs of the same layers just before it" in runs.note


def test_every_phase_has_both_sides(runs: ElasticComparison) -> None:
    own, static = runs.cases
    assert own.measurement.frozen_by_epoch == (0, 2, 3)
    assert static.measurement.frozen_by_epoch == (0, 0, 0)
    assert [p.phase.first_epoch for p in own.phases] == [0, 1, 2]
    assert len(static.phases) == 1
    for case in runs.cases:
        assert case.whole
        assert case.predicted_s is not None
        assert case.predicted_s > 0
        assert all(p.error is not None and p.measured_epoch_s > 0 for p in case.phases)
        assert case.measurement.final_accuracy is not None
    # The same weights and the same samples in the same order until something freezes.
    assert own.measurement.epochs[0].losses == static.measurement.epochs[0].losses
    assert all(
        t.measured.loss_before == pytest.approx(t.measured.loss_after, rel=1e-5)
        for t in own.transitions
    )
    (speedup,) = runs.speedups
    assert speedup.other == "static"
    assert speedup.measured == pytest.approx(static.measured_s / own.measured_s)


def test_what_was_calibrated_is_of_other_runs(runs: ElasticComparison, small: Loaded) -> None:
    assert runs.profile is not None
    names = {str(run["scenario"]) for run in runs.profile.raw}
    assert all(name.startswith("calibration-") for name in names)
    digests = {small.scenario.digest, *(v.scenario.digest for v in small.variants)}
    assert not digests & {str(run["digest"]) for run in runs.profile.raw}
    assert runs.profile.efficiency["iteration_overhead"].value > 0
    assert elastic_of(runs.cases[0].prediction.scenario).cache.read > 0


def test_runs_that_ended_are_not_made_again(
    runs: ElasticComparison, small: Loaded, folder: Path
) -> None:
    told: list[str] = []
    own = replace(small, right_variants=())
    again = run_elastic(own, checkpoints=folder, resume=True, progress=told.append)
    assert again is not None
    assert not any("calibrating" in text for text in told)
    (case,), before = again.cases, runs.cases[0]
    assert case.measurement.epochs == before.measurement.epochs
    assert case.prediction.total_ns == before.prediction.total_ns
    assert case.predicted_s == before.predicted_s


def test_a_used_directory_is_refused(runs: ElasticComparison, small: Loaded, folder: Path) -> None:
    with pytest.raises(ElasticError, match="holds a run's checkpoints"):
        run_elastic(small, checkpoints=folder)


def test_a_damaged_calibration_is_refused(small: Loaded, tmp_path: Path) -> None:
    place = tmp_path / small.scenario.name
    place.mkdir()
    (place / CALIBRATION).write_text('{"format": "something else"}')
    with pytest.raises(ElasticError, match=r"cannot be read .* begin the run anew"):
        run_elastic(small, checkpoints=tmp_path, resume=True)
    with pytest.raises(ElasticError, match="give `--checkpoints`"):
        run_elastic(small, resume=True)


def test_its_summary_is_plain_json(runs: ElasticComparison) -> None:
    found: dict[str, Any] = json.loads(json.dumps(summary(runs)))
    assert [run["name"] for run in found["runs"]] == ["local-elastic-vit", "static"]
    assert found["speedups"][0]["over"] == "static"
    assert [p["frozen_layers"] for p in found["runs"][0]["phases"]] == [0, 2, 3]


def test_calibration_runs_have_a_processor_for_every_rank() -> None:
    scenario = load("local-elastic-vit").scenario
    found = calibration_scenarios(scenario, [12, 6, 12])
    assert {one.plan.micro_batch for one in found} == {6, 12}
    for one in found:
        assert one.cluster is not None
        assert one.plan.num_devices == 2
        assert one.cluster.devices_per_node == 2
        assert one.cluster.processors_per_node is None
        assert one.elastic is None
    alone = replace(scenario, cluster=replace(scenario.cluster, processors_per_node=1))
    assert all(one.plan.num_devices == 1 for one in calibration_scenarios(alone, [12]))


def test_sums_are_fitted_in_the_form_in_which_they_are_predicted() -> None:
    scenario = load("local-elastic-vit").scenario
    assert scenario.cluster is not None
    launch = scenario.cluster.device.efficiency.launch
    law = with_parameters(
        scenario.cluster,
        {"collective_launch": 2e5, "intra_node.latency": 1e6, "intra_node.bandwidth": 1e9},
    )

    def time_ns(cluster: Cluster, ranks: int, size: int) -> float:
        group = Group(per_node=ranks, nodes=1, active_per_node=4)
        return launch + all_reduce_ns(size, group, cluster)

    points = [(ranks, size) for ranks in (2, 4) for size in (100_000, 200_000, 400_000)]
    found = fit_sums([(n, size, time_ns(law, n, size) / 1e9) for n, size in points], scenario)
    fitted = fitted_cluster(scenario.cluster, found)
    for ranks, size in [*points, (4, 300_000), (8, 400_000)]:
        assert time_ns(fitted, ranks, size) == pytest.approx(time_ns(law, ranks, size), rel=1e-4)
    # Never faster than the link: what is measured below that is taken as no time at all.
    assert fit_sums([(2, 400_000, 1e-9)], scenario)["intra_node.bandwidth"].value == pytest.approx(
        scenario.cluster.intra_node.bandwidth
    )
    assert fit_sums([], scenario) == {}


def test_without_freezing_a_run_is_plain_training_to_the_bit() -> None:
    run = cases.scenario(pipeline=2)
    run = replace(run, elastic=Elastic(epochs=4, samples=2 * cases.BATCH, dataset="digits"))
    found = check_plain(run)
    assert found is not None
    assert (found.loss, found.weights) == (0.0, 0.0)
    assert found.passed
    assert found.epochs == 2
    assert str(found).startswith("check: the run without freezing equals plain training")
    off = replace(found, weights=1e-15)
    assert not off.passed
    assert replace(off, exact=False).passed
    assert "DIFFERS FROM" in str(off)
