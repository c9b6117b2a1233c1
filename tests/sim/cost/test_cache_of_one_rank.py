"""What one rank alone reaches of a cache bounds its share of the node's rate."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scenarios.loader import load
from scenarios.schema import ElasticCache, Scenario
from sim.cost.cache import cache_rates, sample_bytes
from sim.cost.costs import CostKey
from sim.cost.table import cost_table
from sim.schedule.actions import Kind
from sim.schedule.build import build_program


def rates(scenario: Scenario, data: int, cache: ElasticCache) -> tuple[float, float]:
    assert scenario.elastic is not None and scenario.cluster is not None
    pipeline = 16 // data
    changed = replace(
        scenario,
        plan=replace(scenario.plan, pipeline=pipeline, data=data, layers_per_stage=None),
        elastic=replace(scenario.elastic, cache=cache),
    )
    found = cache_rates(changed, scenario.cluster)
    return found.read_ns, found.write_ns


@pytest.mark.parametrize("data", [2, 16])
def test_the_least_of_share_and_cap(data: int) -> None:
    scenario = load("pipetransformer/vit-imagenet").scenario
    size = sample_bytes(scenario)
    assert size == 4 * 197 * 768
    cache = ElasticCache(memory=400 * 10**9, read=8e9, write=4e9, one_rank=2e9)
    read, write = rates(scenario, data, cache)
    on_a_node = data // 2
    assert read == pytest.approx(size * 1e9 / min(8e9 / on_a_node, 2e9))
    assert write == pytest.approx(size * 1e9 / min(4e9 / on_a_node, 2e9))
    free = rates(scenario, data, replace(cache, one_rank=None))
    assert free == pytest.approx((size / 8 * on_a_node, size / 4 * on_a_node))


def test_the_disk_has_its_own_rate() -> None:
    scenario = load("pipetransformer/vit-imagenet").scenario
    size = sample_bytes(scenario)
    cache = ElasticCache(memory=0, disk_read=1e9, disk_write=5e8, one_rank=2e9)
    assert rates(scenario, 2, cache) == pytest.approx((size, 2 * size))


@pytest.mark.parametrize(("processors", "at_once"), [(None, 4), (4, 4), (2, 2), (1, 1)])
def test_ranks_that_take_turns_on_a_processor_do_not_share_the_rate_as_well(
    processors: int | None, at_once: int
) -> None:
    """Four replicas on one node, each a stage: they read through as many processors as there are.
    What a rank waits for the others on its own is counted once, as for all of its work."""
    scenario = load("local-elastic-vit").scenario
    assert scenario.elastic is not None and scenario.cluster is not None
    cluster = replace(scenario.cluster, processors_per_node=processors)
    changed = replace(
        scenario,
        cluster=cluster,
        elastic=replace(scenario.elastic, cache=ElasticCache(read=4e9, write=2e9)),
        plan=replace(
            scenario.plan,
            pipeline=1,
            data=4,
            layers_per_stage=None,
            frozen_layers=8,
            cached_layers=8,
        ),
    )
    size, samples = sample_bytes(changed), changed.plan.micro_batch
    assert cache_rates(changed, cluster) == pytest.approx((size / 4 * at_once, size / 2 * at_once))
    found = cost_table(changed, build_program(changed)).costs[CostKey(Kind.FORWARD, 0)]
    assert found.parts["cache"] == pytest.approx(samples * size, abs=4)
