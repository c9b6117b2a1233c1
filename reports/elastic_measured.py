"""Words and tables of elastic runs that were executed, with their predictions beside them."""

from __future__ import annotations

from reports import tables, words
from reports.elastic_tables import long, number, part_name, part_names
from reports.elastic_words import cache, crossed, epochs, long_duration, shape, unbroken
from reports.tables import Cell, Table
from sim.elastic_comparison import ElasticCase, ElasticComparison, ElasticSpeedup


def verdict(found: ElasticComparison) -> str:
    """The runs in one sentence: how long, how much sooner, how accurate, each as predicted."""
    own = found.cases[0]
    text = f"{own.name}: {long_duration(own.measured_s)} of training (measured"
    if own.predicted_s is not None:
        off = words.percent(own.error, signed=True)
        text += f"; predicted {long_duration(own.predicted_s)}, {off}"
    text += ")"
    for gain in found.speedups:
        text += f", {gain.measured:.2f} times as fast as {gain.other}"
        if gain.predicted is not None:
            text += f" (predicted: {gain.predicted:.2f} times)"
    accuracy = own.measurement.final_accuracy
    return f"{text}, {words.percent(accuracy)} accurate" if accuracy is not None else text


def gain_words(gain: ElasticSpeedup) -> str:
    """A speed-up with its prediction and what it costs of accuracy, in a line."""
    text = f"over {gain.other}: measured {gain.measured:.2f}×"
    if gain.predicted is not None:
        off = words.percent(gain.error, signed=True)
        text += f", predicted {gain.predicted:.2f}× ({off})"
    if gain.accuracy_lost is not None:
        points = f"{abs(100 * gain.accuracy_lost):.2f} points"
        side = "less" if gain.accuracy_lost >= 0 else "more"
        text += f"; {points} {side} accurate"
    return text


def cache_counts(case: ElasticCase) -> tuple[int, int, int]:
    """Samples read from the cache, written to it and missed, over the whole run."""
    found = case.measurement.epochs
    return (
        sum(e.cache_read for e in found),
        sum(e.cache_written for e in found),
        sum(e.cache_missed for e in found),
    )


def runs_table(found: ElasticComparison) -> Table:
    """Every run: training time measured and predicted, accuracy, loss, cache."""
    rows = []
    for case in found.cases:
        read, written, missed = cache_counts(case)
        accuracy, loss = case.measurement.final_accuracy, case.measurement.final_loss
        rows.append(
            (
                tables.text(case.name),
                long(case.measured_s),
                _maybe(case.predicted_s),
                _error(case.error),
                tables.share(accuracy),
                Cell(text=words.significant(loss), value=loss),
                number(read),
                number(written),
                number(missed),
                long(case.measurement.seconds),
            )
        )
    columns = (
        "Run",
        "Training, measured",
        "Predicted",
        "Error",
        "Test accuracy",
        "Loss, last epoch",
        "Read from the cache",
        "Written",
        "Missed",
        "With all else",
    )
    return Table(caption="Runs", columns=columns, rows=tuple(rows))


def phases_table(found: ElasticComparison) -> Table:
    """Every phase of every run: iteration and epoch, predicted and measured."""
    rows: list[tuple[Cell, ...]] = []
    groups: dict[int, str] = {}
    for case in found.cases:
        groups[len(rows)] = case.name
        for own in case.phases:
            rows.append(
                (
                    tables.text(epochs(own.phase)),
                    number(own.phase.frozen_layers),
                    tables.text(unbroken(cache(own.phase)) or words.UNKNOWN),
                    tables.text(crossed(shape(own.phase))),
                    tables.seconds(own.predicted_iteration_s),
                    tables.seconds(own.measured_iteration_s),
                    _maybe(own.predicted_epoch_s),
                    long(own.measured_epoch_s),
                    _error(own.error),
                    tables.share(own.foreign),
                )
            )
    columns = (
        "Epochs",
        "Frozen",
        "Cache",
        "Pipeline × replicas",
        "Iteration, predicted",
        "Measured",
        "Epoch, predicted",
        "Measured",
        "Error",
        "Held up by others",
    )
    return Table(caption="Phases", columns=columns, rows=tuple(rows), groups=groups)


def transitions_table(found: ElasticComparison) -> Table:
    """Every transition of every run, by part, and the loss of one batch before and after it."""
    parts = part_names([t.measured.seconds for case in found.cases for t in case.transitions])
    losses = any(t.measured.loss_before is not None for c in found.cases for t in c.transitions)
    rows: list[tuple[Cell, ...]] = []
    groups: dict[int, str] = {}
    for case in found.cases:
        if case.transitions:
            groups[len(rows)] = case.name
        for own in case.transitions:
            seconds = own.measured.seconds
            row = [
                number(own.measured.epoch),
                *(tables.seconds(seconds.get(name)) for name in parts),
                tables.seconds(own.measured_s),
                tables.seconds(own.predicted_s),
                tables.memory(own.measured.moved_bytes),
            ]
            if losses:
                before, after = own.measured.loss_before, own.measured.loss_after
                row += [Cell(text=words.significant(v, 8), value=v) for v in (before, after)]
            rows.append(tuple(row))
    columns = (
        "Before epoch",
        *(part_name(name) for name in parts),
        "Without evaluation, measured",
        "Predicted",
        "Moved",
        *(("Loss before", "Loss after") if losses else ()),
    )
    return Table(caption="Transitions", columns=columns, rows=tuple(rows), groups=groups)


def epochs_table(found: ElasticComparison) -> Table:
    """Every epoch of every run as it was measured."""
    rows: list[tuple[Cell, ...]] = []
    groups: dict[int, str] = {}
    for case in found.cases:
        groups[len(rows)] = case.name
        frozen = case.measurement.frozen_by_epoch
        for own in case.measurement.epochs:
            rows.append(
                (
                    number(own.epoch),
                    number(frozen[own.epoch]),
                    long(own.seconds),
                    Cell(text=words.significant(own.mean_loss), value=own.mean_loss),
                    tables.share(own.accuracy),
                    number(own.cache_read),
                    number(own.cache_written),
                    number(own.cache_missed),
                )
            )
    columns = (
        "Epoch",
        "Frozen",
        "Time",
        "Loss",
        "Test accuracy",
        "Read from the cache",
        "Written",
        "Missed",
    )
    return Table(
        caption="Epochs, measured",
        columns=columns,
        rows=tuple(rows),
        groups=groups,
        fold=len(rows) > tables.FOLD_ROWS,
    )


def _maybe(seconds: float | None) -> Cell:
    return long(seconds) if seconds is not None else tables.text(words.UNKNOWN)


def _error(error: float | None) -> Cell:
    return tables.error(error) if error is not None else tables.text(words.UNKNOWN)
