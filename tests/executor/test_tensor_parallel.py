"""The model in tensor groups of real processes, against the single-process float64 model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensor_targets import Case, Outcome, run_case
from torch import Tensor
from torch.nn import functional as F

from executor.launch import launch
from executor.model import StageModule
from executor.shards import TOKEN_WEIGHT, full_shape, shard, split_dimension, unshard
from executor.tensor_parallel import ALONE, TensorGroup, vocabulary_cross_entropy
from scenarios.schema import Model, Plan, Scenario
from sim.workload.partition import partition

torch.set_num_threads(1)


def tiny(plan: dict[str, Any], **model: Any) -> Scenario:
    shape: dict[str, Any] = {"layers": 2, "hidden": 32, "heads": 4, "sequence": 16}
    shape |= {"vocabulary": 259, "tied_embeddings": False} | model
    if shape.get("family") == "vit":
        shape |= {"patch_inputs": 12, "vocabulary": 10}
    numbers = {"micro_batch": 2, "microbatches": 2, "precision": "fp64"}
    return Scenario(name="tiny", model=Model(**shape), plan=Plan(**(numbers | plan)))


def cases(size: int) -> list[Case]:
    """Every feature by itself, with and without sequence parallelism, and some of them together."""
    found = []
    full = {"recomputation": "full"}
    for sequence in (False, True):
        plan = {"tensor": size, "sequence_parallel": sequence}
        found += [
            Case(tiny(plan)),
            Case(tiny(plan | {"micro_batch": 1}), split=True),
            Case(tiny(plan | {"pipeline": 2}, tied_embeddings=True), split=True),
            Case(tiny(plan, tied_embeddings=True)),
            Case(tiny(plan | {"recomputation": "selective"})),
            Case(tiny(plan | full), split=True),
            Case(tiny(plan | full | {"recompute_every": 2, "pipeline": 2}, layers=6)),
            Case(tiny(plan, family="bert", tied_embeddings=True)),
            Case(tiny(plan, family="vit")),
            Case(tiny(plan | full | {"pipeline": 2}, family="vit"), split=True),
            Case(tiny(plan, vocabulary=5)),
        ]
        for precision in ("bf16", "fp16", "fp32"):
            lower = {"precision": precision, "gradient_precision": "fp32", "pipeline": 2}
            found.append(Case(tiny(plan | lower, tied_embeddings=True), split=sequence))
    return found


def alone(case: Case) -> Outcome:
    """The same in one process and in float64, without recomputation and split passes."""
    plan = replace(
        case.scenario.plan,
        tensor=1,
        sequence_parallel=False,
        precision="fp64",
        gradient_precision=None,
        recomputation="none",
        recompute_every=1,
    )
    return run_case(Case(replace(case.scenario, plan=plan)), ALONE)


def whole(case: Case, group: list[Outcome], what: str) -> dict[str, Tensor]:
    """Unsharded tensors of a tensor group; those held whole must be equal on every rank."""
    model = case.scenario.model
    assert model is not None
    shares: list[dict[str, Tensor]] = [getattr(outcome, what) for outcome in group]
    found = {}
    for name in shares[0]:
        parts = [share[name] for share in shares]
        if name in group[0].replicated:
            assert all(torch.equal(part, parts[0]) for part in parts), (what, name)
        found[name] = unshard(parts, name, model)
    return found


def padding(case: Case, group: list[Outcome]) -> list[Tensor]:
    """The gradients of the rows that are not in the vocabulary."""
    model = case.scenario.model
    assert model is not None
    found = []
    for name in (TOKEN_WEIGHT, "head.output.weight"):
        if name in group[0].gradients and split_dimension(name, model) is not None:
            rows = torch.cat([outcome.gradients[name] for outcome in group])
            found.append(rows[model.vocabulary :])
    return found


def relative(mine: Tensor, theirs: Tensor) -> float:
    return float((mine - theirs).abs().max()) / float(theirs.abs().max())


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_tensor_group_equals_the_single_process(ranks: int) -> None:
    """Loss and gradients, to rounding in float64 and to that of lower precisions in them; the first
    weights to the bit; and nothing where a rank's share of the vocabulary is padding."""
    todo = cases(ranks) + (cases(2)[:1] if ranks == 4 else [])
    results = launch(ranks, "tensor_targets:run_cases", todo, deadline_s=120.0, pin=False)
    for n, case in enumerate(todo):
        expected = alone(case)
        precision, size = case.scenario.plan.precision, case.scenario.plan.tensor
        tolerance = {"fp64": 1e-12, "fp32": 1e-5, "fp16": 1e-2, "bf16": 5e-2}[precision]
        for first in range(0, ranks, size):
            group: list[Outcome] = [results[rank][n] for rank in range(first, first + size)]
            for outcome in group:
                assert outcome.loss == pytest.approx(expected.loss, rel=tolerance), case
            for name, weight in whole(case, group, "weights").items():
                assert precision != "fp64" or torch.equal(weight, expected.weights[name]), name
            assert not any(rows.any() for rows in padding(case, group)), case
            gradients = whole(case, group, "gradients")
            assert gradients.keys() == expected.gradients.keys()
            for name, gradient in gradients.items():
                assert relative(gradient, expected.gradients[name]) < tolerance, (name, case)


def test_which_pass_sends_what() -> None:
    """I sums gradients over the group and W sends nothing; recomputation repeats what it needs."""
    plan = {"tensor": 2, "pipeline": 3, "microbatches": 1}
    none, full = ({"recomputation": r} for r in ("none", "full"))
    every = full | {"recompute_every": 2}
    sequence = {"sequence_parallel": True}
    scenarios = [
        tiny(plan | none, layers=3),
        tiny(plan | full, layers=3),
        tiny(plan | every, layers=6),
        tiny(plan | none | sequence, layers=3),
        tiny(plan | full | sequence, layers=3),
    ]
    found = launch(2, "tensor_targets:collectives_of_passes", scenarios, deadline_s=60.0, pin=False)
    assert found[0] == found[1]
    words = [[step.split() for step in passes] for passes in found[0]]
    reduce, gather, scatter = "reduce", "gather", "scatter"
    forward = [gather, scatter, gather, scatter]
    # A row linear gathers its gradient; a column linear gathers its input and scatters its own.
    backward = [gather, gather, scatter] * 2
    # The last sum of a recomputed group is not repeated: nothing in the group needs it.
    assert words == [
        [[reduce] * 2, [reduce] * 2, []],
        [[reduce] * 2, [reduce] * (1 + 2), []],
        [[reduce] * 4, [reduce] * (3 + 4), []],
        [forward, backward, []],
        [forward, [*backward[:1], *forward[:-1], *backward[1:]], []],
    ]


def test_without_a_group_the_work_is_done_and_nothing_is_sent() -> None:
    """As in calibration: shapes and products of a rank, whatever the numbers."""
    for sequence in (False, True):
        scenario = tiny({"tensor": 4, "sequence_parallel": sequence, "recomputation": "full"})
        tensor = TensorGroup(rank=3, size=4, group=None, sequence=sequence)
        outcome = run_case(Case(scenario, split=True), tensor)
        assert all(gradient.isfinite().all() for gradient in outcome.gradients.values())


@given(
    size=st.sampled_from([1, 2, 4]),
    vocabulary=st.integers(1, 40),
    tied=st.booleans(),
    vit=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_shares_make_the_whole(size: int, vocabulary: int, tied: bool, vit: bool) -> None:
    shape: dict[str, Any] = {"family": "vit" if vit else "gpt", "patch_inputs": 5 if vit else None}
    model = Model(
        layers=1,
        hidden=8,
        heads=4,
        sequence=4,
        vocabulary=vocabulary,
        tied_embeddings=tied and not vit,
        **shape,
    )
    scenario = Scenario(name="tiny", model=model, plan=Plan(precision="fp64"))
    whole = dict(StageModule(scenario, partition(scenario)[0]).named_parameters())
    for name, parameter in whole.items():
        full = torch.arange(1.0, parameter.numel() + 1).view(parameter.shape)
        shares = [shard(full, name, model, rank, size) for rank in range(size)]
        assert torch.equal(unshard(shares, name, model), full)
        assert full_shape(shares[0].shape, name, model, size) == full.shape
        assert all(share.is_contiguous() and share.shape == shares[0].shape for share in shares)
        # Every number is held once, or where whole, by all.
        times = size if split_dimension(name, model) is None else 1
        assert sum(float(share.sum()) for share in shares) == times * float(full.sum())
    for rank in range(size):
        tensor = TensorGroup(rank=rank, size=size, group=None, sequence=False)
        module = StageModule(scenario, partition(scenario)[0], tensor=tensor)
        for name, parameter in module.named_parameters():
            assert torch.equal(parameter, shard(whole[name], name, model, rank, size)), name


def test_the_fused_projection_is_shared_out_by_heads() -> None:
    model = Model(layers=1, hidden=8, heads=4, sequence=4, vocabulary=8)
    rows = torch.arange(24.0).view(24, 1).expand(24, 8)
    name = "blocks.0.attention.query_key_value.weight"
    share = shard(rows, name, model, 1, 2)
    # Heads 2 and 3 are rows 4 to 7 of the queries, of the keys and of the values.
    assert share[:, 0].tolist() == [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23]


@pytest.mark.parametrize("name", ["blocks.0.mlp_in.weight", "blocks.0.mlp_out.weight"])
def test_what_does_not_divide_is_refused(name: str) -> None:
    model = Model(layers=1, hidden=8, heads=4, sequence=4, vocabulary=8, ffn_hidden=6)
    shape = (6, 8) if "in" in name else (8, 6)
    with pytest.raises(ValueError, match="do not divide by a tensor group of 4"):
        shard(torch.zeros(shape), name, model, 0, 4)


@given(rows=st.integers(1, 6), vocabulary=st.integers(2, 9), scale=st.sampled_from([1.0, 1e4]))
@settings(max_examples=30, deadline=None)
def test_the_loss_is_torch_s(rows: int, vocabulary: int, scale: float) -> None:
    """In a group of one, with ignored targets, padding and logits whose exponentials overflow."""
    generator = torch.Generator().manual_seed(rows * 100 + vocabulary)
    logits = torch.randn(rows, vocabulary, dtype=torch.float64, generator=generator).mul_(scale)
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    targets[1::2] = -100
    padded = F.pad(logits, (0, 3), value=1e6)
    mine, theirs = padded.requires_grad_(), logits.clone().requires_grad_()
    loss = vocabulary_cross_entropy(mine, targets, vocabulary, ALONE)
    expected = F.cross_entropy(theirs, targets)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    loss.backward()
    expected.backward()
    assert mine.grad is not None and theirs.grad is not None
    torch.testing.assert_close(mine.grad[:, :vocabulary], theirs.grad, rtol=1e-12, atol=1e-14)
    assert not mine.grad[:, vocabulary:].any()


def test_alone_a_stage_is_made_of_torch_s_own_operations() -> None:
    """Nothing of what a group needs is left in the graph of a group of one."""
    model = {"tied_embeddings": True}
    (part,) = partition(tiny({}, **model))
    module = StageModule(tiny({}, **model), part)
    tokens = torch.arange(32).view(2, 16)
    nodes, seen = [module.loss(module(tokens), tokens).grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [following for following, _ in node.next_functions]
    assert len(seen) > 50
    assert not [n for n in seen if isinstance(n, torch.autograd.function.BackwardCFunction)]
