"""Words of elastic runs: how long they take, what is frozen, and what a page claims of them."""

from __future__ import annotations

from collections.abc import Sequence

from reports.words import NBSP, count, duration, plural, significant, size, subject
from scenarios.schema import Scenario
from sim.elastic.phases import Phase
from sim.elastic_run import AblationRow, ElasticPrediction, contributions
from sim.prediction import fits

PARTS = {
    "rebuild": "making groups anew",
    "load": "loading devices",
    "move": "moving weights",
    "checkpoint": "checkpoint",
    "evaluate": "test accuracy",
}
"""What the parts of a transition are called."""
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def long_duration(seconds: float) -> str:
    """Write seconds as people say them: `9.31 hours`, `2.4 days`, below two minutes `41.2 s`."""
    for limit, unit, name in (
        (2 * _DAY, _DAY, "days"),
        (2 * _HOUR, _HOUR, "hours"),
        (2 * _MINUTE, _MINUTE, "minutes"),
    ):
        if seconds >= limit:
            return f"{significant(seconds / unit, 3)}{NBSP}{name}"
    return duration(seconds * 1e9)


def time_axis(seconds: float) -> tuple[float, str]:
    """The unit of an axis that is so long: its seconds, and its name."""
    for unit, name in ((_DAY, "days"), (_HOUR, "hours"), (_MINUTE, "minutes")):
        if seconds >= 2 * unit:
            return float(unit), name
    return 1.0, "s"


def epochs(phase: Phase) -> str:
    """The epochs of a phase, counted from 0: `3` or `3–5`."""
    last = phase.first_epoch + phase.epochs - 1
    return str(phase.first_epoch) if last == phase.first_epoch else f"{phase.first_epoch}–{last}"


def shape(phase: Phase) -> str:
    """A phase's ranks: `4 x 4`, of a pipeline and replicas."""
    return f"{phase.layout.pipeline} x {phase.layout.data}"


def cache(phase: Phase) -> str:
    """What a phase does with the cache: `reads 4`, `fills 7`, or both; empty for nothing."""
    parts = [f"reads {phase.cached_layers}"] if phase.cached_layers else []
    if phase.fills_cache:
        parts.append(f"fills {phase.frozen_layers}")
    return ", ".join(parts)


def verdict(found: ElasticPrediction, rows: Sequence[AblationRow]) -> str:
    """The run in one sentence: how long it takes, and how much sooner than without freezing."""
    number = len(found.frozen_by_epoch)
    text = (
        f"{subject(found.scenario)}: {plural(number, 'epoch')} take"
        f"{'s' if number == 1 else ''} {long_duration(found.total_ns / 1e9)} (simulated)"
    )
    if rows:
        text += f", {speedup(found, rows):.2f} times as fast as without freezing"
    over = too_large(found)
    return f"{text}; {over}" if over else text


def too_large(found: ElasticPrediction) -> str:
    """Which epochs need more memory than a device has; empty where all fit, or none is known."""
    over = [p for p in found.phases if fits(p.prediction) is False]
    cluster = found.scenario.cluster
    if not over or cluster is None:
        return ""
    peak = max(c.peak_bytes for p in over for c in p.prediction.memory or ())
    listed = ", ".join(epochs(p.phase) for p in over)
    several = len(over) > 1 or over[0].phase.epochs > 1
    return (
        f"epoch{'s' if several else ''} {listed} do{'' if several else 'es'} not fit in memory: a "
        f"rank peaks at {size(peak)} of {size(cluster.device.memory)}"
    )


def speedup(found: ElasticPrediction, rows: Sequence[AblationRow]) -> float:
    """Of a run over the ablation's first row, which freezes nothing."""
    return rows[0].prediction.total_ns / found.total_ns


def own_row(scenario: Scenario, rows: Sequence[AblationRow]) -> AblationRow | None:
    """The ablation's row that is the run itself; None where it has another set of mechanisms."""
    return next((row for row in rows if row.scenario.digest == scenario.digest), None)


def with_own(found: ElasticPrediction, rows: Sequence[AblationRow]) -> tuple[AblationRow, ...]:
    """An ablation's rows, and the run itself below them where it is none of them."""
    if not rows or own_row(found.scenario, rows) is not None:
        return tuple(rows)
    own = AblationRow(
        name="this run",
        scenario=found.scenario,
        prediction=found,
        speedup=speedup(found, rows),
    )
    return (*rows, own)


def brought(rows: Sequence[AblationRow]) -> list[str]:
    """What each mechanism multiplies the speed by, and how that is told apart."""
    factors = contributions({row.name: row.speedup for row in rows})
    listed = ", ".join(f"{name} {factor:.2f}×" for name, factor in factors.items())
    return [
        f"The speed-up as a product: {listed}.",
        "AutoDP and AutoCache are what the whole loses without them; AutoPipe is what remains, and "
        "with it what the mechanisms gain or lose by one another.",
    ]


def notes(found: ElasticPrediction) -> list[str]:
    """What a reader must know of a predicted run: what is an upper bound, what was decided."""
    elastic = found.scenario.elastic
    assert elastic is not None
    said = [f"{note[0].upper()}{note[1:]}." for note in found.notes]
    if elastic.autocache and elastic.autopipe and any(found.frozen_by_epoch):
        where = "as the scenario says" if elastic.cache.pays_from is not None else "as simulated"
        if found.caches_from is None:
            said.append(f"Caching the output of frozen layers never pays, {where}.")
        else:
            said.append(
                f"Caching the output of frozen layers pays from {found.caches_from} on, {where}."
            )
    moves = elastic.transition
    timed = (
        moves.rebuild
        or moves.device_start
        or any(t.parts.get("rebuild") for t in found.transitions)
    )
    if found.transitions and not timed:
        said.append(
            "A transition is as long as weights take to move: making groups anew and loading "
            "devices take no time unless elastic.transition says how long."
        )
    short = [p.phase.layout for p in found.phases if p.phase.layout.num_ranks < ranks(found)]
    if short:
        least = min(layout.num_ranks for layout in short)
        said.append(
            f"Up to {ranks(found) - least} of {plural(ranks(found), 'rank')} have nothing to do "
            "once the pipeline is shorter" + ("." if elastic.autodp else ": autodp is off.")
        )
    return said


def ranks(found: ElasticPrediction) -> int:
    """Ranks that the run begins with."""
    return found.scenario.plan.pipeline * found.scenario.plan.data


def rate(samples_per_s: float) -> str:
    """Write a throughput: `1,240 samples/s`."""
    return f"{significant(samples_per_s)}{NBSP}samples/s"


def growth(found: ElasticPrediction) -> str:
    """How the throughput and the pipeline change from the first epoch to the last."""
    first, last = found.epochs[0], found.epochs[-1]
    if first.samples_per_s == last.samples_per_s:
        return f"Every epoch runs at {rate(first.samples_per_s)}"
    return (
        f"From {rate(first.samples_per_s)} in the first epoch to {rate(last.samples_per_s)} in the "
        f"last, {last.samples_per_s / first.samples_per_s:.1f} times as many"
    )


def shrinking(found: ElasticPrediction) -> str:
    """How the pipeline and its replicas change over the run."""
    first, last = found.epochs[0], found.epochs[-1]
    if (first.pipeline, first.data) == (last.pipeline, last.data):
        return (
            f"The pipeline keeps its {plural(first.pipeline, 'rank')} and its "
            f"{plural(first.data, 'replica')}"
        )
    return (
        f"The pipeline goes from {plural(first.pipeline, 'rank')} to {count(last.pipeline)}, and "
        f"its replicas from {count(first.data)} to {count(last.data)}"
    )


def transition_seconds(found: ElasticPrediction) -> dict[int, float]:
    """What each transition takes, by the phase it leads to."""
    return {t.phase: t.total_ns / 1e9 for t in found.transitions}


def crossed(text: str) -> str:
    """`4 x 4` as a page has it."""
    return text.replace(" x ", f"{NBSP}×{NBSP}")


def unbroken(text: str) -> str:
    """What the cache does, broken only at its comma."""
    return text.replace("reads ", f"reads{NBSP}").replace("fills ", f"fills{NBSP}")
