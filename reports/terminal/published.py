"""What the terminal shows of published tables: every row, every table's scores, and a summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from reports.terminal import elastic_published as terminal_elastic_published
from reports.terminal.console import console, plain_table, progress_done, show_json
from scenarios.published import PublishedTable
from scenarios.published_elastic import RunTable
from scenarios.schema import Plan
from scenarios.units import format_bytes
from sim.published import JudgedRow, JudgedTable
from sim.published_elastic import JudgedRuns
from sim.published_sets import errors_of, published_sets

_SCORES = ("n", "MAPE", "bias", "worst", "tau", "regret", "orders")


def show_published(
    found: Sequence[JudgedTable],
    runs: Sequence[JudgedRuns] = (),
    *,
    as_json: bool,
    scored: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> tuple[float, ...]:
    """Show the tables of rows and of runs and their scores; the errors of what is judged.

    scored: their `sim.published_sets`, where they are there already.
    """
    progress_done()
    scored = scored if scored is not None else published_sets(found, runs)
    if as_json:
        show_json(dict(scored))
    else:
        _show(found, runs, scored)
    return errors_of(found, runs)


def _show(
    found: Sequence[JudgedTable],
    runs: Sequence[JudgedRuns],
    scored: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    by_id = {str(scores["id"]): scores for scores in scored["sets"]}
    gained = {t.table.id: by_id.get(t.table.gain.speedups or "") for t in found if t.table.gain}
    of_runs = [by_id[judged.table.id] for judged in runs]
    sets = [by_id[table.table.id] for table in found]
    out = console()
    for table, scores in zip(found, sets, strict=True):
        _show_table(out, table, scores, gained.get(table.table.id))
    for judged, scores in zip(runs, of_runs, strict=True):
        terminal_elastic_published.show_table(out, judged, scores)
    _show_summary(out, sets, of_runs, scored["pooled"])
    for gains in gained.values():
        if gains is not None:
            out.print(f"{gains['id']}: {_verdict(gains)}, worst {gains['worst']:.1%} off")


def show_rows(tables: Sequence[PublishedTable | RunTable], *, as_json: bool) -> None:
    """The rows of published tables, as scenarios, and their runs."""
    if as_json:
        show_json({"rows": [row for table in tables for row in _rows_json(table)]})
        return
    out = console()
    for table in tables:
        if isinstance(table, RunTable):
            terminal_elastic_published.show_runs(out, table)
            continue
        out.print(Text(f"{table.id}: {table.title} ({table.source})", style="bold"))
        shown = plain_table("scenario", "model", "GPUs", "plan", "published", right=(2, 4))
        for row in table.rows:
            model, plan = row.scenario.model, row.scenario.plan
            shown.add_row(
                row.full_name,
                model.name if model is not None else "",
                f"{plan.num_devices:,}",
                _plan(plan),
                "did not fit" if row.figure is None else f"{row.figure:g} {table.unit}",
            )
        out.print(shown)
        out.print()


def _rows_json(table: PublishedTable | RunTable) -> list[dict[str, object]]:
    if isinstance(table, RunTable):
        return [
            {
                "name": f"{table.id}: {run.name}",
                "published": list(run.figures) if len(run.figures) > 1 else run.figures[0],
                "unit": table.unit,
            }
            for run in table.runs
        ]
    return [
        {"name": row.full_name, "published": row.figure, "unit": table.unit} for row in table.rows
    ]


def _show_table(
    out: Console,
    found: JudgedTable,
    scores: Mapping[str, Any],
    speedups: Mapping[str, Any] | None,
) -> None:
    table = found.table
    out.print(Text(f"{table.id}: {table.title}", style="bold"))
    out.print(f"{table.source}, {table.url}")
    shown = plain_table(
        "row",
        "GPUs",
        "plan",
        f"predicted {table.unit}",
        "published",
        "error of time",
        "rounding",
        "memory",
        right=(1, 3, 4, 5, 6, 7),
    )
    for judged in found.rows:
        row = judged.row
        shown.add_row(
            row.name + (" *" if judged.calibration else ""),
            f"{row.scenario.plan.num_devices:,}",
            _plan(row.scenario.plan),
            f"{judged.predicted_figure:.{_decimals(table.resolution)}f}",
            "" if row.figure is None else f"{row.figure:g}",
            "" if judged.error is None else f"{judged.error:+.1%}",
            "" if judged.resolution is None else f"±{judged.resolution:.1%}",
            _memory(judged),
        )
    out.print(shown)
    if any(judged.calibration for judged in found.rows):
        out.print("* calibrated on, not judged")
    _show_scores(out, scores)
    if speedups is not None:
        _show_speedups(out, speedups)
    elif table.gain is not None:
        _show_gain(out, scores["gain"])
    for best in scores["best_even_slices"]:
        published = " or ".join(str(n) for n in best["published"])
        out.print(
            f"{best['what']}: fastest in {best['predicted']} even slices by prediction, "
            f"in {published} as published"
        )
    best = scores["fastest"]
    if best is not None:
        published = " or ".join(best["published"])
        out.print(f"fastest: {best['predicted']} by prediction, {published} as published")
    for judged in found.rows:
        if judged.outcome.slices is not None:
            tokens = ", ".join(map(str, judged.outcome.slices))
            out.print(f"{judged.row.name}: slices found by the search: {tokens}")
    for note in table.notes:
        out.print(f"- {note}", style="dim")
    out.print()


def _show_scores(out: Console, scores: Mapping[str, Any]) -> None:
    shown = plain_table("", *_SCORES, right=range(1, 8))
    rows = {"predicted": scores}
    if scores["calibrated_on"]["n"]:
        rows["calibrated on"] = scores["calibrated_on"]
    rows |= {_baseline_words(name): s for name, s in scores["baselines"].items()}
    for name, row in rows.items():
        if row["n"]:
            shown.add_row(name, *_cells(row))
    out.print(shown)


def _show_gain(out: Console, gain: Mapping[str, Any]) -> None:
    columns = (f"gain of {gain['what']}", "predicted", "published", "points")
    shown = plain_table(*columns, right=(1, 2, 3))
    for pair in gain["pairs"]:
        shown.add_row(
            pair["what"],
            f"{pair['predicted']:+.1%}",
            f"{pair['published']:+.1%}",
            f"{pair['difference'] * 100:+.1f}",
        )
    out.print(shown)
    if gain["largest_difference"] is not None:
        out.print(f"largest difference {gain['largest_difference'] * 100:.1f} percentage points")


def _show_speedups(out: Console, speedups: Mapping[str, Any]) -> None:
    shown = plain_table(speedups["id"], "predicted", "published", "error", right=(1, 2, 3))
    for point in speedups["points"]:
        same = ", the same run" if point["same_run"] else ""
        shown.add_row(
            f"{point['what']}{same}",
            f"{point['predicted']:.2f} x",
            f"{point['published']:.2f} x",
            f"{point['error']:+.1%}",
        )
    out.print(shown)
    out.print(_verdict(speedups))


def _verdict(speedups: Mapping[str, Any]) -> str:
    return (
        f"{speedups['within_15_percent']} of {speedups['n']} within 15 %; "
        f"{speedups['right']} of {speedups['pairs']} pairs in the right order"
    )


def _show_summary(
    out: Console,
    sets: Sequence[Mapping[str, Any]],
    of_runs: Sequence[Mapping[str, Any]],
    pooled: Sequence[Mapping[str, Any]],
) -> None:
    out.print(Text("summary", style="bold"))
    shown = plain_table(
        "table",
        *_SCORES,
        "constant TFLOP/s",
        "x bubble",
        "memory",
        right=range(1, 11),
    )
    for scores in sets:
        memory, baselines = scores["memory"], scores["baselines"]
        if scores["n"]:
            shown.add_row(
                scores["id"],
                *_cells(scores),
                f"{baselines['constant_tflops']['mape']:.1%}",
                f"{baselines['constant_times_bubble']['mape']:.1%}",
                f"{memory['n'] - len(memory['wrong'])} of {memory['n']}",
            )
    for scores in of_runs:
        shown.add_row(scores["id"], *terminal_elastic_published.cells(scores))
    for scores in pooled:
        if scores["n"]:
            shown.add_row(scores["id"], *_cells(scores))
    out.print(shown)
    for scores in sets:
        if not scores["n"]:
            out.print(f"{scores['id']}: calibrated on, not judged")
        if scores["memory"]["wrong"]:
            names = ", ".join(scores["memory"]["wrong"])
            out.print(f"{scores['id']}: memory wrong for {names}")


def _cells(scores: Mapping[str, Any]) -> tuple[str, ...]:
    tau, regret, orders = scores["kendall_tau"], scores["regret"], scores["orders"]
    return (
        str(scores["n"]),
        f"{scores['mape']:.1%}",
        f"{scores['bias']:+.1%}",
        f"{scores['worst']:.1%}",
        "" if tau is None else f"{tau:.2f}",
        "" if regret is None else f"{regret:.1%}",
        f"{orders['right']}/{orders['pairs']}" if orders["pairs"] else "",
    )


def _memory(judged: JudgedRow) -> str:
    outcome = judged.outcome
    if outcome.fits is None or outcome.peak_bytes is None:
        return "unknown"
    verdict = "fits" if outcome.fits else "does not fit"
    wrong = "" if outcome.fits == judged.row.fits else ", wrong"
    return f"{format_bytes(outcome.peak_bytes)} {verdict}{wrong}"


def _plan(plan: Plan) -> str:
    groups = plan.microbatch_groups
    micro_batch = max(g.micro_batch for g in groups) if groups else plan.micro_batch
    words = f"t{plan.tensor} p{plan.pipeline} d{plan.data} b{micro_batch} "
    words += f"m{plan.num_microbatches}"
    return words + (f" v{plan.chunks}" if plan.chunks > 1 else "")


def _baseline_words(name: str) -> str:
    words = name.removesuffix("_left_out").replace("tflops", "TFLOP/s").replace("_", " ")
    return words + (", of the others" if name.endswith("_left_out") else "")


def _decimals(resolution: float) -> int:
    return 0 if resolution >= 1 else 2
