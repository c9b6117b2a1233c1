"""The nouns of an elastic run: the layout of the pipeline for so many frozen layers, and the phases
of epochs in which nothing changes.

A phase is an ordinary scenario (`phase_scenario`): the simulator predicts one iteration of it, and
the executor runs it, with the very same plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scenarios.schema import Elastic, Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the model lies on the ranks while `frozen_layers` are frozen.

    layers_per_stage: all layers, frozen ones included, by stage; as many stages as pipeline ranks.
    data: replicas of the pipeline. micro_batch: sequences; microbatches: of one pipeline.
    replica_ranks: world ranks from one replica's first to the next one's: the pipeline's length
    unless given, more where ranks that a shorter pipeline freed stand idle.
    """

    frozen_layers: int
    layers_per_stage: tuple[int, ...]
    data: int
    micro_batch: int
    microbatches: int
    replica_ranks: int | None = None

    @property
    def pipeline(self) -> int:
        """Ranks of one pipeline."""
        return len(self.layers_per_stage)

    def rank_of(self, stage: int, replica: int) -> int:
        """The world rank of a stage in a replica: pipelines one after another."""
        return replica * (self.replica_ranks or self.pipeline) + stage

    @property
    def num_ranks(self) -> int:
        """Ranks at work (of a tensor degree of one)."""
        return self.pipeline * self.data

    @property
    def global_batch(self) -> int:
        """Sequences in one iteration over all replicas."""
        return self.micro_batch * self.microbatches * self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Epochs in a row in which nothing changes.

    index: counted from 0. first_epoch, epochs: which epochs, counted from 0.
    cached_layers: layers whose output is read from the cache (0: none is).
    fills_cache: whether the output of the frozen layers is written to the cache.
    iterations: of each epoch.
    """

    index: int
    first_epoch: int
    epochs: int
    layout: Layout
    cached_layers: int
    fills_cache: bool
    iterations: int

    @property
    def frozen_layers(self) -> int:
        """Layers that are not trained."""
        return self.layout.frozen_layers


def elastic_of(scenario: Scenario) -> Elastic:
    """A scenario's elastic run; ValueError where it has none."""
    if scenario.elastic is None:
        raise ValueError(f"scenario {scenario.name} has no `elastic` section: it is one iteration")
    return scenario.elastic


def cached_depths(
    frozen_by_epoch: Sequence[int], caches_from: int | None
) -> tuple[tuple[int, bool], ...]:
    """For each epoch the depth at which the cache is read (0: it is not), and whether it is filled
    at the depth of all frozen layers.

    caches_from: frozen layers from which on their output is cached; None: never. The first epoch
    after a freeze reads what the one before has left, computes the layers between and writes; the
    next ones only read. What an epoch does depends on no later one.
    """
    found = []
    filled = 0
    for frozen in frozen_by_epoch:
        if caches_from is None or frozen < max(1, caches_from):
            filled = 0
            found.append((0, False))
            continue
        found.append((filled, frozen != filled))
        filled = frozen
    return tuple(found)


def phases(
    scenario: Scenario,
    frozen_by_epoch: Sequence[int],
    layouts: Sequence[Layout],
    caches_from: int | None,
) -> tuple[Phase, ...]:
    """The phases of a run: epochs in a row with the same layout that read and fill the cache alike.

    frozen_by_epoch: layers frozen in each epoch, of a whole run or of its beginning; layouts: by
    frozen layers; caches_from: frozen layers from which on their output is cached, None: never.
    An epoch whose samples are no multiple of the global batch takes the iteration it begins.
    """
    samples = elastic_of(scenario).samples
    found: list[Phase] = []
    depths = cached_depths(frozen_by_epoch, caches_from)
    for epoch, (frozen, (cached, fills)) in enumerate(zip(frozen_by_epoch, depths, strict=True)):
        layout = layouts[frozen]
        if found:
            last = found[-1]
            if (last.layout, last.cached_layers, last.fills_cache) == (layout, cached, fills):
                found[-1] = replace(last, epochs=last.epochs + 1)
                continue
        found.append(
            Phase(
                index=len(found),
                first_epoch=epoch,
                epochs=1,
                layout=layout,
                cached_layers=cached,
                fills_cache=fills,
                iterations=iterations_of(samples, layout.global_batch),
            )
        )
    return tuple(found)


def iterations_of(samples: int, global_batch: int) -> int:
    """Iterations of an epoch; the last one is not full where the batch does not divide it."""
    return -(-samples // global_batch)


def phase_scenario(scenario: Scenario, phase: Phase) -> Scenario:
    """The scenario of one iteration in a phase: the run's own, with the phase's plan.

    Ranks keep their devices where every rank is at work; where fewer are, each replica keeps the
    first devices of those it had at first.
    """
    plan, layout = scenario.plan, phase.layout
    first = plan.devices or tuple(
        plan.device_of(p, d, t)
        for p in range(plan.pipeline)
        for d in range(plan.data)
        for t in range(plan.tensor)
    )
    devices = None
    if layout.num_ranks < plan.pipeline * plan.data:
        # Rank (p, d, t) of the first plan is at (p data + d) tensor + t.
        devices = tuple(
            first[(p * plan.data + d) * plan.tensor + t]
            for p in range(layout.pipeline)
            for d in range(layout.data)
            for t in range(plan.tensor)
        )
    changed = replace(
        plan,
        pipeline=layout.pipeline,
        data=layout.data,
        layers_per_stage=layout.layers_per_stage,
        micro_batch=layout.micro_batch,
        microbatches=layout.microbatches,
        global_batch=None,
        frozen_layers=layout.frozen_layers,
        cached_layers=phase.cached_layers,
        fills_cache=phase.fills_cache,
        devices=devices,
    )
    return replace(scenario, plan=changed)
