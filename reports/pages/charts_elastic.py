"""Charts of elastic runs as plain dicts: what changes from epoch to epoch, and what it brings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reports.elastic_words import (
    epochs,
    long_duration,
    own_row,
    time_axis,
    transition_seconds,
)
from reports.pages.charts import (
    MEMORY_FAMILIES,
    Chart,
    capacity_line,
    chart_of,
    color,
    marker_of,
    memory_axis,
)
from reports.tables import memory_parts
from reports.words import GIB, MEMORY_NAMES
from sim.elastic_measurement import ElasticMeasurement
from sim.elastic_run import AblationRow, ElasticPrediction

LAYERS = {"trained": "optimizer", "frozen": "messages", "cached": "grey"}
"""Colours of layers by what becomes of them."""
RANKS = {"pipeline": "r1", "data": "r4"}
"""Colours of the two degrees."""
CHANGE = "work2"
"""Colour of transitions."""
_EPOCH = {"title": {"text": "epoch"}, "showgrid": False, "zeroline": False}


def throughput(found: ElasticPrediction, rows: Sequence[AblationRow]) -> Chart:
    """Lines of samples a second by epoch: the run, and what it is with other mechanisms."""
    own = own_row(found.scenario, rows)
    data = [
        line_of(row.name, row.prediction, f"r{position}", 1.6, "dot")
        for position, row in enumerate(rows)
        if row is not own
    ]
    data.append(line_of(own.name if own else "simulated", found, "predicted", 2.6, "solid"))
    return by_epoch(data, len(found.epochs), "samples/s")


def by_epoch(data: list[Chart], number: int, title: str) -> Chart:
    """A chart of traces over so many epochs."""
    x = {**_EPOCH, "dtick": max(1, math.ceil(number / 14))}
    y = {"title": {"text": title}, "rangemode": "tozero", "fixedrange": True}
    return chart_of(data, 360, x, y)


def line_of(name: str, found: ElasticPrediction, tint: str, width: float, dash: str) -> Chart:
    """A run's samples a second by epoch."""
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [e.epoch for e in found.epochs],
        "y": [e.samples_per_s for e in found.epochs],
        "text": [f"{e.pipeline} x {e.data} ranks, {e.frozen_layers} frozen" for e in found.epochs],
        "line": {"color": color(tint), "width": width, "dash": dash},
        "marker": {"color": color(tint), "size": 5},
        "hovertemplate": f"epoch %{{x}}, {name}: %{{y:.4g}} samples/s<br>%{{text}}<extra></extra>",
    }


def ranks_over_time(found: ElasticPrediction, measured: ElasticMeasurement | None = None) -> Chart:
    """Steps of the pipeline's length and of its replicas over the run's time, transitions shaded;
    dotted what was measured."""
    unit, name = time_axis(found.total_ns / 1e9)
    data = _steps(_predicted_steps(found), unit, "solid", "simulated")
    if measured is not None:
        data += _steps(_measured_steps(measured), unit, "dot", "measured")
    high = max(y for trace in data for y in trace["y"])
    marks = [2**i for i in range(math.ceil(math.log2(max(2, high))) + 1)]
    y = {
        "type": "log",
        "title": {"text": "ranks"},
        "tickvals": marks,
        "ticktext": [str(mark) for mark in marks],
        "range": [math.log10(0.8), math.log10(1.25 * marks[-1])],
        "fixedrange": True,
    }
    end = max(x for trace in data for x in trace["x"])
    x = {"title": {"text": f"time in {name}"}, "range": [0, end], "zeroline": False}
    return chart_of(data, 320, x, y, shapes=_bands(found, unit))


Stretch = tuple[float, float, int, int]
"""A phase's start and end (s) with its pipeline and its replicas."""


def _predicted_steps(found: ElasticPrediction) -> list[Stretch]:
    before = transition_seconds(found)
    stretches, now = [], 0.0
    for index, own in enumerate(found.phases):
        now += before.get(index, 0.0)
        end = now + own.phase.epochs * own.epoch_ns / 1e9
        stretches.append((now, end, own.phase.layout.pipeline, own.phase.layout.data))
        now = end
    return stretches


def _measured_steps(measured: ElasticMeasurement) -> list[Stretch]:
    before = {t.phase: sum(t.seconds.values()) for t in measured.transitions}
    stretches: list[Stretch] = []
    now, last = 0.0, -1
    for epoch in measured.epochs:
        if epoch.phase != last:
            now += before.get(epoch.phase, 0.0)
        layout = measured.phases[epoch.phase].layout
        stretches.append((now, now + epoch.seconds, layout.pipeline, layout.data))
        now, last = now + epoch.seconds, epoch.phase
    return stretches


def _steps(stretches: Sequence[Stretch], unit: float, dash: str, origin: str) -> list[Chart]:
    data = []
    for degree, name in (("pipeline", "ranks in a pipeline"), ("data", "replicas")):
        values = [s[2 if degree == "pipeline" else 3] for s in stretches]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"{name}, {origin}",
                "x": [*(s[0] / unit for s in stretches), stretches[-1][1] / unit],
                "y": [*values, values[-1]],
                "line": {"shape": "hv", "color": color(RANKS[degree]), "width": 2.2, "dash": dash},
                "hovertemplate": f"%{{y}} {name} ({origin})<extra></extra>",
            }
        )
    return data


def _bands(found: ElasticPrediction, unit: float) -> list[Chart]:
    starts = {i: s[0] for i, s in enumerate(_predicted_steps(found))}
    return [
        {
            "type": "rect",
            "xref": "x",
            "yref": "paper",
            "x0": (starts[phase] - seconds) / unit,
            "x1": starts[phase] / unit,
            "y0": 0,
            "y1": 1,
            "fillcolor": color(CHANGE),
            "opacity": 0.45,
            "line": {"width": 0},
            "layer": "below",
        }
        for phase, seconds in transition_seconds(found).items()
        if seconds
    ]


def layers_by_epoch(found: ElasticPrediction, layers: int) -> Chart:
    """Stacked columns of each epoch's layers: read from the cache, frozen, trained."""
    names = {
        "cached": "read from the cache",
        "frozen": "frozen, forward only",
        "trained": "trained",
    }
    values = {
        "cached": [e.cached_layers for e in found.epochs],
        "frozen": [e.frozen_layers - e.cached_layers for e in found.epochs],
        "trained": [layers - e.frozen_layers for e in found.epochs],
    }
    data: list[Chart] = [
        {
            "type": "bar",
            "name": names[what],
            "x": [str(e.epoch) for e in found.epochs],
            "y": values[what],
            "marker": marker_of(LAYERS[what]),
            "hovertemplate": f"epoch %{{x}}: %{{y}} layers {names[what]}<extra></extra>",
        }
        for what in names
        if any(values[what])
    ]
    filling = {
        str(epoch)
        for own in found.phases
        if own.phase.fills_cache
        for epoch in range(own.phase.first_epoch, own.phase.first_epoch + own.phase.epochs)
    }
    if filling:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "fills the cache",
                "x": sorted(filling, key=int),
                "y": [1.05 * layers] * len(filling),
                "marker": {"symbol": "triangle-down", "size": 9, "color": color("communication")},
                "hovertemplate": "epoch %{x} writes the frozen layers' output to the cache"
                "<extra></extra>",
            }
        )
    x = {"type": "category", **_EPOCH}
    y = {"title": {"text": "layers"}, "range": [0, 1.12 * layers], "fixedrange": True}
    return chart_of(data, 320, x, y, barmode="stack", bargap=0.2)


def epoch_times(found: ElasticPrediction, measured: ElasticMeasurement | None = None) -> Chart:
    """Stacked columns of each epoch's training and the transition before it; points where it was
    measured."""
    longest = max(e.seconds for e in found.epochs)
    unit, name = time_axis(longest)
    labels = [str(e.epoch) for e in found.epochs]
    before = transition_seconds(found)
    moved = {
        p.phase.first_epoch: before.get(index, 0.0) / unit for index, p in enumerate(found.phases)
    }
    bars = {
        ("training", "predicted"): [e.seconds / unit for e in found.epochs],
        ("transition before it", CHANGE): [moved.get(e.epoch, 0.0) for e in found.epochs],
    }
    data: list[Chart] = [
        {
            "type": "bar",
            "name": what,
            "x": labels,
            "y": values,
            "text": [long_duration(v * unit) for v in values],
            "textposition": "none",
            "marker": {"color": color(tint)},
            "hovertemplate": f"epoch %{{x}}, {what}: %{{text}}<extra></extra>",
        }
        for (what, tint), values in bars.items()
        if any(values)
    ]
    if measured is not None:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "training, measured",
                "x": [str(e.epoch) for e in measured.epochs],
                "y": [e.seconds / unit for e in measured.epochs],
                "text": [long_duration(e.seconds) for e in measured.epochs],
                "marker": {"color": color("measured"), "size": 8},
                "hovertemplate": "epoch %{x}, measured: %{text}<extra></extra>",
            }
        )
    x = {"type": "category", **_EPOCH}
    y = {"title": {"text": f"time in {name}"}, "rangemode": "tozero", "fixedrange": True}
    return chart_of(data, 320, x, y, barmode="stack", bargap=0.2)


def speedups(found: ElasticPrediction, rows: Sequence[AblationRow]) -> Chart:
    """Bars of how much sooner the run ends with each set of mechanisms, in their order."""
    names = [_broken(row.name) for row in rows]
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "x": [row.speedup],
            "y": [names[position]],
            "text": [f"{row.speedup:.2f}×"],
            "textposition": "outside",
            "cliponaxis": False,
            "constraintext": "none",
            "customdata": [long_duration(row.prediction.total_ns / 1e9)],
            "marker": marker_of(
                "predicted" if row is own_row(found.scenario, rows) else f"r{position}"
            ),
            "hovertemplate": "%{y}: %{customdata}, %{text}<extra></extra>",
        }
        for position, row in enumerate(rows)
    ]
    high = 1.25 * max(row.speedup for row in rows)
    x: Chart = {"title": {"text": "speed-up"}, "range": [0, high], "fixedrange": True}
    y = {"type": "category", "categoryarray": names[::-1], "fixedrange": True, "showgrid": False}
    line = {"color": color("muted"), "width": 1.2, "dash": "dot"}
    one = {"type": "line", "yref": "paper", "x0": 1, "x1": 1, "y0": 0, "y1": 1, "line": line}
    return chart_of(
        bars,
        70 + 34 * len(rows),
        {**x, "zeroline": False},
        y,
        barmode="overlay",
        bargap=0.3,
        meta="ranked",
        shapes=[one],
    )


def _broken(name: str) -> str:
    """A long name in two lines, at the ` + ` nearest its middle."""
    cuts = [i for i in range(len(name)) if name.startswith(" + ", i)]
    if len(name) < 24 or not cuts:
        return name
    cut = min(cuts, key=lambda i: abs(i - len(name) / 2))
    return f"{name[:cut]}<br>{name[cut + 1 :]}"


def memory_by_phase(found: ElasticPrediction, capacity: int | None) -> Chart:
    """Stacked columns of what the fullest rank holds at its peak in each phase, by kind."""
    curves = [
        max(own.prediction.memory, key=lambda curve: curve.peak_bytes)
        for own in found.phases
        if own.prediction.memory
    ]
    parts = [memory_parts(curve) for curve in curves]
    kinds = dict.fromkeys(kind for kind in MEMORY_NAMES if any(kind in p for p in parts))
    kinds.update(dict.fromkeys(kind for p in parts for kind in p))
    labels = [epochs(own.phase) for own in found.phases if own.prediction.memory]
    data = [
        {
            "type": "bar",
            "name": MEMORY_NAMES.get(kind, kind.replace("_", " ")),
            "x": labels,
            "y": [p.get(kind, 0) / GIB for p in parts],
            "marker": marker_of(MEMORY_FAMILIES.get(kind, "grey")),
            "hovertemplate": f"{MEMORY_NAMES.get(kind, kind)}<br>epochs %{{x}}: %{{y:.4g}} GiB"
            "<extra></extra>",
        }
        for kind in kinds
    ]
    top = max(curve.peak_bytes for curve in curves)
    x = {"type": "category", "title": {"text": "epochs of a phase"}, "showgrid": False}
    line = capacity_line(top, capacity)
    return chart_of(data, 320, x, memory_axis(top, capacity), barmode="stack", bargap=0.25, **line)
