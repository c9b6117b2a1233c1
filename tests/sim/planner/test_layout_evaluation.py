"""What layouts are evaluated with, held to the cost table, the memory model and the simulation."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from random_layouts import plans, scenario

from scenarios.hardware import Cluster
from scenarios.loader import load
from scenarios.schema import MicrobatchGroup, Plan, Scenario
from sim.cost.profile import Fitted, MessageTime, Profile, ProfileMismatch
from sim.cost.shapes import PartTime, shapes_of
from sim.cost.table import cost_table
from sim.engine.encoding import price
from sim.engine.shapes import encoded_shape
from sim.planner.layouts.evaluation import Evaluator
from sim.planner.layouts.pricing import priced
from sim.prediction import predict
from sim.schedule.build import build_program, build_schedule
from sim.schedule.shape import shape_of
from sim.workload.memory import memory_model, peak_bytes


def drawn(seed: int, count: int) -> tuple[Scenario, list[Plan]]:
    draw = random.Random(seed)
    base = scenario(draw, draw.choice([1, 2, 4, 6, 8, 12, 16, 32]))
    return base, list(itertools.islice(plans(draw, base), count))


def profile_of(draw: random.Random, base: Scenario, plan: Plan) -> Profile:
    """A profile that knows some times of the plan's parts, and some messages."""

    def message() -> MessageTime | None:
        if draw.random() < 0.5:
            return None
        return MessageTime(fixed_ns=draw.uniform(0, 1e5), ns_per_byte=draw.random(), error=0.1)

    times = {}
    for shape in shapes_of(replace(base, plan=plan))[0]:
        times[shape] = {
            (part, name): PartTime(
                median_ns=draw.uniform(1e3, 1e6), quartiles_ns=(0.0, 0.0), samples=3
            )
            for part in ("layer", "embedding", "head")
            for name in ("forward", "backward", "optimizer")
            if draw.random() < 0.8
        }
    return Profile(
        device="device",
        provenance="drawn",
        times=times if draw.random() < 0.7 else {},
        post=message(),
        unpack=message(),
        transfer=message(),
        all_reduce=message(),
        efficiency={
            "matmul_max": Fitted(value=draw.uniform(0.3, 0.9), interval=None),
            "inter_node.latency": Fitted(value=draw.uniform(0, 1e5), interval=None),
        },
    )


def check_prices(base: Scenario, plan: Plan, evaluator: Evaluator) -> None:
    """All slots cost what they do by the cost table."""
    changed = replace(base, plan=plan)
    shape = shape_of(changed)
    assert shape is not None
    encoded = encoded_shape(shape)
    found = priced(encoded, evaluator.book.costs(plan))
    table = cost_table(changed, build_program(changed), evaluator.profile)
    expected = price(encoded, table)
    for name in ("duration_ns", "hidden_ns", "occupancy_ns", "latency_ns", "first_link"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), (name, plan)
    names: dict[int, int] = {}
    for own, other in zip(found.links.tolist(), expected.links.tolist(), strict=True):
        assert names.setdefault(own, other) == other, plan
    assert len(set(names.values())) == len(names) <= found.num_links


@pytest.mark.parametrize("seed", range(25))
def test_prices_are_those_of_the_cost_table(seed: int) -> None:
    base, drawn_plans = drawn(seed, 10)
    evaluator = Evaluator(base)
    for plan in drawn_plans:
        check_prices(base, plan, evaluator)


@pytest.mark.parametrize("seed", range(12))
def test_prices_with_a_profile_are_those_of_the_cost_table(seed: int) -> None:
    base, drawn_plans = drawn(1000 + seed, 5)
    evaluator = Evaluator(base, profile_of(random.Random(seed), base, drawn_plans[0]))
    for plan in drawn_plans:
        check_prices(base, plan, evaluator)


def test_prices_of_uneven_stages_and_slices_are_those_of_the_cost_table() -> None:
    base, _ = drawn(3, 0)
    assert base.model is not None
    assert base.cluster is not None
    model = replace(base.model, layers=11, sequence=64, family="gpt")
    cluster = replace(base.cluster, nodes=2, devices_per_node=2, nics_per_node=1)
    base = replace(base, model=model, cluster=cluster)
    plan = Plan(pipeline=4, microbatches=8, layers_per_stage=(2, 4, 4, 1), p2p="blocking")
    evaluator = Evaluator(base)
    for other in (
        plan,
        replace(plan, slices=(30, 20, 14)),
        replace(plan, schedule="terapipe", slices=(10, 54), p2p="overlapped"),
        replace(plan, devices=(3, 0, 1, 2)),
        replace(
            plan,
            schedule="interleaved",
            chunks=2,
            layers_per_stage=(1, 2, 1, 2, 1, 1, 1, 2),
            devices=(0, 2, 1, 3),
        ),
    ):
        check_prices(base, other, evaluator)
        changed = replace(base, plan=other)
        schedule = build_schedule(changed)
        model_of = memory_model(changed, schedule)
        assert model_of is not None
        assert evaluator.peak_bytes(other) == max(peak_bytes(model_of, schedule))


@pytest.mark.parametrize("seed", range(25))
def test_the_peak_is_the_memory_model_s(seed: int) -> None:
    base, drawn_plans = drawn(seed, 10)
    evaluator = Evaluator(base)
    for plan in drawn_plans:
        changed = replace(base, plan=plan)
        schedule = build_schedule(changed)
        model = memory_model(changed, schedule)
        assert model is not None
        assert evaluator.peak_bytes(plan) == max(peak_bytes(model, schedule)), plan


def check_whole(base: Scenario, plan: Plan, evaluator: Evaluator) -> None:
    """All three figures of a plan against its prediction."""
    changed = replace(base, plan=plan)
    program = build_program(changed)
    model = memory_model(changed, program)
    assert model is not None
    expected = predict(changed, evaluator.profile).figures.iteration_ns
    assert evaluator.iteration_ns(plan) == expected, plan
    assert evaluator.bound_ns(plan) <= expected, plan
    assert evaluator.peak_bytes(plan) == max(peak_bytes(model, program.schedule)), plan


@pytest.mark.parametrize("seed", range(12))
def test_the_time_is_the_predicted_one(seed: int) -> None:
    draw = random.Random(seed)
    base = scenario(draw, draw.choice([1, 2, 4, 8]))
    evaluator = Evaluator(base)
    for plan in itertools.islice(plans(draw, base), 4):
        check_whole(base, plan, evaluator)


def test_plans_with_frozen_layers_groups_or_shared_processors_are_evaluated_too() -> None:
    base, _ = drawn(5, 0)
    assert base.model is not None
    assert base.cluster is not None
    model = replace(base.model, layers=8, sequence=64, family="gpt")
    cluster = replace(base.cluster, nodes=1, devices_per_node=4, nics_per_node=1)
    base = replace(base, model=model, cluster=cluster)
    plan = Plan(pipeline=4, microbatches=6)
    groups = (
        MicrobatchGroup(microbatches=2, micro_batch=2),
        MicrobatchGroup(microbatches=3, slices=(40, 24)),
    )
    evaluator = Evaluator(base)
    check_whole(base, replace(plan, frozen_layers=3), evaluator)
    check_whole(base, replace(plan, microbatches=None, microbatch_groups=groups), evaluator)
    shared = replace(base, cluster=replace(cluster, processors_per_node=2))
    evaluator = Evaluator(shared)
    for other in (
        plan,
        replace(plan, p2p="blocking"),
        replace(plan, pipeline=2, data=2, gradient_reduction="overlapped"),
        replace(plan, pipeline=2, tensor=2, schedule="gpipe"),
    ):
        check_whole(shared, other, evaluator)


def test_processors_in_turn_bound_the_time() -> None:
    """Four ranks on one processor take at least all their work in a row."""
    base, _ = drawn(5, 0)
    assert base.model is not None
    assert base.cluster is not None
    cluster = replace(base.cluster, nodes=1, devices_per_node=4, nics_per_node=1)
    base = replace(base, model=replace(base.model, layers=8), cluster=cluster)
    plan = Plan(pipeline=4, microbatches=6)
    base = replace(base, cluster=replace(cluster, processors_per_node=1), plan=plan)
    busy = sum(rank.busy_ns for rank in predict(base).figures.ranks)
    evaluator = Evaluator(base)
    assert busy == evaluator.bound_ns(plan) <= evaluator.iteration_ns(plan)


def test_the_published_layout_of_gpt3_175b_takes_what_is_predicted() -> None:
    base = load("megatron/175b").scenario
    evaluator = Evaluator(base)
    expected = predict(base).figures.iteration_ns
    assert evaluator.iteration_ns(base.plan) == expected
    assert 0.999 * expected < evaluator.bound_ns(base.plan) <= expected


def test_a_scenario_that_cannot_be_laid_out_otherwise_is_refused() -> None:
    base = load("megatron/175b").scenario
    with pytest.raises(ValueError, match="cannot be laid out otherwise"):
        Evaluator(replace(base, cluster=None))
    with pytest.raises(ValueError, match="no `costs` given outright"):
        Evaluator(load("replay/stage-times").scenario)
    with pytest.raises(ProfileMismatch):
        Evaluator(base, Profile(device="other", provenance="none"))


def test_another_cluster_or_model_is_another_evaluator() -> None:
    base = load("megatron/175b").scenario
    assert base.cluster is not None
    cluster: Cluster = replace(
        base.cluster, inter_node=replace(base.cluster.inter_node, latency=10**7)
    )
    slower = Evaluator(replace(base, cluster=cluster))
    assert slower.bound_ns(base.plan) > Evaluator(base).iteration_ns(base.plan)
