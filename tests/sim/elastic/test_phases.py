"""A run cut into phases, and a phase as an ordinary scenario."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.loader import load
from scenarios.schema import Elastic, Model, Plan, Scenario
from sim.elastic.caching import cached_depths
from sim.elastic.phases import Layout, elastic_of, phase_scenario, phases

FROZEN = st.lists(st.integers(0, 8), min_size=1, max_size=10).map(sorted)


def scenario(**plan: object) -> Scenario:
    settings = {"pipeline": 4, "data": 2, "placement": "pipeline-data-tensor", **plan}
    return Scenario(
        name="run",
        model=Model(layers=8, hidden=8, heads=2, sequence=4, vocabulary=8, tied_embeddings=False),
        plan=Plan(**settings),  # type: ignore[arg-type]
        elastic=Elastic(epochs=6, samples=100),
    )


def layout(frozen: int, stages: int, data: int, apart: int | None = None) -> Layout:
    return Layout(
        frozen_layers=frozen,
        layers_per_stage=(8 // stages,) * stages,
        data=data,
        micro_batch=2,
        microbatches=4,
        replica_ranks=apart,
    )


def test_the_cache_is_read_at_what_the_epoch_before_has_left() -> None:
    # Epoch 1 fills at 3; epoch 2 reads that, computes layer 3 and fills at 4; epoch 3 reads alone.
    assert cached_depths((0, 3, 4, 4, 6), 2) == (
        (0, False),
        (0, True),
        (3, True),
        (4, False),
        (4, True),
    )
    assert cached_depths((0, 3, 4, 4, 6), 4) == (
        (0, False),
        (0, False),
        (0, True),
        (4, False),
        (4, True),
    )
    assert cached_depths((0, 3, 4), None) == ((0, False),) * 3


def test_without_frozen_layers_there_is_nothing_to_cache() -> None:
    assert cached_depths((0, 0, 1), 0) == ((0, False), (0, False), (0, True))


@given(frozen=FROZEN, caches_from=st.none() | st.integers(0, 9), length=st.integers(1, 10))
def test_what_an_epoch_does_depends_on_no_later_one(
    frozen: list[int], caches_from: int | None, length: int
) -> None:
    whole = cached_depths(frozen, caches_from)
    assert cached_depths(frozen[:length], caches_from) == whole[:length]
    for depth, frozen_layers in zip(whole, frozen, strict=True):
        assert depth[0] <= frozen_layers
        assert not depth[1] or depth[0] < frozen_layers


@given(frozen=FROZEN, caches_from=st.none() | st.integers(0, 9))
def test_phases_cover_the_epochs_and_differ_from_their_neighbours(
    frozen: list[int], caches_from: int | None
) -> None:
    layouts = [layout(n, 1 if n > 4 else 4, 8 if n > 4 else 2) for n in range(9)]
    found = phases(scenario(), frozen, layouts, caches_from)
    epochs = [n for p in found for n in range(p.first_epoch, p.first_epoch + p.epochs)]
    assert epochs == list(range(len(frozen)))
    assert [p.index for p in found] == list(range(len(found)))
    depths = cached_depths(frozen, caches_from)
    for phase in found:
        for epoch in range(phase.first_epoch, phase.first_epoch + phase.epochs):
            assert phase.frozen_layers == frozen[epoch]
            assert (phase.cached_layers, phase.fills_cache) == depths[epoch]
    for a, b in pairwise(found):
        assert replace(b, index=a.index, first_epoch=a.first_epoch, epochs=a.epochs) != a


def test_an_epoch_takes_the_iteration_that_it_begins() -> None:
    assert [p.iterations for p in phases(scenario(), (0,), [layout(0, 4, 2)], None)] == [7]


def test_a_phase_is_a_plan_of_its_own() -> None:
    layouts = [layout(n, 4 if n < 4 else 2, 2 if n < 4 else 4) for n in range(9)]
    first, filling, reading = phases(scenario(), (0, 4, 4), layouts, 1)
    assert phase_scenario(scenario(), first).plan == replace(
        scenario().plan, layers_per_stage=(2, 2, 2, 2), micro_batch=2, microbatches=4
    )
    plan = phase_scenario(scenario(), filling).plan
    assert (plan.pipeline, plan.data, plan.layers_per_stage) == (2, 4, (4, 4))
    assert (plan.frozen_layers, plan.cached_layers, plan.fills_cache) == (4, 0, True)
    plan = phase_scenario(scenario(), reading).plan
    assert (plan.frozen_layers, plan.cached_layers, plan.fills_cache) == (4, 4, False)


@pytest.mark.parametrize("stages", [1, 2])
def test_a_rank_is_where_its_layout_says(stages: int) -> None:
    """Also where replicas keep the first devices of those that they had."""
    for data, apart in ((2, 4), (8 // stages, None)):
        small = layout(4, stages, data, apart)
        (phase,) = phases(scenario(), (4,), [layout(0, 4, 2)] * 4 + [small], None)
        plan = phase_scenario(scenario(), phase).plan
        for stage in range(stages):
            for replica in range(data):
                assert plan.device_of(stage, replica, 0) == small.rank_of(stage, replica)


def test_one_iteration_is_no_run() -> None:
    with pytest.raises(ValueError, match="no `elastic` section"):
        elastic_of(load("local-2rank").scenario)
