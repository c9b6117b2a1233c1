"""The single-process reference: it trains, and equals autograd on one large batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from executor.data import Data
from executor.model import StageModule
from executor.reference import reference
from scenarios.schema import Execution, Model, Plan, Scenario
from sim.workload.partition import partition

torch.set_num_threads(1)


def tiny(plan: dict[str, Any] | None = None, **model: Any) -> Scenario:
    shape: dict[str, Any] = {"layers": 2, "hidden": 32, "heads": 4, "sequence": 32}
    shape |= {"vocabulary": 256, "tied_embeddings": True} | model
    settings = {"micro_batch": 2, "microbatches": 3, "precision": "fp64"} | (plan or {})
    return Scenario(name="tiny", model=Model(**shape), plan=Plan(**settings))


@pytest.mark.parametrize("family", ["gpt", "bert"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_falls_on_real_bytes(family: str, precision: str) -> None:
    scenario = tiny({"precision": precision}, family=family)
    losses = reference(replace(scenario, execution=Execution(learning_rate=1e-2)), 30).losses
    assert sum(losses[-5:]) / 5 < losses[0] - 1.5


def test_it_is_the_mean_over_all_microbatches_and_replicas() -> None:
    scenario = tiny({"data": 2})
    result = reference(scenario, 1)
    (part,) = partition(scenario)
    module = StageModule(scenario, part)
    data = Data(scenario)
    batches = [data.batch(0, r, i) for r in range(2) for i in range(3)]
    inputs, targets = (torch.cat(column) for column in zip(*batches, strict=True))
    loss = module.loss(module(inputs), targets)
    loss.backward()
    assert result.losses[0] == pytest.approx(float(loss.detach()), rel=1e-13)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(result.gradients[name], parameter.grad, rtol=1e-10, atol=1e-13)


def test_clipping_changes_the_step_and_not_the_gradient_reported() -> None:
    for optimizer in ("adam", "sgd"):
        free = reference(tiny({"optimizer": optimizer}), 1)
        clipped = reference(tiny({"optimizer": optimizer, "clip_gradients": True}), 1)
        name = "blocks.1.mlp_out.weight"
        assert torch.equal(free.gradients[name], clipped.gradients[name])
        assert not torch.equal(free.weights[name], clipped.weights[name])


def test_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no model"):
        reference(Scenario(name="x"), 1)
