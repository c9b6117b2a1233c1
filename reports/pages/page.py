"""render: a prediction, and what was measured, as one HTML page that needs nothing else.

The page makes no request: plotly's bundle, styles and scripts are inlined once, and its Content
Security Policy names their hashes and allows nothing else. Charts are drawn from JSON data blocks;
all text goes through autoescaping.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from reports import words
from reports.answer import answer
from reports.pages.assumptions import assumptions_section, reproduce_section
from reports.pages.sections import (
    Section,
    Tile,
    breakdown_section,
    memory_section,
    scenario_section,
    timeline_section,
)
from reports.pages.sections_cost import cost_section
from reports.pages.sections_measured import measured_section
from reports.pages.sections_slices import is_sliced, slices_section
from reports.pages.sections_traffic import traffic_section
from reports.pages.sections_what_if import what_if_sections
from reports.pages.tiles import tiles
from scenarios.loader import Loaded
from sim.comparison import Comparison, LoopRow
from sim.measurement import Measurement
from sim.prediction import Prediction, fits
from sim.traffic.found import Traffic
from sim.what_if.found import WhatIf

_HERE = Path(__file__).parent
_EMPTY_STYLE = ""
"""plotly.js adds an empty style element, and its rules through the object model."""


def render(
    prediction: Prediction,
    *,
    loaded: Loaded | None,
    measurement: Measurement | None = None,
    comparison: Comparison | None = None,
    loop: Sequence[LoopRow] | None = None,
    what_if: WhatIf | None = None,
    traffic: Traffic | None = None,
    command: str = "",
    trace: str = "",
) -> str:
    """Render the report of a prediction as HTML text (UTF-8, under 3 MB).

    loaded: the scenario with the origin of its values; None where they are not on record.
    measurement, comparison: a run of the same scenario, and the prediction held against it.
    loop: scenarios of a calibration loop.
    what_if, traffic: what the time hangs on, and who sends what; without them their sections are
    left out.
    command: what the user typed, for reproducing it. trace: the file with the whole timeline.
    """
    figures = answer(prediction, what_if=what_if, traffic=traffic)
    fit = fits(prediction)
    measured_ns = measurement.iteration_ns if measurement is not None else None
    scenario = prediction.scenario
    asked = what_if_sections(what_if, prediction) if what_if is not None else {}
    cost = cost_section(prediction, figures, what_if)
    sections = (
        timeline_section(prediction, trace, command),
        slices_section(prediction) if is_sliced(prediction) else None,
        breakdown_section(prediction, figures),
        asked.get("free"),
        memory_section(prediction, figures, fit),
        traffic_section(prediction, traffic) if traffic is not None else None,
        asked.get("alternatives"),
        asked.get("sensitivity"),
        asked.get("scaling"),
        cost,
        measured_section(prediction, measurement, comparison, tuple(loop or ())),
        scenario_section(prediction, loaded),
        assumptions_section(
            prediction, figures, not_asked=what_if.left_out if what_if is not None else ()
        ),
        reproduce_section(prediction, command, measurement),
    )
    return fill(
        title=f"{scenario.name}: {words.subject(scenario)}",
        name=scenario.name,
        description=scenario.description,
        fits=fit,
        verdict=words.verdict(prediction)
        if comparison is None
        else words.measured_verdict(prediction, comparison),
        tiles=tiles(prediction, figures, measured_ns),
        sections=tuple(section for section in sections if section is not None),
        summary=figures,
    )


def fill(
    *,
    title: str,
    name: str,
    verdict: str,
    tiles: Sequence[Tile],
    sections: Sequence[Section],
    summary: Any,
    description: str = "",
    fits: bool | None = None,
) -> str:
    """Fill the template, with the style sheet and the scripts.

    name, description: of the scenario, or of what the page is about.
    fits: False marks the verdict as bad news.
    summary: what the page's figures are, as JSON values.
    """
    style = _text("templates/style.css")
    scripts = [
        _text(f"{name}.js")
        for name in (
            "assets/plotly-cartesian.min",
            *(f"templates/{own}" for own in ("gantt", "charts", "sorting", "reading")),
        )
    ]
    return _template().render(
        policy=_policy(scripts, [style, _EMPTY_STYLE]),
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        title=title,
        name=name,
        verdict=verdict,
        tiles=tiles,
        sections=sections,
        summary=summary,
        description=description,
        fits=fits,
    )


def to_script(value: Any) -> Markup:
    """JSON for a script element: no character in it can end the element or open a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def breakable(text: str) -> Markup:
    """Escaped text that may be broken after each `/`, `_` and `.`: a path or a dotted name."""
    return Markup(re.sub("([/_.])", r"\1<wbr>", str(escape(text))))


def _policy(scripts: Sequence[str], styles: Sequence[str]) -> str:
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(map(_hash, scripts))}",
            f"style-src {' '.join(map(_hash, styles))}",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@cache
def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["to_script"] = to_script
    environment.filters["breakable"] = breakable
    return environment.get_template("page.html.j2")
