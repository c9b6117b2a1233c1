"""render_sweep: the results of a sweep as one page."""

from __future__ import annotations

from collections.abc import Sequence

from reports import sweep_tables, sweep_words, words
from reports.pages import charts_sweep
from reports.pages.page import fill
from reports.pages.sections import Figure, Legend, Section, Tile
from reports.sweep_axes import Axis, Swept
from reports.words import GIB
from sim.sweeps.reading import Results

MAX_EFFECTS = 8
"""Fields with a chart of their own, those that matter most."""
MAX_CELLS = 2_500
"""Cells of a heat map; of larger grids each field's effect is shown."""
NOT_MODELLED = (
    "Every point is one simulation; what the simulator does not model is told by the report of a "
    "point, as `pipetwin simulate SCENARIO --set FIELD=VALUE --report point.html` makes it."
)


def render_sweep(results: Results, *, command: str = "") -> str:
    """Render the results of a sweep as HTML text (see reports.pages.page).

    command: what the user typed, for reproducing it.
    """
    swept = Swept(results)
    name = results.scenario or results.path.name
    return fill(
        title=f"{name}: sweep of {words.plural(len(results.points), 'point')}",
        name=name,
        description="",
        fits=bool(swept.done),
        verdict=sweep_words.verdict(swept),
        tiles=tiles(swept),
        sections=sections(swept, command),
        summary=sweep_tables.sweep_page_json(swept),
    )


def sections(swept: Swept, command: str) -> tuple[Section, ...]:
    """The parts of the page, those that there are points for."""
    made: list[Section] = []
    if swept.done:
        if swept.axes:
            made.append(effects_section(swept))
        made.append(best_section(swept))
        if len(swept.done) > 1 and swept.front:
            made.append(front_section(swept))
    if swept.results.failed:
        made.append(failed_section(swept))
    if swept.done:
        made.append(points_section(swept))
    made.append(file_section(swept, command))
    return tuple(made)


def tiles(swept: Swept) -> list[Tile]:
    """The figures at the head of the page."""
    results = swept.results
    count = len(swept.done)
    asked = results.num_asked
    of = "" if asked is None or asked == count else f"of {asked:,} asked for"
    made = [
        Tile(label="Points simulated", text=f"{count:,}", note=of, value=count, figure="done"),
    ]
    if swept.done:
        best = swept.ranked[0]
        key = "total_s" if swept.is_run else "iteration_s"
        label = f"Fastest {sweep_words.time_word(swept)}"
        made.append(
            Tile(
                label=label,
                text=words.duration(best.seconds * 1e9),
                note=swept.where(best),
                value=best.seconds,
                figure=f"points.0.{key}",
            )
        )
        slowest = max(swept.counted, key=lambda p: p.seconds)
        if slowest is not best:
            made.append(
                Tile(
                    label="Slowest over fastest",
                    text=f"{slowest.seconds / best.seconds:.2f}×",
                    note=f"{words.duration(slowest.seconds * 1e9)} with {swept.where(slowest)}",
                    value=slowest.seconds / best.seconds,
                )
            )
        made += _rate_tile(swept)
        if best.seen.peak_bytes is not None:
            made.append(
                Tile(
                    label="Peak memory of the fastest",
                    text=words.size(best.seen.peak_bytes),
                    note=""
                    if best.capacity_bytes is None
                    else f"of {words.size(best.capacity_bytes)}",
                    value=best.seen.peak_bytes,
                    figure="points.0.peak_memory_bytes",
                )
            )
        if any(p.seen.fits is not None for p in swept.done):
            unfit = len(swept.unfit)
            made.append(
                Tile(label="Do not fit", text=f"{unfit:,}", value=unfit, figure="do_not_fit")
            )
    if results.failed:
        failed = len(results.failed)
        made.append(
            Tile(
                label="Failed",
                text=f"{failed:,}",
                note="listed below with their messages",
                value=failed,
                figure="failed",
            )
        )
    return made


def _rate_tile(swept: Swept) -> list[Tile]:
    """The most sequences a second, where that is another point than the fastest or not."""
    rated = [p for p in swept.counted if p.seen.sequences_per_s is not None]
    if not rated:
        return []
    most = max(rated, key=lambda p: (p.seen.sequences_per_s or 0.0, -p.seen.index))
    unit = "samples" if swept.is_run else "sequences"
    same = most is swept.ranked[0]
    position = swept.ranked.index(most)
    shown = position < sweep_tables.MAX_ROWS
    return [
        Tile(
            label="Highest throughput",
            text=f"{words.significant(most.seen.sequences_per_s)}{words.NBSP}{unit}/s",
            note="the fastest point" if same else swept.where(most),
            value=most.seen.sequences_per_s,
            figure=f"points.{position}.sequences_per_s" if shown else None,
        )
    ]


def effects_section(swept: Swept) -> Section:
    """What the varied fields do to the time: lines, a heat map, or each field's effect."""
    axes = swept.axes
    figures: tuple[Figure, ...]
    notes = "Points that do not fit in memory are crosses. " if swept.unfit else ""
    if len(axes) == 1:
        figures = _along_one(swept, axes[0])
        reading = f"Each dot is a simulated point. {notes}"
    elif len(axes) == 2 and len(axes[0].values) * len(axes[1].values) <= MAX_CELLS:
        figures = _over_two(swept, *axes)
        reading = (
            "A cell of the map is a point: the stronger its colour, the faster. Below, a line is "
            f"a value of one field. {notes}"
        )
    else:
        figures = _each(swept)
        reading = (
            "For each value of a field the fastest point that has it, all else chosen anew, and "
            "the median of all its points. The charts have one scale. "
            + ("Points that do not fit in memory are left out." if swept.unfit else "")
        )
    failed = len(swept.results.failed)
    if failed and len(axes) != 2:
        reading += f" {words.plural(failed, 'point')} failed and {'has' if failed == 1 else 'have'}"
        reading += " no time."
    return Section(
        name="effects",
        topic="What matters",
        claim=sweep_words.effect_claim(swept),
        reading=reading.strip(),
        figures=figures,
        tables=(sweep_tables.effect_table(swept),),
    )


def _along_one(swept: Swept, axis: Axis) -> tuple[Figure, ...]:
    against = f"against {axis.name} (simulated)"
    what = sweep_words.time_word(swept)
    unfit: Legend = (("r1", "dots: points"), ("r1", "crosses: points that do not fit"))
    legend = unfit if swept.unfit else ()
    first = f"{what.capitalize()} time {against}" if not swept.is_run else f"Whole run {against}"
    made = [
        Figure(
            name="time",
            title=first,
            data=charts_sweep.along(swept, axis, lambda p: p.seen.seconds, "s", 340),
            legend=legend,
        )
    ]
    if any(p.seen.sequences_per_s is not None for p in swept.done):
        unit = "samples/s" if swept.is_run else "sequences/s"
        chart = charts_sweep.along(swept, axis, lambda p: p.seen.sequences_per_s, unit)
        made.append(Figure(name="rate", title=f"Throughput {against}", data=chart, half=True))
    if any(p.seen.peak_bytes is not None for p in swept.done):
        chart = charts_sweep.along(
            swept,
            axis,
            lambda p: None if p.seen.peak_bytes is None else p.seen.peak_bytes / GIB,
            "GiB",
        )
        title = f"Memory of the fullest device {against}"
        made.append(Figure(name="memory", title=title, data=chart, half=True))
    return tuple(made)


def _over_two(swept: Swept, one: Axis, other: Axis) -> tuple[Figure, ...]:
    """The heat map, and lines along the field with more numbers."""
    x, series = one, other
    if (other.numbers is not None, len(other.values)) > (one.numbers is not None, len(one.values)):
        x, series = other, one
    chosen = charts_sweep.series_of(swept, series)
    legend = tuple(
        (f"r{position}", f"{series.name} {series.labels[place]}")
        for position, place in enumerate(chosen)
    )
    some = ""
    if len(chosen) < len(series.values):
        some = f", {len(chosen)} of {len(series.values)} values of {series.name}"
    marks: list[tuple[str, str]] = [("accent", "the stronger, the faster")]
    if swept.unfit and len(swept.counted) < len(swept.done):
        marks.append((charts_sweep.UNFIT, "cross: does not fit"))
    if swept.results.failed:
        marks.append(("grey", "cross: failed"))
    what = "Whole run" if swept.is_run else "Iteration time"
    return (
        Figure(
            name="heat",
            title=f"{what} over {x.name} and {series.name} (simulated)",
            data=charts_sweep.heat(swept, x, series),
            legend=tuple(mark for mark in marks if mark[0] != "accent"),
            note="The stronger the colour, the faster the point.",
        ),
        Figure(
            name="lines",
            title=f"{what} against {x.name}{some} (simulated)",
            data=charts_sweep.lines(swept, x, series),
            legend=legend,
        ),
    )


def _each(swept: Swept) -> tuple[Figure, ...]:
    shown = [effect for effect in swept.effects if effect.known][:MAX_EFFECTS]
    high = max(t for effect in shown for t in effect.median if t is not None)
    legend: Legend = (("r1", "best point"), ("line-muted", "median of its points"))
    return tuple(
        Figure(
            name=f"effect-{number}",
            title=f"With each value of {effect.axis.name} (simulated)",
            data=charts_sweep.main_effect(effect, high),
            legend=legend,
            half=True,
        )
        for number, effect in enumerate(shown)
    )


def best_section(swept: Swept) -> Section:
    """The best points, and whether they fit."""
    best = swept.ranked[0]
    second = swept.ranked[1:2]
    claim = "One point was simulated"
    if second:
        apart = second[0].seconds / best.seconds - 1
        claim = (
            f"The second best point takes {words.percent(apart)} longer than the best"
            if second[0].seen.fits is not False or best.seen.fits is False
            else "Only one of the points fits"
        )
    return Section(
        name="best",
        topic="Best points",
        claim=f"{claim}. {sweep_words.memory_claim(swept)}",
        reading="The fastest first, those that do not fit after all that do.",
        tables=(sweep_tables.best_table(swept),),
    )


def front_section(swept: Swept) -> Section:
    """Time against memory, and against cost where that says more."""
    drawn = charts_sweep.drawn(swept)
    known = [p for p in swept.done if p.seen.peak_bytes is not None]
    some = "" if len(drawn) == len(known) else f", {len(drawn):,} of {len(known):,} points"
    front = set(map(id, swept.front))
    unfit = any(p.seen.fits is False and id(p) not in front for p in drawn)
    beaten = any(p.seen.fits is not False and id(p) not in front for p in drawn)
    legend: list[tuple[str, str]] = [("r2", "on the front"), ("ring-predicted", "the fastest")]
    legend += [("grey", "beaten by one of the front")] * beaten
    legend += [(charts_sweep.UNFIT, "cross: does not fit")] * unfit
    figures = [
        Figure(
            name="front",
            title=f"Memory of the fullest device against time{some} (simulated)",
            data=charts_sweep.front(swept),
            legend=tuple(legend),
        )
    ]
    what = "time and memory"
    if swept.costs_differ:
        what = "time, memory and cost"
        figures.append(
            Figure(
                name="cost",
                title=f"Cost of training against time{some} (simulated)",
                data=charts_sweep.cost_front(swept),
                legend=tuple(legend),
            )
        )
    return Section(
        name="front",
        topic="Front",
        claim=sweep_words.front_claim(swept),
        reading=f"No point that fits beats one of the front in {what} at once. Point "
        "at one for what it is.",
        figures=tuple(figures),
    )


def failed_section(swept: Swept) -> Section:
    """The points that failed, with their messages."""
    return Section(
        name="failed",
        topic="Failed",
        claim=sweep_words.failed_claim(swept),
        reading="A point that breaks a rule of the scenario, or whose schedule deadlocks, is kept "
        "with its message; `pipetwin sweep` with --retry-failed tries it again.",
        tables=(sweep_tables.reasons_table(swept), sweep_tables.failed_table(swept)),
    )


def points_section(swept: Swept) -> Section:
    """Every point."""
    count = len(swept.done)
    return Section(
        name="points",
        topic="All points",
        claim=f"{words.plural(count, 'point')} {'was' if count == 1 else 'were'} simulated",
        reading="With the exact figures of the results; the page's JSON has the same.",
        tables=(sweep_tables.all_table(swept),),
        lists=_listed("Not in the table", sweep_tables.cut_note(swept)),
    )


def file_section(swept: Swept, command: str) -> Section:
    """Which file this is of, how complete it is, and the command."""
    results = swept.results
    notes = (*sweep_words.progress_notes(swept), NOT_MODELLED)
    count = len(results.points)
    claim = f"{results.path.name} holds {words.plural(count, 'point')}"
    if results.num_missing:
        claim += f" of {results.num_asked:,} asked for"
    return Section(
        name="file",
        topic="Results",
        claim=claim,
        reading="A line of JSON for each point; the figures on this page are theirs.",
        lists=_listed("About them", notes),
        code=command,
    )


def _listed(heading: str, items: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return ((heading, tuple(items)),) if items else ()
