"""Sections of a comparison: what differs in the scenario, in the figures, in time, memory and cost,
and what both rest on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from reports import compare_tables, compare_words, words
from reports.compare_figures import FIGURES, change, difference
from reports.compare_words import titled
from reports.pages import charts, charts_compare, gantt
from reports.pages.assumptions import assumptions_section
from reports.pages.sections import Figure, Legend, Section, Tile, legend_of, window_note
from reports.tables import Table
from sim.differences import COST_FIGURES, Differences
from sim.sides import Side


def tiles(found: Differences) -> list[Tile]:
    """Three figures of each side: time, memory, and what it costs or else how much it does."""
    names = ["iteration_s", "peak_memory_bytes"]
    money = ("expected_dollars", "training_cost_dollars")
    rates = ("model_tflops_per_gpu", "tokens_per_s", "sequences_per_s")
    for name in (*money, *rates) if found.work == "same" else rates:
        own = found.figure(name)
        if own is not None and own.a is not None and own.b is not None:
            names.append(name)
            break
    made = []
    for name in names:
        own = found.figure(name)
        if own is None or (own.a is None and own.b is None):
            continue
        about, at = FIGURES[name], f"figures.{found.figures.index(own)}"
        for side, value, letter in ((found.a, own.a, "a"), (found.b, own.b, "b")):
            if value is None:
                continue
            note = ""
            if letter == "b" and own.difference is not None:
                note = f"{difference(own)}, {change(own)}"
                note = note if own.difference else "the same"
            what = _TILES.get(name, about.name)
            made.append(
                Tile(
                    label=f"{compare_words.capital(side.label)}, {what[0].lower()}{what[1:]}",
                    text=about.text(value),
                    note=note or _tile_note(side, name),
                    origin="measured" if side.origin == "measured" else "simulated",
                    value=value,
                    figure=f"{at}.{letter}",
                )
            )
    return made


_TILES = {
    "peak_memory_bytes": "Peak memory",
    "training_cost_dollars": "Cost of training",
    "expected_dollars": "Expected cost of training",
}


def _tile_note(side: Side, name: str) -> str:
    capacity = side.summary["memory_capacity_bytes"]
    if name == "peak_memory_bytes" and capacity is not None:
        return f"of {words.size(capacity)}, on rank {side.fullest_rank}"
    quartiles = side.summary.get("iteration_quartiles_s")
    if name == "iteration_s" and quartiles is not None:
        low, _, high = (words.duration(1e9 * value) for value in quartiles)
        return f"half of {'all runs' if side.measurement else 'all draws'}: {low} to {high}"
    return ""


def scenario_section(found: Differences) -> Section:
    """Every value that differs, with its sources; the others in one line."""
    return Section(
        name="differences",
        topic="What differs",
        claim=compare_words.fields_claim(found),
        reading="Only values that differ are listed, each with the line or option that wrote it; "
        "“default” says that nothing did. All else is the same in both.",
        tables=(compare_tables.fields_table(found),) if found.fields else (),
        lists=(("What is the same", (compare_words.same_values(found),)),),
    )


def figures_section(found: Differences) -> Section:
    """Figures of both side by side."""
    figures: tuple[Figure, ...] = ()
    if charts_compare.drawn_changes(found):
        figures = (
            Figure(
                name="changes",
                title=f"Change from {found.a.label} to {found.b.label} "
                f"({compare_words.origins(found)})",
                data=charts_compare.changes(found),
            ),
        )
    return Section(
        name="figures",
        topic="Figures",
        claim=compare_words.figures_claim(found),
        reading=f"{compare_words.comparable(found)} The difference is {found.b.label} less "
        f"{found.a.label}, the change that over {found.a.label}; shares of time differ by "
        "percentage points.",
        figures=figures,
        tables=(compare_tables.figures_table(found, "Figures side by side"),),
    )


def time_section(found: Differences) -> Section:
    """Where the difference in iteration time comes from: by category, by rank, on the path."""
    longest = max(side.timeline.iteration_ns for side in found.sides)
    parts = {name for side in found.sides for rank in charts.rank_parts(side) for name in rank}
    legend: Legend = tuple((n, text) for n, text in charts.RANK_PARTS.items() if n in parts)
    whole = (
        " Passes are kept whole, the collectives inside them included, as what is measured or "
        "given outright tells no more."
        if found.by_pass
        else ""
    )
    fair = f"{compare_words.comparable(found)} " if found.work != "same" else ""
    note = _drawn_note(found)
    figures = [
        *_waterfall(found),
        *(
            Figure(
                name=f"by-rank-{letter}",
                title=f"{compare_words.titled_at_head(side)}: the time of every rank",
                data=charts_compare.by_rank(side, longest),
                legend=legend,
                half=True,
                note=note if letter == "a" else "",
            )
            for letter, side in (("a", found.a), ("b", found.b))
        ),
        *_paths(found),
    ]
    return Section(
        name="time",
        topic="Where the time differs",
        claim=compare_words.time_claim(found),
        reading=f"{fair}The mean rank-time of every category sums to the iteration time, so the "
        f"steps sum to the difference exactly.{whole} A critical path is the chain of actions "
        "whose length is the iteration time: only a difference on it is a difference in time.",
        figures=tuple(figures),
        tables=(
            compare_tables.categories_table(found),
            compare_tables.path_table(found),
            compare_tables.ranks_table(found),
        ),
    )


def _drawn_note(found: Differences) -> str:
    """What is drawn of a prediction that is a median over draws."""
    drawn = [side for side in found.sides if side.draws]
    if not drawn:
        return ""
    times = " and ".join(
        f"{words.duration(side.timeline.iteration_ns)} in {side.label}" for side in drawn
    )
    return (
        f"Drawn with the median of every action: {times}. The prediction is the median over draws, "
        "in which a pipeline waits for its slower side; each category above is its share of the "
        "timeline drawn, times that."
    )


def _waterfall(found: Differences) -> Iterator[Figure]:
    if any(own.difference_ns for own in found.categories):
        yield Figure(
            name="waterfall",
            title=f"Mean rank-time of {found.b.label} less that of {found.a.label}, by category "
            f"({compare_words.origins(found)})",
            data=charts_compare.waterfall(found),
        )


def _paths(found: Differences) -> Iterator[Figure]:
    if any(cell.value for *_, cell in compare_tables.path_table(found).rows):
        yield Figure(
            name="paths",
            title=f"The critical path of {found.b.label} less that of {found.a.label}, by kind of "
            f"action ({compare_words.origins(found)})",
            data=charts_compare.path_waterfall(found),
        )


def memory_section(found: Differences) -> Section:
    """Every rank's peak, side by side and by kind."""
    known = [(letter, side) for letter, side in zip("ab", found.sides, strict=True) if _peaks(side)]
    claim = compare_words.memory_claim(found)
    if not known:
        return Section(name="memory", topic="Memory", claim=claim, reading="")
    highest = max(max(_peaks(side)) for _, side in known)
    curves = [curve for _, side in known for curve in side.memory or ()]
    kinds = {kind for curve in curves for kind in compare_tables.parts_of(curve)}
    legend: Legend = tuple(
        (charts.MEMORY_FAMILIES.get(kind, "grey"), text)
        for kind, text in words.MEMORY_NAMES.items()
        if kind in kinds
    )
    return Section(
        name="memory",
        topic="Memory",
        claim=claim,
        reading="Both charts have one axis; a plan fits where every rank's peak stays below the "
        "dashed line of its device's capacity.",
        figures=tuple(
            Figure(
                name=f"memory-{letter}",
                title=f"{compare_words.titled_at_head(side)}: what each rank holds at its peak",
                data=charts_compare.memory(side, highest, side.summary["memory_capacity_bytes"]),
                legend=legend if side.memory else (("measured", "the highest seen"),),
                half=True,
            )
            for letter, side in known
        ),
        tables=(
            compare_tables.peaks_table(found),
            *((compare_tables.memory_kinds_table(found),) if curves else ()),
        ),
    )


def _peaks(side: Side) -> list[int]:
    return [peak for peak in side.peaks if peak is not None]


def timelines_section(found: Differences) -> Section:
    """Both timelines on one axis of time."""
    data = charts_compare.timelines(found)
    used = {gantt.style_of(span) for side in found.sides for span in side.timeline.spans}
    return Section(
        name="timelines",
        topic="Timelines",
        claim=compare_words.timelines_claim(found),
        reading=f"Both on one axis of time, {found.a.label} above {found.b.label}. A row is a "
        "rank, a block a pass, a thin line below it a message on its way; hatching is time in "
        "which the rank waits. Point at a block for what it waited for, drag to zoom, double-click "
        "for the whole.",
        figures=(
            Figure(
                name="timelines",
                title=f"What every rank does when ({compare_words.origins(found)})",
                data=data,
                kind="timeline",
                legend=legend_of(data, sorted(used)),
                note=window_note(data),
            ),
        ),
    )


def cost_section(found: Differences) -> Section:
    """Days and money of both."""
    figures: tuple[Figure, ...] = ()
    if charts_compare.days_legend(found):
        figures = (
            Figure(
                name="days",
                title=f"The training run in days ({compare_words.origins(found)})",
                data=charts_compare.days(found),
                legend=charts_compare.days_legend(found),
            ),
        )
    return Section(
        name="cost",
        topic="Cost",
        claim=compare_words.cost_claim(found),
        reading="Days are the iterations of the whole run one after another; expected ones have "
        "failures, checkpoints and slow devices in them, where the scenario states them. Money is "
        "device hours at the cluster's price.",
        figures=figures,
        tables=(compare_tables.figures_table(found, "Cost", COST_FIGURES),),
    )


def sources_section(found: Differences, command: str) -> Section:
    """What the figures of both rest on, what is not modelled, and how to get them again."""
    shown: list[Table] = []
    both: list[dict[str, tuple[str, ...]]] = []
    for letter, side in zip("ab", found.sides, strict=True):
        if side.prediction is None:
            both.append(dict(_measured_lists(side)))
            continue
        own = assumptions_section(side.prediction, side.summary, "")
        both.append(dict(own.lists))
        shown += [compare_tables.of_side(table, letter, side.label) for table in own.tables]
    headings = dict.fromkeys([*both[0], *both[1]])
    ordered = sorted(headings, key=lambda heading: heading == _AGAIN)
    return Section(
        name="assumptions",
        topic="Assumptions",
        claim=_sources_claim(found),
        reading=_sources_reading(found),
        tables=tuple(shown),
        lists=tuple(pair for heading in ordered for pair in _merged(heading, found, both)),
        code=command,
    )


_COSTS, _AGAIN = "Where the costs come from", "How to reproduce"


def _merged(
    heading: str, found: Differences, both: Sequence[Mapping[str, tuple[str, ...]]]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """A list of both: one where it is the same, else what both say and what each says alone."""
    a, b = (own.get(heading, ()) for own in both)
    if a == b:
        yield heading, a
        return
    common = tuple(item for item in a if item in b)
    if common:
        yield f"{heading}: both", common
    for side, own in zip(found.sides, (a, b), strict=True):
        if alone := tuple(item for item in own if item not in common):
            yield f"{heading}: {side.label}", alone


def _measured_lists(side: Side) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Where a run's figures come from, headed as a prediction's."""
    run = side.measurement
    assert run is not None
    low, high = (words.duration(value) for value in run.quartiles_ns)
    about = [
        f"Measured: median of {words.plural(len(run.judged), 'iteration')}, quartiles {low} to "
        f"{high}; {words.disturbed(sum(run.disturbed), len(run.timelines))}."
    ]
    known = {k: v for k, v in run.environment.items() if isinstance(v, str | int | float) and v}
    if known:
        about.append(", ".join(f"{key.replace('_', ' ')} {value}" for key, value in known.items()))
    yield _COSTS, tuple(about)
    digest = f"SHA-256 of its resolved values {side.scenario.digest}"
    yield _AGAIN, (f"Scenario {side.scenario.name}, {digest}",)


def _sources_claim(found: Differences) -> str:
    a, b = found.sides
    if a.origin != b.origin:
        measured, simulated = (a, b) if a.origin == "measured" else (b, a)
        return (
            f"{compare_words.titled_at_head(measured)} is what a run took, {titled(simulated)} "
            f"what {_basis(simulated)} says"
        )
    if a.origin == "measured":
        return "Both were measured, each in its own run"
    if _basis(a) == _basis(b):
        return f"Both are simulated from {_basis(a)}"
    return f"{a.label} is simulated from {_basis(a)}, {b.label} from {_basis(b)}"


def _sources_reading(found: Differences) -> str:
    a, b = found.sides
    if a.origin != b.origin:
        if found.fields:
            return (
                "Part of the difference is the prediction's error, part what differs in the plan."
            )
        return (
            "The difference is the prediction's whole error; the command validate tells which part "
            "of it is the model's structure, and which its durations."
        )
    if a.origin == "measured":
        return "A difference smaller than that from run to run says nothing."
    return (
        "A difference of two predictions rests on what they share and on what they do not: an "
        "error that both have alike cancels in their ratio, one that only one has does not."
    )


def _basis(side: Side) -> str:
    if side.profile is not None:
        return f"costs calibrated on {side.profile.device}"
    if side.scenario.costs is not None:
        return "the times that its scenario gives"
    return "the device model, not calibrated on this hardware"
