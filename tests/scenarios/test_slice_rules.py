"""Token slices in scenario files: what is refused, what would work, and that it does work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scenarios.errors import ScenarioError
from scenarios.loader import load
from scenarios.resolved import resolved_yaml
from scenarios.schema import MicrobatchGroup, Plan, SlicesNotFound

BASE = ("plan.schedule=terapipe",)
GROUPS = "plan.microbatch_groups=[{microbatches: 2, slices: [100, 28]}, {micro_batch: 3}]"
WITHOUT = ("plan.microbatches=null", "plan.micro_batch=1")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("plan.slices=[100, 27]", "adds up to 127 tokens, but a sequence has 128.*`\\[100, 28\\]`"),
        ("plan.slices=[100, 40, 3]", "adds up to 143 tokens, but a sequence has 128: the two must"),
        ("plan.slices=129", "is 129, but a sequence has 128 tokens; `slices: 128` would work"),
        ("plan.slices=0", "`0` is no slicing: write how many even slices"),
        ("plan.slices=best", "`best` is no slicing: .*or `slices: optimal`"),
        ("model.family=bert", "only causal attention allows, and the family is bert: leave it out"),
        ("plan.schedule=interleaved", "not for `schedule: interleaved`, .*`schedule: terapipe`"),
    ],
)
def test_what_cannot_be_sliced_is_refused_with_what_would_work(setting: str, words: str) -> None:
    settings = [*BASE, "plan.slices=4", setting]
    with pytest.raises(ScenarioError, match=words):
        load("local-2rank", settings)


def test_sequence_parallelism_shares_out_every_slice() -> None:
    settings = [*BASE, "plan.slices=[19, 13]"]
    with pytest.raises(ScenarioError, match="each must be a multiple of 2") as error:
        load("local-sp2-pp2", settings)
    works = re.search(r"`slices: (\d+)` would work", str(error.value))
    assert works is not None
    load("local-sp2-pp2", [*BASE, f"plan.slices={works[1]}"])


def test_a_sequence_shorter_than_the_tensor_degree_is_refused_with_what_would_work() -> None:
    short = ["model.sequence=1", "plan.slices=1"]
    with pytest.raises(ScenarioError, match="of 2; `sequence_parallel: false` would work"):
        load("local-sp2-pp2", [*BASE, *short])
    load("local-sp2-pp2", [*BASE, *short, "plan.sequence_parallel=false"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("plan.microbatches=4",), "own microbatches: leave .*`microbatches: null` would work"),
        (("plan.slices=2", *WITHOUT), "own slices: leave .*`slices: null` would work"),
        (("plan.global_batch=6", *WITHOUT), "hold 5 sequences x data 1 = 5: `global_batch: 5`"),
        ((*WITHOUT, "plan.microbatch_groups=[]"), "is empty: write a group"),
    ],
)
def test_groups_say_all_of_the_microbatches(settings: tuple[str, ...], words: str) -> None:
    with pytest.raises(ScenarioError, match=words):
        load("local-2rank", [*BASE, GROUPS, *settings])


def test_a_scenario_with_groups_is_written_and_read_again(tmp_path: Path) -> None:
    loaded = load("local-2rank", [*BASE, GROUPS, *WITHOUT])
    plan = loaded.scenario.plan
    assert plan.num_microbatches == 3 and plan.num_sequences == 5 and plan.variants == (0, 0, 1)
    assert [plan.group_of(i).num_slices for i in range(3)] == [2, 2, 1]
    with pytest.raises(IndexError):
        plan.group_of(3)
    text = resolved_yaml(loaded)
    file = tmp_path / "again.yaml"
    file.write_text(text, encoding="utf-8")
    assert load(file).scenario.digest == loaded.scenario.digest


def test_equal_groups_are_one_variant() -> None:
    group = MicrobatchGroup(microbatches=2, slices=(3, 5))
    plan = Plan(schedule="terapipe", microbatch_groups=(group, MicrobatchGroup(), group))
    assert plan.variants == (0, 0, 1, 0, 0)
    assert len(plan.variant_groups) == 2


def test_slices_to_be_found_are_not_there_yet() -> None:
    plan = load("local-2rank", [*BASE, "plan.slices=optimal"]).scenario.plan
    with pytest.raises(SlicesNotFound, match="`pipetwin slice` finds them"):
        _ = plan.groups


@pytest.mark.parametrize("without", [("model=null", "cluster=null"), ()], ids=("alone", "model"))
def test_given_times_leave_nothing_to_search(without: tuple[str, ...]) -> None:
    settings = [*without, "costs={forward: 10 ms, backward: 20 ms}", "plan.slices=optimal"]
    with pytest.raises(ScenarioError, match=r"plan\.slices.*`slices: 4` would work"):
        load("local-2rank", settings)
    load("local-2rank", [*settings, "plan.slices=4"])


@pytest.mark.parametrize("slices", ["1", "[128]"])
@pytest.mark.parametrize(
    "settings",
    [("model.family=bert",), ("plan.schedule=interleaved", "plan.chunks=2")],
    ids=("bert", "interleaved"),
)
def test_one_slice_is_a_whole_microbatch_everywhere(settings: tuple[str, ...], slices: str) -> None:
    load("local-2rank", [*settings, f"plan.slices={slices}"])
