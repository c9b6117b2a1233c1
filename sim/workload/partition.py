"""Which layers a stage holds, and what else: the cut of the model that both twins make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from scenarios.schema import MicrobatchGroup, Plan, Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePart:
    """One stage's part of the model: layers `first_layer` .. `first_layer + num_layers - 1`.

    frozen_layers: of them, from the first on, those that are not trained (the model's frozen layers
        are its first ones, and the embedding is frozen with them).
    cached_layers: of those, the ones whose output is read from the cache; the embedding is then not
        computed either.
    """

    stage: int
    first_layer: int
    num_layers: int
    embedding: bool
    head: bool
    frozen_layers: int = 0
    cached_layers: int = 0

    @property
    def num_active(self) -> int:
        """Layers that are trained."""
        return self.num_layers - self.frozen_layers

    @property
    def num_computed(self) -> int:
        """Layers that a forward pass computes: all but the cached ones."""
        return self.num_layers - self.cached_layers

    @property
    def trains_embedding(self) -> bool:
        """Whether the embedding is here and trained: it is frozen with the first layer."""
        return self.embedding and not self.frozen_layers

    @property
    def computes_embedding(self) -> bool:
        """Whether a forward pass computes the embedding."""
        return self.embedding and not self.cached_layers

    @property
    def active(self) -> StagePart:
        """What of it is trained, as a part by itself."""
        return replace(
            self,
            first_layer=self.first_layer + self.frozen_layers,
            num_layers=self.num_active,
            embedding=self.trains_embedding,
            frozen_layers=0,
            cached_layers=0,
        )

    @property
    def trained(self) -> bool:
        """Whether anything here is trained; a stage without has no backward pass."""
        return self.num_active > 0 or self.head or self.trains_embedding


def partition(scenario: Scenario, num_stages: int | None = None) -> tuple[StagePart, ...]:
    """The parts of all stages: layers as given or evenly, embedding first, head and loss last,
    where the model has these ends; the plan's frozen and cached layers are the first ones.

    num_stages: the stages of the schedule; the plan's unless given.
    Raises ValueError where the layers do not divide evenly or do not match the stages.
    """
    model, plan = scenario.model, scenario.plan
    if model is None:
        raise ValueError(f"scenario {scenario.name} has no model to cut into stages")
    wanted = num_stages or plan.num_stages
    counts = plan.layers_per_stage or (model.layers // wanted,) * wanted
    if len(counts) != wanted or sum(counts) != model.layers:
        raise ValueError(
            f"{model.layers} layers cannot be cut into {wanted} stages of {tuple(counts)}: "
            "give plan.layers_per_stage, one number a stage, with that sum"
        )
    parts = []
    first = 0
    for stage, count in enumerate(counts):
        parts.append(
            StagePart(
                stage=stage,
                first_layer=first,
                num_layers=count,
                embedding=model.ends and stage == 0,
                head=model.ends and stage == len(counts) - 1,
                frozen_layers=min(count, max(0, plan.frozen_layers - first)),
                cached_layers=min(count, max(0, plan.cached_layers - first)),
            )
        )
        first += count
    return tuple(parts)


class Piece(NamedTuple):
    """What one pass works on: of `micro_batch` sequences the `tokens` after `context` others."""

    micro_batch: int
    context: int
    tokens: int


def pieces(scenario: Scenario) -> tuple[tuple[Piece, ...], ...]:
    """The pieces of every microbatch, by slice: whole sequences, or the plan's token slices.

    Raises ValueError where the scenario has no model, whose sequence is cut.
    """
    if scenario.model is None:
        raise ValueError(f"scenario {scenario.name} has no model whose sequence can be cut")
    return microbatch_pieces(scenario.plan, scenario.model.sequence)


def microbatch_pieces(plan: Plan, sequence: int) -> tuple[tuple[Piece, ...], ...]:
    """The same for a plan and a length of sequence."""
    found: list[tuple[Piece, ...]] = []
    for group in plan.groups:
        found += [group_pieces(group, sequence)] * group.microbatches
    return tuple(found)


def group_pieces(group: MicrobatchGroup, sequence: int) -> tuple[Piece, ...]:
    """The pieces of each microbatch of a group, in order."""
    tokens: Sequence[int]
    if group.slices is None or isinstance(group.slices, int):
        tokens = even_slices(sequence, group.num_slices)
    else:
        tokens = group.slices
    found, context = [], 0
    for count in tokens:
        found.append(Piece(group.micro_batch, context, count))
        context += count
    return tuple(found)


def slice_tokens(group: MicrobatchGroup, sequence: int) -> tuple[int, ...]:
    """The tokens of each slice of a group's microbatches."""
    return tuple(piece.tokens for piece in group_pieces(group, sequence))


def even_slices(sequence: int, num_slices: int) -> tuple[int, ...]:
    """The tokens of `num_slices` even slices; the first ones longer by a token where it does not
    divide."""
    base, extra = divmod(sequence, num_slices)
    return tuple(base + (index < extra) for index in range(num_slices))
