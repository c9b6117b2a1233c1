"""The model: names, initialisation, losses, and the split linear layer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from executor.deferred import Linear, WeightGradients
from executor.model import StageModule
from executor.shards import TOKEN_WEIGHT
from scenarios.schema import Execution, Model, Plan, Scenario
from sim.workload.partition import partition

torch.set_num_threads(1)


def scenario(plan: dict[str, Any] | None = None, **model: Any) -> Scenario:
    shape: dict[str, Any] = {"layers": 4, "hidden": 32, "heads": 4, "sequence": 16}
    shape |= {"vocabulary": 256, "tied_embeddings": False} | model
    settings = {"micro_batch": 2, "microbatches": 1, "precision": "fp64"} | (plan or {})
    return Scenario(name="tiny", model=Model(**shape), plan=Plan(**settings))


def stages(whole: Scenario) -> list[StageModule]:
    return [StageModule(whole, part) for part in partition(whole)]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["gpt", "bert", "vit"])
def test_initialisation_does_not_depend_on_the_cut(tied: bool, family: str) -> None:
    shape: dict[str, Any] = {"family": family, "tied_embeddings": tied and family != "vit"}
    if family == "vit":
        shape["patch_inputs"] = 12
    (whole,) = stages(scenario(**shape))
    expected = dict(whole.named_parameters())
    for cut in ({"pipeline": 2}, {"pipeline": 4}, {"pipeline": 3, "layers_per_stage": (1, 2, 1)}):
        seen = set()
        for stage in stages(scenario(cut, **shape)):
            for name, parameter in stage.named_parameters():
                assert torch.equal(parameter, expected[name]), name
                seen.add(name)
        assert seen == expected.keys()


def test_the_seed_and_the_name_change_the_weights() -> None:
    one = scenario()
    other = replace(one, execution=Execution(seed=1))
    a, b = dict(stages(one)[0].named_parameters()), dict(stages(other)[0].named_parameters())
    name = "blocks.0.mlp_in.weight"
    assert not torch.equal(a[name], b[name])
    assert not torch.equal(a[name], a["blocks.1.mlp_in.weight"])
    assert float(a[name].detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(a["blocks.0.mlp_out.weight"].detach().std()) == pytest.approx(
        0.02 / math.sqrt(8), rel=0.05
    )


def test_lower_precision_is_the_same_draw_cast() -> None:
    exact = dict(stages(scenario())[0].named_parameters())
    for name, parameter in stages(scenario({"precision": "bf16"}))[0].named_parameters():
        assert torch.equal(parameter, exact[name].to(torch.bfloat16))


def test_who_holds_the_tied_weight() -> None:
    (whole,) = stages(scenario(tied_embeddings=True))
    assert whole.shared_weight is None
    assert whole.copied_name is None
    first, middle, last = stages(
        scenario({"pipeline": 3, "layers_per_stage": (1, 1, 2)}, tied_embeddings=True)
    )
    assert first.shared_weight is not None and last.shared_weight is not None
    assert torch.equal(first.shared_weight, last.shared_weight)
    assert middle.shared_weight is None
    assert (first.copied_name, last.copied_name) == (None, TOKEN_WEIGHT)
    assert "embedding.positions" not in dict(last.named_parameters())
    assert all(s.shared_weight is None for s in stages(scenario({"pipeline": 2})))


def test_names_carry_the_layer_number_of_the_whole_model() -> None:
    last = stages(scenario({"pipeline": 2}))[1]
    layers = {n.split(".")[1] for n, _ in last.named_parameters() if n.startswith("blocks")}
    assert layers == {"2", "3"}


@pytest.mark.parametrize(("family", "leaks"), [("gpt", False), ("bert", True)])
def test_only_gpt_is_causal(family: str, leaks: bool) -> None:
    (whole,) = stages(scenario(family=family))
    tokens = torch.arange(32).view(2, 16)
    changed = tokens.clone()
    changed[:, -1] = 200
    same = torch.equal(whole(tokens)[:, :-1], whole(changed)[:, :-1])
    assert same != leaks


def test_parameter_count_and_first_loss() -> None:
    (whole,) = stages(scenario())
    count = sum(p.numel() for p in whole.parameters())
    width, layers, vocabulary, sequence = 32, 4, 256, 16
    assert count == (
        layers * (12 * width**2 + 13 * width)
        + 2 * vocabulary * width
        + sequence * width
        + 2 * width
    )
    tokens = torch.arange(32).view(2, 16)
    loss = whole.loss(whole(tokens), tokens)
    assert float(loss.detach()) == pytest.approx(math.log(vocabulary), rel=0.01)


def test_the_block_is_torch_s_own_encoder_layer() -> None:
    (whole,) = stages(scenario(family="bert", layers=1))
    block = whole.blocks["0"]
    theirs = torch.nn.TransformerEncoderLayer(
        32,
        4,
        128,
        0.0,
        lambda x: F.gelu(x, approximate="tanh"),
        batch_first=True,
        norm_first=True,
        dtype=torch.float64,
    )
    mine = dict(block.named_parameters())
    names = {
        "self_attn.in_proj_weight": "attention.query_key_value.weight",
        "self_attn.in_proj_bias": "attention.query_key_value.bias",
        "self_attn.out_proj.weight": "attention.output.weight",
        "self_attn.out_proj.bias": "attention.output.bias",
        "linear1.weight": "mlp_in.weight",
        "linear1.bias": "mlp_in.bias",
        "linear2.weight": "mlp_out.weight",
        "linear2.bias": "mlp_out.bias",
        "norm1.weight": "attention_norm.weight",
        "norm1.bias": "attention_norm.bias",
        "norm2.weight": "mlp_norm.weight",
        "norm2.bias": "mlp_norm.bias",
    }
    with torch.no_grad():
        for parameter in mine.values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.load_state_dict({t: mine[m] for t, m in names.items()})
    x = torch.randn(2, 16, 32, dtype=torch.float64)
    torch.testing.assert_close(block(x), theirs(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_the_split_linear_has_torch_s_gradients(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    store = WeightGradients()
    layer = Linear(24, 40, store, bias=bias, device=torch.device("cpu"), dtype=dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x = torch.randn(3, 7, 24, dtype=dtype)
    grad = torch.randn(3, 7, 40, dtype=dtype)
    results = []
    for store.splittable in (False, True):
        leaf = x.clone().requires_grad_()
        layer.zero_grad()
        layer(leaf).backward(grad)
        results.append([leaf.grad, *(p.grad for p in layer.parameters())])
    for plain, mine in zip(*results, strict=True):
        assert plain is not None and mine is not None
        assert torch.equal(plain, mine)
    layer.zero_grad()
    store.start()
    layer(leaf).backward(grad)
    assert len(store.stop()) == 1
    assert layer.weight.grad is None
