"""Which layers are frozen in which epoch: PipeTransformer's freeze rule (arXiv 2102.03161).

Layers freeze from the first on, together with the embedding, and never thaw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from scenarios.schema import Scenario
from sim.elastic.phases import elastic_of

_FINEST_ALPHA = 10**6
"""Largest denominator of the fraction that an `alpha` stands for: 0.333... is then one third."""


def frozen_at(layers: int, alpha: float, decision: int) -> int:
    """Layers frozen after so many decisions by the closed form: ceil(L (1 - (1 - alpha)^T)).

    It is worked out in exact fractions, as a float's last bit would otherwise freeze a layer more.
    Source: the paper's recursion summed up, with the ceil of the authors' code.
    """
    left = (1 - _exact(alpha)) ** decision
    return math.ceil(layers * (1 - left))


def largest_step(frozen: int, layers: int, alpha: float) -> int:
    """The most layers that may be frozen after one more decision: ceil(F + alpha (L - F))."""
    return math.ceil(frozen + _exact(alpha) * (layers - frozen))


def adaptive(frozen: int, layers: int, alpha: float, norms: Sequence[float]) -> int:
    """Layers frozen after one more decision by the gradients: those below the active layer with the
    least gradient norm, but not more than `largest_step`, nor fewer than before.

    norms: of each layer's gradients, frozen ones included (theirs are not read); one that is no
    number never is the least, and of equal ones the first is.
    Raises ValueError where there is not one norm for each layer. Source: the paper's freeze
    algorithm.
    """
    if len(norms) != layers:
        raise ValueError(f"{len(norms)} gradient norms for {layers} layers: give one for each")
    if frozen >= layers:
        return layers
    active = range(frozen, layers)
    least = min(active, key=lambda n: math.inf if math.isnan(norms[n]) else norms[n])
    return max(frozen, min(largest_step(frozen, layers, alpha), least))


def frozen_by_epoch(scenario: Scenario) -> tuple[int, ...]:
    """Layers frozen in each epoch of a scenario's run; with `freeze: adaptive` their upper bound,
    which is reached where gradients always shrink towards the last layer.

    Raises ValueError where the scenario has no run or no model.
    """
    elastic, layers, most = elastic_of(scenario), num_layers(scenario), most_frozen(scenario)
    found: list[int] = []
    frozen = decided = 0
    for epoch in range(elastic.epochs):
        decision = epoch // elastic.interval
        if elastic.freeze == "schedule":
            frozen = frozen_at(layers, elastic.alpha, decision)
        elif elastic.freeze == "adaptive" and decision > decided:
            frozen, decided = largest_step(frozen, layers, elastic.alpha), decision
        found.append(min(frozen, most))
    return tuple(found)


def most_frozen(scenario: Scenario) -> int:
    """Layers of a scenario's model that can freeze: all, as the head is trained to the end, and all
    but one where there is no head. Raises ValueError where there is no model."""
    layers = num_layers(scenario)
    return layers if scenario.model is not None and scenario.model.ends else layers - 1


def num_layers(scenario: Scenario) -> int:
    """Layers of a scenario's model; ValueError where it has none."""
    if scenario.model is None:
        raise ValueError(f"scenario {scenario.name} has no model whose layers could freeze")
    return scenario.model.layers


def _exact(alpha: float) -> Fraction:
    return Fraction(alpha).limit_denominator(_FINEST_ALPHA)
