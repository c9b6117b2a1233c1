"""Charts of two iterations beside one another, as plain dicts: changes, where the difference in
time comes from, both ranks' time, paths and memory; and both timelines on one axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports import compare_words
from reports.compare_figures import FIGURES, change, signed
from reports.compare_tables import path_kinds, path_seconds
from reports.pages import charts, gantt
from reports.pages.charts import RANK_PARTS, Chart, chart_of, marker_of
from reports.pages.charts_training import COLORS
from reports.training_words import PARTS
from reports.words import GIB, PATH_NAMES, duration, family
from sim.differences import Differences, FigureDifference
from sim.sides import Side

CHANGES = (
    ("iteration_s",),
    ("device_s_per_iteration",),
    ("tokens_per_s", "sequences_per_s"),
    ("tokens_per_s_per_device",),
    ("model_tflops_per_gpu",),
    ("peak_memory_bytes",),
    ("sent_bytes_per_device",),
    ("expected_days", "training_days"),
    ("expected_dollars", "training_cost_dollars", "dollars_per_billion_tokens"),
)
"""Figures whose change is drawn; of several the first that is known."""
PER_DEVICE = ("device_s_per_iteration", "tokens_per_s_per_device")
"""Those that tell nothing new where both have as many devices."""
LEAST_STEP = 0.002
"""The least step that the waterfall draws alone, as a share of its largest."""
_PARTS: Mapping[str, str] = {"training": "work", **COLORS}


def drawn_changes(found: Differences) -> list[FigureDifference]:
    """The figures whose change in percent is drawn; none where none changes."""
    a, b = (side.scenario.plan.num_devices for side in found.sides)
    groups = [names for names in CHANGES if a != b or names[0] not in PER_DEVICE]
    own = (
        next((f for name in names if (f := found.figure(name)) is not None), None)
        for names in groups
    )
    known = [f for f in own if f is not None and f.ratio is not None]
    return known if any(f.difference for f in known) else []


def changes(found: Differences) -> Chart:
    """Bars of figures' changes from A to B, in percent around a line at zero."""
    own = drawn_changes(found)
    steps = [
        (
            FIGURES[f.name].name,
            0.0,
            100 * ((f.ratio or 0) - 1),
            change(f),
            "predicted",
        )
        for f in own
    ]
    return _bars(steps, "change, %")


def waterfall(found: Differences) -> Chart:
    """Steps of mean rank-time by category from no difference to the whole difference in iteration
    time."""
    steps = [
        (compare_words.category(own.category), float(own.difference_ns), family(own.category))
        for own in found.categories
    ]
    return _falling(steps, "iteration time")


def path_waterfall(found: Differences) -> Chart:
    """Steps of time on the critical path by kind of action, to the difference in its length."""
    a, b = (path_seconds(side) for side in found.sides)
    gaps = {kind: 1e9 * (b.get(kind, 0.0) - a.get(kind, 0.0)) for kind in path_kinds(found)}
    ordered = sorted(gaps, key=lambda kind: -abs(gaps[kind]))
    steps = [(PATH_NAMES.get(k, k.replace("_", " ")), gaps[k], family(k)) for k in ordered]
    return _falling(steps, "the whole path")


def _falling(gaps: Sequence[tuple[str, float, str]], whole: str) -> Chart:
    """Bars, each from where the one above ended; small ones are one step together."""
    largest = max(abs(gap) for _, gap, _ in gaps)
    scale, unit = _scale(max(largest, abs(sum(gap for _, gap, _ in gaps))))
    steps, at, rest = [], 0.0, 0.0
    for name, gap, colour in gaps:
        if abs(gap) <= LEAST_STEP * largest:
            rest += gap
            continue
        steps.append(_step(name, at, gap, scale, colour))
        at += gap
    if round(rest):
        steps.append(_step("all others", at, rest, scale, "grey"))
    steps.append(_step(whole, 0, at + rest, scale, "accent"))
    return _bars(steps, f"difference in {unit}")


def _step(
    name: str, at: float, step: float, scale: float, colour: str
) -> tuple[str, float, float, str, str]:
    return name, at / scale, step / scale, signed(step, duration), colour


def _bars(steps: Sequence[tuple[str, float, float, str, str]], title: str) -> Chart:
    """Horizontal bars from a base, the first on top. Each has its text below its name: beside a bar
    of either direction it would meet the names on a narrow page."""
    names = [f"{name}<br>{text}" for name, _, _, text, _ in steps]
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "base": [base],
            "x": [length],
            "y": [shown],
            "marker": marker_of(colour),
            "hovertemplate": f"{name}: {text}<extra></extra>",
        }
        for shown, (name, base, length, text, colour) in zip(names, steps, strict=True)
    ]
    ends = [end for _, base, length, _, _ in steps for end in (base, base + length)]
    low, high = min(0.0, *ends), max(0.0, *ends)
    room = 0.04 * ((high - low) or 1.0)
    x = {
        "title": {"text": title},
        "range": [low - room, high + room],
        "fixedrange": True,
        "zeroline": True,
        "nticks": 5,
    }
    y = {
        "type": "category",
        "categoryarray": names[::-1],
        "fixedrange": True,
        "showgrid": False,
    }
    return chart_of(bars, 74 + 42 * len(steps), x, y, barmode="overlay", bargap=0.38)


def _scale(longest_ns: float) -> tuple[float, str]:
    """The unit of time for an axis up to so many nanoseconds."""
    for size, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if longest_ns >= size:
            return size, unit
    return 1.0, "ns"


def by_rank(side: Side, longest_ns: int) -> Chart:
    """Stacked columns of every rank's time, on an axis for the longer of both iterations."""
    ranks = charts.rank_parts(side)
    scale, unit = _scale(longest_ns)
    whole = side.timeline.iteration_ns / scale
    data = [
        {
            "type": "bar",
            "name": text,
            "x": [str(rank) for rank in range(len(ranks))],
            "y": [own.get(name, 0.0) * whole for own in ranks],
            "marker": marker_of(name),
            "hovertemplate": f"{text}<br>rank %{{x}}: %{{y:.4g}} {unit}<extra></extra>",
        }
        for name, text in RANK_PARTS.items()
        if any(name in own for own in ranks)
    ]
    x = {"type": "category", "title": {"text": "rank"}, "showgrid": False}
    y = {"title": {"text": unit}, "range": [0, 1.03 * longest_ns / scale], "fixedrange": True}
    return chart_of(data, 320, x, y, barmode="stack", bargap=0.18 if len(ranks) < 33 else 0.05)


def escaped(text: str) -> str:
    """Text as plotly takes it, which reads some HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("%{", "% {")


def memory(side: Side, highest: int, capacity: int | None) -> Chart:
    """Columns of every rank's peak, by kind where that is known, on an axis for both."""
    if side.memory:
        chart = charts.memory_peaks(side.memory, capacity)
    else:
        data = [
            {
                "type": "bar",
                "name": "measured peak",
                "x": [str(rank) for rank in range(len(side.peaks))],
                "y": [(peak or 0) / GIB for peak in side.peaks],
                "marker": marker_of("measured"),
                "hovertemplate": "rank %{x}: %{y:.4g} GiB<extra></extra>",
            }
        ]
        x = {"type": "category", "title": {"text": "rank"}, "showgrid": False}
        chart = chart_of(data, 320, x, {}, bargap=0.25)
    layout = {k: v for k, v in chart["layout"].items() if k not in ("shapes", "annotations")}
    layout["yaxis"] = charts.memory_axis(highest, capacity)
    return {**chart, "layout": {**layout, **charts.capacity_line(highest, capacity)}}


def days(found: Differences) -> Chart:
    """Columns of both training runs' days, by what they are spent on."""
    data = []
    own = [_days(side) for side in found.sides]
    names = [escaped(side.label) for side in found.sides]
    for part, text in PARTS.items():
        values = [side.get(part, 0.0) for side in own]
        if any(values):
            data.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": text,
                    "y": names,
                    "x": values,
                    "marker": marker_of(_PARTS[part]),
                    "hovertemplate": f"{text}<br>%{{y}}: %{{x:.4g}} days<extra></extra>",
                }
            )
    x = {"title": {"text": "days"}, "rangemode": "tozero", "fixedrange": True}
    y = {"type": "category", "autorange": "reversed", "fixedrange": True, "showgrid": False}
    return chart_of(data, 170, x, y, barmode="stack", bargap=0.35)


def days_legend(found: Differences) -> tuple[tuple[str, str], ...]:
    """The parts of a run's days that are there, with their colours."""
    both = [_days(side) for side in found.sides]
    return tuple((_PARTS[p], text) for p, text in PARTS.items() if any(p in own for own in both))


def _days(side: Side) -> Mapping[str, float]:
    run = side.prediction.training if side.prediction is not None else None
    if run is not None and run.breakdown:
        return run.breakdown
    plain = side.summary["training_days"]
    return {"training": plain} if plain is not None else {}


def timelines(found: Differences) -> dict[str, Any]:
    """Both timelines one above the other on one axis of time, a row a rank; of long ones windows,
    and an overview of the whole."""
    named = []
    for side in found.sides:
        name = compare_words.capital(side.label)
        title = f"{name}, {side.origin}: {duration(side.timeline.iteration_ns)}"
        track = gantt.Track(side.timeline, side.program, gantt.cut_of(side.scenario))
        named.append((name, title, track))
    return gantt.below_data(named)
