"""Sections on what a layout's time hangs on: freed, alternatives, sensitivity, scaling."""

from __future__ import annotations

from dataclasses import replace

from reports import what_if_tables, what_if_words, words
from reports.pages import charts_plan, charts_what_if
from reports.pages.sections import Figure, Legend, Section
from reports.plan_tables import factors
from scenarios.schema import Scenario
from sim.prediction import Prediction
from sim.what_if.found import WhatIf


def freed_section(found: WhatIf) -> Section | None:
    """How much shorter the iteration would be, were one thing free; None where nothing is."""
    if not found.freed:
        return None
    return Section(
        name="free",
        topic="Were it free",
        claim=what_if_words.freed_claim(found),
        reading=what_if_words.free_reading(found),
        figures=(
            Figure(
                name="freed",
                title="The iteration, were one thing free (simulated)",
                data=charts_what_if.freed(found),
                legend=(
                    ("r1", "how much shorter the iteration would be"),
                    ("grey", "its share of rank-time now"),
                ),
            ),
        ),
        tables=(what_if_tables.freed(found),),
    )


def alternatives_section(found: WhatIf, scenario: Scenario) -> Section | None:
    """One decision otherwise, and time against memory; None where there is no other layout."""
    if not found.neighbours:
        return None
    plan, cluster = scenario.plan, scenario.cluster
    capacity = cluster.device.memory if cluster is not None else None
    shown = charts_what_if.drawn(found)
    known = len(charts_what_if.near(found))
    figures: list[Figure] = []
    if shown:
        some = "" if len(shown) == known else f", the nearest {len(shown)} of {known}"
        figures.append(
            Figure(
                name="alternatives",
                title=f"One decision otherwise{some} (simulated)",
                data=charts_what_if.alternatives(found, plan),
            )
        )
    if shown and found.peak_bytes is not None:
        figures.append(_pareto(found, scenario, capacity))
    return Section(
        name="alternatives",
        topic="Alternatives",
        claim=what_if_words.alternatives_claim(found),
        reading="Each layout has one field of the plan otherwise, with what has to follow from it, "
        "and is simulated whole. None on the front is beaten by another in both time and memory. "
        + what_if_words.leaner(found),
        figures=tuple(figures),
        tables=(what_if_tables.neighbours(found, plan, capacity),),
    )


def _pareto(found: WhatIf, scenario: Scenario, capacity: int | None) -> Figure:
    chart = charts_what_if.pareto(found, scenario.plan, capacity)
    names = {trace["name"] for trace in chart["data"]}
    legend: Legend = (
        ("ring-predicted", "as given"),
        ("r2", "on the front"),
        ("grey", "beaten in both"),
    )
    kept = {"ring-predicted": "as given", "r2": "on the front", "grey": "beaten"}
    return Figure(
        name="pareto",
        title="Memory of the fullest device against time (simulated)",
        data=chart,
        legend=tuple((tint, text) for tint, text in legend if kept[tint] in names),
        note=_in_table(found),
    )


def _in_table(found: WhatIf) -> str:
    """Which layouts are in no chart; empty where all are."""
    misfits = sum(not n.fits for n in found.neighbours)
    slow = len(found.neighbours) - misfits - len(charts_what_if.near(found))
    told = [f"{words.plural(misfits, 'layout')} without room in memory"] * (misfits > 0)
    told += [f"{words.plural(slow, 'layout')} over three times as slow"] * (slow > 0)
    verb = "is" if misfits + slow == 1 else "are"
    return f"In the table alone {verb} {' and '.join(told)}." if told else ""


def sensitivity_section(found: WhatIf, scenario: Scenario) -> Section | None:
    """What each input does to the time, and where another layout becomes better; None where no
    input was varied."""
    if not found.sensitivities and not found.break_evens:
        return None
    figures, shown = [], []
    reading = ""
    if found.sensitivities:
        low, high = factors(found.sensitivities)
        overtaken = any(s.overtaken_low or s.overtaken_high for s in found.sensitivities)
        hatched = (
            (("grey", "hatched: a layout that is no faster here is faster then"),)
            if overtaken
            else ()
        )
        reading = f"Each input alone × {low:g} and × {high:g}, all else as it is. "
        if any(s.field == what_if_words.MEMORY_FIELD for s in found.sensitivities):
            reading += f"{what_if_words.MEMORY_INPUT} "
        figures.append(
            Figure(
                name="tornado",
                title="The iteration where an input is otherwise (simulated)",
                data=charts_plan.tornado_of(
                    found.sensitivities,
                    found.iteration_ns,
                    scenario.plan,
                    "no layout one decision away overtakes it then",
                ),
                legend=(("r1", f"× {low:g}"), ("r4", f"× {high:g}"), *hatched),
            )
        )
        shown.append(what_if_tables.sensitivities(found, scenario.plan))
    lists: tuple[tuple[str, tuple[str, ...]], ...] = ()
    if found.break_evens:
        reading += (
            "At a break-even point this layout and another take equally long: on one side of it "
            "this one is the better, on the other side the other."
        )
        sides = {point.below for point in found.break_evens}
        figures.append(
            Figure(
                name="break-even",
                title="From which value of an input on another layout is better (simulated)",
                data=charts_what_if.break_evens(found.break_evens),
                legend=tuple(
                    (tint, text)
                    for below, (tint, _, text) in charts_what_if.SIDES.items()
                    if below in sides
                ),
            )
        )
        shown.append(what_if_tables.break_evens(found))
        told = tuple(what_if_words.break_even(point) for point in found.break_evens[:8])
        lists = (("Break-even points", told),)
    return Section(
        name="sensitivity",
        topic="Sensitivity",
        claim=what_if_words.sensitivity_claim(found),
        reading=reading.strip(),
        figures=tuple(figures),
        tables=tuple(shown),
        lists=lists,
    )


def scaling_section(found: WhatIf) -> Section | None:
    """Throughput and efficiency on other numbers of devices; None where there is but one."""
    if len({point.num_devices for point in found.scaling}) < 2:
        return None
    kinds = dict.fromkeys(point.kind for point in found.scaling)
    legend: Legend = tuple(
        (charts_what_if.KIND_COLORS[kind], f"{kind}: {what_if_words.KINDS[kind]}") for kind in kinds
    )
    if any(point.is_own for point in found.scaling):
        legend += (("ring-predicted", "as given"),)
    left = what_if_words.misfits(found.scaling)
    return Section(
        name="scaling",
        topic="Scaling",
        claim=what_if_words.scaling_claim(found),
        reading="The same layout with more or fewer replicas. Efficiency is work per device and "
        "second over that of the fewest devices of the same line; on the dotted line every device "
        "would do as much as those do.",
        figures=(
            Figure(
                name="throughput",
                title="Tokens a second against devices (simulated)",
                data=charts_what_if.throughput(found),
                legend=(*legend, ("line-muted", "no loss")),
                half=True,
            ),
            Figure(
                name="efficiency",
                title="Efficiency against devices (simulated)",
                data=charts_what_if.efficiency(found),
                legend=legend,
                half=True,
                note="Hollow points do not fit in memory." if left else "",
            ),
        ),
        tables=(what_if_tables.scaling(found),),
    )


_PRICED = frozenset({"alternatives", "scaling"})
"""Sections that tell days and cost."""


def what_if_sections(found: WhatIf, prediction: Prediction) -> dict[str, Section]:
    """The sections that there is something to tell in, by name: free, alternatives, sensitivity,
    scaling."""
    scenario = prediction.scenario
    made = (
        freed_section(found),
        alternatives_section(found, scenario),
        sensitivity_section(found, scenario),
        scaling_section(found),
    )
    slow = what_if_words.without_stragglers(prediction)
    told = [
        replace(s, reading=f"{s.reading.rstrip()} {slow}".rstrip()) if s.name in _PRICED else s
        for s in made
        if s is not None
    ]
    if found.iteration_ns == prediction.iteration_ns:
        return {section.name: section for section in told}
    held = (
        f" All is held against {words.duration(found.iteration_ns)}, which the iteration takes "
        f"with the median of every action; {words.duration(prediction.iteration_ns)} is the median "
        "over draws."
    )
    return {s.name: replace(s, reading=s.reading + held) for s in told}
