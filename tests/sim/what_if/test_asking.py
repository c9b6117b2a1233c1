"""All questions together: on every scenario that comes along, as JSON, and what cannot be asked."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from asking_cases import asked, given, small

from scenarios import catalogue
from scenarios.loader import load
from sim.prediction import predict
from sim.what_if.asking import what_if, what_if_json
from sim.what_if.json import plan_changes

ROOT = Path(__file__).resolve().parents[3]
LARGE = {"megatron/1t", "megatron/175b-run", "planning/gpt3-175b-dgx-a100"}
"""As large as megatron/175b, which is among them, or larger."""
SCENARIOS = sorted({e.name for e in catalogue.catalogue() if e.kind == "scenario"} - LARGE)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_that_comes_along_is_asked(name: str) -> None:
    scenario = load(name).scenario
    prediction = predict(scenario)
    found = what_if(prediction)
    assert found.iteration_ns == prediction.figures.iteration_ns
    assert found.freed and all(one.iteration_ns >= 0 for one in found.freed)
    is_open = scenario.costs is None and scenario.elastic is None
    assert bool(found.neighbours) == bool(found.scaling) == bool(found.sensitivities) == is_open
    assert (found.left_out == ()) == is_open
    # Finite throughout, as JSON has no other numbers.
    text = json.dumps(what_if_json(found), allow_nan=False)
    assert json.loads(text)["iteration_s"] == found.iteration_ns / 1e9


def test_json_has_the_same_values() -> None:
    _, found = asked(small())
    data = json.loads(json.dumps(what_if_json(found), allow_nan=False))
    assert set(data) == {
        *("iteration_s", "peak_memory_bytes", "freed", "neighbours", "sensitivities"),
        *("break_evens", "scaling", "left_out"),
    }
    for one, freed in zip(data["freed"], found.freed, strict=True):
        assert (one["what"], one["name"]) == (freed.what, freed.words)
        assert (one["share"], one["gain"]) == (freed.share, freed.gain)
        assert one["iteration_s"] == freed.iteration_ns / 1e9
    for one, near in zip(data["neighbours"], found.neighbours, strict=True):
        assert (one["field"], one["value"], one["also"]) == (
            near.field,
            near.value,
            near.also or None,
        )
        assert near.field in one["plan"] and near.iteration_ns is not None
        assert one["iteration_s"] == near.iteration_ns / 1e9
        assert (one["slower"], one["fits"], one["on_front"]) == (near.slower, True, near.on_front)
        assert one["expected_days"] == near.days
        assert one["expected_dollars"] == near.dollars
    for one, sensitivity in zip(data["sensitivities"], found.sensitivities, strict=True):
        assert one["low_s"] == sensitivity.low_ns / 1e9 and one["low"] == sensitivity.low
        assert (one["overtaken_low"] is None) == (sensitivity.overtaken_low is None)
    for one, even in zip(data["break_evens"], found.break_evens, strict=True):
        assert (one["now"], one["at"], one["unit"]) == (even.now, even.at, even.unit)
        assert one["neighbour"]["field"] == even.neighbour.field
    for one, point in zip(data["scaling"], found.scaling, strict=True):
        assert (one["kind"], one["num_devices"]) == (point.kind, point.num_devices)
        assert one["efficiency"] == point.efficiency and one["is_own"] == point.is_own


def test_a_plan_in_json_is_what_differs() -> None:
    own = small().plan
    assert plan_changes(small(micro_batch=2).plan, own) == {"micro_batch": 2}
    assert plan_changes(None, own) is None
    assert plan_changes(small(slices=(64, 64)).plan, own) == {"slices": [64, 64]}
    assert plan_changes(own, own) == {}


def test_given_costs_are_asked_what_would_be_free_alone() -> None:
    found = what_if(predict(given({"pipeline": 2, "microbatches": 4}, forward=10, send=1)))
    assert {one.what for one in found.freed} >= {"bubble", "forward", "backward", "point_to_point"}
    assert not (found.neighbours or found.scaling or found.sensitivities or found.break_evens)
    assert found.peak_bytes is None or found.peak_bytes >= 0
    assert "costs are given outright" in found.left_out[0]


def test_plans_that_leave_less_open_say_what_was_left_out() -> None:
    placed = what_if(predict(small(devices=(4, 5, 6, 7, 0, 1, 2, 3))))
    assert any("the device of every rank is given" in text for text in placed.left_out)
    frozen = what_if(predict(small(frozen_layers=2)))
    assert frozen.freed and "layers freeze" in frozen.left_out[0]


def test_times_beyond_64_bits_are_asked_what_would_be_free_alone() -> None:
    # A launch of 10 years: SimPy simulates it, and layouts are evaluated in 64 bits.
    prediction = predict(small("cluster.device.efficiency.launch=320000000000000000 ns"))
    found = what_if(prediction)
    assert found.freed and "2^62 ns" in found.left_out[0] and not found.neighbours


def test_progress_says_what_is_simulated() -> None:
    said: list[str] = []
    what_if(predict(small()), progress=said.append)
    assert any("free" in text for text in said)
    assert any("what if micro_batch were 2" in text for text in said)
    assert any("weak scaling: 16 devices" in text for text in said)
    assert any("bandwidth between nodes" in text for text in said)


def test_answers_are_the_same_every_time() -> None:
    prediction = predict(small())
    assert what_if(prediction) == what_if(prediction)
    assert all(math.isfinite(one.gain) for one in what_if(prediction).freed)


def test_given_costs_load_no_compiler_and_none_is_needed() -> None:
    code = (
        "import sys; {} "
        "from scenarios.loader import load; from sim.prediction import predict; "
        "from sim.what_if.asking import what_if; "
        "found = what_if(predict(load('{}').scenario)); "
        "sys.exit(not found.freed or 'llvmlite' in sys.modules or len(found.neighbours) != {})"
    )
    near = len(what_if(predict(load("local-2rank").scenario)).neighbours)
    for first, name, number in (
        ("", "replay/stage-times", 0),
        ("sys.modules['numba'] = None;", "local-2rank", near),
    ):
        command = [sys.executable, "-c", code.format(first, name, number)]
        assert subprocess.run(command, cwd=ROOT, timeout=120).returncode == 0, name
