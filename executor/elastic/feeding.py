"""What a phase trains on: an epoch's samples in its order, from the data or from the cache."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from executor.data import Batch
from executor.elastic.cache import Cache
from executor.elastic.datasets import Dataset
from sim.elastic.phases import Phase
from sim.elastic.sharding import epoch_order, microbatch_samples


class EpochData:
    """The microbatches of a phase's epochs, for one rank (see executor.data.Source); iterations are
    counted from the epoch's first.

    A microbatch is read from the cache where the phase says so and all of its samples are there at
    that depth; else it comes as raw inputs, from which all layers are computed.

    reads_inputs: whether this rank holds the first stage, which alone reads inputs.
    seen: called with the samples of every microbatch that the first stage reads.
    """

    def __init__(
        self,
        dataset: Dataset,
        phase: Phase,
        *,
        seed: int,
        device: torch.device,
        reads_inputs: bool,
        cache: Cache | None = None,
        seen: Callable[[NDArray[np.int64]], None] | None = None,
    ) -> None:
        self._dataset, self._phase, self._seed, self._device = dataset, phase, seed, device
        self._reads_inputs, self._cache, self._seen = reads_inputs, cache, seen
        self._order: NDArray[np.int64] = np.empty(0, np.int64)

    def begin_epoch(self, epoch: int) -> None:
        """Shuffle for an epoch; all ranks get the same order."""
        self._order = epoch_order(self._seed, epoch, len(self._dataset.targets))

    def slices(self, iteration: int, replica: int, microbatch: int) -> tuple[Batch, ...]:
        """One microbatch, which is one slice."""
        numbers = microbatch_samples(
            self._order, self._phase.layout, iteration, replica, microbatch
        )
        samples = torch.from_numpy(numbers)
        targets = self._dataset.targets[samples].to(self._device)
        if not self._reads_inputs:
            return (Batch(torch.empty(0), targets, samples=samples),)
        if self._seen is not None:
            self._seen(numbers)
        depth = self._phase.cached_layers
        if depth and self._cache is not None:
            if self._cache.depth_of(samples) == depth:
                return (Batch(self._cache.read(samples), targets, depth, samples),)
            self._cache.missed(samples)
        return (Batch(self._inputs(samples), targets, samples=samples),)

    def _inputs(self, samples: Tensor) -> Tensor:
        return self._dataset.inputs[samples].to(self._device)
