"""render_elastic: a run of epochs whose pipeline changes, as one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reports import elastic_measured, elastic_tables, elastic_words, words
from reports.pages import charts_elastic, gantt
from reports.pages.assumptions import assumptions_section
from reports.pages.charts import MEMORY_FAMILIES
from reports.pages.page import fill
from reports.pages.sections import (
    Figure,
    Legend,
    Section,
    Tile,
    legend_of,
    scenario_section,
    window_note,
)
from reports.pages.sections_elastic import measured_section, measured_tiles
from scenarios.loader import Loaded
from sim.elastic_comparison import ElasticComparison
from sim.elastic_comparison import summary as compared
from sim.elastic_measurement import ElasticMeasurement
from sim.elastic_run import AblationRow, ElasticPrediction, PhasePrediction, summary
from sim.prediction import fits
from sim.prediction import summary as iteration_summary

NOT_MODELLED = (
    "Elastic runs: what the first iterations after a change of the pipeline take longer (memory "
    "allocated anew, caches cold), and checkpoints; with adaptive freezing, which layers gradient "
    "norms would leave unfrozen.",
)


def render_elastic(
    found: ElasticPrediction,
    rows: Sequence[AblationRow],
    *,
    loaded: Loaded | None,
    comparison: ElasticComparison | None = None,
    command: str = "",
) -> str:
    """Render a predicted elastic run as HTML text (see reports.pages.page).

    rows: the run with fewer mechanisms, the whole one last; none where they were not simulated.
    loaded: the scenario with the origin of its values; None where they are not on record.
    comparison: the run and its variants as they were executed; `found` is the first's prediction.
    command: what the user typed, for reproducing it.
    """
    figures, rows = summary(found, rows), elastic_words.with_own(found, rows)
    first = found.phases[0].prediction
    whole = replace(first, scenario=found.scenario)
    measured = comparison.cases[0].measurement if comparison is not None else None
    sections = (
        *((measured_section(comparison),) if comparison is not None else ()),
        *((epochs_section(found, rows),) if comparison is None else ()),
        pipeline_section(found, measured),
        *((gains_section(found, rows),) if rows else ()),
        iterations_section(found),
        memory_section(found),
        scenario_section(whole, loaded),
        assumptions_section(whole, iteration_summary(first), command, NOT_MODELLED),
    )
    return fill(
        title=f"{found.scenario.name}: {words.subject(found.scenario)}",
        name=found.scenario.name,
        description=found.scenario.description,
        fits=all_fit(found),
        verdict=(
            elastic_words.verdict(found, rows)
            if comparison is None
            else elastic_measured.verdict(comparison)
        )
        + ".",
        tiles=measured_tiles(comparison) if comparison is not None else tiles(found, rows),
        sections=sections,
        summary=figures if comparison is None else compared(comparison),
    )


def all_fit(found: ElasticPrediction) -> bool | None:
    """Whether every phase fits in memory; None where that is unknown."""
    known = [fits(own.prediction) for own in found.phases]
    return None if None in known else all(known)


def tiles(found: ElasticPrediction, rows: Sequence[AblationRow]) -> list[Tile]:
    """The figures at the head of the page."""
    total = found.total_ns / 1e9
    first, last = found.epochs[0], found.epochs[-1]
    moving = found.transition_ns / 1e9
    made = [
        Tile(
            label="Whole run",
            text=elastic_words.long_duration(total),
            note=f"{words.plural(len(found.epochs), 'epoch')}",
            value=total,
            figure="total_s",
        )
    ]
    if rows:
        gain = elastic_words.speedup(found, rows)
        made.append(
            Tile(
                label="Speed-up",
                text=f"{gain:.2f}×",
                note=f"over {rows[0].name}",
                value=gain,
            )
        )
    made += [
        Tile(
            label=f"Throughput, {when} epoch",
            text=elastic_words.rate(epoch.samples_per_s),
            note=f"{epoch.frozen_layers} layers frozen, {epoch.cached_layers} read from the cache",
            value=epoch.samples_per_s,
        )
        for when, epoch in (("first", first), ("last", last))
    ]
    made.append(
        Tile(
            label="Pipeline × replicas, at the end",
            text=f"{last.pipeline} × {last.data}",
            note=f"{first.pipeline} × {first.data} at the start",
        )
    )
    made.append(
        Tile(
            label="Transitions",
            text=elastic_words.long_duration(moving),
            note=f"{len(found.transitions)} of them, {words.percent(moving / total)} of the run",
            value=moving,
        )
    )
    return made


def epochs_section(found: ElasticPrediction, rows: Sequence[AblationRow]) -> Section:
    """Throughput by epoch, and what an epoch takes."""
    own = elastic_words.own_row(found.scenario, rows)
    legend: Legend = tuple((f"r{i}", row.name) for i, row in enumerate(rows) if row is not own)
    return Section(
        name="epochs",
        topic="Throughput",
        claim=elastic_words.growth(found),
        reading="Epochs count from 0. The thick line is this run, the others are the same run with "
        "other mechanisms. An epoch's throughput leaves the transition before it out.",
        figures=(
            Figure(
                name="throughput",
                title="Samples a second in each epoch (simulated)",
                data=charts_elastic.throughput(found, rows),
                legend=(*legend, ("predicted", own.name if own else "this run")),
            ),
        ),
        tables=(elastic_tables.epochs_table(found),),
    )


def pipeline_section(
    found: ElasticPrediction, measured: ElasticMeasurement | None = None
) -> Section:
    """Ranks over time, layers by epoch, epochs' times, and the phases."""
    model = found.scenario.model
    assert model is not None
    moved = bool(found.transitions)
    origin = "simulated and measured" if measured is not None else "simulated"
    return Section(
        name="pipeline",
        topic="Pipeline",
        claim=elastic_words.shrinking(found),
        reading="Epochs in which nothing changes are one phase. Frozen layers run forward only, or "
        "are read from the cache; as the rest fits on fewer ranks the pipeline is halved, and the "
        "ranks so freed become replicas. Grey bands are transitions.",
        figures=(
            Figure(
                name="ranks",
                title=f"Ranks in a pipeline, and replicas, over the run's time ({origin})",
                data=charts_elastic.ranks_over_time(found, measured),
                legend=(
                    (charts_elastic.RANKS["pipeline"], "ranks in a pipeline"),
                    (charts_elastic.RANKS["data"], "replicas"),
                    *(((charts_elastic.CHANGE, "transition"),) if moved else ()),
                    *((("line-muted", "dotted: measured"),) if measured else ()),
                ),
            ),
            Figure(
                name="layers",
                title="Layers of each epoch",
                data=charts_elastic.layers_by_epoch(found, model.layers),
                half=True,
                legend=_layers_legend(found),
            ),
            Figure(
                name="epoch-times",
                title=f"Time of each epoch ({origin})",
                data=charts_elastic.epoch_times(found, measured),
                half=True,
                legend=(
                    ("predicted", "training"),
                    *(((charts_elastic.CHANGE, "transition before it"),) if moved else ()),
                    *((("measured", "training, measured"),) if measured else ()),
                ),
            ),
        ),
        tables=(
            elastic_tables.phases_table(found),
            *((elastic_tables.transitions_table(found),) if moved else ()),
        ),
        lists=(("What to know of it", tuple(elastic_words.notes(found))),)
        if elastic_words.notes(found)
        else (),
    )


def _layers_legend(found: ElasticPrediction) -> Legend:
    legend = [(charts_elastic.LAYERS["trained"], "trained")]
    if any(e.frozen_layers > e.cached_layers for e in found.epochs):
        legend.append((charts_elastic.LAYERS["frozen"], "frozen, forward only"))
    if any(e.cached_layers for e in found.epochs):
        legend.append((charts_elastic.LAYERS["cached"], "read from the cache"))
    if any(own.phase.fills_cache for own in found.phases):
        legend.append(("communication", "▾ fills the cache"))
    return tuple(legend)


def gains_section(found: ElasticPrediction, rows: Sequence[AblationRow]) -> Section:
    """What each mechanism brings."""
    return Section(
        name="gains",
        topic="Speed-up",
        claim=gains_claim(rows),
        reading="Each bar is the whole run, transitions included, with some of the mechanisms: how "
        "many times as fast as without freezing.",
        figures=(
            Figure(
                name="speedups",
                title="Speed-up of the whole run (simulated)",
                data=charts_elastic.speedups(found, rows),
            ),
        ),
        tables=(elastic_tables.ablation_table(rows),),
        lists=(("What each contributes", tuple(elastic_words.brought(rows))),),
    )


def gains_claim(rows: Sequence[AblationRow]) -> str:
    """Which sets of mechanisms bring most and least."""
    best = max(rows[1:], key=lambda row: row.speedup)
    least = min(rows[1:], key=lambda row: row.speedup)
    text = f"{_capital(best.name)}: {best.speedup:.2f} times as fast as {rows[0].name}"
    if least is best:
        return text
    return f"{text}; {least.name}: {least.speedup:.2f} times"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def iterations_section(found: ElasticPrediction) -> Section:
    """One iteration of every phase, one above the other."""
    shown = distinct(found)
    tracks = [
        (
            f"epochs {elastic_words.epochs(own.phase)}"
            if own.phase.epochs > 1
            else f"epoch {elastic_words.epochs(own.phase)}",
            _title(own),
            gantt.Track(own.prediction.timeline, own.prediction.program, None),
        )
        for own in shown
    ]
    data = gantt.phases_data(tracks)
    kept = shown[: data["num_tracks"]]
    used = sorted({gantt.style_of(s) for own in kept for s in own.prediction.timeline.spans})
    left = len(shown) - len(kept)
    first, last = found.phases[0], found.phases[-1]
    note = [window_note(data)]
    if left:
        note.append(f"The page leaves out {words.plural(left, 'later phase')}, to stay small.")
    return Section(
        name="iterations",
        topic="Iterations",
        claim=f"An iteration takes {words.duration(first.iteration_ns)} in the first phase, and "
        f"{words.duration(last.iteration_ns)} in the last"
        if len(found.phases) > 1
        else f"An iteration takes {words.duration(first.iteration_ns)}",
        reading="One pipeline of each phase, a row a rank, all on one scale; a button shows one "
        "phase alone. A block is a pass with its microbatch's number, hatching is time in "
        "which the rank waits. Point at a block for what it waited for, drag to zoom.",
        figures=(
            Figure(
                name="iterations",
                title="One iteration of each phase (simulated)",
                data=data,
                kind="timeline",
                legend=legend_of(data, used),
                note=" ".join(n for n in note if n),
            ),
        ),
    )


def distinct(found: ElasticPrediction) -> list[PhasePrediction]:
    """The phases whose iterations differ."""
    seen, kept = set(), []
    for own in found.phases:
        key = (own.phase.layout, own.phase.cached_layers, own.phase.fills_cache)
        if key not in seen:
            seen.add(key)
            kept.append(own)
    return kept


def _title(own: PhasePrediction) -> str:
    phase = own.phase
    parts = [
        f"from epoch {phase.first_epoch}",
        f"{elastic_words.shape(phase)} ranks".replace(" x ", " × "),
        f"{phase.frozen_layers} frozen",
        elastic_words.cache(phase),
    ]
    return ", ".join(part for part in parts if part)


def memory_section(found: ElasticPrediction) -> Section:
    """The highest peak of every phase."""
    cluster = found.scenario.cluster
    capacity = cluster.device.memory if cluster is not None else None
    if not all(own.prediction.memory for own in found.phases):
        return Section(
            name="memory",
            topic="Memory",
            claim="Memory is unknown: the scenario has no model",
            reading="",
        )
    chart = charts_elastic.memory_by_phase(found, capacity)
    peaks = [max(c.peak_bytes for c in own.prediction.memory or ()) for own in found.phases]
    high = max(range(len(peaks)), key=peaks.__getitem__)
    claim = (
        f"The highest peak is {words.size(peaks[high])}, in epoch "
        f"{found.phases[high].phase.first_epoch}"
    )
    if capacity is not None:
        claim += f", {words.percent(peaks[high] / capacity)} of {words.size(capacity)}"
    names = {text: MEMORY_FAMILIES.get(kind, "grey") for kind, text in words.MEMORY_NAMES.items()}
    return Section(
        name="memory",
        topic="Memory",
        claim=claim,
        reading="Of each phase the rank that holds most. A pipeline is halved only where its "
        "stages then fit the device, or need no more than at the start.",
        figures=(
            Figure(
                name="memory-phases",
                title="What the fullest rank of each phase holds at its peak (simulated)",
                data=chart,
                legend=tuple(
                    (names.get(trace["name"], "grey"), trace["name"]) for trace in chart["data"]
                ),
            ),
        ),
    )
