"""Times of frozen and cached layers: each pass has what it goes through, and no more."""

from __future__ import annotations

from dataclasses import replace

import pytest

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
from sim.cost.cache import cache_rates, disk_share, node_bytes, sample_bytes
from sim.cost.collectives import all_reduce_ns, data_group
from sim.cost.costs import CostKey, CostTable
from sim.cost.modelled import part_times, setup_in, setup_of
from sim.cost.parts import total_ns
from sim.cost.path import composition_of
from sim.cost.profile import Profile
from sim.cost.shapes import PartTime, shape_of
from sim.cost.table import cost_table, cost_variants
from sim.prediction import predict
from sim.schedule.actions import Action, Kind
from sim.schedule.build import build_program
from sim.workload.parameters import head_parameters, layer_parameters

F, B = Kind.FORWARD, Kind.BACKWARD
LOADING = 70_000
DEVICE = Device(
    name="core",
    kind="cpu",
    memory=2**33,
    memory_bandwidth=1e10,
    matmul_peak={"fp32": 1e11},
    efficiency=Efficiency(data_loading=LOADING, iteration_overhead=500),
)
CLUSTER = Cluster(
    nodes=2,
    devices_per_node=4,
    device=DEVICE,
    intra_node=Link(bandwidth=1e10, latency=1000),
    inter_node=Link(bandwidth=1e9, latency=2000),
)
MODEL = Model(
    layers=8, hidden=64, heads=4, sequence=32, vocabulary=256, tied_embeddings=False, name="m"
)


def scenario(elastic: Elastic | None = None, **plan: object) -> Scenario:
    fields = {
        "pipeline": 4,
        "data": 2,
        "schedule": "gpipe",
        "micro_batch": 2,
        "microbatches": 3,
        "precision": "fp32",
        "clip_gradients": True,
        "placement": "pipeline-data-tensor",
        **plan,
    }
    return Scenario(
        name="s",
        model=MODEL,
        cluster=CLUSTER,
        plan=Plan(**fields),  # type: ignore[arg-type]
        elastic=elastic,
    )


def table(s: Scenario, profile: Profile | None = None) -> CostTable:
    return cost_table(s, build_program(s), profile)


def ns(found: CostTable, kind: Kind, stage: int, variant: int = 0) -> int:
    return found.costs[CostKey(kind, stage, variant=variant)].duration_ns


def modelled(s: Scenario, name: str) -> dict[str, float]:
    times = part_times(setup_of(s), 32, 0)
    return {p: total_ns(times[p][name]) for p in ("layer", "embedding", "head")}  # type: ignore[index]


def test_forward_through_all_backward_through_the_active_ones() -> None:
    s = scenario(frozen_layers=3)
    found = table(s)
    forward, backward = modelled(s, "forward"), modelled(s, "backward")
    assert ns(found, F, 0) == round(2 * forward["layer"] + forward["embedding"] + LOADING)
    assert CostKey(B, 0) not in found.costs
    assert ns(found, F, 1) == round(2 * forward["layer"])
    assert ns(found, B, 1) == round(backward["layer"])
    assert ns(found, B, 2) == round(2 * backward["layer"])
    assert ns(found, B, 3) == round(2 * backward["layer"] + backward["head"])


def test_the_embedding_is_not_trained_with_a_frozen_layer_beside_active_ones() -> None:
    s = scenario(frozen_layers=1)
    assert ns(table(s), B, 0) == round(modelled(s, "backward")["layer"])


@pytest.mark.parametrize("recomputation", ["none", "selective", "full"])
def test_all_layers_frozen_leave_the_head(recomputation: str) -> None:
    s = scenario(frozen_layers=8, recomputation=recomputation)
    found = table(s)
    assert ns(found, B, 3) == round(modelled(s, "backward")["head"])
    assert "recomputation" not in found.costs[CostKey(B, 3)].parts


def test_what_is_not_trained_is_neither_reduced_nor_updated() -> None:
    s = scenario(frozen_layers=3)
    found = table(s)
    group, launch = data_group(CLUSTER, s.plan), DEVICE.efficiency.launch
    sizes = {1: layer_parameters(MODEL), 3: 2 * layer_parameters(MODEL) + head_parameters(MODEL)}
    for stage, count in sizes.items():
        expected = launch + all_reduce_ns(4 * count, group, CLUSTER)
        assert ns(found, Kind.REDUCE_GRADIENTS, stage) == round(expected)
    assert CostKey(Kind.REDUCE_GRADIENTS, 0) not in found.costs
    # Without gradients, parameters to update, or moments, the host's time is left.
    assert ns(found, Kind.OPTIMIZER, 0) == launch + 500
    plain = table(scenario())
    assert ns(found, Kind.OPTIMIZER, 1) < ns(plain, Kind.OPTIMIZER, 1)
    assert ns(found, Kind.OPTIMIZER, 3) == ns(plain, Kind.OPTIMIZER, 3)
    all_frozen = table(scenario(frozen_layers=8))
    assert ns(all_frozen, Kind.GRADIENT_NORM, 0) < ns(plain, Kind.GRADIENT_NORM, 0)


def test_overlapped_reductions_lie_beside_the_active_layers_alone() -> None:
    """One active layer of two: its gradients are whole when the pass ends."""
    s = scenario(frozen_layers=3, gradient_reduction="overlapped")
    found = table(s)
    assert found.costs[CostKey(Kind.REDUCE_GRADIENTS, 1)].hidden_ns == 0
    assert predict(s).iteration_ns <= predict(scenario(frozen_layers=3)).iteration_ns


def test_reading_instead_of_computing() -> None:
    s = scenario(frozen_layers=3, cached_layers=1)
    found, forward = table(s), modelled(s, "forward")
    size = 4 * 32 * 64
    assert sample_bytes(s) == size
    # One rank of stage 0 on each node; two sequences at 4 GB/s. What is read is not loaded.
    read = 2 * size / 4e9 * 1e9
    assert ns(found, F, 0) == round(forward["layer"] + read)
    assert found.costs[CostKey(F, 0)].parts["cache"] == round(read)
    assert "data_loading" not in found.costs[CostKey(F, 0)].parts
    all_of_it = table(scenario(frozen_layers=3, cached_layers=2))
    assert ns(all_of_it, F, 0) == round(read)
    # Targets are loaded with the head.
    assert found.costs[CostKey(F, 3)].parts["data_loading"] == LOADING


def test_writing_beside_computing() -> None:
    found = table(scenario(frozen_layers=2, fills_cache=True))
    write = 2 * 4 * 32 * 64 / 2e9 * 1e9
    assert found.costs[CostKey(F, 0)].parts["cache"] == round(write)
    assert not any("cache" in found.costs[CostKey(F, stage)].parts for stage in (1, 2, 3))
    both = table(scenario(frozen_layers=2, cached_layers=1, fills_cache=True))
    assert both.costs[CostKey(F, 0)].parts["cache"] == round(1.5 * write)


def test_ranks_of_a_node_share_its_rate() -> None:
    one = cache_rates(scenario(frozen_layers=2), CLUSTER)
    four = scenario(pipeline=2, data=4, placement="pipeline-data-tensor", frozen_layers=2)
    two = cache_rates(four, CLUSTER)
    assert two.read_ns == pytest.approx(2 * one.read_ns)
    # All four first stages on one node.
    apart = scenario(pipeline=2, data=4, placement="data-pipeline-tensor", frozen_layers=2)
    assert cache_rates(apart, CLUSTER).write_ns == pytest.approx(4 * one.write_ns)


def test_what_the_memory_does_not_hold_goes_at_the_disks_rate() -> None:
    """Of 100 samples on two nodes, 50 each; room for 20 of them."""
    size = 4 * 32 * 64
    cache = ElasticCache(memory=20 * size, read=4e9, write=2e9, disk_read=1e9, disk_write=5e8)
    s = scenario(Elastic(epochs=2, samples=100, cache=cache), frozen_layers=2, cached_layers=2)
    assert node_bytes(s, CLUSTER) == 50 * size
    assert disk_share(s, CLUSTER) == pytest.approx(0.6)
    rates = cache_rates(s, CLUSTER)
    assert rates.read_ns == pytest.approx(size * (0.4 / 4 + 0.6 / 1))
    assert rates.write_ns == pytest.approx(size * (0.4 / 2 + 0.6 / 0.5))
    roomy = replace(cache, memory=50 * size)
    fits = scenario(Elastic(epochs=2, samples=100, cache=roomy), frozen_layers=2)
    assert disk_share(fits, CLUSTER) == 0
    assert disk_share(scenario(frozen_layers=2), CLUSTER) == 0


def test_frozen_layers_over_the_whole_batch_first() -> None:
    """Microbatch 0's pass: both frozen layers and the embedding at 6 sequences, three microbatches'
    data and writing, then its own active layer; the others' passes have the active layer alone."""
    plan = {"layers_per_stage": (3, 2, 2, 1), "frozen_layers": 2, "fills_cache": True}
    s = scenario(frozen_first=True, **plan)
    found, plain = table(s), table(scenario(**plan))
    assert found.variants == (1, 0, 0)
    whole = modelled(replace(s, plan=replace(s.plan, micro_batch=6)), "forward")
    one = modelled(s, "forward")
    write = plain.costs[CostKey(F, 0)].parts["cache"]
    expected = 2 * whole["layer"] + whole["embedding"] + 3 * (LOADING + write) + one["layer"]
    assert ns(found, F, 0, 1) == pytest.approx(expected, abs=4)
    assert ns(found, F, 0, 0) == round(one["layer"])
    for stage in (1, 2, 3):
        assert ns(found, F, stage, 1) == ns(found, F, stage, 0) == ns(plain, F, stage)
    for stage in range(4):
        assert ns(found, B, stage, 1) == ns(found, B, stage, 0) == ns(plain, B, stage)
    first = predict(s).timeline
    passes = {span.action: span.duration_ns for span in first.spans if span.lane == "compute"}
    assert passes[Action(F, 0, 0)] == ns(found, F, 0, 1)
    assert passes[Action(F, 0, 1)] == passes[Action(F, 0, 2)] == ns(found, F, 0, 0)


def test_one_stage_loads_its_data_once() -> None:
    s = replace(scenario(pipeline=1, data=1, frozen_layers=2), cluster=replace(CLUSTER, nodes=1))
    first = replace(s, plan=replace(s.plan, frozen_first=True))
    loaded = [
        [found.cost(Action(F, 0, i)).parts.get("data_loading", 0) for i in range(3)]
        for found in (table(s), table(first))
    ]
    assert loaded == [[LOADING] * 3, [3 * LOADING, 0, 0]]
    read = replace(first, plan=replace(first.plan, cached_layers=2))
    targets = [table(read).cost(Action(F, 0, i)).parts["data_loading"] for i in range(3)]
    assert targets == [LOADING] * 3


def test_one_microbatch_alone_is_as_it_was() -> None:
    s = scenario(frozen_layers=2, microbatches=1)
    first = replace(s, plan=replace(s.plan, frozen_first=True))
    assert table(first) == table(s)


def measured_profile(s: Scenario) -> Profile:
    """Times of parts in the scenario's shape: layer 1000 and 2000, embedding 10, head 300 and
    600, a fixed 7 each; and an optimizer's."""
    times = {
        ("layer", "forward"): 1000.0,
        ("layer", "backward"): 2000.0,
        ("embedding", "forward"): 10.0,
        ("embedding", "backward"): 20.0,
        ("head", "forward"): 300.0,
        ("head", "backward"): 600.0,
        ("action", "forward"): 7.0,
        ("action", "backward"): 7.0,
        ("layer", "optimizer"): 50.0,
        ("embedding", "optimizer"): 30.0,
        ("head", "optimizer"): 40.0,
        ("action", "optimizer"): 5.0,
    }
    parts = {
        key: PartTime(median_ns=time, quartiles_ns=(time, time), samples=9)
        for key, time in times.items()
    }
    return Profile(device="core", provenance="by hand", times={shape_of(s): parts})  # type: ignore[dict-item]


def test_measured_times_of_parts_count_the_same_way() -> None:
    s = scenario(frozen_layers=3)
    profile = measured_profile(s)
    found = table(s, profile)
    assert ns(found, F, 0) == 7 + 2000 + 10 + LOADING
    assert ns(found, F, 1) == 7 + 2000
    assert ns(found, B, 1) == 7 + 2000
    assert ns(found, B, 3) == 7 + 4000 + 600
    steps = [found.costs[CostKey(Kind.OPTIMIZER, rank)].parts["measured"] for rank in range(4)]
    assert steps == [5, 5 + 50, 5 + 100, 5 + 100 + 40]
    cached = table(scenario(frozen_layers=3, cached_layers=2), profile)
    assert cached.costs[CostKey(F, 0)].parts["measured"] == 7


def test_measured_times_over_the_whole_batch_scale_by_the_model() -> None:
    """Six sequences were not measured: the model's time of them, scaled by measured over modelled
    of two."""
    plan = {"layers_per_stage": (3, 2, 2, 1), "frozen_layers": 2, "frozen_first": True}
    s = scenario(**plan)
    found = table(s, measured_profile(s))
    assert ns(found, F, 0, 0) == 7 + 1000
    one = modelled(s, "forward")
    whole = modelled(replace(s, plan=replace(s.plan, micro_batch=6)), "forward")
    layers = 2 * 1000 * whole["layer"] / one["layer"]
    embedding = 10 * whole["embedding"] / one["embedding"]
    assert ns(found, F, 0, 1) == pytest.approx(7 + 1000 + layers + embedding + 3 * LOADING, abs=2)
    assert any("of 32 tokens: not measured" in what for what, _ in found.assumed)
    assert setup_in(setup_of(s), s.plan.groups[0]).plan == s.plan


def test_a_fit_finds_the_first_microbatchs_own_costs() -> None:
    """The path found by simulating gives the simulated time again, from the table alone."""
    s = scenario(layers_per_stage=(3, 2, 2, 1), frozen_layers=2, frozen_first=True)
    prediction = predict(s)
    path = composition_of(
        prediction.critical_path.composition(),
        prediction.costs,
        prediction.critical_path.queued_ns,
    )
    assert path.costs[CostKey(F, 0, variant=1)] == 1
    assert path.time_ns(prediction.costs) == prediction.iteration_ns
    assert cost_variants(s.plan) == (1, 0, 0)
