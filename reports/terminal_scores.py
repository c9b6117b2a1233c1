"""What the terminal shows of calibration and comparison: profiles, errors, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from reports.console import console, plain_table, progress_done, show_json
from scenarios.units import format_bytes, format_duration_ns
from sim.comparison import Comparison
from sim.cost.profile import Profile
from sim.prediction import Prediction


def show_profile(
    profile: Profile,
    path: Path,
    *,
    as_json: bool,
    sets: Sequence[Mapping[str, object]] = (),
) -> None:
    """What calibration found, with its spread, and what it could not determine."""
    progress_done()
    if as_json:
        from sim.cost.profile_file import to_data

        show_json({"profile": to_data(profile), "file": str(path), "sets": list(sets)})
        return
    out = console()
    out.print(Text(f"wrote {path}: {profile.device}, {profile.provenance}", style="bold"))
    if profile.times:
        table = plain_table(
            "shape", "part", "pass", "median", "quartiles", "samples", right=(3, 4, 5)
        )
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
        out.print(table)
    for name in ("post", "unpack", "transfer"):
        message = getattr(profile, name)
        if message is not None:
            out.print(
                f"{name}: {format_duration_ns(message.fixed_ns)} + "
                f"{message.ns_per_byte * 2**20 / 1e3:.1f} us/MiB "
                f"(median error of the fit {message.error:.1%})"
            )
    if profile.efficiency:
        table = plain_table("parameter", "value", "90 % interval", right=(1, 2))
        for name, fitted in profile.efficiency.items():
            interval = "not determined by the data"
            if fitted.interval is not None:
                interval = f"{fitted.interval[0]:.4g} .. {fitted.interval[1]:.4g}"
            table.add_row(name, f"{fitted.value:.4g}", interval)
        out.print(table)
    for scores in sets:
        _show_scores(out, scores)


def show_sets(sets: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    """Scores of predictions against tables or files of runs, beside their baselines."""
    progress_done()
    if as_json:
        show_json({"sets": list(sets)})
        return
    for scores in sets:
        _show_scores(console(), scores)


def _show_scores(out: Console, scores: Mapping[str, Any]) -> None:
    table = plain_table("what", "predicted", "measured", "error", right=(1, 2, 3))
    for point in scores["points"]:
        table.add_row(
            point["what"],
            format_duration_ns(point["predicted_s"] * 1e9),
            format_duration_ns(point["measured_s"] * 1e9),
            f"{point['error']:+.1%}",
        )
    out.print(table)
    summary_table = plain_table(
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
    out.print(summary_table)


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
        table.add_row(
            f"{a.stage}{a.kind.value}",
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
        show_json({"sets": sets, "rows": [asdict(r) for r in rows], "note": result.note})
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
