"""The section on the whole training run: days and money among failures, and the best checkpoint
interval."""

from __future__ import annotations

from reports import tables
from reports.elastic_words import long_duration
from reports.pages import charts_training
from reports.pages.sections import Figure, Section
from reports.tables import Cell, Table
from reports.training_words import PARTS, Fact, checkpoint_facts, claim, days, facts
from sim.prediction import Prediction
from sim.training_run import Intervals, TrainingOutlook


def has_training(prediction: Prediction) -> bool:
    """Whether there is more to say of the training run than its failure-free days."""
    return prediction.training is not None and not prediction.training.is_plain


def training_section(prediction: Prediction) -> Section:
    """What the run takes, where its days go, and how often it is best saved."""
    found = prediction.training
    assert found is not None
    figures = []
    shown = [_facts_table("The whole training run (simulated)", facts(found))]
    if found.breakdown and found.expected_days is not None:
        figures.append(
            Figure(
                name="training-overhead",
                title=f"What comes on top of {days(found.failure_free_days)} of training "
                "(simulated, expected days)",
                data=charts_training.overhead(found),
                half=found.intervals is not None,
            )
        )
        shown.append(_breakdown_table(found, found.expected_days))
    if found.intervals is not None and found.expected_days is not None:
        figures.insert(
            0,
            Figure(
                name="training-interval",
                title="The run's time by how often it is saved (simulated)",
                data=charts_training.time_by_interval(found, found.intervals),
                legend=charts_training.legend_of(found),
                half=True,
            ),
        )
    if checkpoint_facts(found):
        shown.append(_facts_table("Checkpoints", checkpoint_facts(found)))
    if found.intervals is not None:
        shown.append(_interval_table(found.intervals))
    notes = (("What to know", found.notes),) if found.notes else ()
    return Section(
        name="training",
        topic="Training run",
        claim=claim(found),
        reading=_reading(found),
        figures=tuple(figures),
        tables=tuple(shown),
        lists=notes,
    )


def _reading(found: TrainingOutlook) -> str:
    text = (
        "Expected days are exact for failures that come at random; the interval is that of runs "
        "simulated failure by failure."
    )
    if found.days is None:
        text = "Expected days are the iterations one after another, with what comes on top."
    if found.intervals is None:
        return text
    return (
        f"{text} Left of the best interval checkpoints cost more than they save; right of it more "
        "work is lost with each failure. Simulated points have the same failures at every interval."
    )


def _facts_table(caption: str, rows: list[Fact]) -> Table:
    return Table(
        caption=caption,
        columns=("Figure", "Value"),
        rows=tuple(
            (tables.text(row.what), Cell(text=row.text, value=row.value, figure=row.figure))
            for row in rows
        ),
    )


def _breakdown_table(found: TrainingOutlook, expected: float) -> Table:
    rows = [
        (
            tables.text(PARTS[name]),
            Cell(text=days(part), value=part, figure=f"training.breakdown_days.{name}"),
            tables.share(part / expected),
        )
        for name, part in found.breakdown.items()
    ]
    rows.append((tables.text("sum"), Cell(text=days(expected), value=expected), tables.share(1.0)))
    return Table(
        caption="Where the days go", columns=("What", "Expected", "Share"), rows=tuple(rows)
    )


def _interval_table(intervals: Intervals) -> Table:
    rows = []
    for point in intervals.points:
        expected, own, seconds = point.expected_days, point.simulated, point.interval_ns / 1e9
        rows.append(
            (
                Cell(text=long_duration(seconds), value=seconds),
                Cell(text=days(expected), value=expected) if expected else tables.text("never"),
                Cell(text=days(own.mean), value=own.mean) if own else tables.text("–"),
                Cell(text=f"{own.error:.2g}", value=own.error) if own else tables.text("–"),
            )
        )
    return Table(
        caption="Days by the work between two checkpoints",
        columns=("Work between", "Expected", "Simulated", "Standard error, days"),
        rows=tuple(rows),
    )
