"""render_plan: what a layout search found, as one page."""

from __future__ import annotations

from dataclasses import replace

from reports import layout_words, plan_tables, plan_words, words
from reports.pages import charts_plan
from reports.pages.assumptions import assumptions_section
from reports.pages.page import fill
from reports.pages.sections import Figure, Section, Tile, memory_section, scenario_section
from reports.plan_answer import PlanAnswer
from reports.terminal.plan import plan_json
from scenarios.errors import Origin
from scenarios.loader import Loaded
from sim.planner.layouts.found import Candidate
from sim.prediction import Prediction, summary

NOT_SEARCHED = (
    "Layouts outside the space: uneven stages, microbatches of several sizes, uneven token slices "
    "(`pipetwin slice` finds those of a layout), given orders, recomputation of every k-th layer "
    "alone, and ranks placed otherwise than by whole degrees.",
)


def render_plan(answer: PlanAnswer, *, command: str = "") -> str:
    """Render the answer of `plan` as HTML text (see reports.pages.page).

    command: what the user typed, for reproducing it.
    """
    found = answer.found
    scenario = found.scenario
    return fill(
        title=f"{scenario.name}: layouts of {answer.model.name}",
        name=scenario.name,
        description=scenario.description,
        fits=bool(found.ranked),
        verdict=plan_words.verdict(answer),
        tiles=tiles(answer),
        sections=sections(answer, command),
        summary=plan_json(answer),
    )


def sections(answer: PlanAnswer, command: str) -> tuple[Section, ...]:
    """The parts of the page; of a search in which nothing fits, what there is to tell."""
    found = answer.found
    made: list[Section] = []
    if found.ranked:
        made.append(layouts_section(answer))
        if len(found.front) > 1:
            made.append(front_section(answer))
        made.append(time_section(answer))
        if found.alternatives:
            made.append(why_section(answer))
        if found.sensitivities:
            made.append(sensitivity_section(answer))
    elif answer.details:
        least = answer.details[0].prediction
        made.append(memory_section(least, summary(least), False))
    made.append(searched_section(answer))
    if answer.details:
        best = answer.details[0].prediction
        made.append(scenario_section(best, origins(answer, best)))
        made.append(assumptions_section(best, summary(best), command, NOT_SEARCHED))
    return tuple(made)


def origins(answer: PlanAnswer, best: Prediction) -> Loaded:
    """Where the winner's values are from: from where the scenario had them, or found."""
    loaded = answer.asked.loaded
    old, new = loaded.scenario.plan, best.scenario.plan
    here = Origin(file="found by the search", line=None, column=None)
    changed = {
        f"plan.{name}": here
        for name in layout_words.LISTED
        if getattr(old, name) != getattr(new, name)
    }
    return replace(loaded, scenario=best.scenario, origins={**loaded.origins, **changed})


def tiles(answer: PlanAnswer) -> list[Tile]:
    """The figures at the head of the page; those that are unknown are left out."""
    found = answer.found
    count = answer.num_candidates
    simulated = sum(space.simulated for space in found.spaces)
    searched = Tile(
        label="Layouts searched",
        text=words.count(count),
        note=f"{words.count(simulated)} of them simulated",
        value=count,
    )
    if not found.ranked:
        return [searched]
    best = found.best
    sequences = best.plan.num_sequences / (best.iteration_ns / 1e9)
    made = [
        Tile(
            label="Iteration time",
            text=words.duration(best.iteration_ns),
            note=f"{words.significant(sequences)} sequences a second",
            value=best.iteration_ns / 1e9,
        ),
    ]
    if answer.gain is not None and found.baseline is not None:
        made.append(
            Tile(
                label="Speed-up",
                text=f"{answer.gain:.2f}×",
                note=_beside(answer, found.baseline),
                value=answer.gain,
            )
        )
    made += [
        Tile(
            label=f"Model throughput per {plan_words.device_word(answer)}",
            text=words.tflops(best.tflops_per_gpu),
            note=f"on {plan_words.devices(answer, best.num_devices)}",
            value=best.tflops_per_gpu,
        ),
        Tile(
            label="Peak memory",
            text=words.size(best.peak_bytes),
            note=f"of {words.size(answer.capacity_bytes)}",
            value=best.peak_bytes,
        ),
    ]
    if best.days is not None:
        made.append(
            Tile(
                label="Whole training run",
                text=f"{words.significant(best.days, 3)}{words.NBSP}days",
                note=words.dollars(best.dollars) if best.dollars is not None else "",
                value=best.days,
            )
        )
    return [*made, searched]


def _beside(answer: PlanAnswer, own: Candidate) -> str:
    """What the winner is held against."""
    text = f"over the scenario's own, {words.duration(own.iteration_ns)}"
    if own.num_devices == answer.found.best.num_devices:
        return text
    return f"{text} on {plan_words.devices(answer, own.num_devices)}"


def layouts_section(answer: PlanAnswer) -> Section:
    """The best layouts, and the scenario's own."""
    best = plan_tables.layouts(answer)
    winner = layout_words.layout(answer.found.best.plan, answer.only)
    lists: list[tuple[str, tuple[str, ...]]] = [
        ("The best", tuple(filter(None, (winner, plan_words.tight(answer))))),
        ("How layouts are written", (layout_words.COMPACT,)),
    ]
    if best.alike:
        lists.append(("The same in all of them", best.alike))
    return Section(
        name="layouts",
        topic="Layouts",
        claim=_layouts_claim(answer),
        reading="The best first; “own” is the layout that the scenario has. A bubble is given "
        "where the layout was simulated with all figures.",
        tables=(plan_tables.results(answer), best.table),
        lists=tuple(lists),
    )


def _layouts_claim(answer: PlanAnswer) -> str:
    ranked = answer.found.ranked
    if len(ranked) == 1:
        return f"One layout was asked for: {layout_words.compact(ranked[0].plan, answer.only)}"
    last = ranked[-1].iteration_ns / ranked[0].iteration_ns - 1
    second = ranked[1].iteration_ns / ranked[0].iteration_ns - 1
    if answer.found.objective != "time":
        return f"The best {len(ranked)} layouts by {plan_words.OBJECTIVES[answer.found.objective]}"
    return (
        f"The second best layout takes {words.percent(second)} longer than the best, and number "
        f"{len(ranked)} takes {words.percent(last)} longer"
    )


def front_section(answer: PlanAnswer) -> Section:
    """Time against memory and cost."""
    found = answer.found
    fastest = min(found.front, key=lambda c: c.iteration_ns)
    leanest = min(found.front, key=lambda c: c.peak_bytes)
    half = [c for c in found.front if 2 * c.peak_bytes <= fastest.peak_bytes]
    shown = min(half, key=lambda c: c.iteration_ns) if half else leanest
    slower = shown.iteration_ns / fastest.iteration_ns - 1
    chart = charts_plan.front(answer)
    names = {trace["name"] for trace in chart["data"]}
    bands = charts_plan.cost_bands(found.front)
    legend = [(tint, f"on the front, {_dollars(low, high)}") for tint, low, high in bands]
    legend = legend or [("r2", "on the front")]
    legend += [("grey", "in the ranking, beaten in all three")] * ("ranked" in names)
    legend += [("ring-predicted", "the best"), ("measured", "the scenario's own")][
        : 2 if "own layout" in names else 1
    ]
    sizes = " The larger a point, the more GPUs." if len(found.spaces) > 1 else ""
    return Section(
        name="front",
        topic="Front",
        claim=f"With {words.size(shown.peak_bytes)} instead of {words.size(fastest.peak_bytes)} "
        f"a device an iteration takes {words.percent(slower)} longer",
        reading="No layout that was searched beats one of the front in time, memory and cost at "
        f"once.{sizes} Point at one for its layout.",
        figures=(
            Figure(
                name="front",
                title="Memory of the fullest device against time (simulated)",
                data=chart,
                legend=tuple(legend),
            ),
        ),
        tables=(plan_tables.front(answer, short=False),),
    )


def _dollars(low: float, high: float) -> str:
    """A range of costs: `$50,225 to $53,682`."""
    first, last = words.dollars(low), words.dollars(high)
    return first if first == last else f"{first} to {last}"


def time_section(answer: PlanAnswer) -> Section:
    """Where time goes in the winner, the scenario's own layout and near alternatives."""
    return Section(
        name="time",
        topic="Time",
        claim=_time_claim(answer),
        reading="All time of a device, averaged over the devices of a pipeline. The alternatives "
        "are the best layouts with one value otherwise.",
        figures=(
            Figure(
                name="times",
                title="Where a device's time goes (simulated)",
                data=charts_plan.times(answer),
                legend=tuple((tint, text) for tint, text, _ in charts_plan.used_groups(answer)),
            ),
        ),
        tables=(plan_tables.time_table(answer.details),),
        lists=(
            (
                "What the bars are",
                tuple(
                    f"{d.name}: {layout_words.layout(d.candidate.plan, answer.only)}"
                    for d in answer.details
                ),
            ),
        ),
    )


def _time_claim(answer: PlanAnswer) -> str:
    """What the winner saves most over the scenario's own layout; else what it spends most on."""
    groups = charts_plan.used_groups(answer)
    best = [charts_plan.group_seconds(answer, 0, names) for _, _, names in groups]
    held = answer.detail(answer.found.baseline)
    own = 0 if held is None else answer.details.index(held)
    if own == 0:
        most = max(range(len(groups)), key=best.__getitem__)
        share = best[most] / sum(best)
        return f"Most of the time goes to {groups[most][1]}: {words.percent(share)}"
    base = [charts_plan.group_seconds(answer, own, names) for _, _, names in groups]
    saved = [b - a for a, b in zip(best, base, strict=True)]
    most = max(range(len(groups)), key=saved.__getitem__)
    return (
        f"Against the scenario's own layout the best saves most on {groups[most][1]}: "
        f"{words.duration(1e9 * saved[most])} of {words.duration(1e9 * base[most])}"
    )


def why_section(answer: PlanAnswer) -> Section:
    """Why not another value of a dimension."""
    shown = charts_plan.drawn_alternatives(answer)
    known = [a for a in answer.found.alternatives if a.slower is not None]
    figures: tuple[Figure, ...] = ()
    if shown:
        some = "" if len(shown) == len(known) else f", the nearest {len(shown)} of {len(known)}"
        figures = (
            Figure(
                name="alternatives",
                title=f"The best layout with one value otherwise{some} (simulated)",
                data=charts_plan.alternatives(answer),
            ),
        )
    return Section(
        name="why",
        topic="Why not",
        claim=_why_claim(answer),
        reading="For every other value of a dimension the best layout that has it: all else is "
        "chosen anew for it.",
        figures=figures,
        tables=(plan_tables.alternatives(answer),),
    )


def _why_claim(answer: PlanAnswer) -> str:
    known = [other for other in answer.found.alternatives if other.slower is not None]
    if not known:
        return "No layout with another value fits"
    known.sort(key=lambda other: other.slower or 0.0)
    first, last = known[0], known[-1]
    name = layout_words.instead(first)
    text = f"{name[0].upper()}{name[1:]} comes nearest, at {words.percent(first.slower)} slower"
    if last is first:
        return text
    return f"{text}, {layout_words.instead(last)} is the furthest, at {words.percent(last.slower)}"


def sensitivity_section(answer: PlanAnswer) -> Section:
    """What the winner's time and rank hang on."""
    items = plan_tables.by_effect(answer.found.sensitivities, answer.found.best.iteration_ns)
    first, (low, high) = items[0], plan_tables.factors(items)
    changed = [i for i in items if i.overtaken_low is not None or i.overtaken_high is not None]
    claim = f"The best layout's time hangs most on {first.input}"
    claim += (
        "; it stays the best in all cases tried"
        if not changed
        else f"; another layout is better where {_inputs([i.input for i in changed])} differs"
    )
    hatched = (("grey", "hatched: another layout is better then"),) if changed else ()
    return Section(
        name="sensitivity",
        topic="Sensitivity",
        claim=claim,
        reading=f"Each input alone × {low:g} and × {high:g}; the layout stays, and those that came "
        f"near it are simulated with it, too. {plan_words.MEMORY_INPUT}",
        figures=(
            Figure(
                name="tornado",
                title="The best layout's time where an input is otherwise (simulated)",
                data=charts_plan.tornado(answer),
                legend=(("r1", f"× {low:g}"), ("r4", f"× {high:g}"), *hatched),
            ),
        ),
        tables=(plan_tables.sensitivities(answer),),
    )


def _inputs(names: list[str]) -> str:
    """Some inputs in words; many as their number."""
    if len(names) > 2:
        return f"any of {len(names)} inputs"
    return " or ".join(names)


def searched_section(answer: PlanAnswer) -> Section:
    """The space, what became of it, and what the answer rests on."""
    found = answer.found
    lists = []
    told = [plan_words.sizes(s) for s in found.spaces if s.sizes]
    if told:
        sizes = tuple(
            f"{plan_words.devices(answer, s.num_devices)}: {plan_words.sizes(s)}"
            for s in found.spaces
            if s.sizes
        )
        lists.append(("Values of each dimension", sizes))
    lists.append(("What the answer rests on", tuple(plan_words.notes(answer))))
    took = f"{words.significant(found.seconds, 3)}{words.NBSP}s"
    return Section(
        name="searched",
        topic="Search",
        claim=f"{words.count(answer.num_candidates)} layouts were searched in {took}, none left "
        "out without a reason",
        reading="Every layout that the rules allow is counted. It is left out only where it does "
        "not fit, by the exact memory of every rank, or where a proved lower bound of its time is "
        "no better than layouts that were simulated.",
        tables=(plan_tables.spaces(answer),),
        lists=tuple(lists),
    )
