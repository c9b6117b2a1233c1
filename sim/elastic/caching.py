"""AutoCache: from how many frozen layers on reading their output is faster than computing it, and
what room it takes (arXiv 2102.03161, section 3.5).

At which depth each epoch reads and fills the cache: `cached_depths`.
"""

from __future__ import annotations

from collections.abc import Sequence

from scenarios.schema import Scenario
from sim.cost.cache import disk_share, sample_bytes
from sim.cost.profile import Profile
from sim.elastic.layouts import iteration_ns
from sim.elastic.phases import Layout, elastic_of
from sim.elastic.phases import cached_depths as cached_depths


def caches_from(
    scenario: Scenario, layouts: Sequence[Layout], profile: Profile | None = None
) -> int | None:
    """Frozen layers from which on their output is cached: `elastic.cache.pays_from`, or the fewest
    for which, and for any more, an iteration that reads is simulated faster than one that computes;
    None where nothing is to be cached, without AutoPipe, or where it never is.

    layouts: by frozen layers.
    Not modelled: that writing costs an epoch after each freeze, which a short run may not earn
    back.
    """
    elastic = elastic_of(scenario)
    if elastic.freeze == "off" or not (elastic.autocache and elastic.autopipe):
        return None
    if elastic.cache.pays_from is not None:
        return elastic.cache.pays_from
    found = None
    for layout in reversed(layouts[1:]):
        computed = iteration_ns(scenario, layout, profile)
        read = iteration_ns(scenario, layout, profile, cached_layers=layout.frozen_layers)
        if read >= computed:
            break
        found = layout.frozen_layers
    return found


def cache_bytes(scenario: Scenario) -> int:
    """Bytes of the output of the frozen layers for all training samples, over all nodes: as many
    whatever the number of layers."""
    return elastic_of(scenario).samples * sample_bytes(scenario)


def cache_bytes_on_disk(scenario: Scenario) -> int:
    """Of these, the bytes that the memory given to the cache does not hold; 0 without a cluster."""
    if scenario.cluster is None:
        return 0
    return round(disk_share(scenario, scenario.cluster) * cache_bytes(scenario))
