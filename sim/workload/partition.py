"""Which layers a stage holds, and what else: the cut of the model that both twins make."""

from __future__ import annotations

from dataclasses import dataclass

from scenarios.schema import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePart:
    """One stage's part of the model: layers `first_layer` .. `first_layer + num_layers - 1`."""

    stage: int
    first_layer: int
    num_layers: int
    embedding: bool
    head: bool


def partition(scenario: Scenario, num_stages: int | None = None) -> tuple[StagePart, ...]:
    """The parts of all stages: layers as given or evenly, embedding first, head and loss last.

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
                embedding=stage == 0,
                head=stage == len(counts) - 1,
            )
        )
        first += count
    return tuple(parts)


def slices_of(sequence: int, num_slices: int) -> tuple[tuple[int, int], ...]:
    """(context, tokens) of each of `num_slices` even slices of a sequence; the first ones longer
    by a token where it does not divide."""
    base, extra = divmod(sequence, num_slices)
    found, context = [], 0
    for index in range(num_slices):
        tokens = base + (index < extra)
        found.append((context, tokens))
        context += tokens
    return tuple(found)
