"""An epoch as all ranks together saw it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from executor.elastic.cache import Counts
from executor.elastic.foreign import Use, foreign_share
from scenarios.schema import Elastic
from sim.elastic.phases import Layout
from sim.elastic_measurement import MeasuredEpoch


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochCard:
    """What one rank tells of an epoch.

    ends_s: when each of its iterations ended, seconds from the epoch's begin; none where it had no
    place in it. losses: of each iteration, on last stages. counts: of the cache.
    """

    ends_s: tuple[float, ...]
    losses: tuple[float, ...]
    counts: Counts
    use: Use | None


def measured(cards: Sequence[EpochCard], epoch: int, phase: int) -> MeasuredEpoch:
    """An epoch from what every rank tells of it: an iteration ends with the slowest of them, and
    its loss is the replicas' mean."""
    ends = np.max([card.ends_s for card in cards if card.ends_s], axis=0)
    losses = np.mean([card.losses for card in cards if card.losses], axis=0)
    return MeasuredEpoch(
        epoch=epoch,
        phase=phase,
        seconds=float(ends[-1]),
        iteration_s=tuple(np.diff(ends, prepend=0.0).tolist()),
        losses=tuple(losses.tolist()),
        cache_read=sum(card.counts.read for card in cards),
        cache_written=sum(card.counts.written for card in cards),
        cache_missed=sum(card.counts.missed for card in cards),
        foreign=foreign_share([card.use for card in cards]),
    )


def told(epoch: MeasuredEpoch, layout: Layout, elastic: Elastic, *, num_layers: int) -> str:
    """An epoch in a line of words, to be shown while the run goes on."""
    return (
        f"epoch {epoch.epoch + 1} of {elastic.epochs}: {layout.frozen_layers} of {num_layers} "
        f"layers frozen, {layout.pipeline} x {layout.data} ranks, loss {epoch.mean_loss:.3g}, "
        f"{elastic.samples / epoch.seconds:,.0f} samples/s"
    )
