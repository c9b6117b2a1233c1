"""Charts of what a layout's time hangs on: freed, one decision away, break-even, scaled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from reports import what_if_words, words
from reports.pages.charts import (
    Chart,
    capacity_line,
    chart_of,
    color,
    memory_axis,
    named_axis,
    round_numbers,
)
from reports.words import GIB
from scenarios.schema import Plan
from sim.what_if.found import BreakEven, Neighbour, ScalingPoint, WhatIf

MAX_BARS = 24
"""Layouts one decision away in their chart, the nearest."""
FAR = 2.0
"""How much slower a layout is (2: three times as slow) that is in the table alone, as an axis that
reaches to it would leave the others no room."""
KIND_COLORS: Mapping[str, str] = {"strong": "r1", "weak": "r4"}
SIDES: Mapping[bool, tuple[str, str, str]] = {
    True: ("r1", "triangle-left", "another layout is better below it"),
    False: ("r4", "triangle-right", "another layout is better above it"),
}
"""Of a break-even point by whether the other layout is better below: colour, symbol, words."""
_TEXT: Mapping[str, object] = {
    "textposition": "outside",
    "cliponaxis": False,
    "constraintext": "none",
}


def freed(found: WhatIf) -> Chart:
    """Two bars each: how much shorter the iteration would be, and the share of rank-time now."""
    names = unique([what_if_words.short(one) for one in found.freed])
    gains = [100 * one.gain for one in found.freed]
    told = [words.percent(one.gain) for one in found.freed]
    shorter: Chart = {
        "type": "bar",
        "orientation": "h",
        "name": "shorter",
        "x": gains,
        "y": names,
        "text": _right_of_zero(gains, told),
        "customdata": [one.iteration_ns / 1e9 for one in found.freed],
        "marker": {"color": color("r1")},
        "hovertemplate": "%{y} free: %{x:.2f} % shorter, %{customdata:.4g} s<extra></extra>",
        **_TEXT,
    }
    shares: Chart = {
        "type": "bar",
        "orientation": "h",
        "name": "share",
        "x": [100 * (one.share or 0.0) for one in found.freed],
        "y": names,
        "marker": {"color": color("grey")},
        "hovertemplate": "%{y}: %{x:.2f} % of rank-time<extra></extra>",
    }
    high = 1.25 * max([100 * max(one.gain, one.share or 0.0) for one in found.freed] + [1e-9])
    low = 1.1 * min([*gains, 0.0])
    x = {"title": {"text": "%"}, "range": [low, high], "fixedrange": True, "zeroline": low < 0}
    y = named_axis(names)
    more = {"annotations": _notes(gains, told, names), "barmode": "group", "bargap": 0.25}
    # Of a group plotly draws the first trace lowest.
    return chart_of([shares, shorter], 70 + 40 * len(names), x, y, **more, meta="ranked")


def _right_of_zero(values: Sequence[float], texts: Sequence[str]) -> list[str]:
    """The texts that stand at the ends of bars: of those to the right."""
    return [text if value >= 0 else "" for value, text in zip(values, texts, strict=True)]


def _notes(values: Sequence[float], texts: Sequence[str], names: Sequence[str]) -> list[Chart]:
    """The texts of bars to the left, right of zero: left of a bar they would meet its name."""
    return [
        {"x": 0, "y": name, "text": text, "xanchor": "left", "showarrow": False}
        for value, text, name in zip(values, texts, names, strict=True)
        if value < 0
    ]


def near(found: WhatIf) -> list[Neighbour]:
    """The layouts that charts show: those that fit and are not FAR slower."""
    return [n for n in found.neighbours if n.fits and n.slower is not None and n.slower <= FAR]


def drawn(found: WhatIf) -> list[Neighbour]:
    """The layouts in the chart of alternatives, the fastest first; where there are many, those
    nearest to the given one."""
    nearest = sorted(near(found), key=lambda n: abs(n.slower or 0.0))[:MAX_BARS]
    return sorted(nearest, key=lambda n: n.slower or 0.0)


def alternatives(found: WhatIf, plan: Plan) -> Chart:
    """Bars of how much slower each layout one decision away is, the fastest first."""
    shown = drawn(found)
    fields = list(dict.fromkeys(n.field for n in found.neighbours))
    names = unique([what_if_words.name_of(n) for n in shown])
    values = [100 * (n.slower or 0.0) for n in shown]
    told = [words.percent(n.slower, signed=True) for n in shown]
    bars: list[Chart] = [
        {
            "type": "bar",
            "orientation": "h",
            "x": [value],
            "y": [name],
            "text": _right_of_zero([value], [text]),
            "customdata": [_told(n, plan)],
            "marker": {"color": color(f"r{fields.index(n.field) % 6}")},
            "hovertemplate": "%{y}: %{x:+.2f} %<br>%{customdata}<extra></extra>",
            **_TEXT,
        }
        for n, name, value, text in zip(shown, names, values, told, strict=True)
    ]
    most, least = max([*values, 0.0]), min([*values, 0.0])
    x = {
        "title": {"text": "% more time"},
        "range": [1.05 * least, most + (0.3 * (most - least) or 1.0)],
        "fixedrange": True,
    }
    y = named_axis(names)
    more = {"annotations": _notes(values, told, names), "barmode": "overlay", "bargap": 0.3}
    return chart_of(bars, 70 + 28 * len(shown), x, y, **more, meta="ranked")


def unique(names: Sequence[str]) -> list[str]:
    """Names told apart where several are alike, so that each has a row of its own."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def pareto(found: WhatIf, plan: Plan, capacity_bytes: int | None) -> Chart:
    """Time against memory: the given layout, those one decision away, and the front of all."""
    assert found.peak_bytes is not None
    fit = near(found)
    front = [n for n in fit if n.on_front]
    own = (found.iteration_ns, found.peak_bytes)
    line = [(n.iteration_ns or 0, n.peak_bytes) for n in front]
    line = sorted([*line, own] if what_if_words.is_on_front(found) else line)
    dotted: Chart = {
        "type": "scatter",
        "mode": "lines",
        "name": "front",
        "x": [time / 1e9 for time, _ in line],
        "y": [peak / GIB for _, peak in line],
        "line": {"color": color("muted"), "width": 1, "dash": "dot"},
        "hoverinfo": "skip",
    }
    given: Chart = {
        "type": "scatter",
        "mode": "markers",
        "name": "as given",
        "x": [own[0] / 1e9],
        "y": [own[1] / GIB],
        "marker": {
            "color": color("predicted"),
            "symbol": "circle-open",
            "size": 15,
            "line": {"width": 2.5},
        },
        "hovertemplate": "as given: %{x:.4g} s, %{y:.4g} GiB<extra></extra>",
    }
    data = [
        dotted,
        _points("beaten", [n for n in fit if not n.on_front], plan, "grey", 8),
        _points("on the front", front, plan, "r2", 9),
        given,
    ]
    times = [own[0], *(n.iteration_ns or 0 for n in fit)]
    low, high = min(times) / 1e9, max(times) / 1e9
    room = 0.08 * (high - low) or 0.05 * high
    x = {
        "title": {"text": "iteration time in s"},
        "range": [low - room, high + room],
        "zeroline": False,
    }
    top = max([own[1], *(n.peak_bytes for n in fit)])
    line_at = capacity_line(top, capacity_bytes)
    kept = [trace for trace in data if trace["x"]]
    return chart_of(kept, 400, x, memory_axis(top, capacity_bytes), **line_at)


def _points(name: str, ones: Sequence[Neighbour], plan: Plan, tint: str, large: int) -> Chart:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [(n.iteration_ns or 0) / 1e9 for n in ones],
        "y": [n.peak_bytes / GIB for n in ones],
        "text": [_told(n, plan) for n in ones],
        "marker": {
            "color": color(tint),
            "size": large,
            "line": {"width": 1, "color": color("paper")},
        },
        "hovertemplate": "%{text}: %{x:.4g} s, %{y:.4g} GiB<extra></extra>",
    }


def _told(other: Neighbour, plan: Plan) -> str:
    """A layout where a pointer rests on it; as text, as plotly reads tags."""
    return what_if_words.changes(other, plan).replace("<", "&lt;")


def break_evens(points: Sequence[BreakEven]) -> Chart:
    """Where each input breaks even, as a multiple of its value in the scenario."""
    data = []
    for below, (tint, symbol, _) in SIDES.items():
        own = [p for p in points if p.below == below and p.now > 0 and p.at > 0]
        if not own:
            continue
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "below" if below else "above",
                "x": [p.at / p.now for p in own],
                "y": [p.input for p in own],
                "text": [what_if_words.break_even(p) for p in own],
                "marker": {"color": color(tint), "symbol": symbol, "size": 13},
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    names = list(dict.fromkeys(p.input for p in points))
    ratios = [p.at / p.now for p in points if p.now > 0 and p.at > 0] + [1.0]
    far = 1.15 * max(max(ratios), 1 / min(ratios), 1.3)
    close = [t for t in (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.6) if 1 / far <= t <= far]
    ticks = round_numbers(1 / far, far) if far > 2 else close
    x = {
        "title": {"text": "times the scenario's value"},
        "type": "log",
        "range": [-math.log10(far), math.log10(far)],
        "tickvals": ticks,
        "ticktext": [f"{t:g}" for t in ticks],
        "tickangle": 0,
        "fixedrange": True,
    }
    y = {**named_axis(names), "range": [-0.6, len(names) - 0.4], "showgrid": True}
    here = {
        "type": "line",
        "x0": 1,
        "x1": 1,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": {"color": color("predicted"), "width": 1.5, "dash": "dash"},
    }
    return chart_of(data, 90 + 34 * len(names), x, y, shapes=[here])


def throughput(found: WhatIf) -> Chart:
    """Tokens a second against devices, with the line of no loss, on logarithmic axes."""
    data = []
    for kind in KIND_COLORS:
        own = [p for p in found.scaling if p.kind == kind]
        if own:
            data += _scaled(own, kind, [p.tokens_per_s for p in own], "%{y:,.0f} tokens/s")
    first = min(found.scaling, key=lambda p: p.num_devices)
    ends = (first.num_devices, max(p.num_devices for p in found.scaling))
    ideal_rates = [first.tokens_per_s * n / first.num_devices for n in ends]
    ideal: Chart = {
        "type": "scatter",
        "mode": "lines",
        "name": "ideal",
        "x": list(ends),
        "y": ideal_rates,
        "line": {"color": color("muted"), "width": 1.5, "dash": "dot"},
        "hoverinfo": "skip",
    }
    rates = [p.tokens_per_s for p in found.scaling]
    ticks = round_numbers(0.8 * min(rates), 1.25 * max([*rates, *ideal_rates]))
    y = {
        "title": {"text": "tokens a second"},
        "type": "log",
        "tickvals": ticks,
        "ticktext": [words.count(tick) if tick >= 10 else f"{tick:g}" for tick in ticks],
        "fixedrange": True,
    }
    return chart_of([ideal, *data], 340, _devices(found), y)


def efficiency(found: WhatIf) -> Chart:
    """Work per device over that of the fewest devices, in per cent."""
    data = []
    for kind in KIND_COLORS:
        own = [p for p in found.scaling if p.kind == kind]
        if own:
            data += _scaled(own, kind, [100 * p.efficiency for p in own], "%{y:.1f} %")
    most = max([1.0, *(p.efficiency for p in found.scaling)])
    y = {"title": {"text": "% efficiency"}, "range": [0, 108 * most], "fixedrange": True}
    return chart_of(data, 340, _devices(found), y)


def _devices(found: WhatIf) -> Chart:
    counts = sorted({p.num_devices for p in found.scaling})
    ends = (0.85 * counts[0], 1.18 * counts[-1])
    return {
        "title": {"text": "devices"},
        "type": "log",
        "range": [math.log10(end) for end in ends],
        "tickvals": counts,
        "ticktext": [words.count(n) for n in counts],
        "tickangle": 0,
        "fixedrange": True,
    }


def _scaled(
    points: Sequence[ScalingPoint], kind: str, values: Sequence[float], told: str
) -> list[Chart]:
    """A line with its points, hollow where the layout does not fit, ringed where it is the given
    one."""
    tint = color(KIND_COLORS[kind])
    what = what_if_words.KINDS[kind]
    symbols = ["circle" if p.fits else "circle-open" for p in points]
    line: Chart = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": kind,
        "x": [p.num_devices for p in points],
        "y": list(values),
        "line": {"color": tint, "width": 2},
        "marker": {"color": tint, "symbol": symbols, "size": 8},
        "text": [_about(p) for p in points],
        "hovertemplate": f"{what}, %{{x:,}} devices: {told}%{{text}}<extra></extra>",
    }
    own = [(p.num_devices, v) for p, v in zip(points, values, strict=True) if p.is_own]
    if not own:
        return [line]
    ring: Chart = {
        "type": "scatter",
        "mode": "markers",
        "name": "as given",
        "x": [n for n, _ in own],
        "y": [v for _, v in own],
        "marker": {
            "color": color("predicted"),
            "symbol": "circle-open",
            "size": 16,
            "line": {"width": 2.5},
        },
        "hoverinfo": "skip",
    }
    return [line, ring]


def _about(point: ScalingPoint) -> str:
    return "" if point.fits else "<br>does not fit"
