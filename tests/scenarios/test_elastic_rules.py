"""Frozen layers and elastic runs in scenario files: what is refused, and what would work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scenarios.errors import ScenarioError
from scenarios.loader import load
from scenarios.schema import Model, Plan, Scenario
from sim.schedule.build import build_schedule, frozen_stages
from sim.workload.partition import partition

PLACED = "plan.placement=pipeline-data-tensor"
ELASTIC = "elastic={epochs: 4, samples: 256}"


def refused(settings: tuple[str, ...], words: str, name: str = "local-4rank") -> ScenarioError:
    with pytest.raises(ScenarioError, match=words) as caught:
        load(name, list(settings))
    return caught.value


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("plan.frozen_layers=9",), "plan.frozen_layers=.*: is 9, but the model has 8 layers"),
        (("plan.frozen_layers=8", "model.ends=false"), "no head that would be left to train"),
        (("plan.cached_layers=2",), "plan.cached_layers=.*: is 2, but only frozen layers"),
        (("plan.fills_cache=true",), "plan.fills_cache=.*: is true, but no layer is frozen"),
        (("plan.frozen_layers=2", "plan.sharding=optimizer"), "plan.sharding=.*: is optimizer"),
        (("plan.frozen_layers=2", "plan.schedule=terapipe"), "`schedule: 1f1b`"),
        (
            ("plan.frozen_layers=2", "plan.schedule=interleaved", "plan.chunks=2"),
            "`schedule: 1f1b` with `chunks: 1`",
        ),
        (("plan.frozen_layers=2", "plan.slices=4"), "plan.slices=.*: cuts .*`slices: null`"),
        (
            ("plan.frozen_layers=2", "model.tied_embeddings=true"),
            "model.tied_embeddings=.*: is true",
        ),
        (("model.classes=2",), "model.classes=.*: is for `family: bert` only, .*gpt: leave it out"),
        ((ELASTIC, "plan.frozen_layers=2"), "plan.frozen_layers=.*: stands beside `elastic`"),
        ((ELASTIC, "plan.fills_cache=true"), "`fills_cache: false`"),
        ((ELASTIC, "plan.schedule=terapipe"), "`schedule: 1f1b`"),
        ((ELASTIC, "model.tied_embeddings=true"), "`tied_embeddings: false`"),
        ((ELASTIC, "plan.tensor=2", "plan.pipeline=2"), "`tensor: 1` would work"),
        (("elastic={epochs: 4, samples: 15}",), "`samples: 16` would work"),
        (("elastic={epochs: 4, samples: 256, microbatches: {8: 2}}",), "of 8 ranks, .*`8: null`"),
        (
            (ELASTIC,),
            "plan.placement: is tensor-data-pipeline, .*`placement: pipeline-data-tensor`",
        ),
        ((ELASTIC, "plan.placement=data-pipeline-tensor"), "plan.placement=.*: is data-pipeline-"),
        ((ELASTIC, "plan.devices=[3, 2, 1, 0]"), "plan.devices=.*: gives .*`devices: null`"),
    ],
)
def test_what_cannot_be_frozen_is_refused(settings: tuple[str, ...], words: str) -> None:
    refused(settings, words)


@pytest.mark.parametrize("field", ["cached_layers=1", "fills_cache=true", "frozen_first=true"])
@pytest.mark.parametrize("frozen", [3, 5, 7])
def test_what_is_on_the_first_stage_alone_comes_with_a_cut_that_works(
    field: str, frozen: int
) -> None:
    settings = (f"plan.frozen_layers={frozen}", f"plan.{field}")
    text = str(refused(settings, f"needs all {frozen} frozen layers on the first stage"))
    works = re.search(r"has 2; `(\w+): (.*?)` would work", text)
    assert works is not None
    load("local-4rank", [*settings, f"plan.{works[1]}={works[2]}"])


def test_autopipe_halves_a_power_of_two() -> None:
    three = ("plan.pipeline=3", "cluster.devices_per_node=3", "model.layers=9", ELASTIC, PLACED)
    refused(three, "a power of two; `pipeline: 2`")
    off = "elastic={epochs: 4, samples: 256, autopipe: false}"
    assert load("local-4rank", [*three[:3], PLACED, off]).scenario.elastic is not None


def test_given_times_say_nothing_of_frozen_layers(tmp_path: Path) -> None:
    file = tmp_path / "given.yaml"
    file.write_text("plan: {pipeline: 2, frozen_layers: 1}\ncosts: {forward: 1 ms, backward: 2 ms}")
    with pytest.raises(ScenarioError, match=r"given\.yaml:1:36: .*`frozen_layers: 0`"):
        load(str(file))
    file.write_text(
        "plan: {pipeline: 2}\ncosts: {forward: 1 ms, backward: 2 ms}\n"
        "elastic: {epochs: 1, samples: 9}"
    )
    with pytest.raises(ScenarioError, match=r"given\.yaml:3:10: elastic: .*`elastic: null`"):
        load(str(file))


def test_sound_ones_are_taken() -> None:
    load("local-4rank", ["plan.frozen_layers=8", "plan.schedule=gpipe"])
    load("local-4rank", [ELASTIC, PLACED])
    load("local-4rank", [ELASTIC, "plan.placement=tensor-pipeline-data"])
    load("local-4rank", [ELASTIC, "plan.pipeline=1", "plan.data=4", "plan.micro_batch=1"])
    bert = ["model.family=bert", "model.classes=2", "model.tied_embeddings=true"]
    model = load("local-4rank", [*bert, "plan.frozen_layers=3"]).scenario.model
    assert model is not None
    assert (model.outputs, model.classifies, model.shares_table) == (2, True, False)


@pytest.mark.parametrize("counts", [(2, 2, 2, 2), (1, 3, 3, 1), (5, 1, 1, 1), (1, 1, 1, 5)])
@pytest.mark.parametrize("frozen", range(9))
def test_the_cut_and_the_order_agree_on_frozen_stages(counts: tuple[int, ...], frozen: int) -> None:
    model = Model(layers=8, hidden=8, heads=2, sequence=4, vocabulary=9, tied_embeddings=False)
    plan = Plan(pipeline=4, layers_per_stage=counts, frozen_layers=frozen, microbatches=2)
    scenario = Scenario(name="s", model=model, plan=plan)
    parts = partition(scenario)
    assert sum(part.frozen_layers for part in parts) == frozen
    assert sum(part.num_active for part in parts) == 8 - frozen
    assert sum(not part.trained for part in parts) == frozen_stages(scenario)
    assert build_schedule(scenario).frozen_stages == frozen_stages(scenario)
    assert all(part.trained for part in parts[frozen_stages(scenario) :])
