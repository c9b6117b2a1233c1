"""What runs that are predicted badly have in common: a hint beside each of the worst."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sim.cost.runs import Run

SHARED = 1 / 3
"""Runs share a trouble where they are off the same way by at least this part of the error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstRow:
    """One of the worst predictions: the run's line in its file, its error, and a hint."""

    what: str
    line: int
    error: float
    hint: str


def worst_rows(
    runs: Sequence[Run], predicted_ns: Sequence[float], count: int = 5
) -> tuple[WorstRow, ...]:
    """The runs with the largest errors, each with what the others like it tell.

    Where the other runs with a property of it (its tensor degree, ...) are off the same way, the
    hint names the property whose runs are off most, few runs counting less; else the run stands
    alone, and so does its measurement.
    """
    errors = [p / run.measured_ns - 1 for run, p in zip(runs, predicted_ns, strict=True)]
    order = sorted(range(len(runs)), key=lambda i: (-abs(errors[i]), runs[i].line))
    return tuple(
        WorstRow(
            what=what_of(runs[i]), line=runs[i].line, error=errors[i], hint=_hint(i, runs, errors)
        )
        for i in order[:count]
    )


def what_of(run: Run) -> str:
    """A run in short: layers x hidden, its degrees, and its microbatch."""
    model, plan = run.scenario.model, run.scenario.plan
    assert model is not None
    chunks = f" v{plan.chunks}" if plan.chunks > 1 else ""
    return (
        f"{model.layers}x{model.hidden} t{plan.tensor} p{plan.pipeline} d{plan.data} "
        f"b{plan.micro_batch}{chunks}"
    )


def _properties(run: Run) -> tuple[str, ...]:
    model, plan, cluster = run.scenario.model, run.scenario.plan, run.scenario.cluster
    assert model is not None and cluster is not None
    across = " (across nodes)" if plan.tensor > cluster.devices_per_node else ""
    found = [
        f"tensor {plan.tensor}{across}",
        f"pipeline {plan.pipeline}",
        f"micro_batch {plan.micro_batch}",
        f"hidden {model.hidden}",
        f"recomputation {plan.recomputation}",
        f"schedule {plan.schedule}",
    ]
    if plan.num_microbatches < 2 * plan.pipeline:
        found.append("fewer than two microbatches a stage")
    return tuple(found)


def _hint(index: int, runs: Sequence[Run], errors: Sequence[float]) -> str:
    error = errors[index]
    others = [i for i in range(len(runs)) if i != index]
    properties = {i: set(_properties(runs[i])) for i in others}
    everywhere = statistics.mean(errors[i] for i in others) if others else 0.0
    best: tuple[float, str] | None = None
    for name in _properties(runs[index]):
        alike = [errors[i] for i in others if name in properties[i]]
        if not alike or len(alike) == len(others):
            continue
        mean = statistics.mean(alike)
        if mean * error <= 0 or abs(mean) < SHARED * abs(error):
            continue
        # What they have in common must set them apart from the rest.
        weight = abs(mean) * len(alike) / (len(alike) + 1)
        if abs(mean) > abs(everywhere) and (best is None or weight > best[0]):
            runs_so = f"so are the other {len(alike)} runs" if alike[1:] else "so is the other run"
            best = weight, f"{runs_so} with {name} ({mean:+.1%}): a term the model lacks?"
    if best is not None:
        return best[1]
    replicas = [
        runs[i].measured_ns
        for i in others
        if (runs[i].group, runs[i].plan) == (runs[index].group, runs[index].plan)
    ]
    if replicas:
        ratio = runs[index].measured_ns / statistics.median(replicas)
        return f"no run like it is off so; it took {ratio:.2f} times its replicate's time"
    return "no run like it is off so: is its measurement right?"
