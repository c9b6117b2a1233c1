"""The space of a layout search: all that the rules allow, each layout once, and nothing else."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import product
from typing import Any

import pytest

from scenarios import rules
from scenarios.resizing import NotWholeNodes, resized
from scenarios.schema import Plan, Scenario
from sim.cost.links import Network, devices_by_rank
from sim.cost.table import cost_table
from sim.engine.simpy_engine import simulate
from sim.planner.layouts.space import DIMENSIONS, CannotPlan, LayoutSpace
from sim.schedule.build import build_program, build_schedule
from tests.sim.planner.layout_scenarios import small

DEGREES = (1, 2, 3, 4, 6, 8, 16)
SIZES = (1, 2, 3, 4, 6, 8, 12)
ORDERS = [
    *(("1f1b", 1, slices) for slices in (None, 2, 4, 8, 16)),
    ("gpipe", 1, None),
    *(("terapipe", 1, slices) for slices in (2, 4, 8, 16)),
    *(("interleaved", chunks, None) for chunks in (2, 3, 4, 6, 8)),
]
PLACEMENTS = (
    "tensor-data-pipeline",
    "tensor-pipeline-data",
    "data-tensor-pipeline",
    "data-pipeline-tensor",
    "pipeline-tensor-data",
    "pipeline-data-tensor",
)


def plans_of(space: LayoutSpace) -> Iterator[Plan]:
    for room in space.rooms:
        for cell in space.cells(room).cells:
            for spread in cell.spreads:
                yield space.plan(cell, spread)


def count(space: LayoutSpace) -> int:
    return sum(1 for _ in plans_of(space))


def allowed_plans(scenario: Scenario) -> Iterator[Plan]:
    """Every combination of the stated dimensions' values that the rules allow."""
    for tensor, pipeline, data, size in product(DEGREES, DEGREES, DEGREES, (1, 2, 3, 4, 6, 8, 12)):
        degrees = {"tensor": tensor, "pipeline": pipeline, "data": data, "micro_batch": size}
        if data * size > scenario.plan.global_batch:
            continue
        plan = replace(scenario.plan, **degrees)
        if rules.check(replace(scenario, plan=plan)):
            continue
        for (schedule, chunks, slices), recomputation, together, sharding in product(
            ORDERS, ("none", "selective", "full"), (False, True), ("none", "optimizer", "full")
        ):
            if schedule == "interleaved" and pipeline == 1:
                continue
            plan = replace(
                scenario.plan,
                **degrees,
                schedule=schedule,
                chunks=chunks,
                slices=slices,
                recomputation=recomputation,
                sequence_parallel=together,
                sharding=sharding,
            )
            if rules.check(replace(scenario, plan=plan)):
                continue
            for reduction, placement in product(("after", "overlapped"), PLACEMENTS):
                yield replace(plan, gradient_reduction=reduction, placement=placement)


def essence(plan: Plan, scenario: Scenario) -> tuple[Any, ...]:
    """What of a plan anything can depend on: its order of work, what is saved and shared, and which
    ranks are on the same node and NIC."""
    schedule = build_schedule(replace(scenario, plan=plan))
    network = Network(cluster=scenario.cluster, plan=plan)
    devices = [device for held in devices_by_rank(plan) for device in held]
    together = tuple(
        tuple(names.index(name) for name in names)
        for names in (
            [network.node_of(device) for device in devices],
            [network.nic_of(device) for device in devices],
        )
    )
    shared = plan.data > 1
    return (
        plan.tensor,
        plan.pipeline,
        plan.data,
        plan.micro_batch,
        plan.slices,
        schedule.orders,
        plan.recomputation,
        plan.sequence_parallel and plan.tensor > 1,
        plan.sharding if shared else "none",
        plan.gradient_reduction if shared and plan.sharding != "full" else "after",
        together,
    )


@pytest.mark.parametrize(
    ("changes", "p2p"),
    [
        ({"layers": 4, "batch": 8, "nodes": 2, "per_node": 2}, "blocking"),
        ({"layers": 6, "batch": 12, "nodes": 3, "per_node": 2, "nics": 2}, "overlapped"),
        ({"layers": 8, "batch": 4, "nodes": 1, "per_node": 4, "heads": 2}, "blocking"),
    ],
)
def test_all_that_the_rules_allow_once_each(changes: dict[str, int], p2p: str) -> None:
    scenario = small(**changes, p2p=p2p)
    space = LayoutSpace(scenario, scenario.cluster.num_devices)
    found = Counter(essence(plan, scenario) for plan in plans_of(space))
    assert set(found.values()) == {1}
    assert found.keys() == {essence(plan, scenario) for plan in allowed_plans(scenario)}
    assert len(found) > 300


def test_every_candidate_is_a_scenario_without_problem() -> None:
    scenario = small(heads=6, layers=12, batch=24, nodes=3, per_node=4, nics=2)
    for number in (2, 4, 12, 24):
        space = LayoutSpace(scenario, number)
        wide = replace(scenario, cluster=resized(scenario.cluster, number))
        plans = list(plans_of(space))
        assert len(plans) > 100 * number
        for plan in plans[:: max(1, len(plans) // 1500)]:
            checked = Plan(**{f.name: getattr(plan, f.name) for f in fields(plan)})
            assert checked == plan
            assert not rules.check(replace(wide, plan=checked)), plan


def test_placements_counted_once_cost_the_same() -> None:
    """Placements of equal nodes and NICs take equally long, and others here do not."""
    scenario = small(layers=4, batch=8, nodes=2, per_node=4, nics=2)
    times: dict[tuple[Any, ...], set[int]] = {}
    for degrees in ((2, 2, 2), (1, 4, 2), (2, 4, 1), (4, 1, 2)):
        for placement in PLACEMENTS:
            plan = replace(
                scenario.plan,
                **dict(zip(("tensor", "pipeline", "data"), degrees, strict=True)),
                placement=placement,
            )
            chosen = replace(scenario, plan=plan)
            program = build_program(chosen)
            timeline = simulate(program, cost_table(chosen, program))
            times.setdefault(essence(plan, scenario), set()).add(timeline.iteration_ns)
    assert all(len(found) == 1 for found in times.values())
    assert len(times) < 4 * len(PLACEMENTS)
    assert len(set().union(*times.values())) > 4


def test_restrictions_leave_only_what_they_say() -> None:
    scenario = small()
    whole = list(plans_of(LayoutSpace(scenario, 4)))
    only = {"tensor": (1, 2), "recomputation": ("none",), "schedule": ("1f1b", "gpipe")}
    found = list(plans_of(LayoutSpace(scenario, 4, only)))
    kept = [p for p in whole if all(getattr(p, name) in values for name, values in only.items())]
    assert set(found) == set(kept) and len(found) == len(kept) < len(whole)


@pytest.mark.parametrize(
    "only",
    [
        {"sharding": ("full", "optimizer")},
        {"schedule": ("interleaved", "1f1b"), "slices": (2, 4)},
        {"schedule": ("terapipe", "gpipe", "interleaved"), "slices": (None, 2)},
    ],
)
def test_what_is_left_does_not_hang_on_the_order_of_a_restrictions_values(
    only: dict[str, tuple[object, ...]],
) -> None:
    """Also where one of them is refused, and another is not, that would be the same."""
    scenario = small()
    turned = {name: values[::-1] for name, values in only.items()}
    found = [
        {essence(plan, scenario) for plan in plans_of(LayoutSpace(scenario, 4, one))}
        for one in (only, turned)
    ]
    assert found[0] == found[1] and any(tensor == data == 1 for tensor, _, data, *_ in found[0])


def test_a_value_that_is_given_twice_is_one() -> None:
    scenario = small()
    for name, value in (("recomputation", "full"), ("p2p", "blocking"), ("tensor", 2)):
        once = LayoutSpace(scenario, 4, {name: (value,)})
        assert count(LayoutSpace(scenario, 4, {name: (value, value)})) == count(once) > 0


def test_a_restriction_to_an_order_keeps_its_layouts_of_one_microbatch() -> None:
    """Of one microbatch all orders are the same, and count as 1F1B unless that is left out."""
    plans = list(plans_of(LayoutSpace(small(), 4, {"schedule": ("gpipe",)})))
    assert any(plan.num_microbatches == 1 for plan in plans)
    assert {plan.schedule for plan in plans} == {"gpipe"}
    whole = plans_of(LayoutSpace(small(), 4))
    assert {p.schedule for p in whole if p.num_microbatches == 1} == {"1f1b"}


def test_a_field_that_is_not_searched_becomes_a_dimension() -> None:
    scenario = small()
    both = LayoutSpace(scenario, 4, {"p2p": ("blocking", "overlapped")})
    plans = list(plans_of(both))
    assert {plan.p2p for plan in plans} == {"blocking", "overlapped"}
    # Of one rank there are no messages: counted once.
    assert {plan.p2p for plan in plans if plan.pipeline == 1} == {"blocking"}
    alone = sum(plan.pipeline == 1 for plan in plans)
    assert len(plans) == 2 * count(LayoutSpace(scenario, 4)) - alone
    assert both.dimensions == (*DIMENSIONS, "p2p")


def test_slices_in_an_order_that_is_not_searched_otherwise_where_both_are_asked_for() -> None:
    plans = list(plans_of(LayoutSpace(small(), 4, {"schedule": ("gpipe",), "slices": (4,)})))
    assert plans and {(plan.schedule, plan.slices) for plan in plans} == {("gpipe", 4)}


def test_other_models_have_no_slices() -> None:
    scenario = small()
    bert = replace(scenario, model=replace(scenario.model, family="bert"))
    assert all(plan.slices is None for plan in plans_of(LayoutSpace(bert, 4)))


def test_values_are_of_their_domains() -> None:
    space = LayoutSpace(small(), 4, {"p2p": ("blocking", "overlapped")})
    domains = [space.domain(name) for name in space.dimensions]
    for room in space.rooms:
        for cell in space.cells(room).cells:
            for spread in cell.spreads:
                values = space.values(cell, spread)
                assert all(v in of for v, of in zip(values, domains, strict=True))
                plan = space.plan(cell, spread)
                assert values == tuple(getattr(plan, name) for name in space.dimensions)


def test_what_cannot_be_searched_says_why() -> None:
    scenario = small()
    with pytest.raises(CannotPlan, match="no dimension"):
        LayoutSpace(scenario, 4, {"devices": (1,)})
    with pytest.raises(CannotPlan, match="no value"):
        LayoutSpace(scenario, 4, {"tensor": ()})
    with pytest.raises(CannotPlan, match="global_batch"):
        LayoutSpace(replace(scenario, plan=Plan()), 4)
    with pytest.raises(CannotPlan, match="freezes"):
        LayoutSpace(replace(scenario, plan=replace(scenario.plan, frozen_layers=1)), 4)
    with pytest.raises(CannotPlan, match="model and cluster"):
        LayoutSpace(replace(scenario, model=None), 4)
    with pytest.raises(CannotPlan, match="nics_per_node"):
        odd = replace(
            scenario, cluster=replace(scenario.cluster, devices_per_node=4, nics_per_node=3)
        )
        LayoutSpace(odd, 4)
    with pytest.raises(NotWholeNodes):
        LayoutSpace(scenario, 5)
