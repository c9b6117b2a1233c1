"""Words: numbers as people read them, and the claims that head the sections."""

from __future__ import annotations

from collections.abc import Mapping

from scenarios.schema import Scenario
from scenarios.units import format_bytes, format_duration_ns
from sim.comparison import Comparison
from sim.prediction import Prediction, fits
from sim.timeline.figures import BUBBLE, COMMUNICATION, MESSAGES
from sim.workload.partition import Piece

NBSP = "\u00a0"
GIB = 2**30
UNKNOWN = "–"

CATEGORY_NAMES: Mapping[str, str] = {
    "matmul": "matrix products",
    "attention": "attention",
    "memory_bound": "memory-bound kernels",
    "launch": "kernel launches",
    "recomputation": "recomputation",
    "tensor_parallel": "tensor-parallel collectives",
    "optimizer": "optimizer step",
    "host": "host time",
    "data_loading": "data loading",
    "cache": "cache of frozen layers",
    "point_to_point": "waiting for messages",
    "data_parallel": "gradient reduction",
    "weight_gather": "gathering of sharded weights",
    "tied_embedding": "tied-embedding all-reduce",
    "gradient_norm": "gradient norm",
    "measured": "measured passes",
    "given": "passes with given times",
    "messages": "message handling",
    "bubble": "pipeline bubble",
    "forward": "forward",
    "backward": "backward",
}
PATH_NAMES: Mapping[str, str] = {
    "forward": "forward passes",
    "backward": "backward passes",
    "backward_input": "backward passes, input half",
    "backward_weight": "backward passes, weight half",
    "transfer": "messages on their way",
    "send_forward": "posting activations",
    "recv_forward": "unpacking activations",
    "send_backward": "posting gradients",
    "recv_backward": "unpacking gradients",
    "exchange": "host time of exchanges",
    "reduce_gradients": "gradient reduction",
    "gather_weights": "gathering of sharded weights",
    "reduce_tied": "tied-embedding all-reduce",
    "gradient_norm": "gradient norm",
    "optimizer": "optimizer steps",
    "queued": "queueing for a link",
}
MEMORY_NAMES: Mapping[str, str] = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer_state": "optimizer state",
    "optimizer": "optimizer state",
    "master_weights": "fp32 master weights",
    "message_buffers": "message buffers",
    "reserved": "reserved by the driver",
    "activations": "activations and working memory",
}


def percent(fraction: float | None, *, signed: bool = False) -> str:
    """Write a fraction as a percentage: `7.7 %`, or `−2.4 %` and `+0.8 %` where signed."""
    if fraction is None:
        return UNKNOWN
    value = 100 * fraction
    if fraction and abs(value) < 0.0005:
        return f"<0.001{NBSP}%"
    digits = 3 if fraction and abs(value) < 0.05 else 1
    zero = not round(value, digits)
    text = (
        f"{value:+.{digits}f}"
        if signed and not zero
        else f"{abs(value) if zero else value:.{digits}f}"
    )
    return f"{text}{NBSP}%".replace("-", "−")


def duration(duration_ns: float | None) -> str:
    """Write nanoseconds: `12.3 s`, `18.52 ms`, `5 µs`."""
    if duration_ns is None:
        return UNKNOWN
    if duration_ns and not 1e-9 < abs(duration_ns) < 9.9995e12:
        return f"{duration_ns / 1e9:,.0f}{NBSP}s"
    text = format_duration_ns(duration_ns)
    return text.replace(" us", " µs").replace(" ", NBSP).replace("-", "−")


def size(num_bytes: float | None) -> str:
    """Write bytes: `84.1 GiB`."""
    return UNKNOWN if num_bytes is None else format_bytes(num_bytes).replace(" ", NBSP)


def count(number: float | None) -> str:
    """Write a count with its thousands apart: `1,024`."""
    return UNKNOWN if number is None else f"{number:,.0f}"


def significant(number: float | None, digits: int = 4) -> str:
    """Write a number to so many significant digits, without an exponent where it is readable."""
    if number is None:
        return UNKNOWN
    if abs(number) >= 10 ** (digits - 1):
        return f"{number:,.0f}"
    return f"{number:.{digits}g}"


def tflops(number: float | None) -> str:
    """Write a rate given in TFLOP/s: `101.7 TFLOP/s`, or `9.094 GFLOP/s` where it is small."""
    if number is not None and abs(number) < 0.1:
        return f"{significant(1000 * number)}{NBSP}GFLOP/s"
    return f"{significant(number)}{NBSP}TFLOP/s"


def dollars(amount: float | None) -> str:
    """Write money: `$1.76 million`, `$45,120`, `$3.20`."""
    if amount is None:
        return UNKNOWN
    if amount >= 1e6:
        return f"${amount / 1e6:,.2f}{NBSP}million"
    return f"${amount:,.0f}" if amount >= 100 else f"${amount:,.2f}"


def plural(number: int, noun: str, nouns: str = "") -> str:
    """Write a number with its noun: `1 rank`, `16 ranks`."""
    return f"{number:,}{NBSP}{noun if number == 1 else nouns or noun + 's'}"


def piece(cut: Piece) -> str:
    """What a pass works on: `256 tokens after 1,024`."""
    after = f" after {count(cut.context)}" if cut.context else ""
    sequences = f"{cut.micro_batch} x " if cut.micro_batch > 1 else ""
    return f"{sequences}{count(cut.tokens)} tokens{after}"


def disturbed(number: int, total: int) -> str:
    """Say how many of the measured iterations other processes disturbed, and what became of them
    (see Measurement.judged)."""
    if number == 0:
        return f"none of {plural(total, 'iteration')} disturbed by other processes"
    if number < total:
        return f"{number} of {total} iterations disturbed by other processes and left out"
    everyone = f"all {total} iterations" if total > 1 else "the only iteration"
    return f"{everyone} disturbed by other processes, so none left out"


def family(category: str) -> str:
    """The colour that a category, a kind on the critical path or a kind of memory has everywhere:
    forward, backward, weight, optimizer, messages, communication, bubble or work."""
    known = {
        "backward_input": "backward",
        "backward_weight": "weight",
        "transfer": "communication",
        "reduce_gradients": "communication",
        "reduce_tied": "communication",
        "gather_weights": "communication",
        "exchange": "messages",
        "tensor_parallel": "communication",
        "queued": "bubble",
    }
    if category in COMMUNICATION:
        return "communication"
    if category == MESSAGES or category.startswith(("send_", "recv_")):
        return "messages"
    if category in ("forward", "backward", "optimizer", BUBBLE):
        return category
    return known.get(category, "work")


def subject(scenario: Scenario) -> str:
    """What runs on what: `GPT-3 175B on 1,024 A100 80GB`."""
    what = scenario.model.name if scenario.model is not None else scenario.name
    if what == "model":
        what = scenario.name
    if scenario.cluster is not None:
        return f"{what} on {count(scenario.plan.num_devices)} {scenario.cluster.device.name}"
    return f"{what} on {plural(scenario.plan.num_devices, 'rank')}"


def frozen(scenario: Scenario) -> str:
    """What of a plan's layers is not trained: `6 of 12 layers frozen, 4 cached`; empty for none."""
    plan, model = scenario.plan, scenario.model
    if model is None or not plan.frozen_layers:
        return ""
    cached = f", {plan.cached_layers} cached" if plan.cached_layers else ""
    return f"{plan.frozen_layers} of {model.layers} layers frozen{cached}"


def _iterating(scenario: Scenario) -> str:
    """What an iteration is of, in a sentence that goes on with its verb."""
    return f"{subject(scenario)}, {frozen(scenario)}," if frozen(scenario) else subject(scenario)


def verdict(prediction: Prediction) -> str:
    """The report in one sentence: time, memory, bubble."""
    found, fit = prediction.figures, fits(prediction)
    text = (
        f"{_iterating(prediction.scenario)} takes {duration(prediction.iteration_ns)} an iteration"
    )
    parts = [f"{text} (simulated)"]
    if fit is not None:
        parts.append(_fit(prediction, fit))
    bubble = percent(found.bubble_fraction)
    parts.append(f"loses {bubble} of its rank-time to the pipeline bubble")
    return ", ".join(parts[:-1]) + (", and " if len(parts) > 2 else " and ") + parts[-1] + "."


def measured_verdict(prediction: Prediction, comparison: Comparison) -> str:
    """The report of a run in one sentence: measured, predicted, and how far apart."""
    how = "calibrated on other runs" if comparison.calibrated else "device model, not calibrated"
    if comparison.in_sample:
        how = "fitted to runs of this very scenario"
    return (
        f"{_iterating(prediction.scenario)} took {duration(comparison.measured_ns)} an iteration "
        f"(measured); predicted were {duration(comparison.predicted_ns)} (simulated, {how}), "
        f"{percent(comparison.predictive, signed=True)}."
    )


def _fit(prediction: Prediction, fit: bool) -> str:
    rank, peak, capacity = tightest(prediction)
    if fit:
        return f"fits in memory with {size(capacity - peak)} to spare"
    return f"does not fit: rank {rank} peaks at {size(peak)} of {size(capacity)}"


def tightest(prediction: Prediction) -> tuple[int, int, int]:
    """The rank with the highest peak, that peak, and the capacity, in bytes.

    Raises ValueError where memory is unknown.
    """
    if not prediction.memory or prediction.scenario.cluster is None:
        raise ValueError(f"the memory of {prediction.scenario.name} is unknown")
    peaks = [curve.peak_bytes for curve in prediction.memory]
    rank = max(range(len(peaks)), key=peaks.__getitem__)
    return rank, peaks[rank], prediction.scenario.cluster.device.memory


def timeline_claim(prediction: Prediction) -> str:
    """How long the pipeline takes to fill and to drain."""
    compute = [rank for rank in prediction.timeline.compute if rank]
    if not compute:
        return "Nothing runs: the timeline is empty"
    total = prediction.timeline.iteration_ns
    if len(compute) == 1:
        return f"A single rank works through {duration(total)}, with no pipeline to fill"
    begin = min(rank[0].start_ns for rank in compute)
    fill = max(rank[0].start_ns for rank in compute) - begin
    return (
        f"The pipeline needs {duration(fill)} until its last rank starts, "
        f"{percent(fill / max(1, total))} of the iteration"
    )


def breakdown_claim(prediction: Prediction) -> str:
    """The largest category of time, and what is lost."""
    found = prediction.figures
    shares = {k: v for k, v in found.breakdown.items() if k != BUBBLE}
    lost = (
        f"the bubble takes {percent(found.bubble_fraction)} and exposed communication "
        f"{percent(found.exposed_communication_fraction)}"
    )
    if not shares:
        return lost[0].upper() + lost[1:]
    name = max(shares, key=shares.__getitem__)
    first = CATEGORY_NAMES.get(name, name)
    verb = "take" if first.endswith("s") else "takes"
    start = f"{first[0].upper()}{first[1:]} {verb} {percent(shares[name])} of all rank-time"
    return f"{start}; {lost}"


def memory_claim(prediction: Prediction, fit: bool) -> str:
    """The highest peak against the capacity."""
    rank, peak, capacity = tightest(prediction)
    share = percent(peak / capacity)
    if fit:
        spare = size(capacity - peak)
        return (
            f"Rank {rank} peaks highest, at {size(peak)} or {share} of capacity: {spare} to spare"
        )
    return (
        f"Rank {rank} peaks at {size(peak)} of {size(capacity)}: {size(peak - capacity)} too much"
    )
