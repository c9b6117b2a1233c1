"""Ways to cut a batch: into microbatches in runs of equal ones, and these into token slices."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from scenarios.schema import MicrobatchGroup
from sim.planner.slicing import Split, uniform_slices
from sim.workload.partition import slice_tokens


def grouped(splits: Sequence[Split], granularity: int) -> tuple[MicrobatchGroup, ...]:
    """Runs of equal microbatches, slices in tokens."""
    return tuple(
        _group(len(list(run)), split.micro_batch, [n * granularity for n in split.slices])
        for split, run in itertools.groupby(splits)
    )


def _group(microbatches: int, micro_batch: int, tokens: Sequence[int]) -> MicrobatchGroup:
    slices = tuple(tokens) if len(tokens) > 1 else None
    return MicrobatchGroup(microbatches=microbatches, micro_batch=micro_batch, slices=slices)


def unsliced(groups: Sequence[MicrobatchGroup]) -> tuple[MicrobatchGroup, ...]:
    return tuple(replace(group, slices=None) for group in groups)


def even(
    groups: Sequence[MicrobatchGroup], units: int, granularity: int
) -> Iterator[tuple[tuple[MicrobatchGroup, ...], int]]:
    """The same microbatches in 1, 2, 4, ... even slices each."""
    count = 1
    while count <= units:
        tokens = [n * granularity for n in uniform_slices(units, count)]
        yield tuple(_group(g.microbatches, g.micro_batch, tokens) for g in groups), count
        count *= 2


def neighbours(
    groups: tuple[MicrobatchGroup, ...], sequence: int, granularity: int
) -> Iterator[tuple[MicrobatchGroup, ...]]:
    """What differs in one move in one group: the last slice and the first are the likeliest to
    be wrong (the formula knows neither embedding nor head), so moves begin there."""
    for index, group in enumerate(groups):
        tokens = slice_tokens(group, sequence)
        for changed in _moves(tokens, granularity):
            moved = _group(group.microbatches, group.micro_batch, changed)
            yield (*groups[:index], moved, *groups[index + 1 :])


def _moves(tokens: tuple[int, ...], granularity: int) -> Iterator[tuple[int, ...]]:
    count = len(tokens)
    places = sorted(range(count - 1), key=lambda i: min(i, count - 2 - i))
    for i in places:
        for amount in (granularity, -granularity):
            left, right = tokens[i] + amount, tokens[i + 1] - amount
            if left > 0 and right > 0:
                yield (*tokens[:i], left, right, *tokens[i + 2 :])
    for i in places:
        yield (*tokens[:i], tokens[i] + tokens[i + 1], *tokens[i + 2 :])
    for i, whole in enumerate(tokens):
        first = whole // (2 * granularity) * granularity
        if first:
            yield (*tokens[:i], first, whole - first, *tokens[i + 1 :])
