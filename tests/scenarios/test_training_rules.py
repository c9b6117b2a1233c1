"""Training runs in scenario files: what is refused, what would work, and that it does work."""

from __future__ import annotations

import re

import pytest

from scenarios.errors import ScenarioError
from scenarios.loader import load
from scenarios.resolved import resolved_yaml
from scenarios.schema import Stragglers, Training

FAILS = ("training.device_mtbf=50000 h", "training.restart_time=10 min")
SAVED = "training.checkpoint_bandwidth=100 GB/s"


def found(*overrides: str) -> Training:
    training = load("megatron/175b", overrides).scenario.training
    assert training is not None
    return training


def test_a_run_is_its_tokens_unless_more_is_said() -> None:
    assert found() == Training(tokens=300 * 10**9)
    run = found(*FAILS, SAVED, "training.stragglers={share: 0.01, slowdown: 1.1}")
    assert run.device_mtbf == 50_000 * 3600 * 10**9 and run.checkpoint_bandwidth == 1e11
    assert run.stragglers == Stragglers(share=0.01, slowdown=1.1)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (FAILS[:1], "training.restart_time: is missing: .*`restart_time: 10 min` would work"),
        (FAILS[1:], "is given, but nothing fails without `device_mtbf`"),
        (FAILS, "checkpoint_bandwidth: is missing: with `device_mtbf` .*`checkpoint_bandwidth: 1"),
        (("training.checkpoint_interval=1 h",), "bandwidth: is missing: with `checkpoint_interval"),
        (("training.device_mtbf=0 h", FAILS[1], SAVED), "is 0, so .*`device_mtbf: 50000 h`"),
        (
            ("training.checkpoint_interval=1 us", SAVED),
            "is 1 us, shorter than any iteration; `checkpoint_interval: 30 min` would work",
        ),
        (("training.checkpoint_stall=0.5",), "is for `checkpoints: background`; "),
        (("training.checkpoint_stall=2",), "stall=2: `2` is out of range: it must be at most 1;"),
        (("training.stragglers={share: 0.1, slowdown: 0.5}",), "slowdown.*must be at least 1"),
        (("training.seed=-1",), "seed=-1: `-1` is out of range: it must be at least 0"),
        (("training.stragglers={share: 0.1}",), "slowdown: .*missing"),
        (("training.device_mtbf=50000",), "has no unit: write it with one"),
    ],
)
def test_what_cannot_be_is_refused(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(ScenarioError, match=words):
        load("megatron/175b", overrides)


@pytest.mark.parametrize("broken", [FAILS, FAILS[:1], ("training.checkpoint_interval=1 h",)])
def test_the_advice_works(broken: tuple[str, ...]) -> None:
    settings = list(broken)
    for _ in range(4):
        try:
            load("megatron/175b", settings)
            break
        except ScenarioError as error:
            for problem in error.problems:
                value = re.search(r"`(\w+): ([^`]+)` would work", problem.message)
                assert value is not None, problem.message
                settings.append(f"training.{value[1]}={value[2]}")
    load("megatron/175b", settings)


def test_without_a_model_the_size_of_a_checkpoint_is_asked_for() -> None:
    run = "training={tokens: 1e9, device_mtbf: 1000 h, restart_time: 1 min, checkpoint_bandwidth: "
    with pytest.raises(ScenarioError, match="checkpoint_size: is missing: without a model"):
        load("replay/stage-times", [run + "1 GB/s}"])
    load("replay/stage-times", [run + "1 GB/s, checkpoint_size: 1 GB}"])


def test_nodes_are_slow_where_there_are_nodes() -> None:
    run = "training={tokens: 1e9, stragglers: {share: 0.1, slowdown: 1.1, of: "
    with pytest.raises(ScenarioError, match=r"is nodes, but .*`of: devices` would work"):
        load("replay/stage-times", [run + "nodes}}"])
    load("replay/stage-times", [run + "devices}}"])


def test_a_run_is_written_as_it_was_read(tmp_path) -> None:  # type: ignore[no-untyped-def]
    loaded = load("megatron/175b-run", ["training.stragglers={share: 0.02, slowdown: 1.5}"])
    text = resolved_yaml(loaded)
    assert "device_mtbf: " in text and "megatron/175b-run.yaml" in text
    file = tmp_path / "again.yaml"
    file.write_text(text)
    assert load(file).scenario.training == loaded.scenario.training
