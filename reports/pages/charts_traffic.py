"""Charts of traffic: who sends to whom, what each rank sends, and how busy the links are."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence

from reports import words
from reports.pages.charts import Chart, chart_of, color, marker_of
from sim.traffic.found import FLOWS, Flow, Matrix, Traffic
from sim.traffic.link_use import FABRIC, IN_NODE, NIC

FLOW_NAMES: Mapping[Flow, str] = {
    "point_to_point": "messages between stages",
    "tensor_parallel": "tensor-parallel collectives",
    "data_parallel": "gradient reduction",
    "weight_gather": "gathering of sharded weights",
    "tied_embedding": "tied-embedding all-reduce",
    "gradient_norm": "gradient norm",
}
FLOW_COLORS: Mapping[Flow, str] = {
    "point_to_point": "messages",
    "tensor_parallel": "communication",
    "data_parallel": "r2",
    "weight_gather": "r3",
    "tied_embedding": "r4",
    "gradient_norm": "grey",
}
LINK_NAMES: Mapping[str, str] = {IN_NODE: "in the node", NIC: "network card", FABRIC: "fabric"}
MIN_SHARE = 0.001
"""Of all bytes in a matrix, what a flow has to have for a heat map of its own."""
_TINY: Flow = "gradient_norm"
SHADES = (0.22, 0.4, 0.6, 0.8, 1.0)
"""Opacities of a heat map's cells, from few bytes to many."""
_MAX_STEP = 7
"""Powers of two from shade to shade, at most: a shade is then a hundred times the one before."""
_MAX_TICKS = 16
"""Labels of at most two digits for which an axis has room on a small screen."""
_SCALE_PX = 38
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def drawn_flows(traffic: Traffic) -> tuple[Flow, ...]:
    """The flows that columns and bars show: all but the gradient norm's few bytes."""
    return tuple(flow for flow in FLOWS if flow in traffic.total_bytes and flow != _TINY)


def matrix_flows(matrix: Matrix) -> tuple[Flow, ...]:
    """The flows that a heat map of all shows: those with any bytes in the matrix, but for the
    gradient norm's few."""
    return tuple(
        flow for flow in FLOWS if flow != _TINY and any(map(any, matrix.flows.get(flow, ())))
    )


def mapped_flows(matrix: Matrix) -> tuple[Flow, ...]:
    """The flows that have a heat map of their own, where they are several: those with at least
    MIN_SHARE of the bytes in the matrix."""
    sums = {flow: sum(map(sum, matrix.flows[flow])) for flow in matrix_flows(matrix)}
    least = MIN_SHARE * sum(sums.values())
    found = tuple(flow for flow, num_bytes in sums.items() if num_bytes >= least)
    return found if len(sums) > 1 else ()


def matrix_chart(matrix: Matrix, flows: tuple[Flow, ...], height: int) -> Chart:
    """A heat map of what each end (row) sends to each (column) in some flows, in shades by powers
    of two that all heat maps of the matrix share.

    Cells are bars of height 1, one for each pair that sends: plotly's own heat maps and colour bars
    set styles that the page's policy forbids, and hold the empty cells too.
    """
    size = len(matrix.labels)
    edges = shade_edges(matrix)
    cells: list[list[tuple[int, int]]] = [[] for _ in SHADES]
    for i in range(size):
        for j in range(size):
            if num_bytes := _cell(matrix, flows, i, j):
                cells[bisect_right(edges, num_bytes)].append((i, j))
    line = {"width": 0.75 if size <= 32 else 0.25, "color": color("paper")}
    data: list[Chart] = [
        {
            "type": "bar",
            "name": "bytes sent",
            "x": [j for _, j in pairs],
            "y": [1] * len(pairs),
            "base": [i - 0.5 for i, _ in pairs],
            "width": 1,
            "marker": {"color": color("accent"), "opacity": shade, "line": line},
            "hovertext": [_told(matrix, flows, i, j) for i, j in pairs],
            "hovertemplate": "%{hovertext}<extra></extra>",
        }
        for shade, pairs in zip(SHADES, cells, strict=True)
        if pairs
    ]
    most = _MAX_TICKS // max(1, max(map(len, matrix.labels)) - 1)
    step = next(n for n in (1, 2, 4, 8, 16) if n == 16 or math.ceil(size / n) <= most)
    axis = {
        "showgrid": False,
        "zeroline": False,
        "showline": True,
        "mirror": True,
        "tickvals": list(range(0, size, step)),
        "ticktext": list(matrix.labels[::step]),
    }
    x = {
        **axis,
        "title": {"text": f"to {matrix.ends}"},
        "range": [-0.5, size - 0.5],
        "tickangle": 0,
    }
    y = {**axis, "title": {"text": f"from {matrix.ends}"}, "range": [size - 0.5, -0.5]}
    margin = {"l": 48, "r": 14, "t": _SCALE_PX + 8, "b": 44}
    scale = _scale(edges, height - margin["t"] - margin["b"])
    return chart_of(data, height, x, y, barmode="overlay", bargap=0, margin=margin, **scale)


def shade_edges(matrix: Matrix) -> list[int]:
    """From how many bytes on a cell has each shade but the first: powers of two, evenly apart, that
    tell the smallest cell of any flow from the largest, or as far as SHADES reach below it."""
    flows, size = matrix_flows(matrix), range(len(matrix.labels))
    largest = max(_cell(matrix, flows, i, j) for i in size for j in size)
    smallest = min(n for flow in flows for row in matrix.flows[flow] for n in row if n)
    top, low = largest.bit_length() - 1, smallest.bit_length() - 1
    step = min(_MAX_STEP, max(1, math.ceil((top - low) / (len(SHADES) - 1))))
    first = top - step * (len(SHADES) - 2)
    return [2 ** max(0, first + step * i) for i in range(len(SHADES) - 1)]


def _scale(edges: Sequence[int], plot_px: int) -> Chart:
    """The shades above a heat map of so many pixels, with the bytes from which on each is."""
    low, high = 1 + 8 / plot_px, 1 + 18 / plot_px
    width = 1 / len(SHADES)
    shapes = [
        {
            "type": "rect",
            "xref": "paper",
            "yref": "paper",
            "x0": i * width,
            "x1": (i + 1) * width,
            "y0": low,
            "y1": high,
            "fillcolor": color("accent"),
            "opacity": shade,
            "line": {"width": 0},
        }
        for i, shade in enumerate(SHADES)
    ]
    notes = [
        {
            "xref": "paper",
            "yref": "paper",
            "x": (i + 1) * width,
            "y": high,
            "xanchor": "center",
            "yanchor": "bottom",
            "text": words.size(edge).replace(".0", ""),
            "showarrow": False,
            "font": {"size": 11, "color": color("soft")},
        }
        for i, edge in enumerate(edges)
    ]
    return {"shapes": shapes, "annotations": notes}


def _cell(matrix: Matrix, flows: tuple[Flow, ...], row: int, column: int) -> int:
    return sum(matrix.flows[flow][row][column] for flow in flows)


def _told(matrix: Matrix, flows: tuple[Flow, ...], row: int, column: int) -> str:
    """What is pointed at: between whom, how much, of what."""
    kind, labels = matrix.ends, matrix.labels
    if row == column:
        head = f"within {kind} {labels[row]}<br>{matrix.about[row]}"
    else:
        head = (
            f"{kind} {labels[row]} to {kind} {labels[column]}"
            f"<br>from {matrix.about[row]}<br>to {matrix.about[column]}"
        )
    parts = {flow: matrix.flows[flow][row][column] for flow in flows}
    lines = [f"{words.size(n)} {FLOW_NAMES[flow]}" for flow, n in parts.items() if n]
    return "<br>".join([head, *lines])


def rank_chart(traffic: Traffic) -> Chart:
    """Stacked columns of what a device of each pipeline rank sends in an iteration, by flow."""
    per_rank = traffic.num_devices / len(traffic.rank_bytes)
    unit, factor = unit_of(max(sum(own.values()) for own in traffic.rank_bytes) / per_rank)
    labels = list(map(str, range(len(traffic.rank_bytes))))
    data: list[Chart] = []
    for flow in drawn_flows(traffic):
        values = [own.get(flow, 0) / per_rank / factor for own in traffic.rank_bytes]
        data.append(
            {
                "type": "bar",
                "name": FLOW_NAMES[flow],
                "x": labels,
                "y": values,
                "marker": marker_of(FLOW_COLORS[flow]),
                "hovertemplate": f"{FLOW_NAMES[flow]}<br>a device of rank %{{x}}: %{{y:.4g}} "
                f"{unit}<extra></extra>",
            }
        )
    x = {"type": "category", "title": {"text": "pipeline rank"}, "showgrid": False}
    y = {"title": {"text": f"{unit} sent by a device"}, "fixedrange": True, "rangemode": "tozero"}
    gap = 0.25 if len(labels) < 33 else 0.05
    return chart_of(data, 400, x, y, barmode="stack", bargap=gap)


def link_chart(traffic: Traffic) -> Chart:
    """Bars of how much of its capacity the busiest link of each kind uses, by flow."""
    names = [LINK_NAMES.get(link.link, link.link) for link in traffic.links]
    data: list[Chart] = []
    for flow in drawn_flows(traffic):
        shares = [
            100 * link.utilisation * link.flows.get(flow, 0) / max(1, link.busiest_bytes)
            for link in traffic.links
        ]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": FLOW_NAMES[flow],
                "x": shares,
                "y": names,
                "marker": marker_of(FLOW_COLORS[flow]),
                "hovertemplate": f"%{{y}}: %{{x:.3g}} % {FLOW_NAMES[flow]}<extra></extra>",
            }
        )
    data.append(
        {
            "type": "scatter",
            "mode": "text",
            "name": "utilisation",
            "x": [100 * link.utilisation for link in traffic.links],
            "y": names,
            "text": [f" {words.percent(link.utilisation)}" for link in traffic.links],
            "textposition": "middle right",
            "textfont": {"color": color("soft"), "size": 12},
            "cliponaxis": False,
            "hoverinfo": "skip",
        }
    )
    high = 130 * max(max(link.utilisation for link in traffic.links), 1e-6)
    x = {
        "title": {"text": "% of what the busiest could carry"},
        "range": [0, high],
        "fixedrange": True,
    }
    y = {"type": "category", "autorange": "reversed", "fixedrange": True, "showgrid": False}
    height = 90 + 40 * len(names)
    return chart_of(data, height, x, y, barmode="stack", bargap=0.35, meta="ranked")


def unit_of(num_bytes: float) -> tuple[str, int]:
    """The unit of bytes in which a size is between 1 and 1024, and its bytes."""
    power = 0
    while num_bytes >= 1024 and power < len(_UNITS) - 1:
        num_bytes /= 1024
        power += 1
    return _UNITS[power], 1024**power
