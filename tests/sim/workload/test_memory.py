"""Memory against closed forms."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.schema import GivenCosts, MicrobatchGroup, Model, Plan, Scenario, StageCosts
from sim.schedule.actions import Kind
from sim.schedule.build import build_schedule
from sim.schedule.generators import gpipe, interleaved, one_forward_one_backward
from sim.workload.memory import (
    MemoryModel,
    kept_activations,
    layer_activations,
    memory_model,
    peak_bytes,
)
from sim.workload.partition import group_pieces, partition
from sim.workload.setting import setting_of

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
        activations=(((1000,),),) * ranks,
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
    chunks=st.sampled_from([1, 2]),
    sequence_parallel=st.booleans(),
)
def test_memory_grows_with_the_microbatch(
    micro_batch: int, recomputation: str, tensor: int, chunks: int, sequence_parallel: bool
) -> None:
    schedule = interleaved(4, 8, chunks)
    peaks = []
    for size in (micro_batch, micro_batch + 1):
        s = scenario(
            micro_batch=size,
            recomputation=recomputation,
            tensor=tensor,
            chunks=chunks,
            sequence_parallel=sequence_parallel,
        )
        model = memory_model(s, schedule)
        assert model is not None
        peaks.append(peak_bytes(model, schedule))
    assert all(a < b for a, b in zip(*peaks, strict=True))


def test_sequence_parallelism_divides_all_activations() -> None:
    """s b h (34/t + 5 a s/(h t)), arXiv 2205.05198, equation 4; 34/t without attention's core."""
    s, b, h, a = 64, 3, 128, 4
    setting = setting_of(scenario(micro_batch=3, tensor=2, sequence_parallel=True))
    assert layer_activations(setting) == s * b * h * 34 // 2 + 5 * a * s * s * b // 2
    selective = replace(setting, recomputation="selective")
    assert kept_activations(selective) == s * b * h * 34 // 2
    assert kept_activations(replace(setting, recomputation="full")) == 2 * s * b * h // 2
    fused = replace(setting, attention="fused")
    assert kept_activations(fused) == kept_activations(replace(fused, recomputation="selective"))
    schedule = one_forward_one_backward(4, 8)
    with_it, without = (
        memory_model(scenario(tensor=2, sequence_parallel=on), schedule) for on in (True, False)
    )
    assert with_it is not None and without is not None
    assert (
        with_it.static_bytes(1)["message_buffers"] * 2
        == (without.static_bytes(1)["message_buffers"])
    )


@pytest.mark.parametrize(("every", "kept"), [(1, 6), (2, 3), (4, 2), (5, 2), (6, 1), (9, 1)])
def test_groups_of_recomputed_layers_keep_their_first_input(every: int, kept: int) -> None:
    s = scenario(pipeline=1, layers_per_stage=(6,), recomputation="full", recompute_every=every)
    s = replace(s, model=replace(MODEL, layers=6))
    model = memory_model(s, one_forward_one_backward(1, 8))
    one = memory_model(
        replace(s, plan=replace(s.plan, recompute_every=1)), one_forward_one_backward(1, 8)
    )
    assert model is not None and one is not None
    size, layer = 2 * 64 * 128, layer_activations(setting_of(s))
    assert one.activation_bytes(0) - model.activation_bytes(0) == (6 - kept) * size
    group = min(every, 6)
    narrow = replace(s, model=replace(MODEL, layers=6, vocabulary=4))
    recomputed = memory_model(narrow, one_forward_one_backward(1, 8))
    assert recomputed is not None
    # While layers go backward, what the head kept is free again.
    of_head = 2 * size + 4 * 64 * 4
    temporary = recomputed.working_bytes(0, Kind.FORWARD)
    assert recomputed.working_bytes(0, Kind.BACKWARD) == (
        temporary + group * layer - size - of_head
    )


def test_working_memory_of_attention_and_of_logits() -> None:
    """Beside what is kept: one tensor of scores and two of residuals, or the gradient of logits."""
    s = scenario(micro_batch=2)
    model = memory_model(s, one_forward_one_backward(4, 8))
    assert model is not None
    rows = 2 * 64
    scores, wide = 2 * 4 * 64 * 64, rows * 4 * 128
    assert model.working_bytes(1, Kind.BACKWARD) == 2 * (max(scores, wide) + 2 * rows * 128)
    assert model.working_bytes(3, Kind.BACKWARD) == (4 + 2) * rows * 512


def test_zero_shares_states_out() -> None:
    """arXiv 1910.02054, section 5: K = 12 bytes of state in 16 bytes a weight, stages 1 and 3."""
    schedule = one_forward_one_backward(1, 8)
    static = {}
    for sharding in ("none", "optimizer", "full"):
        s = scenario(pipeline=1, data=4, sharding=sharding)
        model = memory_model(s, schedule)
        assert model is not None
        static[sharding] = {k: v for k, v in model.static_bytes(0).items() if v}
        if sharding == "none":
            count = static["none"]["parameters"] // 2
            working = model.working_bytes(0, Kind.OPTIMIZER)
            assert working == 4 * count
        else:
            assert model.working_bytes(0, Kind.OPTIMIZER) == working // 4
    assert count % 4 == 0
    assert sum(static["none"].values()) == 16 * count
    assert sum(static["optimizer"].values()) == (4 + 12 // 4) * count
    assert sum(static["full"].values()) == 16 * count // 4


def test_gathered_weights_are_held_while_passes_run() -> None:
    s = scenario(pipeline=1, data=4, sharding="full")
    schedule = one_forward_one_backward(1, 8)
    model, plain = (
        memory_model(replace(s, plan=replace(s.plan, sharding=how)), schedule)
        for how in ("full", "none")
    )
    assert model is not None and plain is not None
    largest = 512 * 128  # The table and the MLP's matrices are of one size here.
    for kind, width in ((Kind.FORWARD, 2 * 2), (Kind.BACKWARD, 2 * 2 + 2)):
        more = model.working_bytes(0, kind) - plain.working_bytes(0, kind)
        assert more == width * largest


def test_interleaved_ranks_hold_all_their_chunks() -> None:
    """Weights as without chunks; the ends' tables once a rank, also where one rank holds both."""
    plan = {"schedule": "interleaved", "chunks": 2}
    schedule = interleaved(4, 8, 2)
    model = memory_model(scenario(**plan), schedule)
    plain = memory_model(scenario(), one_forward_one_backward(4, 8))
    assert model is not None and plain is not None
    for rank in range(4):
        both = [m.static_bytes(rank)["parameters"] for m in (model, plain)]
        assert both[0] == both[1]
    # A middle rank sends to and receives from two neighbours for each of its two chunks.
    assert model.static_bytes(1)["message_buffers"] == 2 * plain.static_bytes(1)["message_buffers"]
    half = plain.activation_bytes(1) // 2
    assert model.activation_bytes(1) == model.activation_bytes(5) == half
    # In flight: (v - 1) p + 2 (p - 1 - r) + 1 chunks.
    held = peak_bytes(model, schedule)[1] - sum(model.static_bytes(1).values())
    working = model.working_bytes(1, Kind.BACKWARD)
    assert held == max(9 * half + working, model.working_bytes(1, Kind.OPTIMIZER))
    alone = scenario(pipeline=1, schedule="interleaved", chunks=2)
    one = memory_model(alone, interleaved(1, 8, 2))
    whole = memory_model(scenario(pipeline=1), one_forward_one_backward(1, 8))
    assert one is not None and whole is not None
    assert one.static_bytes(0) == whole.static_bytes(0)


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
    slices = group_pieces(MicrobatchGroup(micro_batch=3, slices=num_slices), sequence)
    tokens = [piece.tokens for piece in slices]
    assert sum(tokens) == sequence and max(tokens) - min(tokens) <= 1
    assert [piece.context for piece in slices] == [sum(tokens[:i]) for i in range(num_slices)]
    assert {piece.micro_batch for piece in slices} == {3}


def sliced(schedule: str, **plan: object) -> Scenario:
    return scenario(schedule=schedule, **plan)


@pytest.mark.parametrize("recomputation", ["none", "selective", "full"])
def test_keys_and_values_live_until_the_first_slice_is_done(recomputation: str) -> None:
    """In the middle stage: all slices' activations, of which keys and values stay, and gradients of
    all of them as soon as the first backward pass begins; afterwards nothing is left."""
    found = sliced("terapipe", recomputation=recomputation, slices=(10, 44, 10), microbatches=2)
    schedule = build_schedule(found)
    model = memory_model(found, schedule)
    assert model is not None and found.model is not None
    layers, e = found.model.layers // 4, 2
    cached = [layers * 2 * e * tokens * found.model.hidden for tokens in (10, 44, 10)]
    assert model.caches[1] == (tuple(cached),)
    held, after = 0, []
    for action in schedule.orders[1]:
        held += model.taken_bytes(action)
        held -= model.freed_bytes(action)
        after.append(held)
    assert after[-1] == 0 and min(after) >= 0
    # Of the second microbatch the last slice has gone back: its own activations are freed, its
    # keys and values and the gradients of all of the microbatch's are not.
    last = model.activation_bytes(1, 2)
    assert after[6] == after[5] - last + sum(cached)
    assert after[8] == after[5] // 2


def test_a_whole_microbatch_keeps_what_it_kept() -> None:
    plain, cut = sliced("gpipe", microbatches=2), sliced("gpipe", microbatches=2, slices=1)
    assert memory_model(plain, build_schedule(plain)) == memory_model(cut, build_schedule(cut))


def test_1f1b_over_slices_holds_fewer_of_them() -> None:
    peaks = []
    for schedule in ("terapipe", "1f1b"):
        found = sliced(schedule, slices=4, microbatches=8)
        model = memory_model(found, build_schedule(found))
        assert model is not None
        peak = peak_bytes(model, build_schedule(found))[1]
        peaks.append(peak - sum(model.static_bytes(1).values()))
    assert peaks[1] < 0.4 * peaks[0]
