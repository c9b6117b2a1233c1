"""The optimizer: torch's own on copies, the norm, clipping, and loss scaling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from executor.optimizer import Optimizer, loss_scale
from scenarios.schema import Execution, Model, Plan, Scenario

torch.set_num_threads(1)


def scenario(**plan: Any) -> Scenario:
    return Scenario(
        name="t",
        model=Model(layers=1, hidden=8, heads=2, sequence=4, vocabulary=16),
        plan=Plan(**plan),
        execution=Execution(learning_rate=0.01),
    )


def make(dtype: torch.dtype) -> tuple[dict[str, nn.Parameter], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    draw = {
        n: torch.randn(5, 3, generator=generator, dtype=torch.float64).to(dtype) for n in "abcd"
    }
    return {n: nn.Parameter(draw[n]) for n in "ab"}, {"a": draw["c"], "b": draw["d"]}


@pytest.mark.parametrize("precision", ["fp64", "fp32"])
@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_it_is_torch_s_optimizer(precision: str, name: str) -> None:
    dtype = torch.float64 if precision == "fp64" else torch.float32
    mine, gradients = make(dtype)
    theirs, _ = make(dtype)
    optimizer = Optimizer(scenario(precision=precision, optimizer=name), mine, gradients)
    kind = torch.optim.Adam if name == "adam" else torch.optim.SGD
    expected = kind(list(theirs.values()), lr=0.01)
    for _ in range(3):
        for n, parameter in theirs.items():
            parameter.grad = gradients[n].clone()
        expected.step()
        optimizer.step()
    tolerance = 1e-14 if precision == "fp64" else 1e-6
    for n, parameter in theirs.items():
        torch.testing.assert_close(mine[n], parameter, rtol=tolerance, atol=tolerance)


def test_master_weights_keep_updates_too_small_for_the_weights() -> None:
    moved = {}
    for keeps in (True, False):
        parameters = {"a": nn.Parameter(torch.ones(4, dtype=torch.bfloat16))}
        gradients = {"a": torch.full((4,), 1e-3)}
        plan = {"precision": "bf16", "gradient_precision": "fp32", "optimizer": "sgd"}
        optimizer = Optimizer(scenario(**plan, master_weights=keeps), parameters, gradients)
        for _ in range(1000):
            optimizer.step()
        moved[keeps] = float((1 - parameters["a"][0]).detach())
    assert moved == {True: pytest.approx(0.01, rel=0.3), False: 0.0}


@pytest.mark.parametrize("keeps", [True, False])
def test_adam_s_moments_are_fp32_below_fp64(keeps: bool) -> None:
    parameters, gradients = make(torch.bfloat16)
    optimizer = Optimizer(scenario(precision="bf16", master_weights=keeps), parameters, gradients)
    before = parameters["a"].detach().clone()
    optimizer.step()
    optimizer.step()
    assert not torch.equal(parameters["a"], before)
    states: Any = optimizer.state["state"]
    assert {s["exp_avg"].dtype for s in states.values()} == {torch.float32}
    assert {s["exp_avg"].shape for s in states.values()} == {(5, 3)}


def test_gradients_stay_where_they_accumulate() -> None:
    parameters, gradients = make(torch.float64)
    for name, parameter in parameters.items():
        parameter.grad = gradients[name]
    Optimizer(scenario(precision="fp64"), parameters, gradients).step()
    assert all(p.grad is gradients[n] for n, p in parameters.items())


def test_the_norm_counts_a_copy_once_and_clips() -> None:
    parameters, gradients = make(torch.float64)
    optimizer = Optimizer(scenario(precision="fp64"), parameters, gradients)
    copied = Optimizer(scenario(precision="fp64"), parameters, gradients, uncounted=("b",))
    a, b = (float(gradients[n].square().sum()) for n in "ab")
    assert float(optimizer.squared_norm()) == pytest.approx(a + b, rel=1e-14)
    assert float(copied.squared_norm()) == pytest.approx(a, rel=1e-14)
    optimizer.clip(optimizer.squared_norm().sqrt(), 0.5)
    assert float(optimizer.squared_norm().sqrt()) == pytest.approx(0.5, rel=1e-5)
    before = gradients["a"].clone()
    optimizer.clip(torch.tensor(0.5, dtype=torch.float64), 1.0)
    assert torch.equal(gradients["a"], before)


def test_fp16_s_loss_scale_is_undone() -> None:
    plan = {"precision": "fp16", "gradient_precision": "fp32", "optimizer": "sgd"}
    scale = loss_scale(Plan(precision="fp16"))
    assert scale > 1 == loss_scale(Plan(precision="bf16"))
    parameters = {"a": nn.Parameter(torch.zeros(4, dtype=torch.float16))}
    gradients = {"a": torch.full((4,), 3 * scale)}
    optimizer = Optimizer(scenario(**plan), parameters, gradients)
    assert float(optimizer.squared_norm()) == pytest.approx(36)
    optimizer.step(grad_scale=0.5)
    assert parameters["a"].tolist() == pytest.approx([-0.015] * 4, rel=1e-3)
