"""The best slicing of a scenario: by formula, then simulated, within the scenario's memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scenarios.loader import load
from scenarios.schema import Cluster, MicrobatchGroup, Scenario
from sim.planner.search import (
    CannotSlice,
    SlicingResult,
    best_slicing,
    resolve,
    with_slices,
)
from sim.prediction import predict

LONG = ("plan.schedule=terapipe", "plan.microbatches=1", "plan.micro_batch=4")


def scenario(*settings: str, name: str = "local-2rank") -> Scenario:
    return load(name, [*LONG, *settings]).scenario


@pytest.fixture(scope="module")
def found() -> SlicingResult:
    return best_slicing(scenario("model.layers=8", "plan.pipeline=4", "cluster.devices_per_node=4"))


def test_the_best_is_the_fastest_simulated_and_what_simulate_says(found: SlicingResult) -> None:
    times = [candidate.iteration_ns for candidate in found.candidates]
    assert times == sorted(times) and found.best.iteration_ns == times[0]
    assert found.best.iteration_ns < found.whole.iteration_ns
    assert found.best.iteration_ns <= found.formula.iteration_ns
    for candidate in (found.best, found.whole, found.other_order):
        again = predict(candidate.scenario)
        assert again.figures.iteration_ns == candidate.iteration_ns
        assert again.memory is not None
        assert max(curve.peak_bytes for curve in again.memory) == candidate.peak_bytes


def test_the_formula_is_that_of_the_costs(found: SlicingResult) -> None:
    """sum t + (K - 1) max t of the formula's candidate is less than of any other."""
    objectives = [c.formula_ns for c in found.candidates if c.formula_ns is not None]
    assert found.formula.formula_ns == min(objectives) and len(objectives) > 5


def test_every_candidate_holds_the_whole_batch(found: SlicingResult) -> None:
    for candidate in found.candidates:
        plan = candidate.scenario.plan
        assert plan.num_sequences == 4
        for group in plan.groups:
            assert not isinstance(group.slices, tuple) or sum(group.slices) == 128


def test_microbatches_can_be_kept() -> None:
    whole = scenario("plan.microbatches=2", "plan.micro_batch=2")
    kept = best_slicing(whole, keep_microbatches=True, simulations=6)
    for candidate in kept.candidates:
        assert [group.micro_batch for group in candidate.groups] == [2]
        assert [group.microbatches for group in candidate.groups] == [2]


def test_what_does_not_fit_is_not_the_answer() -> None:
    """A cap between the peaks of the candidates excludes those above it."""
    whole = scenario("plan.microbatches=4", "plan.micro_batch=1")
    free = best_slicing(whole, simulations=16)
    peaks = sorted(c.peak_bytes for c in free.candidates if c.peak_bytes is not None)
    assert peaks[0] < peaks[-1]
    cap = (peaks[0] + peaks[-1]) // 2
    capped = best_slicing(whole, simulations=16, memory_bytes=cap)
    assert capped.best.fits and capped.best.peak_bytes is not None
    assert capped.best.peak_bytes <= cap
    assert any(not candidate.fits for candidate in capped.candidates)
    assert capped.best.iteration_ns >= free.best.iteration_ns


def test_where_nothing_fits_the_message_says_so() -> None:
    with pytest.raises(CannotSlice, match="no slice of 8 tokens or more fits in memory"):
        best_slicing(scenario(), memory_bytes=1 << 20)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("plan.schedule=interleaved",), "`--set plan.schedule=terapipe` would work"),
        (("model.family=bert",), "only causal attention"),
        (("model.sequence=130",), "130"),
    ],
)
def test_what_cannot_be_sliced_is_told(settings: tuple[str, ...], words: str) -> None:
    with pytest.raises(CannotSlice, match=words):
        best_slicing(scenario(*settings))


def test_replays_cannot_be_searched() -> None:
    with pytest.raises(CannotSlice, match="has no model or no cluster"):
        best_slicing(load("replay/stage-times").scenario)


def test_sequence_parallelism_asks_for_units_that_divide() -> None:
    shared = scenario(name="local-sp2-pp2")
    with pytest.raises(CannotSlice, match="--granularity 2 would work"):
        best_slicing(shared, granularity=1)
    result = best_slicing(shared, granularity=2, simulations=4)
    assert result.best.fits


def test_optimal_slices_are_found_for_the_plan_s_microbatches() -> None:
    asked = scenario("plan.slices=optimal")
    done = resolve(asked)
    assert done.plan.slices != "optimal" and done.plan.micro_batch == 4
    assert replace(done, plan=replace(done.plan, slices="optimal")) == asked
    assert resolve(done) is done


def test_unequal_microbatches_become_groups() -> None:
    groups = (
        MicrobatchGroup(microbatches=2, micro_batch=1, slices=(64, 64)),
        MicrobatchGroup(microbatches=1, micro_batch=2),
    )
    cut = with_slices(scenario(), groups)
    assert cut.plan.groups == groups and cut.plan.num_sequences == 4
    back = with_slices(cut, (MicrobatchGroup(microbatches=4, slices=(100, 28)),))
    assert back.plan.slices == (100, 28) and back.plan.microbatches == 4
    assert back.plan.microbatch_groups is None


def test_a_better_pipeline_needs_more_slices() -> None:
    """The deeper the pipeline, the more its bubble is worth cutting."""
    counts = []
    for pipeline in (2, 8):
        cluster = scenario().cluster
        assert isinstance(cluster, Cluster)
        deep = scenario(
            "model.layers=8", f"plan.pipeline={pipeline}", f"cluster.devices_per_node={pipeline}"
        )
        counts.append(best_slicing(deep, simulations=8).formula.num_slices)
    assert counts[0] < counts[1]
