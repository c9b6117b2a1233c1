"""Full sharding in real processes, against the single-process float64 model."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from sharded_targets import Trained
from torch import Tensor

from executor.data import Data
from executor.launch import launch
from executor.model import StageModule
from executor.reference import reference
from executor.sharded import ReplicaGroup
from executor.stages import StageRunner
from executor.tensor_parallel import TensorGroup
from scenarios.schema import Model, Plan, Scenario
from sim.workload.partition import partition

torch.set_num_threads(1)
LAYERS = 4


def tiny(plan: dict[str, Any], **model: Any) -> Scenario:
    shape: dict[str, Any] = {"layers": LAYERS, "hidden": 20, "heads": 2, "sequence": 8}
    shape |= {"vocabulary": 61, "tied_embeddings": False} | model
    if shape.get("family") == "vit":
        shape |= {"patch_inputs": 7, "vocabulary": 5}
    numbers = {"microbatches": 2, "precision": "fp64", "sharding": "full"}
    return Scenario(name="tiny", model=Model(**shape), plan=Plan(**(numbers | plan)))


def relative(mine: Tensor, theirs: Tensor) -> float:
    return float((mine - theirs).abs().max()) / (float(theirs.abs().max()) or 1.0)


@pytest.mark.parametrize("ranks", [2, 3])
def test_shares_train_as_the_single_process_does(ranks: int) -> None:
    """Losses, gradients of the third iteration and weights after it, in float64 and below; shares
    of all parameters; and which pass gathers and reduces how often."""
    plan = {"data": ranks}
    scenarios = [
        tiny(plan),
        tiny(plan, tied_embeddings=True),
        tiny(plan | {"recomputation": "full"}, family="bert", tied_embeddings=True),
        tiny(plan | {"recomputation": "full", "recompute_every": 2}),
        tiny(plan | {"recomputation": "selective"}, family="vit"),
        # Adam would magnify the rounding of gradients that are nearly zero.
        tiny(plan | {"precision": "bf16", "gradient_precision": "fp32", "optimizer": "sgd"}),
        tiny(plan | {"precision": "fp16", "optimizer": "sgd"}),
    ]
    found = launch(ranks, "sharded_targets:train", (scenarios, 3), deadline_s=100.0, pin=False)
    for n, scenario in enumerate(scenarios):
        exact = scenario.plan.precision == "fp64"
        expected = reference(scenario, 3)
        replicas: list[Trained] = [results[n] for results in found]
        losses = torch.tensor([r.losses for r in replicas], dtype=torch.float64).mean(dim=0)
        assert losses.tolist() == pytest.approx(expected.losses, rel=1e-12 if exact else 1e-3)
        for replica in replicas:
            assert replica.gradients.keys() == expected.gradients.keys()
            for name, gradient in expected.gradients.items():
                bound = 1e-10 if exact else 0.05
                assert relative(replica.gradients[name], gradient) < bound, (n, name)
                weights = replica.weights[name], replicas[0].weights[name]
                assert torch.equal(*weights), "replicas hold the same weights"
                assert relative(weights[0], expected.weights[name]) < bound, (n, name)
        tied = scenario.model is not None and scenario.model.tied_embeddings
        units = LAYERS + (1 if tied else 2)
        count = sum(g.numel() for g in expected.gradients.values())
        assert count <= sum(r.held for r in replicas) < count + (ranks - 1) * ranks * units
        for replica in replicas:
            assert Counter(replica.collectives["F"]) == {"gather": LAYERS + 2}
            # The embedding's backward pass needs no weights.
            assert Counter(replica.collectives["B"]) == {
                "gather": LAYERS + 1,
                "scatter": units,
            }


def test_without_a_group_the_work_is_done_and_nothing_is_sent() -> None:
    scenario = tiny({"data": 3})
    part = partition(scenario)[0]
    replicas = ReplicaGroup(rank=1, size=3, group=None)
    runner = StageRunner(StageModule(scenario, part), scenario, part, replicas=replicas)
    runner.forward(0, 0, *Data(scenario).batch(0, 0, 0))
    runner.backward(0, 0, None)
    assert runner.gradient_buffer.isfinite().all() and runner.gradient_buffer.any()


def test_one_replica_shares_nothing_out() -> None:
    scenario = tiny({})
    part = partition(scenario)[0]
    replicas = ReplicaGroup(rank=0, size=1, group=None)
    runner = StageRunner(StageModule(scenario, part), scenario, part, replicas=replicas)
    assert runner.sharded is None
    assert "blocks.0.mlp_in.weight" in runner.parameters


def test_what_it_does_not_run_with_is_refused() -> None:
    scenario = tiny({"data": 2})
    part = partition(scenario)[0]
    replicas = ReplicaGroup(rank=0, size=2, group=None)
    module = StageModule(scenario, part)
    with pytest.raises(ValueError, match="without split backward"):
        StageRunner(module, scenario, part, split_backward=True, replicas=replicas)
    group = TensorGroup(rank=0, size=2, group=None, sequence=False)
    with pytest.raises(ValueError, match="without pipeline and tensor"):
        StageRunner(StageModule(scenario, part, tensor=group), scenario, part, replicas=replicas)
    cut = replace(scenario, plan=replace(scenario.plan, pipeline=2))
    first = partition(cut)[0]
    with pytest.raises(ValueError, match="without pipeline and tensor"):
        StageRunner(StageModule(cut, first), cut, first, replicas=replicas)
    runner = StageRunner(module, scenario, part, replicas=replicas)
    with pytest.raises(RuntimeError, match="in every backward pass"):
        runner.on_gradient_ready(lambda index, view: None, 1)
