"""What one rank alone reaches of a cache bounds its share of the node's rate."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scenarios.loader import load
from scenarios.schema import ElasticCache, Scenario
from sim.cost.cache import cache_rates, sample_bytes


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
