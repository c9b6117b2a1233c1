"""What the terminal shows of published runs of epochs: each figure beside its prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from reports.terminal.console import plain_table
from scenarios.published_elastic import RunTable
from scenarios.schema import Scenario
from sim.published_elastic import JudgedFigure, JudgedRuns


def show_runs(out: Console, table: RunTable) -> None:
    """The runs of a table, as scenarios."""
    out.print(Text(f"{table.id}: {table.title} ({table.source})", style="bold"))
    shown = plain_table("run", "scenario", "GPUs", "settings", "published", right=(2, 4))
    for run in table.runs:
        figures = [f"{figure:g}" for figure in run.figures]
        some = [*figures[:1], "...", *figures[-1:]] if len(figures) > 3 else figures
        shown.add_row(
            run.name,
            run.scenario.name,
            f"{run.scenario.plan.num_devices:,}",
            _settings(run.scenario),
            f"{', '.join(some)} {table.unit}",
        )
    out.print(shown)
    out.print()


def show_table(out: Console, found: JudgedRuns, scores: Mapping[str, Any]) -> None:
    """A table's figures beside their predictions, its scores and its notes."""
    table = found.table
    out.print(Text(f"{table.id}: {table.title}", style="bold"))
    out.print(f"{table.source}, {table.url}")
    if table.unit == "x":
        _show_speedups(out, found)
    else:
        _show_epochs(out, found)
    if any(figure.calibration for figure in found.figures):
        out.print("* calibrated on, or by definition: not judged")
    if any(figure.assumed for figure in found.figures):
        out.print("+ its source leaves open what decides it: not judged")
    if scores["n"]:
        out.print(
            f"{scores['within_15_percent']} of {scores['n']} within 15 %; "
            f"MAPE {scores['mape']:.1%}, bias {scores['bias']:+.1%}, worst {scores['worst']:.1%}"
            + (
                f"; {scores['right']} of {scores['pairs']} pairs in the right order"
                if scores["pairs"]
                else ""
            )
        )
    for note in table.notes:
        out.print(f"- {note}", style="dim")
    out.print()


def cells(scores: Mapping[str, Any]) -> tuple[str, ...]:
    """A table's scores in the columns of the summary: n, MAPE, bias, worst, tau, regret, orders."""
    if not scores["n"]:
        return ("not judged",)
    tau = scores["kendall_tau"]
    return (
        str(scores["n"]),
        f"{scores['mape']:.1%}",
        f"{scores['bias']:+.1%}",
        f"{scores['worst']:.1%}",
        "" if tau is None else f"{tau:.2f}",
        "",
        f"{scores['right']}/{scores['pairs']}" if scores["pairs"] else "",
    )


def _show_speedups(out: Console, found: JudgedRuns) -> None:
    shown = plain_table("run", "predicted", "published", "error", "rounding", right=(1, 2, 3, 4))
    for figure in found.figures:
        shown.add_row(
            figure.what + _mark(figure),
            f"{figure.predicted:.2f} x",
            f"{figure.published:g} x",
            f"{figure.error:+.1%}",
            f"±{figure.resolution:.1%}",
        )
    out.print(shown)


def _show_epochs(out: Console, found: JudgedRuns) -> None:
    """An epoch a row, a run a column: predicted, published and the error."""
    runs: dict[str, dict[int, JudgedFigure]] = {}
    for figure in found.figures:
        runs.setdefault(figure.run + _mark(figure), {})[figure.epoch or 0] = figure
    shown = plain_table("epoch", *runs, right=range(len(runs) + 1))
    for epoch in sorted({epoch for figures in runs.values() for epoch in figures}):
        shown.add_row(
            str(epoch),
            *(_pair(figures[epoch]) if epoch in figures else "" for figures in runs.values()),
        )
    out.print(shown)
    out.print(f"{found.table.unit}: predicted / published, error")


def _pair(figure: JudgedFigure) -> str:
    return f"{figure.predicted:,.0f} / {figure.published:,.0f} {figure.error:+5.0%}"


def _mark(figure: JudgedFigure) -> str:
    return " *" if figure.calibration else " +" if figure.assumed else ""


def _settings(scenario: Scenario) -> str:
    elastic = scenario.elastic
    if elastic is None or elastic.freeze == "off":
        return "no freezing"
    mechanisms = {
        "AutoPipe": elastic.autopipe,
        "AutoDP": elastic.autodp,
        "AutoCache": elastic.autocache,
    }
    used = [name for name, is_on in mechanisms.items() if is_on] or ["freezing alone"]
    return f"alpha {elastic.alpha:.3g}, {' + '.join(used)}"
