"""AutoCache: from how many frozen layers on caching their output pays, and what room it takes
(PipeTransformer, arXiv 2102.03161).

At which depth each epoch reads and fills the cache: `cached_depths`.
"""

from __future__ import annotations

from collections.abc import Sequence

from scenarios.schema import Scenario
from sim.cost.cache import disk_share, sample_bytes
from sim.cost.profile import Profile
from sim.elastic.freezing import frozen_by_epoch
from sim.elastic.iterations import Iterations
from sim.elastic.phases import Layout, elastic_of
from sim.elastic.phases import cached_depths as cached_depths


def caches_from(
    scenario: Scenario,
    layouts: Sequence[Layout],
    profile: Profile | None = None,
    simulated: Iterations | None = None,
) -> int | None:
    """Frozen layers from which on their output is cached: `elastic.cache.pays_from`; or, of the
    numbers that the run comes to, that with which its simulated epochs take least, those that read
    and those that write (with `freeze: adaptive`: if as much freezes as may). Of equal ones it is
    the most layers.

    layouts: by frozen layers; only where all frozen layers lie on the first stage is their output
    cached. simulated: iterations of the same plan and profile, to be used again. None where caching
    never pays, and without AutoPipe or freezing.
    """
    elastic = elastic_of(scenario)
    if elastic.freeze == "off" or not (elastic.autocache and elastic.autopipe):
        return None
    if elastic.cache.pays_from is not None:
        return elastic.cache.pays_from
    frozen = frozen_by_epoch(scenario)
    simulated = simulated or Iterations(scenario, profile)
    best, least = None, simulated.run_ns(frozen, layouts, None)
    for depth in sorted({count for count in frozen if count}, reverse=True):
        if layouts[depth].layers_per_stage[0] < depth:
            break
        time = simulated.run_ns(frozen, layouts, depth)
        if time < least:
            best, least = depth, time
    return best


def cache_bytes(scenario: Scenario) -> int:
    """Bytes of the output of the frozen layers for all training samples, over all nodes: as many
    whatever the number of layers."""
    return elastic_of(scenario).samples * sample_bytes(scenario)


def cache_bytes_on_disk(scenario: Scenario) -> int:
    """Of these, the bytes that the memory given to the cache does not hold; 0 without a cluster."""
    if scenario.cluster is None:
        return 0
    return round(disk_share(scenario, scenario.cluster) * cache_bytes(scenario))
