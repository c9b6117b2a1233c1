"""Measured elastic runs and their file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from scenarios.schema import Elastic, Model, Plan, Scenario
from sim.elastic.phases import Layout, Phase
from sim.elastic_measurement import (
    ElasticFileError,
    ElasticMeasurement,
    MeasuredEpoch,
    MeasuredTransition,
    is_elastic_file,
    read_elastic,
    write_elastic,
)


def _measured() -> ElasticMeasurement:
    """Three epochs of eight samples: one of two stages, two of two replicas."""
    scenario = Scenario(
        name="run",
        model=Model(
            family="vit", layers=2, hidden=8, heads=2, sequence=5, vocabulary=10, patch_inputs=16
        ),
        plan=Plan(pipeline=2, micro_batch=2, microbatches=2),
        elastic=Elastic(epochs=3, samples=8, dataset="digits"),
    )
    first = Layout(frozen_layers=0, layers_per_stage=(1, 1), data=1, micro_batch=2, microbatches=2)
    second = Layout(frozen_layers=1, layers_per_stage=(2,), data=2, micro_batch=2, microbatches=1)
    return ElasticMeasurement(
        scenario=scenario,
        frozen_by_epoch=(0, 1, 1),
        phases=(
            Phase(
                index=0,
                first_epoch=0,
                epochs=1,
                layout=first,
                cached_layers=0,
                fills_cache=False,
                iterations=2,
            ),
            Phase(
                index=1,
                first_epoch=1,
                epochs=2,
                layout=second,
                cached_layers=0,
                fills_cache=True,
                iterations=2,
            ),
        ),
        epochs=(
            MeasuredEpoch(
                epoch=0, phase=0, seconds=3.0, iteration_s=(2.0, 1.0), losses=(0.5, 0.25)
            ),
            MeasuredEpoch(
                epoch=1, phase=1, seconds=2.0, iteration_s=(1.0, 0.75), losses=(0.25, 0.125)
            ),
            MeasuredEpoch(
                epoch=2,
                phase=1,
                seconds=1.0,
                iteration_s=(0.25, 0.5),
                losses=(0.125, 0.0625),
                accuracy=0.875,
                cache_written=8,
                foreign=0.5,
            ),
        ),
        transitions=(
            MeasuredTransition(
                epoch=1,
                phase=1,
                seconds={"rebuild": 0.5, "move": 0.25, "checkpoint": 4.0, "evaluate": 2.0},
                moved_bytes=1000,
                loss_before=0.5,
                loss_after=0.5,
            ),
        ),
        seconds=13.0,
        environment={"host": "here", "software": {"torch": "2"}},
    )


@pytest.mark.parametrize("name", ["runs.json", "runs.json.gz"])
def test_a_file_gives_back_the_very_runs(tmp_path: Path, name: str) -> None:
    run = _measured()
    path = tmp_path / name
    write_elastic((run, replace(run, resumed_from=1)), path)
    assert read_elastic(path) == (run, replace(run, resumed_from=1))
    assert is_elastic_file(path)
    with pytest.raises(FileExistsError, match="exists"):
        write_elastic((run,), path)
    write_elastic((run,), path, force=True)
    assert read_elastic(path) == (run,)


def test_training_is_epochs_and_transitions_without_what_only_watches() -> None:
    run = _measured()
    assert run.training_s == 3.0 + 2.0 + 1.0 + 0.5 + 0.25
    assert run.iteration_s(0) == 1.5
    assert run.iteration_s(1) == 0.625
    assert run.iteration_s(2) is None
    assert [e.epoch for e in run.epochs_of(1)] == [1, 2]
    assert run.final_accuracy == 0.875
    assert run.final_loss == 0.09375


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    with pytest.raises(ElasticFileError, match="cannot be read"):
        read_elastic(path)
    assert not is_elastic_file(path)
    for text, message in (
        ("{", "not JSON"),
        ("{}", "holds no elastic runs: write some with"),
        ('{"format": "pipetwin-elastic-measurements-1"}', "damaged: holds no list of runs"),
        ('{"format": "pipetwin-elastic-measurements-1", "runs": [{}]}', "damaged"),
    ):
        path.write_text(text)
        with pytest.raises(ElasticFileError, match=message):
            read_elastic(path)


def test_epochs_of_no_known_phase_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    run = _measured()
    write_elastic((run,), path)
    document = json.loads(path.read_text())
    document["runs"][0]["epochs"][0]["phase"] = 7
    path.write_text(json.dumps(document))
    with pytest.raises(ElasticFileError, match="run has 3 epochs, of which not all are of its 2"):
        read_elastic(path)
