"""Stages run by hand, in the orders of real schedules, against the single process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from by_hand import difference, split, tiny, train

from executor.data import Data
from executor.model import StageModule
from executor.reference import reference
from executor.stages import StageRunner
from sim.schedule.generators import gpipe, one_forward_one_backward
from sim.workload.partition import partition

torch.set_num_threads(1)


ORDERS = {"gpipe": gpipe, "1f1b": one_forward_one_backward}


@pytest.mark.parametrize("order", ["gpipe", "1f1b"])
@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("clip", [False, True])
def test_any_cut_equals_the_single_process(order: str, stages: int, tied: bool, clip: bool) -> None:
    scenario = tiny({"pipeline": stages, "clip_gradients": clip}, tied_embeddings=tied)
    found = difference(train(scenario, ORDERS[order](stages, 4)), reference(scenario, 3))
    # Only two sums are in another order across stages: the norm's, and the tied weight's gradient.
    exact = stages == 1 or not (tied or clip)
    assert found == 0 if exact else found < 1e-12


@pytest.mark.parametrize("tied", [False, True])
def test_without_adam_s_amplification_the_difference_is_rounding(tied: bool) -> None:
    """Adam divides by the root of tiny second moments and so magnifies rounding; SGD does not."""
    plan = {"pipeline": 4, "clip_gradients": True, "optimizer": "sgd"}
    scenario = tiny(plan, tied_embeddings=tied)
    result = train(scenario, one_forward_one_backward(4, 4))
    assert difference(result, reference(scenario, 3)) < 2e-15


@pytest.mark.parametrize("microbatches", [1, 3, 5])
def test_microbatches_that_do_not_divide_and_fewer_than_stages(microbatches: int) -> None:
    scenario = tiny(
        {"pipeline": 4, "microbatches": microbatches, "layers_per_stage": (1, 2, 1, 1)}, layers=5
    )
    result = train(scenario, one_forward_one_backward(4, microbatches))
    assert difference(result, reference(scenario, 3)) < 1e-12


def test_reversed_backward_order() -> None:
    scenario = tiny({"pipeline": 2})
    result = train(scenario, gpipe(2, 4, backward="reversed"))
    assert difference(result, reference(scenario, 3)) < 1e-12


def test_replicas_are_averaged() -> None:
    scenario = tiny({"pipeline": 2, "data": 3, "microbatches": 2})
    result = train(scenario, one_forward_one_backward(2, 2))
    assert difference(result, reference(scenario, 3)) < 1e-12


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("recomputation", ["none", "selective", "full"])
def test_input_and_weight_halves_equal_the_whole(late: bool, recomputation: str) -> None:
    scenario = tiny({"pipeline": 2, "recomputation": recomputation})
    whole = one_forward_one_backward(2, 4)
    result = train(scenario, split(whole, late=late))
    assert difference(result, train(scenario, whole)) == 0
    assert difference(result, reference(scenario, 3)) == 0


def test_halves_equal_the_whole_with_tied_embeddings() -> None:
    for stages in (1, 2):
        scenario = tiny({"pipeline": stages}, tied_embeddings=True)
        result = train(scenario, split(one_forward_one_backward(stages, 4), late=True))
        assert difference(result, reference(scenario, 3)) < 1e-12


@pytest.mark.parametrize("recomputation", ["selective", "full"])
def test_recomputation_changes_nothing(recomputation: str) -> None:
    scenario = tiny({"pipeline": 2, "recomputation": recomputation})
    assert difference(train(scenario, gpipe(2, 4)), reference(scenario, 3)) == 0


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_other_families(family: str) -> None:
    shape: dict[str, Any] = {"family": family, "tied_embeddings": family == "bert"}
    if family == "vit":
        shape |= {"patch_inputs": 12, "vocabulary": 10}
    scenario = tiny({"pipeline": 2}, **shape)
    for schedule in (
        one_forward_one_backward(2, 4),
        split(one_forward_one_backward(2, 4), late=True),
    ):
        assert difference(train(scenario, schedule), reference(scenario, 3)) < 1e-12


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("gradients", [None, "fp32"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_lower_precisions_agree_with_their_reference(
    precision: str, gradients: str | None, optimizer: str
) -> None:
    plan = {"pipeline": 2, "precision": precision, "gradient_precision": gradients}
    scenario = tiny(plan | {"optimizer": optimizer})
    expected = reference(scenario, 3)
    for schedule in (gpipe(2, 4), split(gpipe(2, 4), late=True)):
        assert difference(train(scenario, schedule), expected) == 0
    exact = reference(tiny({"pipeline": 2, "optimizer": optimizer}), 3)
    for loss, exact_loss in zip(expected.losses, exact.losses, strict=True):
        assert loss == pytest.approx(exact_loss, rel=1e-5 if precision == "fp32" else 1e-2)


def test_main_gradients_hold_what_low_precision_would_lose() -> None:
    plan = {"precision": "bf16", "microbatches": 32, "micro_batch": 1}
    exact = reference(tiny(plan | {"precision": "fp64"}), 1).gradients
    errors = []
    for gradients in ("bf16", "fp32"):
        found = reference(tiny(plan | {"gradient_precision": gradients}), 1).gradients
        errors.append(
            max(
                float((found[n].double() - g).norm() / g.norm())
                for n, g in exact.items()
                if "bias" not in n
            )
        )
    assert errors[1] < errors[0]


def test_a_runner_refuses_what_it_cannot_do() -> None:
    scenario = tiny()
    part = partition(scenario)[0]
    runner = StageRunner(StageModule(scenario, part), scenario, part)
    inputs, targets = Data(scenario).batch(0, 0, 0)
    runner.forward(0, 0, inputs, targets)
    assert runner.num_in_flight == 1
    with pytest.raises(RuntimeError, match="split_backward=True"):
        runner.backward_input(0, 0, None)


def test_gradients_live_in_one_buffer() -> None:
    scenario = tiny()
    part = partition(scenario)[0]
    runner = StageRunner(StageModule(scenario, part), scenario, part)
    runner.forward(0, 0, *Data(scenario).batch(0, 0, 0))
    runner.backward(0, 0, None)
    inside = torch.stack([g.square().sum() for g in runner.gradients.values()]).sum()
    assert float(inside) > 0
    torch.testing.assert_close(runner.gradient_buffer.square().sum(), inside, rtol=1e-14, atol=0)
    runner.zero_grad()
    assert not runner.losses
    assert all(float(g.abs().max()) == 0 for g in runner.gradients.values())
