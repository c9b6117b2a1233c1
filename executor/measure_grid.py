"""What `measure` measures: which microbatches, cut how, on which makeups of a stage.

For causal models a grid over (batch, tokens, context): slices of the whole sequence, its halves,
quarters and so on down to a few tokens, each size after up to four contexts from none to all that
leave room for it. Larger slices between, which are run and not timed, make the contexts. The small
sizes share one such sequence, and each runs once more without context in a short one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from scenarios.schema import PRECISION_BYTES, Scenario
from sim.calibration import Makeup
from sim.cost.shapes import Shape, shape_of
from sim.workload.partition import group_pieces

LAYERS = (Makeup(1, False, False), Makeup(3, False, False))
EVERY = (*LAYERS, Makeup(1, True, False), Makeup(1, False, True))
FEWEST_TOKENS = 8
"""Of the slices measured; the search's granularity unless given."""
_NUM_CONTEXTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One microbatch cut one way, run over and over on one makeup after the other.

    slices: tokens of each; all together the sequence, which may be shorter than the model's.
    timed: the slices whose passes are timed. split: of the makeups, those of which input and weight
    gradients are also measured apart.
    """

    micro_batch: int
    slices: tuple[int, ...]
    timed: tuple[int, ...]
    makeups: tuple[Makeup, ...] = EVERY
    split: tuple[Makeup, ...] = ()

    def shapes(self, scenario: Scenario) -> tuple[Shape, ...]:
        """The shape of each slice."""
        contexts = [sum(self.slices[:index]) for index in range(len(self.slices))]
        return tuple(
            shape_of(scenario, tokens, context)._replace(micro_batch=self.micro_batch)
            for tokens, context in zip(self.slices, contexts, strict=True)
        )

    @property
    def num_runs(self) -> int:
        """How many times a stage is built and run for it."""
        return len(self.makeups) + len(self.split)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What is measured, how often at most, in about which time, and message sizes in bytes."""

    series: tuple[Series, ...]
    repetitions: int
    seconds: float
    message_bytes: tuple[int, ...]

    @property
    def num_runs(self) -> int:
        """How many times a stage is built and run."""
        return sum(series.num_runs for series in self.series)

    def shapes(self, scenario: Scenario) -> tuple[Shape, ...]:
        """The shapes that are timed, each once."""
        found = {s.shapes(scenario)[index]: None for s in self.series for index in s.timed}
        return tuple(found)


def grid_of(scenario: Scenario, *, quick: bool) -> Grid:
    """The scenario's own microbatches and slices, and slices of other sizes around them; messages
    of 1 KiB to four times the scenario's.

    quick: the scenario's own, and of causal models halves and eighths, few times each.
    """
    model = scenario.model
    assert model is not None
    groups = unsliced(scenario).plan.variant_groups
    if scenario.plan.slices != "optimal":
        groups = scenario.plan.variant_groups
    sizes = sorted({group.micro_batch for group in groups})
    series = [
        Series(
            micro_batch=group.micro_batch,
            slices=tuple(piece.tokens for piece in group_pieces(group, model.sequence)),
            timed=tuple(range(group.num_slices)),
            split=EVERY,
        )
        for group in groups
    ]
    largest = sizes[-1] * model.sequence * model.hidden * PRECISION_BYTES[scenario.plan.precision]
    if quick:
        if model.causal:
            series += [_series(sizes[0], model.sequence, model.sequence // n) for n in (2, 8)]
        messages = {1024, max(largest, 2048)}
    else:
        around = sizes
        if len(sizes) == 1:
            around = sorted({max(1, sizes[0] // 2), sizes[0], sizes[0] * 2})
        for batch in around:
            series += _around(batch, model.sequence, own=batch in sizes, causal=model.causal)
        messages = {1024, 16 << 10, 64 << 10, 256 << 10, 1 << 20}
        messages |= {largest // 4, largest, largest * 4}
    return Grid(
        series=_once(series),
        repetitions=5 if quick else 30,
        seconds=10.0 if quick else 60.0,
        message_bytes=tuple(sorted(size for size in messages if size >= 1024)),
    )


def unsliced(scenario: Scenario) -> Scenario:
    """The scenario with whole sequences."""
    return replace(scenario, plan=replace(scenario.plan, slices=None))


def _around(batch: int, sequence: int, *, own: bool, causal: bool) -> Iterator[Series]:
    """Whole sequences of a batch and, where causal, what they can be cut into.

    own: whether it is a batch of the scenario's; of others there is less.
    """
    yield Series(micro_batch=batch, slices=(sequence,), timed=(0,), split=EVERY if own else ())
    if not causal:
        return
    apart = LAYERS if own else ()
    if own:
        yield _series(batch, sequence, sequence // 2, makeups=LAYERS)
        yield _series(batch, sequence, sequence // 8, makeups=LAYERS)
    yield _series(batch, sequence, sequence // 4, makeups=EVERY if own else LAYERS, split=apart)
    small: list[int] = []
    while sequence >> (4 + len(small)) >= FEWEST_TOKENS:
        small.append(sequence >> (4 + len(small)))
    if small:
        some = small if own else [small[0], small[-1]]
        for tokens in dict.fromkeys(some):
            yield Series(
                micro_batch=batch, slices=(tokens, tokens), timed=(0, 1), makeups=EVERY, split=apart
            )
        yield _series(batch, sequence, *small, makeups=LAYERS, split=apart)


def cut(sequence: int, *tokens: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A sequence cut so that slices of these tokens, one behind the other, are at its begin, at its
    end and between: all slices, and which ones these are.

    Up to four times where that fits, with other slices between.
    """
    together = sum(tokens)
    count = min(sequence // together, _NUM_CONTEXTS)
    room, places = sequence - count * together, max(1, count - 1)
    slices: list[int] = []
    timed: list[int] = []
    for index in range(count):
        timed += range(len(slices), len(slices) + len(tokens))
        slices += tokens
        between = room // places + (index < room % places)
        if index < places and between:
            slices.append(between)
    return tuple(slices), tuple(timed)


def _series(
    batch: int,
    sequence: int,
    *tokens: int,
    makeups: tuple[Makeup, ...] = EVERY,
    split: tuple[Makeup, ...] = (),
) -> Series:
    slices, timed = cut(sequence, *(max(1, n) for n in tokens))
    return Series(micro_batch=batch, slices=slices, timed=timed, makeups=makeups, split=split)


def _once(series: list[Series]) -> tuple[Series, ...]:
    """Each microbatch and cut once, as it comes first."""
    found: dict[tuple[int, tuple[int, ...]], Series] = {}
    for one in series:
        found.setdefault((one.micro_batch, one.slices), one)
    return tuple(found.values())
