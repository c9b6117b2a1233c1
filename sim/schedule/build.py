"""From a scenario to its schedule and its program."""

from __future__ import annotations

import itertools

from scenarios.schema import Scenario
from sim.schedule.checks import ScheduleError, check
from sim.schedule.generators import gpipe, interleaved, one_forward_one_backward, terapipe
from sim.schedule.lowering import Flush, Program, lower
from sim.schedule.schedule import Schedule
from sim.schedule.torch_csv import parse_csv


def frozen_stages(scenario: Scenario) -> int:
    """Stages, from the first on, that hold frozen layers alone; never the last one, which has the
    head and the loss."""
    model, plan = scenario.model, scenario.plan
    if model is None or not plan.frozen_layers:
        return 0
    stages = plan.num_stages
    counts = plan.layers_per_stage or (model.layers // stages,) * stages
    ends = itertools.accumulate(counts[:-1])
    return sum(end <= plan.frozen_layers for end in ends)


def build_schedule(scenario: Scenario) -> Schedule:
    """The schedule of a scenario's plan.

    Raises ScheduleError where a given order is wrong, or was made for other sizes.
    """
    plan = scenario.plan
    ranks, microbatches = plan.pipeline, plan.num_microbatches
    slices = [group.num_slices for group in plan.groups for _ in range(group.microbatches)]
    if plan.schedule == "gpipe":
        return gpipe(
            ranks,
            microbatches,
            slices=slices,
            backward=plan.gpipe_backward,
            frozen_stages=frozen_stages(scenario),
        )
    if plan.schedule == "1f1b":
        return one_forward_one_backward(
            ranks, microbatches, slices=slices, frozen_stages=frozen_stages(scenario)
        )
    if plan.schedule == "terapipe":
        return terapipe(ranks, microbatches, slices=slices)
    if plan.schedule == "interleaved":
        return interleaved(plan.pipeline, plan.num_microbatches, plan.chunks)
    assert plan.schedule_order is not None, "scenarios.rules asks for it"
    schedule = parse_csv(
        "\n".join(plan.schedule_order),
        shown=plan.schedule_file or "plan.schedule_order",
        num_ranks=plan.pipeline,
        num_microbatches=plan.num_microbatches,
    )
    stages = plan.pipeline * plan.chunks
    if plan.chunks > 1 and schedule.num_stages != stages:
        raise ScheduleError(
            f"{plan.schedule_file or 'plan.schedule_order'}: is for {schedule.num_stages} stages, "
            f"but pipeline x chunks is {stages}"
        )
    found = [0] * microbatches
    for action in schedule.actions:
        if action.microbatch is not None:
            found[action.microbatch] = max(found[action.microbatch], action.slice_index + 1)
    for microbatch, (has, asked) in enumerate(zip(found, slices, strict=True)):
        if has != asked:
            raise ScheduleError(
                f"{plan.schedule_file or 'plan.schedule_order'}: cuts microbatch {microbatch} into "
                f"{has} slices, but the plan into {asked}; `slices: {has}` would work"
            )
    if schedule.frozen_stages:
        raise ScheduleError(
            f"{plan.schedule_file or 'plan.schedule_order'}: has no backward pass on stage 0, but "
            "a given order trains every layer: frozen layers are for `schedule: gpipe` or `1f1b`"
        )
    check(schedule)
    return schedule


def flush_of(scenario: Scenario) -> Flush:
    """What follows the last pass, in this scenario."""
    model, plan = scenario.model, scenario.plan
    has_replicas = model is not None and plan.data > 1
    return Flush(
        # With full sharding each pass reduces its own gradients.
        reduce_gradients=has_replicas and plan.sharding != "full",
        overlapped=plan.gradient_reduction == "overlapped",
        reduce_tied=model is not None and model.ends and model.shares_table and plan.pipeline > 1,
        norm=plan.clip_gradients,
        gather_weights=has_replicas and plan.sharding == "optimizer",
    )


def build_program(scenario: Scenario) -> Program:
    """The program that both twins run for a scenario."""
    return lower(build_schedule(scenario), scenario.plan.p2p, flush_of(scenario))
