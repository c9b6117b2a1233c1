from __future__ import annotations

from dataclasses import replace

import pytest

from scenarios.loader import load
from scenarios.schema import Plan
from sim.planner.layouts.plans import plan_with, scenario_with


def test_a_plan_with_other_fields_is_the_replaced_one() -> None:
    plan = Plan(pipeline=4, global_batch=64, micro_batch=2, slices=(3, 5))
    assert plan.groups, "computed once, and kept on this plan alone"
    changed = plan_with(plan, pipeline=8, micro_batch=4, recomputation="full")
    expected = replace(plan, pipeline=8, micro_batch=4, recomputation="full")
    assert changed == expected
    assert hash(changed) == hash(expected)
    assert changed.groups == expected.groups != plan.groups
    assert plan == Plan(pipeline=4, global_batch=64, micro_batch=2, slices=(3, 5))


def test_a_field_that_plans_do_not_have_is_refused() -> None:
    with pytest.raises(TypeError, match="a plan has no stages, tensors"):
        plan_with(Plan(), tensors=2, stages=3)


def test_a_scenario_with_another_plan_has_a_digest_of_its_own() -> None:
    scenario = load("megatron/175b").scenario
    before = scenario.digest
    plan = plan_with(scenario.plan, micro_batch=2, global_batch=3072)
    changed = scenario_with(scenario, plan)
    expected = replace(scenario, plan=plan)
    assert changed == expected
    assert changed.digest == expected.digest != before
