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
from sim.workload.partition import pieces

WIDE = ("plan.tensor=16", "model.heads=16", "cluster.devices_per_node=32")
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


def test_a_cap_at_the_best_s_own_peak_takes_nothing_away() -> None:
    """The rank with most weights is not the one with the head's large activations."""
    uneven = scenario(
        "model.layers=24",
        "plan.layers_per_stage=[23, 1]",
        "model.vocabulary=50000",
        "model.hidden=256",
        "plan.recomputation=full",
        "plan.micro_batch=8",
    )
    free = best_slicing(uneven, simulations=8, keep_microbatches=True)
    cap = free.best.peak_bytes
    capped = best_slicing(uneven, simulations=8, keep_microbatches=True, memory_bytes=cap)
    assert capped.best.fits and capped.best.groups == free.best.groups


def test_smaller_microbatches_are_tried_where_memory_is_short() -> None:
    whole = scenario(
        "plan.schedule=1f1b",
        "plan.microbatches=32",
        "plan.micro_batch=2",
        "model.vocabulary=20000",
    )
    free = best_slicing(whole, simulations=8)
    cap = min(c.peak_bytes for c in free.candidates if c.peak_bytes is not None) - 1
    capped = best_slicing(whole, simulations=8, memory_bytes=cap)
    assert capped.best.fits and not capped.formula.fits
    assert capped.best.groups[0].micro_batch == 1


def test_where_nothing_fits_the_one_that_needs_least_comes_first() -> None:
    whole = scenario("plan.microbatches=4", "plan.micro_batch=1")
    free = best_slicing(whole, simulations=16)
    cap = min(c.peak_bytes for c in free.candidates if c.peak_bytes is not None) - (1 << 20)
    capped = best_slicing(whole, simulations=16, memory_bytes=cap)
    peaks = [c.peak_bytes for c in capped.candidates if c.peak_bytes is not None]
    assert not capped.best.fits and capped.best.peak_bytes == min(peaks) < max(peaks)


@pytest.mark.parametrize(
    ("name", "settings", "unit"),
    [
        ("local-2rank", ("model.sequence=126",), 7),
        ("local-2rank", ("model.sequence=127",), 1),
        ("local-2rank", ("model.sequence=2046",), 6),
        ("local-sp2-pp2", ("model.sequence=132",), 6),
        ("local-sp2-pp2", (*WIDE, "model.sequence=96"), 16),
    ],
)
def test_optimal_slices_are_searched_in_units_that_divide(
    name: str, settings: tuple[str, ...], unit: int
) -> None:
    """And that sequence parallelism shares out; about as long as the paper's, not too many."""
    asked = scenario("plan.slices=optimal", *settings, name=name)
    assert asked.model is not None
    done = resolve(asked)
    (cut,) = set(pieces(done))
    assert sum(piece.tokens for piece in cut) == asked.model.sequence
    assert all(piece.tokens % unit == 0 for piece in cut)


def test_a_sequence_without_divisors_is_told() -> None:
    with pytest.raises(CannotSlice, match=r"`model\.sequence=4096` would work"):
        resolve(scenario("plan.slices=optimal", "model.sequence=4099"))


def test_too_few_simulations_are_told() -> None:
    with pytest.raises(CannotSlice, match=r"0 simulations .*; 4 would work"):
        best_slicing(scenario(), simulations=0)


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
    with pytest.raises(CannotSlice, match="tensor 2, for sequence parallelism; 2 would work"):
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
