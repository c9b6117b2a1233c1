"""Memory of frozen and cached layers, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scenarios.schema import Cluster, Device, Link, Model, Plan, Scenario
from sim.prediction import predict
from sim.schedule.actions import Action, Kind
from sim.schedule.build import build_schedule
from sim.workload.flops import hardware_flops, model_flops
from sim.workload.memory import MemoryModel, layer_activations, memory_model, peak_bytes
from sim.workload.parameters import embedding_parameters, head_parameters, layer_parameters
from sim.workload.partition import partition
from sim.workload.setting import setting_of

MODEL = Model(layers=8, hidden=64, heads=4, sequence=32, vocabulary=512, tied_embeddings=False)
LAYER = layer_parameters(MODEL)
ROWS = 2 * 32
ONE = 2 * ROWS * 64
"""Bytes of a microbatch's activations between two layers."""


def scenario(**plan: object) -> Scenario:
    fields = {"pipeline": 4, "schedule": "gpipe", "micro_batch": 2, "microbatches": 3, **plan}
    return Scenario(name="s", model=MODEL, plan=Plan(**fields))  # type: ignore[arg-type]


def memory(**plan: object) -> MemoryModel:
    s = scenario(**plan)
    found = memory_model(s, build_schedule(s))
    assert found is not None
    return found


def test_parts_of_a_cut_with_frozen_and_cached_layers() -> None:
    parts = partition(scenario(frozen_layers=5, cached_layers=1))
    assert [part.frozen_layers for part in parts] == [2, 2, 1, 0]
    assert [part.cached_layers for part in parts] == [1, 0, 0, 0]
    assert [part.trained for part in parts] == [False, False, True, True]
    assert [part.num_active for part in parts] == [0, 0, 1, 2]
    assert [part.num_computed for part in parts] == [1, 2, 2, 2]
    assert not parts[0].computes_embedding and not parts[0].trains_embedding
    active = parts[2].active
    assert (active.first_layer, active.num_layers, active.frozen_layers) == (5, 1, 0)
    assert parts[3].active == parts[3]


def test_a_frozen_stage_holds_its_weights_and_nothing_else() -> None:
    """In fp16: two bytes a weight; no gradients, fp32 copy or moments, no optimizer step's copy."""
    found = memory(frozen_layers=4)
    stage = dict(found.static_bytes(1))
    assert stage.pop("parameters") == 2 * 2 * LAYER
    buffers = stage.pop("message_buffers")
    assert not any(stage.values())
    # Four activations posted ahead from stage 0 and one on its way to stage 2; no gradients.
    assert buffers == 5 * ONE
    assert found.static_bytes(0)["message_buffers"] == ONE
    assert found.static_bytes(2)["message_buffers"] == (4 + 1 + 4) * ONE
    assert found.static_bytes(3)["message_buffers"] == (4 + 1) * ONE
    assert found.activation_bytes(1) == 0
    assert found.working_bytes(1, Kind.BACKWARD) == 0
    assert found.working_bytes(1, Kind.OPTIMIZER) == 0
    assert found.working_bytes(1, Kind.FORWARD) == memory().working_bytes(1, Kind.FORWARD) > 0
    assert found.static_bytes(0)["parameters"] == 2 * (2 * LAYER + embedding_parameters(MODEL))


def test_a_stage_of_frozen_and_active_layers_counts_the_active_ones() -> None:
    """Of stage 1's two layers one is frozen; the active one's activations have its input."""
    found, plain = memory(frozen_layers=3), memory()
    static, whole = found.static_bytes(1), plain.static_bytes(1)
    assert static["parameters"] == whole["parameters"] == 2 * 2 * LAYER
    for kind, size in (("gradients", 2), ("master_weights", 4), ("optimizer_state", 8)):
        assert static[kind] == size * LAYER == whole[kind] // 2
    assert found.activation_bytes(1) == layer_activations(setting_of(scenario()))
    assert found.working_bytes(1, Kind.OPTIMIZER) == 4 * LAYER
    assert found.static_bytes(2) == plain.static_bytes(2)


def test_the_embedding_freezes_with_the_first_layer() -> None:
    found, plain = memory(frozen_layers=1), memory()
    assert found.static_bytes(0)["gradients"] == 2 * LAYER
    mask = ROWS * 64
    kept = layer_activations(setting_of(scenario()))
    assert plain.activation_bytes(0) == 2 * kept + mask
    assert found.activation_bytes(0) == kept


def test_all_layers_frozen_leave_the_head() -> None:
    found, plain = memory(frozen_layers=8), memory()
    assert found.static_bytes(3)["gradients"] == 2 * head_parameters(MODEL)
    assert found.static_bytes(3)["parameters"] == plain.static_bytes(3)["parameters"]
    # Inputs of its norm and of its product, and the softmax in fp32.
    logits = 4 * ROWS * 512
    assert found.activation_bytes(3) == 2 * ONE + logits
    assert found.working_bytes(3, Kind.BACKWARD) == logits + logits // 2
    schedule = build_schedule(scenario(frozen_layers=8))
    assert schedule.frozen_stages == 3
    peaks = peak_bytes(found, schedule)
    assert peaks[1] == sum(found.static_bytes(1).values()) + found.working_bytes(1, Kind.FORWARD)


@pytest.mark.parametrize("recompute_every", [1, 2])
def test_full_recomputation_keeps_the_input_of_each_active_group(recompute_every: int) -> None:
    cut = {"pipeline": 2, "frozen_layers": 1, "recompute_every": recompute_every}
    found = memory(recomputation="full", **cut)
    assert found.activation_bytes(0) == (3 if recompute_every == 1 else 2) * ONE


def test_what_goes_to_and_from_the_cache_is_held_while_a_pass_runs() -> None:
    frozen = memory(frozen_layers=2).working_bytes(0, Kind.FORWARD)
    assert memory(frozen_layers=2, fills_cache=True).working_bytes(0, Kind.FORWARD) == frozen + ONE
    read = memory(frozen_layers=2, cached_layers=1).working_bytes(0, Kind.FORWARD)
    assert read == frozen + ONE
    # Nothing is computed, only read and sent on.
    assert memory(frozen_layers=2, cached_layers=2).working_bytes(0, Kind.FORWARD) == ONE
    assert memory(frozen_layers=2, cached_layers=2).static == memory(frozen_layers=2).static


def test_frozen_layers_over_the_whole_batch_first() -> None:
    """Microbatch 0's pass works on three microbatches at once, and makes the input of all three."""
    cut = {"layers_per_stage": (3, 2, 2, 1), "frozen_layers": 2}
    found, plain = memory(frozen_first=True, **cut), memory(**cut)
    kept = layer_activations(setting_of(scenario()))
    taken = [found.taken_bytes(Action(Kind.FORWARD, 0, i)) for i in range(3)]
    assert taken == [kept + 2 * ONE, kept - ONE, kept - ONE]
    assert sum(taken) == sum(plain.taken_bytes(Action(Kind.FORWARD, 0, i)) for i in range(3))
    once = plain.working_bytes(0, Kind.FORWARD)
    assert found.working_bytes(0, Kind.FORWARD, 0) == 3 * once
    assert found.working_bytes(0, Kind.FORWARD, 1) == once
    assert found.working_bytes(1, Kind.FORWARD, 0) == plain.working_bytes(1, Kind.FORWARD)
    assert [found.taken_bytes(Action(Kind.FORWARD, 1, i)) for i in range(3)] == [2 * kept] * 3
    schedule = build_schedule(scenario(frozen_first=True, **cut))
    assert peak_bytes(found, schedule)[0] >= peak_bytes(plain, schedule)[0]
    assert peak_bytes(found, schedule)[1:] == peak_bytes(plain, schedule)[1:]


def test_the_whole_batchs_output_leaves_a_frozen_stage_bit_by_bit() -> None:
    found = memory(frozen_first=True, frozen_layers=2)
    assert [found.taken_bytes(Action(Kind.FORWARD, 0, i)) for i in range(3)] == [
        2 * ONE,
        -ONE,
        -ONE,
    ]


def test_flops_of_frozen_and_cached_layers() -> None:
    vit = replace(MODEL, family="vit", patch_inputs=48)
    layer = (model_flops(vit, 2) - model_flops(replace(vit, layers=7), 2)) // 3
    patches = 2 * ROWS * 48 * 64
    assert model_flops(vit, 2) - model_flops(vit, 2, frozen_layers=3) == 6 * layer + patches
    cached = model_flops(vit, 2, frozen_layers=3, cached_layers=2)
    assert model_flops(vit, 2, frozen_layers=3) - cached == 2 * layer + patches
    again = hardware_flops(vit, 2, "full", frozen_layers=3)
    assert again - model_flops(vit, 2, frozen_layers=3) == 5 * layer


def test_a_prediction_follows_its_memory_over_time() -> None:
    """The curves end where they began, also where the whole batch is taken at once."""
    device = Device(
        name="core", kind="cpu", memory=2**33, memory_bandwidth=1e10, matmul_peak={"fp16": 1e11}
    )
    link = Link(bandwidth=1e10, latency=1000)
    cores = Cluster(devices_per_node=4, device=device, intra_node=link, inter_node=link)
    s = replace(scenario(frozen_first=True, frozen_layers=2), cluster=cores)
    curves = predict(s).memory
    assert curves is not None
    assert all(curve.bytes_held[-1] == sum(curve.static.values()) for curve in curves)
    assert (
        curves[0].peak_bytes
        == peak_bytes(memory(frozen_first=True, frozen_layers=2), build_schedule(s))[0]
    )
