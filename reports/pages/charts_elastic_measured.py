"""Charts of elastic runs that were executed, with what was predicted, as plain dicts."""

from __future__ import annotations

from collections.abc import Sequence

from reports.elastic_words import cache, epochs
from reports.pages.charts import Chart, chart_of, color
from reports.pages.charts_elastic import by_epoch, line_of
from reports.words import duration
from sim.elastic.phases import elastic_of
from sim.elastic_comparison import ElasticCase


def throughputs(cases: Sequence[ElasticCase]) -> Chart:
    """Lines of samples a second by epoch as predicted, points as measured, the first run's bold."""
    data: list[Chart] = []
    for position, case in enumerate(cases):
        tint = f"r{position - 1}" if position else "predicted"
        width = 1.6 if position else 2.6
        data.append(line_of(f"{case.name}, predicted", case.prediction, tint, width, "solid"))
    for position, case in enumerate(cases):
        samples = elastic_of(case.measurement.scenario).samples
        data.append(
            _points(
                f"{case.name}, measured",
                [(e.epoch, samples / e.seconds) for e in case.measurement.epochs],
                f"r{position - 1}" if position else "measured",
                "samples/s",
            )
        )
    return by_epoch(data, max(len(case.prediction.epochs) for case in cases), "samples/s")


def losses(cases: Sequence[ElasticCase]) -> Chart:
    """Points joined to lines of each run's mean training loss by epoch."""
    data = []
    for position, case in enumerate(cases):
        tint = f"r{position - 1}" if position else "measured"
        own = [(e.epoch, e.mean_loss) for e in case.measurement.epochs if e.mean_loss is not None]
        trace = _points(case.name, own, tint, "loss")
        data.append({**trace, "mode": "lines+markers", "line": {"color": color(tint), "width": 2}})
    return by_epoch(data, max(len(case.measurement.epochs) for case in cases), "training loss")


def _points(name: str, points: Sequence[tuple[int, float]], tint: str, unit: str) -> Chart:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "marker": {"color": color(tint), "size": 8},
        "hovertemplate": f"epoch %{{x}}, {name}: %{{y:.4g}} {unit}<extra></extra>",
    }


def phase_iterations(case: ElasticCase) -> Chart:
    """Pairs of columns of an iteration of each phase of a run: measured and predicted."""
    labels = [epochs(own.phase) for own in case.phases]
    about = [
        ", ".join(t for t in (f"{own.phase.frozen_layers} frozen", cache(own.phase)) if t)
        for own in case.phases
    ]
    pairs: dict[str, list[float | None]] = {
        "measured": [own.measured_iteration_s for own in case.phases],
        "predicted": [own.predicted_iteration_s for own in case.phases],
    }
    data: list[Chart] = [
        {
            "type": "bar",
            "name": what,
            "x": labels,
            "y": [None if v is None else 1e3 * v for v in values],
            "text": ["" if v is None else duration(1e9 * v) for v in values],
            "textposition": "none",
            "customdata": about,
            "marker": {"color": color(what)},
            "hovertemplate": f"epochs %{{x}}, {what}: %{{text}}<br>%{{customdata}}<extra></extra>",
        }
        for what, values in pairs.items()
    ]
    x = {"type": "category", "title": {"text": "epochs of a phase"}, "showgrid": False}
    y = {"title": {"text": "iteration in ms"}, "rangemode": "tozero", "fixedrange": True}
    return chart_of(data, 320, x, y, barmode="group", bargap=0.28, bargroupgap=0.06)
