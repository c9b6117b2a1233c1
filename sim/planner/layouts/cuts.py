"""How a plan's stages lie over its ranks, by content."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scenarios.schema import Plan, Scenario
from sim.planner.layouts.plans import scenario_with
from sim.workload.partition import StagePart, partition


class Cut(NamedTuple):
    """The stages of a plan that has no frozen layers.

    parts: a stage's part of each content. content: (num_stages,), which one each stage has.
    held: the contents of each kind of rank, in its stages' order. kind_of: (num_ranks,), which kind
    each rank is of.
    """

    parts: tuple[StagePart, ...]
    content: NDArray[np.int32]
    held: tuple[tuple[int, ...], ...]
    kind_of: NDArray[np.int32]


def num_chunks(plan: Plan) -> int:
    """Stages of a rank."""
    return plan.chunks if plan.schedule == "interleaved" else 1


class Cuts:
    """The cuts of a model, each made once."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self._known: dict[Hashable, Cut] = {}

    @staticmethod
    def key(plan: Plan) -> tuple[int, int, tuple[int, ...] | None]:
        """What of a plan its cut depends on."""
        return plan.pipeline, num_chunks(plan), plan.layers_per_stage

    def cut(self, plan: Plan) -> Cut:
        """The cut of a plan.

        Raises ValueError where the layers do not divide (`sim.workload.partition`).
        """
        key = self.key(plan)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._made(plan)
        return found

    def _made(self, plan: Plan) -> Cut:
        p = plan.pipeline
        numbers: dict[tuple[int, bool, bool], int] = {}
        parts: list[StagePart] = []
        content: list[int] = []
        for part in partition(scenario_with(self.scenario, plan), p * num_chunks(plan)):
            key = (part.num_layers, part.embedding, part.head)
            if key not in numbers:
                numbers[key] = len(parts)
                parts.append(part)
            content.append(numbers[key])
        kinds: dict[tuple[int, ...], int] = {}
        kind_of = [kinds.setdefault(tuple(content[r::p]), len(kinds)) for r in range(p)]
        return Cut(
            parts=tuple(parts),
            content=np.array(content, np.int32),
            held=tuple(kinds),
            kind_of=np.array(kind_of, np.int32),
        )
