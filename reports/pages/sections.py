"""Sections of the report: a claim, its charts, its tables, and how to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reports import tables, words
from reports.pages import charts, gantt
from reports.tables import Summary, Table
from reports.training_words import between
from reports.training_words import days as days_text
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


_LANES: Mapping[str, str] = {
    "forward": "forward",
    "backward": "backward",
    "weight": "weight gradients",
    "optimizer": "optimizer step",
    "messages": "message handling",
    "communication": "reductions; thin: messages on their way",
    "bubble": "waiting",
}


def tiles(prediction: Prediction, summary: Summary, measured_ns: int | None) -> list[Tile]:
    """The figures at the head of the page; those that are unknown are left out."""
    scenario = prediction.scenario
    gpu = "device" if scenario.cluster is None or scenario.cluster.device.kind == "cpu" else "GPU"
    note = ""
    if prediction.spread_ns is not None:
        low, _, high = prediction.spread_ns
        note = f"half of all draws: {words.duration(low)} to {words.duration(high)}"
    elif summary["sequences_per_s"] is not None:
        note = f"{words.significant(summary['sequences_per_s'])} sequences a second"
    iteration = summary["iteration_s"]
    found = [
        _tile(
            "Iteration time",
            words.duration(prediction.iteration_ns),
            note,
            iteration,
            "iteration_s",
        )
    ]
    if measured_ns is not None:
        off = prediction.iteration_ns / measured_ns - 1
        side = "above" if off >= 0 else "below"
        found.append(
            Tile(
                label="Iteration time",
                text=words.duration(measured_ns),
                note=f"the prediction is {words.percent(abs(off))} {side}",
                origin="measured",
                value=measured_ns / 1e9,
            )
        )

    def add(label: str, key: str, shown: str, about: str = "") -> None:
        if summary[key] is not None:
            found.append(_tile(label, shown, about, summary[key], key))

    for label, key in (("Model", "model_tflops_per_gpu"), ("Hardware", "hardware_tflops_per_gpu")):
        about = "with recomputation" if label == "Hardware" else ""
        add(f"{label} throughput per {gpu}", key, words.tflops(summary[key]), about)
    add("Model FLOPs utilisation", "mfu", words.percent(summary["mfu"]), _hfu(summary))
    ideal = f"{words.percent(summary['bubble_over_ideal'])} of ideal time on the busiest rank"
    add("Pipeline bubble", "bubble_fraction", words.percent(summary["bubble_fraction"]), ideal)
    exposed = summary["exposed_communication_fraction"]
    key = "exposed_communication_fraction"
    about = "in collectives that nothing hides, or waiting on transfers under way"
    add("Exposed communication", key, words.percent(exposed), about)
    if summary["memory_capacity_bytes"] is not None and prediction.memory:
        rank, peak, capacity = words.tightest(prediction)
        about = f"of {words.size(capacity)}, on rank {rank}"
        key = f"ranks.{rank}.peak_memory_bytes"
        found.append(_tile("Peak memory", words.size(peak), about, peak, key))
    add(
        "Throughput",
        "tokens_per_s",
        f"{words.significant(summary['tokens_per_s'])}{words.NBSP}tokens/s",
    )
    plain = prediction.training is None or prediction.training.is_plain
    hours = f"{words.count(summary['training_gpu_hours'])} {gpu} hours"
    days = f"{words.significant(summary['training_days'], 3)}{words.NBSP}days"
    found += _expected_tiles(prediction)
    add("Whole training run" if plain else "Without failures", "training_days", days, hours)
    if scenario.cluster is not None and scenario.cluster.price_per_device_hour is not None:
        about = f"at ${scenario.cluster.price_per_device_hour:.2f} per {gpu} hour"
        about += "" if plain else ", without failures"
        key = "training_cost_dollars"
        add("Cost of training", key, words.dollars(summary[key]), about)
    return found


def _expected_tiles(prediction: Prediction) -> list[Tile]:
    """Days and money of the training run with what may happen to it, where something may."""
    run = prediction.training
    if run is None or run.is_plain or run.expected_days is None:
        return []
    days, note = run.expected_days, f"{words.percent(run.goodput)} of it training as predicted"
    if run.days is not None:
        note = f"90{words.NBSP}% of runs: {between(run.days.low, run.days.high)}"
    found = [_tile("Whole training run", days_text(days), note, days, "training.expected_days")]
    if run.dollars_a_day is not None:
        cost = days * run.dollars_a_day
        note = f"{words.count(days * run.hours_a_day)} device hours"
        key = "training.expected_dollars"
        found.append(_tile("Expected cost of training", words.dollars(cost), note, cost, key))
    return found


def _tile(label: str, shown: str, note: str, value: float | None, figure: str) -> Tile:
    return Tile(label=label, text=shown, note=note, value=value, figure=figure)


def _hfu(summary: Summary) -> str:
    return f"{words.percent(summary['hfu'])} with recomputation (HFU)" if summary["hfu"] else ""


def legend_of(data: Mapping[str, Any], timeline_styles: Sequence[int]) -> Legend:
    """The colours a timeline uses, bubble last."""
    used = {data["styles"][style] for style in timeline_styles}
    if "transfer" in used:
        used.add("communication")
    return tuple((name, text) for name, text in _LANES.items() if name in used | {"bubble"})


def timeline_section(prediction: Prediction) -> Section:
    """The timeline of every rank."""
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
                note=" ".join([window_note(data), _draw_note(prediction)]).strip(),
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
