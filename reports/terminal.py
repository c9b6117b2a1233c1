"""What the terminal shows: tables for people, one JSON object where asked, progress on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from scenarios.catalogue import Entry
from scenarios.units import format_bytes, format_duration_ns
from sim.comparison import Comparison
from sim.cost.profile import Profile
from sim.measurement import Measurement
from sim.prediction import Prediction, figures_json, rates, summary
from sim.schedule.actions import Action, Kind
from sim.schedule.build import build_program
from sim.schedule.checks import CheckReport
from sim.schedule.drawing import unit_slots
from sim.schedule.schedule import Schedule
from sim.timeline.figures import figures

_MAX_RANKS_SHOWN = 16


def _console() -> Console:
    width = None if sys.stdout.isatty() else 120
    return Console(width=width, highlight=False, emoji=False, markup=False)


def progress() -> Callable[[str], None]:
    """Says how far long work is: one line on stderr, rewritten, and only on a terminal."""
    if not sys.stderr.isatty():
        return lambda text: None

    def show(text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()

    return show


def _done() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def show_text(text: str, end: str = "\n") -> None:
    """Print text as it is."""
    sys.stdout.write(text if end and text.endswith(end) else text + end)


def show_json(value: object) -> None:
    """Print one JSON object."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def show_catalogue(entries: Sequence[Entry], *, as_json: bool) -> None:
    """The catalogue by kind."""
    if as_json:
        fields = ("name", "kind", "description")
        show_json({"catalogue": [{f: getattr(e, f) for f in fields} for e in entries]})
        return
    table = _table("name", "kind", "what it is")
    order = ("scenario", "model", "cluster", "device")
    for entry in sorted(entries, key=lambda e: (order.index(e.kind), e.name)):
        table.add_row(entry.name, entry.kind, entry.description)
    _console().print(table)


def show_prediction(prediction: Prediction, *, as_json: bool) -> None:
    """A simulated iteration: verdict, figures, where the time goes, memory per rank."""
    found = summary(prediction)
    if as_json:
        show_json(found)
        return
    from reports.words import verdict

    console = _console()
    console.print(Text(verdict(prediction), style="bold"))
    console.print(_figures_table(found, "simulated"))
    console.print(_breakdown_table(found))
    console.print(_ranks_table(found))
    for what, share in prediction.costs.assumed[:8]:
        console.print(f"assumed: {what} ({share:.1%} of the time)")


def show_measurement(measurement: Measurement, check: Any, *, as_json: bool) -> None:
    """A measured run: figures of its typical iteration, spread, the check against the reference."""
    program = build_program(measurement.scenario)
    found = figures(measurement.typical, program)
    seconds = measurement.iteration_ns / 1e9
    low, high = measurement.quartiles_ns
    peaks = measurement.peak_memory_bytes
    plain = tuple(p if p is not None else 0 for p in peaks) if peaks else None
    result: dict[str, Any] = {
        "scenario": measurement.scenario.name,
        "digest": measurement.scenario.digest,
        "origin": "measured",
        "engine": f"executor ({measurement.environment.get('transport')})",
        "iteration_s": seconds,
        "iteration_quartiles_s": [low / 1e9, seconds, high / 1e9],
        "iterations": len(measurement.timelines),
        "disturbed_iterations": sum(measurement.disturbed),
        "loss_first": measurement.losses[0] if measurement.losses else None,
        "loss_last": measurement.losses[-1] if measurement.losses else None,
        **rates(measurement.scenario, seconds),
        **figures_json(found, None, plain),
        "fits": True,
        "environment": dict(measurement.environment),
        "check": asdict(check) | {"passed": check.passed} if check is not None else None,
    }
    _done()
    if as_json:
        show_json(result)
        return
    console = _console()
    console.print(
        Text(
            f"{measurement.scenario.name}: {format_duration_ns(measurement.iteration_ns)} an "
            f"iteration (measured, median of {len(measurement.judged)}; quartiles "
            f"{format_duration_ns(low)} to {format_duration_ns(high)}; "
            f"{sum(measurement.disturbed)} of {len(measurement.timelines)} iterations disturbed "
            "by other processes and left out)",
            style="bold",
        )
    )
    if measurement.losses:
        console.print(
            f"loss {measurement.losses[0]:.4f} -> {measurement.losses[-1]:.4f} over "
            f"{len(measurement.losses)} measured iterations"
        )
    note = measurement.environment.get("note")
    if note:
        console.print(f"note: {note}")
    console.print(_figures_table(result, "measured"))
    console.print(_breakdown_table(result))
    console.print(_ranks_table(result))
    if check is not None:
        console.print(Text(str(check), style="green" if check.passed else "bold red"))


def show_profile(
    profile: Profile,
    path: Path,
    *,
    as_json: bool,
    sets: Sequence[Mapping[str, object]] = (),
) -> None:
    """What calibration found, with its spread, and what it could not determine."""
    _done()
    if as_json:
        from sim.cost.profile_file import to_data

        show_json({"profile": to_data(profile), "file": str(path), "sets": list(sets)})
        return
    console = _console()
    console.print(Text(f"wrote {path}: {profile.device}, {profile.provenance}", style="bold"))
    if profile.times:
        table = _table("shape", "part", "pass", "median", "quartiles", "samples", right=(3, 4, 5))
        for shape, times in profile.times.items():
            name = f"h{shape.hidden} b{shape.micro_batch} s{shape.tokens} {shape.precision}"
            for (part, pass_), time in times.items():
                low, high = time.quartiles_ns
                table.add_row(
                    name,
                    part,
                    pass_,
                    format_duration_ns(time.median_ns),
                    f"{format_duration_ns(low)} .. {format_duration_ns(high)}",
                    str(time.samples),
                )
        console.print(table)
    for name in ("post", "unpack", "transfer"):
        message = getattr(profile, name)
        if message is not None:
            console.print(
                f"{name}: {format_duration_ns(message.fixed_ns)} + "
                f"{message.ns_per_byte * 2**20 / 1e3:.1f} us/MiB "
                f"(median error of the fit {message.error:.1%})"
            )
    if profile.efficiency:
        table = _table("parameter", "value", "90 % interval", right=(1, 2))
        for name, fitted in profile.efficiency.items():
            interval = "not determined by the data"
            if fitted.interval is not None:
                interval = f"{fitted.interval[0]:.4g} .. {fitted.interval[1]:.4g}"
            table.add_row(name, f"{fitted.value:.4g}", interval)
        console.print(table)
    for scores in sets:
        _show_scores(console, scores)


def show_sets(sets: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    """Scores of predictions against tables or files of runs, beside their baselines."""
    _done()
    if as_json:
        show_json({"sets": list(sets)})
        return
    for scores in sets:
        _show_scores(_console(), scores)


def _show_scores(console: Console, scores: Mapping[str, Any]) -> None:
    table = _table("what", "predicted", "measured", "error", right=(1, 2, 3))
    for point in scores["points"]:
        table.add_row(
            point["what"],
            format_duration_ns(point["predicted_s"] * 1e9),
            format_duration_ns(point["measured_s"] * 1e9),
            f"{point['error']:+.1%}",
        )
    console.print(table)
    summary_table = _table(
        scores["id"], "n", "MAPE", "bias", "worst", "tau", "regret", right=(1, 2, 3, 4, 5, 6)
    )
    baselines: Mapping[str, Any] = scores.get("baselines", {})
    rows = {"pipetwin": scores, **{k.replace("_", " "): v for k, v in baselines.items()}}
    for name, row in rows.items():
        tau, regret = row["kendall_tau"], row["regret"]
        summary_table.add_row(
            name,
            str(row["n"]),
            f"{row['mape']:.1%}",
            f"{row['bias']:+.1%}",
            f"{row['worst']:.1%}",
            f"{tau:.2f}" if tau is not None else "",
            f"{regret:.1%}" if regret is not None else "",
        )
    console.print(summary_table)


def comparison_json(prediction: Prediction, comparison: Comparison) -> dict[str, object]:
    """A comparison as `validate --json` prints it."""
    return {
        "scenario": prediction.scenario.name,
        "predicted_s": comparison.predicted_ns / 1e9,
        "measured_s": comparison.measured_ns / 1e9,
        "structural_error": comparison.structural,
        "predictive_error": comparison.predictive,
        "calibrated": comparison.calibrated,
        "measured_spread": comparison.measured_spread,
        "iterations": comparison.num_iterations,
        "disturbed_iterations": comparison.num_disturbed,
        "actions": [
            {
                "what": f"{a.stage}{a.kind.value}",
                "predicted_s": a.simulated_ns / 1e9,
                "measured_s": a.measured_ns / 1e9,
                "error": a.error,
            }
            for a in comparison.actions
        ],
        "memory": [
            {"rank": r, "predicted_bytes": pair[0], "measured_bytes": pair[1]}
            for r, pair in enumerate(comparison.memory)
            if pair is not None
        ],
        "sets": [error_set("iteration", [(prediction.scenario.name, *_seconds(comparison))])],
    }


def _seconds(comparison: Comparison) -> tuple[float, float]:
    return comparison.predicted_ns / 1e9, comparison.measured_ns / 1e9


def error_set(name: str, points: Sequence[tuple[str, float, float]]) -> dict[str, object]:
    """One set of the `sets` of `validate --json`, from (what, predicted_s, measured_s)."""
    from sim.scores import score

    return {"id": name, **score(points)}


def show_comparison(prediction: Prediction, comparison: Comparison, *, as_json: bool) -> None:
    """Simulated against measured: the two errors, every action, memory."""
    if as_json:
        show_json(comparison_json(prediction, comparison))
        return
    console = _console()
    source = "calibrated profile" if comparison.calibrated else "device model, not calibrated"
    console.print(
        Text(
            f"{prediction.scenario.name}: predicted {format_duration_ns(comparison.predicted_ns)} "
            f"({source}), measured {format_duration_ns(comparison.measured_ns)}",
            style="bold",
        )
    )
    console.print(f"structural error  {comparison.structural:+.2%}  (the run's own durations)")
    console.print(f"predictive error  {comparison.predictive:+.2%}  ({source})")
    console.print(
        f"run to run        {comparison.measured_spread:.2%}  over {comparison.num_iterations} "
        f"iterations, {comparison.num_disturbed} disturbed"
    )
    if not comparison.calibrated:
        console.print(
            "The device model knows this machine only by generic figures; `pipetwin calibrate` or "
            "`measure` makes a profile, and --profile uses it."
        )
    table = _table("action", "simulated", "measured", "error", right=(1, 2, 3))
    for a in comparison.actions:
        table.add_row(
            f"{a.stage}{a.kind.value}",
            format_duration_ns(a.simulated_ns),
            format_duration_ns(a.measured_ns),
            f"{a.error:+.1%}",
        )
    console.print(table)
    for rank, pair in enumerate(comparison.memory):
        if pair is not None:
            console.print(
                f"rank {rank} peak memory: predicted {format_bytes(pair[0])}, "
                f"measured {format_bytes(pair[1])}"
            )


def show_loop(result: Any, *, as_json: bool) -> None:
    """The closed loop: each judged scenario with its two errors, pair by pair."""
    _done()
    rows = [case.row for case in result.cases]
    if as_json:
        points = [(r.scenario, r.predicted_ns / 1e9, r.measured_ns / 1e9) for r in rows]
        structural = [
            (r.scenario, r.measured_ns / 1e9 * (1 + r.structural_error), r.measured_ns / 1e9)
            for r in rows
        ]
        sets = [error_set("predictive", points), error_set("structural", structural)]
        show_json({"sets": sets, "rows": [asdict(r) for r in rows], "note": result.note})
        return
    console = _console()
    table = _table(
        "scenario",
        "predicted",
        "measured",
        "predictive error",
        "structural error",
        "run to run",
        "rounds",
        right=(1, 2, 3, 4, 5, 6),
    )
    for row in rows:
        table.add_row(
            row.scenario,
            format_duration_ns(row.predicted_ns),
            format_duration_ns(row.measured_ns),
            f"{row.predictive_error:+.2%}",
            f"{row.structural_error:+.2%}",
            f"{row.run_to_run_spread:.2%}",
            str(row.rounds),
        )
    console.print(table)
    console.print(
        f"predictive error: median {result.median_predictive:.2%}, worst "
        f"{result.worst_predictive:.2%}; structural: worst {result.worst_structural:.2%}"
    )
    console.print(result.note)


def show_schedule(schedule: Schedule) -> None:
    """Draw a schedule in unit times, a line a rank, coloured on a terminal."""
    slots = unit_slots(schedule)
    console = _console()
    names = [[_cell(a) for a in row] for row in slots]
    width = max((len(c) for row in names for c in row), default=1) + 1
    per_line = max(1, (console.width - 9) // width)
    total = len(slots[0]) if slots else 0
    for first in range(0, total, per_line):
        for rank, row in enumerate(slots):
            line = Text(f"rank {rank:>2}  ")
            part = slice(first, first + per_line)
            for action, name in zip(row[part], names[rank][part], strict=True):
                line.append(name.rjust(width), style=_STYLES[action.kind] if action else "dim")
            console.print(line, soft_wrap=True)
        if first + per_line < total:
            console.print("")
    busy = [sum(a is not None for a in row) for row in slots]
    bubble = 1 - sum(busy) / (len(slots) * max(1, total))
    console.print(
        f"{schedule.name}: {schedule.num_stages} stages on {schedule.num_ranks} ranks, "
        f"{schedule.num_microbatches} microbatches; {total} units of time, bubble {bubble:.1%} "
        "(F 1 unit, B 2, messages free)"
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
    console = _console()
    console.print(
        f"{schedule.name}: complete, free of cycles, messages in order; microbatches in flight "
        f"per rank: {', '.join(map(str, report.in_flight))}"
    )
    for meaning, waiting in report.deadlocks.items():
        console.print(f"send as {meaning}: {'deadlocks' if waiting else 'runs'}")
        for w in waiting:
            console.print(f"  {w}")


def show_doctor(findings: Sequence[tuple[str, str, str]]) -> None:
    """What this machine can do."""
    table = _table("what", "", "")
    for finding in findings:
        table.add_row(*finding)
    _console().print(table)


_STYLES = {
    Kind.FORWARD: "bold blue",
    Kind.BACKWARD: "bold green",
    Kind.BACKWARD_INPUT: "bold green",
    Kind.BACKWARD_WEIGHT: "bold yellow",
}


def _cell(action: Action | None) -> str:
    return "." if action is None else f"{action.kind.value}{str(action).split(action.kind)[1]}"


def _table(*columns: str, right: Sequence[int] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i in right else "left", overflow="fold")
    return table


def _figures_table(found: dict[str, Any], origin: str) -> Table:
    table = _table("figure", origin, right=(1,))
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
    table = _table("where the time goes", "share", right=(1,))
    for name, share in sorted(found["breakdown"].items(), key=lambda item: -item[1]):
        table.add_row(name.replace("_", " "), f"{share:.2%}")
    return table


def _ranks_table(found: dict[str, Any]) -> Table:
    table = _table("rank", "busy", "bubble", "exposed", "peak memory", right=(1, 2, 3, 4))
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
