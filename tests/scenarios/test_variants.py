"""Variants: scenarios beside a file's own, in one file."""

from __future__ import annotations

from pathlib import Path

import pytest

from scenarios.errors import ScenarioError
from scenarios.loader import load
from scenarios.resolved import resolved_yaml

TEXT = """\
extends: local-2rank
execution: {deadline: 30 s}
variants:
  even: {plan.slices: 4}
  8: {plan: {slices: [64, 48, 16]}, execution.deadline: 9 s}
  default: {execution.deadline: null, plan.microbatches: 2}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text(TEXT)
    return path


def problems(name: str | Path, *overrides: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        load(name, overrides)
    return str(caught.value)


def test_a_variant_is_the_file_with_its_fields_put_in(file: Path) -> None:
    base = load(file)
    assert [v.scenario.name for v in base.variants] == ["s:even", "s:8", "s:default"]
    even, listed, default = (load(f"{file}:{name}") for name in ("even", "8", "default"))
    assert [v.scenario for v in base.variants] == [v.scenario for v in (even, listed, default)]
    assert even.scenario.plan.slices == 4 and even.scenario.plan.microbatches == 8
    assert listed.scenario.plan.slices == (64, 48, 16)
    assert listed.scenario.execution.deadline == 9_000_000_000
    assert default.scenario.execution.deadline == 60_000_000_000
    assert default.scenario.plan.microbatches == 2
    assert str(even.origins["plan.slices"]).endswith("s.yaml:4")
    assert str(even.origins["execution.deadline"]).endswith("s.yaml:2")
    assert even.scenario.variants == {} and even.variants == ()


def test_variants_change_no_digest(file: Path) -> None:
    plain = load("local-2rank")
    assert load(file).scenario.digest == plain.scenario.digest
    even = load(f"{file}:even").scenario
    assert even.digest == load("local-2rank", ["plan.slices=4"]).scenario.digest


def test_overrides_win_over_variants(file: Path) -> None:
    assert load(f"{file}:even", ["plan.slices=2"]).scenario.plan.slices == 2
    base = load(file, ["plan.slices=2", "variants.even.plan.microbatches=3"])
    assert [v.scenario.plan.slices for v in base.variants] == [2, 2, 2]
    assert base.variants[0].scenario.plan.microbatches == 3
    assert [v.scenario.name for v in load(file, ["variants.even=null"]).variants] == [
        "s:8",
        "s:default",
    ]


def test_variants_are_inherited_and_can_be_taken_out(file: Path, tmp_path: Path) -> None:
    above = tmp_path / "above.yaml"
    above.write_text("extends: s.yaml\nvariants: {even: {plan.slices: 2}, default: null}\n")
    found = load(above).variants
    assert [(v.scenario.name, v.scenario.plan.slices) for v in found] == [
        ("above:even", 2),
        ("above:8", (64, 48, 16)),
    ]
    above.write_text("extends: s.yaml\nvariants: null\n")
    assert load(above).variants == ()


def test_resolved_text_keeps_the_variants(file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.yaml"
    again.write_text(resolved_yaml(load(file)))
    loaded = load(again)
    assert [v.scenario for v in loaded.variants] == [v.scenario for v in load(file).variants]
    assert "deadline: null" in again.read_text()


def test_problems_of_variants_have_their_place_and_name(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "extends: local-2rank\n"
        "variants:\n"
        "  one: {plan.slice: 4}\n"
        "  two: {plan.slices: [100, 20]}\n"
        "  three: 5\n"
        "  a b: {}\n"
        "  four: {extends: x}\n"
    )
    lines = problems(path).splitlines()
    assert len(lines) == 5
    assert "bad.yaml:3:9: plan.slice: unknown field `slice`: did you mean `slices`?" in lines[0]
    assert lines[0].endswith("(in variant `one`)")
    assert "bad.yaml:4:22: plan.slices: adds up to 120 tokens, but a sequence has 128" in lines[1]
    assert "bad.yaml:5:10: variants.three: `5` is not a mapping" in lines[2]
    assert lines[2].endswith("`three: {plan.slices: 8}` would work")
    assert "bad.yaml:6:3: variants.a b: `a b` cannot name a variant" in lines[3]
    assert "bad.yaml:7:10: variants.four.extends: `extends` belongs to the file" in lines[4]


def test_a_problem_of_the_base_is_said_once(file: Path) -> None:
    assert len(problems(file, "plan.tensor=0").splitlines()) == 1


def test_unknown_variants_are_refused(file: Path) -> None:
    assert "did you mean `local-terapipe:uniform`?" in problems("local-terapipe:unifrm")
    assert "it has `even`, `8`, `default`" in problems(f"{file}:zzz")
    assert "has no variants: name it without `:x`" in problems("local-2rank:x")
    assert "neither a file nor in the catalogue" in problems("nothing:x")


def test_a_file_with_a_colon_in_its_name_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a:b"
    path.write_text("extends: local-2rank\n")
    assert load(path).scenario.plan.pipeline == 2


def test_resolved_text_writes_groups_of_microbatches(tmp_path: Path) -> None:
    groups = "[{microbatches: 2, slices: [64, 64]}, {micro_batch: 2}]"
    empty = ("plan.microbatches=null", "plan.micro_batch=null")
    loaded = load("local-2rank", [*empty, f"plan.microbatch_groups={groups}"])
    path = tmp_path / "again.yaml"
    path.write_text(resolved_yaml(loaded))
    assert load(path).scenario.plan == loaded.scenario.plan


def test_what_overrides_bring_to_a_variant_is_heard_by_those_who_ask_for_variants() -> None:
    """One scenario can be simulated with a longer sequence, though a variant's slices are not."""
    loaded = load("terapipe/44b-setting8", ["model.sequence=4096"])
    assert loaded.scenario.model is not None and loaded.scenario.model.sequence == 4096
    with pytest.raises(ScenarioError, match=r"adds up to 2048.*\(in variant `published`\)"):
        _ = loaded.variants
