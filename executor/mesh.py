"""The ranks of a plan in three dimensions, and the process groups along them.

A world rank is the number of its device, as `Plan.device_of` places it. Schedules, programs and
timelines count pipeline ranks; transports and process groups count world ranks.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist

from scenarios.schema import Plan

Dimension = Literal["pipeline", "data", "tensor"]


class Place(NamedTuple):
    """A rank's index in each dimension."""

    pipeline: int
    data: int
    tensor: int

    def __str__(self) -> str:
        return f"pipeline {self.pipeline}, data {self.data}, tensor {self.tensor}"


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """Which world rank is where; `places` is by world rank."""

    places: tuple[Place, ...]

    @staticmethod
    def of(plan: Plan) -> Mesh:
        """The mesh of a plan, as it places its ranks."""
        sizes = (plan.pipeline, plan.data, plan.tensor)
        places = [Place(*index) for index in itertools.product(*map(range, sizes))]
        return Mesh(places=tuple(sorted(places, key=lambda place: plan.device_of(*place))))

    @cached_property
    def ranks(self) -> Mapping[Place, int]:
        """Each place's world rank."""
        return {place: rank for rank, place in enumerate(self.places)}

    def along(self, rank: int, *dimensions: Dimension) -> tuple[int, ...]:
        """The world ranks that differ from `rank` in these dimensions at most, ordered by their
        place."""
        fixed = [n for n, name in enumerate(Place._fields) if name not in dimensions]
        own = self.places[rank]
        return tuple(
            self.ranks[place]
            for place in sorted(self.places)
            if all(place[n] == own[n] for n in fixed)
        )

    def families(self, *dimensions: Dimension) -> tuple[tuple[int, ...], ...]:
        """The groups into which these dimensions divide the world, each once, ordered."""
        return tuple(sorted({self.along(rank, *dimensions) for rank in range(len(self.places))}))

    def world_pairs(self, pairs: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        """Pairs of pipeline ranks as pairs of world ranks, in every replica and tensor index."""
        pairs = tuple(pairs)
        lines = self.families("pipeline")
        return tuple((line[a], line[b]) for line in lines for a, b in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """One rank's process groups; None where nothing is reduced (one rank, a null transport).

    tensor: those that share each product. data: the replicas of what this rank holds.
    tied: those that hold the token weights' gradient, which they sum (None elsewhere).
    norm: those whose shares of the gradient norm add up to the whole.
    """

    tensor: dist.ProcessGroup | None = None
    data: dist.ProcessGroup | None = None
    tied: dist.ProcessGroup | None = None
    norm: dist.ProcessGroup | None = None


class GroupMaker:
    """Makes the process groups of a session, each once however many scenarios use it.

    Every rank makes every group, and all in the same order, as torch.distributed asks.
    """

    def __init__(self, *, deadline_s: float, ranks: Sequence[int] | None = None) -> None:
        """deadline_s: the limit of each collective, seconds.

        ranks: the world ranks at work, in the order in which the plan counts them; all unless
        given. The others make the groups as well, as ranks that are in none (`rank=None`).
        """
        self._timeout = timedelta(seconds=deadline_s)
        self._ranks = ranks
        self._made: dict[tuple[str, tuple[int, ...]], dist.ProcessGroup] = {}

    def of_ranks(self, ranks: Sequence[int]) -> GroupMaker:
        """The same with other ranks at work; what either of them makes, both have."""
        other = GroupMaker(deadline_s=self._timeout.total_seconds(), ranks=ranks)
        other._made = self._made
        return other

    def groups(
        self,
        plan: Plan,
        mesh: Mesh,
        rank: int | None,
        tied_ranks: tuple[int, ...],
        *,
        messages: bool,
    ) -> Groups:
        """A rank's groups under a plan.

        tied_ranks: the pipeline ranks that sum the token weights' gradient, none where untied.
        messages: whether ranks exchange anything at all.
        """
        if not messages:
            return Groups()
        sharded = plan.sharding != "none"
        # Shares of a gradient are summed with zeros elsewhere, and so over the replicas as well.
        ends = mesh.families("pipeline", "data") if sharded else mesh.families("pipeline")
        ends = tuple(
            tuple(r for r in family if mesh.places[r].pipeline in tied_ranks) for family in ends
        )
        replicas: tuple[Dimension, ...] = ("data",) if sharded else ()
        # Replicas have the same gradients, but each counts its own shares of them.
        counted = mesh.families("pipeline", "tensor", *replicas)
        return Groups(
            tensor=self._mine("tensor", mesh.families("tensor"), rank),
            data=self._mine("data", mesh.families("data"), rank),
            tied=self._mine("tied", ends, rank),
            norm=self._mine("norm", counted, rank),
        )

    def _mine(
        self, purpose: str, families: tuple[tuple[int, ...], ...], rank: int | None
    ) -> dist.ProcessGroup | None:
        """Make the groups that were not made yet; the one that `rank` is in, if any."""
        found: dist.ProcessGroup | None = None
        for family in families:
            if len(family) < 2:
                continue
            world = family if self._ranks is None else tuple(self._ranks[r] for r in family)
            key = (purpose, world)
            if key not in self._made:
                self._made[key] = self._make(world, ordered=purpose in ("tensor", "data"))
            if rank in family:
                found = self._made[key]
        return found

    def _make(self, family: tuple[int, ...], *, ordered: bool) -> dist.ProcessGroup:
        """A group of these ranks; `ordered`: shares are dealt out in it, so that its order is to be
        that of the places."""
        ascending = tuple(sorted(family))
        if not ordered and len(family) == dist.get_world_size():
            assert dist.group.WORLD is not None
            return dist.group.WORLD
        if not ordered or family == ascending:
            made: dist.ProcessGroup = dist.new_group(list(ascending), timeout=self._timeout)
            return made
        if "sort_ranks" not in inspect.signature(dist.new_group).parameters:
            raise RuntimeError(
                f"plan.devices puts the ranks {family} in an order that torch {torch.__version__} "
                "cannot give to a group: place them in ascending order, or use torch 2.13"
            )
        made = dist.new_group(list(family), timeout=self._timeout, sort_ranks=False)
        return made
