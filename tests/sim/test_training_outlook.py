"""What a training run comes to: limits, slow devices, and the figures that `simulate` gives."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports.training_words import claim
from scenarios.loader import load
from scenarios.schema import Scenario, Stragglers, Training
from sim.engine.simpy_engine import simulate
from sim.planner.goodput.checkpoint import checkpoint_bytes
from sim.planner.goodput.run import DAY_NS, dollars, expected_days, run_of
from sim.planner.goodput.stragglers import (
    iteration_factors,
    rank_factors,
    slow_devices,
    slowed,
)
from sim.prediction import Prediction, predict, summary
from sim.training_run import TrainingOutlook

ROOT = Path(__file__).parents[2]
FAILS = ("training.device_mtbf=50000 h", "training.restart_time=10 min")
SAVED = ("training.checkpoint_bandwidth=100 GB/s",)
SMALL = (
    "plan.pipeline=4",
    "plan.tensor=2",
    "plan.data=2",
    "cluster.nodes=2",
    "model.layers=8",
    "plan.global_batch=16",
)


@pytest.fixture(scope="module")
def published() -> Prediction:
    return predict(load("megatron/175b").scenario)


def predicted(*overrides: str) -> Prediction:
    return predict(load("megatron/175b", [*SMALL, *overrides]).scenario)


def outlook_of(prediction: Prediction) -> TrainingOutlook:
    assert prediction.training is not None
    return prediction.training


def training_of(scenario: Scenario) -> Training:
    assert scenario.training is not None
    return scenario.training


# Limits.


def test_without_failures_days_are_exactly_those_of_the_iterations(published: Prediction) -> None:
    found, figures = outlook_of(published), summary(published)
    assert found.is_plain and found.days is None and found.intervals is None
    assert found.expected_days == found.failure_free_days == figures["training_days"]
    training = figures["training"]
    assert isinstance(training, dict)
    assert training["expected_gpu_hours"] == pytest.approx(figures["training_gpu_hours"])
    assert training["expected_dollars"] == pytest.approx(figures["training_cost_dollars"])
    assert training["goodput"] == 1 and training["checkpoint"] is None


def test_failures_that_hardly_come_leave_the_checkpoints() -> None:
    never = ("training.device_mtbf=2500000 h", "training.restart_time=1 ms")
    found = outlook_of(predicted(*never, *SAVED, "training.checkpoint_interval=1 h"))
    assert found.expected_days is not None
    stalls = found.run.undisturbed_ns / DAY_NS
    assert found.expected_days == pytest.approx(stalls, rel=1e-4)
    assert found.breakdown["checkpoints"] + found.failure_free_days == pytest.approx(stalls)


def test_a_run_without_failures_may_be_saved() -> None:
    found = outlook_of(predicted(*SAVED, "training.checkpoint_interval=1 h"))
    full, _ = found.run.stretches
    assert found.days is None and found.failures is None and full > 100
    assert found.expected_days == pytest.approx(
        found.failure_free_days + (full + 1) * found.run.stall_ns / DAY_NS
    )


def test_a_run_that_never_finishes_says_so() -> None:
    fails = ("training.device_mtbf=1 min", "training.restart_time=10 min")
    prediction = predicted(*fails, "training.checkpoint_bandwidth=1 MB/s")
    found = outlook_of(prediction)
    assert found.expected_days is None and found.days is None and found.goodput is None
    assert any("never finishes" in note for note in found.notes)
    values = json.loads(json.dumps(summary(prediction)["training"], allow_nan=False))
    assert values["finishes"] is False and values["expected_dollars"] is None
    scenario = prediction.scenario
    assert expected_days(prediction.iteration_ns, scenario.plan, scenario) is None


def test_a_run_that_is_too_long_does_not_blame_failures() -> None:
    for fails in ((), FAILS):
        found = outlook_of(predicted(*fails, *SAVED, "training.tokens=1e18"))
        assert found.expected_days is None and found.days is None
        assert found.notes == ("never finishes: its iterations alone would take over 100 years",)
        assert claim(found).startswith("The run never finishes: its iterations alone")
    slow = ("training.checkpoint_bandwidth=1 kB/s", "training.checkpoint_interval=1 h")
    (note,) = outlook_of(predicted(*slow)).notes
    assert note.startswith("never finishes: with checkpoints that stop it for")


def test_nothing_is_known_without_training_or_a_model() -> None:
    assert predict(load("replay/stage-times").scenario).training is None
    scenario = load("megatron/175b", SMALL).scenario
    assert run_of(replace(scenario, training=None), scenario.plan, 1e9) is None
    assert expected_days(1e9, scenario.plan, replace(scenario, model=None)) is None


# Expected days, and what they are made of.


def test_parts_are_the_whole_and_as_simulated() -> None:
    found = outlook_of(predict(load("megatron/175b-run").scenario))
    assert found.expected_days == pytest.approx(math.fsum(found.breakdown.values()))
    assert found.expected_days == pytest.approx(found.run.expected_ns / DAY_NS, rel=1e-12)
    assert found.days is not None
    assert found.days.mean == pytest.approx(found.expected_days, abs=3 * found.days.error)
    assert found.days.low < found.days.mean < found.days.high
    assert found.failures is not None
    restarts = found.failures * found.run.restart_ns / DAY_NS
    assert found.breakdown["restarts"] == pytest.approx(restarts, rel=0.01)
    # At the best interval what is lost is nearly what is spent on saving.
    parts = found.breakdown
    assert parts["lost_work"] == pytest.approx(parts["checkpoints"], rel=0.02)


def test_the_interval_is_best_unless_given() -> None:
    best = outlook_of(predicted(*FAILS, *SAVED))
    assert best.intervals is not None and best.run.interval_ns == best.intervals.best
    simulated = best.intervals.simulated_best
    assert simulated is not None and 0.4 < simulated.interval_ns / best.intervals.best < 2.6
    given = outlook_of(predicted(*FAILS, *SAVED, "training.checkpoint_interval=5 h"))
    assert given.run.interval_ns == 5 * 3600 * 10**9
    assert given.expected_days is not None and best.expected_days is not None
    assert given.expected_days > best.expected_days
    assert given.intervals is not None and given.intervals.best == best.intervals.best
    days = [p.expected_days for p in best.intervals.points]
    assert min(d for d in days if d is not None) == pytest.approx(best.expected_days, rel=1e-12)


def test_an_interval_that_cannot_be_kept_is_said() -> None:
    slow = "training.checkpoint_bandwidth=1 GB/s"
    short = outlook_of(predicted(*FAILS, slow, "training.checkpoint_interval=1 s"))
    assert short.run.interval_ns == short.run.iteration_ns
    assert any("shorter than an iteration" in note for note in short.notes)
    behind = outlook_of(
        predicted(
            *FAILS,
            slow,
            "training.checkpoint_interval=10 s",
            "training.checkpoints=background",
        )
    )
    assert behind.run.interval_ns == behind.run.pending_ns == behind.run.write_ns
    assert any("writing a checkpoint takes" in note for note in behind.notes)


def test_background_checkpoints_stall_for_their_share_only() -> None:
    blocking = outlook_of(predicted(*FAILS, *SAVED))
    behind = outlook_of(
        predicted(
            *FAILS, *SAVED, "training.checkpoints=background", "training.checkpoint_stall=0.25"
        )
    )
    assert behind.run.write_ns == blocking.run.stall_ns
    assert behind.run.stall_ns == round(0.25 * blocking.run.stall_ns)
    assert behind.expected_days is not None and blocking.expected_days is not None
    assert behind.expected_days < blocking.expected_days


def test_expected_days_of_a_plan_are_the_outlooks() -> None:
    prediction = predict(load("megatron/175b-run").scenario)
    scenario, found = prediction.scenario, outlook_of(prediction)
    days = expected_days(prediction.iteration_ns, scenario.plan, scenario)
    assert days == pytest.approx(found.expected_days, rel=1e-12)
    cost = dollars(days, scenario.plan, scenario)
    assert days is not None and cost == pytest.approx(days * 24 * 1024 * 2.0)
    # A layout of half the devices fails half as often.
    half = replace(scenario.plan, data=4)
    longer = expected_days(2 * prediction.iteration_ns, half, scenario)
    assert longer is not None and days < longer < 2 * days * 1.001


def test_a_checkpoint_is_as_large_as_published() -> None:
    """13.8 TB for the model of a trillion weights (arXiv 2104.04473, section 5.10)."""
    scenario = load("megatron/1t").scenario
    size = checkpoint_bytes(scenario, scenario.plan)
    assert size == pytest.approx(13.8e12, rel=0.03)
    again = load("megatron/1t", ["plan.tensor=1", "plan.pipeline=128", "plan.data=24"]).scenario
    assert checkpoint_bytes(again, again.plan) == size
    given = load("megatron/1t", ["training.checkpoint_size=5 TB"]).scenario
    assert checkpoint_bytes(given, given.plan) == 5 * 10**12
    plain = replace(scenario.plan, precision="fp32", optimizer="sgd")
    fp32 = checkpoint_bytes(scenario, plain)
    assert size is not None and fp32 == size * 4 // 14


# Slow devices.


def with_stragglers(scenario: Scenario, **training: Any) -> Scenario:
    return replace(scenario, training=replace(training_of(scenario), **training))


def test_devices_are_slow_at_random_as_often_as_asked() -> None:
    scenario = with_stragglers(
        load("megatron/175b").scenario, stragglers=Stragglers(share=0.3, slowdown=1.5)
    )
    found = slow_devices(scenario, np.random.default_rng(1))
    assert set(found.tolist()) == {1.0, 1.5} and found.shape == (1024,)
    assert (found > 1).mean() == pytest.approx(0.3, abs=3 * math.sqrt(0.21 / 1024))
    assert (found == slow_devices(scenario, np.random.default_rng(1))).all()
    nodes = with_stragglers(scenario, stragglers=Stragglers(share=0.3, slowdown=1.5, of="nodes"))
    by_node = slow_devices(nodes, np.random.default_rng(1)).reshape(128, 8)
    assert (by_node == by_node[:, :1]).all() and 1 < by_node.mean() < 1.5


@pytest.mark.parametrize("raised", ["ImportError", "SystemError"])
def test_with_a_numba_that_fails_fewer_draws_are_simulated(raised: str) -> None:
    code = f"""
import sys
class Old:
    def find_spec(self, name, *rest):
        if name == "numba":
            raise {raised}("numba is too old")
sys.meta_path.insert(0, Old())
from scenarios.loader import load
from sim.planner.goodput import stragglers
from sim.prediction import predict
stragglers.MOST_PASSES_INTERPRETED = 5 * 2 * 4 * 16
slow = "training.stragglers={{share: 0.5, slowdown: 2}}"
print(len(predict(load("megatron/175b", [*{SMALL!r}, slow]).scenario).training.slowdowns))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "5"


def test_a_slow_device_slows_its_tensor_group() -> None:
    plan = load("megatron/175b", SMALL).scenario.plan
    devices = np.ones(16)
    devices[plan.device_of(2, 1, 0)] = 1.25
    factors = rank_factors(plan, devices)
    assert factors.shape == (2, 4)
    assert factors[1, 2] == 1.25 and factors.sum() == 8.25


def test_only_what_a_device_computes_is_slow(published: Prediction) -> None:
    costs, schedule = published.costs, published.program.schedule
    found = slowed(costs, schedule, (1.0, 2.0) + (1.0,) * 14)
    for key, cost in costs.costs.items():
        own = found.costs[key]
        if key.stage != 1 or key.kind.name not in ("FORWARD", "BACKWARD", "OPTIMIZER"):
            assert own == cost
            continue
        assert own.duration_ns == sum(own.parts.values()) > cost.duration_ns
        for name, time in cost.parts.items():
            assert own.parts[name] == (time if name in ("tensor_parallel", "host") else 2 * time)
    assert found.transfers == costs.transfers


def test_where_all_are_slow_an_iteration_of_computation_is_as_much_longer() -> None:
    """One device in all, so that there is nothing but computation."""
    alone = (
        *("plan.tensor=1", "plan.pipeline=1", "plan.data=1", "plan.scatter_gather=false"),
        *("cluster.nodes=1", "cluster.nics_per_node=1", "cluster.devices_per_node=1"),
        *("model.layers=2", "plan.global_batch=4", "plan.clip_gradients=false"),
        "cluster.device.efficiency.message_overhead=0 ns",
        "cluster.device.efficiency.iteration_overhead=0 ns",
    )
    slow = ("training.stragglers={share: 1, slowdown: 1.5}",)
    found = outlook_of(predict(load("megatron/175b", [*alone, *slow]).scenario))
    assert found.slowdown == pytest.approx(1.5, rel=1e-6)
    assert found.expected_days == pytest.approx(1.5 * found.failure_free_days, rel=1e-6)


def test_the_slowest_replica_decides() -> None:
    """Draw by draw against SimPy, replica by replica."""
    prediction = predicted("training.stragglers={share: 0.1, slowdown: 1.4}", "training.seed=3")
    scenario, program, costs = prediction.scenario, prediction.program, prediction.costs
    found = iteration_factors(scenario, program, costs)
    assert len(found) == 64 and len(set(found)) > 3
    base = simulate(program, costs).iteration_ns
    for pattern in range(8):
        devices = slow_devices(scenario, np.random.default_rng([3, 1, pattern]))
        times = [
            simulate(program, slowed(costs, program.schedule, tuple(row))).iteration_ns
            for row in rank_factors(scenario.plan, devices).tolist()
        ]
        assert found[pattern] == max(times) / base


def test_jitter_makes_a_pipeline_wait() -> None:
    calm = outlook_of(predicted("training.jitter=0"))
    assert calm.is_plain
    small, large = (outlook_of(predicted(f"training.jitter={x}")) for x in (0.01, 0.05))
    assert 1.003 < small.slowdown < large.slowdown < 1.15
    assert small.days is None and small.expected_days is not None
    assert small.expected_days == pytest.approx(small.slowdown * small.failure_free_days)
    again = outlook_of(predicted("training.jitter=0.01"))
    other = outlook_of(predicted("training.jitter=0.01", "training.seed=1"))
    assert again.slowdown == small.slowdown != other.slowdown


def test_slow_devices_and_failures_come_together() -> None:
    slow = "training.stragglers={share: 0.05, slowdown: 1.3}"
    found = outlook_of(predicted(*FAILS, *SAVED, slow))
    assert found.days is not None and found.expected_days is not None
    assert len(found.slowdowns) == 64
    assert list(found.breakdown) == [
        "training",
        "slow_devices",
        "checkpoints",
        "lost_work",
        "restarts",
    ]
    assert found.days.mean == pytest.approx(found.expected_days, rel=0.01)
    quick, late = min(found.slowdowns), max(found.slowdowns)
    assert found.days.low > quick * found.failure_free_days
    assert found.days.high < 1.2 * late * found.failure_free_days
