"""`pipetwin slice` and sliced scenarios on the command line."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

import pipetwin
from scenarios.loader import load

SCENARIO = ("local-2rank", "--set", "plan.schedule=terapipe", "--simulations", "5")


def run(capsys: pytest.CaptureFixture[str], *tokens: str) -> tuple[int, str, str]:
    code = pipetwin.run_command_line(list(tokens))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_slice_tells_the_answer_and_how_to_use_it(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "slice", *SCENARIO)
    assert code == 0
    assert "times as fast as" in out and "unsliced" in out and "formula: sum t" in out
    assert "use it: --set 'plan.slices=" in out


@pytest.mark.parametrize("batch", [1, 3])
def test_what_slice_writes_of_a_scenario_with_variants_is_the_slicing_found(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, batch: int
) -> None:
    """The variants cut the batch otherwise, and cannot where microbatches are unequal."""
    file = tmp_path / "best.yaml"
    scenario = ("local-terapipe", "--set", f"plan.microbatches={batch}", "--simulations", "4")
    code, out, _ = run(capsys, "slice", *scenario, "--json", "-o", str(file))
    found = json.loads(out)
    assert code == 0 and len(found["best"]["microbatches"]) == min(batch, 2)
    code, out, _ = run(capsys, "simulate", str(file), "--json")
    assert code == 0
    assert json.loads(out)["iteration_s"] == found["best"]["iteration_s"]
    assert not load(str(file)).variants


@pytest.mark.parametrize(
    "scenario",
    [
        SCENARIO,
        (*SCENARIO, "--set", "plan.slices=8"),
        ("local-2rank", "--simulations", "4"),
        ("local-2rank", "--simulations", "4", "--granularity", "128"),
        (
            *("local-2rank", "--simulations", "4"),
            *("--set", "plan.microbatches=null", "--set", "plan.global_batch=16"),
        ),
        (
            *("local-2rank", "--simulations", "4", "--set", "plan.micro_batch=1"),
            *("--set", "plan.microbatches=null"),
            *("--set", "plan.microbatch_groups=[{microbatches: 2, micro_batch: 7}, {}]"),
        ),
    ],
)
def test_what_slice_tells_to_set_gives_what_it_found(
    capsys: pytest.CaptureFixture[str], scenario: tuple[str, ...]
) -> None:
    """Whatever the scenario itself says of its batch, or earlier settings do."""
    code, out, _ = run(capsys, "slice", *scenario)
    assert code == 0
    text, _, setting = " ".join(out.split()).partition("use it: ")
    assert setting or text.endswith("the scenario is cut so already")
    _, out, _ = run(capsys, "slice", *scenario, "--json")
    best = json.loads(out)["best"]["iteration_s"]
    name, *options = scenario
    kept = [o for i, o in enumerate(options) if "--set" in (o, options[i - 1])]
    code, out, err = run(capsys, "simulate", name, *kept, *shlex.split(setting), "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["iteration_s"] == best


def test_slice_writes_json_and_a_scenario_that_simulates_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "best.yaml"
    code, out, _ = run(capsys, "slice", *SCENARIO, "--json", "-o", str(file))
    found = json.loads(out)
    assert code == 0 and found["granularity"] == 8
    assert found["speedup"] == found["unsliced"]["iteration_s"] / found["best"]["iteration_s"]
    times = [c["iteration_s"] for c in found["candidates"] if c["fits"]]
    assert found["best"]["iteration_s"] == min(times)
    code, out, _ = run(capsys, "simulate", str(file), "--json")
    assert code == 0
    assert json.loads(out)["iteration_s"] == found["best"]["iteration_s"]
    code, _, err = run(capsys, "slice", *SCENARIO, "-o", str(file))
    assert code == 2 and "--force" in err


def test_simulate_finds_optimal_slices(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("--set", "plan.schedule=terapipe", "--set", "plan.slices=optimal")
    code, out, _ = run(capsys, "simulate", "local-2rank", *settings, "--json")
    assert code == 0 and json.loads(out)["fits"] is True


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (("--granularity", "7"), "8 would work"),
        (("--memory", "5x"), "--memory 5x: '5x' is not an amount of memory"),
        (("--memory", "1 MiB"), "no slice of 8 tokens or more fits in memory"),
        (("--set", "plan.schedule=interleaved"), "--set plan.schedule=terapipe` would work"),
        (("--set", "model.family=bert"), "only causal attention"),
    ],
)
def test_what_cannot_be_sliced_exits_2(
    capsys: pytest.CaptureFixture[str], tokens: tuple[str, ...], words: str
) -> None:
    code, out, err = run(capsys, "slice", *SCENARIO, *tokens)
    assert (code, out) == (2, "") and words in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("name", "first"), [("terapipe:2", "F0 F0.1"), ("1f1b:3", "F0 F0.1 F0.2"), ("gpipe:1", "F0 F1")]
)
def test_sliced_schedules_by_name(
    capsys: pytest.CaptureFixture[str], name: str, first: str
) -> None:
    code, out, _ = run(capsys, "schedule", "show", name, "--stages", "2", "--microbatches", "2")
    assert code == 0 and " ".join(first.split()) in " ".join(out.split())
    code, out, _ = run(capsys, "schedule", "check", name, "--stages", "2", "--microbatches", "2")
    assert code == 0


def test_a_schedule_needs_slices(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "schedule", "show", "terapipe:0")
    assert code == 2 and "all numbers are at least 1" in err
