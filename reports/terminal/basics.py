"""What the terminal shows: tables for people, one JSON object where asked, progress on stderr."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from reports.terminal.console import console, plain_table, progress_done, show_json
from reports.terminal.training import show_training
from scenarios.catalogue import Entry
from scenarios.units import format_bytes, format_duration_ns
from sim.measured_summary import measured_summary
from sim.measurement import Measurement
from sim.prediction import Prediction, summary
from sim.schedule.actions import Action, Kind
from sim.schedule.build import build_program
from sim.schedule.checks import CheckReport
from sim.schedule.drawing import unit_slots
from sim.schedule.schedule import Schedule
from sim.timeline.figures import figures

_MAX_RANKS_SHOWN = 16


def show_catalogue(entries: Sequence[Entry], *, as_json: bool) -> None:
    """The catalogue by kind."""
    if as_json:
        fields = ("name", "kind", "description")
        show_json({"catalogue": [{f: getattr(e, f) for f in fields} for e in entries]})
        return
    table = plain_table("name", "kind", "what it is")
    order = ("scenario", "table", "model", "cluster", "device")
    for entry in sorted(entries, key=lambda e: (order.index(e.kind), e.name)):
        table.add_row(entry.name, entry.kind, entry.description)
    console().print(table)


def show_prediction(prediction: Prediction, *, as_json: bool) -> None:
    """A simulated iteration: verdict, figures, where the time goes, memory per rank."""
    found = summary(prediction)
    if as_json:
        show_json(found)
        return
    from reports.words import verdict

    out = console()
    out.print(Text(verdict(prediction), style="bold"))
    plain = prediction.training is None or prediction.training.is_plain
    # A run that is more than its iterations has its days and dollars below.
    about = {k: v for k, v in found.items() if plain or not k.startswith("training_")}
    out.print(_figures_table(about, "simulated"))
    out.print(_breakdown_table(found))
    out.print(_ranks_table(found))
    show_training(out, prediction.training)
    for what, share in prediction.costs.assumed[:8]:
        out.print(f"assumed: {what} ({share:.1%} of the time)")


def show_measurement(measurement: Measurement, check: Any, *, as_json: bool) -> None:
    """A measured run: figures of its typical iteration, spread, the check against the reference."""
    from reports.words import disturbed

    program = build_program(measurement.scenario)
    found = figures(measurement.typical, program)
    low, high = measurement.quartiles_ns
    result = measured_summary(measurement, program, found) | {
        "check": asdict(check) | {"passed": check.passed} if check is not None else None
    }
    progress_done()
    if as_json:
        show_json(result)
        return
    told = disturbed(sum(measurement.disturbed), len(measurement.timelines))
    if "traces" in measurement.environment:
        told = "from traces, which do not tell what else ran"
    out = console()
    out.print(
        Text(
            f"{measurement.scenario.name}: {format_duration_ns(measurement.iteration_ns)} an "
            f"iteration (measured, median of {len(measurement.judged)}; quartiles "
            f"{format_duration_ns(low)} to {format_duration_ns(high)}; "
            f"{told})",
            style="bold",
        )
    )
    if measurement.losses:
        out.print(
            f"loss {measurement.losses[0]:.4f} -> {measurement.losses[-1]:.4f} over "
            f"{len(measurement.losses)} measured iterations"
        )
    note = measurement.environment.get("note")
    if note:
        out.print(f"note: {note}")
    out.print(_figures_table(result, "measured"))
    out.print(_breakdown_table(result))
    out.print(_ranks_table(result))
    if check is not None:
        out.print(Text(str(check), style="green" if check.passed else "bold red"))


def show_schedule(schedule: Schedule) -> None:
    """Draw a schedule in unit times, a line a rank, coloured on a terminal."""
    slots = unit_slots(schedule)
    out = console()
    several = schedule.num_stages > schedule.num_ranks
    names = [[_cell(a, several) for a in row] for row in slots]
    width = max((len(c) for row in names for c in row), default=1) + 1
    per_line = max(1, (out.width - 9) // width)
    total = len(slots[0]) if slots else 0
    for first in range(0, total, per_line):
        for rank, row in enumerate(slots):
            line = Text(f"rank {rank:>2}  ")
            part = slice(first, first + per_line)
            for action, name in zip(row[part], names[rank][part], strict=True):
                line.append(name.rjust(width), style=_STYLES[action.kind] if action else "dim")
            out.print(line, soft_wrap=True)
        if first + per_line < total:
            out.print("")
    busy = [sum(a is not None for a in row) for row in slots]
    bubble = 1 - sum(busy) / (len(slots) * max(1, total))
    out.print(
        f"{schedule.name}: {schedule.num_stages} stages on {schedule.num_ranks} ranks, "
        f"{schedule.num_microbatches} microbatches; {total} units of time, bubble {bubble:.1%} "
        f"(F 1 unit, B 2, messages free{_legend(schedule, several)})"
    )


def show_check(schedule: Schedule, report: CheckReport, *, as_json: bool) -> None:
    """What the static checks found."""
    if as_json:
        deadlocks = {k: [str(w) for w in v] for k, v in report.deadlocks.items()}
        show_json(
            {
                "schedule": schedule.name,
                "ranks": schedule.num_ranks,
                "microbatches": schedule.num_microbatches,
                "in_flight": report.in_flight,
                "deadlocks": deadlocks,
            }
        )
        return
    out = console()
    out.print(
        f"{schedule.name}: complete, free of cycles, messages in order; "
        f"{'slices' if schedule.num_slices > 1 else 'microbatches'} in flight "
        f"per rank: {', '.join(map(str, report.in_flight))}"
    )
    for meaning, waiting in report.deadlocks.items():
        out.print(f"send as {meaning}: {'deadlocks' if waiting else 'runs'}")
        for w in waiting:
            out.print(f"  {w}")


_STYLES = {
    Kind.FORWARD: "bold blue",
    Kind.BACKWARD: "bold green",
    Kind.BACKWARD_INPUT: "bold green",
    Kind.BACKWARD_WEIGHT: "bold yellow",
}


def _legend(schedule: Schedule, several: bool) -> str:
    """What the numbers in cells mean, where they are more than a microbatch's."""
    stages = "; 5F3 is F3 of stage 5" if several else ""
    if schedule.num_slices == 1:
        return stages
    return f"{stages}; F0 is the first token slice of microbatch 0, F0.1 its second"


def _cell(action: Action | None, with_stage: bool) -> str:
    """`F3`, or where ranks hold several stages `5F3`: F3 of stage 5."""
    if action is None:
        return "."
    return str(action) if with_stage else f"{action.kind.value}{str(action).split(action.kind)[1]}"


def _figures_table(found: dict[str, Any], origin: str) -> Table:
    table = plain_table("figure", origin, right=(1,))
    seconds = found["iteration_s"]
    table.add_row("iteration", format_duration_ns(seconds * 1e9))
    for name, key, form in (
        ("model TFLOP/s per device", "model_tflops_per_gpu", "{:.4g}"),
        ("hardware TFLOP/s per device", "hardware_tflops_per_gpu", "{:.4g}"),
        ("MFU", "mfu", "{:.1%}"),
        ("tokens/s", "tokens_per_s", "{:,.0f}"),
        ("bubble", "bubble_fraction", "{:.2%}"),
        ("exposed communication", "exposed_communication_fraction", "{:.2%}"),
        ("training days", "training_days", "{:.1f}"),
        ("training GPU-hours", "training_gpu_hours", "{:,.0f}"),
        ("training cost", "training_cost_dollars", "${:,.0f}"),
    ):
        if found.get(key) is not None:
            table.add_row(name, form.format(found[key]))
    return table


def _breakdown_table(found: dict[str, Any]) -> Table:
    table = plain_table("where the time goes", "share", right=(1,))
    for name, share in sorted(found["breakdown"].items(), key=lambda item: -item[1]):
        table.add_row(name.replace("_", " "), f"{share:.2%}")
    return table


def _ranks_table(found: dict[str, Any]) -> Table:
    table = plain_table("rank", "busy", "bubble", "exposed", "peak memory", right=(1, 2, 3, 4))
    ranks = found["ranks"]
    shown = ranks
    if len(ranks) > _MAX_RANKS_SHOWN:
        shown = [*ranks[: _MAX_RANKS_SHOWN // 2], *ranks[-_MAX_RANKS_SHOWN // 2 :]]
    for i, rank in enumerate(shown):
        if len(ranks) > len(shown) and i == _MAX_RANKS_SHOWN // 2:
            table.add_row("...", "", "", "", "")
        peak = rank["peak_memory_bytes"]
        table.add_row(
            str(rank["rank"]),
            format_duration_ns(rank["busy_s"] * 1e9),
            format_duration_ns(rank["bubble_s"] * 1e9),
            format_duration_ns(rank["exposed_communication_s"] * 1e9),
            format_bytes(peak) if peak else "unknown",
        )
    return table
