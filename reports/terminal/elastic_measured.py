"""What the terminal shows of elastic runs that were executed, beside their predictions."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rich.table import Table
from rich.text import Text

from reports.elastic_measured import cache_counts, gain_words, verdict
from reports.elastic_tables import part_name, part_names
from reports.elastic_words import epochs, long_duration, shape
from reports.terminal.console import console, plain_table, progress_done, show_json, wide, wrote
from reports.terminal.elastic import plain
from scenarios.units import format_bytes, format_duration_ns
from sim.elastic_comparison import ElasticCase, ElasticComparison, summary


class Check(Protocol):
    """A check of an executed run, which says in words how it came out."""

    @property
    def passed(self) -> bool:
        """Whether it holds."""


def finish(
    found: ElasticComparison,
    written: Sequence[Path | None],
    *,
    as_json: bool,
    check: Check | None = None,
) -> int:
    """Show the runs, the check and what was written; the exit code: 130 where they were
    interrupted, 1 where the check failed."""
    progress_done()
    if as_json:
        checked = {"passed": check.passed, "text": str(check)} if check is not None else None
        show_json({**summary(found), "check": checked})
    else:
        show_runs(found)
    if check is not None and not as_json:
        console().print(Text(str(check), style="green" if check.passed else "bold red"))
    wrote(written, as_json=as_json)
    if found.interrupted:
        done = sum(len(case.measurement.epochs) for case in found.cases)
        sys.stderr.write(f"interrupted: {done} epochs were finished and kept\n")
        return 130
    return int(check is not None and not check.passed)


def show_runs(found: ElasticComparison) -> None:
    """The verdict, every run, its phases and transitions, the speed-ups and what to know."""
    out = console()
    out.print(Text(plain(verdict(found)), style="bold"))
    wide(out, runs_table(found))
    for case in found.cases:
        out.print(Text(f"{case.name}, phase by phase", style="bold"))
        wide(out, phases_table(case))
        if case.transitions:
            wide(out, transitions_table(case))
        if case.measurement.resumed_from is not None:
            out.print(f"resumed at epoch {case.measurement.resumed_from} from its checkpoint")
    for gain in found.speedups:
        out.print(plain(gain_words(gain)).replace("×", "x"))
    if found.note:
        out.print(found.note)


def runs_table(found: ElasticComparison) -> Table:
    """A line a run: training time measured and predicted, what it learnt, the cache."""
    table = plain_table(
        "run",
        "measured",
        "predicted",
        "error",
        "accuracy",
        "loss",
        "cache read",
        "written",
        "missed",
        right=tuple(range(1, 9)),
    )
    for case in found.cases:
        accuracy, loss = case.measurement.final_accuracy, case.measurement.final_loss
        table.add_row(
            case.name,
            plain(long_duration(case.measured_s)),
            "-" if case.predicted_s is None else plain(long_duration(case.predicted_s)),
            signed(case.error),
            "-" if accuracy is None else f"{accuracy:.2%}",
            "-" if loss is None else f"{loss:.4f}",
            *(f"{count:,}" for count in cache_counts(case)),
        )
    return table


def phases_table(case: ElasticCase) -> Table:
    """A line a phase: iteration and epoch, predicted and measured; ranks are those of a pipeline x
    replicas, `others` the share of time in which other processes held ranks up."""
    table = plain_table(
        "epochs",
        "frozen",
        "cached",
        "fills",
        "ranks",
        "microbatches",
        "iteration",
        "predicted",
        "an epoch",
        "predicted",
        "error",
        "others",
        right=(0, 1, 2, 3, 6, 7, 8, 9, 10, 11),
    )
    for own in case.phases:
        phase = own.phase
        table.add_row(
            epochs(phase),
            str(phase.frozen_layers),
            str(phase.cached_layers),
            f"to {phase.frozen_layers}" if phase.fills_cache else "-",
            shape(phase),
            f"{phase.layout.microbatches} of {phase.layout.micro_batch}",
            seconds(own.measured_iteration_s),
            seconds(own.predicted_iteration_s),
            seconds(own.measured_epoch_s),
            seconds(own.predicted_epoch_s),
            signed(own.error),
            "-" if own.foreign is None else f"{own.foreign:.1%}",
        )
    return table


def transitions_table(case: ElasticCase) -> Table:
    """A line a transition: what took it, what was foreseen, what moved, and one batch's loss."""
    parts = part_names([t.measured.seconds for t in case.transitions])
    names = [part_name(name).lower() for name in parts]
    losses = any(t.measured.loss_before is not None for t in case.transitions)
    columns = ["before epoch", *names, "predicted", "moved", *(["loss kept"] if losses else [])]
    table = plain_table(*columns, right=tuple(range(len(columns))))
    for own in case.transitions:
        row = [
            str(own.measured.epoch),
            *(seconds(own.measured.seconds.get(name)) for name in parts),
            seconds(own.predicted_s),
            format_bytes(own.measured.moved_bytes),
        ]
        if losses:
            row.append(_kept(own.measured.loss_before, own.measured.loss_after))
        table.add_row(*row)
    return table


def _kept(before: float | None, after: float | None) -> str:
    return "-" if before is None or after is None else f"to {abs(after - before):.1e}"


def seconds(value: float | None) -> str:
    """A time of a few digits; `-` where it is unknown."""
    return "-" if value is None else format_duration_ns(value * 1e9)


def signed(error: float | None) -> str:
    """An error in percent; `-` where it is unknown."""
    return "-" if error is None else f"{error:+.1%}"
