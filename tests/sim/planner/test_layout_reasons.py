"""Why not otherwise, and how the best layout hangs on its inputs: held to simulations by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from scenarios.schema import Plan, Scenario
from sim.cost.profile import Fitted, Profile
from sim.planner.layouts.alternatives import written_value
from sim.planner.layouts.found import Candidate, PlanSearch, Sensitivity
from sim.planner.layouts.inputs import INPUTS
from sim.planner.layouts.reasons import Seen, does_not_fit, why_slower
from sim.planner.layouts.search import search
from sim.planner.layouts.space import LayoutSpace
from sim.prediction import predict
from sim.schedule.build import build_schedule
from sim.workload.memory import memory_model, peak_bytes
from tests.sim.planner.layout_scenarios import small

ONLY: dict[str, tuple[object, ...]] = {
    "micro_batch": (1, 2),
    "slices": (None, 2),
    "sharding": ("none", "optimizer"),
}


@cache
def scenario() -> Scenario:
    """A device that holds some of the layouts; those of one tensor rank do not fit."""
    made = small(layers=4, heads=8, batch=8, nodes=2, per_node=2)
    assert made.model is not None
    made = replace(made, model=replace(made.model, sequence=512, vocabulary=4096))
    assert made.cluster is not None
    device = replace(made.cluster.device, memory=100 << 20)
    return replace(made, cluster=replace(made.cluster, device=device))


@cache
def found() -> PlanSearch:
    return search(scenario(), only=ONLY, jobs=1)


@cache
def everything() -> tuple[tuple[int, int, Plan], ...]:
    """All candidates: time, peak, plan."""
    space = LayoutSpace(scenario(), 4, ONLY)
    plans = [
        space.plan(cell, spread)
        for room in space.rooms
        for cell in space.cells(room).cells
        for spread in cell.spreads
    ]
    return tuple((time_of(plan), max(peaks_of(plan)), plan) for plan in plans)


def time_of(plan: Plan, chosen: Scenario | None = None, profile: Profile | None = None) -> int:
    where = chosen if chosen is not None else scenario()
    return predict(replace(where, plan=plan), profile).figures.iteration_ns


def peaks_of(plan: Plan) -> tuple[int, ...]:
    chosen = replace(scenario(), plan=plan)
    schedule = build_schedule(chosen)
    model = memory_model(chosen, schedule)
    assert model is not None
    return peak_bytes(model, schedule)


def capacity() -> int:
    cluster = scenario().cluster
    assert cluster is not None
    return cluster.device.memory


def test_the_device_holds_some() -> None:
    over = sum(peak > capacity() for _, peak, _ in everything())
    assert 0.2 < over / len(everything()) < 0.95
    assert found().spaces[0].over_memory == over


def test_each_other_value_has_its_best_layout() -> None:
    """For every dimension and every value but the winner's: the best of all that have it."""
    told = {(a.field, a.value): a for a in found().alternatives}
    assert len(told) == len(found().alternatives)
    space = LayoutSpace(scenario(), 4, ONLY)
    winner, missing = found().best, 0
    for name in space.dimensions:
        values = {getattr(plan, name) for _, _, plan in everything()}
        for value in values - {getattr(winner.plan, name)}:
            alternative = told.pop((name, written_value(value)))
            have = [entry for entry in everything() if getattr(entry[2], name) == value]
            fitting = [entry for entry in have if entry[1] <= capacity()]
            assert alternative.chosen == written_value(getattr(winner.plan, name))
            if fitting:
                best = min(fitting, key=lambda entry: entry[:2])
                assert alternative.candidate is not None
                candidate = alternative.candidate
                assert getattr(candidate.plan, name) == value
                assert (candidate.iteration_ns, candidate.peak_bytes) == best[:2]
                assert alternative.slower == best[0] / winner.iteration_ns - 1
            else:
                missing += 1
                least = min(have, key=lambda entry: entry[1])
                assert alternative.candidate is None and alternative.slower is None
                assert alternative.missing_bytes == least[1] - capacity()
                peaks = peaks_of(least[2])
                assert alternative.reason == does_not_fit(
                    least[1], capacity(), peaks.index(max(peaks))
                )
    assert not told
    assert missing > 0


def test_values_that_make_no_difference_to_the_best_are_no_alternatives() -> None:
    only = {"tensor": (1,), "p2p": ("overlapped", "blocking"), "micro_batch": (1, 2)}
    two = small(nodes=2, per_node=1)
    alone = search(two, only=only | {"pipeline": (1,)}, jobs=1).alternatives
    assert {other.field for other in alone} >= {"micro_batch", "sharding"}
    assert not {other.field for other in alone} & {"p2p", "placement", "sequence_parallel"}
    deep = search(two, only=only | {"pipeline": (2,)}, jobs=1).alternatives
    assert "p2p" in {other.field for other in deep}
    assert not {other.field for other in deep} & {"sharding", "gradient_reduction", "placement"}


def test_shares_are_the_figures_of_a_prediction() -> None:
    best = predict(replace(scenario(), plan=found().best.plan))
    assert found().shares == dict(best.figures.breakdown)


def test_why_a_layout_is_slower_by_what_grew_most() -> None:
    def reason(name: str, **changes: object) -> str:
        """Of a plan beside the winner, with its own shares."""
        plan = replace(winner.plan, **changes)  # type: ignore[arg-type]
        prediction = predict(replace(chosen, plan=plan))
        other = replace(winner, plan=plan, iteration_ns=prediction.figures.iteration_ns)
        return why_slower(name, seen, other, prediction.figures.breakdown)

    chosen = small(layers=16, heads=16, batch=64, nodes=2, per_node=8, nics=8)
    assert chosen.model is not None
    chosen = replace(chosen, model=replace(chosen.model, sequence=2048))
    plan = replace(chosen.plan, tensor=2, pipeline=2, data=4, micro_batch=2)
    first = predict(replace(chosen, plan=plan))
    winner = Candidate(
        plan=plan,
        iteration_ns=first.figures.iteration_ns,
        bound_ns=1,
        peak_bytes=1 << 30,
        num_devices=16,
        tflops_per_gpu=1.0,
        days=None,
        dollars=None,
    )
    seen = Seen(candidate=winner, scenario=chosen, shares=first.figures.breakdown)
    wide = reason("tensor", tensor=16, pipeline=1, data=1)
    assert "all-reduce of tensor 16 leaves the node, over 2 nodes" in wide
    assert wide.startswith("tensor-parallel collectives ") and " % -> " in wide
    deep = reason("pipeline", pipeline=16, tensor=1, data=1, micro_batch=16)
    assert deep.startswith("bubble") and "4 microbatches a pipeline for 16 ranks" in deep
    assert reason("recomputation", recomputation="full").endswith("recomputes whole layers")
    sliced = reason("slices", slices=16)
    assert sliced.startswith("launching") and sliced.endswith("more and smaller pieces of work")
    same = replace(winner, plan=replace(plan, schedule="gpipe"), peak_bytes=3 << 30)
    assert why_slower("schedule", seen, same, None) == "as fast, but needs 2.0 GiB more"
    # Causal attention of slices leaves out what the mask hides; whole sequences do not.
    cut = replace(seen, candidate=replace(winner, plan=replace(plan, slices=4)))
    later = replace(winner, iteration_ns=2 * winner.iteration_ns)
    masked = why_slower("slices", cut, later, {"attention": 0.9, "matmul": 0.1})
    assert masked.endswith("whole sequences compute more of the scores that the causal mask hides")
    # Without shares, by what the layout is.
    late = replace(winner, plan=replace(plan, tensor=16), iteration_ns=2 * winner.iteration_ns)
    assert "leaves the node" in why_slower("tensor", seen, late, None)
    half = replace(winner, num_devices=8, iteration_ns=winner.iteration_ns * 3 // 2)
    assert why_slower("gpus", seen, half, None) == (
        "0.67x as fast on 0.50x as many GPUs: 0.75x the GPU-hours"
    )


def test_other_numbers_of_devices_are_alternatives() -> None:
    both = search(scenario(), gpus=(4, 8), only=ONLY, jobs=1)
    others = [a for a in both.alternatives if a.field == "gpus"]
    assert len(others) == 1 and others[0].chosen == str(both.best.num_devices)
    assert others[0].candidate is not None
    assert {both.best.num_devices, others[0].candidate.num_devices} == {4, 8}
    if both.best.num_devices == 8:
        assert others[0].candidate.plan == found().best.plan


@pytest.mark.parametrize("number", range(len(INPUTS) - 1))
def test_what_an_input_changes_is_simulated(number: int) -> None:
    """Each end of each input, but the memory: the winner's time there, and whether another one is
    faster."""
    one: Sensitivity = found().sensitivities[number]
    best = found().best.plan
    for factor, time, overtaken in (
        (one.low, one.low_ns, one.overtaken_low),
        (one.high, one.high_ns, one.overtaken_high),
    ):
        changed = with_input(scenario(), one.field, factor)
        assert time_of(best, changed) == time
        if overtaken is not None:
            assert time_of(overtaken, changed) < time
        for candidate in found().ranked:
            other = time_of(candidate.plan, changed)
            assert overtaken is not None or other >= time
            assert overtaken is None or other >= time_of(overtaken, changed)


def with_input(chosen: Scenario, field: str, factor: float) -> Scenario:
    cluster = chosen.cluster
    assert cluster is not None
    device, efficiency = cluster.device, cluster.device.efficiency
    _, owner, *rest = field.split(".")
    name = rest[-1]
    if owner != "device":
        link = getattr(cluster, owner)
        link = replace(link, **{name: type(getattr(link, name))(getattr(link, name) * factor)})
        return replace(chosen, cluster=replace(cluster, **{owner: link}))
    if len(rest) == 2:
        value = getattr(efficiency, name)
        device = replace(
            device, efficiency=replace(efficiency, **{name: type(value)(value * factor)})
        )
    else:
        value = getattr(device, name)
        device = replace(device, **{name: type(value)(value * factor)})
    return replace(chosen, cluster=replace(cluster, device=device))


def test_less_and_more_memory_change_the_best_of_all() -> None:
    memory = found().sensitivities[-1]
    assert memory.field == "cluster.device.memory"
    best = found().best
    for factor, time, plan in (
        (0.8, memory.low_ns, memory.overtaken_low),
        (1.2, memory.high_ns, memory.overtaken_high),
    ):
        fitting = [entry for entry in everything() if entry[1] <= int(capacity() * factor)]
        assert time == min(entry[0] for entry in fitting)
        assert time_of(plan if plan is not None else best.plan) == time
    assert memory.low_ns >= best.iteration_ns >= memory.high_ns


def test_what_a_profile_has_fitted_is_changed_in_it() -> None:
    cluster = scenario().cluster
    assert cluster is not None
    fitted = Fitted(value=0.5, interval=None)
    profile = Profile(
        device=cluster.device.name, provenance="a test", efficiency={"matmul_max": fitted}
    )
    only = {**ONLY, "micro_batch": (2,), "tensor": (1, 2)}
    result = search(scenario(), only=only, profile=profile, jobs=1)
    one = result.sensitivities[0]
    assert one.field == "cluster.device.efficiency.matmul_max"
    less = replace(profile, efficiency={"matmul_max": replace(fitted, value=0.4)})
    assert one.low_ns == time_of(result.best.plan, profile=less) > result.best.iteration_ns
    # No device reaches more than its peak.
    most = replace(profile, efficiency={"matmul_max": replace(fitted, value=0.9)})
    capped = search(scenario(), only=only, profile=most, jobs=1).sensitivities[0]
    assert capped.high == pytest.approx(1 / 0.9)
