"""Which samples of an epoch each microbatch of each replica gets: each exactly one time.

The order of an epoch depends on the seed and the epoch alone. A global batch is the next samples of
it, shared out to replicas and microbatches one after another; so the samples of an iteration are
the same however many replicas share a global batch of the same size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.elastic.phases import Layout

_SEEDS = 1 << 64


def epoch_order(seed: int, epoch: int, samples: int) -> NDArray[np.int64]:
    """The order in which an epoch goes through its samples: a permutation (samples,) of them."""
    generator = np.random.Generator(np.random.PCG64([seed % _SEEDS, epoch]))
    return generator.permutation(samples).astype(np.int64)


def microbatch_samples(
    order: NDArray[np.int64], layout: Layout, iteration: int, replica: int, microbatch: int
) -> NDArray[np.int64]:
    """The samples of one microbatch: `micro_batch` of them, and fewer or none at the end of an
    epoch whose samples are no multiple of the global batch."""
    place = (iteration * layout.data + replica) * layout.microbatches + microbatch
    return order[place * layout.micro_batch : (place + 1) * layout.micro_batch]
