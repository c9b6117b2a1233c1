"""The operation lists against the published formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scenarios.schema import Model
from sim.workload.flops import hardware_flops, model_flops, num_parameters
from sim.workload.operations import FusedAttention, TensorReduction, flops_of
from sim.workload.parameters import layer_parameters
from sim.workload.transformer import (
    Setting,
    embedding,
    head,
    layer,
)

GPT3 = Model(layers=96, hidden=12288, heads=96, sequence=2048, vocabulary=51200)
SMALL = Model(layers=4, hidden=64, heads=4, sequence=32, vocabulary=512)


def setting(model: Model = SMALL, **changes: object) -> Setting:
    return replace(
        Setting(model=model, micro_batch=2, tokens=model.sequence),
        **changes,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("model", [GPT3, SMALL])
@pytest.mark.parametrize("recomputation", ["none", "selective", "full"])
def test_lists_have_the_formula_s_flops(model: Model, recomputation: str) -> None:
    s = setting(model, recomputation=recomputation)
    per_layer = flops_of(layer(s).forward) + flops_of(layer(s).backward)
    ends = sum(flops_of(p.forward) + flops_of(p.backward) for p in (embedding(s), head(s)))
    expected = hardware_flops(model, 2, recomputation)  # type: ignore[arg-type]
    assert model.layers * per_layer + ends == expected


def test_equation_3_as_printed() -> None:
    """96 B s l h^2 (1 + s/6h + V/16lh), Narayanan et al. 2021."""
    batch, h, s, layers, v = 1536, 12288, 2048, 96, 51200
    printed = 96 * batch * s * layers * h**2 * (1 + s / (6 * h) + v / (16 * layers * h))
    assert hardware_flops(GPT3, batch, "full") == pytest.approx(printed, rel=1e-12)
    without = 72 * batch * s * layers * h**2 * (1 + s / (6 * h) + v / (12 * layers * h))
    assert model_flops(GPT3, batch) == pytest.approx(without, rel=1e-12)


def test_equation_2_as_printed() -> None:
    h, s, layers, v = 12288, 2048, 96, 51200
    printed = 12 * layers * h**2 * (1 + 13 / (12 * h) + (v + s) / (12 * layers * h))
    assert num_parameters(GPT3) - 2 * h == pytest.approx(printed, rel=1e-12)
    assert layer_parameters(GPT3) == 12 * h**2 + 13 * h
    untied = replace(GPT3, tied_embeddings=False)
    assert num_parameters(untied) - num_parameters(GPT3) == v * h


@pytest.mark.parametrize("tensor", [2, 4])
def test_tensor_parallelism_divides_the_products(tensor: int) -> None:
    whole, part = setting(), setting(tensor=tensor)
    for make in (layer, head):
        assert flops_of(make(whole).forward) == tensor * flops_of(make(part).forward)
        assert flops_of(make(whole).backward) == tensor * flops_of(make(part).backward)


def test_reductions_per_layer() -> None:
    """Two all-reduces of T h elements forward, two backward, two repeated in recomputation."""

    def payloads(operations: object) -> list[int]:
        return [o.payload_bytes for o in operations if isinstance(o, TensorReduction)]  # type: ignore[attr-defined]

    work = layer(setting(tensor=2, recomputation="full"))
    size = 2 * 2 * 32 * 64
    assert payloads(work.forward) == [size, size]
    assert payloads(work.backward_input) == [size, size]
    assert payloads(work.recomputed) == [size, size]
    assert payloads(work.backward_weight) == []
    assert payloads(layer(setting(tensor=2, recomputation="selective")).recomputed) == []
    assert payloads(layer(setting()).backward) == []


def test_slices_add_up_to_causal_attention() -> None:
    """Fused causal attention over slices computes every pair exactly once."""

    def pairs(tokens: int, context: int) -> int:
        work = layer(setting(tokens=tokens, context=context, attention="fused"))
        return sum(o.num_pairs for o in work.forward if isinstance(o, FusedAttention))

    assert pairs(10, 0) + pairs(15, 10) + pairs(7, 25) == pairs(32, 0) == 32 * 33 // 2


def test_families() -> None:
    bert = replace(SMALL, family="bert")
    s = setting(bert)
    total = 4 * (flops_of(layer(s).forward) + flops_of(layer(s).backward))
    total += flops_of(head(s).forward) + flops_of(head(s).backward)
    assert total == model_flops(bert, 2)
    vit = replace(SMALL, family="vit", patch_inputs=48)
    s = setting(vit)
    total = 4 * (flops_of(layer(s).forward) + flops_of(layer(s).backward))
    for part in (embedding(s), head(s)):
        total += flops_of(part.forward) + flops_of(part.backward)
    assert total == model_flops(vit, 2)
