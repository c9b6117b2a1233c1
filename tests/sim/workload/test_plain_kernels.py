"""The layer of plain kernels with its cache of keys and values, and layers without ends."""

from __future__ import annotations

from dataclasses import replace

from scenarios.loader import load
from scenarios.schema import Model
from sim.schedule.actions import Kind
from sim.schedule.build import build_program
from sim.workload.operations import Product, Traffic, flops_of
from sim.workload.partition import partition
from sim.workload.setting import Setting
from sim.workload.transformer import layer

MODEL = Model(layers=4, hidden=1024, heads=8, sequence=512, vocabulary=1000)
FUSED = Setting(model=MODEL, micro_batch=2, tokens=128, context=256, tensor=2)
PLAIN = replace(FUSED, kernels="plain")


def moved(setting: Setting, name: str) -> int:
    """Bytes of all kernels of a name in both passes."""
    work = layer(setting)
    operations = (*work.forward, *work.backward)
    return sum(o.num_bytes for o in operations if isinstance(o, Traffic) and o.name == name)


def test_products_are_the_same() -> None:
    for one, other in zip(
        (layer(FUSED).forward, layer(FUSED).backward),
        (layer(PLAIN).forward, layer(PLAIN).backward),
        strict=True,
    ):
        assert flops_of(one) == flops_of(other) > 0
        assert [o for o in one if isinstance(o, Product)] == [
            o for o in other if isinstance(o, Product)
        ]


def test_plain_kernels_are_more_and_move_more() -> None:
    for name in ("forward", "backward"):
        few, many = (
            [o for o in getattr(layer(s), name) if isinstance(o, Traffic)] for s in (FUSED, PLAIN)
        )
        assert sum(o.kernels for o in many) > sum(o.kernels for o in few)
        assert sum(o.num_bytes for o in many) > sum(o.num_bytes for o in few)


def test_scores_pass_through_fp32() -> None:
    """Forward: mask added 4, softmax 6, cast 6 bytes a score; backward: cast 6, softmax 10."""
    scores = 2 * 4 * 128 * 384
    assert moved(PLAIN, "mask added") == 4 * scores
    assert moved(PLAIN, "softmax") == moved(PLAIN, "probabilities from fp32") == 6 * scores
    assert moved(PLAIN, "probabilities to fp32") == 6 * scores
    assert moved(PLAIN, "softmax backward") == 10 * scores
    in_fp32 = replace(PLAIN, precision="fp32", gradient_precision="fp32")
    assert moved(in_fp32, "softmax backward") == 12 * scores


def test_every_slice_copies_the_gradient_of_the_whole_cache() -> None:
    """Per token of the sequence and element of keys and values, 2 x (zeros + a copy read and
    written); of the part read, a copy; of the context, a sum."""
    width = 2 * 512
    found = moved(PLAIN, "keys and values backward")
    assert found == 2 * 2 * (3 * 512 + 3 * 384 + 3 * 256) * width
    first = replace(PLAIN, context=0)
    assert moved(first, "keys and values backward") == 2 * 2 * (3 * 512 + 3 * 128) * width
    assert moved(PLAIN, "keys and values") == 2 * 2 * 2 * 128 * width
    assert moved(FUSED, "keys and values backward") == 0


def test_layers_without_ends() -> None:
    scenario = load("published/terapipe.latency/without/5").scenario
    assert scenario.model is not None and not scenario.model.ends
    assert not any(part.embedding or part.head for part in partition(scenario))
    with_ends = replace(scenario, model=replace(scenario.model, ends=True))
    parts = partition(with_ends)
    assert (parts[0].embedding, parts[-1].head) == (True, True)
    kinds = [{a.kind for a in build_program(s).distinct} for s in (scenario, with_ends)]
    assert [Kind.REDUCE_TIED in found for found in kinds] == [False, True]
