"""Calibration from executed runs: measured timelines -> a profile that predicts other runs.

From runs of one width and precision in different depths, microbatch counts, schedules and token
slices: for every shape of a pass (its microbatch's sequences, its tokens, those before it) its time
is split into a fixed part, a part per layer, and those of embedding and head.

Of frozen layers the forward pass counts, and neither backward pass nor optimizer; of cached ones
nothing. Their forward pass, which keeps nothing for a backward one, is taken to cost what any other
does: on a CPU it was 1 to 3 % quicker (layers of 64 to 384 wide).
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from scenarios.schema import PRECISION_BYTES, Scenario
from sim.cost.profile import MessageTime, Profile
from sim.cost.shapes import Part, PartTime, Pass, Shape, shape_of, shapes_of
from sim.measurement import Measurement
from sim.schedule.actions import RECEIVES, SENDS, Kind
from sim.schedule.build import build_schedule
from sim.timeline.spans import Span
from sim.workload.parameters import token_table_parameters
from sim.workload.partition import StagePart, partition, pieces

PASSES: Mapping[Kind, Pass] = {
    Kind.FORWARD: "forward",
    Kind.BACKWARD: "backward",
    Kind.BACKWARD_INPUT: "backward_input",
    Kind.BACKWARD_WEIGHT: "backward_weight",
    Kind.OPTIMIZER: "optimizer",
}
_MAX_RATIOS = 4000


class CalibrationError(ValueError):
    """The runs given do not determine a profile; the message says what is missing."""


class Makeup(NamedTuple):
    """What a pass consists of: how many layers, whether embedding, whether head."""

    num_layers: int
    embedding: bool
    head: bool


_NOTHING = Makeup(0, False, False)


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured pass."""

    shape: Shape
    pass_: Pass
    makeup: Makeup
    duration_ns: int


def calibrate_from_runs(measurements: Sequence[Measurement]) -> Profile:
    """Fit a profile to measured runs.

    Weighted by 1/t (so that the error is relative), non-negative; what the runs cannot tell apart
    (every stage has the same number of layers, say) is shared so that their own times are met.
    Raises CalibrationError where there is no run, or the runs are of different devices.
    """
    if not measurements:
        raise CalibrationError("there is no run to calibrate from: give at least one measured.json")
    devices = {_device(m) for m in measurements}
    if len(devices) > 1:
        raise CalibrationError(
            f"the runs are of different devices ({', '.join(sorted(devices))}): "
            "a profile is of one device, so calibrate each by itself"
        )
    times, ratios = fit_parts([s for m in measurements for s in _samples(m)])
    first = measurements[0].environment
    return Profile(
        device=devices.pop(),
        provenance="calibrated from "
        + ", ".join(f"{m.scenario.name} ({len(m.judged)} iterations)" for m in measurements),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        software={str(k): str(v) for k, v in _mapping(first.get("software")).items()},
        host=str(first.get("host", "")),
        times=times,
        post=_message_time(measurements, SENDS, "compute"),
        unpack=_message_time(measurements, RECEIVES, "compute"),
        transfer=_message_time(measurements, RECEIVES, "transfer"),
        all_reduce=_reduction_time(measurements),
        ratios=thin(ratios),
        raw=tuple(_raw(m) for m in measurements),
    )


def fit_parts(
    samples: Sequence[Sample],
) -> tuple[dict[Shape, dict[tuple[Part, Pass], PartTime]], list[float]]:
    """Per shape the time of every (part, pass), and measured over fitted time of every pass."""
    groups: dict[tuple[Shape, Pass], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.shape, sample.pass_].append(sample)
    times: dict[Shape, dict[tuple[Part, Pass], PartTime]] = defaultdict(dict)
    ratios: list[float] = []
    for (shape, pass_), group in groups.items():
        parts, group_ratios = _fit(group)
        for part, time in parts.items():
            times[shape][part, pass_] = time
        if pass_ != "optimizer":
            ratios += group_ratios
    return dict(times), ratios


def _device(measurement: Measurement) -> str:
    cluster = measurement.scenario.cluster
    return cluster.device.name if cluster is not None else "unknown"


def _mapping(value: object) -> Mapping[object, object]:
    return value if isinstance(value, Mapping) else {}


def _samples(measurement: Measurement) -> list[Sample]:
    """Every pass in its own slice's shape; the optimizer, which knows no slices, in the whole
    sequence's."""
    scenario = measurement.scenario
    whole, shapes = shape_of(scenario), shapes_of(scenario)
    schedule = build_schedule(scenario)
    parts = partition(scenario, schedule.num_stages)
    found = []
    for timeline in measurement.judged:
        for span in timeline.spans:
            pass_ = PASSES.get(span.action.kind)
            if pass_ is None or span.lane != "compute":
                continue
            if span.action.kind is Kind.OPTIMIZER:
                shape = whole
                makeup = makeup_of(pass_, [parts[s] for s in schedule.stages_of(span.rank)])
            else:
                shape = shapes[span.action.microbatch or 0][span.action.slice_index]
                makeup = makeup_of(pass_, [parts[span.action.stage]])
            # A step over nothing, or a pass that hands a cached input on, tells of no part.
            if makeup != _NOTHING:
                found.append(Sample(shape, pass_, makeup, span.duration_ns))
    return found


def makeup_of(pass_: Pass, parts: Sequence[StagePart]) -> Makeup:
    """What a pass over stages works on: forward all but what is cached, else what is trained."""
    head = any(p.head for p in parts)
    if pass_ == "forward":
        computed = any(p.computes_embedding for p in parts)
        return Makeup(sum(p.num_computed for p in parts), computed, head)
    trained = any(p.trains_embedding for p in parts)
    return Makeup(sum(p.num_active for p in parts), trained, head)


def _fit(samples: Sequence[Sample]) -> tuple[dict[Part, PartTime], list[float]]:
    """The times of the parts, and every sample's measured over fitted time."""
    from scipy.optimize import nnls

    by_makeup: dict[Makeup, list[int]] = defaultdict(list)
    for sample in samples:
        by_makeup[sample.makeup].append(sample.duration_ns)
    makeups = sorted(by_makeup)
    # The layer first: where every stage has one, nothing else tells it from the fixed part, and of
    # columns that are equal the fit takes the first.
    columns: list[Part] = ["layer", "action"]
    if any(m.embedding for m in makeups):
        columns.append("embedding")
    if any(m.head for m in makeups):
        columns.append("head")
    design = np.array([[_count(m, part) for part in columns] for m in makeups], dtype=float)

    def solve(pick: float) -> np.ndarray:
        times = np.array([np.quantile(by_makeup[m], pick) for m in makeups])
        weights = np.array([len(by_makeup[m]) for m in makeups]) ** 0.5 / times
        # A weak pull of the fixed part to zero decides what the runs leave open.
        pull = np.zeros((1, len(columns)))
        pull[0, 1] = 1e-3 / times.mean()
        rows = np.vstack([design * weights[:, None], pull])
        solution, _ = nnls(rows, np.append(times * weights, 0.0))
        return np.asarray(solution)

    middle, low, high = solve(0.5), solve(0.25), solve(0.75)
    parts: dict[Part, PartTime] = {}
    for i, part in enumerate(columns):
        parts[part] = PartTime(
            median_ns=float(middle[i]),
            quartiles_ns=(float(min(low[i], middle[i])), float(max(high[i], middle[i]))),
            samples=len(samples),
        )
    fitted = dict(zip(makeups, design @ middle, strict=True))
    ratios = [
        duration / max(1.0, float(fitted[m]))
        for m, times in by_makeup.items()
        for duration in times
    ]
    return parts, ratios


def _count(makeup: Makeup, part: Part) -> int:
    counts: dict[Part, int] = {
        "action": 1,
        "layer": makeup.num_layers,
        "embedding": int(makeup.embedding),
        "head": int(makeup.head),
    }
    return counts[part]


def _message_time(
    measurements: Sequence[Measurement], kinds: frozenset[Kind], lane: str
) -> MessageTime | None:
    """Time of a message against its size, over all runs; None where there was none."""
    sizes: dict[int, list[int]] = defaultdict(list)
    for measurement in measurements:
        sizes_of = message_bytes(measurement.scenario)
        for timeline in measurement.judged:
            for span in timeline.spans:
                if span.action.kind not in kinds or (span.lane == "compute") != (lane == "compute"):
                    continue
                # A message that came before anyone waited has no time: its arrival is not known.
                if span.duration_ns or lane == "compute":
                    payload = sizes_of[span.action.microbatch or 0][span.action.slice_index]
                    sizes[payload].append(span.duration_ns)
    if not sizes:
        return None
    return fit_message_time([(size, statistics.median(times)) for size, times in sizes.items()])


def _reduction_time(measurements: Sequence[Measurement]) -> MessageTime | None:
    """Time of an all-reduce against its size, from the tied embedding's; None where there was none.

    A reduction's time is its shortest span, that of the last rank to come.
    """
    sizes: dict[int, list[int]] = defaultdict(list)
    for measurement in measurements:
        model, plan = measurement.scenario.model, measurement.scenario.plan
        assert model is not None
        width = PRECISION_BYTES[plan.reduced_precision]
        payload = token_table_parameters(model, plan.tensor) * width
        for timeline in measurement.judged:
            spans = [s for s in timeline.spans if s.action.kind is Kind.REDUCE_TIED]
            if spans:
                sizes[payload].append(min(s.duration_ns for s in spans))
    if not sizes:
        return None
    return fit_message_time([(size, statistics.median(times)) for size, times in sizes.items()])


def fit_message_time(points: Sequence[tuple[int, float]]) -> MessageTime:
    """Fit fixed + bytes x per-byte, non-negative, weighted by 1/t, to (bytes, ns) points.

    One size alone is taken as all fixed.
    """
    from scipy.optimize import nnls

    if len({size for size, _ in points}) == 1:
        return MessageTime(
            fixed_ns=statistics.median(t for _, t in points), ns_per_byte=0.0, error=0.0
        )
    times = np.array([max(1.0, t) for _, t in points])
    design = np.array([[1.0, size] for size, _ in points]) / times[:, None]
    (fixed, slope), _ = nnls(design, np.ones(len(points)))
    errors = np.abs(design @ np.array([fixed, slope]) - 1)
    return MessageTime(
        fixed_ns=float(fixed), ns_per_byte=float(slope), error=float(np.median(errors))
    )


def message_bytes(scenario: Scenario) -> tuple[tuple[int, ...], ...]:
    """Bytes of a message between stages, by microbatch and slice."""
    model, width = scenario.model, PRECISION_BYTES[scenario.plan.precision]
    assert model is not None
    return tuple(
        tuple(piece.micro_batch * piece.tokens * model.hidden * width for piece in cut)
        for cut in pieces(scenario)
    )


def thin(ratios: list[float]) -> tuple[float, ...]:
    """At most `_MAX_RATIOS` of the ratios, evenly over their order, to four digits."""
    ordered = sorted(ratios)
    if len(ordered) > _MAX_RATIOS:
        picks = np.linspace(0, len(ordered) - 1, _MAX_RATIOS).round().astype(int)
        ordered = [ordered[i] for i in picks]
    return tuple(round(r, 4) for r in ordered)


def _raw(measurement: Measurement) -> Mapping[str, object]:
    """What a reader needs to check the fit: medians per pass and stage, and iteration times."""
    by_action: dict[str, list[int]] = defaultdict(list)
    for timeline in measurement.judged:
        for span in timeline.spans:
            by_action[_label(span)].append(span.duration_ns)
    return {
        "scenario": measurement.scenario.name,
        "digest": measurement.scenario.digest,
        "iteration_ns": [t.iteration_ns for t in measurement.timelines],
        "disturbed": list(measurement.disturbed),
        "median_ns": {k: round(statistics.median(v)) for k, v in sorted(by_action.items())},
    }


def _label(span: Span) -> str:
    action = span.action
    piece = f"/{action.slice_index}" if action.slice_index else ""
    # Without spaces, at which YAML would break a key over two lines.
    return f"{action.stage}{action.kind.value}{piece}_{span.lane}"
