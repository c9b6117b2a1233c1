"""What the cache of frozen layers' outputs takes: its size, reading it, writing to it
(PipeTransformer, arXiv 2102.03161, section 3.4).

Each sample's activations after the last frozen layer are kept once, on the nodes whose ranks hold
the first stage, in memory as far as the cache may take it and on disk beyond. The ranks of a node
that read or write do so at once, and share the node's rate; those on one processor take turns
(sim.cost.processors), so that only one of them does at a time.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from scenarios.schema import PRECISION_BYTES, Cluster, ElasticCache, Plan, Scenario
from sim.cost.links import devices_by_rank
from sim.cost.processors import processor_of


class CacheRates(NamedTuple):
    """What a rank of the first stage takes to read and to write a sample, in nanoseconds."""

    read_ns: float
    write_ns: float


def sample_bytes(scenario: Scenario) -> int:
    """Bytes of one sample's activations between two layers: sequence x hidden elements."""
    if scenario.model is None:
        raise ValueError(f"scenario {scenario.name} has no model")
    return (
        PRECISION_BYTES[scenario.plan.precision] * scenario.model.sequence * scenario.model.hidden
    )


def first_ranks_by_node(plan: Plan, cluster: Cluster) -> Counter[int]:
    """How many ranks of the first stage, over all replicas, sit on each node that has one."""
    return Counter(device // cluster.devices_per_node for device in devices_by_rank(plan)[0])


def ranks_at_once(plan: Plan, cluster: Cluster) -> int:
    """How many ranks of the first stage use the cache at once on the node with most that do."""
    processors = {processor_of(device, cluster) for device in devices_by_rank(plan)[0]}
    on_node = cluster.processors_per_node or cluster.devices_per_node
    return max(Counter(processor // on_node for processor in processors).values())


def node_bytes(scenario: Scenario, cluster: Cluster) -> int:
    """Bytes of the cache on each of its nodes, which share the training set's samples evenly; 0
    where the scenario does not say how many samples it has."""
    if scenario.elastic is None:
        return 0
    nodes = len(first_ranks_by_node(scenario.plan, cluster))
    return -(-scenario.elastic.samples // nodes) * sample_bytes(scenario)


def disk_share(scenario: Scenario, cluster: Cluster) -> float:
    """The fraction of the cache that is on disk."""
    size = node_bytes(scenario, cluster)
    memory = _settings(scenario).memory
    return (size - memory) / size if size > memory else 0.0


def cache_rates(scenario: Scenario, cluster: Cluster) -> CacheRates:
    """What the cache takes a rank of the first stage, on the node where most use it at once: its
    share of the node's rate, or what one rank reaches at most; what is on disk goes at the disk's
    rates, in proportion.

    Not modelled: reading ahead beside the passes; a replica's tensor ranks reading shares.
    """
    cache, disk = _settings(scenario), disk_share(scenario, cluster)
    ranks = ranks_at_once(scenario.plan, cluster)
    size = sample_bytes(scenario) * 1e9

    def sample_ns(memory_rate: float, disk_rate: float) -> float:
        own = [min(rate / ranks, cache.one_rank or rate) for rate in (memory_rate, disk_rate)]
        return size * ((1 - disk) / own[0] + disk / own[1])

    return CacheRates(
        read_ns=sample_ns(cache.read, cache.disk_read),
        write_ns=sample_ns(cache.write, cache.disk_write),
    )


def cache_ns(scenario: Scenario, cluster: Cluster, samples: int) -> float:
    """What the plan's reading and writing of the cache takes for so many samples."""
    plan = scenario.plan
    rates = cache_rates(scenario, cluster)
    return samples * (rates.read_ns * (plan.cached_layers > 0) + rates.write_ns * plan.fills_cache)


def _settings(scenario: Scenario) -> ElasticCache:
    return scenario.elastic.cache if scenario.elastic is not None else ElasticCache()
