"""Clocks of several hosts, aligned by what must be: no message comes before it was sent.

A message from a to b that was sent at s (on a's clock) and there at t (on b's) says that a's offset
is at most b's + t - s. Messages both ways leave each clock an interval, by shortest paths over
these bounds; its middle is taken, as NTP does, and half its width is the uncertainty.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Sent(NamedTuple):
    """A message between two ranks: sent not before `sent_ns` on the sender's clock, there not after
    `there_ns` on the receiver's."""

    sender: int
    receiver: int
    sent_ns: int
    there_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """offsets_ns: by rank, what to add to its clock to get rank 0's. uncertainty_ns: the truth is
    within so much of each; None where messages go one way only. impossible_ns: by how much a
    message is still there before it was sent: clocks drifted, or a host's ranks disagree."""

    offsets_ns: tuple[int, ...]
    uncertainty_ns: int | None
    impossible_ns: int


def align(messages: Iterable[Sent], clock_of: Sequence[int]) -> Alignment:
    """Estimate every rank's offset to rank 0's clock.

    clock_of: by rank, the number of its clock; rank 0's is 0.
    Not modelled: that a message takes time, unequal times of the two directions (both are within
    the uncertainty), and drift, for which each iteration is aligned by itself.
    """
    num_clocks = 1 + max(clock_of)
    bounds = np.full((num_clocks, num_clocks), np.inf)
    np.fill_diagonal(bounds, 0.0)
    within = 0
    for sender, receiver, sent_ns, there_ns in messages:
        a, b = clock_of[sender], clock_of[receiver]
        slack = there_ns - sent_ns
        if a == b:
            within = max(within, -slack)
        else:
            bounds[b, a] = min(bounds[b, a], slack)
    if num_clocks == 1:
        return Alignment(offsets_ns=(0,) * len(clock_of), uncertainty_ns=0, impossible_ns=within)
    found = _shortest(bounds)
    worst = max(0.0, -float(found.diagonal().min()))
    if worst:
        # As much room for every message as the worst cycle lacks, so that all have a solution.
        found = _shortest(bounds + worst)
    high, low = found[0], -found[:, 0]
    known = np.isfinite(high) & np.isfinite(low)
    middle = np.where(known, (np.where(known, high, 0) + np.where(known, low, 0)) / 2, 0.0)
    # With messages one way only there is but one bound: as if the quickest took no time.
    middle = np.where(~known & np.isfinite(high), high, middle)
    middle = np.where(~known & np.isfinite(low), low, middle)
    uncertainty = None if not known.all() else round(float((high - low).max()) / 2)
    offsets = [round(float(value)) for value in middle]
    return Alignment(
        offsets_ns=tuple(offsets[clock] for clock in clock_of),
        uncertainty_ns=uncertainty,
        impossible_ns=max(within, round(worst)),
    )


def _shortest(
    bounds: np.ndarray[tuple[int, int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Shortest paths between all clocks (Floyd and Warshall)."""
    found = bounds.copy()
    np.fill_diagonal(found, 0.0)
    for k in range(len(found)):
        np.minimum(found, found[:, k : k + 1] + found[k : k + 1, :], out=found)
    return found
