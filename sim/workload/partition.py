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


def partition(scenario: Scenario) -> tuple[StagePart, ...]:
    """The parts of all stages: layers as given or evenly, embedding first, head and loss last."""
    model, plan = scenario.model, scenario.plan
    if model is None:
        raise ValueError(f"scenario {scenario.name} has no model to cut into stages")
    counts = plan.layers_per_stage or (model.layers // plan.pipeline,) * plan.pipeline
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
