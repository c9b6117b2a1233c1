"""Composition, overrides, origins, and the resolved view that loads again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios.catalogue import catalogue
from scenarios.errors import Origin, ScenarioError
from scenarios.fields import all_paths
from scenarios.files import parse_text
from scenarios.json_schema import json_schema
from scenarios.loader import Loaded, load
from scenarios.resolved import _text, resolved_yaml

SCENARIOS = [entry.name for entry in catalogue() if entry.kind == "scenario"]


def reload(loaded: Loaded, folder: Path) -> Loaded:
    file = folder / "resolved.yaml"
    file.write_text(resolved_yaml(loaded), encoding="utf-8")
    return load(file)


@pytest.mark.parametrize("name", SCENARIOS)
def test_resolved_loads_to_the_same_scenario(name: str, tmp_path: Path) -> None:
    loaded = load(name)
    again = reload(loaded, tmp_path)
    assert again.scenario == loaded.scenario
    assert again.scenario.digest == loaded.scenario.digest


def test_resolved_says_where_values_came_from() -> None:
    text = resolved_yaml(
        load(
            "local-2rank",
            [
                "plan.micro_batch=2",
                "costs={forward: 1 ms}",
                "costs.backward=2 ms",
                "costs.stages.1.forward=3 ms",
            ],
        )
    )
    lines = {line.split("#")[0].strip(): line.split("# ")[-1] for line in text.splitlines()}
    assert lines["micro_batch: 2"] == "--set plan.micro_batch=2"
    assert lines["pipeline: 2"].endswith("local-2rank.yaml:15")
    assert lines["memory: 8 GiB"].endswith("cpu-core.yaml:6")
    assert lines["oversubscription: 1.0"] == "default"
    assert lines["forward: 3 ms"] == "--set costs.stages.1.forward=3 ms"


def test_resolved_keeps_odd_texts_and_values(tmp_path: Path) -> None:
    loaded = load(
        "local-2rank",
        [
            'description="a: b # c \\" \\\\ \\n \\x07 \\U0001F600 \\u0085"',
            'model.name="1e3"',
            'model.source="null"',
            "cluster.intra_node.bandwidth=1.23456789012345678 GB/s",
            "cluster.intra_node.latency=1234567891 ns",
            "cluster.price_per_device_hour=$0.1/h",
            "training.tokens=12345678901",
            "plan.layers_per_stage=[3, 5]",
            "execution.learning_rate=1e-30",
        ],
    )
    assert loaded.scenario.model is not None and loaded.scenario.model.name == "1e3"
    assert reload(loaded, tmp_path).scenario == loaded.scenario


@given(st.text(max_size=40))
def test_any_text_is_written_so_that_it_reads_the_same(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    root = parse_text(f"source: {_text(text)}\n", "s.yaml", [])
    assert root.find(("source",))[0].value == text


def test_origins_and_files(tmp_path: Path) -> None:
    device = tmp_path / "device.yaml"
    device.write_text("extends: devices/a100-80gb\ncluster:\n  device: {memory: 40 GiB}\n")
    file = tmp_path / "mine.yaml"
    file.write_text("extends: [gpt3-125m, dgx-a100, device.yaml]\nplan:\n  data: 4\n  tensor: 1\n")
    loaded = load(file, ("plan.pipeline=2",))
    assert loaded.scenario.name == "mine"
    assert loaded.origins["plan.data"] == Origin(file=str(file), line=3, column=9)
    assert loaded.origins["cluster.device.memory"].file == str(device)
    assert str(loaded.origins["plan.pipeline"]) == "--set plan.pipeline=2"
    assert "plan.micro_batch" not in loaded.origins
    assert loaded.files[-1] == file and device in loaded.files
    assert loaded.scenario.cluster is not None
    assert loaded.scenario.cluster.device.memory == 40 * 2**30
    assert loaded.scenario.description == ""


def test_null_clears_and_lists_replace(tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text(
        "extends: local-2rank\nplan: {layers_per_stage: [3, 5], gradient_precision: fp64}\n"
    )
    file = tmp_path / "s.yaml"
    file.write_text("extends: base.yaml\nplan: {layers_per_stage: [2, 6], precision: null}\n")
    plan = load(file, ["plan.gradient_precision=null"]).scenario.plan
    assert plan.layers_per_stage == (2, 6)
    assert plan.precision == "fp16"
    assert plan.gradient_precision is None
    assert load(file, ["plan.layers_per_stage="]).scenario.plan.layers_per_stage is None


def test_a_file_may_be_extended_twice_but_not_by_itself(tmp_path: Path) -> None:
    for name, extends in (("a", "[b.yaml, c.yaml]"), ("b", "d.yaml"), ("c", "d.yaml")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {extends}\n")
    (tmp_path / "d.yaml").write_text("extends: local-2rank\n")
    loaded = load(tmp_path / "a.yaml")
    assert loaded.files.count(tmp_path / "d.yaml") == 1


def test_schedule_file_is_relative_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text("0F0\n")
    file = tmp_path / "s.yaml"
    file.write_text("extends: local-2rank\nplan: {schedule: given, schedule_file: orders.csv}\n")
    loaded = load(file)
    assert loaded.scenario.plan.schedule_file == str(tmp_path / "orders.csv")
    assert loaded.scenario.plan.schedule_order is not None
    before = loaded.scenario.digest
    order = tmp_path / "orders.csv"
    order.rename(tmp_path / "moved.csv")
    file.write_text(file.read_text().replace("orders.csv", "moved.csv"))
    assert load(file).scenario.digest == before, "the order counts, not where its file lies"
    (tmp_path / "moved.csv").write_text("0F1,0F0,0B0,0B1\n")
    assert load(file).scenario.digest != before
    assert reload(loaded, tmp_path).scenario.digest == loaded.scenario.digest


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("plan.foo=1", "--set plan.foo=1: unknown field `foo`: `plan` has `schedule`"),
        ("plan.schedul=1", "did you mean `schedule`?"),
        ("micro_batch=2", "did you mean `plan.micro_batch`?"),
        ("plan.micro_batch=x", "--set plan.micro_batch=x: `x` is not a whole number"),
        ("plan.micro_batch=0", "`0` is out of range: it must be at least 1"),
        ("plan", "write a field and its value"),
        ("=3", "write a field and its value"),
        ("plan..data=3", "write a field and its value"),
        ("extends=x", "belongs in a file"),
        ("plan.data=[1", "is not valid YAML"),
        ("plan.data=!!python/name:os.system", "is not allowed"),
        ("plan=3", "is not a mapping"),
        ("plan.data=3", "--set plan.data=3: tensor 1 x pipeline 2 x data 3 = 6 devices"),
        ("cluster.device.matmul_peak.fp17=1 GFLOP/s", "did you mean `fp16`?"),
        ("cluster.device.memory=", "is missing: Memory of one device"),
        ("cluster.oversubscription=.inf", "not a finite number"),
        ("plan.clip_gradients=yes", "`yes` is not true or false"),
        ("plan.micro_batch=99999999999999999999999999999999999999999999", "usable number"),
        ("execution.transport=nccl", "`transport: auto` would work"),
        ("costs={forward: 1 ms}", "need `backward`"),
        ("costs={stages: {7: {forward: 1 ms}}, backward: 1 ms, forward: 1 ms}", "no stage 7"),
    ],
)
def test_wrong_overrides(override: str, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load("local-2rank", [override])
    assert message in str(caught.value)
    for line in str(caught.value).splitlines():
        assert line.startswith(("--set ", "scenarios/", "/"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpt3-176b", "did you mean `models/gpt3-175b`"),
        ("megatron/1tt", "did you mean `megatron/1t`"),
        ("zzzz", "neither a file nor in the catalogue"),
        ("", "neither a file nor in the catalogue"),
        ("x" * 5000, "neither a file nor in the catalogue"),
        ("missing.yaml", "missing.yaml:1:1: no such file"),
        ("x" * 5000 + ".yaml", "cannot be read"),
        ("nul\0.yaml", "cannot be read"),
    ],
)
def test_wrong_names(name: str, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load(name)
    assert message in str(caught.value)


def test_schema_for_editors() -> None:
    schema = json_schema()
    assert list(schema["properties"])[:2] == ["extends", "name"]
    assert "required" not in schema
    assert all("required" not in part for part in schema["$defs"].values())
    plan = schema["$defs"]["Plan"]["properties"]
    assert plan["micro_batch"]["description"] == "Sequences in one microbatch."
    assert {"type": "null"} in plan["micro_batch"]["anyOf"]
    memory = schema["$defs"]["Device"]["properties"]["memory"]
    assert memory["examples"] == ["80 GiB"]


def test_importing_is_light() -> None:
    code = "import sys, scenarios.loader; print([m for m in ('torch', 'numpy', 'simpy', 'plotly') if m in sys.modules])"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


ODD_VALUES = st.sampled_from(
    ["-1", "0", "null", "[1]", "{a: 1}", "1.5", ".nan", "-.inf", "1e400", "true", "80 GiB", "<<: 1"]
) | st.text(max_size=8)


@given(st.lists(st.tuples(st.sampled_from(sorted(all_paths())), ODD_VALUES), max_size=3))
@settings(max_examples=200, deadline=None)
def test_any_override_is_taken_or_refused(overrides: list[tuple[str, str]]) -> None:
    try:
        loaded = load("local-2rank", [f"{path}={value}" for path, value in overrides])
    except ScenarioError as error:
        assert error.problems
    else:
        assert resolved_yaml(loaded)
