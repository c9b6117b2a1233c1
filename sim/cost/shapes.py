"""Shapes in which parts of a model run, and what times of them are keyed by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from scenarios.schema import Precision, Scenario
from sim.workload.partition import pieces

Part = Literal["embedding", "layer", "head", "action"]
Pass = Literal["forward", "backward", "backward_input", "backward_weight", "optimizer"]


class Shape(NamedTuple):
    """The shape a part was measured in; `tokens` per sequence, after `context` earlier ones."""

    family: str
    hidden: int
    heads: int
    ffn: int
    vocabulary: int
    micro_batch: int
    tokens: int
    context: int
    tensor: int
    precision: Precision
    recomputation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartTime:
    """Measured time of one part in one pass: median, quartiles (ns) and number of samples."""

    median_ns: float
    quartiles_ns: tuple[float, float]
    samples: int


def family_of(shape: Shape) -> Shape:
    """What shapes have in common that differ in batch, tokens and context alone."""
    return shape._replace(micro_batch=0, tokens=0, context=0)


def shapes_of(scenario: Scenario) -> tuple[tuple[Shape, ...], ...]:
    """The shape of every pass, by microbatch and slice."""
    return tuple(
        tuple(
            shape_of(scenario, piece.tokens, piece.context)._replace(micro_batch=piece.micro_batch)
            for piece in cut
        )
        for cut in pieces(scenario)
    )


def shape_of(scenario: Scenario, tokens: int | None = None, context: int = 0) -> Shape:
    """The shape in which a scenario's parts run; the whole sequence unless `tokens` is given.

    A bert with classes has a head of its own, and so is of a family of its own: `bert-classifier`.
    """
    model, plan = scenario.model, scenario.plan
    if model is None:
        raise ValueError(f"scenario {scenario.name} has no model")
    return Shape(
        family=model.family if model.classes is None else f"{model.family}-classifier",
        hidden=model.hidden,
        heads=model.heads,
        ffn=model.ffn,
        vocabulary=model.vocabulary,
        micro_batch=plan.micro_batch,
        tokens=tokens if tokens is not None else model.sequence,
        context=context,
        tensor=plan.tensor,
        precision=plan.precision,
        recomputation=plan.recomputation,
    )
