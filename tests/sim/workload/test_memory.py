"""Memory against closed forms."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.schema import GivenCosts, Model, Plan, Scenario, StageCosts
from sim.schedule.actions import Kind
from sim.schedule.generators import gpipe, one_forward_one_backward
from sim.workload.memory import (
    MemoryModel,
    kept_activations,
    layer_activations,
    memory_model,
    peak_bytes,
)
from sim.workload.partition import partition, slices_of
from sim.workload.transformer import setting_of

MODEL = Model(layers=8, hidden=128, heads=4, sequence=64, vocabulary=512)


def scenario(**plan: object) -> Scenario:
    return Scenario(name="s", model=MODEL, plan=Plan(**{"pipeline": 4, "microbatches": 8, **plan}))  # type: ignore[arg-type]


def test_korthikanti_2022() -> None:
    """s b h (34 + 5 a s/h); with t: s b h (10 + 24/t + 5 a s/(h t)); selective without the last."""
    s, b, h, a = 64, 3, 128, 4
    whole = setting_of(scenario(micro_batch=3))
    assert layer_activations(whole) == s * b * h * 34 + 5 * a * s * s * b
    split = replace(whole, tensor=2)
    assert layer_activations(split) == s * b * h * (10 + 12) + 5 * a * s * s * b // 2
    assert kept_activations(replace(split, recomputation="selective")) == s * b * h * 22
    assert kept_activations(replace(split, recomputation="full")) == 2 * s * b * h


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("microbatches", [1, 3, 8])
def test_in_flight(ranks: int, microbatches: int) -> None:
    """m microbatches for GPipe, min(m, p - r) for 1F1B, times a microbatch's bytes."""
    model = MemoryModel(
        static=({},) * ranks,
        activations=((1000,),) * ranks,
        working=({},) * ranks,
        optimizer=(0,) * ranks,
    )
    assert peak_bytes(model, gpipe(ranks, microbatches)) == (1000 * microbatches,) * ranks
    assert peak_bytes(model, one_forward_one_backward(ranks, microbatches)) == tuple(
        1000 * min(microbatches, ranks - r) for r in range(ranks)
    )


def test_logits_in_fp32_on_the_last_stage() -> None:
    s = scenario()
    model = memory_model(s, one_forward_one_backward(4, 8))
    assert model is not None
    middle, last = model.activation_bytes(1), model.activation_bytes(3)
    assert last - middle == 4 * 64 * 512 + 2 * 2 * 64 * 128
    assert model.working_bytes(3, Kind.BACKWARD) >= 4 * 64 * 512


def test_static_bytes_of_adam_in_fp16() -> None:
    model = memory_model(scenario(), one_forward_one_backward(4, 8))
    assert model is not None
    static = model.static_bytes(1)
    parameters = 2 * (12 * 128**2 + 13 * 128)
    assert static["parameters"] == static["gradients"] == 2 * parameters
    assert static["master_weights"] == 4 * parameters
    assert static["optimizer_state"] == 8 * parameters
    assert model.static_bytes(0)["parameters"] > model.static_bytes(1)["parameters"]


def test_one_rank_holds_tied_embeddings_once() -> None:
    one = scenario(pipeline=1)
    model = memory_model(one, one_forward_one_backward(1, 8))
    assert model is not None
    untied = replace(one, model=replace(MODEL, tied_embeddings=False))
    other = memory_model(untied, one_forward_one_backward(1, 8))
    assert other is not None
    extra = other.static_bytes(0)["parameters"] - model.static_bytes(0)["parameters"]
    assert extra == 2 * 512 * 128


@given(
    micro_batch=st.integers(1, 8),
    recomputation=st.sampled_from(["none", "selective", "full"]),
    tensor=st.sampled_from([1, 2, 4]),
)
def test_memory_grows_with_the_microbatch(
    micro_batch: int, recomputation: str, tensor: int
) -> None:
    schedule = one_forward_one_backward(4, 8)
    peaks = []
    for size in (micro_batch, micro_batch + 1):
        s = scenario(micro_batch=size, recomputation=recomputation, tensor=tensor)
        model = memory_model(s, schedule)
        assert model is not None
        peaks.append(peak_bytes(model, schedule))
    assert all(a < b for a, b in zip(*peaks, strict=True))


def test_given_activations() -> None:
    schedule = one_forward_one_backward(2, 4)
    costs = GivenCosts(activation=100, stages={1: StageCosts(activation=70)})
    model = memory_model(Scenario(name="s", costs=costs), schedule)
    assert model is not None
    assert peak_bytes(model, schedule) == (200, 70)
    assert memory_model(Scenario(name="s", costs=GivenCosts()), schedule) is None


def test_partition_refuses_what_does_not_divide() -> None:
    with pytest.raises(ValueError, match="8 layers cannot be cut into 3 stages"):
        partition(scenario(pipeline=3))
    assert [p.num_layers for p in partition(scenario(layers_per_stage=(1, 2, 2, 3)))] == [
        1,
        2,
        2,
        3,
    ]


@given(st.integers(1, 100), st.integers(1, 10))
def test_slices_cover_the_sequence(sequence: int, num_slices: int) -> None:
    slices = slices_of(sequence, num_slices)
    assert sum(tokens for _, tokens in slices) == sequence
    assert [c for c, _ in slices] == [sum(t for _, t in slices[:i]) for i in range(num_slices)]
