"""Words about a whole training run: what it takes, and what comes on top of its iterations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reports.elastic_words import long_duration
from reports.words import NBSP, count, dollars, percent, significant, size
from sim.training_run import TrainingOutlook

PARTS: Mapping[str, str] = {
    "training": "training as predicted",
    "slow_devices": "slow devices and jitter",
    "checkpoints": "writing checkpoints",
    "lost_work": "work lost to failures, done again",
    "restarts": "restarts after failures",
}
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A figure of the run: what it is, as text and as a number, its name in the JSON summary."""

    what: str
    text: str
    value: float | None = None
    figure: str | None = None


def days(number: float) -> str:
    """Write days: `33.98 days`, or of a shorter time `7.5 hours`."""
    if number >= 2:
        return f"{_number(number)}{NBSP}days"
    return long_duration(number * _DAY_S)


def between(low: float, high: float) -> str:
    """Write two numbers of days: `33.87 to 34.11 days`."""
    return f"{_number(low) if low >= 2 else days(low)} to {days(high)}"


def _number(number: float) -> str:
    """To the same digits in numbers that are compared: `33.90`, `1,234`."""
    return f"{number:.2f}" if number < 1000 else count(number)


def claim(found: TrainingOutlook) -> str:
    """The run in a sentence: days, hours, money, and how much of it is training."""
    if found.expected_days is None:
        run = found.run
        if run.is_too_long:
            return "The run never finishes: its iterations alone would take over 100 years"
        every = f" with a failure every {_ns(run.mtbf_ns)}" if run.mtbf_ns is not None else ""
        return (
            f"The run never finishes{every}: a checkpoint takes {_ns(run.write_ns)} and a restart "
            f"{_ns(run.restart_ns)}"
        )
    text = f"The whole run takes {days(found.expected_days)} on average"
    if found.days is not None:
        text += f", 90{NBSP}% of runs {between(found.days.low, found.days.high)}"
    text += f": {count(found.expected_days * found.hours_a_day)} device hours"
    if found.dollars_a_day is not None:
        text += f" or {dollars(found.expected_days * found.dollars_a_day)}"
    return f"{text}; {percent(found.goodput)} of it is training as predicted"


def facts(found: TrainingOutlook) -> list[Fact]:
    """Days, hours, money, failures."""
    rows = [
        Fact(
            what="without failures, checkpoints and slow devices",
            text=days(found.failure_free_days),
            value=found.failure_free_days,
            figure="training.failure_free_days",
        )
    ]
    expected, a_day = found.expected_days, found.dollars_a_day
    if expected is not None:
        rows += _expected(found, expected, a_day)
    if found.slowdown != 1.0:
        rows.append(
            Fact(
                what="an iteration with slow devices and jitter",
                text=f"{significant(found.slowdown, 4)} times as long",
                value=found.slowdown,
                figure="training.slowdown",
            )
        )
    mtbf = found.run.mtbf_ns
    if mtbf is not None:
        rows.append(Fact(what="a failure every", text=_ns(mtbf), value=mtbf / 1e9))
    if found.failures is not None:
        failures = Fact(
            what="failures, expected",
            text=significant(found.failures, 3),
            value=found.failures,
            figure="training.failures",
        )
        rows.append(failures)
    return rows


def _expected(found: TrainingOutlook, expected: float, a_day: float | None) -> list[Fact]:
    rows = [
        Fact(
            what="expected",
            text=days(expected),
            value=expected,
            figure="training.expected_days",
        )
    ]
    spread = found.days
    if spread is not None:
        few = f"of {spread.num_runs:,} simulated runs 5{NBSP}% take"
        rows += [
            _days(f"{few} less than", spread.low, "low"),
            _days(f"{few} more than", spread.high, "high"),
            _days("mean of the simulated runs", spread.mean, "mean"),
            _days("standard error of that mean", spread.error, "standard_error"),
        ]
    hours = expected * found.hours_a_day
    rows.append(
        Fact(
            what="device hours, expected",
            text=count(hours),
            value=hours,
            figure="training.expected_gpu_hours",
        )
    )
    if a_day is not None:
        rows.append(_cost("cost, expected", expected * a_day, "expected_dollars"))
    if a_day is not None and spread is not None:
        five = f"of the runs 5{NBSP}% cost"
        rows += [
            _cost(f"{five} less than", spread.low * a_day, "dollars.low"),
            _cost(f"{five} more than", spread.high * a_day, "dollars.high"),
        ]
    goodput = Fact(
        what="goodput: training as predicted, of all the time",
        text=percent(found.goodput),
        value=found.goodput,
        figure="training.goodput",
    )
    return [*rows, goodput]


def _days(what: str, number: float, figure: str) -> Fact:
    return Fact(what=what, text=days(number), value=number, figure=f"training.days.{figure}")


def _cost(what: str, amount: float, figure: str) -> Fact:
    return Fact(what=what, text=dollars(amount), value=amount, figure=f"training.{figure}")


def checkpoint_facts(found: TrainingOutlook) -> list[Fact]:
    """Checkpoints: how large, how long, how often, and what the formulas say; empty for none."""
    run, intervals = found.run, found.intervals
    if run.interval_ns is None:
        return []
    given = found.training.checkpoint_interval is not None
    rows = [
        Fact(
            what="size of a checkpoint",
            text=size(run.checkpoint_bytes),
            value=run.checkpoint_bytes,
            figure="training.checkpoint.bytes",
        ),
        _seconds("writing it takes", run.write_ns, "write_s"),
        _seconds("for which training stands still", run.stall_ns, "stall_s"),
        _seconds(
            f"work between two, {'given' if given else 'best'}", run.interval_ns, "interval_s"
        ),
        Fact(
            what="in iterations",
            text=significant(run.interval_ns / run.iteration_ns, 3),
            value=run.interval_ns / run.iteration_ns,
            figure="training.checkpoint.interval_iterations",
        ),
    ]
    if intervals is None:
        return rows
    best, simulated = intervals.best, intervals.simulated_best
    rows.append(_seconds("best by the exact model", best, "best_interval_s"))
    if simulated is not None:
        name = "simulated_best_interval_s"
        rows.append(_seconds("best of those simulated", simulated.interval_ns, name))
    return [
        *rows,
        _seconds("Young's formula", intervals.young, "young_interval_s"),
        _seconds(
            "Daly's formula, first order", intervals.daly_first_order, "daly_first_order_interval_s"
        ),
        _seconds("Daly's formula, higher order", intervals.daly, "daly_interval_s"),
    ]


def _seconds(what: str, duration_ns: float, figure: str) -> Fact:
    return Fact(
        what=what,
        text=_ns(duration_ns),
        value=duration_ns / 1e9,
        figure=f"training.checkpoint.{figure}",
    )


def _ns(duration_ns: float | None) -> str:
    return long_duration((duration_ns or 0.0) / 1e9)
