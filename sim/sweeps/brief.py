"""A point's time, throughput and peak memory alone: the figures of its simulation, without spans.

What points of one model on one cluster have in common is kept, so that a point takes a few
milliseconds where the whole simulation may take seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from scenarios.schema import Scenario
from sim.engine.choice import why_no_numba
from sim.engine.deadlock import Deadlock
from sim.prediction import rates
from sim.sweeps.setting import Setting

if TYPE_CHECKING:
    from sim.planner.layouts.evaluation import Evaluator

_MAX_EVALUATORS = 16
_evaluators: dict[tuple[str, str | None], Evaluator] = {}


def brief(
    scenario: Scenario, setting: Setting, simulated: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """The figures; of the summary that `simulated` gives where there must be one: for given costs,
    for a profile's draws, for SimPy, and to say why a program deadlocks.

    Raises what `simulated` raises.
    """
    found = None
    if _can_evaluate(scenario, setting):
        try:
            found = _evaluated(scenario, setting)
        except (Deadlock, OverflowError):
            found = None
    iteration_s, peak_bytes, engine = found or _of_summary(simulated())
    capacity = scenario.cluster.device.memory if scenario.cluster is not None else None
    known = peak_bytes is not None and capacity is not None
    return {
        "scenario": scenario.name,
        "digest": scenario.digest,
        "engine": engine,
        "iteration_s": iteration_s,
        **rates(scenario, iteration_s),
        "peak_memory_bytes": peak_bytes,
        "fits": peak_bytes <= capacity if known else None,  # type: ignore[operator]
        "memory_capacity_bytes": capacity,
    }


def _can_evaluate(scenario: Scenario, setting: Setting) -> bool:
    profile = setting.profile
    given = scenario.model is None or scenario.cluster is None or scenario.costs is not None
    draws = profile is not None and bool(profile.ratios)
    usable = setting.engine != "simpy" and why_no_numba() is None
    return usable and not given and not draws


def _evaluated(scenario: Scenario, setting: Setting) -> tuple[float, int | None, str]:
    from sim.planner.layouts.evaluation import Evaluator

    key = (repr((scenario.model, scenario.cluster)), setting.profile_sha256)
    if key not in _evaluators:
        if len(_evaluators) >= _MAX_EVALUATORS:
            _evaluators.clear()
        _evaluators[key] = Evaluator(scenario, setting.profile)
    evaluator = _evaluators[key]
    iteration_ns = evaluator.iteration_ns(scenario.plan)
    return iteration_ns / 1e9, evaluator.peak_bytes(scenario.plan), "compiled"


def _of_summary(found: Mapping[str, Any]) -> tuple[float, int | None, str]:
    peaks = [rank["peak_memory_bytes"] for rank in found["ranks"]]
    return found["iteration_s"], None if None in peaks else max(peaks), found["engine"]
