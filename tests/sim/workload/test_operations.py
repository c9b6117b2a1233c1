"""The operation lists against the published formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scenarios.schema import Model
from sim.workload.flops import hardware_flops, model_flops, num_parameters
from sim.workload.operations import (
    FusedAttention,
    Operation,
    Product,
    TensorGather,
    TensorReduction,
    TensorScatter,
    Traffic,
    flops_of,
)
from sim.workload.parameters import layer_parameters
from sim.workload.setting import Setting
from sim.workload.transformer import embedding, head, layer

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


def test_sequence_parallel_collectives_per_layer() -> None:
    """Forward two all-gathers and two reduce-scatters of T h elements; backward the same and an
    all-gather more for each pair of products; the volume of the all-reduces (arXiv 2205.05198)."""

    def of(kind: type, operations: tuple[Operation, ...]) -> list[int]:
        return [o.payload_bytes for o in operations if isinstance(o, kind)]

    work = layer(setting(tensor=2, sequence_parallel=True, recomputation="full"))
    size = 2 * 2 * 32 * 64
    for operations, gathers in ((work.forward, 2), (work.backward_input, 4), (work.recomputed, 2)):
        assert of(TensorGather, operations) == [size] * gathers
        assert of(TensorScatter, operations) == [size] * 2
        assert of(TensorReduction, operations) == []
    assert work.backward_weight == tuple(
        o for o in work.backward_weight if isinstance(o, (Product, Traffic))
    )
    beside = [
        o.beside.name
        for o in work.backward_input
        if isinstance(o, (TensorGather, TensorScatter)) and o.beside is not None
    ]
    assert beside == ["expand dgrad", "expand wgrad", "qkv dgrad", "qkv wgrad"]
    ends = embedding(setting(tensor=2, sequence_parallel=True))
    assert (of(TensorScatter, ends.forward), of(TensorGather, ends.backward)) == ([size], [size])
    last = head(setting(tensor=2, sequence_parallel=True))
    assert of(TensorGather, last.forward) == [size]
    assert (of(TensorGather, last.backward), of(TensorScatter, last.backward)) == ([size], [size])


@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_sequence_parallelism_keeps_products_and_divides_the_rest(family: str) -> None:
    model = replace(SMALL, family=family)
    plain, shared = (setting(model, tensor=4, sequence_parallel=on) for on in (False, True))

    def traffic(operations: tuple[Operation, ...], *names: str) -> list[int]:
        return [o.num_bytes for o in operations if isinstance(o, Traffic) and o.name in names]

    for ours, theirs in ((layer(shared), layer(plain)), (embedding(shared), embedding(plain))):
        assert flops_of(ours.forward) == flops_of(theirs.forward)
        assert flops_of(ours.backward) == flops_of(theirs.backward)
    divided = ("layernorm", "bias-dropout-add", "layernorm backward", "residual gradient")
    for name in ("forward", "backward_input"):
        ours = traffic(getattr(layer(shared), name), *divided)
        theirs = traffic(getattr(layer(plain), name), *divided)
        assert [4 * n for n in ours] == theirs != []
    alone = setting(model, sequence_parallel=True)
    assert layer(alone) == layer(setting(model)) and head(alone) == head(setting(model))


def test_every_few_layers_repeat_the_same_work() -> None:
    groups = layer(setting(recomputation="full", recompute_every=4))
    assert groups == layer(setting(recomputation="full"))


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
