"""Charts of a sweep: lines along one field, a heat map over two, each field's effect, the front."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reports import words
from reports.pages.charts import Chart, capacity_line, chart_of, color, memory_axis
from reports.sweep_axes import Axis, Effect, Swept, short
from reports.words import GIB
from sim.sweeps.reading import Point

MAX_SERIES = 6
MAX_TICKS = 12
MAX_POINTS = 2_000
"""Points in a chart of all of them, those of the front always."""
UNFIT = "r5"
UPRIGHT: Mapping[str, Any] = {"autotickangles": [0, 90], "automargin": "height"}
"""How an x axis keeps its labels apart: on their side where there is no room. It makes room below
alone: where labels at its ends may move the margins, too, these may never come to rest."""

Value = Callable[[Point], float | None]


def plain(label: str) -> str:
    """A text that plotly takes as it is: it reads tags and entities."""
    return label.replace("&", "&amp;").replace("<", "&lt;")


def axis_of(axis: Axis, title: str = "") -> Chart:
    """An axis of the page with the field's own values as ticks."""
    places = positions(axis)
    ticks = spaced(places, 1 / MAX_TICKS)
    low, high = places[0], places[-1]
    room = 0.06 * (high - low) if high > low else max(1.0, abs(low)) * 0.5
    return {
        "type": "log" if axis.is_log else "linear",
        "title": {"text": plain(title or short(axis.name))},
        "tickvals": [10 ** places[t] if axis.is_log else places[t] for t in ticks],
        "ticktext": [plain(short(axis.labels[t])) for t in ticks],
        **UPRIGHT,
        "range": [low - room, high + room],
        "zeroline": False,
    }


def spaced(places: Sequence[float], least: float) -> list[int]:
    """Which of some rising places to mark, so that they stand apart by a part of the whole."""
    room = least * (places[-1] - places[0]) * (1 - 1e-9)
    chosen = [0]
    for i, place in enumerate(places[1:], start=1):
        if place - places[chosen[-1]] >= room:
            chosen.append(i)
    return chosen


def positions(axis: Axis) -> list[float]:
    """Where the values are on an axis: as its range counts, so logarithms on a logarithmic one."""
    if axis.numbers is None:
        return [float(place) for place in range(len(axis.values))]
    return [math.log10(n) for n in axis.numbers] if axis.is_log else list(axis.numbers)


def x_of(axis: Axis, point: Point) -> float:
    """A point's place on an axis, in the units of the data."""
    place = axis.place(point)
    return float(place) if axis.numbers is None else axis.numbers[place]


def told(swept: Swept, point: Point) -> str:
    """A point in a chart's hover text."""
    lines = [swept.where(point) or swept.results.scenario, words.duration(point.seconds * 1e9)]
    if point.seen.peak_bytes is not None:
        lines.append(f"{words.size(point.seen.peak_bytes)} at the peak")
    if point.seen.fits is False:
        lines.append("does not fit")
    return "<br>".join(plain(line) for line in lines)


def along(swept: Swept, axis: Axis, value: Value, title: str, height: int = 300) -> Chart:
    """A figure of every simulated point against a field, a line where there is one point a value;
    those that do not fit as crosses."""
    known = [p for p in swept.done if value(p) is not None]
    ordered = sorted(known, key=lambda p: (x_of(axis, p), p.seen.index))
    traces: list[Chart] = []
    if len(ordered) > 1 and axis.numbers is not None:
        traces.append(_line("line", ordered, axis, value, "r1"))
    traces += _marks(swept, ordered, axis, value, "r1")
    y: Chart = {"title": {"text": title}, "rangemode": "tozero", "fixedrange": True}
    return chart_of(traces, height, axis_of(axis), y)


def series_of(swept: Swept, axis: Axis) -> tuple[int, ...]:
    """The values of an axis that get a line of their own: all, or MAX_SERIES from first to last
    with that of the fastest point."""
    last = len(axis.values) - 1
    if last < MAX_SERIES:
        return tuple(range(last + 1))
    chosen = {round(i * last / (MAX_SERIES - 1)) for i in range(MAX_SERIES)}
    best = axis.place(swept.ranked[0])
    if best not in chosen:
        chosen.discard(sorted(chosen)[1])
    return tuple(sorted(chosen | {best}))


def lines(swept: Swept, x: Axis, series: Axis) -> Chart:
    """Times against one field, a line for each value of another."""
    traces: list[Chart] = []
    for position, place in enumerate(series_of(swept, series)):
        own = [p for p in swept.done if series.place(p) == place]
        own.sort(key=lambda p: x_of(x, p))
        tint = f"r{position}"
        if len(own) > 1:
            traces.append(_line(series.labels[place], own, x, _seconds, tint))
        traces += _marks(swept, own, x, _seconds, tint, series.labels[place])
    y: Chart = {"title": {"text": "s"}, "rangemode": "tozero", "fixedrange": True}
    return chart_of(traces, 340, axis_of(x), y)


def _seconds(point: Point) -> float | None:
    return point.seen.seconds


def _line(name: str, points: Sequence[Point], axis: Axis, value: Value, tint: str) -> Chart:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain(name),
        "x": [x_of(axis, p) for p in points],
        "y": [value(p) for p in points],
        "line": {"color": color(tint), "width": 1.8},
        "hoverinfo": "skip",
    }


def _marks(
    swept: Swept, points: Sequence[Point], axis: Axis, value: Value, tint: str, name: str = ""
) -> list[Chart]:
    """Points as dots, those that do not fit as crosses."""
    found: list[Chart] = []
    for unfit in (False, True):
        own = [p for p in points if (p.seen.fits is False) == unfit]
        if not own:
            continue
        found.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": plain(name or ("does not fit" if unfit else "points")),
                "x": [x_of(axis, p) for p in own],
                "y": [value(p) for p in own],
                "text": [told(swept, p) for p in own],
                "marker": {
                    "color": color(tint),
                    "symbol": "x-thin" if unfit else "circle",
                    "size": 9 if unfit else 8,
                    "line": {"width": 2.4, "color": color(tint)} if unfit else {"width": 0},
                },
                "cliponaxis": False,
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    return found


def heat(swept: Swept, x: Axis, y: Axis) -> Chart:
    """The time of each pair of values as the strength of its colour, the fastest strongest; those
    that do not fit, and those that failed, as marks on cells without colour."""
    counted = set(map(id, swept.counted))
    times: list[list[float | None]] = [[None] * len(x.values) for _ in y.values]
    shown = [[""] * len(x.values) for _ in y.values]
    hover = [[""] * len(x.values) for _ in y.values]
    marks: dict[str, list[tuple[int, int, str]]] = {"does not fit": [], "failed": []}
    for point in swept.results.points:
        row, column = y.place(point), x.place(point)
        if not point.is_done:
            text = f"{swept.where(point)}: {point.seen.error}"
            marks["failed"].append((column, row, plain(_cut(text))))
            continue
        if id(point) not in counted:
            marks["does not fit"].append((column, row, told(swept, point)))
            continue
        times[row][column] = point.seconds
        shown[row][column] = words.duration(point.seconds * 1e9)
        hover[row][column] = told(swept, point)
    traces: list[Chart] = [
        {
            "type": "heatmap",
            "name": "points",
            "z": times,
            "x": list(range(len(x.values))),
            "y": list(range(len(y.values))),
            "text": shown,
            "customdata": hover,
            "texttemplate": "%{text}",
            "hovertemplate": "%{customdata}<extra></extra>",
            "hoverongaps": False,
            "showscale": False,
            "xgap": 2,
            "ygap": 2,
            "colorscale": [[0, color("accent")], [1, color("accent-soft")]],
        }
    ]
    for name, tint, symbol in (("does not fit", UNFIT, "x-thin"), ("failed", "grey", "x-thin")):
        if marks[name]:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": [column for column, _, _ in marks[name]],
                    "y": [row for _, row, _ in marks[name]],
                    "text": [text for _, _, text in marks[name]],
                    "marker": {
                        "color": color(tint),
                        "symbol": symbol,
                        "size": 11,
                        "line": {"width": 2.5, "color": color(tint)},
                    },
                    "hovertemplate": "%{text}<extra></extra>",
                }
            )
    height = min(900, 90 + 44 * len(y.values))
    return chart_of(traces, height, _cells(x, UPRIGHT), _cells(y, {}))


def _cells(axis: Axis, upright: Mapping[str, Any]) -> Chart:
    """An axis with a cell for each value, whatever they are."""
    every = math.ceil(len(axis.values) / (2 * MAX_TICKS))
    ticks = list(range(0, len(axis.values), every))
    return {
        "title": {"text": plain(short(axis.name))},
        "tickvals": ticks,
        "ticktext": [plain(short(axis.labels[t])) for t in ticks],
        **upright,
        "range": [-0.5, len(axis.values) - 0.5],
        "showgrid": False,
        "zeroline": False,
        "fixedrange": True,
    }


def _cut(text: str, most: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def main_effect(effect: Effect, high: float) -> Chart:
    """The best and the median point's time with each value of a field.

    high: the largest time of all fields' charts, which have one scale.
    """
    axis = effect.axis
    xs = [float(i) for i in range(len(axis.values))] if axis.numbers is None else axis.numbers
    traces: list[Chart] = []
    for name, times, tint, dash in (
        ("best point", effect.best, "r1", "solid"),
        ("median point", effect.median, "muted", "dot"),
    ):
        own = [(x, t, axis.labels[i]) for i, (x, t) in enumerate(zip(xs, times, strict=True))]
        kept = [(x, t, label) for x, t, label in own if t is not None]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if axis.numbers is not None else "markers",
                "name": name,
                "x": [x for x, _, _ in kept],
                "y": [t for _, t, _ in kept],
                "text": [plain(label) for _, _, label in kept],
                "line": {"color": color(tint), "width": 1.8, "dash": dash},
                "marker": {"color": color(tint), "size": 8},
                "cliponaxis": False,
                "hovertemplate": f"%{{text}}<br>{name}: %{{y:.4g}} s<extra></extra>",
            }
        )
    y: Chart = {"title": {"text": "s"}, "range": [0, 1.08 * high], "fixedrange": True}
    return chart_of(traces, 240, axis_of(axis), y)


def drawn(swept: Swept) -> tuple[Point, ...]:
    """The points in the charts of all: the front, and the fastest of the others."""
    front = set(map(id, swept.front))
    rest = [p for p in swept.ranked if id(p) not in front and p.seen.peak_bytes is not None]
    return (*swept.front, *rest[: max(0, MAX_POINTS - len(front))])


def front(swept: Swept) -> Chart:
    """Peak memory of every simulated point against its time, with the front and the capacity."""
    points = drawn(swept)
    top = max(p.seen.peak_bytes or 0 for p in points)
    capacities = {p.capacity_bytes for p in points}
    capacity = capacities.pop() if len(capacities) == 1 else None
    traces = _cloud(swept, points, lambda p: (p.seen.peak_bytes or 0) / GIB)
    y = memory_axis(top, capacity)
    return chart_of(traces, 400, _time_axis(points), y, **capacity_line(top, capacity))


def cost_front(swept: Swept) -> Chart:
    """The training run's cost of every simulated point against its time."""
    points = [p for p in drawn(swept) if p.dollars is not None]
    traces = _cloud(swept, points, lambda p: p.dollars)
    high = 1.1 * max(p.dollars or 0.0 for p in points)
    y: Chart = {"title": {"text": "dollars"}, "range": [0, high], "fixedrange": True}
    return chart_of(traces, 340, _time_axis(points), y)


def _time_axis(points: Sequence[Point]) -> Chart:
    low, high = min(p.seconds for p in points), max(p.seconds for p in points)
    if high > 10 * low > 0:
        marks = [m * 10.0**e for e in range(-9, 9) for m in (1, 2, 5)]
        marks = [mark for mark in marks if low / 1.2 <= mark <= high * 1.2]
        return {
            "type": "log",
            "title": {"text": "time in s"},
            "range": [math.log10(low / 1.2), math.log10(high * 1.2)],
            "tickvals": marks,
            "ticktext": [f"{mark:g}" for mark in marks],
            **UPRIGHT,
        }
    room = 0.06 * (high - low) or 0.05 * high or 1.0
    return {
        "title": {"text": "time in s"},
        "range": [low - room, high + room],
        "zeroline": False,
        **UPRIGHT,
    }


def _cloud(swept: Swept, points: Sequence[Point], value: Value) -> list[Chart]:
    front = set(map(id, swept.front))
    kinds: list[tuple[str, list[Point], Chart]] = [
        (
            "beaten",
            [p for p in points if id(p) not in front and p.seen.fits is not False],
            {"color": color("grey"), "size": 7},
        ),
        (
            "does not fit",
            [p for p in points if id(p) not in front and p.seen.fits is False],
            {
                "color": color(UNFIT),
                "symbol": "x-thin",
                "size": 7,
                "line": {"width": 1.8, "color": color(UNFIT)},
            },
        ),
        ("front", [p for p in points if id(p) in front], {"color": color("r2"), "size": 10}),
        (
            "fastest",
            [p for p in points if p is swept.ranked[0]],
            {
                "color": color("predicted"),
                "symbol": "circle-open",
                "size": 17,
                "line": {"width": 2},
            },
        ),
    ]
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [p.seconds for p in own],
            "y": [value(p) for p in own],
            "text": [told(swept, p) for p in own],
            "marker": marker,
            "hovertemplate": f"{name}<br>%{{text}}<extra></extra>",
        }
        for name, own, marker in kinds
        if own
    ]
