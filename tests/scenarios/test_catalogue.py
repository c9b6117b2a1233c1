"""Every file of the catalogue loads, and its facts agree with published ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from scenarios.catalogue import Entry, catalogue, run_tables
from scenarios.errors import ScenarioError
from scenarios.loader import check_partial, load
from scenarios.published import load_table
from scenarios.published_elastic import load_runs

ENTRIES = catalogue()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_entry_is_right(entry: Entry) -> None:
    assert entry.description
    table_id = entry.name.rsplit("/", 1)[-1]
    if entry.kind == "table" and table_id in run_tables():
        assert load_runs(table_id).runs
    elif entry.kind == "table":
        assert load_table(table_id).rows
    elif entry.kind == "scenario":
        assert load(entry.name).scenario.name == entry.name.rsplit("/", 1)[-1]
    else:
        check_partial(entry.name)
        with pytest.raises(ScenarioError, match="is missing"):
            load(entry.name)


def test_all_kinds_are_there() -> None:
    assert {entry.kind for entry in ENTRIES} == {"device", "cluster", "model", "scenario", "table"}
    assert list(ENTRIES) == sorted(ENTRIES, key=lambda entry: entry.path)


# Parameters by 12 l h^2 (1 + 13/(12 h) + (V + s)/(12 l h)), equation 2 of arXiv 2104.04473.
@pytest.mark.parametrize(
    ("name", "billions", "tolerance"),
    [
        ("gpt3-125m", 0.125, 0.01),
        ("gpt3-350m", 0.350, 0.03),
        ("gpt3-760m", 0.760, 0.01),
        ("gpt3-1.3b", 1.3, 0.02),
        ("gpt3-2.7b", 2.7, 0.02),
        ("gpt3-6.7b", 6.7, 0.01),
        ("gpt3-13b", 13.0, 0.02),
        ("gpt3-175b", 174.6, 0.001),
        ("gpt-1t", 1008.0, 0.001),
    ],
)
def test_models_have_their_published_size(
    name: str, billions: float, tolerance: float, tmp_path: Path
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(f"extends: [{name}, dgx-a100]\nplan: {{data: 8}}\n")
    model = load(file).scenario.model
    assert model is not None
    layers, hidden = model.layers, model.hidden
    weights = (
        12 * layers * hidden**2
        + 13 * layers * hidden
        + (model.vocabulary + model.sequence) * hidden
    )
    assert weights / 1e9 == pytest.approx(billions, rel=tolerance)


def test_megatron_scenarios_are_the_published_ones() -> None:
    gpt3 = load("megatron/175b").scenario
    assert gpt3.cluster is not None and gpt3.cluster.num_devices == 1024
    assert gpt3.plan.num_microbatches == 192
    trillion = load("megatron/1t").scenario
    assert trillion.cluster is not None and trillion.cluster.num_devices == 3072
    assert trillion.plan.num_microbatches == 512


def test_replay_needs_no_model() -> None:
    scenario = load("replay/stage-times").scenario
    assert scenario.model is None and scenario.cluster is None and scenario.costs is not None
    assert scenario.costs.forward == 18_522_000
    assert scenario.costs.send == 601_000


def test_extending_takes_the_rest_from_below() -> None:
    two = load("local-2rank").scenario
    gpipe = load("local-2rank-gpipe").scenario
    four = load("local-4rank").scenario
    assert gpipe.plan.schedule == "gpipe" and two.plan.schedule == "1f1b"
    assert gpipe.model == two.model == four.model
    assert four.plan.pipeline == 4
    assert two.digest != gpipe.digest
