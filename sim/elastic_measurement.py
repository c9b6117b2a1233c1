"""What an elastic run of the executor saw: its epochs, phases and transitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scenarios.schema import Scenario
from sim.elastic.phases import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredEpoch:
    """One epoch of training.

    seconds: from its first iteration's start to its last one's end, on the slowest rank.
    iteration_s: each iteration's. losses: of each iteration, the mean over all its samples.
    accuracy: on the test set after it, a fraction; None where it was not evaluated.
    cache_read, cache_written, cache_missed: samples, over all ranks.
    foreign: the share of the time in which others held the ranks up; None where unknown.
    """

    epoch: int
    phase: int
    seconds: float
    iteration_s: tuple[float, ...]
    losses: tuple[float, ...]
    accuracy: float | None = None
    cache_read: int = 0
    cache_written: int = 0
    cache_missed: int = 0
    foreign: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredTransition:
    """What happened between two phases, before epoch `epoch`.

    seconds: by what took them: `rebuild` (groups, stages, transport), `move` (weights and optimizer
    state), `checkpoint`, `evaluate`. moved_bytes: over all ranks.
    loss_before, loss_after: of one fixed batch; None where it was not asked for.
    """

    epoch: int
    phase: int
    seconds: Mapping[str, float]
    moved_bytes: int
    loss_before: float | None = None
    loss_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticMeasurement:
    """An elastic run as it was executed.

    frozen_by_epoch: layers frozen in each epoch. seconds: of the whole run, transitions included,
    evaluation and checkpoints too. resumed_from: the epoch it was resumed at; None from the start.
    """

    scenario: Scenario
    frozen_by_epoch: tuple[int, ...]
    phases: tuple[Phase, ...]
    epochs: tuple[MeasuredEpoch, ...]
    transitions: tuple[MeasuredTransition, ...]
    seconds: float
    environment: Mapping[str, Any] = field(default_factory=dict)
    resumed_from: int | None = None

    @property
    def final_accuracy(self) -> float | None:
        """On the test set after the last epoch."""
        return self.epochs[-1].accuracy if self.epochs else None

    @property
    def final_loss(self) -> float | None:
        """Mean training loss of the last epoch."""
        if not self.epochs or not self.epochs[-1].losses:
            return None
        return sum(self.epochs[-1].losses) / len(self.epochs[-1].losses)
