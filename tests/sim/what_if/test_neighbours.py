"""Neighbours: which there are, that each is predicted as `predict` does, and which are the best."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asking_cases import asked, has_plan, peak_of, small, time_of

from scenarios import rules
from scenarios.loader import load
from scenarios.schema import MicrobatchGroup, Plan, Scenario
from sim.cost.profile import MessageTime, Profile
from sim.cost.profile_file import read_profile
from sim.cost.shapes import Part, PartTime, Pass, shape_of
from sim.engine.deadlock import Deadlock
from sim.planner.goodput.run import dollars, expected_days
from sim.planner.layouts.evaluation import Evaluator
from sim.prediction import predict
from sim.schedule.checks import ScheduleError
from sim.what_if.asking import what_if
from sim.what_if.budget import Budget
from sim.what_if.neighbours import Own, neighbours
from sim.what_if.variations import variations

ROOT = Path(__file__).resolve().parents[3]
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "interleaved": {"schedule": "interleaved", "chunks": 2, "sequence_parallel": True},
    "sliced": {"slices": 4, "p2p": "overlapped", "recomputation": "none"},
    "microbatches": {"global_batch": None, "microbatches": 8, "sharding": "optimizer"},
    "one pipeline rank": {"pipeline": 1, "data": 4, "sharding": "full"},
    "groups": {
        "global_batch": None,
        "microbatch_groups": (
            MicrobatchGroup(microbatches=3, micro_batch=2),
            MicrobatchGroup(microbatches=2, slices=(64, 32, 32)),
        ),
    },
    "uneven": {"layers_per_stage": (5, 3), "devices": (4, 5, 6, 7, 0, 1, 2, 3)},
    "given order": {
        "schedule": "given",
        "global_batch": None,
        "microbatches": 3,
        "schedule_order": ("0F0,0F1,0F2,0B0,0B1,0B2", "1F0,1B0,1F1,1B1,1F2,1B2"),
    },
}


def values(scenario: Scenario) -> dict[str, list[str]]:
    """Of each field the values that are tried, with what follows."""
    found: dict[str, list[str]] = {}
    for one in variations(scenario):
        found.setdefault(one.field, []).append(f"{one.value} {one.also}".strip())
    return found


def test_one_decision_otherwise() -> None:
    assert values(small()) == {
        "micro_batch": ["2"],
        "tensor": ["4 data 1", "1 data 4", "4 pipeline 1"],
        "pipeline": ["4 data 1", "1 data 4", "4 tensor 1"],
        "schedule": ["gpipe", "interleaved chunks 2", "interleaved chunks 4"],
        "slices": ["2", "4"],
        "recomputation": ["none", "selective"],
        "sharding": ["optimizer"],
        "gradient_reduction": ["overlapped"],
        "p2p": ["overlapped", "exchange"],
        "sequence_parallel": ["true"],
        "scatter_gather": ["false"],
        "placement": ["tensor-pipeline-data", "data-tensor-pipeline", "data-pipeline-tensor"],
    }


def test_of_other_plans() -> None:
    chunked = values(small(schedule="interleaved", chunks=2))
    assert chunked["chunks"] == ["4"] and chunked["schedule"] == ["1f1b", "gpipe"]
    assert "slices" not in chunked
    # A pipeline of one rank has no chunks: 1F1B follows.
    alone = [v for v in variations(small(schedule="interleaved", chunks=2)) if v.plan.pipeline == 1]
    assert alone and all((v.plan.schedule, v.plan.chunks) == ("1f1b", 1) for v in alone)
    assert values(small(slices=4))["slices"] == ["2", "8", "none"]
    assert values(small(slices=(64, 32, 32)))["slices"] == ["3", "none"]
    assert values(small(micro_batch=4))["micro_batch"] == ["8", "2"]
    whole = values(small(pipeline=1, data=4))
    assert {"p2p", "schedule", "scatter_gather"}.isdisjoint(whole)
    assert whole["sharding"] == ["optimizer", "full"]
    assert "gradient_reduction" not in values(small(pipeline=1, data=4, sharding="full"))
    assert {"sharding", "gradient_reduction"}.isdisjoint(values(small(data=1, tensor=4)))
    assert "sequence_parallel" not in values(small(tensor=1, data=4))
    placed = values(small(**CASES["uneven"]))
    assert {"tensor", "pipeline", "placement"}.isdisjoint(placed)
    assert placed["layers_per_stage"] == ["even"]
    grouped = values(small(**CASES["groups"]))
    assert {"micro_batch", "slices"}.isdisjoint(grouped)
    assert grouped["tensor"] == ["4 pipeline 1"]
    ordered = values(small(**CASES["given order"]))
    assert ordered["schedule"] == ["1f1b", "gpipe"]
    assert {"micro_batch", "slices", "pipeline"}.isdisjoint(ordered)


def test_bidirectional_attention_has_no_slices() -> None:
    assert "slices" in values(small())
    assert "slices" not in values(small("model.family=bert"))


@pytest.mark.parametrize("case", CASES)
def test_all_else_is_as_it_is(case: str) -> None:
    scenario = small(**CASES[case])
    found = variations(scenario)
    assert len(found) >= 4 and len({v.plan for v in found}) == len(found)
    assert scenario.plan not in {v.plan for v in found}
    follows = {
        "tensor": {"data", "pipeline", "microbatches", "schedule", "chunks"},
        "pipeline": {"data", "tensor", "microbatches", "schedule", "chunks"},
        "schedule": {"chunks", "schedule_order"},
        "micro_batch": {"microbatches"},
    }
    for one in found:
        assert not rules.check(has_plan(scenario, one.plan))
        assert one.plan.num_sequences == scenario.plan.num_sequences
        differs = {
            name
            for name in Plan.__dataclass_fields__
            if getattr(one.plan, name) != getattr(scenario.plan, name)
        }
        assert one.field in differs
        assert differs <= {one.field} | follows.get(one.field, set()), one
        if one.also:
            field, value = one.also.split()
            assert str(getattr(one.plan, field)) == value
        if one.value not in ("none", "even", "true", "false"):
            assert str(getattr(one.plan, one.field)) == one.value


@pytest.mark.parametrize("case", CASES)
def test_each_is_what_predict_says(case: str) -> None:
    scenario = small(**CASES[case])
    prediction, found = asked(scenario)
    assert found.iteration_ns == prediction.figures.iteration_ns
    assert found.peak_bytes == peak_of(scenario)
    assert len(found.neighbours) >= 4
    for one in found.neighbours:
        other = has_plan(scenario, one.plan)
        time = time_of(other)
        assert (one.iteration_ns, one.peak_bytes, one.fits) == (time, peak_of(other), True)
        assert one.slower == time / found.iteration_ns - 1
        assert one.days == expected_days(time, one.plan, other)
        assert one.dollars == dollars(one.days, one.plan, other)
    times = [one.iteration_ns for one in found.neighbours]
    assert times == sorted(times, key=lambda t: t or 0)


def test_those_that_do_not_fit_have_no_time() -> None:
    _, found = asked(small())
    peaks = sorted({one.peak_bytes for one in found.neighbours})
    capacity = peaks[len(peaks) // 2]
    scenario = small(f"cluster.device.memory={capacity} B")
    _, found = asked(scenario)
    fits = [one.fits for one in found.neighbours]
    assert fits == sorted(fits, reverse=True) and len(set(fits)) == 2
    for one in found.neighbours:
        assert one.fits == (one.peak_bytes <= capacity)
        assert (one.iteration_ns is None) == (one.days is None) == (not one.fits)
        assert (one.slower is None) == (one.dollars is None) == (not one.fits)
        assert one.fits or not one.on_front


@pytest.mark.parametrize("case", ["plain", "interleaved", "sliced"])
def test_the_front_is_what_nothing_beats_in_time_and_memory(case: str) -> None:
    _, found = asked(small(**CASES[case]))
    own = (found.iteration_ns, found.peak_bytes)
    points = [own, *((n.iteration_ns, n.peak_bytes) for n in found.neighbours)]
    for one in found.neighbours:
        here = (one.iteration_ns or 0, one.peak_bytes)
        beaten = any(
            p != here and (p[0] or 0) <= here[0] and (p[1] or 0) <= here[1] for p in points
        )
        assert one.on_front == (not beaten)
    assert any(one.on_front for one in found.neighbours)


def test_a_layout_that_does_not_fit_beats_no_neighbour() -> None:
    scenario = small(recomputation="none")
    own = Own(time_ns=1, peak_bytes=100 << 30, capacity=80 << 30)
    tried, _ = neighbours(scenario, own, Evaluator(scenario), Budget(scenario))
    assert any(one.neighbour.on_front for one in tried)
    fast = Own(time_ns=1, peak_bytes=1, capacity=80 << 30)
    tried, _ = neighbours(scenario, fast, Evaluator(scenario), Budget(scenario))
    assert not any(one.neighbour.on_front for one in tried)


def test_a_budget_bounds_what_is_simulated() -> None:
    scenario = small()
    own = Own(time_ns=1, peak_bytes=1, capacity=80 << 30)
    evaluator = Evaluator(scenario)
    everything, unasked = neighbours(scenario, own, evaluator, Budget(scenario))
    assert unasked == 0
    each = Budget(scenario).passes(scenario.plan)
    assert each == 2 * 2 * 8  # Passes of two ranks and 8 microbatches.
    some, unasked = neighbours(scenario, own, evaluator, Budget(scenario, 5 * each))
    assert 0 < len(some) < len(everything) and len(some) + unasked == len(everything)
    none, unasked = neighbours(scenario, own, evaluator, Budget(scenario, 0))
    assert not none and unasked == len(everything)


def test_orders_that_cannot_run_are_no_neighbours() -> None:
    scenario = small()

    class Refusing(Evaluator):
        """No order but the given one runs."""

        def iteration_ns(self, plan: Plan) -> int:
            if plan.schedule == "gpipe":
                raise ScheduleError("not this one")
            if plan.p2p != scenario.plan.p2p:
                raise Deadlock([])
            return super().iteration_ns(plan)

    own = Own(time_ns=1, peak_bytes=1, capacity=80 << 30)
    tried, unasked = neighbours(scenario, own, Refusing(scenario), Budget(scenario))
    assert unasked == 0 and len(tried) == len(variations(scenario)) - 3
    assert {one.plan.p2p for one in tried} == {scenario.plan.p2p}


def test_a_profile_is_honoured() -> None:
    scenario = load("megatron/175b", ["plan.global_batch=64"]).scenario
    profile = read_profile(ROOT / "scenarios" / "profiles" / "a100-80gb.yaml")
    slow = replace(profile.efficiency["matmul_max"], value=0.3)
    changed = replace(profile, efficiency={**profile.efficiency, "matmul_max": slow})
    found = what_if(predict(scenario, changed))
    assert found.iteration_ns > 1.5 * predict(scenario, profile).figures.iteration_ns
    for one in found.neighbours[:4]:
        other = predict(has_plan(scenario, one.plan), changed)
        assert one.iteration_ns == other.figures.iteration_ns
    matmul = next(s for s in found.sensitivities if s.input == "matrix product efficiency")
    assert matmul.low_ns > found.iteration_ns > matmul.high_ns


def measured(scenario: Scenario) -> Profile:
    """A profile that has measured all parts of the scenario's own passes, and its messages."""
    assert scenario.cluster is not None and scenario.model is not None
    parts: tuple[tuple[Part, float], ...] = (("layer", 1.0), ("embedding", 0.5), ("head", 2.0))
    passes: tuple[tuple[Pass, float], ...] = (("forward", 1.0), ("backward", 2.0))
    times = {
        (part, name): PartTime(median_ns=2e6 * a * b, quartiles_ns=(0.0, 0.0), samples=3)
        for part, a in parts
        for name, b in passes
    }
    return Profile(
        device=scenario.cluster.device.name,
        provenance="by hand",
        times={shape_of(scenario, scenario.model.sequence, 0): times},
        transfer=MessageTime(fixed_ns=1e5, ns_per_byte=0.5, error=0.0),
    )


def test_measured_passes_are_freed_by_kind_and_neighbours_predicted_from_them() -> None:
    scenario = load("local-2rank").scenario
    profile = measured(scenario)
    prediction = predict(scenario, profile)
    found = what_if(prediction)
    freed = {one.what: one for one in found.freed}
    assert {"forward", "backward", "bubble", "point_to_point", "optimizer"} <= freed.keys()
    assert "matmul" not in freed and freed["backward"].gain > freed["forward"].gain > 0.2
    assert len(found.neighbours) > 8
    for one in found.neighbours:
        other = predict(has_plan(scenario, one.plan), profile).figures.iteration_ns
        assert one.iteration_ns == other
    # Its own passes are what was measured, whatever the device's peak is.
    matmul = next(s for s in found.sensitivities if s.input == "matrix product efficiency")
    assert matmul.low_ns == matmul.high_ns == found.iteration_ns
