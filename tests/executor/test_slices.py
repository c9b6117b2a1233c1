"""Token slices on stages run by hand: any slicing has the gradients of the whole sequence."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from by_hand import difference, split, tiny, train
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from executor import slices
from executor.data import Data
from executor.model import StageModule
from executor.reference import reference
from executor.slices import KeyValues, _with_bias, attend_after
from executor.stages import StageRunner
from scenarios.schema import MicrobatchGroup, Scenario
from sim.schedule.build import build_schedule
from sim.workload.partition import partition

torch.set_num_threads(1)


def sliced(sizes: Any = (5, 1, 7, 3), plan: dict[str, Any] | None = None, **model: Any) -> Scenario:
    given = {"pipeline": 2, "microbatches": 2, "schedule": "terapipe", "slices": sizes}
    return tiny(given | (plan or {}), **model)


def grouped(*groups: tuple[int, int, Any], **plan: Any) -> Scenario:
    """Runs of microbatches: (how many, sequences in each, slices)."""
    found = tuple(
        MicrobatchGroup(microbatches=n, micro_batch=size, slices=cut) for n, size, cut in groups
    )
    whole = tiny({"pipeline": 2, "schedule": "terapipe"} | plan)
    given = replace(whole.plan, micro_batch=1, microbatches=None, microbatch_groups=found)
    return replace(whole, plan=given)


def error(scenario: Scenario, iterations: int = 3) -> float:
    return difference(
        train(scenario, build_schedule(scenario), iterations), reference(scenario, iterations)
    )


CASES = {
    "even": sliced(4),
    "uneven": sliced(),
    "single-tokens": sliced(16),
    "1f1b": sliced(plan={"schedule": "1f1b", "pipeline": 4}),
    "gpipe": sliced(plan={"schedule": "gpipe", "clip_gradients": True}),
    "tied": sliced(tied_embeddings=True),
    "selective": sliced(plan={"recomputation": "selective"}),
    "full": sliced(plan={"recomputation": "full"}),
    "pairs": sliced(plan={"recomputation": "full", "recompute_every": 2}),
    "one-stage": sliced(plan={"pipeline": 1}),
    "sizes": grouped((1, 3, 4), (2, 1, (1, 15)), (1, 2, None), (1, 3, (8, 8))),
    "sizes-1f1b": grouped((1, 2, 2), (1, 1, None), (2, 2, (3, 13)), schedule="1f1b"),
    "replicas": sliced(plan={"data": 2}),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_unsliced_single_process(name: str) -> None:
    assert error(CASES[name]) < 1e-11


@pytest.mark.parametrize("name", CASES)
def test_halves_equal_the_whole_to_the_bit(name: str) -> None:
    scenario = CASES[name]
    schedule = build_schedule(scenario)
    whole = train(scenario, schedule)
    for late in (False, True):
        assert difference(train(scenario, split(schedule, late=late)), whole) == 0


def test_the_reference_of_a_sliced_plan_is_the_unsliced_one() -> None:
    """Same sequences, same loss, in microbatches of whatever size."""
    plain = tiny({"microbatches": 3, "micro_batch": 2})
    cut = grouped((1, 1, 3), (1, 4, (2, 14)), (1, 1, None))
    assert difference(reference(cut, 3), reference(plain, 3)) < 1e-12


def test_one_slice_is_the_whole_to_the_bit() -> None:
    whole, one = sliced(None), sliced(1)
    schedule = build_schedule(whole)
    assert build_schedule(one).orders == schedule.orders
    assert difference(train(one, schedule), train(whole, schedule)) == 0
    assert difference(train(whole, schedule), reference(whole, 3)) < 1e-13


@st.composite
def slicings(draw: st.DrawFn) -> tuple[int, ...]:
    """Any cut of 16 tokens."""
    cuts = draw(st.sets(st.integers(1, 15)))
    edges = [0, *sorted(cuts), 16]
    return tuple(b - a for a, b in pairwise(edges))


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 3), slicings()), min_size=1, max_size=3),
    schedule=st.sampled_from(["terapipe", "1f1b", "gpipe"]),
    recomputation=st.sampled_from(["none", "selective", "full"]),
    stages=st.sampled_from([1, 2]),
    tied=st.booleans(),
)
def test_any_slicing(
    sizes: list[tuple[int, tuple[int, ...]]],
    schedule: str,
    recomputation: str,
    stages: int,
    tied: bool,
) -> None:
    groups = [(1, size, cut) for size, cut in sizes]
    scenario = grouped(
        *groups, schedule=schedule, recomputation=recomputation, pipeline=stages, precision="fp64"
    )
    assert scenario.model is not None
    model = replace(scenario.model, layers=2, hidden=8, heads=2, tied_embeddings=tied)
    assert error(replace(scenario, model=model), iterations=1) < 1e-11


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_lower_precisions_stay_near(precision: str) -> None:
    scenario = sliced(plan={"precision": precision, "gradient_precision": "fp32"})
    found = train(scenario, build_schedule(scenario)).losses
    assert found == pytest.approx(
        reference(sliced(), 3).losses, rel=1e-5 if precision == "fp32" else 1e-2
    )


def test_the_gradients_of_later_slices_are_what_makes_it_exact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without those that reach earlier keys and values, gradients are wrong by far."""
    assert error(sliced(), 1) < 1e-11

    def alone(
        self: KeyValues, gradients: tuple[Tensor, ...], context: int, *, last: bool
    ) -> tuple[Tensor, ...]:
        return tuple(gradient[:, :, context:] for gradient in gradients)

    monkeypatch.setattr(KeyValues, "collect", alone)
    assert error(sliced(), 1) > 1e-3


def runner_of(scenario: Scenario) -> tuple[StageRunner, Data]:
    part = partition(scenario)[0]
    return StageRunner(StageModule(scenario, part), scenario, part), Data(scenario)


def test_slices_out_of_order_are_refused() -> None:
    scenario = sliced(plan={"pipeline": 1})
    runner, data = runner_of(scenario)
    parts = data.slices(0, 0, 0)
    with pytest.raises(RuntimeError, match="slice 1 cannot go forward: slice 0 is next"):
        runner.forward(0, 1, *parts[1][:2])
    for n in range(3):
        runner.forward(0, n, *parts[n][:2])
    with pytest.raises(RuntimeError, match=r"slice 2 cannot go backward: of 4 slices 3"):
        runner.backward(0, 2, None)
    runner.forward(0, 3, *parts[3][:2])
    with pytest.raises(RuntimeError, match="slice 1 cannot go backward"):
        runner.backward(0, 1, None)
    for n in reversed(range(4)):
        assert runner.num_in_flight == n + 1
        runner.backward(0, n, None)


def test_the_last_slice_can_run_again_and_again() -> None:
    """As one is timed after its context: what the last of them sends back counts."""
    scenario = sliced((10, 6), plan={"pipeline": 1, "microbatches": 1})
    (runner, data), (again, _) = runner_of(scenario), runner_of(scenario)
    parts = data.slices(0, 0, 0)
    for repeated, times in ((runner, 1), (again, 3)):
        repeated.forward(0, 0, *parts[0][:2])
        for _ in range(times):
            repeated.zero_grad()
            repeated.forward(0, 1, *parts[1][:2])
            repeated.backward(0, 1, None)
        repeated.backward(0, 0, None)
    assert torch.equal(again.gradient_buffer, runner.gradient_buffer)


def test_buffers_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many pairs as microbatches were in flight at once, whatever the number of iterations."""
    made = []
    original = KeyValues.__init__

    def counted(self: KeyValues) -> None:
        made.append(self)
        original(self)

    monkeypatch.setattr(KeyValues, "__init__", counted)
    scenario = sliced(2, plan={"pipeline": 1, "schedule": "1f1b", "microbatches": 5})
    train(scenario, build_schedule(scenario), 3)
    assert len(made) == 2 * 4  # 1F1B over slices begins the next microbatch before the last ends.


@pytest.mark.parametrize(("tokens", "context"), [(1, 1), (3, 9), (9, 3), (300, 40), (600, 300)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gpu", [False, True])
def test_attention_after_a_context_is_that_of_the_whole(
    tokens: int, context: int, dtype: torch.dtype, gpu: bool
) -> None:
    """More tokens than a block of queries among them."""
    generator = torch.Generator().manual_seed(tokens)
    shape = (2, 2, context + tokens, 8)
    whole = [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for _ in range(3)
    ]
    upstream = torch.randn((2, 2, tokens, 8), generator=generator, dtype=torch.float64).to(dtype)
    query, key, value = whole
    expected = F.scaled_dot_product_attention(*whole, is_causal=True)[:, :, context:]
    query = query[:, :, context:]
    # What a GPU runs, here with the kernels of the CPU.
    if gpu:
        found = _with_bias(query, key, value)
    else:
        found = attend_after(query, key, value, context=context, sequence=1000)
    near = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 5e-2}[dtype]
    torch.testing.assert_close(found, expected, rtol=near, atol=near)
    pairs = zip(
        torch.autograd.grad(found, whole, upstream),
        torch.autograd.grad(expected, whole, upstream),
        strict=True,
    )
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=near, atol=near)


def test_one_mask_serves_all_slices() -> None:
    like = torch.zeros((), dtype=torch.float64)
    masks = [(n, c, slices._mask(n, c, 9, like)) for n, c in ((2, 3), (1, 8), (4, 1), (3, 0))]
    for tokens, context, mask in masks:
        expected = torch.ones(tokens, context + tokens, dtype=torch.bool).tril(context)
        assert torch.equal(torch.isfinite(mask), expected)
    assert len({mask.untyped_storage().data_ptr() for *_, mask in masks}) == 1
