"""What is measured: cuts, the grid around a scenario, and real slices of a small one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.measure import calmest, measure_scenario
from executor.measure_grid import EVERY, cut, grid_of
from scenarios.loader import load
from scenarios.schema import Scenario
from sim.cost.shapes import shape_of, shapes_of
from sim.planner.search import resolve
from sim.prediction import predict

TINY = (
    "model.layers=4",
    "model.hidden=64",
    "model.sequence=128",
    "plan.microbatches=2",
    "plan.micro_batch=1",
)


def scenario(*overrides: str) -> Scenario:
    return load("local-2rank", (*TINY, *overrides)).scenario


@given(st.integers(1, 3000), st.lists(st.integers(1, 300), min_size=1, max_size=4))
def test_a_cut_is_the_whole_sequence_with_the_tokens_asked_for(
    sequence: int, tokens: list[int]
) -> None:
    if sum(tokens) > sequence:
        return
    slices, timed = cut(sequence, *tokens)
    assert sum(slices) == sequence and min(slices) > 0
    found = [slices[index] for index in timed]
    times = min(4, sequence // sum(tokens))
    assert found == tokens * times
    assert timed[: len(tokens)] == tuple(range(len(tokens)))
    if times > 1:
        assert timed[-1] == len(slices) - 1


def test_the_grid_spans_batch_tokens_and_context() -> None:
    long = scenario("model.sequence=1024", "plan.micro_batch=2")
    shapes = grid_of(long, quick=False).shapes(long)
    points = {(s.micro_batch, s.tokens, s.context) for s in shapes}
    assert len(points) == len(shapes) < 100
    assert {b for b, _, _ in points} == {1, 2, 4}
    for tokens in (8, 16, 32, 64, 128, 256, 512, 1024):
        contexts = {c for b, n, c in points if b == 2 and n == tokens}
        assert 0 in contexts and len(contexts) >= min(4, 1024 // tokens)
        assert max(contexts) + tokens >= 1024 - 64 - 32
    for batch in (1, 4):
        assert {n for b, n, _ in points if b == batch} >= {8, 64, 256, 1024}
    assert all(c + n <= 1024 for _, n, c in points)


def test_the_scenarios_own_slices_are_in_the_grid() -> None:
    for cutting in ("plan.slices=[100,20,8]", "plan.slices=5", "plan.slices=null"):
        own = scenario(cutting, "plan.schedule=terapipe")
        for quick in (False, True):
            grid = grid_of(own, quick=quick)
            assert set(grid.shapes(own)) >= set(itertools.chain(*shapes_of(own)))
            assert grid.series[0].split == EVERY
    searched = scenario("plan.slices=optimal", "plan.schedule=terapipe")
    assert shape_of(searched) in grid_of(searched, quick=True).shapes(searched)
    groups = "[{micro_batch: 3, slices: 2}, {micro_batch: 1}]"
    unlike = scenario(
        "plan.microbatches=null", f"plan.microbatch_groups={groups}", "plan.schedule=terapipe"
    )
    batches = {s.micro_batch for s in grid_of(unlike, quick=False).shapes(unlike)}
    assert batches == {1, 3}


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_what_is_not_causal_is_measured_whole(family: str) -> None:
    more = ("model.patch_inputs=48",) if family == "vit" else ("model.vocabulary=300",)
    whole = scenario(f"model.family={family}", *more)
    for quick in (False, True):
        shapes = grid_of(whole, quick=quick).shapes(whole)
        assert {(s.tokens, s.context) for s in shapes} == {(128, 0)}


def test_slices_are_really_measured_and_predict_others() -> None:
    sliced = scenario("plan.slices=[64,40,24]", "plan.schedule=terapipe")
    told: list[str] = []
    profile = measure_scenario(sliced, quick=True, progress=told.append)
    assert "measuring" in told[0] and "shapes" in told[0]
    for shape in itertools.chain(*shapes_of(sliced)):
        times = profile.times[shape]
        for pass_ in ("forward", "backward", "backward_input", "backward_weight"):
            assert times["layer", pass_].samples > 0  # type: ignore[index]
    assert profile.times[shape_of(sliced)]["layer", "optimizer"].median_ns > 0
    assert not predict(sliced, profile).costs.assumed
    (fit,) = profile.slice_fits.values()
    assert fit.passes["layer", "forward"].terms and fit.median_error is not None
    other = predict(scenario("plan.slices=[90,38]", "plan.schedule=terapipe"), profile)
    assert any("left out" in what for what, _ in other.costs.assumed)


def test_disturbed_repetitions_are_left_out_but_for_the_calmest_few() -> None:
    calm = [(0.0, "a"), (0.3, "b"), (0.04, "c"), (0.01, "d"), (0.02, "e"), (0.06, "f")]
    assert calmest(calm) == ["a", "d", "e", "c"]
    busy = [(0.9, "a"), (0.3, "b"), (0.4, "c"), (0.01, "d"), (0.2, "e"), (0.6, "f")]
    assert calmest(busy) == ["d", "e", "b", "c"]
    assert len(calmest([(0.0, str(n)) for n in range(9)])) == 9


def test_slices_to_be_searched_are_measured_for() -> None:
    """Before there are any: the profile is what the search needs."""
    searched = scenario("plan.slices=optimal", "plan.schedule=terapipe", "model.sequence=32")
    profile = measure_scenario(searched, quick=True)
    found = resolve(searched, profile)
    assert found.plan.slices != "optimal"
    assert predict(found, profile).iteration_ns > 0
