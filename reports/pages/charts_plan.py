"""Charts of a layout search: the front, where time goes, alternatives, sensitivities."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from reports import layout_words, plan_tables, plan_words, words
from reports.pages.charts import (
    Chart,
    capacity_line,
    chart_of,
    color,
    marker_of,
    memory_axis,
    named_axis,
)
from reports.plan_answer import PlanAnswer
from reports.words import GIB
from scenarios.schema import Plan
from sim.planner.layouts.found import Alternative, Candidate, Sensitivity

MAX_BARS = 24
"""Alternatives in their chart, those that come closest."""
GROUPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("work", "matrix products and attention", ("matmul", "attention")),
    ("forward", "passes as measured", ("measured",)),
    ("work2", "memory-bound kernels, launches, host", ("memory_bound", "launch", "host")),
    ("backward", "recomputation", ("recomputation",)),
    ("communication", "tensor-parallel collectives", ("tensor_parallel",)),
    (
        "r2",
        "reductions and gathering over replicas",
        ("data_parallel", "weight_gather", "tied_embedding", "gradient_norm"),
    ),
    ("messages", "messages between stages", ("messages", "point_to_point")),
    ("optimizer", "optimizer step", ("optimizer",)),
    ("bubble", "pipeline bubble", ("bubble",)),
    ("grey", "other", ()),
)
"""Colour, words and categories of what time goes to; the last has all that are in no other."""
_LOW, _HIGH = "r1", "r4"
_BANDS = ("r2", "r1", "r5", "r4")
"""Colours of the whole run's cost, the cheapest first."""


def front(answer: PlanAnswer) -> Chart:
    """Points of the front over time and memory, coloured by cost and the larger the more
    devices they have; the other layouts of the ranking grey, the scenario's own a diamond."""
    found = answer.found
    others = [c for c in found.ranked if c not in found.front]
    data: list[Chart] = []
    if others:
        data.append(_points(answer, "ranked", others, {"color": color("grey")}))
    data.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "front",
            "x": [c.iteration_ns / 1e9 for c in found.front],
            "y": [c.peak_bytes / GIB for c in found.front],
            "line": {"color": color("muted"), "width": 1, "dash": "dot"},
            "hoverinfo": "skip",
        }
        if len(found.spaces) == 1
        else {}
    )
    data.append(_points(answer, "front", found.front, _by_cost(found.front)))
    data.append(
        _points(
            answer,
            "best",
            [found.best],
            {
                "color": color("predicted"),
                "symbol": "circle-open",
                "line": {"width": 2.5},
                "size": _sizes(answer, [found.best])[0] + 9,
            },
        )
    )
    shown: list[Candidate] = [*found.front, *others]
    if found.baseline is not None:
        shown.append(found.baseline)
        diamond = {"color": color("measured"), "symbol": "diamond"}
        data.append(_points(answer, "own layout", [found.baseline], diamond))
    top, capacity = max(c.peak_bytes for c in shown), answer.capacity_bytes
    low = min(c.iteration_ns for c in shown) / 1e9
    high = max(c.iteration_ns for c in shown) / 1e9
    room = 0.08 * (high - low) or 0.05 * high
    x = {
        "title": {"text": "iteration time in s"},
        "range": [low - room, high + room],
        "zeroline": False,
    }
    y = memory_axis(top, capacity)
    line = capacity_line(top, capacity)
    return chart_of([trace for trace in data if trace], 420, x, y, **line)


def _points(
    answer: PlanAnswer, name: str, candidates: Sequence[Candidate], marker: Mapping[str, Any]
) -> Chart:
    line = {"width": 1, "color": color("paper")}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [c.iteration_ns / 1e9 for c in candidates],
        "y": [c.peak_bytes / GIB for c in candidates],
        "text": [_told(c, answer.only) for c in candidates],
        "marker": {"size": _sizes(answer, candidates), "opacity": 1, "line": line, **marker},
        "hovertemplate": f"{name}: %{{x:.4g}} s, %{{y:.4g}} GiB<br>%{{text}}<extra></extra>",
    }


def _told(candidate: Candidate, only: Collection[str]) -> str:
    parts = [layout_words.compact(candidate.plan, only)]
    parts.append(words.plural(candidate.num_devices, "GPU"))
    if money := plan_words.money(candidate):
        parts.append(money)
    return "<br>".join(parts)


def _sizes(answer: PlanAnswer, candidates: Sequence[Candidate]) -> list[float]:
    """Diameters in pixels: areas as the numbers of devices, where there are several."""
    most = max(space.num_devices for space in answer.found.spaces)
    return [round(max(7.0, 15 * (c.num_devices / most) ** 0.5), 1) for c in candidates]


def cost_bands(candidates: Sequence[Candidate]) -> list[tuple[str, float, float]]:
    """Colours with the least and the most dollars that each stands for, in bands of equal width;
    one without a cost where that is unknown or the same for all.

    A continuous scale would need styles that the page's policy does not allow.
    """
    costs = [c.dollars for c in candidates if c.dollars is not None]
    if len(costs) < len(candidates) or not costs or max(costs) < 1.02 * min(costs):
        return []
    low, width = min(costs), (max(costs) - min(costs)) / len(_BANDS)
    found = []
    for position, tint in enumerate(_BANDS):
        own = [c for c in costs if _band(c, low, width) == position]
        if own:
            found.append((tint, min(own), max(own)))
    return found


def _by_cost(candidates: Sequence[Candidate]) -> Chart:
    """A marker whose colour is the band of the whole run's cost."""
    bands = cost_bands(candidates)
    if not bands:
        return {"color": color(_BANDS[0])}
    tints = [
        next(tint for tint, low, high in bands if low <= (c.dollars or 0.0) <= high)
        for c in candidates
    ]
    return {"color": [color(tint) for tint in tints]}


def _band(cost: float, low: float, width: float) -> int:
    return min(len(_BANDS) - 1, int((cost - low) / width))


def times(answer: PlanAnswer) -> Chart:
    """Stacked bars of what a device's time goes to, a bar a layout."""
    names = [detail.name for detail in answer.details]
    data = []
    for tint, text, categories in used_groups(answer):
        seconds = [group_seconds(answer, position, categories) for position in range(len(names))]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": text,
                "x": seconds,
                "y": names,
                "customdata": [
                    layout_words.compact(d.candidate.plan, answer.only) for d in answer.details
                ],
                "marker": marker_of(tint),
                "hovertemplate": f"%{{y}} (%{{customdata}})<br>{text}: %{{x:.4g}} s<extra></extra>",
            }
        )
    x = {"title": {"text": "s of an iteration"}, "rangemode": "tozero", "fixedrange": True}
    y = {"type": "category", "categoryarray": names[::-1], "fixedrange": True, "showgrid": False}
    return chart_of(data, 80 + 44 * len(names), x, y, barmode="stack", bargap=0.3)


def used_groups(answer: PlanAnswer) -> list[tuple[str, str, tuple[str, ...]]]:
    """The groups that any layout's time goes to."""
    numbers = range(len(answer.details))
    return [group for group in GROUPS if any(group_seconds(answer, i, group[2]) for i in numbers)]


def group_seconds(answer: PlanAnswer, position: int, categories: Sequence[str]) -> float:
    """Seconds of a layout's iteration in some categories; for none, in those of no group."""
    detail = answer.details[position]
    total = detail.prediction.figures.iteration_ns / 1e9
    if not categories:
        known = {name for _, _, names in GROUPS for name in names}
        categories = [name for name in detail.breakdown if name not in known]
    return total * sum(detail.breakdown.get(name, 0.0) for name in categories)


def alternatives(answer: PlanAnswer) -> Chart:
    """Bars of how much slower the best layout with another value is, the nearest first."""
    shown = drawn_alternatives(answer)
    names = [layout_words.instead(other) for other in shown]
    fields = list(dict.fromkeys(other.field for other in answer.found.alternatives))
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "x": [100 * (other.slower or 0.0)],
            "y": [name],
            "text": [words.percent(other.slower, signed=True)],
            "textposition": "outside",
            "cliponaxis": False,
            "constraintext": "none",
            "customdata": [
                _told(other.candidate, answer.only) if other.candidate is not None else ""
            ],
            "marker": marker_of(f"r{fields.index(other.field) % 6}"),
            "hovertemplate": "%{y}: %{text}<br>%{customdata}<extra></extra>",
        }
        for other, name in zip(shown, names, strict=True)
    ]
    high = 1.25 * max([100 * (other.slower or 0.0) for other in shown] + [1e-9])
    x = {"title": {"text": "% slower than the best"}, "range": [0, high], "fixedrange": True}
    y = {"type": "category", "categoryarray": names[::-1], "fixedrange": True, "showgrid": False}
    x["zeroline"] = False
    height = 70 + 24 * len(shown)
    return chart_of(bars, height, x, y, barmode="overlay", bargap=0.3, meta="ranked")


def drawn_alternatives(answer: PlanAnswer) -> list[Alternative]:
    """The alternatives that fit, the nearest first."""
    known = [other for other in answer.found.alternatives if other.slower is not None]
    return sorted(known, key=lambda other: other.slower or 0.0)[:MAX_BARS]


def tornado(answer: PlanAnswer) -> Chart:
    """Bars of what each input's low and high value do to the winner's time; hatched where another
    layout is better then."""
    best = answer.found.best
    return tornado_of(answer.found.sensitivities, best.iteration_ns, best.plan)


def tornado_of(
    sensitivities: Sequence[Sensitivity],
    best_ns: int,
    plan: Plan,
    none: str = "the best stays the best",
) -> Chart:
    """The same of any layout, with its time; `none` where no other layout is better."""
    items = plan_tables.by_effect(sensitivities, best_ns)
    bars = []
    for item in items:
        effects = plan_tables.effects(item, best_ns)
        sides = (
            (item.low, effects[0], item.overtaken_low, _LOW),
            (item.high, effects[1], item.overtaken_high, _HIGH),
        )
        for factor, effect, other, tint in sides:
            bars.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": f"× {factor:g}",
                    "x": [100 * effect],
                    "y": [item.input],
                    "customdata": [_better(other, plan, none)],
                    "marker": _hatched(tint, other is not None),
                    "hovertemplate": f"%{{y}} × {factor:g}: %{{x:+.2f}} %<br>%{{customdata}}"
                    "<extra></extra>",
                }
            )
    x = {"title": {"text": "% of the time"}, "fixedrange": True, "zeroline": True}
    y = named_axis([item.input for item in items])
    return chart_of(bars, 80 + 32 * len(items), x, y, barmode="overlay", bargap=0.35)


def _hatched(tint: str, overtaken: bool) -> Chart:
    marker: Chart = {"color": color(tint), "line": {"width": 0.75, "color": color("paper")}}
    if overtaken:
        marker["pattern"] = {
            "shape": "/",
            "fgcolor": color("paper"),
            "bgcolor": color(tint),
            "size": 6,
            "solidity": 0.3,
        }
    return marker


def _better(other: Plan | None, plan: Plan, none: str) -> str:
    if other is None:
        return none
    return f"better then: {layout_words.difference(other, plan)}"
