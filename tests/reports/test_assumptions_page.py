"""What a page says its figures rest on, by what the scenario uses, and how to get them again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reports.pages.assumptions import assumptions_section, reproduce_section
from reports.pages.not_modelled import assumed, not_modelled
from reports.pages.sections import timeline_section, trace_command
from scenarios.loader import load
from sim.measurement import Measurement
from sim.prediction import Prediction, predict, summary

DATA = ("plan.data=2", "cluster.devices_per_node=4")


def told(name: str, *overrides: str) -> str:
    prediction = predict(load(name, overrides).scenario)
    return "\n".join((*assumed(prediction), *not_modelled(prediction)))


def test_what_is_not_modelled_hangs_on_what_is_used() -> None:
    single = told("local-2rank", "plan.pipeline=1", "plan.data=1", "cluster.devices_per_node=1")
    for word in (
        "Networks",
        "Collectives",
        "Messages",
        "Token slices",
        "Clocks",
        "copies",
        "Fused",
    ):
        assert word not in single, word
    large = told("megatron/175b")
    for word in ("Networks", "Collectives", "All 64 copies", "Messages block", "Clocks", "Fused"):
        assert word in large, word
    assert "Recomputation beside" in large and "Token slices" not in large
    assert "Failures, stragglers, jitter: the scenario states none" in large
    sliced = told("terapipe/175b-setting10", "plan.p2p=exchange", "plan.slices=4")
    assert "Token slices" in sliced and "at once" in sliced
    run = told("megatron/175b-run", "training.stragglers={share: 0.01, slowdown: 1.2}")
    assert "Failures in groups" in run and "Slow devices" in run
    assert "Jitter: the scenario states none" in run


def test_given_times_have_no_device_model(times: Prediction) -> None:
    text = "\n".join((*assumed(times), *not_modelled(times)))
    assert "why they take as long as they do" in text and "the same for every microbatch" in text
    for word in ("Kernels", "Data loading", "Memory", "Collectives"):
        assert word not in text, word


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (("plan.sharding=full", "plan.data=2", "plan.pipeline=1"), "Fully sharded weights"),
        (("plan.gradient_reduction=overlapped", *DATA), "Overlapped reductions"),
        (("plan.frozen_layers=2",), "Frozen layers"),
        (("plan.tensor=2", "cluster.devices_per_node=4"), "Tensor-parallel all-reduces"),
        (("cluster.oversubscription=2",), "oversubscription is shared"),
    ],
)
def test_each_part_has_its_sentence(overrides: tuple[str, ...], word: str) -> None:
    assert word in told("local-2rank", *overrides)
    assert word not in told("local-2rank")


def test_the_page_ends_with_how_to_get_it_again(
    prediction: Prediction, measurement: Measurement
) -> None:
    section = reproduce_section(prediction, "pipetwin simulate local-4rank")
    text = " ".join(item for _, items in section.lists for item in items)
    assert section.code == "pipetwin simulate local-4rank"
    assert prediction.scenario.digest in text and "SimPy" in text
    for name in ("pipetwin", "Python", "numpy", "simpy", "plotly.js"):
        assert f"{name} " in text
    assert "same command" in section.claim
    ran = replace(measurement, environment={"transport": "gloo", "host": "x" * 300})
    measured = reproduce_section(prediction, "", ran)
    assert "the measured ones do not" in measured.claim
    assert measured.lists[-1][0] == "Where it ran"
    assert measured.lists[-1][1][0] == "transport: gloo" and "…" in measured.lists[-1][1][1]


def test_other_pages_have_both_in_one(prediction: Prediction) -> None:
    figures = summary(prediction)
    both = assumptions_section(prediction, figures, "pipetwin plan x", ("Uneven stages.",))
    lists = dict(both.lists)
    assert both.code == "pipetwin plan x" and "How to reproduce" in lists
    assert "Uneven stages." in lists["What is not modelled"]
    alone = assumptions_section(prediction, figures, not_asked=("Slices: none.",))
    assert "How to reproduce" not in dict(alone.lists)
    assert dict(alone.lists)["What was not asked"] == ("Slices: none.",)


def test_a_long_timeline_says_where_all_of_it_is(prediction: Prediction) -> None:
    large = predict(load("replay/stage-times", ["plan.microbatches=400"]).scenario)
    note = timeline_section(large, "trace.json.gz").figures[0].note
    assert "All of them are in trace.json.gz" in note
    typed = "pipetwin simulate x --set plan.pipeline=64 --report r.html --what-if --force"
    note = timeline_section(large, "", typed).figures[0].note
    assert "“pipetwin simulate x --set plan.pipeline=64 --trace trace.json.gz” writes all" in note
    assert timeline_section(prediction, "", typed).figures[0].note == ""
    assert trace_command("a b", "") == "pipetwin simulate 'a b' --trace trace.json.gz"
    assert trace_command("x", "pipetwin run x --report r.html").startswith("pipetwin simulate x")
