"""What the terminal shows of a scenario's variants beside one another."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from reports.terminal.console import console, plain_table, progress_done, show_json, wrote
from reports.variant_words import variants_json, verdict
from scenarios.units import format_duration_ns
from sim.variants import VariantsResult, slicing_text


def show_variants(found: VariantsResult, *, as_json: bool) -> None:
    """Each variant: its slicing, measured, predicted, the two errors, and the speed-ups."""
    progress_done()
    if as_json:
        show_json(variants_json(found))
        return
    out = console()
    out.print(Text(verdict(found), style="bold"))
    table = plain_table(
        "variant",
        "slices",
        "measured",
        "run to run",
        "predicted",
        "error",
        "structural",
        "faster",
        "predicted",
        right=(2, 3, 4, 5, 6, 7, 8),
    )
    for case in found.cases:
        row = case.row
        measured, predicted = found.speedups(case)
        table.add_row(
            case.variant,
            slicing_text(case.loaded.scenario),
            format_duration_ns(row.measured_ns),
            f"{row.run_to_run_spread:.1%}",
            format_duration_ns(row.predicted_ns),
            f"{row.predictive_error:+.1%}",
            f"{row.structural_error:+.2%}",
            f"{measured:.2f}x",
            f"{predicted:.2f}x",
        )
    out.print(table)
    kept = sum(c.comparison.num_iterations for c in found.cases)
    disturbed = sum(c.comparison.num_disturbed for c in found.cases)
    out.print(
        f"{kept} iterations, {disturbed} disturbed by other processes; `faster` is over "
        f"{found.cases[0].variant}; errors and `faster` are medians of what was run together, pair "
        "by pair"
    )
    if any(case.comparison.in_sample for case in found.cases):
        out.print("in-sample: the profile was calibrated on runs of these very variants")
    if found.note:
        out.print(found.note)
    for name, check in found.checks.items():
        style = "green" if check.passed else "bold red"
        out.print(Text(f"{name}: {check}", style=style))


def finish(found: VariantsResult, written: Sequence[Path | None], *, as_json: bool) -> int:
    """Show the variants and what was written; the exit code: 130 where the run was interrupted, 1
    where a check failed."""
    show_variants(found, as_json=as_json)
    wrote(written, as_json=as_json)
    if found.interrupted:
        rounds = found.cases[0].row.rounds
        sys.stderr.write(f"interrupted: {rounds} whole rounds were finished and kept\n")
        return 130
    return int(not all(check.passed for check in found.checks.values()))
