"""Sections of the report: a claim, its charts, its tables, and how to read them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reports import tables, words
from reports.pages import charts, gantt
from reports.tables import Summary, Table
from scenarios.errors import Origin
from scenarios.loader import Loaded
from scenarios.schema import Plan
from sim.prediction import Prediction
from sim.variants import slicing_text

Legend = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A chart: its data as JSON values, drawn by plotly or as a timeline.

    legend: (colour, text) of each entry.
    half: whether it takes half of a wide page's width.
    """

    name: str
    title: str
    data: dict[str, Any]
    kind: Literal["plot", "timeline"] = "plot"
    legend: Legend = ()
    note: str = ""
    half: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A figure at the head of the page, simulated or measured or computed from such."""

    label: str
    text: str
    note: str = ""
    origin: Literal["simulated", "measured"] = "simulated"
    value: float | None = None
    figure: str | None = None

    @property
    def number(self) -> str:
        """The text without its unit."""
        return self.text.partition(words.NBSP)[0]

    @property
    def unit(self) -> str:
        """The unit at the text's end; empty where it has none."""
        return self.text.partition(words.NBSP)[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page: `claim` is its heading, `reading` one sentence on how to read it."""

    name: str
    topic: str
    claim: str
    reading: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    lists: tuple[tuple[str, tuple[str, ...]], ...] = ()
    code: str = ""


_PAGE_OPTIONS = {"--report", "--what-if", "--json", "--force"}
_LANES: Mapping[str, str] = {
    "forward": "forward",
    "backward": "backward",
    "weight": "weight gradients",
    "optimizer": "optimizer step",
    "messages": "message handling",
    "communication": "reductions; thin: messages on their way",
    "bubble": "waiting",
}


def legend_of(data: Mapping[str, Any], timeline_styles: Sequence[int]) -> Legend:
    """The colours a timeline uses, bubble last."""
    used = {data["styles"][style] for style in timeline_styles}
    if "transfer" in used:
        used.add("communication")
    return tuple((name, text) for name, text in _LANES.items() if name in used | {"bubble"})


def timeline_section(prediction: Prediction, trace: str = "", command: str = "") -> Section:
    """The timeline of every rank.

    trace: the file that has all of it; where there is none, the one that `command`, what the user
    typed, would write is told.
    """
    timeline = prediction.timeline
    data = gantt.timeline_data(timeline, prediction.program, gantt.cut_of(prediction.scenario))
    used = sorted({gantt.style_of(span) for span in timeline.spans})
    return Section(
        name="timeline",
        topic="Timeline",
        claim=words.timeline_claim(prediction),
        reading=f"A row is a rank, a block a pass with {_numbered(prediction)}, a thin line below "
        "it a message on its way to that rank; hatching is time in which the rank waits. Point at "
        "a block for what it waited for, drag to zoom, double-click for the whole.",
        figures=(
            Figure(
                name="timeline",
                title="What every rank does when (simulated)",
                data=data,
                kind="timeline",
                legend=legend_of(data, used),
                note=" ".join(
                    [_long_note(prediction, data, trace, command), _draw_note(prediction)]
                ).strip(),
            ),
        ),
        tables=(),
    )


def _numbered(prediction: Prediction) -> str:
    """What the numbers on the blocks of a timeline count."""
    schedule = prediction.program.schedule
    if schedule.num_slices == 1:
        return "its microbatch's number"
    if schedule.num_microbatches == 1:
        return "its slice's number"
    return "the numbers of its microbatch and, after a point, its slice"


def _draw_note(prediction: Prediction) -> str:
    """Why the timeline is not as long as the prediction, where that is a median over draws."""
    if prediction.spread_ns is None:
        return ""
    return (
        "Drawn with the median of every action, "
        f"{words.duration(prediction.figures.iteration_ns)}; the prediction of "
        f"{words.duration(prediction.iteration_ns)} is the median over draws from the measured "
        "spread, in which a pipeline waits for its slower side."
    )


def _long_note(prediction: Prediction, data: Mapping[str, Any], trace: str, command: str) -> str:
    """What of a long timeline is on the page, and where all of it is; empty where that is here."""
    if data["overview"] is None:
        return ""
    if trace:
        return f"{window_note(data)} All of them are in {trace}, for ui.perfetto.dev."
    written = trace_command(prediction.scenario.name, command)
    return f"{window_note(data)} “{written}” writes all of them, for ui.perfetto.dev."


def trace_command(name: str, command: str) -> str:
    """The command that writes a scenario's timeline: what the user typed, without the page."""
    tokens = shlex.split(command)
    if tokens[:2] != ["pipetwin", "simulate"]:
        tokens = ["pipetwin", "simulate", name]
    kept, skip = [], False
    for token in tokens:
        dropped = skip or token in _PAGE_OPTIONS or token.startswith("--report=")
        skip = token == "--report"
        kept += [] if dropped else [token]
    return shlex.join([*kept, "--trace", "trace.json.gz"])


def window_note(data: Mapping[str, Any]) -> str:
    """What of a long timeline is on the page; empty where all of it is."""
    if data["overview"] is None:
        return ""
    return (
        f"The timeline has {data['num_spans']:,} spans; the page holds the {data['num_kept']:,} of "
        "three windows, and for the whole iteration the share of each kind in each "
        f"{gantt.OVERVIEW_BINS}th of it, as the height of its colour."
    )


def breakdown_section(prediction: Prediction, summary: Summary) -> Section:
    """Where the time goes, per rank, in all and on the critical path."""
    parts = {name for rank in charts.rank_parts(prediction) for name in rank}
    legend = tuple((name, text) for name, text in charts.RANK_PARTS.items() if name in parts)
    return Section(
        name="breakdown",
        topic="Where the time goes",
        claim=words.breakdown_claim(prediction),
        reading="Every nanosecond of every rank is counted once, so each column and each table of "
        "shares sums to 100 %. The columns keep a pass whole, the collectives inside it included; "
        "the shares tell them apart. The critical path is the chain of actions, each started by "
        "the one before, whose length is the iteration time: only shortening what is on it helps.",
        figures=(
            Figure(
                name="by-rank",
                title="The iteration of every rank (simulated)",
                data=charts.breakdown_by_rank(prediction),
                legend=legend,
            ),
            Figure(
                name="by-category",
                title="All rank-time by what it is spent on (simulated)",
                data=charts.breakdown_by_category(prediction),
                half=True,
            ),
            Figure(
                name="critical-path",
                title="The critical path by kind of action (simulated)",
                data=charts.critical_path(tables.path_seconds(summary)),
                half=True,
            ),
        ),
        tables=(
            tables.breakdown_table(summary),
            tables.path_table(summary),
            tables.rank_table(summary),
        ),
    )


def memory_section(prediction: Prediction, summary: Summary, fit: bool | None) -> Section:
    """Memory over time and at its peak, against the capacity."""
    curves = prediction.memory
    topic = "Memory"
    if not curves:
        claim = "Memory is unknown: the scenario gives times outright, and no size of activations"
        return Section(name="memory", topic=topic, claim=claim, reading="")
    capacity = summary["memory_capacity_bytes"]
    if fit is not None:
        claim = words.memory_claim(prediction, fit)
    else:
        peak = max(curve.peak_bytes for curve in curves)
        claim = f"The highest peak is {words.size(peak)}; there is no cluster to compare it with"
    chosen = charts.memory_ranks(curves)
    some = "" if len(chosen) == len(curves) else f", {len(chosen)} of {len(curves)} ranks"
    peaks = charts.memory_peaks(curves, capacity)
    kinds = {k for curve in curves for k in tables.memory_parts(curve)}
    names = {
        t: charts.MEMORY_FAMILIES.get(k, "grey")
        for k, t in words.MEMORY_NAMES.items()
        if k in kinds
    }
    return Section(
        name="memory",
        topic=topic,
        claim=claim,
        reading="A curve rises as forward passes leave activations behind and falls as backward "
        f"passes free them; {_kept(prediction)}a plan fits where every rank's peak stays below the "
        "dashed line.",
        figures=(
            Figure(
                name="memory-over-time",
                title=f"Memory held over the iteration{some} (simulated)",
                data=charts.memory_curves(curves, prediction.timeline.iteration_ns, capacity),
                legend=tuple((f"r{i}", f"rank {rank}") for i, rank in enumerate(chosen)),
                half=True,
            ),
            Figure(
                name="memory-peaks",
                title="What each rank holds at its peak (simulated)",
                data=peaks,
                half=True,
                legend=tuple(
                    (names.get(trace["name"], "grey"), trace["name"]) for trace in peaks["data"]
                ),
            ),
        ),
        tables=(tables.memory_table(prediction, summary),),
    )


def _kept(prediction: Prediction) -> str:
    """What slices keep longer than their own passes; empty without any."""
    if prediction.program.schedule.num_slices == 1:
        return ""
    return "a slice's keys and values stay until the backward pass of its sequence's first slice; "


def scenario_section(prediction: Prediction, loaded: Loaded | None) -> Section:
    """Every value of the scenario with its source."""
    origins: Mapping[str, Origin] | None = loaded.origins if loaded is not None else None
    table = tables.scenario_table(prediction.scenario, origins)
    found = [row[2].text for row in table.rows]
    defaults = found.count("default")
    override = sum(text.startswith("--set") for text in found)
    if origins is None:
        claim = f"The scenario has {len(found)} values, whose sources are not on record"
    else:
        written = len(found) - defaults - override
        claim = (
            f"Of the scenario's {len(found)} values, {written} come from files, "
            f"{override} from the command line, and {defaults} are defaults"
        )
    plan = prediction.scenario.plan
    is_sliced = prediction.program.schedule.num_slices > 1
    resolved: tuple[str, ...] = (
        f"{words.plural(plan.num_devices, 'device')}: tensor {plan.tensor} × pipeline "
        f"{plan.pipeline} × data {plan.data}",
        f"{words.plural(plan.num_sequences, 'sequence')} an iteration: "
        f"{_microbatches(plan)} in each of {words.plural(plan.data, 'pipeline')}",
    )
    if is_sliced and prediction.scenario.model is not None:
        resolved = (*resolved, f"Token slices: {slicing_text(prediction.scenario)}")
    if plan.frozen_layers:
        resolved = (*resolved, _frozen(plan))
    return Section(
        name="scenario",
        topic="Scenario",
        claim=claim,
        reading="Each value is what the simulation used; the last column says which line of which "
        "file, or which option, wrote it, and “default” that nothing did.",
        tables=(table,),
        lists=(("What follows from it", resolved),),
    )


def _frozen(plan: Plan) -> str:
    """What becomes of the frozen layers."""
    text = f"{words.plural(plan.frozen_layers, 'layer')} frozen: forward passes alone"
    if plan.cached_layers:
        text += f"; the output of the first {plan.cached_layers} is read from a cache"
    if plan.fills_cache:
        text += f"; that of layer {plan.frozen_layers - 1} is written to a cache"
    if plan.frozen_first:
        text += "; they run over the whole batch before the pipeline does"
    return text


def _microbatches(plan: Plan) -> str:
    """A pipeline's microbatches: how many of which size, in runs of equal ones."""
    return ", ".join(
        f"{words.plural(group.microbatches, 'microbatch', 'microbatches')} of {group.micro_batch}"
        for group in plan.groups
    )
