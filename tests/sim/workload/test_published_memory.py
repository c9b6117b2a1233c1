"""Peak memory against published measurements and formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest

import sim.workload.setting as setting
from scenarios.schema import Model, Plan, Scenario
from sim.schedule.build import build_schedule
from sim.workload.memory import kept_activations, memory_model, peak_bytes
from sim.workload.setting import Setting, setting_of

GB = 10**9
MODELS = {
    "22B": Model(layers=48, hidden=6144, heads=64, sequence=2048, vocabulary=51200),
    "175B": Model(layers=96, hidden=12288, heads=96, sequence=2048, vocabulary=51200),
    "530B": Model(layers=105, hidden=20480, heads=128, sequence=2048, vocabulary=51200),
    "1T": Model(layers=128, hidden=25600, heads=160, sequence=2048, vocabulary=51200),
}


@pytest.mark.parametrize(
    ("name", "micro_batch", "pipeline", "chunks"),
    [("22B", 4, 1, 1), ("175B", 1, 8, 3), ("530B", 1, 35, 3), ("1T", 1, 64, 1)],
)
def test_korthikanti_s_models(name: str, micro_batch: int, pipeline: int, chunks: int) -> None:
    """Activations of the first stage, arXiv 2205.05198, section 4.2.3 and table 3: s b h L (10 +
    24/t + 5 a s/(h t)), times 1 + (p - 1)/(p v) interleaved, embedding's mask and head apart.

    The formula's p - 1 more chunks are what Megatron-LM's order holds at least: of the m v there
    are, (v - 1) p + 2 (p - 1) + 1.
    """
    model = MODELS[name]
    s, b, h, a, t = model.sequence, micro_batch, model.hidden, model.heads, 8
    for sequence_parallel, selective in ((False, False), (True, False), (True, True)):
        plan = Plan(
            tensor=t,
            pipeline=pipeline,
            chunks=chunks,
            schedule="interleaved",
            micro_batch=b,
            microbatches=4 * pipeline,
            sequence_parallel=sequence_parallel,
            recomputation="selective" if selective else "none",
        )
        scenario = Scenario(name=name, model=model, plan=plan)
        schedule = build_schedule(scenario)
        found = memory_model(scenario, schedule)
        assert found is not None
        layers = model.layers // (pipeline * chunks)
        held = (found.activation_bytes(1) if pipeline > 1 else _middle(scenario)) / layers
        per_layer = s * b * h * (34 / t if sequence_parallel else 10 + 24 / t)
        per_layer += 0 if selective else 5 * a * s * s * b / t
        assert held == pytest.approx(per_layer, rel=1e-9)
        in_flight = (chunks - 1) * pipeline + 2 * (pipeline - 1) + 1
        if chunks > 1:
            whole = per_layer * model.layers * (1 + (pipeline - 1) / (pipeline * chunks))
            assert in_flight * layers * per_layer == pytest.approx(whole, rel=1e-9)


def _middle(scenario: Scenario) -> float:
    """All layers of a model on one stage."""
    assert scenario.model is not None
    return scenario.model.layers * kept_activations(setting_of(scenario))


@pytest.mark.parametrize(
    ("sequence", "chunks", "published_gb"),
    [(16384, 1, 51.4), (24576, 1, 74.3), (16384, 2, 71.0), (24576, 2, None), (32768, 1, None)],
)
def test_seq1f1b_s_baselines(
    sequence: int, chunks: int, published_gb: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2.7B on 8 A100 80GB, 1F1B and interleaved: the peaks of the Seq1F1B authors' figure (source:
    github.com/MayDomine/Seq1F1B, seq1f1b_memory.svg), None where it ran out of memory.

    Layout and kernels are not stated: what grows with the sequence, 34 h bytes a token and layer,
    says a pipeline of 8 and attention that keeps no scores. All are predicted 5 to 6 % too high.
    """

    def fused(scenario: Scenario, tokens: int, context: int) -> Setting:
        return replace(setting_of(scenario, tokens, context), attention="fused")

    monkeypatch.setattr(setting, "setting_of", fused)
    scenario = Scenario(
        name="2.7B",
        model=Model(layers=32, hidden=2560, heads=32, sequence=sequence, vocabulary=51200),
        plan=Plan(
            pipeline=8,
            chunks=chunks,
            schedule="interleaved" if chunks > 1 else "1f1b",
            microbatches=32,
            p2p="blocking",
            precision="bf16",
        ),
    )
    schedule = build_schedule(scenario)
    found = memory_model(scenario, schedule)
    assert found is not None
    peak_gb = max(peak_bytes(found, schedule)) / GB
    if published_gb is None:
        assert peak_gb > 80
    else:
        assert peak_gb == pytest.approx(published_gb, rel=0.07)


def test_figure_17_without_recomputation_grows_by_a_stage_s_layers_a_microbatch() -> None:
    """145B, t = 8, p = 16 (arXiv 2104.04473, figure 17): 22 GiB more for 8 microbatches more.

    Published: without recomputation batch 16 did not fit in 80 GiB. What is counted here comes to
    63 GiB; the fp32 gradients that Megatron-LM of 2021 kept between steps, outputs kept after
    sending, communicators and fragmentation are not in it.
    """
    model = Model(layers=80, hidden=12288, heads=96, sequence=2048, vocabulary=51200)
    peaks = {}
    for recomputation in ("none", "full"):
        for batch in (8, 16, 32):
            plan = Plan(
                tensor=8,
                pipeline=16,
                global_batch=batch,
                recomputation=recomputation,
                p2p="blocking",
            )
            scenario = Scenario(name="145B", model=model, plan=plan)
            schedule = build_schedule(scenario)
            found = memory_model(scenario, schedule)
            assert found is not None
            peaks[recomputation, batch] = max(peak_bytes(found, schedule)) / 2**30
    assert peaks["none", 16] - peaks["none", 8] == pytest.approx(8 * 2.72, rel=0.01)
    assert peaks["none", 32] == peaks["none", 16]
    assert max(peaks["full", batch] for batch in (8, 16, 32)) < 25
    assert peaks["none", 8] < 45
