"""Charts of a whole training run, as plain dicts: time against checkpoint interval, what comes on
top of training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from reports.pages.charts import Chart, chart_of, color, round_numbers
from reports.training_words import PARTS, days
from sim.planner.goodput.run import DAY_NS, Run
from sim.training_run import Intervals, TrainingOutlook

_POINTS = 121
_MINUTE_NS = 60e9
COLORS: Mapping[str, str] = {
    "slow_devices": "bubble",
    "checkpoints": "messages",
    "lost_work": "backward",
    "restarts": "communication",
}
MARKS: Mapping[str, tuple[str, str, str, int]] = {
    "young": ("Young's formula", "r4", "circle-open", 17),
    "daly": ("Daly's formula, higher order", "r5", "square-open", 12),
    "best": ("the best, exactly", "optimizer", "diamond", 9),
    "used": ("as the run is saved", "limit", "x", 9),
}
"""Of each marked interval its name, colour, symbol and size; where they are close, the smaller is
drawn inside the larger."""


def time_by_interval(found: TrainingOutlook, intervals: Intervals) -> Chart:
    """Days against the work between checkpoints: the closed form as a line, simulated points with
    their standard errors, and the intervals of the formulas."""
    run = found.run
    ends = (intervals.points[0].interval_ns, intervals.points[-1].interval_ns)
    xs = np.geomspace(*ends, _POINTS) if ends[0] < ends[1] else np.array([float(ends[0])])
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": "expected",
        "x": [float(x) / _MINUTE_NS for x in xs],
        "y": [_days(run, float(x)) for x in xs],
        "line": {"width": 2, "color": color("predicted")},
        "hovertemplate": "%{x:.4g} min: %{y:.5g} days expected<extra></extra>",
    }
    simulated = [(p.interval_ns, p.simulated) for p in intervals.points if p.simulated is not None]
    points = {
        "type": "scatter",
        "mode": "markers",
        "name": "simulated",
        "x": [at / _MINUTE_NS for at, _ in simulated],
        "y": [own.mean for _, own in simulated],
        "error_y": {
            "type": "data",
            "array": [own.error for _, own in simulated],
            "color": color("soft"),
            "thickness": 1.2,
            "width": 4,
        },
        "marker": {"color": color("work2"), "size": 6},
        "hovertemplate": "%{x:.4g} min: %{y:.5g} days simulated<extra></extra>",
    }
    at = {name: getattr(intervals, name, None) for name in MARKS}
    at["used"] = run.interval_ns if found.training.checkpoint_interval is not None else None
    marks = [_mark(name, float(x), run) for name, x in at.items() if x is not None]
    ticks = round_numbers(ends[0] / _MINUTE_NS, ends[1] / _MINUTE_NS)
    x = {
        "title": {"text": "work between two checkpoints in minutes"},
        "type": "log",
        "tickvals": ticks,
        "ticktext": [f"{tick:,.4g}" for tick in ticks],
    }
    return chart_of([line, points, *marks], 340, x, {"title": {"text": "days"}})


def legend_of(found: TrainingOutlook) -> tuple[tuple[str, str], ...]:
    """The colours of `time_by_interval`."""
    given = found.training.checkpoint_interval is not None
    marks = [(c, name) for key, (name, c, _, _) in MARKS.items() if key != "used" or given]
    return (("predicted", "expected, exactly"), ("work2", "mean of simulated runs"), *marks)


def _mark(name: str, interval_ns: float, run: Run) -> Chart:
    text, colour, symbol, large = MARKS[name]
    minutes = interval_ns / _MINUTE_NS
    return {
        "type": "scatter",
        "mode": "markers",
        "name": text,
        "x": [minutes],
        "y": [_days(run, interval_ns)],
        "marker": {"color": color(colour), "symbol": symbol, "size": large, "line": {"width": 2}},
        "hovertemplate": f"{text}: {minutes:.4g} min, %{{y:.5g}} days<extra></extra>",
    }


def _days(run: Run, interval_ns: float) -> float | None:
    own = run.saved_every(interval_ns)
    return own.expected_ns / DAY_NS if own.finishes else None


def overhead(found: TrainingOutlook) -> Chart:
    """Bars of the days that come on top of training as predicted."""
    parts = {name: part for name, part in found.breakdown.items() if name in COLORS}
    names = sorted(parts, key=parts.__getitem__)
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "x": [parts[name]],
            "y": [PARTS[name]],
            "text": [days(parts[name])],
            "textposition": "outside",
            "cliponaxis": False,
            "constraintext": "none",
            "marker": {"color": color(COLORS[name])},
            "hovertemplate": "%{y}: %{x:.4g} days<extra></extra>",
        }
        for name in names
    ]
    high = 1.35 * max([*parts.values(), 1e-9])
    x = {"title": {"text": "days"}, "range": [0, high], "fixedrange": True, "zeroline": False}
    texts = [PARTS[name] for name in names]
    y = {"type": "category", "categoryarray": texts, "fixedrange": True, "showgrid": False}
    return chart_of(bars, 90 + 30 * len(names), x, y, barmode="overlay", bargap=0.3, meta="ranked")
