"""render_comparison: two iterations beside one another as one page, differences first."""

from __future__ import annotations

from reports import compare_words, words
from reports.pages import sections_compare
from reports.pages.page import fill
from sim.differences import Differences, differences_json


def render_comparison(found: Differences, command: str = "") -> str:
    """Render a comparison as HTML text (see reports.pages.page).

    command: what the user typed, for reproducing it.
    """
    a, b = found.sides
    sections = (
        sections_compare.scenario_section(found),
        sections_compare.figures_section(found),
        sections_compare.time_section(found),
        sections_compare.memory_section(found),
        sections_compare.timelines_section(found),
        *((sections_compare.cost_section(found),) if compare_words.has_cost(found) else ()),
        sections_compare.sources_section(found, command),
    )
    return fill(
        title=compare_words.capital(f"{a.label} beside {b.label}"),
        name=compare_words.capital(f"{a.label} beside {b.label}"),
        description=_description(found),
        fits=b.summary["fits"],
        verdict=compare_words.verdict(found),
        tiles=sections_compare.tiles(found),
        sections=sections,
        summary=differences_json(found),
    )


def _description(found: Differences) -> str:
    """What runs on what, of both."""
    a, b = (words.subject(side.scenario) for side in found.sides)
    if a == b:
        names = {side.scenario.name for side in found.sides}
        return f"Both are {a}{f': {names.pop()}' if len(names) == 1 else ''}"
    return compare_words.capital(f"{found.a.label} is {a}, {found.b.label} is {b}")
