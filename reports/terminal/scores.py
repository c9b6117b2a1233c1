"""What the terminal shows of calibration and comparison: profiles, errors, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from reports.parameter_words import amount_of as amount_of
from reports.parameter_words import interval_text
from reports.parameter_words import meaning_of as meaning_of
from reports.terminal.console import console, plain_table, progress_done, show_json
from reports.words import piece
from scenarios.units import format_bytes, format_duration_ns
from sim.comparison import Comparison
from sim.cost.profile import Profile
from sim.prediction import Prediction

_MOST_SHAPES = 12
"""Of which the terminal lists every part; of more, only those of slices without context."""


def show_profile(
    profile: Profile,
    path: Path | None,
    *,
    as_json: bool,
    sets: Sequence[Mapping[str, object]] = (),
    notes: Sequence[str] = (),
) -> None:
    """What calibration found, with its spread, and what it could not determine; its scores."""
    progress_done()
    if as_json:
        show_json(profile_json(profile, path, sets, notes))
        return
    out = console()
    where = f"wrote {path}" if path is not None else "not written (-o FILE keeps it)"
    out.print(Text(f"{where}: {profile.device}, {profile.provenance}", style="bold"))
    if profile.times:
        table = plain_table(
            "shape", "part", "pass", "median", "quartiles", "samples", right=(3, 4, 5)
        )
        many = len(profile.times) > _MOST_SHAPES
        shown = {s: t for s, t in profile.times.items() if not (many and s.context)}
        for shape, times in shown.items():
            after = f" after {shape.context}" if shape.context else ""
            name = f"h{shape.hidden} b{shape.micro_batch} s{shape.tokens}{after} {shape.precision}"
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
        out.print(table)
        if len(shown) < len(profile.times):
            more = len(profile.times) - len(shown)
            out.print(f"and {more} shapes of slices after others: `--json` lists them")
        for fit in profile.slice_fits.values():
            for line in fit.lines():
                out.print(line, highlight=False)
    for name in ("post", "unpack", "transfer"):
        message = getattr(profile, name)
        if message is not None:
            out.print(
                f"{name}: {format_duration_ns(message.fixed_ns)} + "
                f"{message.ns_per_byte * 2**20 / 1e3:.1f} us/MiB "
                f"(median error of the fit {message.error:.1%})"
            )
    if profile.efficiency:
        _show_parameters(out, profile)
    _show_log_sets(out, sets, notes)


def _show_parameters(out: Console, profile: Profile) -> None:
    """Every fitted parameter with its unit, its interval, and what it is; those that the data does
    not determine, and those at their bounds."""
    table = plain_table("parameter", "value", "90 % interval", "what it is", right=(1,))
    kept = []
    for name, fitted in profile.efficiency.items():
        value = amount_of(name, fitted.value)
        if fitted.interval is None:
            kept.append(f"{name} {value}")
            continue
        table.add_row(name, value, interval_text(name, fitted.interval), meaning_of(name))
    if table.row_count:
        out.print(table)
    if kept:
        out.print(f"not determined by this data: default kept, or nearly so: {', '.join(kept)}")
    for name, fitted in profile.efficiency.items():
        if fitted.at_bound is not None:
            end = "lowest" if fitted.at_bound == "low" else "highest"
            out.print(
                f"AT ITS BOUND: {name} is the {end} that the fit allows, so it stands for "
                "something that the model lacks, or the data or --device is wrong"
            )


def profile_json(
    profile: Profile,
    path: Path | None,
    sets: Sequence[Mapping[str, object]],
    notes: Sequence[str],
) -> dict[str, Any]:
    """What `calibrate --json` prints."""
    from sim.cost.profile_file import to_data

    file = str(path) if path is not None else None
    return {"profile": to_data(profile), "file": file, "sets": list(sets), "notes": list(notes)}


def show_log_sets(
    sets: Sequence[Mapping[str, object]], notes: Sequence[str], *, as_json: bool
) -> None:
    """Scores of predictions of a file of runs, beside their baselines."""
    progress_done()
    if as_json:
        show_json({"sets": list(sets), "notes": list(notes)})
        return
    _show_log_sets(console(), sets, notes)


def _show_log_sets(out: Console, sets: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> None:
    for scores in sets:
        _show_scores(out, scores)
    if sets:
        in_sample = sets[0]["sample"] == "in-sample"
        _show_worst(out, max(sets, key=lambda s: s["worst"]) if in_sample else sets[0])
        out.print(
            "tau: order of plans within a group (one model, global batch and number of devices), 1 "
            "is all pairs right; regret: how much slower than its group's best the plan picked is."
        )
    for note in notes:
        out.print(f"note: {note}")


def _show_scores(out: Console, scores: Mapping[str, Any]) -> None:
    """One set's figures, and those of the baselines."""
    folds = scores.get("folds")
    sample = scores["sample"]
    if folds:
        sample += f" in {folds['count']} folds by {folds['by']} (seed {folds['seed']})"
    elif sample == "in-sample":
        sample += ": fitted to these very runs, so no measure of its predictions"
    out.print()
    name = str(scores["id"]).removesuffix(" (in-sample)")
    out.print(Text(f"{name}: {sample}", style="bold"))
    table = plain_table(
        "",
        "n",
        "MAPE",
        "bias",
        "worst",
        "tau",
        "tau, all",
        "regret",
        "worst regret",
        right=tuple(range(1, 9)),
    )
    rows = {"pipetwin": scores}
    fitted_to = scores["baselines_fitted_to"]
    for name, baseline in scores["baselines"].items():
        words = {"constant_tflops": "constant TFLOP/s"}.get(name, name.replace("_", " "))
        rows[f"{words} (of {fitted_to})"] = baseline
    for name, row in rows.items():
        table.add_row(
            name,
            str(row["n"]),
            f"{row['mape']:.1%}",
            f"{row['bias']:+.1%}",
            f"{row['worst']:.1%}",
            *(f"{t:.2f}" if t is not None else "" for t in _taus(row)),
            *(f"{r:.1%}" if r is not None else "" for r in (row["regret"], row["regret_worst"])),
        )
    out.print(table)


def _taus(row: Mapping[str, Any]) -> tuple[float | None, float | None]:
    return row["kendall_tau"], row["kendall_tau_all"]


def _show_worst(out: Console, scores: Mapping[str, Any]) -> None:
    out.print()
    table = plain_table(f"worst of {scores['id']}", "line", "error", "hint", right=(1, 2))
    for row in scores["worst_rows"]:
        table.add_row(row["what"], str(row["line"]), f"{row['error']:+.1%}", row["hint"])
    out.print(table)


def comparison_json(prediction: Prediction, comparison: Comparison) -> dict[str, object]:
    """A comparison as `validate --json` prints it."""
    return {
        "scenario": prediction.scenario.name,
        "predicted_s": comparison.predicted_ns / 1e9,
        "measured_s": comparison.measured_ns / 1e9,
        "structural_error": comparison.structural,
        "predictive_error": comparison.predictive,
        "calibrated": comparison.calibrated,
        "in_sample": comparison.in_sample,
        "measured_spread": comparison.measured_spread,
        "iterations": comparison.num_iterations,
        "disturbed_iterations": comparison.num_disturbed,
        "actions": [
            {
                "what": f"{a.stage}{a.kind.value}",
                "piece": None if a.piece is None else a.piece._asdict(),
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
    out = console()
    source = "calibrated profile" if comparison.calibrated else "device model, not calibrated"
    if comparison.in_sample:
        source = "in-sample: calibrated on this very scenario, so a fit's error"
    out.print(
        Text(
            f"{prediction.scenario.name}: predicted {format_duration_ns(comparison.predicted_ns)} "
            f"({source}), measured {format_duration_ns(comparison.measured_ns)}",
            style="bold",
        )
    )
    out.print(f"structural error  {comparison.structural:+.2%}  (the run's own durations)")
    out.print(f"predictive error  {comparison.predictive:+.2%}  ({source})")
    out.print(
        f"run to run        {comparison.measured_spread:.2%}  over {comparison.num_iterations} "
        f"iterations, {comparison.num_disturbed} disturbed"
    )
    if not comparison.calibrated:
        out.print(
            "The device model knows this machine only by generic figures; `pipetwin calibrate` or "
            "`measure` makes a profile, and --profile uses it."
        )
    table = plain_table("action", "simulated", "measured", "error", right=(1, 2, 3))
    for a in comparison.actions:
        cut = f", {piece(a.piece)}" if a.piece is not None else ""
        table.add_row(
            f"{a.stage}{a.kind.value}{cut}",
            format_duration_ns(a.simulated_ns),
            format_duration_ns(a.measured_ns),
            f"{a.error:+.1%}",
        )
    out.print(table)
    for rank, pair in enumerate(comparison.memory):
        if pair is not None:
            out.print(
                f"rank {rank} peak memory of tensors: predicted {format_bytes(pair[0])}, "
                f"measured {format_bytes(pair[1])}"
            )


def show_loop(result: Any, *, as_json: bool) -> None:
    """The closed loop: each judged scenario with its two errors, pair by pair."""
    progress_done()
    rows = [case.row for case in result.cases]
    if as_json:
        points = [(r.scenario, r.predicted_ns / 1e9, r.measured_ns / 1e9) for r in rows]
        structural = [
            (r.scenario, r.measured_ns / 1e9 * (1 + r.structural_error), r.measured_ns / 1e9)
            for r in rows
        ]
        sets = [error_set("predictive", points), error_set("structural", structural)]
        fitted = [asdict(row) for row in result.calibration]
        found = {"sets": sets, "rows": [asdict(r) for r in rows], "calibration": fitted}
        show_json({**found, "note": result.note})
        return
    out = console()
    table = plain_table(
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
    out.print(table)
    out.print(
        f"predictive error: median {result.median_predictive:.2%}, worst "
        f"{result.worst_predictive:.2%}; structural: worst {result.worst_structural:.2%}"
    )
    out.print(result.note)
