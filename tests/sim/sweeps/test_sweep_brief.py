"""The time figures of points are those of their whole simulation."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sweep_cases import records, run, tiny_sweep

from scenarios.base import Base
from scenarios.catalogue import profiles
from sim.cost.profile_file import read_profile
from sim.sweeps import brief as module
from sim.sweeps.setting import Setting
from sim.sweeps.space import space
from sim.sweeps.sweep import Sweep
from sim.sweeps.work import simulated

SWEEPS = {
    "local-2rank": [
        "plan.schedule=1f1b,gpipe,terapipe",
        "plan.slices=null,4,[64, 32, 32]",
        "plan.microbatches=1,5",
        "plan.p2p=blocking,overlapped",
        "plan.clip_gradients=true,false",
    ],
    "local-tp2-pp2-dp2": [
        "plan.micro_batch=1,2",
        "plan.sharding=none,optimizer,full",
        "plan.gradient_reduction=after,overlapped",
        "cluster.intra_node.bandwidth=1 GB/s,20 GB/s",
    ],
}


def figures(scenario: Any, whole: dict[str, Any]) -> dict[str, Any]:
    """The time figures of a whole summary, taken from it by name."""
    names = [
        *("scenario", "digest", "iteration_s", "model_tflops_per_gpu", "hardware_tflops_per_gpu"),
        *("mfu", "hfu", "sequences_per_s", "tokens_per_s", "training_days", "training_gpu_hours"),
        *("training_cost_dollars", "fits", "memory_capacity_bytes"),
    ]
    peaks = [rank["peak_memory_bytes"] for rank in whole["ranks"]]
    peak = None if None in peaks else max(peaks)
    return {**{name: whole[name] for name in names}, "peak_memory_bytes": peak}


@pytest.mark.parametrize("name", SWEEPS)
def test_as_simulated_to_the_last_digit(name: str) -> None:
    base, points = Base(name), space(SWEEPS[name])
    engines = set()
    for overrides in map(points.overrides, range(len(points))):
        try:
            scenario = base.at(overrides)
        except Exception:
            continue
        found = simulated(scenario, Setting(profile=None, figures="time"))
        engines.add(found.pop("engine"))
        assert found == figures(scenario, simulated(scenario, Setting(profile=None))), overrides
    assert engines == {"compiled"}


def test_with_a_profile() -> None:
    profile = read_profile(profiles()["a100-80gb"])
    base = Base("megatron/175b", ("plan.global_batch=null", "plan.microbatches=6"))
    for drawn, override in itertools.product(
        (False, True), ("plan.p2p=overlapped", "plan.p2p=blocking")
    ):
        used = replace(profile, ratios=(0.9, 1.0, 1.2) if drawn else ())
        scenario = base.at((override,))
        found = simulated(scenario, Setting(profile=used, profile_sha256="x", figures="time"))
        assert (found.pop("engine") == "compiled") == (not drawn)
        assert found == figures(scenario, simulated(scenario, Setting(profile=used)))
        module._evaluators.clear()


def test_without_a_compiler_and_where_simpy_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Base("local-2rank").at(())
    compiled = simulated(scenario, Setting(profile=None, figures="time"))
    plain = simulated(scenario, Setting(profile=None, figures="time", engine="simpy"))
    assert plain == {**compiled, "engine": "simpy"} and compiled["engine"] == "compiled"
    monkeypatch.setattr(module, "why_no_numba", lambda: "it is away")
    assert simulated(scenario, Setting(profile=None, figures="time")) == plain


def test_given_costs(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    sweep = replace(tiny_sweep(tmp_path, ("plan.microbatches=1,2",)), figures="time")
    run(sweep, out)
    for record in records(out):
        assert record["status"] == "done" and record["result"]["peak_memory_bytes"] is None
    whole = tmp_path / "whole.jsonl"
    run(tiny_sweep(tmp_path, ("plan.microbatches=1,2",)), whole)
    pairs = zip(records(out), records(whole), strict=True)
    assert all(a["result"]["iteration_s"] == b["result"]["iteration_s"] for a, b in pairs)
    assert not {r["key"] for r in records(out)} & {r["key"] for r in records(whole)}


def test_many_clusters_are_not_all_kept(tmp_path: Path) -> None:
    module._evaluators.clear()
    latencies = ",".join(f"{n} us" for n in range(1, 41))
    points = space([f"cluster.intra_node.latency={latencies}"])
    sweep = Sweep(base=Base("local-2rank"), space=points, figures="time")
    out = tmp_path / "r.jsonl"
    run(sweep, out)
    assert len(records(out)) == 40 and {r["status"] for r in records(out)} == {"done"}
    assert 0 < len(module._evaluators) <= 16
    times = [json.loads(line)["result"]["iteration_s"] for line in out.read_text().splitlines()]
    assert times == sorted(times) and times[0] < times[-1]
