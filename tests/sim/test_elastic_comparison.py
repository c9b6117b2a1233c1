"""Predicted elastic runs held against measured ones."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from scenarios.loader import load
from scenarios.schema import Scenario, Transition
from sim.elastic.phases import elastic_of
from sim.elastic_comparison import (
    ElasticCase,
    ElasticComparison,
    compare_elastic,
    summary,
)
from sim.elastic_measurement import ElasticMeasurement, MeasuredEpoch, MeasuredTransition
from sim.elastic_run import ElasticPrediction, predict_run

SLOWER = 1.25
CHANGE_S = 0.5


def _predicted(name: str = "local-elastic-vit", **elastic: object) -> ElasticPrediction:
    scenario = load(name).scenario
    changed = replace(elastic_of(scenario), epochs=3, interval=1, **elastic)  # type: ignore[arg-type]
    return predict_run(replace(scenario, elastic=changed))


def _measured(prediction: ElasticPrediction, accuracy: float = 0.75) -> ElasticMeasurement:
    """A run whose epochs took a quarter longer than predicted, and each change half a second."""
    return ElasticMeasurement(
        scenario=prediction.scenario,
        frozen_by_epoch=prediction.frozen_by_epoch,
        phases=tuple(own.phase for own in prediction.phases),
        epochs=tuple(
            MeasuredEpoch(
                epoch=e.epoch,
                phase=e.phase,
                seconds=SLOWER * e.seconds,
                iteration_s=(SLOWER * e.seconds / 30,) * 30,
                losses=(0.5,) * 30,
                accuracy=accuracy,
            )
            for e in prediction.epochs
        ),
        transitions=tuple(
            MeasuredTransition(
                epoch=prediction.phases[t.phase].phase.first_epoch,
                phase=t.phase,
                seconds={"rebuild": CHANGE_S, "evaluate": 3.0},
                moved_bytes=t.moved_bytes,
            )
            for t in prediction.transitions
        ),
        seconds=99.0,
    )


@pytest.fixture(scope="module")
def prediction() -> ElasticPrediction:
    return _predicted()


@pytest.fixture(scope="module")
def case(prediction: ElasticPrediction) -> ElasticCase:
    return compare_elastic("elastic", prediction, _measured(prediction))


def test_epochs_are_compared_by_their_phase(
    prediction: ElasticPrediction, case: ElasticCase
) -> None:
    assert len(case.phases) == len(prediction.phases) == 3
    for found, own in zip(case.phases, prediction.phases, strict=True):
        assert found.predicted_epoch_s == own.epoch_ns / 1e9
        assert found.measured_epoch_s == pytest.approx(SLOWER * own.epoch_ns / 1e9)
        assert found.measured_iteration_s == pytest.approx(SLOWER * own.iteration_ns / 1e9)
        assert found.error == pytest.approx(1 / SLOWER - 1)
    assert case.whole
    changes = len(prediction.transitions) * CHANGE_S
    assert case.predicted_s == pytest.approx(prediction.total_ns / 1e9)
    assert case.measured_s == pytest.approx(SLOWER * prediction.training_ns / 1e9 + changes)


def test_transitions_are_compared_without_what_only_watches(
    prediction: ElasticPrediction, case: ElasticCase
) -> None:
    assert len(case.transitions) == 2
    for found, own in zip(case.transitions, prediction.transitions, strict=True):
        assert found.measured_s == CHANGE_S
        assert found.predicted_s == own.total_ns / 1e9


def test_a_phase_that_was_not_foreseen_has_no_prediction(prediction: ElasticPrediction) -> None:
    run = _measured(prediction)
    last = run.phases[-1]
    other = replace(last, layout=replace(last.layout, frozen_layers=5))
    found = compare_elastic("x", prediction, replace(run, phases=(*run.phases[:-1], other)))
    assert [p.error is None for p in found.phases] == [False, False, True]
    assert found.transitions[-1].predicted_s is None
    assert found.predicted_s is None
    assert found.error is None


def test_an_interrupted_run_is_compared_as_far_as_it_came(prediction: ElasticPrediction) -> None:
    run = _measured(prediction)
    found = compare_elastic("x", prediction, replace(run, epochs=run.epochs[:1], transitions=()))
    assert not found.whole
    assert len(found.phases) == 1
    assert found.predicted_s == pytest.approx(prediction.epochs[0].seconds)
    assert ElasticComparison(cases=(found, found)).speedups == ()


def test_what_was_calibrated_may_differ_and_nothing_else(prediction: ElasticPrediction) -> None:
    def changed(scenario: Scenario, **fields: object) -> Scenario:
        elastic = replace(elastic_of(scenario), **fields)  # type: ignore[arg-type]
        return replace(scenario, elastic=elastic)

    run = _measured(prediction)
    calibrated = replace(
        prediction,
        scenario=changed(prediction.scenario, transition=Transition(rebuild=7)),
    )
    assert compare_elastic("x", calibrated, run).error is not None
    with pytest.raises(ValueError, match="of another scenario"):
        compare_elastic("x", replace(prediction, scenario=changed(run.scenario, alpha=0.25)), run)


def test_speed_ups_are_of_the_first_run_over_the_others(case: ElasticCase) -> None:
    static = _predicted(freeze="off")
    other = compare_elastic("static", static, _measured(static, accuracy=0.875))
    found = ElasticComparison(cases=(case, other))
    (gain,) = found.speedups
    assert gain.other == "static"
    assert gain.predicted == pytest.approx(static.total_ns / case.prediction.total_ns)
    assert gain.measured == pytest.approx(other.measured_s / case.measured_s)
    assert gain.accuracy_lost == 0.125
    document = json.loads(json.dumps(summary(found)))
    assert document["speedups"][0]["measured"] == gain.measured
    assert document["runs"][0]["final_accuracy"] == 0.75
    assert document["runs"][0]["phases"][0]["layers_per_stage"] == [2, 2, 2, 2]
