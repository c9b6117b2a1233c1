"""Charts as plain dicts that plotly draws: data and layout, colours by name.

A colour `var(--forward)` is looked up in the page's style sheet when the chart is drawn, so that
one palette serves all charts in light and dark. Legends are written by the page, not by plotly.
"""

from __future__ import annotations

import base64
import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reports.tables import memory_parts
from reports.words import CATEGORY_NAMES, GIB, MEMORY_NAMES, PATH_NAMES, family, percent, size
from sim.prediction import Prediction
from sim.schedule.actions import Kind
from sim.sides import Side
from sim.timeline.memory import MemoryCurve

Chart = dict[str, Any]
MAX_CURVES = 6
MAX_POINTS = 1_200
RANK_PARTS: Mapping[str, str] = {
    "forward": "forward",
    "backward": "backward",
    "weight": "weight gradients",
    "optimizer": "optimizer step",
    "messages": "message handling",
    "communication": "waiting for communication",
    "bubble": "pipeline bubble",
}
MEMORY_FAMILIES: Mapping[str, str] = {
    "parameters": "work",
    "master_weights": "work2",
    "gradients": "backward",
    "optimizer_state": "optimizer",
    "optimizer": "optimizer",
    "message_buffers": "messages",
    "reserved": "grey",
    "activations": "forward",
}


def color(name: str) -> str:
    """A colour of the page's palette."""
    return f"var(--{name})"


def chart_of(data: list[Chart], height: int, x: Chart, y: Chart, **layout: Any) -> Chart:
    """A chart of traces with a height in pixels and two axes."""
    return {"data": data, "layout": {"height": height, "xaxis": x, "yaxis": y, **layout}}


def marker_of(name: str) -> Chart:
    """How columns of a colour are filled; those of the bubble are hatched."""
    marker: Chart = {"color": color(name), "line": {"width": 0.75, "color": color("paper")}}
    if name == "bubble":
        marker["color"] = color("bubble-fill")
        marker["pattern"] = {
            "shape": "/",
            "fgcolor": color("bubble"),
            "bgcolor": color("bubble-fill"),
            "size": 5,
            "solidity": 0.28,
        }
    return marker


def rank_parts(prediction: Prediction | Side) -> list[dict[str, float]]:
    """Each rank's iteration by pass, as fractions that sum to 1: RANK_PARTS without those of 0."""
    names = {
        Kind.FORWARD: "forward",
        Kind.BACKWARD: "backward",
        Kind.BACKWARD_INPUT: "backward",
        Kind.BACKWARD_WEIGHT: "weight",
        Kind.OPTIMIZER: "optimizer",
    }
    timeline = prediction.timeline
    total = max(1, timeline.iteration_ns)
    ranks = []
    for spans, found in zip(timeline.compute, prediction.figures.ranks, strict=True):
        parts: Counter[str] = Counter()
        for span in spans:
            parts[names.get(span.action.kind, "messages")] += span.duration_ns
        # Those inside the passes are drawn as part of them.
        parts["communication"] = found.exposed_ns - found.inside_ns
        parts["bubble"] = found.bubble_ns
        ranks.append({name: parts[name] / total for name in RANK_PARTS if parts[name]})
    return ranks


def breakdown_by_rank(prediction: Prediction) -> Chart:
    """Stacked columns of every rank's iteration, by pass; the first column is all ranks."""
    ranks = rank_parts(prediction)
    labels = ["all", *map(str, range(len(ranks)))]
    data = []
    for name, text in RANK_PARTS.items():
        values = [rank.get(name, 0.0) for rank in ranks]
        if not any(values):
            continue
        shares = [sum(values) / len(values), *values]
        data.append(
            {
                "type": "bar",
                "name": text,
                "x": labels,
                "y": [100 * s for s in shares],
                "marker": marker_of(name),
                "hovertemplate": f"{text}<br>rank %{{x}}: %{{y:.2f}} %<extra></extra>",
            }
        )
    x = {"type": "category", "title": {"text": "rank"}, "showgrid": False}
    y = {"title": {"text": "% of the iteration"}, "range": [0, 100], "fixedrange": True}
    return chart_of(data, 360, x, y, barmode="stack", bargap=0.18 if len(ranks) < 33 else 0.05)


def breakdown_by_category(prediction: Prediction) -> Chart:
    """Bars of all rank-time by what it is spent on."""
    shares = dict(prediction.figures.breakdown)
    return _ranked({k: 100 * v for k, v in shares.items() if v}, CATEGORY_NAMES, "% of rank-time")


def critical_path(seconds: Mapping[str, float]) -> Chart:
    """Bars of the critical path by kind of action; seconds by kind."""
    total = sum(seconds.values()) or 1.0
    shares = {k: 100 * v / total for k, v in seconds.items() if v}
    return _ranked(shares, PATH_NAMES, "% of the critical path")


def _ranked(shares: Mapping[str, float], names: Mapping[str, str], title: str) -> Chart:
    keys = sorted(shares, key=shares.__getitem__)
    texts = [names.get(key, key.replace("_", " ")) for key in keys]
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "x": [shares[key]],
            "y": [shown],
            "text": [percent(shares[key] / 100)],
            "textposition": "outside",
            "cliponaxis": False,
            "constraintext": "none",
            "marker": marker_of(family(key)),
            "hovertemplate": "%{y}: %{x:.2f} %<extra></extra>",
        }
        for key, shown in zip(keys, texts, strict=True)
    ]
    high = 1.25 * max([*shares.values(), 1e-9])
    x = {"title": {"text": title}, "range": [0, high], "fixedrange": True, "zeroline": False}
    y = {"type": "category", "categoryarray": texts, "fixedrange": True, "showgrid": False}
    return chart_of(bars, 70 + 27 * len(keys), x, y, barmode="overlay", bargap=0.3, meta="ranked")


def memory_ranks(curves: Sequence[MemoryCurve]) -> list[int]:
    """The ranks whose curves are drawn: all, or MAX_CURVES from first to last with the highest."""
    if len(curves) <= MAX_CURVES:
        return list(range(len(curves)))
    chosen = {round(i * (len(curves) - 1) / (MAX_CURVES - 1)) for i in range(MAX_CURVES)}
    highest = max(range(len(curves)), key=lambda rank: curves[rank].peak_bytes)
    if highest not in chosen:
        chosen.discard(sorted(chosen)[1])
    return sorted(chosen | {highest})


def memory_curves(curves: Sequence[MemoryCurve], end_ns: int, capacity: int | None) -> Chart:
    """Steps of memory over time for some ranks, with the capacity as a line."""
    data = []
    for position, rank in enumerate(memory_ranks(curves)):
        times, held = envelope(curves[rank], end_ns)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"rank {rank}",
                "x": _floats(times),
                "y": _floats(held),
                "line": {"shape": "hv", "width": 1.6, "color": color(f"r{position}")},
                "hovertemplate": f"rank {rank}: %{{y:.4g}} GiB at %{{x:.4g}} s<extra></extra>",
            }
        )
    top = max(curve.peak_bytes for curve in curves)
    x = {"title": {"text": "time in s"}, "range": [0, end_ns / 1e9]}
    return chart_of(data, 340, x, memory_axis(top, capacity), **capacity_line(top, capacity))


def envelope(curve: MemoryCurve, end_ns: int) -> tuple[list[float], list[float]]:
    """The curve in s and GiB, closed at `end_ns`; a long one thinned to at most MAX_POINTS that
    keep the lowest and the highest of each stretch, so that no peak is lost."""
    times, held = list(curve.times_ns), list(curve.bytes_held)
    if times[-1] < end_ns:
        times.append(end_ns)
        held.append(held[-1])
    keep = range(len(times))
    if len(times) > MAX_POINTS:
        found = {0, len(times) - 1}
        for part in np.array_split(np.arange(len(times)), MAX_POINTS // 2 - 1):
            indices = [int(i) for i in part]
            found |= {min(indices, key=held.__getitem__), max(indices, key=held.__getitem__)}
        return _scaled(times, held, sorted(found))
    return _scaled(times, held, keep)


def _scaled(
    times: list[int], held: list[int], keep: Sequence[int]
) -> tuple[list[float], list[float]]:
    return [times[i] / 1e9 for i in keep], [held[i] / GIB for i in keep]


def memory_peaks(curves: Sequence[MemoryCurve], capacity: int | None) -> Chart:
    """Stacked columns of every rank's peak by kind, with the capacity as a line."""
    ranks = [memory_parts(curve) for curve in curves]
    kinds = dict.fromkeys(kind for kind in MEMORY_NAMES if any(kind in r for r in ranks))
    kinds.update(dict.fromkeys(kind for rank in ranks for kind in rank))
    data = [
        {
            "type": "bar",
            "name": MEMORY_NAMES.get(kind, kind.replace("_", " ")),
            "x": list(map(str, range(len(ranks)))),
            "y": [rank.get(kind, 0) / GIB for rank in ranks],
            "marker": marker_of(MEMORY_FAMILIES.get(kind, "grey")),
            "hovertemplate": f"{MEMORY_NAMES.get(kind, kind)}<br>rank %{{x}}: %{{y:.4g}} GiB"
            "<extra></extra>",
        }
        for kind in kinds
    ]
    x = {"type": "category", "title": {"text": "rank"}, "showgrid": False}
    top = max(curve.peak_bytes for curve in curves)
    y = memory_axis(top, capacity)
    line = capacity_line(top, capacity)
    return chart_of(data, 320, x, y, barmode="stack", bargap=0.25, **line)


def memory_axis(top_bytes: int, capacity: int | None) -> Chart:
    """An axis in GiB up to the capacity, or where that is far above, to what is held."""
    top = top_bytes if capacity is None or _far(top_bytes, capacity) else max(top_bytes, capacity)
    title, high = {"text": "GiB"}, 1.18 * max(top, 1) / GIB
    return {"title": title, "range": [0, high], "fixedrange": True}


def _far(top_bytes: int, capacity: int) -> bool:
    """Whether the capacity is so far above that a common axis would flatten what is held."""
    return capacity > 4 * top_bytes


def capacity_line(top_bytes: int, capacity: int | None) -> Chart:
    """A layout's line at the capacity, or a note where that is far above; nothing for None."""
    if capacity is None:
        return {}
    far = _far(top_bytes, capacity)
    at = capacity / GIB
    note: Chart = {
        "xref": "paper",
        "x": 1,
        "y": 1 if far else at,
        "xanchor": "right",
        "yanchor": "top" if far else "bottom",
        "text": f"capacity {size(capacity)}" + (", far above this axis" if far else ""),
        "showarrow": False,
        "font": {"color": color("limit")},
    }
    if far:
        return {"annotations": [{**note, "yref": "paper"}]}
    line = {"color": color("limit"), "width": 1.5, "dash": "dash"}
    shape = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": at, "y1": at, "line": line}
    return {"shapes": [shape], "annotations": [note]}


def _floats(values: list[float]) -> dict[str, str]:
    """Numbers as plotly's typed arrays: base64 of little-endian doubles."""
    data = np.asarray(values, dtype="<f8").tobytes()
    return {"dtype": "f8", "bdata": base64.b64encode(data).decode("ascii")}


def round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two numbers; powers alone where there are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high < 300 * low else (1,)
    found: list[float] = [step * 10.0**power for power in powers for step in steps]
    return [number for number in found if low <= number <= high]


def named_axis(names: Sequence[str], width: int = 24) -> Chart:
    """A vertical axis of names, the first on top, long ones in several lines."""
    lines = ["<br>".join(textwrap.wrap(name, width)) for name in names]
    return {
        "type": "category",
        "categoryarray": list(names)[::-1],
        "tickvals": list(names),
        "ticktext": lines,
        "fixedrange": True,
        "showgrid": False,
    }
