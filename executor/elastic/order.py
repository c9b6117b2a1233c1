"""What is asked for: an elastic run with the decisions that were made beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from executor.elastic import checkpoint
from scenarios.schema import Scenario
from sim.elastic.phases import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticOrder:
    """An elastic run to be made.

    layouts: by frozen layers (sim.elastic.layouts). caches_from: frozen layers from which on their
    output is cached; None: never. checkpoints: a directory for them; None: none are written.
    resume: go on from the last one there. fixed_batch: measure the loss of one fixed batch before
    and after each transition.
    """

    scenario: Scenario
    layouts: tuple[Layout, ...]
    caches_from: int | None = None
    checkpoints: Path | None = None
    resume: bool = False
    fixed_batch: bool = False

    @property
    def identity(self) -> checkpoint.Identity:
        """What a checkpoint must agree with to be resumed."""
        return checkpoint.Identity.of(self.scenario, self.layouts, self.caches_from)
