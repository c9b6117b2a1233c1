"""Charts of simulated against measured, and of the calibration loop, as plain dicts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reports.pages.charts import Chart, chart_of, color
from reports.words import PATH_NAMES, duration, family, percent
from reports.words import piece as piece_words
from sim.comparison import ActionComparison, Comparison, LoopRow
from sim.measurement import Measurement

_DECADE = 10.0


def action_errors(comparison: Comparison) -> Chart:
    """Points of each kind of action's error by stage, around a line at zero."""
    data = []
    symbols = ("circle", "diamond", "square", "triangle-up", "cross", "x")
    families = dict.fromkeys(family(a.kind.name.lower()) for a in comparison.actions)
    for position, name in enumerate(families):
        own = [a for a in comparison.actions if family(a.kind.name.lower()) == name]
        own = [a for a in own if a.measured_ns]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [a.stage for a in own],
                "y": [100 * a.error for a in own],
                "text": [_action_text(a) for a in own],
                "marker": {
                    "color": color(name),
                    "symbol": symbols[position % len(symbols)],
                    "size": 9,
                },
                "hovertemplate": "%{text}: %{y:+.2f} %<extra></extra>",
            }
        )
    num_stages = len({a.stage for a in comparison.actions})
    x = {"title": {"text": "stage"}, "dtick": max(1, num_stages // 12), "zeroline": False}
    y = {"title": {"text": "error, %"}, "rangemode": "tozero", "zerolinewidth": 1.5}
    return chart_of(data, 320, x, y)


def _action_text(action: ActionComparison) -> str:
    name = action.kind.name.lower()
    times = f"{duration(action.simulated_ns)} for {duration(action.measured_ns)}"
    piece = f"<br>{piece_words(action.piece)}" if action.piece is not None else ""
    return f"{PATH_NAMES.get(name, name)}, stage {action.stage}{piece}<br>{times}"


def runs(measurement: Measurement, comparison: Comparison) -> Chart:
    """Points of the measured iterations, with the prediction as a line."""
    data = []
    numbered = list(enumerate(zip(measurement.timelines, measurement.disturbed, strict=True), 1))
    for disturbed, name in ((False, "measured"), (True, "measured, disturbed")):
        own = [(i, t.iteration_ns / 1e9) for i, (t, d) in numbered if d == disturbed]
        if own:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": [i for i, _ in own],
                    "y": [t for _, t in own],
                    "marker": {
                        "color": color("measured"),
                        "symbol": "circle-open" if disturbed else "circle",
                        "size": 8,
                    },
                    "hovertemplate": f"iteration %{{x}}: %{{y:.5g}} s ({name})<extra></extra>",
                }
            )
    for name, at, dash in (
        ("predicted", comparison.predicted_ns, "solid"),
        ("measured", comparison.measured_ns, "dot"),
    ):
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"{name} median",
                "x": [0.5, len(numbered) + 0.5],
                "y": [at / 1e9] * 2,
                "line": {"color": color(name), "width": 1.8, "dash": dash},
                "hovertemplate": f"{name}: {duration(at)}<extra></extra>",
            }
        )
    x = {
        "title": {"text": "measured iteration"},
        "range": [0.5, len(numbered) + 0.5],
        "zeroline": False,
    }
    return chart_of(data, 320, x, {"title": {"text": "iteration time in s"}})


def parity(rows: Sequence[LoopRow]) -> Chart:
    """Predicted against measured iteration times around the diagonal, on logarithmic axes where
    they span decades; what was calibrated on as rings, which are not judged."""
    times = [t / 1e9 for row in rows for t in (row.predicted_ns, row.measured_ns)]
    low, high = min(times) / 1.2, max(times) * 1.2
    diagonal = {
        "type": "scatter",
        "mode": "lines",
        "name": "equal",
        "x": [low, high],
        "y": [low, high],
        "line": {"color": color("muted"), "width": 1.2, "dash": "dot"},
        "hoverinfo": "skip",
    }
    full = {"color": color("predicted"), "size": 10}
    ring = {"color": color("paper"), "size": 9, "line": {"color": color("predicted"), "width": 2}}
    points = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [row.measured_ns / 1e9 for row in own],
            "y": [row.predicted_ns / 1e9 for row in own],
            "text": [row.scenario.replace("<", "&lt;") for row in own],
            "customdata": [percent(row.predictive_error, signed=True) for row in own],
            "marker": marker,
            "hovertemplate": f"%{{text}}, {name}<br>predicted %{{y:.4g}} s, measured %{{x:.4g}} s"
            "<br>%{customdata}<extra></extra>",
        }
        for name, marker, own in (
            ("calibrated on", ring, [row for row in rows if not row.judged]),
            ("judged", full, [row for row in rows if row.judged]),
        )
        if own
    ]
    axis: dict[str, object] = {"range": [low, high]}
    if high / low > _DECADE:
        marks = [m * 10.0**e for e in range(-9, 7) for m in (1, 2, 5)]
        marks = [mark for mark in marks if low <= mark <= high]
        axis = {
            "type": "log",
            "range": [math.log10(low), math.log10(high)],
            "tickvals": marks,
            "ticktext": [f"{mark:g}" for mark in marks],
        }
    x = {"title": {"text": "measured, s"}, **axis}
    return chart_of([diagonal, *points], 380, x, {"title": {"text": "predicted, s"}, **axis})
