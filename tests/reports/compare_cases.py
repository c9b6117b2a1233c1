"""Comparisons to be shown: two schedules, two models, a run and its prediction, times alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from page_kinds import HOSTILE

from scenarios.loader import load
from sim.comparison import own_costs
from sim.differences import Differences, differences
from sim.engine.simpy_engine import simulate
from sim.measurement import Measurement
from sim.prediction import predict
from sim.sides import Side, measured_side, simulated_side


def side(label: str, name: str, *overrides: str) -> Side:
    """A scenario simulated, with the origin of its values."""
    found = load(name, overrides)
    origins = {field: str(at) for field, at in found.origins.items()}
    return simulated_side(label, predict(found.scenario), origins)


def run(label: str, name: str, slower: float) -> Side:
    """A run of a scenario, three iterations of it, slower than predicted by about a factor."""
    prediction = predict(load(name).scenario)
    costs = own_costs(prediction.timeline)
    timelines = []
    for factor in (0.97 * slower, slower, 1.03 * slower):
        durations = {a: round(factor * d) for a, d in costs.durations.items()}
        timeline = simulate(prediction.program, replace(costs, durations=durations))
        timelines.append(replace(timeline, origin="measured"))
    found = Measurement(
        scenario=prediction.scenario,
        timelines=tuple(timelines),
        disturbed=(False, False, True),
        peak_memory_bytes=(10**8, 9 * 10**7),
        environment={"transport": "mailbox", "host": HOSTILE},
    )
    return measured_side(label, found)


def schedules() -> Differences:
    """GPT-3 175B in 1F1B, and interleaved."""
    both = "plan.global_batch=256"
    b = ("plan.schedule=interleaved", "plan.chunks=3")
    return differences(side("A", "megatron/175b", both), side("B", "megatron/175b", both, *b))


def models() -> Differences:
    """A small model, and a larger one for which the memory is too small."""
    small = ("cluster.device.memory=345 MiB",)
    return differences(
        side("small", "local-4rank"), side("large", "local-4rank", "model.hidden=320", *small)
    )


def hostile() -> Differences:
    """Times alone, in two schedules, of which one has a hostile name."""
    return differences(
        side("now", "replay/stage-times"),
        side(HOSTILE, "replay/stage-times", "plan.schedule=gpipe"),
    )


CASES: Mapping[str, Callable[[], Differences]] = {
    "schedules": schedules,
    "models": models,
    "hostile": hostile,
    "run": lambda: differences(
        run("the run", "local-2rank", 1.25), side("the prediction", "local-2rank")
    ),
    "runs": lambda: differences(
        run("before", "local-2rank", 1.2), run("after", "local-2rank-few", 1.1)
    ),
    "nothing": lambda: differences(side("A", "local-2rank"), side("B", "local-2rank")),
    "failures": lambda: differences(
        side("A", "megatron/175b-run", "plan.global_batch=256"),
        side("B", "megatron/175b-run", "plan.global_batch=256", "training.checkpoint_interval=2 h"),
    ),
}
"""Comparisons by name."""
