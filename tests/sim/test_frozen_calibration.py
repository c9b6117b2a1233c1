"""Calibration from runs with frozen layers, made with known costs: a forward pass counts for every
layer that it computes, a backward pass and a step for those that are trained."""

from __future__ import annotations

import pytest

from scenarios.loader import load
from scenarios.schema import Scenario
from sim.calibration import Makeup, calibrate_from_runs, makeup_of
from sim.comparison import compare
from sim.cost.costs import ActionCosts, Transfer
from sim.cost.profile import Profile
from sim.cost.shapes import PartTime, shape_of
from sim.engine.simpy_engine import simulate
from sim.measurement import Measurement
from sim.prediction import predict
from sim.schedule.actions import SENDS, Kind
from sim.schedule.build import build_program
from sim.workload.partition import StagePart, partition

LAYER_NS, EMBEDDING_NS, HEAD_NS, FIXED_NS = 900_000, 70_000, 400_000, 30_000


def scenario(*overrides: str) -> Scenario:
    return load("local-2rank-gpipe", ("plan.microbatches=3", *overrides)).scenario


def made_run(made: Scenario) -> Measurement:
    """A run as the executor would measure it, if its parts took the times above."""
    program, parts = build_program(made), partition(made)
    durations, transfers = {}, {}
    for action in (a for steps in program.steps for step in steps for a in step):
        part = parts[action.stage]
        active = FIXED_NS + LAYER_NS * part.num_active + EMBEDDING_NS * part.trains_embedding
        durations[action] = 10_000
        if action.kind is Kind.FORWARD:
            computed = FIXED_NS + LAYER_NS * part.num_computed + HEAD_NS * part.head
            durations[action] = computed + EMBEDDING_NS * part.computes_embedding
        elif action.kind is Kind.BACKWARD:
            durations[action] = 2 * (active + HEAD_NS * part.head)
        elif action.kind is Kind.OPTIMIZER:
            durations[action] = active // 2 + HEAD_NS * part.head if part.trained else 500
        elif action.kind in SENDS:
            transfers[action] = Transfer(
                occupancy_ns=0, latency_ns=40_000, resources=(), payload_bytes=0
            )
    timeline = simulate(program, ActionCosts(durations=durations, transfers=transfers))
    return Measurement(
        scenario=made, timelines=(timeline,) * 2, disturbed=(False, False), environment={}
    )


RUNS = (
    scenario("model.layers=4"),
    scenario("model.layers=8", "plan.frozen_layers=3"),
    scenario("model.layers=8", "plan.layers_per_stage=[6,2]", "plan.frozen_layers=6"),
    scenario("plan.layers_per_stage=[7,1]", "plan.frozen_layers=6", "plan.cached_layers=6"),
)


@pytest.fixture(scope="module")
def profile() -> Profile:
    return calibrate_from_runs([made_run(run) for run in RUNS])


def test_parts_get_the_time_of_what_was_computed(profile: Profile) -> None:
    times = profile.times[shape_of(scenario())]
    for part, expected in (("layer", LAYER_NS), ("embedding", EMBEDDING_NS), ("head", HEAD_NS)):
        for pass_, factor in (("forward", 1), ("backward", 2)):
            found: PartTime = times[part, pass_]  # type: ignore[index]
            assert found.median_ns == pytest.approx(factor * expected, rel=1e-3)
    assert times["layer", "optimizer"].median_ns == pytest.approx(LAYER_NS / 2, rel=1e-3)


def test_other_frozen_layers_are_predicted_within_1_percent(profile: Profile) -> None:
    for layers in (0, 2, 4, 8):
        other = scenario(f"plan.frozen_layers={layers}")
        result = compare(predict(other, profile), made_run(other))
        assert abs(result.predictive) < 0.01, layers
    cached = scenario("plan.layers_per_stage=[5,3]", "plan.frozen_layers=5", "plan.cached_layers=4")
    # Beside the passes a prediction has the time to read the cache, which this run has not.
    result = compare(predict(cached, profile), made_run(cached))
    assert -0.01 < result.predictive < 0.05


def test_a_makeup_is_that_of_its_pass() -> None:
    first = StagePart(
        stage=0,
        first_layer=0,
        num_layers=5,
        embedding=True,
        head=False,
        frozen_layers=3,
        cached_layers=2,
    )
    last = StagePart(stage=1, first_layer=5, num_layers=2, embedding=False, head=True)
    assert makeup_of("forward", [first]) == Makeup(3, False, False)
    assert makeup_of("backward", [first]) == Makeup(2, False, False)
    assert makeup_of("optimizer", [first, last]) == Makeup(4, False, True)
    assert makeup_of("forward", [last]) == makeup_of("backward", [last]) == Makeup(2, False, True)
