"""Charts of predictions held against measurements: parity, errors, a table as in its paper."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from reports import words
from reports.pages.charts import Chart, chart_of, color
from reports.pages.charts_sweep import UPRIGHT, plain, spaced
from reports.sweep_axes import short
from reports.validation_points import Held, Kind, Plotted, Set

BAND = 0.10
"""Errors within it are inside the parity chart's band."""
SYMBOLS = ("circle", "diamond", "triangle-up", "cross")
SYMBOL_WORDS = ("dots", "diamonds", "triangles", "plus signs")
AXES: Mapping[Kind, str] = {"time": "s", "ratio": "times as fast", "rate": "samples/s"}
FITTED = "square-open"


def tint_of(number: int) -> tuple[str, str, str]:
    """A set's colour, symbol and its name: six colours, then the same with other symbols."""
    round_ = number // 6 % len(SYMBOLS)
    return f"r{number % 6}", SYMBOLS[round_], SYMBOL_WORDS[round_]


def parity(points: Sequence[Held], measured: str, ids: Sequence[str]) -> Chart:
    """Predicted against measured on logarithmic axes, around the diagonal with a band of 10 %.

    measured: what the x axis is called. ids: the sets in the order of their colours. What was
    fitted to, and what is not judged, is drawn apart: open, in grey.
    """
    kind = points[0].kind
    values = [v for p in points for v in (p.predicted, p.measured)]
    low, high = min(values) / 1.25, max(values) * 1.25
    traces: list[Chart] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "within 10 %",
            "x": [low, high, high, low, low],
            "y": [
                *(low * (1 - BAND), high * (1 - BAND)),
                *(high * (1 + BAND), low * (1 + BAND)),
                low * (1 - BAND),
            ],
            "fill": "toself",
            "fillcolor": color("accent-soft"),
            "line": {"width": 0},
            "hoverinfo": "skip",
        },
        {
            "type": "scatter",
            "mode": "lines",
            "name": "equal",
            "x": [low, high],
            "y": [low, high],
            "line": {"color": color("muted"), "width": 1.2, "dash": "dot"},
            "hoverinfo": "skip",
        },
    ]
    apart = [p for p in points if not p.judged]
    if apart:
        traces.append(_held("not judged", apart, {"color": color("muted"), "symbol": FITTED}))
    for set_id in dict.fromkeys(p.set_id for p in points if p.judged):
        tint, symbol, _ = tint_of(ids.index(set_id))
        own = [p for p in points if p.judged and p.set_id == set_id]
        traces.append(_held(set_id, own, {"color": color(tint), "symbol": symbol}))
    x = {"title": {"text": f"{measured}, {AXES[kind]}"}, **_log(low, high), **UPRIGHT}
    y = {"title": {"text": f"predicted, {AXES[kind]}"}, **_log(low, high)}
    return chart_of(traces, 460, x, y)


def _held(name: str, points: Sequence[Held], marker: Chart) -> Chart:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(name),
        "x": [p.measured for p in points],
        "y": [p.predicted for p in points],
        "text": [told(p) for p in points],
        "marker": {"size": 8, **marker},
        "hovertemplate": "%{text}<extra></extra>",
    }


def told(point: Held) -> str:
    """A point in a chart's hover text."""
    lines = [
        point.set_id,
        point.what,
        f"predicted {amount(point.predicted, point.kind)}, "
        f"{amount(point.measured, point.kind)} in fact: "
        f"{words.percent(point.error, signed=True)}",
    ]
    if not point.judged:
        lines.append("fitted to, not judged" if point.fitted else "not judged")
    return "<br>".join(plain(line) for line in lines)


def amount(value: float, kind: Kind) -> str:
    """A figure with its unit."""
    if kind == "time":
        return words.duration(value * 1e9)
    if kind == "ratio":
        return f"{value:.2f}×"
    return f"{words.significant(value)}{words.NBSP}samples/s"


def _log(low: float, high: float) -> Chart:
    """An axis: logarithmic, with ticks at 1, 2 and 5, or at tens where decades are many."""
    wide = high / low > 300
    steps = (1,) if wide else (1, 2, 5)
    marks = [m * 10.0**e for e in range(-9, 9) for m in steps]
    marks = [mark for mark in marks if low <= mark <= high]
    if len(marks) < 2:
        return {"type": "log", "range": [math.log10(low), math.log10(high)]}
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": marks,
        "ticktext": [f"{mark:g}" for mark in marks],
    }


def errors(points: Sequence[Held], ids: Sequence[str]) -> Chart:
    """Every point's error, a row a set, around the band of 10 %; those not judged open, in grey."""
    names = list(dict.fromkeys(p.set_id for p in points))
    traces: list[Chart] = []
    for judged in (False, True):
        for set_id in names:
            own = [p for p in points if p.set_id == set_id and p.judged == judged]
            if own:
                tint, symbol, _ = tint_of(ids.index(set_id))
                traces.append(
                    {
                        "type": "scatter",
                        "mode": "markers",
                        "name": plain(set_id),
                        "x": [100 * p.error for p in own],
                        "y": [plain(short(set_id))] * len(own),
                        "text": [told(p) for p in own],
                        "marker": {
                            "color": color(tint if judged else "muted"),
                            "symbol": symbol if judged else FITTED,
                            "size": 8,
                            "opacity": 0.8,
                        },
                        "hovertemplate": "%{text}<extra></extra>",
                    }
                )
    x: Chart = {"title": {"text": "error of the prediction, %"}, "zeroline": True, **UPRIGHT}
    labels = [plain(short(name)) for name in names]
    y = {
        "type": "category",
        "categoryarray": labels[::-1],
        "range": [-0.6, len(names) - 0.4],
        "fixedrange": True,
    }
    return chart_of(traces, 90 + 28 * len(names), x, y, shapes=[_band("x")])


def errors_by_size(points: Sequence[Held]) -> Chart:
    """The errors of a single set against the measured times."""
    low = min(p.measured for p in points) / 1.25
    high = max(p.measured for p in points) * 1.25
    traces = []
    for judged in (False, True):
        own = [p for p in points if p.judged == judged]
        if own:
            traces.append(
                {
                    **_held("judged" if judged else "fitted to", own, {}),
                    "y": [100 * p.error for p in own],
                    "marker": {
                        "size": 8,
                        "color": color("r1" if judged else "muted"),
                        "symbol": "circle" if judged else FITTED,
                    },
                }
            )
    x = {"title": {"text": "measured, s"}, **_log(low, high), **UPRIGHT}
    y = {"title": {"text": "error of the prediction, %"}, "zeroline": True, "zerolinewidth": 1.5}
    return chart_of(traces, 340, x, y, shapes=[_band("y")])


def _band(axis: str) -> Chart:
    """The ±10 % band as a shape over a whole chart, along the axis of errors."""
    other = "y" if axis == "x" else "x"
    return {
        "type": "rect",
        "layer": "below",
        f"{other}ref": "paper",
        f"{other}0": 0,
        f"{other}1": 1,
        f"{axis}0": -100 * BAND,
        f"{axis}1": 100 * BAND,
        "fillcolor": color("accent-soft"),
        "line": {"width": 0},
    }


def as_published(one: Set, plotted: Plotted) -> Chart:
    """A table's published figures as its paper plots them, with the predicted ones: a colour a
    series, published ones filled, predicted ones as rings, on a line where x is a number."""
    points: list[Mapping[str, Any]] = [*one["points"], *one.get("memory_points", ())]
    traces: list[Chart] = []
    for number, name in enumerate(plotted.series):
        own = [
            (_dodged(plotted, number, x), point)
            for (series, x), point in zip(plotted.places, points, strict=True)
            if series == number
        ]
        own.sort(key=lambda pair: pair[0])
        tint = f"r{number % 6}"
        run = [(x, p) for x, p in own if published_of(p) is not None]
        groups = (
            ("predicted", run, predicted_of, _ring(tint)),
            ("published", [(x, p) for x, p in run if not _apart(p)], published_of, _dot(tint)),
            (
                "published, not judged",
                [(x, p) for x, p in run if _apart(p)],
                published_of,
                _box(tint),
            ),
            (
                "predicted; did not fit then",
                [(x, p) for x, p in own if published_of(p) is None],
                predicted_of,
                _cross(tint),
            ),
        )
        for what, kept, value, style in groups:
            if kept:
                traces.append(
                    {
                        "type": "scatter",
                        "name": plain(f"{name} {what}".strip()),
                        "x": [x for x, _ in kept],
                        "y": [value(p) for _, p in kept],
                        "text": [_told(p, str(one.get("unit") or "x")) for _, p in kept],
                        "cliponaxis": False,
                        "hovertemplate": f"{plain(name)} {what}<br>%{{text}}<extra></extra>",
                        **style,
                        "mode": "lines+markers"
                        if what == "predicted" and plotted.labels is None and len(kept) > 1
                        else "markers",
                    }
                )
    y = {"title": {"text": unit_of(one)}, "rangemode": "tozero", "fixedrange": True}
    return chart_of(traces, 360, _x_axis(plotted), y)


def unit_of(one: Set) -> str:
    """The unit of a set's figures."""
    unit = str(one.get("unit") or "x")
    return "times as fast" if unit == "x" else f"{unit} a GPU" if unit == "TFLOP/s" else unit


def predicted_of(point: Mapping[str, Any]) -> float:
    """A point's predicted figure, in the unit of its set."""
    found = point["predicted_figure"] if "predicted_figure" in point else point["predicted"]
    return float(found)


def published_of(point: Mapping[str, Any]) -> float | None:
    """A point's published figure; None where it was not run."""
    key = "published_figure" if "published_figure" in point else "published"
    return None if point[key] is None else float(point[key])


def _told(point: Mapping[str, Any], unit: str) -> str:
    found = published_of(point)
    lines = [str(point["what"]), f"predicted {words.significant(predicted_of(point))} {unit}"]
    if found is not None:
        lines.append(f"published {words.significant(found)} {unit}")
        lines.append(f"error {words.percent(point['error'], signed=True)}")
    return "<br>".join(plain(line) for line in lines)


def _apart(point: Mapping[str, Any]) -> bool:
    return bool(point.get("calibration") or point.get("assumed"))


def _ring(tint: str) -> Chart:
    line = {"color": color(tint), "width": 1.6}
    return {"line": line, "marker": {"color": color(tint), "symbol": "circle-open", "size": 11}}


def _dot(tint: str) -> Chart:
    return {"marker": {"color": color(tint), "symbol": "circle", "size": 7}}


def _box(tint: str) -> Chart:
    return {"marker": {"color": color(tint), "symbol": FITTED, "size": 8}}


def _cross(tint: str) -> Chart:
    line = {"width": 2, "color": color(tint)}
    return {"marker": {"color": color(tint), "symbol": "x-thin", "size": 8, "line": line}}


def _x_axis(plotted: Plotted) -> Chart:
    title = {"text": plain(plotted.title)}
    if plotted.labels is not None:
        return {**_names(plotted.labels), "title": title}
    xs = sorted({x for _, x in plotted.places})
    along = [math.log10(x) for x in xs] if plotted.is_log else xs
    axis: Chart = {
        "title": title,
        **UPRIGHT,
        "tickvals": [xs[i] for i in spaced(along, 0.11)],
        "zeroline": False,
    }
    axis["ticktext"] = [f"{x:,.0f}" for x in axis["tickvals"]]
    if plotted.is_log:
        room = 0.05 * math.log10(xs[-1] / xs[0])
        bounds = [math.log10(xs[0]) - room, math.log10(xs[-1]) + room]
        return {**axis, "type": "log", "range": bounds}
    room = 0.05 * (xs[-1] - xs[0]) or 1.0
    return {**axis, "range": [xs[0] - room, xs[-1] + room]}


def _names(labels: Sequence[str]) -> Chart:
    """An axis of names, a place each; upright or, where there is no room, on their side."""
    return {
        "tickvals": list(range(len(labels))),
        "ticktext": [_wrapped(label) for label in labels],
        **UPRIGHT,
        "range": [-0.6, len(labels) - 0.4],
        "zeroline": False,
    }


def _wrapped(label: str, width: int = 16) -> str:
    """A label in lines, broken after `+` and spaces."""
    lines = [""]
    for part in re.findall(r"[^+ ]*[+ ]?", short(label, 2 * width + width // 2)):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "<br>".join(plain(line.strip()) for line in lines)


def _dodged(plotted: Plotted, series: int, x: float) -> float:
    """Where a series' points of a name stand: beside those of the other series."""
    count = len(plotted.series)
    if plotted.labels is None or count < 2:
        return x
    return x + 0.5 * ((series + 0.5) / count - 0.5)


def gains(gain: Mapping[str, Any]) -> Chart:
    """What an optimization gains at each row, predicted beside published, in per cent."""
    pairs = gain["pairs"]
    places = list(range(len(pairs)))
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": places,
            "y": [100 * pair[name] for pair in pairs],
            "text": [
                plain(f"{pair['what']}: {name} {words.percent(pair[name], signed=True)}")
                for pair in pairs
            ],
            "cliponaxis": False,
            "hovertemplate": "%{text}<extra></extra>",
            **style,
        }
        for name, style in (("predicted", _ring("predicted")), ("published", _dot("measured")))
    ]
    x = {**_names([str(pair["what"]) for pair in pairs]), "title": {"text": ""}}
    y = {"title": {"text": "% gained"}, "rangemode": "tozero", "fixedrange": True}
    return chart_of(traces, 300, x, y)
