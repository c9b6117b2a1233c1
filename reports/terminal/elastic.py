"""What the terminal shows of a predicted elastic run."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from reports.elastic_tables import change, part_name, part_names, stages
from reports.elastic_words import epochs, long_duration, notes, shape, verdict, with_own
from reports.terminal.console import console, plain_table, progress_done, show_json, wide
from reports.words import NBSP, plural
from scenarios.units import format_bytes, format_duration_ns
from sim.elastic_run import AblationRow, ElasticPrediction, contributions, summary


def show_elastic(found: ElasticPrediction, rows: Sequence[AblationRow], *, as_json: bool) -> None:
    """A predicted run: verdict, phases, transitions, total, the ablation, and what to know."""
    progress_done()
    if as_json:
        show_json(summary(found, rows))
        return
    out = console()
    out.print(Text(plain(verdict(found, rows)), style="bold"))
    wide(out, phases_table(found))
    if found.transitions:
        wide(out, transitions_table(found))
    out.print(total(found))
    if rows:
        out.print(ablation_table(with_own(found, rows)))
        factors = contributions({row.name: row.speedup for row in rows})
        out.print(
            "of it: " + ", ".join(f"{name} {factor:.2f}x" for name, factor in factors.items())
        )
    for note in notes(found):
        out.print(f"note: {plain(note)}")
    for what, share in found.phases[0].prediction.costs.assumed[:8]:
        out.print(f"assumed: {what} ({share:.1%} of the first phase's time)")


def plain(text: str) -> str:
    """As the terminal has it: without a page's unbroken spaces, microseconds as `us`."""
    return text.replace(NBSP, " ").replace("µs", "us")


def phases_table(found: ElasticPrediction) -> Table:
    """A line a phase; epochs count from 0, ranks are those of a pipeline x replicas."""
    table = plain_table(
        "epochs",
        "frozen",
        "cached",
        "fills",
        "ranks",
        "layers a stage",
        "microbatches",
        "iteration",
        "samples/s",
        "an epoch",
        "peak memory",
        right=(0, 1, 2, 3, 7, 8, 9, 10),
    )
    for own in found.phases:
        phase = own.phase
        peak = max((c.peak_bytes for c in own.prediction.memory or ()), default=None)
        table.add_row(
            epochs(phase),
            str(phase.frozen_layers),
            str(phase.cached_layers),
            f"to {phase.frozen_layers}" if phase.fills_cache else "-",
            shape(phase),
            stages(phase),
            f"{phase.layout.microbatches} of {phase.layout.micro_batch}",
            format_duration_ns(own.iteration_ns),
            f"{own.samples_per_s:,.4g}"
            if own.samples_per_s < 1000
            else f"{own.samples_per_s:,.0f}",
            plain(long_duration(own.epoch_ns / 1e9)),
            format_bytes(peak) if peak is not None else "unknown",
        )
    return table


def transitions_table(found: ElasticPrediction) -> Table:
    """A line a change of the pipeline."""
    parts = part_names([t.parts for t in found.transitions])
    names = [part_name(name).lower() for name in parts]
    right = (0, *range(2, len(names) + 3))
    table = plain_table("before epoch", "what changes", *names, "in all", right=right)
    for own in found.transitions:
        phase = found.phases[own.phase].phase
        before = found.phases[own.phase - 1].phase if own.phase else phase
        table.add_row(
            str(phase.first_epoch),
            change(before, phase),
            *(_part(own.parts.get(name, 0)) for name in parts),
            plain(long_duration(own.total_ns / 1e9)),
        )
    return table


def _part(duration_ns: int) -> str:
    return format_duration_ns(duration_ns) if duration_ns else "-"


def total(found: ElasticPrediction) -> str:
    """The whole run in a line."""
    moves = (
        f"{plural(len(found.transitions), 'transition')} {long_duration(found.transition_ns / 1e9)}"
        if found.transitions
        else "no transitions"
    )
    return plain(
        f"in all {long_duration(found.total_ns / 1e9)}: "
        f"{plural(len(found.frozen_by_epoch), 'epoch')} of training "
        f"{long_duration(found.training_ns / 1e9)}, {moves}"
    )


def ablation_table(rows: Sequence[AblationRow]) -> Table:
    """A line a set of mechanisms."""
    table = plain_table("with", "whole run", "speed-up", right=(1, 2))
    for row in rows:
        table.add_row(
            row.name, plain(long_duration(row.prediction.total_ns / 1e9)), f"{row.speedup:.2f}x"
        )
    return table
