"""Inputs otherwise, break-even points and scaling: each is what `predict` says of that scenario."""

from dataclasses import replace
from typing import Any

import pytest
from asking_cases import asked, has_plan, peak_of, small, time_of

from scenarios.loader import load
from scenarios.resizing import resized
from scenarios.schema import Scenario
from sim.planner.goodput.run import dollars, expected_days
from sim.planner.layouts.inputs import OF_ONE_LAYOUT
from sim.what_if.break_even import FURTHEST, MOST, MOST_OF_ONE
from sim.what_if.budget import Budget
from sim.what_if.found import BreakEven
from sim.what_if.layouts import of_layouts
from sim.what_if.scaling import scaling
from sim.workload.flops import model_flops

NEAR_175B = ("plan.global_batch=64", "training.tokens=1e9")


def cases() -> dict[str, Scenario]:
    return {
        "small": small(),
        "overlapped": small(p2p="overlapped", gradient_reduction="overlapped"),
        "175b, few microbatches": load("megatron/175b", NEAR_175B).scenario,
    }


NAMES = ("small", "overlapped", "175b, few microbatches")


def with_value(scenario: Scenario, field: str, factor: float) -> Scenario:
    """The scenario with a field of its cluster so many times as large."""

    def put(owner: Any, path: list[str]) -> Any:
        value = getattr(owner, path[0])
        if len(path) > 1:
            return replace(owner, **{path[0]: put(value, path[1:])})
        scaled = value * factor
        return replace(owner, **{path[0]: round(scaled) if isinstance(value, int) else scaled})

    found: Scenario = put(scenario, field.split("."))
    return found


def value_in(scenario: Scenario, field: str) -> float:
    found: Any = scenario
    for name in field.split("."):
        found = getattr(found, name)
    return float(found)


@pytest.mark.parametrize("name", NAMES)
def test_sensitivities_are_predictions_of_changed_scenarios(name: str) -> None:
    scenario = cases()[name]
    _, found = asked(scenario)
    told = {one.field: one for one in found.sensitivities}
    expected = [f"cluster.{one.field}" for one in OF_ONE_LAYOUT]
    assert sorted(told) == sorted(f for f in expected if value_in(scenario, f))
    effects = [abs(one.high_ns - one.low_ns) for one in found.sensitivities]
    assert effects == sorted(effects, reverse=True) and effects[0] > 0
    for one in found.sensitivities:
        if one.field == "cluster.device.memory":
            continue
        ends = (
            (one.low, one.low_ns, one.overtaken_low),
            (one.high, one.high_ns, one.overtaken_high),
        )
        for factor, time, overtaken in ends:
            other = with_value(scenario, one.field, factor)
            assert time_of(other) == time
            if overtaken is not None:
                # As fast or slower now, faster then, and none of the others is faster still.
                assert time_of(has_plan(scenario, overtaken)) >= found.iteration_ns
                assert time_of(has_plan(other, overtaken)) < time


def test_an_efficiency_does_not_go_beyond_all() -> None:
    _, found = asked(small("cluster.device.efficiency.matmul_max=0.9"))
    one = next(s for s in found.sensitivities if s.field.endswith("matmul_max"))
    assert one.low == 0.8
    assert one.high == pytest.approx(1 / 0.9)


def test_the_neighbour_that_overtakes_is_named() -> None:
    # Two chunks are a little slower than one, until messages between nodes are faster.
    scenario = load("megatron/175b", ["plan.global_batch=1536"]).scenario
    _, found = asked(scenario)
    one = next(s for s in found.sensitivities if s.field == "cluster.inter_node.bandwidth")
    assert one.overtaken_low is None and one.overtaken_high is not None
    named = next(n for n in found.neighbours if n.plan == one.overtaken_high)
    assert (named.field, named.also) == ("schedule", "chunks 6") and (named.slower or 0) > 0


@pytest.mark.parametrize("share", [0.9, 1.05, 1.3])
def test_memory_decides_who_fits(share: float) -> None:
    _, wide = asked(small())
    peaks = [wide.peak_bytes or 0, *(n.peak_bytes for n in wide.neighbours)]
    # Between the least and the most that layouts need.
    capacity = int(share * (wide.peak_bytes or 0))
    scenario = small(f"cluster.device.memory={capacity} B")
    _, found = asked(scenario)
    one = next((s for s in found.sensitivities if s.field.endswith("device.memory")), None)
    times = {n.plan: time_of(has_plan(scenario, n.plan)) for n in found.neighbours}
    fit = {
        factor: [n for n in found.neighbours if n.peak_bytes <= int(factor * capacity)]
        for factor in (0.8, 1.0, 1.2)
    }
    if share < 1:
        assert one is None and min(peaks) < capacity
        return
    less = [times[n.plan] for n in fit[0.8]]
    own_fits = (found.peak_bytes or 0) <= int(0.8 * capacity)
    if not own_fits and not less:
        assert one is None
        return
    assert one is not None
    assert one.low_ns == (found.iteration_ns if own_fits else min(less))
    assert (one.overtaken_low is None) == own_fits
    more = [times[n.plan] for n in fit[1.2] if not n.fits]
    assert one.high_ns == min([found.iteration_ns, *more])


@pytest.mark.parametrize("name", NAMES)
def test_on_either_side_of_a_break_even_another_is_faster(name: str) -> None:
    scenario = cases()[name]
    _, found = asked(scenario)
    simulated = [b for b in found.break_evens if not b.field.endswith("device.memory")]
    assert simulated and len(found.break_evens) <= MOST
    for one in simulated:
        scale = 1e9 if one.unit == "s" else 1
        now = value_in(scenario, one.field)
        assert one.now == pytest.approx(now / scale)
        assert 1 / FURTHEST <= one.at / one.now <= FURTHEST
        for beside in (0.99, 1.01):
            other = with_value(scenario, one.field, one.at / one.now * beside)
            faster = time_of(has_plan(other, one.neighbour.plan)) < time_of(other)
            assert faster == (one.below == (beside < 1)), (one, beside)
        here = time_of(with_value(scenario, one.field, one.at / one.now))
        assert one.iteration_ns == here
        there = has_plan(with_value(scenario, one.field, one.at / one.now), one.neighbour.plan)
        assert time_of(there) == pytest.approx(here, rel=2e-3)
    distances = [max(b.at / b.now, b.now / b.at) for b in found.break_evens]
    assert distances == sorted(distances)
    of_one = [b.neighbour.plan for b in simulated]
    assert all(of_one.count(plan) <= MOST_OF_ONE for plan in of_one)


def of_memory(scenario: Scenario) -> list[BreakEven]:
    return [b for b in asked(scenario)[1].break_evens if b.field == "cluster.device.memory"]


def test_memory_at_which_layouts_fit_is_exact() -> None:
    wide = asked(small())[1]
    faster = next(n for n in wide.neighbours if n.peak_bytes > (wide.peak_bytes or 0))
    assert (faster.slower or 0) < 0
    # Just the given layout fits, and not the faster one.
    scenario = small(f"cluster.device.memory={faster.peak_bytes - 1} B")
    found = of_memory(scenario)
    assert found
    for one in found:
        plan = scenario.plan if one.below else one.neighbour.plan
        assert peak_of(has_plan(scenario, plan)) == one.at
        assert (one.unit, one.now) == ("bytes", faster.peak_bytes - 1)
        time = time_of(has_plan(scenario, one.neighbour.plan))
        assert one.iteration_ns == time
        if one.below:
            assert one.neighbour.fits and one.neighbour.peak_bytes < one.at
        else:
            assert not one.neighbour.fits and time < time_of(scenario)
    above = [b for b in found if not b.below]
    assert [b.neighbour.plan for b in above] == [faster.plan] and above[0].at == faster.peak_bytes


@pytest.mark.parametrize("name", NAMES)
def test_scaling_is_prediction_on_other_clusters(name: str) -> None:
    scenario = cases()[name]
    model, cluster, plan = scenario.model, scenario.cluster, scenario.plan
    assert model is not None and cluster is not None
    _, found = asked(scenario)
    kinds = [(p.kind, p.num_devices) for p in found.scaling]
    assert kinds == sorted(kinds) and len(set(kinds)) == len(kinds)
    for kind in ("strong", "weak"):
        points = [p for p in found.scaling if p.kind == kind]
        assert len(points) >= 3 and [p.data for p in points if p.is_own] == [plan.data]
        assert points[0].efficiency == 1.0
        base = points[0].tokens_per_s / points[0].num_devices
        for p in points:
            batch = plan.num_sequences
            if kind == "weak":
                batch = batch * p.data // plan.data
            own = replace(plan, data=p.data, global_batch=batch)
            where = resized(cluster, own.num_devices)
            one = replace(scenario, plan=own, cluster=where)
            time = time_of(one)
            assert (p.iteration_ns, p.global_batch, p.num_devices) == (
                time,
                batch,
                own.num_devices,
            )
            assert (p.peak_bytes, p.fits) == (peak_of(one), True)
            assert p.tokens_per_s == pytest.approx(batch * model.sequence / (time / 1e9))
            assert p.efficiency == pytest.approx(p.tokens_per_s / p.num_devices / base)
            flops = model_flops(model, batch)
            assert p.tflops_per_gpu == pytest.approx(flops / time / p.num_devices / 1e3)
            assert p.days == expected_days(time, own, one)
            assert p.dollars == dollars(p.days, own, one)
        own_point = next(p for p in points if p.is_own)
        assert own_point.iteration_ns == found.iteration_ns
    strong = [p.efficiency for p in found.scaling if p.kind == "strong"]
    assert strong == sorted(strong, reverse=True)


def test_weak_scaling_without_reductions_is_perfect() -> None:
    endless = ("bandwidth=1e30 B/s", "latency=0 s")
    links = [f"cluster.{link}.{one}" for link in ("intra_node", "inter_node") for one in endless]
    free = [f"cluster.device.efficiency.{name}=0 s" for name in ("launch", "collective_launch")]
    # The norm is one more collective over all devices.
    scenario = small(*links, *free, clip_gradients=False)
    points = [p for p in asked(scenario)[1].scaling if p.kind == "weak"]
    assert [p.data for p in points] == [1, 2, 4, 8, 16]
    assert [p.efficiency for p in points] == [1.0] * 5
    assert len({p.iteration_ns for p in points}) == 1


def test_strong_scaling_of_one_rank_a_replica_in_closed_form() -> None:
    scenario = small(
        "cluster.inter_node.bandwidth=1e30 B/s",
        "cluster.intra_node.bandwidth=1e30 B/s",
        *("cluster.inter_node.latency=0 s", "cluster.intra_node.latency=0 s"),
        *("cluster.device.efficiency.launch=0 s", "cluster.device.efficiency.layer_overhead=0 s"),
        *("cluster.device.efficiency.collective_launch=0 s", "plan.global_batch=64"),
        tensor=1,
        pipeline=1,
        data=8,
        clip_gradients=False,
    )
    points = [p for p in asked(scenario)[1].scaling if p.kind == "strong"]
    by_data = {p.data: p.iteration_ns for p in points}
    # m passes of each kind, and an optimizer step that is the same: linear in m = 64 / data.
    each = (by_data[2] - by_data[4]) / 16
    fixed = by_data[2] - 32 * each
    assert by_data == {d: 64 // d * each + fixed for d in by_data} and len(by_data) == 6


def test_numbers_of_devices_that_cannot_be_are_no_points() -> None:
    scenario = small(data=2, global_batch=24)
    strong = [p for p in asked(scenario)[1].scaling if p.kind == "strong"]
    assert [p.data for p in strong] == [1, 2, 4, 8]  # 24 does not divide by 16.
    fixed = small(devices=(4, 5, 6, 7, 0, 1, 2, 3))
    assert [p.data for p in asked(fixed)[1].scaling] == [2, 2]


def test_a_small_budget_leaves_questions_out_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    prediction, whole = asked(small())
    assert whole.left_out == ()
    some, unasked = scaling(prediction.scenario, None, Budget(prediction.scenario, 150))
    assert some and unasked
    monkeypatch.setattr("sim.what_if.layouts.Budget", lambda scenario: Budget(scenario, 1000))
    bounded = of_layouts(prediction, whole, lambda text: None)
    assert len(bounded.neighbours) <= len(whole.neighbours)
    assert len(bounded.sensitivities) < len(whole.sensitivities)
    assert bounded.left_out and all("as the program is large" in text for text in bounded.left_out)
