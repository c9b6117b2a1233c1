"""Broken scenario files: each is refused at its exact place, with the rule and a way out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from scenarios.errors import ScenarioError
from scenarios.loader import check_partial, load

GOOD = """\
extends: clusters/this-machine
model: {layers: 8, hidden: 64, heads: 4, sequence: 32, vocabulary: 256}
plan:
  schedule: 1f1b
  pipeline: 2
  precision: fp32
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A file, and for each problem its line:column, field and key words."""

    text: str | bytes
    problems: tuple[tuple[str, str, tuple[str, ...]], ...]


def edited(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def one(text: str | bytes, place: str, field: str, *words: str) -> Broken:
    return Broken(text=text, problems=((place, field, words),))


BROKEN = {
    "wrong type": one(
        edited("pipeline: 2", "pipeline: two"),
        "5:13",
        "plan.pipeline",
        "`two` is not a whole number",
        "`pipeline: 1` would work",
    ),
    "unknown key": one(
        GOOD + "  colour: red\n",
        "7:3",
        "plan.colour",
        "unknown field `colour`",
        "`plan` has",
    ),
    "typo in a key": one(
        edited("schedule:", "schedul:"),
        "4:3",
        "plan.schedul",
        "did you mean `schedule`?",
    ),
    "typo in a required key": one(
        edited("layers: 8", "layer: 8"), "2:9", "model.layer", "did you mean `layers`?"
    ),
    "typo in a section": one(
        edited("model:", "modle:"),
        "2:1",
        "modle",
        "did you mean `model`?",
    ),
    "field in the wrong section": one(
        GOOD + "micro_batch: 2\n",
        "7:1",
        "micro_batch",
        "did you mean `plan.micro_batch`?",
    ),
    "product of degrees": one(
        GOOD + "  data: 3\n",
        "7:9",
        "plan.data",
        "tensor 1 x pipeline 2 x data 3 = 6",
        "1 nodes x 2 = 2",
        "`plan.data: 1` would work",
    ),
    "product of degrees, from the default": one(
        edited("pipeline: 2", "pipeline: 8"),
        "3:1",
        "plan.data",
        "= 8 devices",
        "`cluster.nodes: 4` would work",
    ),
    "layers not divisible": one(
        edited("layers: 8", "layers: 9"),
        "5:13",
        "plan.pipeline",
        "9 layers do not divide evenly into 2 stages",
        "`layers_per_stage: [4, 5]`",
    ),
    "layers per stage, sum": one(
        GOOD + "  layers_per_stage: [4, 5]\n",
        "7:21",
        "plan.layers_per_stage",
        "adds up to 9",
        "8 layers",
        "`[4, 4]` would work",
    ),
    "layers per stage, length": one(
        GOOD + "  layers_per_stage: [8]\n",
        "7:21",
        "plan.layers_per_stage",
        "1 entries for 2 stages",
        "`[4, 4]` would work",
    ),
    "heads do not divide": one(
        edited("heads: 4", "heads: 5"),
        "2:39",
        "model.heads",
        "hidden 64 does not divide by 5 heads",
        "`heads: 4` would work",
    ),
    "duplicate key": one(
        GOOD + "  pipeline: 4\n",
        "7:3",
        "pipeline",
        "key is written twice",
        "first on line 5",
    ),
    "empty": one("", "1:1", "", "is empty"),
    "only comments": one("# nothing\n---\n", "1:1", "", "is empty"),
    "binary": one(b"\x7fELF\x02\x01\xff\xfe\x00", "1:7", "", "byte 0xff is not UTF-8"),
    "NUL": one("plan:\n  data: \0 2\n", "2:9", "", "is not valid YAML", "not allowed"),
    "10 MB": one(b"a: 1\n" * 2_000_000, "1:1", "", "over 1 MiB"),
    "extends itself": one("extends: s.yaml\n", "1:10", "extends", "extends itself", "->"),
    "bad unit": one(
        GOOD + "cluster: {device: {memory: 80 Gib}}\n",
        "7:28",
        "cluster.device.memory",
        "'80 Gib' is not an amount of memory",
        "`80 GiB`",
    ),
    "negative": one(
        GOOD + "  micro_batch: -1\n",
        "7:16",
        "plan.micro_batch",
        "`-1` is out of range",
        "at least 1",
        "`micro_batch: 1` would work",
    ),
    "negative duration": one(
        GOOD + "cluster: {intra_node: {latency: -2 us}}\n",
        "7:33",
        "cluster.intra_node.latency",
        "negative",
        "`0 ns`",
    ),
    "missing unit": one(
        GOOD + "costs:\n  forward: 18.5\n  backward: 1 ms\n",
        "8:12",
        "costs.forward",
        "18.5 has no unit",
        "`18.522 ms`",
    ),
    "missing required": one(
        edited("layers: 8, ", ""),
        "2:1",
        "model.layers",
        "is missing",
        "Number of Transformer layers",
        "`layers: 24` would work",
    ),
    "required but null": one(
        edited("layers: 8", "layers: null"),
        "2:17",
        "model.layers",
        "is missing",
    ),
    "missing section": one(
        "plan:\n  pipeline: 2\nmodel: {layers: 8, hidden: 64, heads: 4, sequence: 32, "
        "vocabulary: 256}\n",
        "1:1",
        "cluster",
        "is missing",
        "`extends: clusters/dgx-a100`",
    ),
    "a bucket of nothing": one(
        GOOD + "  gradient_bucket: 0 B\n",
        "7:20",
        "plan.gradient_bucket",
        "is 0 bytes",
        "`25 MiB`",
    ),
    "a list": one("- plan\n", "1:1", "", "is a list, not a mapping"),
    "a single value": one("# s\nplan\n", "2:1", "", "is a single value, not a mapping"),
    "section not a mapping": one(
        GOOD + "training: 300e9\n",
        "7:11",
        "training",
        "is not a mapping",
        "`training: {tokens: 300e9}` would work",
    ),
    "tab": one("plan:\n\tpipeline: 2\n", "2:1", "", "is not valid YAML", "spaces, not tabs"),
    "unclosed bracket": one("plan: {pipeline: 2\n", "2:1", "", "is not valid YAML", "flow mapping"),
    "two documents": one("plan: {}\n---\nplan: {}\n", "2:1", "", "a second document"),
    "unknown extends": one(
        edited("clusters/this-machine", "[clusters/this-machine, models/gpt3-176b]"),
        "1:34",
        "extends",
        "did you mean `models/gpt3-175b`",
    ),
    "missing extends": one(
        edited("clusters/this-machine", "[clusters/this-machine, other.yaml]"),
        "1:34",
        "extends",
        "other.yaml` does not exist",
    ),
    "extends a number": one(
        edited("clusters/this-machine", "[clusters/this-machine, 3]"),
        "1:34",
        "extends",
        "must be the name of a catalogue entry or a file",
    ),
    "bad enum": one(
        edited("1f1b", "1f2b"),
        "4:13",
        "plan.schedule",
        "`1f2b` is not allowed",
        "did you mean `1f1b`?",
        "`gpipe`",
    ),
    "global batch": one(
        GOOD + "  micro_batch: 4\n  global_batch: 30\n",
        "8:17",
        "plan.global_batch",
        "30 does not divide by micro_batch 4 x data 1 = 4",
        "`global_batch: 32` would work",
    ),
    "global batch of less than a microbatch": one(
        GOOD + "  micro_batch: 4\n  global_batch: 2\n",
        "8:17",
        "plan.global_batch",
        "2 does not divide by micro_batch 4 x data 1 = 4",
        "`global_batch: 4` would work",
    ),
    "more microbatches than there can be": one(
        GOOD + "  microbatches: 99999999999999999999\n",
        "7:17",
        "plan.microbatches",
        "99999999999999999999 microbatches through",
        "would work",
    ),
    "global batch and microbatches": one(
        GOOD + "  microbatches: 4\n  global_batch: 8\n",
        "8:17",
        "plan.global_batch",
        "is 8",
        "= 4",
        "`global_batch: 4` would work",
    ),
    "schedule without its file": one(
        edited("1f1b", "given"),
        "3:1",
        "plan.schedule_file",
        "`schedule_file: schedule.csv`",
    ),
    "schedule file missing": one(
        edited("1f1b", "given") + "  schedule_file: no.csv\n",
        "7:18",
        "plan.schedule_file",
        "`no.csv` is no file",
    ),
    "no peak for the precision": one(
        GOOD + "cluster: {device: {matmul_peak: null}}\n",
        "7:33",
        "cluster.device.matmul_peak",
        "is missing",
    ),
    "vit without patches": one(
        edited("{layers", "{family: vit, tied_embeddings: false, layers"),
        "2:1",
        "model.patch_inputs",
        "`patch_inputs: 768`",
    ),
    "nics": one(
        GOOD + "cluster: {nics_per_node: 3}\n",
        "7:26",
        "cluster.nics_per_node",
        "`nics_per_node: 2` would work",
    ),
    "nccl on cpu": one(
        GOOD + "execution: {transport: nccl}\n",
        "7:24",
        "execution.transport",
        "GPUs only",
    ),
    "tag": one(
        GOOD + "name: !!python/object/apply:os.getcwd []\n",
        "7:7",
        "",
        "is not allowed",
    ),
    "merge key": one("a: &x {}\n<<: *x\n", "2:1", "", "use `extends:"),
    "unknown alias": one("plan: *x\n", "1:7", "", "names no value written before it"),
    "recursive alias": one("plan: &x [*x]\n", "1:11", "", "names no value written before it"),
    "complex key": one("? [1]\n: 2\n", "1:3", "", "a key must be a name"),
    "nested too deep": one("a: " + "[" * 50_000, "1:24", "", "nested over 20 deep"),
    "two at once": Broken(
        text=edited("1f1b", "1f2b").replace("layers: 8", "layers: -8") + "  colour: red\n",
        problems=(
            ("2:17", "model.layers", ("`-8` is out of range",)),
            ("4:13", "plan.schedule", ("`1f2b` is not allowed",)),
            ("7:3", "plan.colour", ("unknown field",)),
        ),
    ),
    "a field and a rule at once": Broken(
        text=edited("1f1b", "1f2b").replace("layers: 8", "layers: 9"),
        problems=(
            ("4:13", "plan.schedule", ("`1f2b` is not allowed",)),
            ("5:13", "plan.pipeline", ("9 layers do not divide",)),
        ),
    ),
    "a duplicate key and a rule at once": Broken(
        text=edited("layers: 8", "layers: 9") + "name: x\nname: y\n",
        problems=(
            ("5:13", "plan.pipeline", ("9 layers do not divide",)),
            ("8:1", "name", ("written twice",)),
        ),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_refused_at_its_place(name: str, tmp_path: Path) -> None:
    broken = BROKEN[name]
    file = tmp_path / "s.yaml"
    raw = broken.text.encode() if isinstance(broken.text, str) else broken.text
    file.write_bytes(raw)
    with pytest.raises(ScenarioError) as caught:
        load(file)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(broken.problems), lines
    for line, (place, field, words) in zip(lines, broken.problems, strict=True):
        assert line.startswith(f"{file}:{place}: {field + ': ' if field else ''}"), line
        for word in words:
            assert word in line


def test_the_unbroken_file_loads(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(GOOD)
    assert load(file).scenario.name == "s"


def test_a_cycle_is_printed(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\nextends: [{other}.yaml]\n")
    with pytest.raises(ScenarioError) as caught:
        load(tmp_path / "a.yaml")
    names = " -> ".join(str(tmp_path / f"{name}.yaml") for name in "abca")
    assert str(caught.value).startswith(f"{tmp_path / 'c.yaml'}:2:11: extends: extends itself: ")
    assert names in str(caught.value)


def test_a_long_chain_is_refused(tmp_path: Path) -> None:
    for index in range(30):
        (tmp_path / f"{index}.yaml").write_text(f"extends: {index + 1}.yaml\n")
    with pytest.raises(ScenarioError, match=r"15\.yaml:1:10: extends: over 16 files extend"):
        load(tmp_path / "0.yaml")


def test_a_widening_chain_is_refused(tmp_path: Path) -> None:
    for index in range(12):
        (tmp_path / f"{index}.yaml").write_text(f"extends: [{index + 1}.yaml, {index + 1}.yaml]\n")
    (tmp_path / "12.yaml").write_text("name: x\n")
    with pytest.raises(ScenarioError, match="over 100 files are extended"):
        load(tmp_path / "0.yaml")


def test_aliases_do_not_explode(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for level in range(1, 10):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    file = tmp_path / "s.yaml"
    file.write_text("\n".join(lines))
    start = time.monotonic()
    with pytest.raises(ScenarioError, match=r"s\.yaml:5:\d+: holds over 20000 values"):
        load(file)
    assert time.monotonic() - start < 2


def test_a_megabyte_of_keys_is_refused_soon(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("".join(f"k{index}: 1\n" for index in range(90_000)))
    start = time.monotonic()
    with pytest.raises(ScenarioError, match="holds over 20000 values"):
        load(file)
    assert time.monotonic() - start < 20


def test_a_directory_and_an_unreadable_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    with pytest.raises(ScenarioError) as caught:
        load(folder)
    assert str(caught.value).startswith(f"{folder}:1:1: is a directory")
    file = tmp_path / "s.yaml"
    file.write_text("extends: folder.yaml\n")
    with pytest.raises(
        ScenarioError, match=r"s\.yaml:1:10: extends: .* not a file but a directory"
    ):
        load(file)


def test_problems_of_an_extended_file_have_its_place(tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text("model:\n  layers: many\n")
    file = tmp_path / "s.yaml"
    file.write_text(
        GOOD.replace("clusters/", "[base.yaml, clusters/")
        .replace("machine", "machine]")
        .replace("layers: 8, ", "")
    )
    with pytest.raises(ScenarioError) as caught:
        load(file)
    assert str(caught.value).startswith(f"{base}:2:11: model.layers: `many` is not a whole number")


def test_a_partial_file_is_checked_for_what_it_writes(tmp_path: Path) -> None:
    file = tmp_path / "d.yaml"
    file.write_text("cluster:\n  device:\n    memory: 80 GB\n    memory_bandwith: 1 GB/s\n")
    with pytest.raises(ScenarioError) as caught:
        check_partial(file)
    assert str(caught.value) == (
        f"{file}:4:5: cluster.device.memory_bandwith: unknown field `memory_bandwith`: "
        "did you mean `memory_bandwidth`?"
    )
