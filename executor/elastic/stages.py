"""A phase as it stands on one rank: transport, groups and stages, built for its plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist

from executor.elastic.feeding import EpochData
from executor.elastic.parts import Parts
from executor.joining import RankContext
from executor.mesh import GroupMaker, Mesh
from executor.session import Job, transport_of
from executor.stages import OnBoundary
from executor.transport import Transport
from executor.transport.base import (
    PendingReceive,
    PendingSend,
    Post,
    ReceivePost,
    TransportAround,
)
from scenarios.schema import Scenario
from sim.elastic.phases import Layout, Phase, phase_scenario
from sim.schedule.actions import Action


def world_ranks(layout: Layout) -> tuple[int, ...]:
    """The world ranks at work in a layout, in the order in which its plan counts them (placement
    pipeline-data-tensor: pipelines one after another)."""
    return tuple(
        layout.rank_of(stage, replica)
        for replica in range(layout.data)
        for stage in range(layout.pipeline)
    )


@dataclass(slots=True, kw_only=True)
class PhaseStages:
    """One rank's stages in a phase.

    job: None where the rank has no place in it, and `data` then too.
    data_group: of the replicas of what this rank holds; None where it is alone.
    """

    phase: Phase
    scenario: Scenario
    transport: Transport
    job: Job | None
    data: EpochData | None
    data_group: dist.ProcessGroup | None
    parts: Parts

    @property
    def layout(self) -> Layout:
        """The phase's."""
        return self.phase.layout

    def enter(self, phase: Phase, data: EpochData) -> None:
        """Go on in another phase of the same layout, which only uses the cache otherwise."""
        self.phase = phase
        if self.job is not None:
            self.data = data
            self.job.interpreter.data = data

    def close(self) -> None:
        """Be done, so that what these stages hold is free when they are dropped; all ranks of the
        world call it together."""
        self.transport.close()
        if self.job is not None:
            self.job.close()

    def fill_with(self, on_boundary: OnBoundary | None) -> None:
        """Whom to tell of the output of the last frozen layer; nobody if None."""
        for runner in self.job.runners.values() if self.job is not None else ():
            runner.on_boundary = on_boundary


def build(
    scenario: Scenario,
    phase: Phase,
    context: RankContext,
    groups: GroupMaker,
    data: EpochData,
) -> PhaseStages:
    """Build a phase's stages; all ranks of the world call it together.

    scenario: of the whole run. groups: the run's. data: the phase's, which this rank is to read if
    it has a place.
    """
    first = phase.layout.layers_per_stage[0]
    # What is read and filled is up to the data and `fill_with`, so that it may change.
    able = replace(phase, cached_layers=0, fills_cache=0 < phase.frozen_layers <= first)
    planned = phase_scenario(scenario, able)
    plan, world = planned.plan, world_ranks(phase.layout)
    transport = transport_of(planned, context, world)
    working = groups.of_ranks(world)
    place = world.index(context.rank) if context.rank in world else None
    job = None
    if place is not None:
        carrier = transport
        if world != tuple(range(len(world))):
            carrier = RenumberedTransport(transport, world)
        job = Job(
            planned,
            place,
            context.device,
            carrier,
            groups=working,
            data=data,
            read_at_pass=True,
        )
    # Every rank makes every group; those that the job has made are not made again.
    own = working.groups(plan, Mesh.of(plan), place, (), messages=True)
    return PhaseStages(
        phase=phase,
        scenario=planned,
        transport=transport,
        job=job,
        data=None if job is None else data,
        data_group=own.data,
        parts=Parts(job),
    )


class RenumberedTransport(TransportAround):
    """A transport whose ranks are counted from 0 among those at work."""

    def __init__(self, inner: Transport, ranks: Sequence[int]) -> None:
        """ranks: the inner transport's rank of each."""
        super().__init__(inner)
        self._ranks = ranks

    def post_receive(
        self, message: Action, source: int, shape: tuple[int, ...], dtype: torch.dtype
    ) -> PendingReceive:
        """See Transport."""
        return self._inner.post_receive(message, self._ranks[source], shape, dtype)

    def send(self, message: Action, destination: int, tensor: torch.Tensor) -> PendingSend:
        """See Transport."""
        return self._inner.send(message, self._ranks[destination], tensor)

    def batch(self, posts: Sequence[Post]) -> tuple[PendingReceive | PendingSend, ...]:
        """See Transport."""
        return self._inner.batch(
            [
                replace(post, source=self._ranks[post.source])
                if isinstance(post, ReceivePost)
                else replace(post, destination=self._ranks[post.destination])
                for post in posts
            ]
        )
