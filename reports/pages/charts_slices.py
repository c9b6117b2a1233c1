"""Charts of token slices, and of variants beside one another, as plain dicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from reports.pages.charts import Chart, chart_of, color
from reports.words import count, duration
from reports.words import piece as piece_words
from sim.comparison import ActionComparison
from sim.cost.slice_fit import PassFit
from sim.loop import LoopCase
from sim.schedule.actions import COMPUTE, Kind
from sim.variants import VariantsResult
from sim.workload.partition import Piece

LINES = 4
"""Contexts for which a fit is drawn."""
_POINTS = 40


class SliceTime(NamedTuple):
    """One slice's passes through a stage (ns), and its label."""

    label: str
    piece: Piece
    passes: dict[str, int]

    @property
    def total_ns(self) -> int:
        """All its passes."""
        return sum(self.passes.values())


def slice_times(slices: Sequence[SliceTime]) -> Chart:
    """Stacked columns of every slice's passes through a stage."""
    names = {"forward": "forward", "backward": "backward", "weight": "weight gradients"}
    data = []
    for name, text in names.items():
        if not any(name in s.passes for s in slices):
            continue
        data.append(
            {
                "type": "bar",
                "name": text,
                "x": [s.label for s in slices],
                "y": [s.passes.get(name, 0) / 1e6 for s in slices],
                "customdata": [piece_words(s.piece) for s in slices],
                "marker": {"color": color(name), "line": {"width": 0.75, "color": color("paper")}},
                "hovertemplate": f"slice %{{x}}, %{{customdata}}<br>{text} %{{y:.4g}} ms"
                "<extra></extra>",
            }
        )
    x = {"type": "category", "title": {"text": "slice"}, "showgrid": False}
    y = {"title": {"text": "ms"}, "rangemode": "tozero", "fixedrange": True}
    return chart_of(data, 320, x, y, barmode="stack", bargap=0.2)


def variant_times(found: VariantsResult) -> Chart:
    """Pairs of columns of every variant: measured, with its quartiles, and predicted."""
    names = [case.variant for case in found.cases]
    data = []
    for what in ("measured", "predicted"):
        values = [getattr(case.row, f"{what}_ns") / 1e9 for case in found.cases]
        index = 0 if what == "measured" else 1
        notes = [
            f"{found.speedups(case)[index]:.2f} times {names[0]}'s speed" for case in found.cases
        ]
        bar: Chart = {
            "type": "bar",
            "name": what,
            "x": names,
            "y": values,
            "text": [duration(1e9 * v) for v in values],
            "textposition": "inside",
            "insidetextanchor": "start",
            "textangle": 0,
            "textfont": {"color": color("paper")},
            "customdata": notes,
            "marker": {"color": color(what)},
            "hovertemplate": f"%{{x}}, {what}: %{{text}}<br>%{{customdata}}<extra></extra>",
        }
        if what == "measured":
            quartiles = [case.whole.quartiles_ns for case in found.cases]
            bar["error_y"] = {
                "type": "data",
                "symmetric": False,
                "array": [
                    max(0.0, high / 1e9 - v) for v, (_, high) in zip(values, quartiles, strict=True)
                ],
                "arrayminus": [
                    max(0.0, v - low / 1e9) for v, (low, _) in zip(values, quartiles, strict=True)
                ],
                "color": color("soft"),
                "thickness": 1.2,
                "width": 4,
            }
        data.append(bar)
    highest = max(
        [y for bar in data for y in bar["y"]] + [c.whole.quartiles_ns[1] / 1e9 for c in found.cases]
    )
    x = {"type": "category", "showgrid": False, "title": {"text": ""}}
    y = {
        "title": {"text": "iteration time in s"},
        "range": [0, 1.06 * highest],
        "fixedrange": True,
    }
    small = {"minsize": 10, "mode": "hide"}
    gaps = {"bargap": 0.28, "bargroupgap": 0.06}
    return chart_of(data, 330, x, y, barmode="group", uniformtext=small, **gaps)


def slice_errors(found: VariantsResult) -> Chart:
    """Points of the error of every slice's passes, by its tokens, for each variant."""
    symbols = ("circle", "diamond", "square", "triangle-up", "cross", "x")
    data = []
    for position, case in enumerate(found.cases):
        own = [a for a in case.comparison.actions if a.kind in COMPUTE and a.measured_ns]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": case.variant,
                "x": [_tokens(a, case) for a in own],
                "y": [100 * a.error for a in own],
                "text": [_pass_text(a, case) for a in own],
                "marker": {
                    "color": color(f"r{position % 6}"),
                    "symbol": symbols[position % len(symbols)],
                    "size": 8,
                },
                "hovertemplate": "%{text}: %{y:+.2f} %<extra></extra>",
            }
        )
    x = {"title": {"text": "tokens in the slice"}, "rangemode": "tozero", "zeroline": False}
    y = {"title": {"text": "error, %"}, "rangemode": "tozero", "zerolinewidth": 1.5}
    return chart_of(data, 330, x, y)


def _tokens(action: ActionComparison, case: LoopCase) -> int:
    if action.piece is not None:
        return action.piece.tokens
    model = case.loaded.scenario.model
    assert model is not None
    return model.sequence


def _pass_text(action: ActionComparison, case: LoopCase) -> str:
    what = "forward" if action.kind is Kind.FORWARD else "backward"
    slices = piece_words(action.piece) if action.piece is not None else "whole"
    times = f"{duration(action.simulated_ns)} for {duration(action.measured_ns)}"
    return f"{case.variant}, {what}, stage {action.stage}<br>{slices}<br>{times}"


def fit_contexts(sequence: int) -> list[int]:
    """The contexts for which a fit is drawn: LINES even ones, from none."""
    return [i * sequence // LINES for i in range(LINES)]


def fitted_times(fits: Sequence[PassFit], sequence: int, micro_batch: int) -> Chart:
    """The fitted time of a layer (the passes' fits summed) against a slice's tokens, a line for
    each of some contexts; and the measured points, in the colour of the nearest context."""
    contexts = fit_contexts(sequence)
    fewest = min(p.tokens for fit in fits for p in fit.points)
    data: list[Any] = []
    for position, context in enumerate(contexts):
        tokens = np.linspace(min(fewest, sequence - context), sequence - context, _POINTS)
        times = sum(fit.time_ns(micro_batch, tokens, context) for fit in fits)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"after {count(context)}",
                "x": [round(float(t), 1) for t in tokens],
                "y": [float(t) / 1e6 for t in np.asarray(times)],
                "line": {"color": color(f"r{position}"), "width": 1.8},
                "hovertemplate": f"fit: %{{x:.0f}} tokens after {count(context)}: %{{y:.4g}} ms"
                "<extra></extra>",
            }
        )
    shared = set.intersection(
        *({(p.tokens, p.context) for p in f.points if p.micro_batch == micro_batch} for f in fits)
    )
    measured = [
        (
            tokens,
            context,
            sum(
                p.time_ns
                for f in fits
                for p in f.points
                if (p.micro_batch, p.tokens, p.context) == (micro_batch, tokens, context)
            ),
        )
        for tokens, context in sorted(shared)
    ]
    for position, context in enumerate(contexts):
        own = [m for m in measured if min(contexts, key=lambda c: abs(c - m[1])) == context]
        if own:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": f"measured, nearest {count(context)}",
                    "x": [m[0] for m in own],
                    "y": [m[2] / 1e6 for m in own],
                    "text": [
                        f"measured: {count(m[0])} tokens after {count(m[1])}: {duration(m[2])}"
                        for m in own
                    ],
                    "marker": {
                        "color": color(f"r{position}"),
                        "size": 8,
                        "line": {"width": 1, "color": color("paper")},
                    },
                    "hovertemplate": "%{text}<extra></extra>",
                }
            )
    x = {"title": {"text": "tokens in the slice"}, "rangemode": "tozero", "zeroline": False}
    y = {"title": {"text": "ms of a layer, forward and backward"}, "rangemode": "tozero"}
    return chart_of(data, 360, x, y)
