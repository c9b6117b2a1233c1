"""Tables of elastic runs for the page: phases, transitions, epochs, and what each part brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from reports import tables, words
from reports.elastic_words import (
    PARTS,
    cache,
    crossed,
    epochs,
    long_duration,
    rate,
    shape,
    unbroken,
)
from reports.tables import Cell, Table
from sim.elastic.phases import Phase
from sim.elastic_run import AblationRow, ElasticPrediction

_LISTED = 8


def phases_table(found: ElasticPrediction) -> Table:
    """Every phase: its epochs, what is frozen and cached, its ranks, and how fast it is."""
    rows = []
    for own in found.phases:
        phase = own.phase
        peak = max((c.peak_bytes for c in own.prediction.memory or ()), default=None)
        rows.append(
            (
                tables.text(epochs(phase)),
                number(phase.frozen_layers),
                tables.text(unbroken(cache(phase)) or words.UNKNOWN),
                tables.text(crossed(shape(phase))),
                tables.text(stages(phase).replace("x", "×").replace(",", ", ")),
                tables.text(f"{phase.layout.microbatches} of {phase.layout.micro_batch}"),
                tables.seconds(own.iteration_ns / 1e9),
                Cell(text=rate(own.samples_per_s), value=own.samples_per_s),
                long(own.epoch_ns / 1e9),
                tables.memory(peak),
            )
        )
    columns = (
        "Epochs",
        "Frozen",
        "Cache",
        "Pipeline × replicas",
        "Layers a stage",
        "Microbatches",
        "Iteration",
        "Throughput",
        "An epoch",
        "Peak memory",
    )
    return Table(caption="Phases", columns=columns, rows=tuple(rows))


def stages(phase: Phase) -> str:
    """The layers of each stage: `3,2,2,1`; of many stages equal ones in a row together, as
    `3,2,14x1`."""
    layers = phase.layout.layers_per_stage
    if len(layers) <= _LISTED:
        return ",".join(map(str, layers))
    runs = [(own, len(list(same))) for own, same in groupby(layers)]
    return ",".join(f"{number}x{own}" if number > 1 else str(own) for own, number in runs)


def transitions_table(found: ElasticPrediction) -> Table:
    """What each change of the pipeline takes, by part."""
    parts = part_names([t.parts for t in found.transitions])
    rows = []
    for own in found.transitions:
        phase = found.phases[own.phase].phase
        before = found.phases[own.phase - 1].phase if own.phase else phase
        rows.append(
            (
                number(phase.first_epoch),
                tables.text(crossed(change(before, phase))),
                *(_part(own.parts.get(name, 0)) for name in parts),
                tables.seconds(own.total_ns / 1e9),
            )
        )
    names = tuple(part_name(name) for name in parts)
    columns = ("Before epoch", "What changes", *names, "In all")
    return Table(caption="Transitions", columns=columns, rows=tuple(rows))


def _part(duration_ns: int) -> Cell:
    return tables.seconds(duration_ns / 1e9) if duration_ns else tables.text(words.UNKNOWN)


def part_names(found: Sequence[Mapping[str, object]]) -> list[str]:
    """The parts of all transitions, those with words first and in their order."""
    names = dict.fromkeys(name for name in PARTS if any(name in parts for parts in found))
    names.update(dict.fromkeys(name for parts in found for name in parts))
    return list(names)


def part_name(name: str) -> str:
    """A part of a transition, as a column's head."""
    words_of = PARTS.get(name, name.replace("_", " "))
    return words_of[0].upper() + words_of[1:]


def change(before: Phase, after: Phase) -> str:
    """What a transition changes: `4 more layers frozen, 8 x 2 to 4 x 4 ranks`."""
    parts = []
    frozen = after.frozen_layers - before.frozen_layers
    if frozen:
        parts.append(f"{frozen} more frozen")
    if shape(before) != shape(after):
        parts.append(f"{shape(before)} to {shape(after)} ranks")
    return ", ".join(parts) or "the cache alone"


def epochs_table(found: ElasticPrediction) -> Table:
    """Every epoch."""
    rows = tuple(
        (
            number(e.epoch),
            number(e.frozen_layers),
            number(e.cached_layers),
            number(e.pipeline),
            number(e.data),
            number(e.microbatches),
            long(e.seconds),
            Cell(text=rate(e.samples_per_s), value=e.samples_per_s),
        )
        for e in found.epochs
    )
    columns = (
        "Epoch",
        "Frozen",
        "Cached",
        "Pipeline",
        "Replicas",
        "Microbatches",
        "Time",
        "Throughput",
    )
    return Table(caption="Epochs", columns=columns, rows=rows, fold=len(rows) > tables.FOLD_ROWS)


def ablation_table(rows: Sequence[AblationRow]) -> Table:
    """Each set of mechanisms: the whole run's time, and how much sooner it ends."""
    found = tuple(
        (
            tables.text(row.name),
            long(row.prediction.total_ns / 1e9),
            Cell(text=f"{row.speedup:.2f}×", value=row.speedup),
            long(row.prediction.transition_ns / 1e9),
        )
        for row in rows
    )
    columns = ("With", "Whole run", "Speed-up", "Of it transitions")
    return Table(caption="What each mechanism brings", columns=columns, rows=found)


def number(value: int) -> Cell:
    """A cell of a count."""
    return Cell(text=words.count(value), value=value)


def long(seconds: float) -> Cell:
    """A cell of a time as people say it."""
    return Cell(text=long_duration(seconds), value=seconds)
