"""What `plan` is asked: scenarios whose layout is open, and models by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from scenarios.errors import ScenarioError
from scenarios.loader import load, load_cluster
from scenarios.rules import check
from scenarios.unplanned import CannotPlan, only_values, unplanned


def test_gpt3_by_its_name_is_megatrons_run() -> None:
    asked = unplanned("gpt3-175b", gpus=(1024,))
    published = load("megatron/175b").scenario
    scenario = asked.loaded.scenario
    assert asked.has_baseline and asked.gpus == (1024,)
    assert (scenario.model, scenario.cluster) == (published.model, published.cluster)
    assert scenario.plan == published.plan and scenario.training == published.training
    told = " ".join(asked.assumed)
    for what in ("DGX-A100", "1,536 sequences", "300 billion tokens", "$2.00", "blocking"):
        assert what in told
    assert scenario.name == "gpt3-175b"


def test_what_is_given_is_not_assumed() -> None:
    asked = unplanned("gpt3-175b", gpus=(512,), cluster="h100-80gb", batch=2048)
    told, scenario = " ".join(asked.assumed), asked.loaded.scenario
    assert "cluster" not in told.split("$")[0] and "sequences" not in told
    assert scenario.cluster is not None and scenario.cluster.name == load_cluster("dgx-h100").name
    assert scenario.cluster.device == load_cluster("dgx-h100").device
    assert scenario.plan.num_sequences == 2048 and scenario.cluster.num_devices == 512
    assert scenario.plan.data == 4 and asked.has_baseline


def test_a_batch_that_the_scenarios_own_layout_cannot_hold_is_searched_without_it() -> None:
    asked = unplanned("megatron/175b", batch=4, gpus=(1024,))
    assert not asked.has_baseline
    found = [message for _, message in check(asked.loaded.scenario)]
    assert any("4 does not divide by micro_batch 1 x data 8" in message for message in found)


def test_a_scenarios_batch_is_not_rounded_to_its_own_layout() -> None:
    # Megatron-LM's layout takes the batch in steps of 8.
    overrides = ["plan.microbatches=null", "plan.global_batch=1540"]
    asked = unplanned("megatron/175b", overrides)
    assert asked.loaded.scenario.plan.global_batch == 1540 and not asked.has_baseline
    counted = unplanned("megatron/175b", ["plan.global_batch=null", "plan.microbatches=3"])
    assert counted.loaded.scenario.plan.global_batch == 24 and counted.has_baseline


def test_a_model_without_a_run_of_its_own_needs_a_batch() -> None:
    with pytest.raises(CannotPlan, match="--batch 1536"):
        unplanned("gpt3-13b", gpus=(64,))
    asked = unplanned("gpt3-13b", gpus=(64,), batch=512)
    scenario = asked.loaded.scenario
    assert scenario.model is not None and scenario.model.layers == 40
    assert scenario.training is None and not asked.has_baseline and asked.is_borrowed
    assert scenario.plan.p2p == "blocking" and scenario.plan.scatter_gather


def test_a_scenario_that_does_not_state_its_batch_is_asked_for_it(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("extends: clusters/dgx-h100\nmodel: {layers: 48, hidden: 6144, heads: 48}\n")
    given = ["model.sequence=2048", "model.vocabulary=51200"]
    with pytest.raises(CannotPlan, match=r"how many sequences.*--batch 1536.*global_batch"):
        unplanned(str(file), given)
    assert unplanned(str(file), given, batch=64).loaded.scenario.plan.num_sequences == 64
    counted = unplanned(str(file), [*given, "plan.global_batch=32"])
    assert counted.loaded.scenario.plan.num_sequences == 32


def test_a_scenario_keeps_its_batch_on_other_numbers_of_devices() -> None:
    asked = unplanned("megatron/175b", gpus=(256, 512))
    scenario = asked.loaded.scenario
    assert scenario.plan.data == 2 and scenario.plan.num_sequences == 1536
    assert check(scenario) == [] and asked.has_baseline
    own = unplanned("megatron/175b", gpus=(512, 1024)).loaded.scenario
    assert own.plan.data == 8 and own.cluster is not None and own.cluster.num_devices == 1024


def test_a_layout_that_breaks_rules_is_no_baseline() -> None:
    asked = unplanned("megatron/175b", ["model.layers=100"])
    assert not asked.has_baseline and asked.loaded.scenario.model is not None


def test_unequal_microbatches_and_given_orders_become_plain(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    groups = "[{microbatches: 2, micro_batch: 2}, {microbatches: 1, micro_batch: 4}]"
    file.write_text(
        f"extends: local-2rank\nplan: {{microbatches: null, microbatch_groups: {groups}}}\n"
    )
    asked = unplanned(str(file))
    assert asked.loaded.scenario.plan.num_sequences == 8
    assert asked.loaded.scenario.plan.num_microbatches == 4
    assert any("microbatches of one size" in note for note in asked.assumed)
    optimal = unplanned("local-terapipe", ["plan.slices=optimal"])
    assert optimal.loaded.scenario.plan.slices is None
    assert any("even token slices" in note for note in optimal.assumed)


@pytest.mark.parametrize(
    ("name", "overrides", "options", "words"),
    [
        ("replay/stage-times", (), {}, "gives its costs outright"),
        ("pipetransformer/bert-squad", (), {}, "elastic=null"),
        ("gpt3-175b", (), {"gpus": (1020,)}, "1016 or 1024 would work"),
        ("gpt3-175b", (), {"batch": 0}, "at least one sequence"),
    ],
)
def test_what_cannot_be_planned(
    name: str, overrides: tuple[str, ...], options: dict[str, object], words: str
) -> None:
    with pytest.raises(CannotPlan, match=words):
        unplanned(name, overrides, **options)  # type: ignore[arg-type]


def test_mistakes_of_fields_are_told_with_their_place() -> None:
    with pytest.raises(ScenarioError, match="did you mean `pipeline`"):
        unplanned("gpt3-175b", ["plan.pipelin=3"])
    with pytest.raises(ScenarioError, match="model: is missing"):
        unplanned("clusters/dgx-a100")
    with pytest.raises(ScenarioError, match="holds no cluster"):
        unplanned("gpt3-175b", cluster="gpt3-13b")
    with pytest.raises(ScenarioError, match="no matmul peak for bf16"):
        unplanned("gpt3-175b", ["plan.precision=bf16"], cluster="v100-32gb")


def test_a_wrong_field_is_all_that_is_wrong() -> None:
    """Not also that the borrowed layout does not suit the model."""
    with pytest.raises(ScenarioError, match="unknown field `nonsense`") as error:
        unplanned("gpt3-1.3b", ["training.nonsense=1"], batch=64, gpus=(8,))
    assert len(error.value.problems) == 1


def test_restrictions_are_read_as_a_plans_fields() -> None:
    found = only_values(
        ["tensor=4, 8", "plan.p2p=blocking,overlapped", "slices=null,4", "sequence_parallel=true"]
    )
    assert found == {
        "tensor": (4, 8),
        "p2p": ("blocking", "overlapped"),
        "slices": (None, 4),
        "sequence_parallel": (True,),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tensr=4", "did you mean `tensor`"),
        ("tensor", "as `tensor=4,8`"),
        ("tensor=x", "not a whole number"),
        ("schedule=1f1c", "must be one of"),
        ("global_batch=64", "--batch"),
        ("microbatches=4", "follows from the batch"),
    ],
)
def test_wrong_restrictions_say_what_would_work(text: str, words: str) -> None:
    with pytest.raises(ScenarioError, match=words):
        only_values(["data=2", text])


def test_a_field_is_restricted_once() -> None:
    with pytest.raises(ScenarioError, match="restricted twice"):
        only_values(["tensor=4", "plan.tensor=8"])
