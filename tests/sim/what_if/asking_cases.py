"""Small scenarios and predictions for the tests of what-if questions."""

from dataclasses import replace
from functools import cache
from typing import Any

from hypothesis import strategies as st

from scenarios.loader import load
from scenarios.schema import GivenCosts, Plan, Scenario, StageCosts
from sim.prediction import Prediction, predict
from sim.what_if.asking import what_if
from sim.what_if.found import WhatIf


def given(plan: dict[str, Any], **costs: Any) -> Scenario:
    """Costs given outright, in nanoseconds."""
    return Scenario(name="given", plan=Plan(**plan), costs=GivenCosts(**costs))


def small(*overrides: str, **plan: Any) -> Scenario:
    """A small GPT on 8 devices in 2 nodes, 2 tensor x 2 pipeline x 2 data, with a training run."""
    sizes = (
        *("model.layers=8", "model.hidden=256", "model.heads=4", "model.sequence=128"),
        *("model.vocabulary=1024", "cluster.nodes=2", "cluster.devices_per_node=4"),
        *("cluster.nics_per_node=2", "cluster.device.reserved_memory=0 B"),
        *("plan.global_batch=16", "plan.tensor=2", "plan.pipeline=2", "plan.data=2"),
        "training.tokens=1e9",
    )
    scenario = load("megatron/175b", [*sizes, *overrides]).scenario
    return replace(scenario, plan=replace(scenario.plan, **plan))


@cache
def asked(scenario: Scenario) -> tuple[Prediction, WhatIf]:
    """A scenario's prediction and all what-if answers, once."""
    prediction = predict(scenario)
    return prediction, what_if(prediction)


def time_of(scenario: Scenario) -> int:
    """The simulated iteration in nanoseconds."""
    return predict(scenario).figures.iteration_ns


def peak_of(scenario: Scenario) -> int:
    """The largest peak of a rank in bytes."""
    memory = predict(scenario).memory
    assert memory is not None
    return max(curve.peak_bytes for curve in memory)


def has_plan(scenario: Scenario, plan: Plan) -> Scenario:
    """The scenario with another plan."""
    return replace(scenario, plan=plan)


@st.composite
def given_scenarios(draw: st.DrawFn) -> Scenario:
    """Pipelines of stages with times of their own, messages on links of each pair of ranks."""
    pipeline = draw(st.integers(1, 4))
    groups = draw(st.integers(1, 3))
    schedule = draw(st.sampled_from(["1f1b", "gpipe", "interleaved", "terapipe"]))
    chunks = draw(st.integers(1, 3)) if schedule == "interleaved" and pipeline > 1 else 1
    plan = {
        "schedule": schedule,
        "pipeline": pipeline,
        "chunks": chunks,
        "microbatches": groups * pipeline,
        "p2p": draw(st.sampled_from(["overlapped", "blocking", "exchange"])),
    }
    times = st.integers(0, 1000)
    stages = {
        stage: StageCosts(forward=draw(times), backward=draw(times), send=draw(times))
        for stage in range(pipeline * chunks)
    }
    return given(plan, stages=stages, forward=1, optimizer=draw(times))
