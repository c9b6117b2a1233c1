"""Gradients told of in slices, from within the last pass that makes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from executor.buckets import GradientBuckets
from executor.data import Data
from executor.model import StageModule
from executor.stages import StageRunner
from scenarios.schema import Model, Plan, Scenario
from sim.workload.partition import partition

torch.set_num_threads(1)


def tiny(plan: dict[str, Any], *, tied: bool = False) -> Scenario:
    model = Model(layers=3, hidden=32, heads=4, sequence=8, vocabulary=64, tied_embeddings=tied)
    numbers = {"micro_batch": 2, "microbatches": 1, "precision": "fp64"}
    return Scenario(name="tiny", model=model, plan=Plan(**(numbers | plan)))


def run(runner: StageRunner, scenario: Scenario, order: str) -> None:
    """One iteration; order: the pass of each microbatch, `B`, `IW`, or `I..W` with every W last."""
    runner.zero_grad()
    microbatches = range(scenario.plan.num_microbatches)
    for m in microbatches:
        runner.forward(m, 0, *Data(scenario).batch(0, 0, m))
    for m in microbatches:
        (runner.backward if order == "B" else runner.backward_input)(m, 0, None)
        if order == "IW":
            runner.backward_weight(m, 0)
    if order == "I..W":
        for m in microbatches:
            runner.backward_weight(m, 0)


@pytest.mark.parametrize("order", ["B", "IW", "I..W"])
@pytest.mark.parametrize("microbatches", [1, 3])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "plan", [{}, {"precision": "bf16", "gradient_precision": "fp32"}, {"recomputation": "full"}]
)
def test_each_slice_is_told_of_once_final_and_in_order(
    order: str, microbatches: int, tied: bool, plan: dict[str, Any]
) -> None:
    scenario = tiny(plan | {"microbatches": microbatches}, tied=tied)
    part = partition(scenario)[0]
    runner = StageRunner(StageModule(scenario, part), scenario, part, split_backward=order != "B")
    told: list[tuple[int, Tensor, Tensor]] = []

    def on_ready(index: int, view: Tensor) -> None:
        told.append((index, view.clone(), runner.gradient_buffer.clone()))

    slices = runner.on_gradient_ready(on_ready, 40_000)
    assert len(slices) > 3
    assert sum(map(len, slices)) == len(runner.gradient_buffer)
    for _ in range(2):
        told.clear()
        run(runner, scenario, order)
        assert [index for index, _, _ in told] == list(range(len(slices)))
        for (_, seen, _), final in zip(told, slices, strict=True):
            assert torch.equal(seen, final)
        # Not after the pass, but within it: when the first was told of, others were not final.
        assert not torch.equal(told[0][2], runner.gradient_buffer)
    runner.gradient_buffer.zero_()
    assert not any(view.any() for view in slices)


def test_slices_are_cut_where_a_parameter_reaches_the_size() -> None:
    buffer = torch.zeros(100)
    parameters = [torch.zeros(n) for n in (30, 30, 10, 10, 20)]
    starts = list(zip(parameters, (0, 30, 60, 70, 80), strict=True))
    told: list[int] = []
    buckets = GradientBuckets(buffer, starts, lambda index, _: told.append(index), 25 * 4)
    assert [(v.storage_offset(), len(v)) for v in buckets.views] == [(70, 30), (30, 40), (0, 30)]
    buckets.ready(parameters[0])
    assert not told, "no last pass is under way"
    buckets.start()
    for n, expected in ((0, []), (4, []), (2, []), (3, [0]), (1, [0, 1, 2])):
        buckets.ready(parameters[n])
        assert told == expected
    buckets.start(pending=[parameters[2]])
    assert told == [0, 1, 2, 0]
    buckets.ready(parameters[2])
    assert told == [0, 1, 2, 0, 1, 2]


def test_a_runner_tells_one_listener() -> None:
    scenario = tiny({})
    part = partition(scenario)[0]
    runner = StageRunner(StageModule(scenario, part), scenario, part)
    assert len(runner.on_gradient_ready(lambda index, view: None, 1 << 40)) == 1
    with pytest.raises(RuntimeError, match="already"):
        runner.on_gradient_ready(lambda index, view: None, 1 << 40)
