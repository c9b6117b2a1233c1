"""Charts of cost and days: what is paid for, and other numbers of devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reports import words
from reports.pages.charts import Chart, chart_of, color, marker_of
from sim.what_if.found import ScalingPoint, WhatIf


def hours(parts: Mapping[str, float], unit: str) -> Chart:
    """Bars of dollars or device hours by what they are spent on."""
    keys = sorted(parts, key=parts.__getitem__)
    names = [words.CATEGORY_NAMES.get(key, key.replace("_", " ")) for key in keys]
    amount = words.dollars if unit.startswith("dollars") else words.significant
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "x": [parts[key]],
            "y": [name],
            "text": [amount(parts[key])],
            "textposition": "outside",
            "cliponaxis": False,
            "constraintext": "none",
            "marker": marker_of(words.family(key)),
            "hovertemplate": "%{y}: %{text}<extra></extra>",
        }
        for key, name in zip(keys, names, strict=True)
    ]
    high = 1.35 * max([*parts.values(), 1e-9])
    axis = "dollars" if unit.startswith("dollars") else "device hours"
    x = {"title": {"text": axis}, "range": [0, high], "fixedrange": True, "zeroline": False}
    y = {"type": "category", "categoryarray": names, "fixedrange": True, "showgrid": False}
    x["nticks"] = 5
    return chart_of(bars, 70 + 27 * len(keys), x, y, barmode="overlay", bargap=0.3, meta="ranked")


def priced(found: WhatIf) -> list[ScalingPoint]:
    """Numbers of devices with the same batch whose days and dollars are known, and which fit."""
    return [
        point
        for point in found.scaling
        if point.kind == "strong"
        and point.days is not None
        and point.dollars is not None
        and point.fits
    ]


def days_and_dollars(points: Sequence[ScalingPoint]) -> Chart:
    """The whole run's cost against its days, a point a number of devices."""
    line: Chart = {
        "type": "scatter",
        "mode": "lines+markers+text",
        "name": "devices",
        "x": [point.days for point in points],
        "y": [point.dollars for point in points],
        "text": [words.count(point.num_devices) for point in points],
        "textposition": "top center",
        "cliponaxis": False,
        "customdata": [words.dollars(point.dollars) for point in points],
        "line": {"color": color("line"), "width": 1.5},
        "marker": {"color": color("r1"), "size": 9},
        "hovertemplate": "%{text} devices: %{x:.4g} days, %{customdata}<extra></extra>",
    }
    own = [point for point in points if point.is_own]
    ring: Chart = {
        "type": "scatter",
        "mode": "markers",
        "name": "as given",
        "x": [point.days for point in own],
        "y": [point.dollars for point in own],
        "marker": {
            "color": color("predicted"),
            "symbol": "circle-open",
            "size": 17,
            "line": {"width": 2.5},
        },
        "hoverinfo": "skip",
    }
    dearest = max(point.dollars or 0.0 for point in points)
    longest = max(point.days or 0.0 for point in points)
    x = {"title": {"text": "days"}, "range": [0, 1.12 * longest], "fixedrange": True}
    y = {
        "title": {"text": "dollars"},
        "range": [0, 1.2 * dearest],
        "tickprefix": "$",
        "fixedrange": True,
    }
    return chart_of([line, *([ring] if own else [])], 340, x, y)
