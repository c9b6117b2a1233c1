"""render_calibration: a profile fitted to logs or published tables, as one page: what was judged on
runs not seen, apart from what was fitted to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports import words
from reports.pages.charts import Chart, chart_of, color
from reports.pages.charts_sweep import UPRIGHT, plain
from reports.pages.page import fill
from reports.pages.page_validation import about_section, log_sections, log_tiles
from reports.pages.sections import Figure, Section, Tile
from reports.parameter_words import amount_of, interval_text, meaning_of
from reports.tables import Cell, Table, text
from reports.validation_points import Set, held_points
from reports.validation_words import log_verdict
from sim.cost.profile import Fitted, Profile


def render_calibration(profile: Profile, found: Mapping[str, Any], *, command: str = "") -> str:
    """Render a profile fitted to whole-iteration times as HTML text (see reports.pages.page).

    found: what `calibrate --json` prints: `profile`, `sets`, `notes`.
    command: what the user typed, for reproducing it.
    """
    sets: Sequence[Set] = found["sets"]
    points = held_points(sets)
    parts = [section for i, one in enumerate(sets) for section in log_sections(i, one, points)]
    return fill(
        title=f"Calibration of {profile.device}",
        name=profile.device,
        description=profile.provenance[:1].upper() + profile.provenance[1:] + ".",
        fits=True,
        verdict=_verdict(profile, sets),
        tiles=_tiles(profile, sets),
        sections=(
            *parts[:1],
            parameters_section(profile),
            *parts[1:],
            about_section(command, found["notes"]),
        ),
        summary=found,
    )


def _verdict(profile: Profile, sets: Sequence[Set]) -> str:
    if sets and sets[0]["sample"] != "in-sample":
        return log_verdict(sets[0])
    known = sum(f.interval is not None for f in profile.efficiency.values())
    text = f"{known} of {words.plural(len(profile.efficiency), 'parameter')} of {profile.device} "
    text += "are determined by the data; nothing is judged, as no runs were held back"
    return f"{text} (simulated; --folds does that)."


def _tiles(profile: Profile, sets: Sequence[Set]) -> list[Tile]:
    made = log_tiles(sets[0]) if sets and sets[0]["sample"] != "in-sample" else []
    known = sum(f.interval is not None for f in profile.efficiency.values())
    made.append(
        Tile(
            label="Parameters determined",
            text=f"{known} of {len(profile.efficiency)}",
            note="the others keep their defaults, or nearly so",
            value=known,
        )
    )
    return made


def parameters_section(profile: Profile) -> Section:
    """The parameters with their intervals, what the data cannot determine, and what is at a
    bound."""
    known = {n: f for n, f in profile.efficiency.items() if f.interval is not None}
    kept = {n: f for n, f in profile.efficiency.items() if f.interval is None}
    bound = {n: f for n, f in profile.efficiency.items() if f.at_bound is not None}
    lists = []
    if kept:
        told = tuple(f"{n}: {amount_of(n, f.value)} ({meaning_of(n)})" for n, f in kept.items())
        lists.append(("What the data does not determine: its default is kept, or nearly so", told))
    if bound:
        told = tuple(
            f"{n} is the {'lowest' if f.at_bound == 'low' else 'highest'} that the fit allows, so "
            "it stands for something that the model lacks, or the data or --device is wrong."
            for n, f in bound.items()
        )
        lists.append(("At a bound", told))
    figures: tuple[Figure, ...] = ()
    if known:
        figures = (
            Figure(
                name="parameters",
                title="Each parameter's 90 % interval, as a share of its value (fitted to "
                "measured times)",
                data=intervals(known),
            ),
        )
    return Section(
        name="parameters",
        topic="Parameters",
        claim=_claim(known, kept),
        reading="The narrower an interval, the better the data tell the parameter. A wide one "
        "may be any value in it, together with others: the iteration's time is then the same.",
        figures=figures,
        tables=(parameter_table(profile),),
        lists=tuple(lists),
    )


def _claim(known: Mapping[str, Fitted], kept: Mapping[str, Fitted]) -> str:
    if not known:
        return "The data determine no parameter"
    wide = max(known, key=lambda name: _width(known[name]))
    least = min(known, key=lambda name: _width(known[name]))
    claim = f"{least} is known best, {wide} least"
    if len(known) == 1:
        claim = f"{least} alone is determined"
    return claim + (f"; {words.plural(len(kept), 'parameter')} the data leave open" if kept else "")


def _width(fitted: Fitted) -> float:
    assert fitted.interval is not None
    low, high = fitted.interval
    return (high - low) / abs(fitted.value) if fitted.value else float("inf")


def intervals(known: Mapping[str, Fitted]) -> Chart:
    """Bars from each interval's low to its high end, the value at 100 %."""
    order = sorted(known, key=lambda name: -_width(known[name]))
    traces: list[Chart] = []
    for name in order:
        fitted = known[name]
        assert fitted.interval is not None
        scale = 100 / fitted.value if fitted.value else 0.0
        low, high = (scale * end for end in fitted.interval)
        told = f"{name}: {amount_of(name, fitted.value)}, {interval_text(name, fitted.interval)}"
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "x": [low, 100.0 if fitted.value else 0.0, high],
                "y": [name] * 3,
                "text": [plain(told)] * 3,
                "line": {"color": color("r1"), "width": 3},
                "marker": {"color": color("r1"), "size": [0, 9, 0]},
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    x = {"title": {"text": "% of the value"}, "zeroline": False, **UPRIGHT}
    y = {
        "type": "category",
        "categoryarray": order,
        "range": [-0.6, len(order) - 0.4],
        "fixedrange": True,
    }
    return chart_of(traces, 80 + 28 * len(order), x, y)


def parameter_table(profile: Profile) -> Table:
    """Every parameter with its value and interval."""
    rows = []
    for name, fitted in profile.efficiency.items():
        interval = "not determined"
        if fitted.interval is not None:
            interval = interval_text(name, fitted.interval)
        rows.append(
            (
                text(name),
                Cell(text=amount_of(name, fitted.value), value=fitted.value),
                text(interval),
                text(meaning_of(name)),
            )
        )
    columns = ("Parameter", "Value", "90 % interval", "What it is")
    return Table(caption="Fitted parameters", columns=columns, rows=tuple(rows))
