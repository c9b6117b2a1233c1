"""A predicted run: its phases add up, and its mechanisms gain what they should."""

import json
import math
from dataclasses import replace

import pytest
from elastic_runs import changed, small_run
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.elastic.phases import phase_scenario
from sim.elastic_run import (
    ALL,
    COMBINATIONS,
    FREEZE_ONLY,
    NO_FREEZE,
    WITHOUT_AUTOCACHE,
    WITHOUT_AUTODP,
    ElasticPrediction,
    ablation,
    contributions,
    predict_run,
    summary,
)
from sim.prediction import predict

TRANSITION = {"rebuild": 2_000_000_000, "device_start": 500_000_000}
EVEN = {4: 8, 2: 4, 1: 2}


def test_with_freezing_off_a_run_is_its_iterations() -> None:
    run = small_run(freeze="off", epochs=3, samples=100, transition=TRANSITION)
    found = predict_run(run)
    # 48 sequences an iteration: 100 samples take three.
    assert found.total_ns == 3 * 3 * predict(run).iteration_ns
    assert found.transitions == ()
    assert found.caches_from is None
    assert len(found.phases) == 1


def test_phases_add_up() -> None:
    run = small_run(transition=TRANSITION, microbatches=EVEN)
    found = predict_run(run)
    assert found.frozen_by_epoch == (0, 4, 6, 7, 7, 8)
    assert sum(own.phase.epochs for own in found.phases) == 6
    assert found.training_ns == sum(
        own.iteration_ns * own.phase.iterations * own.phase.epochs for own in found.phases
    )
    for own in found.phases:
        one = phase_scenario(run, own.phase)
        assert own.prediction.scenario == one
        assert own.iteration_ns == predict(one).iteration_ns
        assert own.epoch_ns == own.iteration_ns * 10
        assert own.samples_per_s == pytest.approx(480 / (own.epoch_ns / 1e9))
    assert found.total_ns == found.training_ns + sum(t.total_ns for t in found.transitions)
    # Epoch 4 freezes nothing more than epoch 3, and needs no new groups.
    first_epochs = {own.phase.index: own.phase.first_epoch for own in found.phases}
    assert [first_epochs[t.phase] for t in found.transitions] == [1, 2, 3, 5]
    assert [own.seconds for own in found.epochs] == [
        own.epoch_ns / 1e9 for own in found.phases for _ in range(own.phase.epochs)
    ]
    assert [own.frozen_layers for own in found.epochs] == [0, 4, 6, 7, 7, 8]
    assert found.samples_per_s == pytest.approx(6 * 480 / (found.total_ns / 1e9))


def test_equal_phases_are_simulated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import sim.elastic_run

    asked = []

    def counted(scenario: object, *others: object, **more: object) -> object:
        asked.append(scenario)
        return predict(scenario, *others, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(sim.elastic_run, "predict", counted)
    rows = ablation(small_run(microbatches=EVEN))
    kinds = {
        (p.phase.layout, p.phase.cached_layers, p.phase.fills_cache)
        for row in rows
        for p in row.prediction.phases
    }
    assert len(asked) == len(kinds)
    assert sum(len(row.prediction.phases) for row in rows) > len(kinds)


def test_an_ablation_in_order() -> None:
    """Each mechanism gains: freezing drops backward passes, AutoPipe bubbles, AutoDP idle ranks,
    and a fast cache the frozen layers' forward passes."""
    rows = ablation(small_run(microbatches=EVEN))
    assert [row.name for row in rows] == list(COMBINATIONS)
    speedups = {row.name: row.speedup for row in rows}
    assert speedups[NO_FREEZE] == 1.0
    assert 1.0 < speedups[FREEZE_ONLY] < speedups[WITHOUT_AUTOCACHE] < speedups[ALL]
    assert speedups[WITHOUT_AUTODP] < speedups[ALL]
    assert speedups[ALL] == rows[0].prediction.total_ns / rows[-1].prediction.total_ns
    whole = predict_run(rows[-1].scenario)
    assert whole.total_ns == rows[-1].prediction.total_ns


def test_contributions_multiply_to_the_whole() -> None:
    """The published bars (arXiv 2102.03161, figure 9): freezing alone loses, AutoDP gains most."""
    published = dict(zip(COMBINATIONS, (1.0, 0.95, 1.26, 2.27, 2.83), strict=True))
    found = contributions(published)
    assert found["freezing"] == 0.95
    assert found["AutoDP"] == pytest.approx(2.246, abs=1e-3)
    assert found["AutoCache"] == pytest.approx(1.247, abs=1e-3)
    assert math.prod(found.values()) == pytest.approx(2.83)


def test_adaptive_freezing_is_predicted_by_its_bound_and_says_so() -> None:
    found = predict_run(small_run(freeze="adaptive", microbatches=EVEN))
    assert found.frozen_by_epoch == (0, 4, 6, 7, 8, 8)
    assert "the most that may freeze" in found.notes[0]
    assert predict_run(small_run(freeze="off")).notes == ()


def test_a_cache_without_autopipe_is_noted() -> None:
    found = predict_run(small_run(autopipe=False))
    assert found.caches_from is None
    assert found.notes == ("nothing is cached, as `autocache` needs `autopipe`",)


def test_given_layouts_are_taken() -> None:
    run = small_run(microbatches=EVEN)
    first = predict_run(run)
    other = tuple(
        replace(one, micro_batch=one.micro_batch // 2, microbatches=one.microbatches * 2)
        for one in first.layouts
    )
    found = predict_run(run, layouts_given=other)
    assert found.layouts == other
    assert found.total_ns != first.total_ns


def test_progress_is_told() -> None:
    told: list[str] = []
    found = predict_run(small_run(microbatches=EVEN), progress=told.append)
    assert told[0] == "layouts"
    assert told[1] == f"phase 1 of {len(found.phases)}: 0 layers frozen"
    assert len(told) == 1 + len(found.phases)


def test_the_summary_keeps_its_names() -> None:
    run = small_run(microbatches=EVEN, transition=TRANSITION)
    rows = ablation(run)
    found = json.loads(json.dumps(summary(rows[-1].prediction, rows)))
    assert set(found) == {
        "scenario",
        "digest",
        "engine",
        "total_s",
        "training_s",
        "transition_s",
        "samples_per_s",
        "frozen_by_epoch",
        "caches_from",
        "cache_bytes",
        "cache_bytes_on_disk",
        "phases",
        "transitions",
        "epochs",
        "notes",
        "ablation",
        "contributions",
    }
    assert found["cache_bytes"] == 480 * 17 * 64 * 4
    assert found["cache_bytes_on_disk"] == 0
    assert found["total_s"] == pytest.approx(found["training_s"] + found["transition_s"])
    assert set(found["phases"][0]) == {
        "index",
        "first_epoch",
        "epochs",
        "frozen_layers",
        "cached_layers",
        "fills_cache",
        "pipeline",
        "data",
        "layers_per_stage",
        "micro_batch",
        "microbatches",
        "iterations",
        "iteration_s",
        "epoch_s",
        "samples_per_s",
        "bubble_fraction",
        "peak_memory_bytes",
        "fits",
    }
    assert set(found["transitions"][0]) == {
        "phase",
        "total_s",
        "moved_bytes",
        "rebuild_s",
        "load_s",
        "move_s",
    }
    assert set(found["epochs"][0]) == {
        "epoch",
        "phase",
        "frozen_layers",
        "cached_layers",
        "pipeline",
        "data",
        "microbatches",
        "seconds",
        "samples_per_s",
    }
    assert [row["name"] for row in found["ablation"]] == list(COMBINATIONS)
    assert "ablation" not in summary(rows[-1].prediction)


@settings(max_examples=18)
@given(
    alpha=st.sampled_from([0.2, 1 / 3, 0.5]),
    interval=st.integers(1, 3),
    frozen_first=st.booleans(),
)
def test_a_run_that_freezes_more_often_takes_no_longer(
    alpha: float, interval: int, frozen_first: bool
) -> None:
    """With a cache and transitions that take no time."""

    def total(**run: object) -> ElasticPrediction:
        free = {"read": 1e15, "write": 1e15}
        scenario = small_run(plan={"frozen_first": frozen_first}, cache=free, microbatches=EVEN)
        return predict_run(changed(scenario, alpha=alpha, **run))

    often, seldom = total(interval=interval), total(interval=interval + 1)
    assert often.training_ns <= seldom.training_ns
