"""AutoCache: at which depth the cache is read and filled over the epochs (arXiv 2102.03161, 3.5).

The depth of a cached output is the number of layers that made it.
"""

from __future__ import annotations

from collections.abc import Sequence


def cached_depths(
    frozen_by_epoch: Sequence[int], caches_from: int | None
) -> tuple[tuple[int, bool], ...]:
    """For each epoch the depth at which the cache is read (0: it is not), and whether it is filled
    at the depth of all frozen layers.

    caches_from: frozen layers from which on their output is cached; None: never. The first epoch
    after a freeze reads what the one before has left, computes the layers between and writes; the
    next ones only read. What an epoch does depends on no later one.
    """
    found = []
    filled = 0
    for frozen in frozen_by_epoch:
        if caches_from is None or frozen < max(1, caches_from):
            filled = 0
            found.append((0, False))
            continue
        found.append((filled, frozen != filled))
        filled = frozen
    return tuple(found)
