"""Tables of predictions held against measurements; every figure names its place in the JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports import words
from reports.tables import FOLD_ROWS, Cell, Table, memory, seconds, share, text
from reports.validation_points import Set
from reports.words import UNKNOWN

BASELINES: Mapping[str, str] = {
    "constant_tflops": "constant TFLOP/s",
    "constant_times_bubble": "constant times the bubble formula",
}
_SCORES = ("n", "MAPE", "Bias", "Worst", "Kendall's tau", "Regret", "Orders right")


def summary_table(sets: Sequence[Set], pooled: Sequence[Set]) -> Table:
    """A row a set with its scores, the baselines' errors and how often memory is right; then those
    over several sets."""
    rows = []
    for number, one in enumerate(sets):
        at = f"sets.{number}"
        baselines = one.get("baselines", {})
        rows.append(
            (
                text(one["id"]),
                *_score_cells(one, at),
                *(
                    share(
                        baselines.get(name, {}).get("mape"),
                        f"{at}.baselines.{name}.mape" if name in baselines else None,
                    )
                    for name in BASELINES
                ),
                text(_memory_right(one)),
            )
        )
    groups = {}
    if pooled:
        groups[len(rows)] = "Over several tables"
    for number, one in enumerate(pooled):
        blank = (text(""), text(""), text(""))
        rows.append((text(one["id"]), *_score_cells(one, f"pooled.{number}"), *blank))
    columns = ("Set", *_SCORES, "MAPE of constant TFLOP/s", "MAPE of × bubble", "Memory right")
    return Table(
        caption="Scores of what is judged (simulated against measured)",
        columns=columns,
        rows=tuple(rows),
        groups=groups,
    )


def _memory_right(one: Set) -> str:
    found = one.get("memory")
    return "" if not found else f"{found['n'] - len(found['wrong'])} of {found['n']}"


def _score_cells(one: Set, at: str) -> tuple[Cell, ...]:
    """n, MAPE, bias, worst, tau, regret, and pairs in the right order; what a set has not is left
    blank."""
    orders = one.get("orders") or one
    pairs, right = orders.get("pairs"), orders.get("right")
    tau, regret = one.get("kendall_tau"), one.get("regret")
    return (
        Cell(text=str(one["n"]), value=one["n"], figure=f"{at}.n"),
        share(one["mape"], f"{at}.mape"),
        Cell(text=words.percent(one["bias"], signed=True), value=one["bias"], figure=f"{at}.bias"),
        share(one["worst"], f"{at}.worst"),
        Cell(
            text=UNKNOWN if tau is None else f"{tau:.2f}".replace("-", "−"),
            value=tau,
            figure=f"{at}.kendall_tau",
        ),
        share(regret, f"{at}.regret"),
        text(f"{right} of {pairs}" if pairs else UNKNOWN),
    )


def score_table(one: Set, number: int) -> Table:
    """A set's own scores beside those of what was fitted to, and of the baselines."""
    rows: list[tuple[Cell, ...]] = []
    at = f"sets.{number}"
    if one["n"]:
        rows.append((text("predicted"), *_score_cells(one, at)))
    fitted = one.get("calibrated_on")
    if fitted and fitted["n"] and "mape" in fitted:
        rows.append((text("fitted to, not judged"), *_score_cells(fitted, f"{at}.calibrated_on")))
    for name, scores in one.get("baselines", {}).items():
        if scores["n"]:
            own = f"{at}.baselines.{name}"
            rows.append((text(baseline_words(name)), *_score_cells(scores, own)))
    return Table(
        caption="Scores, and those of baselines", columns=("Of what", *_SCORES), rows=tuple(rows)
    )


def baseline_words(name: str) -> str:
    """A baseline's name for people."""
    left_out = name.endswith("_left_out")
    found = BASELINES[name.removesuffix("_left_out")]
    return f"{found}, of the other rows" if left_out else found


def row_table(one: Set, number: int) -> Table:
    """The rows of a published table: figures in its unit, times, errors, memory."""
    at, unit = f"sets.{number}", one["unit"]
    rows = []
    for kind in ("points", "memory_points"):
        for position, point in enumerate(one[kind]):
            own = f"{at}.{kind}.{position}"
            rows.append(
                (
                    text(point["what"]),
                    _figure(point["predicted_figure"], f"{own}.predicted_figure"),
                    _figure(point["published_figure"], f"{own}.published_figure"),
                    seconds(point["predicted_s"], f"{own}.predicted_s"),
                    seconds(point["measured_s"], f"{own}.measured_s"),
                    _error(point["error"], f"{own}.error"),
                    _rounding(point["resolution"], f"{own}.resolution"),
                    memory(point["peak_memory_bytes"], f"{own}.peak_memory_bytes"),
                    text(_fits(point)),
                    text(_remark(point)),
                )
            )
    columns = (
        "Row",
        f"Predicted, {unit}",
        f"Published, {unit}",
        "Predicted time",
        "Published time",
        "Error of time",
        "Rounding",
        "Predicted memory",
        "Fits",
        "Remark",
    )
    return _shown(f"Every row of {one['id']}", columns, rows)


def _figure(value: float | None, figure: str) -> Cell:
    return Cell(text=words.significant(value), value=value, figure=figure)


def _error(value: float | None, figure: str) -> Cell:
    return Cell(text=words.percent(value, signed=True), value=value, figure=figure)


def _rounding(value: float | None, figure: str) -> Cell:
    shown = UNKNOWN if value is None else f"±{words.percent(value)}"
    return Cell(text=shown, value=value, figure=figure)


def _fits(point: Mapping[str, Any]) -> str:
    if point["fits"] is None:
        return "unknown"
    fits = "yes" if point["fits"] else "no"
    return fits if point["fits"] == point["fitted_then"] else f"{fits}, wrong"


def _remark(point: Mapping[str, Any]) -> str:
    parts = []
    if point.get("calibration"):
        parts.append("fitted to")
    if point.get("assumed"):
        parts.append("its source leaves open what decides it")
    if point.get("same_run"):
        parts.append("both times are of one run")
    if point.get("fitted_then") is False:
        parts.append("did not fit when it was tried")
    return ", ".join(parts)


def ratio_table(one: Set, number: int) -> Table:
    """Speed-ups or rates: predicted beside published."""
    at = f"sets.{number}"
    unit = str(one.get("unit") or "x").replace("x", "times as fast")
    rows = [
        (
            text(point["what"]),
            _figure(point["predicted"], f"{at}.points.{i}.predicted"),
            _figure(point["published"], f"{at}.points.{i}.published"),
            _error(point["error"], f"{at}.points.{i}.error"),
            text(_remark(point)),
        )
        for i, point in enumerate(one["points"])
    ]
    columns = ("What", f"Predicted, {unit}", "Published", "Error", "Remark")
    return _shown(f"Every figure of {one['id']}", columns, rows)


def gain_table(one: Set, number: int) -> Table:
    """What an optimization gains at each row."""
    at = f"sets.{number}.gain.pairs"
    rows = tuple(
        (
            text(pair["what"]),
            _error(pair["predicted"], f"{at}.{i}.predicted"),
            _error(pair["published"], f"{at}.{i}.published"),
            Cell(
                text=f"{100 * pair['difference']:+.1f}".replace("-", "−"),
                value=pair["difference"],
                figure=f"{at}.{i}.difference",
            ),
        )
        for i, pair in enumerate(one["gain"]["pairs"])
    )
    columns = ("Row", "Predicted gain", "Published gain", "Difference, percentage points")
    return Table(caption=f"Gain of {one['gain']['what']}", columns=columns, rows=rows)


def run_table(one: Set, number: int) -> Table:
    """The runs of a log: predicted beside measured times."""
    at = f"sets.{number}"
    rows = [
        (
            text(point["what"]),
            seconds(point["predicted_s"], f"{at}.points.{i}.predicted_s"),
            seconds(point["measured_s"], f"{at}.points.{i}.measured_s"),
            _error(point["error"], f"{at}.points.{i}.error"),
        )
        for i, point in enumerate(one["points"])
    ]
    columns = ("Run", "Predicted", "Measured", "Error")
    return _shown(f"Every run of {one['id']}", columns, rows)


def worst_table(one: Set, number: int) -> Table:
    """The runs that are predicted worst, with what may be wrong."""
    at = f"sets.{number}.worst_rows"
    rows = tuple(
        (
            text(row["what"]),
            Cell(text=str(row["line"]), value=row["line"], figure=f"{at}.{i}.line"),
            _error(row["error"], f"{at}.{i}.error"),
            text(row["hint"]),
        )
        for i, row in enumerate(one["worst_rows"])
    )
    return Table(caption="The worst rows", columns=("Run", "Line", "Error", "Hint"), rows=rows)


def _shown(caption: str, columns: tuple[str, ...], rows: Sequence[tuple[Cell, ...]]) -> Table:
    """A table without columns that nothing is in; folded where it is long."""
    kept = [
        i
        for i in range(len(columns))
        if any(row[i].text not in ("", UNKNOWN) for row in rows) or i == 0
    ]
    return Table(
        caption=caption,
        columns=tuple(columns[i] for i in kept),
        rows=tuple(tuple(row[i] for i in kept) for row in rows),
        fold=len(rows) > FOLD_ROWS,
    )
