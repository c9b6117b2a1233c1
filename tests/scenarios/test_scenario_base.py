"""A scenario overridden in memory is the one that is loaded with the same overrides."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from scenarios.base import Base
from scenarios.errors import ScenarioError
from scenarios.loader import load

OVERRIDES = [
    "plan.micro_batch=4",
    "plan.micro_batch=null",
    "plan.micro_batch=0",
    "plan.pipeline=3",
    "plan.pipelin=4",
    "plan={pipeline: 4, microbatches: 16}",
    "plan.layers_per_stage=[5, 3]",
    "plan.layers_per_stage=[5, 3",
    "cluster.intra_node.bandwidth=10 GB/s",
    "cluster.intra_node.bandwidth=10",
    "name=other",
    "extends=models/gpt3-1.3b",
    "model=null",
    "nothing",
]


def loaded(name: str, overrides: tuple[str, ...]) -> object:
    try:
        return load(name, overrides).scenario
    except ScenarioError as error:
        return error.problems


def overridden(base: Base, overrides: tuple[str, ...]) -> object:
    try:
        return base.at(overrides)
    except ScenarioError as error:
        return error.problems


@pytest.mark.parametrize("name", ["local-2rank", "replay/stage-times", "local-terapipe:uniform"])
def test_as_loaded(name: str) -> None:
    base = Base(name)
    for overrides in [
        *itertools.product(OVERRIDES, repeat=1),
        *itertools.product(OVERRIDES[:9:2], repeat=2),
    ]:
        if any(o.endswith("[5, 3") for o in overrides):
            # Not YAML: `load` stops there, a point tells what else is wrong with it.
            assert "is not valid YAML" in str(overridden(base, overrides))
            continue
        assert overridden(base, overrides) == loaded(name, overrides), overrides


def test_overrides_of_the_base_are_below_the_points() -> None:
    base = Base("local-2rank", ("plan.micro_batch=4", "plan.microbatches=3"))
    plan = base.at(("plan.micro_batch=8",)).plan
    assert (plan.micro_batch, plan.microbatches) == (8, 3)
    assert base.at(()).plan.micro_batch == 4


def test_digest_is_of_what_is_simulated() -> None:
    base = Base("local-2rank").digest
    assert Base("local-2rank", ("name=other", "execution.seed=4")).digest == base
    assert Base("local-2rank", ("plan.micro_batch=4",)).digest != base


def test_digest_knows_the_rows_of_a_schedule_file(tmp_path: Path) -> None:
    (tmp_path / "order.csv").write_text("0F0,0B0\n")
    (tmp_path / "s.yaml").write_text(
        "plan: {schedule: given, schedule_file: order.csv}\ncosts: {forward: 1 ms, backward: 2 ms}"
    )
    before = Base(tmp_path / "s.yaml").digest
    (tmp_path / "order.csv").write_text("0F0,0F1,0B0,0B1\n")
    assert Base(tmp_path / "s.yaml").digest != before


def test_a_field_that_there_is_not_is_refused_at_once() -> None:
    with pytest.raises(ScenarioError, match="did you mean `pipeline`"):
        Base("local-2rank").check(["plan.pipelin=4"])
    Base("local-2rank").check(["plan.pipeline=4", "plan.schedule=wrong"])


def test_a_wrong_field_that_no_point_mends_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("plan: {pipeline: x}\ncosts: {forward: 1 ms, backward: 2 ms}\n")
    with pytest.raises(ScenarioError, match=r"s\.yaml:1:18: plan\.pipeline"):
        Base(file).check(["plan.microbatches=4"])
    Base(file).check(["plan.pipeline=4"])
    Base(file).check(["plan={pipeline: 4}"])


def test_values_as_they_are_set() -> None:
    base = Base("local-2rank")
    for text, value in {
        "plan.pipeline=4": 4,
        "cluster.inter_node.bandwidth=100 Gbit/s": "100 Gbit/s",
        "plan.slices=[704, 688]": [704, 688],
        "plan.sequence_parallel=true": True,
        "plan.data=null": None,
        "plan.data=.nan": "nan",
        "plan.data=[4": "[4",
    }.items():
        assert base.value(text) == value
