"""Freezing and caching over whole predictions: never slower, never larger, nothing for nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios.schema import (
    Cluster,
    Device,
    Efficiency,
    Elastic,
    ElasticCache,
    Link,
    Model,
    Plan,
    Scenario,
)
from sim.prediction import Prediction, predict

AT_ONCE = 1e30
CLUSTER = Cluster(
    devices_per_node=4,
    device=Device(
        name="core",
        kind="cpu",
        memory=2**36,
        memory_bandwidth=1e10,
        matmul_peak={"fp32": 1e11},
        efficiency=Efficiency(data_loading=20_000),
    ),
    intra_node=Link(bandwidth=1e10, latency=1000),
    inter_node=Link(bandwidth=1e9, latency=1000),
)
LAYERS = 7


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    ends = draw(st.sets(st.integers(1, LAYERS - 1), max_size=3))
    bounds = [0, *sorted(ends), LAYERS]
    cut = tuple(b - a for a, b in pairwise(bounds))
    model = Model(
        layers=LAYERS,
        hidden=draw(st.sampled_from([16, 64])),
        heads=4,
        sequence=draw(st.sampled_from([8, 32])),
        vocabulary=draw(st.sampled_from([10, 500])),
        tied_embeddings=False,
    )
    plan = Plan(
        schedule=draw(st.sampled_from(["gpipe", "1f1b"])),
        pipeline=len(cut),
        data=draw(st.sampled_from([1, 2])),
        layers_per_stage=cut,
        micro_batch=draw(st.integers(1, 3)),
        microbatches=draw(st.integers(1, 5)),
        precision="fp32",
        gradient_reduction=draw(st.sampled_from(["after", "overlapped"])),
        clip_gradients=draw(st.booleans()),
        recomputation=draw(st.sampled_from(["none", "selective", "full"])),
        p2p=draw(st.sampled_from(["overlapped", "blocking", "exchange"])),
    )
    cache = ElasticCache(read=AT_ONCE, write=AT_ONCE, disk_read=AT_ONCE, disk_write=AT_ONCE)
    cluster = replace(CLUSTER, devices_per_node=plan.num_devices)
    elastic = Elastic(epochs=1, samples=1000, cache=cache)
    return Scenario(name="s", model=model, cluster=cluster, plan=plan, elastic=elastic)


def frozen(scenario: Scenario, layers: int, cached: int = 0) -> Prediction:
    plan = replace(scenario.plan, frozen_layers=layers, cached_layers=cached)
    return predict(replace(scenario, plan=plan))


def peaks(prediction: Prediction) -> list[int]:
    assert prediction.memory is not None
    return [curve.peak_bytes for curve in prediction.memory]


@settings(max_examples=60, deadline=None)
@given(scenarios())
def test_freezing_one_more_layer_is_never_slower_and_never_larger(scenario: Scenario) -> None:
    before = frozen(scenario, 0)
    for layers in range(1, LAYERS + 1):
        now = frozen(scenario, layers)
        assert now.iteration_ns <= before.iteration_ns
        assert all(a <= b for a, b in zip(peaks(now), peaks(before), strict=True))
        before = now


@settings(max_examples=40, deadline=None)
@given(scenarios())
def test_caching_one_more_layer_is_never_slower_nor_larger_than_what_is_read(
    scenario: Scenario,
) -> None:
    """With a cache that is read at once; a microbatch's activations are on their way from it."""
    layers = (scenario.plan.layers_per_stage or (LAYERS,))[0]
    uncached = before = frozen(scenario, layers)
    model, plan = scenario.model, scenario.plan
    assert model is not None
    read = 4 * plan.micro_batch * model.sequence * model.hidden
    for cached in range(1, layers + 1):
        now = frozen(scenario, layers, cached)
        assert now.iteration_ns <= before.iteration_ns
        rest = zip(peaks(now)[1:], peaks(uncached)[1:], strict=True)
        assert all(a == b for a, b in rest)
        assert peaks(now)[0] <= peaks(uncached)[0] + read
        before = now


@settings(max_examples=20, deadline=None)
@given(scenarios())
def test_nothing_frozen_is_as_it_was(scenario: Scenario) -> None:
    plain = predict(replace(scenario, elastic=None))
    plan = replace(scenario.plan, frozen_first=True)
    other = predict(replace(scenario, plan=plan))
    assert (other.timeline, other.costs, other.memory) == (
        plain.timeline,
        plain.costs,
        plain.memory,
    )


PINNED: tuple[tuple[dict[str, object], int, list[int]], ...] = (
    ({"pipeline": 2, "schedule": "1f1b"}, 263150963, [6684672, 5587968]),
    (
        {"pipeline": 2, "schedule": "1f1b", "p2p": "blocking", "recomputation": "full"},
        346127721,
        [4341760, 4237312],
    ),
    (
        {"pipeline": 2, "schedule": "gpipe", "data": 2, "gradient_reduction": "overlapped"},
        263273955,
        [9445376, 10199040],
    ),
    ({"pipeline": 1, "tensor": 2, "data": 2, "sharding": "full"}, 250261076, [3849216]),
    (
        {"pipeline": 4, "schedule": "gpipe", "sharding": "optimizer", "clip_gradients": True},
        187699634,
        [5093376, 4614144, 4614144, 5847040],
    ),
)


def pinned(plan: dict[str, object]) -> Prediction:
    model = Model(layers=8, hidden=64, heads=4, sequence=32, vocabulary=500)
    asked = Plan(micro_batch=2, microbatches=4, precision="fp32", **plan)  # type: ignore[arg-type]
    cluster = replace(CLUSTER, devices_per_node=asked.num_devices)
    return predict(Scenario(name="s", model=model, cluster=cluster, plan=asked))


@pytest.mark.parametrize(("plan", "iteration_ns", "memory"), PINNED)
def test_predictions_are_as_before_there_were_frozen_layers(
    plan: dict[str, object], iteration_ns: int, memory: list[int]
) -> None:
    """To the nanosecond and the byte, as the code before frozen layers had them."""
    found = pinned(plan)
    assert (found.iteration_ns, peaks(found)) == (iteration_ns, memory)
