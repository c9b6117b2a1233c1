"""The layout search: what it leaves out loses nothing; ties, processes, interruption."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import le
from pathlib import Path
from typing import Any

import psutil
import pytest
from joblib.externals.loky import ProcessPoolExecutor

from scenarios.resizing import resized
from scenarios.schema import Plan, Scenario, Training
from sim.cost.profile import Profile
from sim.cost.table import cost_table
from sim.engine.simpy_engine import simulate
from sim.planner.goodput.run import expected_days
from sim.planner.layouts import workers
from sim.planner.layouts.area import BoundBroken
from sim.planner.layouts.desk import Desk
from sim.planner.layouts.evaluation import Evaluator
from sim.planner.layouts.found import Progress
from sim.planner.layouts.search import search
from sim.planner.layouts.space import CannotPlan, LayoutSpace
from sim.schedule.build import build_program
from sim.workload.memory import memory_model, peak_bytes
from tests.sim.planner.layout_scenarios import small

ROOT = Path(__file__).resolve().parents[3]
Measured = tuple[int, int, int, Plan]
"""Iteration, peak, position in the space, plan."""


def plain_peak(scenario: Scenario, plan: Plan) -> int:
    """A plan's peak by the readable functions, which tests hold faster ones to."""
    chosen = replace(scenario, plan=plan)
    program = build_program(chosen)
    model = memory_model(chosen, program)
    assert model is not None
    return max(peak_bytes(model, program.schedule))


def plain_iteration(scenario: Scenario, plan: Plan) -> int:
    """A plan's iteration by the engine that a reader can follow."""
    chosen = replace(scenario, plan=plan)
    program = build_program(chosen)
    return simulate(program, cost_table(chosen, program)).iteration_ns


@dataclass(frozen=True)
class Made:
    """Times, peaks and bounds drawn from a plan's name: few distinct ones, so that many tie."""

    seed: int
    values: int

    def __call__(self, scenario: Scenario, profile: Profile | None) -> Drawn:
        assert scenario.cluster is not None
        return Drawn(self.seed, self.values, scenario.cluster.num_devices)


@dataclass(frozen=True)
class Drawn:
    seed: int
    values: int
    num_devices: int

    def number(self, what: str, text: str, below: int) -> int:
        found = hashlib.sha256(f"{self.seed} {what} {text}".encode()).digest()
        return int.from_bytes(found[:6], "big") % below

    def peak_bytes(self, plan: Plan) -> int:
        alike = replace(
            plan, placement="tensor-data-pipeline", gradient_reduction="after", gradient_bucket=1024
        )
        return 1 + self.number("peak", repr(alike), self.values)

    def bound_ns(self, plan: Plan) -> int:
        share = self.number("share", repr(plan), 4)
        return self.iteration_ns(plan) * (3 + share) // 6

    def iteration_ns(self, plan: Plan) -> int:
        return (50 + self.number("time", repr(plan), self.values)) * (
            200 + 1600 // self.num_devices
        )


def everything(
    scenario: Scenario,
    number: int,
    peak: Callable[[Scenario, Plan], int],
    iteration: Callable[[Scenario, Plan], int],
    only: dict[str, tuple[object, ...]] | None = None,
) -> list[Measured]:
    """All candidates that fit, each one simulated."""
    space = LayoutSpace(scenario, number, only)
    found: list[Measured] = []
    position = 0
    for room in space.rooms:
        for cell in space.cells(room).cells:
            for spread in cell.spreads:
                plan = space.plan(cell, spread)
                position += 1
                needed = peak(space.scenario, plan)
                assert space.scenario.cluster is not None
                if needed <= space.scenario.cluster.device.memory:
                    found.append((iteration(space.scenario, plan), needed, position, plan))
    return sorted(found, key=lambda entry: entry[:3])


def everything_made(scenario: Scenario, number: int, make: Made) -> list[Measured]:
    assert scenario.cluster is not None
    wide = replace(scenario, cluster=resized(scenario.cluster, number))
    drawn = make(wide, None)
    return everything(
        wide,
        number,
        lambda _, plan: drawn.peak_bytes(plan),
        lambda _, plan: drawn.iteration_ns(plan),
    )


def best_of(measured: Sequence[Measured], top: int) -> list[tuple[int, int, Plan]]:
    return [(time, peak, plan) for time, peak, _, plan in measured[:top]]


def front_of(measured: Sequence[Measured]) -> list[tuple[int, int, Plan]]:
    """Those that nothing beats in both, found by comparing each with each."""
    return [
        (time, peak, plan)
        for at, (time, peak, _, plan) in enumerate(measured)
        if not any(other[1] <= peak for other in measured[:at])
    ]


def seen(candidates: Sequence[Any]) -> list[tuple[int, int, Plan]]:
    return [(c.iteration_ns, c.peak_bytes, c.plan) for c in candidates]


@pytest.mark.parametrize("seed", range(30))
def test_pruned_as_exhaustive_whatever_the_times(seed: int) -> None:
    """Drawn times, peaks and bounds, with many ties and bounds from half the time to all of it."""
    draw = random.Random(seed)
    values = draw.choice([3, 20, 1000, 10**9])
    scenario = small(layers=2, batch=4, memory_bytes=values * draw.choice([5, 8, 10]) // 10 + 1)
    make, top = Made(seed, values), draw.choice([1, 3, 10, 400])
    found = search(scenario, top=top, jobs=1, make=make, explain=False)
    measured = everything_made(scenario, 4, make)
    assert seen(found.ranked) == best_of(measured, top)
    assert seen(found.front) == front_of(measured)
    space = found.spaces[0]
    assert space.counted == space.over_memory + space.bounded + space.simulated
    assert space.bounded + space.simulated == len(measured)
    assert top > 100 or values < 1000 or space.bounded > 0


def random_case(seed: int) -> tuple[Scenario, dict[str, tuple[object, ...]]]:
    """A small scenario, and a restriction to some hundred of its layouts."""
    draw = random.Random(seed)
    scenario = small(
        layers=draw.choice([4, 6]),
        batch=draw.choice([4, 8]),
        nodes=draw.choice([1, 2]),
        per_node=draw.choice([2, 4]),
        p2p=draw.choice(["blocking", "overlapped", "exchange"]),
        clip_gradients=draw.choice([False, True]),
    )
    model, cluster = scenario.model, scenario.cluster
    assert model is not None and cluster is not None
    link = replace(cluster.inter_node, bandwidth=draw.choice([1e8, 2.5e9, 2.5e10]))
    model = replace(model, hidden=draw.choice([256, 1024]), tied_embeddings=draw.random() < 0.5)
    scenario = replace(scenario, model=model, cluster=replace(cluster, inter_node=link))
    only: dict[str, tuple[object, ...]] = {
        "recomputation": tuple(draw.sample(["none", "selective", "full"], 2)),
        "micro_batch": tuple(draw.sample([1, 2, 4], 2)),
        "slices": (None, draw.choice([2, 4, 8])),
        "sharding": tuple(draw.sample(["none", "optimizer", "full"], 2)),
    }
    return scenario, only


@pytest.mark.parametrize("seed", range(6))
def test_pruned_as_exhaustive_under_the_models(seed: int) -> None:
    """Against every candidate simulated by SimPy, on a device that holds about half of them."""
    scenario, only = random_case(seed)
    assert scenario.cluster is not None
    number = scenario.cluster.num_devices
    everywhere = everything(scenario, number, plain_peak, plain_iteration, only)
    middle = sorted(entry[1] for entry in everywhere)[len(everywhere) // 2]
    device = replace(scenario.cluster.device, memory=middle)
    scenario = replace(scenario, cluster=replace(scenario.cluster, device=device))
    measured = [entry for entry in everywhere if entry[1] <= middle]
    found = search(scenario, only=only, top=5, jobs=1, explain=False)
    assert seen(found.ranked) == best_of(measured, 5)
    assert seen(found.front) == front_of(measured)
    space = found.spaces[0]
    assert space.counted == len(everywhere)
    assert space.over_memory == len(everywhere) - len(measured)
    assert space.simulated + space.bounded == len(measured)
    assert all(c.bound_ns <= c.iteration_ns for c in found.ranked)


def test_several_numbers_of_devices_are_ranked_together() -> None:
    scenario, make = small(layers=2, batch=4), Made(7, 50)
    numbers = (2, 4, 8)
    measured = {n: everything_made(scenario, n, make) for n in numbers}
    points = [(t, m, n * t, n) for n in numbers for t, m, _, _ in measured[n]]
    fastest = min(points, key=lambda p: (p[0], p[3], p[1]))
    cheapest = min(points, key=lambda p: (p[2], p[0]))
    by_time = search(scenario, gpus=numbers, jobs=1, make=make, explain=False)
    by_cost = search(scenario, gpus=numbers, objective="cost", jobs=1, make=make, explain=False)
    assert (by_time.best.iteration_ns, by_time.best.num_devices) == (fastest[0], fastest[3])
    assert by_cost.best.iteration_ns * by_cost.best.num_devices == cheapest[2]
    costs = [c.iteration_ns * c.num_devices for c in by_cost.ranked]
    assert costs == sorted(costs)
    beaten = {
        p[:3]
        for p in points
        if not any(q[:3] != p[:3] and all(map(le, q[:3], p[:3])) for q in points)
    }
    front = [(c.iteration_ns, c.peak_bytes, c.iteration_ns * c.num_devices) for c in by_time.front]
    assert set(front) == beaten and len(front) == len(beaten) > 3
    assert [space.num_devices for space in by_time.spaces] == list(numbers)


def test_the_fewest_devices_that_meet_a_deadline() -> None:
    scenario = small(layers=2, batch=4)
    make = Made(3, 50)
    every = search(scenario, gpus=(2, 4, 8), jobs=1, make=make, explain=False)
    days = {n: min(c.days for c in every.front if c.num_devices == n) for n in (2, 4, 8)}
    assert days[2] > days[4] > days[8]
    asked = {"objective": "gpus", "jobs": 1, "make": make, "explain": False}
    found = search(scenario, gpus=(8, 4, 2), deadline_days=days[4], **asked)
    assert found.best.num_devices == 4 and found.meets_deadline is True
    none = search(scenario, gpus=(2, 4), deadline_days=days[8] / 2, **asked)
    assert none.meets_deadline is False and none.best.days == days[4]
    # Without numbers: as many nodes (of 2) as are needed, and no more searched.
    ladder = search(scenario, deadline_days=days[4], **asked)
    assert [space.num_devices for space in ladder.spaces] == [2, 4]
    assert ladder.best.num_devices == 4


def test_the_cheapest_that_meets_a_deadline() -> None:
    """Few devices are cheapest, but too late: the cheapest of those in time is the answer."""
    scenario = small(layers=2, batch=4)
    asked = {"gpus": (2, 4, 8), "jobs": 1, "make": Made(3, 50), "explain": False, "top": 5}
    every = search(scenario, **asked).front
    cheapest = search(scenario, objective="cost", **asked).best
    late = sorted(c.days for c in every if c.days < cheapest.days)[-1]
    found = search(scenario, objective="cost", deadline_days=late, **asked)
    assert found.meets_deadline is True and found.best != cheapest
    in_time = [c.iteration_ns * c.num_devices for c in every if c.days <= late]
    assert found.best.iteration_ns * found.best.num_devices == min(in_time)
    none = search(scenario, objective="cost", deadline_days=1e-9, **asked)
    assert none.meets_deadline is False
    assert none.best.iteration_ns == min(c.iteration_ns for c in every)


def test_of_equal_layouts_the_plainest() -> None:
    """All take the same time and memory: first what comes first in the space's order."""
    scenario = small(layers=2, batch=4)
    found = search(scenario, jobs=1, make=Made(0, 1), top=3, explain=False)
    space = LayoutSpace(scenario, 4)
    cell = space.cells(space.rooms[0]).cells[0]
    assert found.best.plan == space.plan(cell, cell.spreads[0])
    assert (found.best.plan.pipeline, found.best.plan.schedule) == (1, "1f1b")
    assert [c.plan for c in found.front] == [found.best.plan]


def test_nothing_fits_is_a_result() -> None:
    scenario = small(memory_bytes=1 << 20)
    found = search(scenario, jobs=1)
    space = found.spaces[0]
    assert found.ranked == found.front == found.alternatives == ()
    assert space.over_memory == space.counted > 0 and space.simulated == 0
    assert space.smallest_plan is not None
    assert space.smallest_peak_bytes == plain_peak(scenario, space.smallest_plan) > 1 << 20
    assert found.baseline is None and found.meets_deadline is None


def test_its_own_plan_is_the_baseline_where_it_is_complete() -> None:
    scenario = small()
    only = {"tensor": (1,), "micro_batch": (1,), "slices": (None,), "recomputation": ("none",)}
    found = search(scenario, jobs=1, only=only, explain=False)
    assert found.baseline is not None
    assert found.baseline.plan == scenario.plan
    assert found.baseline.iteration_ns == plain_iteration(scenario, scenario.plan)
    assert found.best.iteration_ns <= found.baseline.iteration_ns
    open_plan = replace(scenario, plan=replace(scenario.plan, data=1))
    assert search(open_plan, jobs=1, only=only, explain=False).baseline is None


def test_what_is_asked_must_make_sense() -> None:
    scenario = small()
    with pytest.raises(CannotPlan, match="deadline"):
        search(scenario, objective="gpus")
    with pytest.raises(CannotPlan, match="tokens"):
        search(replace(scenario, training=None), deadline_days=3.0)
    with pytest.raises(CannotPlan, match="global_batch 8 does not divide"):
        search(scenario, jobs=1, only={"pipeline": (4,), "tensor": (1,)}, gpus=(12,), explain=False)
    with pytest.raises(CannotPlan, match="no layout on 4 devices, as plan\\.tensor"):
        search(small(heads=2), jobs=1, only={"tensor": (4,)}, explain=False)
    with pytest.raises(CannotPlan, match="tensor 7 does not divide 4 devices; `tensor=4` would"):
        search(scenario, jobs=1, only={"tensor": (7,)})
    with pytest.raises(CannotPlan, match="micro_batch 3 or 5 does not divide 8 sequences"):
        search(scenario, jobs=1, only={"micro_batch": (3, 5)})
    with pytest.raises(CannotPlan, match="no layout on 14 devices; `--gpus 8 or 16` would"):
        search(scenario, jobs=1, gpus=(14,))
    with pytest.raises(CannotPlan, match=r"given order is for one layout alone; .* 1f1b, gpipe"):
        search(scenario, jobs=1, only={"schedule": ("given",)})
    with pytest.raises(CannotPlan, match="no combination of tensor 2, data 4 is one"):
        search(scenario, jobs=1, only={"tensor": (2,), "data": (4,)})


class _Low:
    def __init__(self, scenario: Scenario, profile: Profile | None) -> None:
        self.drawn = Made(1, 100)(scenario, profile)

    def peak_bytes(self, plan: Plan) -> int:
        return 1

    def bound_ns(self, plan: Plan) -> int:
        return self.drawn.iteration_ns(plan) + 1

    def iteration_ns(self, plan: Plan) -> int:
        return self.drawn.iteration_ns(plan)


def test_a_bound_that_does_not_hold_is_no_answer() -> None:
    with pytest.raises(BoundBroken, match="less than its bound"):
        search(small(layers=2, batch=4), jobs=1, make=_Low, explain=False)


def test_two_processes_find_what_one_finds() -> None:
    scenario, only = random_case(1)
    told: list[Progress] = []
    # joblib keeps the processes of sweeps in other tests for a while.
    before = set(psutil.Process().children(recursive=True))
    one = search(scenario, only=only, jobs=1)
    two = search(scenario, only=only, jobs=2, progress=told.append)
    assert replace(one, seconds=0.0) == replace(two, seconds=0.0)
    assert told[-1].settled == told[-1].counted == two.spaces[0].counted
    assert [p.counted for p in told] == sorted(p.counted for p in told)
    left = set(psutil.Process().children(recursive=True)) - before
    commands = (p.cmdline() for p in left)
    assert not [command for command in commands if "popen_loky" in " ".join(command)]


INTERRUPTED = """
import sys, time
from sim.planner.layouts.search import search
from tests.sim.planner.layout_scenarios import small

class Slow:
    def __init__(self, scenario, profile): pass
    def peak_bytes(self, plan): return 1
    def bound_ns(self, plan): return 1
    def iteration_ns(self, plan):
        time.sleep(0.05)
        return 10

def told(progress):
    if progress.simulated:
        print("simulating", flush=True)

if __name__ == "__main__":
    try:
        search(small(), jobs=2, make=Slow, progress=told)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(130)
"""


def test_an_interrupted_search_leaves_no_process(tmp_path: Path) -> None:
    script = tmp_path / "interrupted.py"
    script.write_text(textwrap.dedent(INTERRUPTED))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "simulating"
        family = psutil.Process(process.pid).children(recursive=True)
        assert sum("popen_loky" in " ".join(p.cmdline()) for p in family) == 2
        # As Ctrl-C does: to the whole group.
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == 130 and "interrupted" in out
    assert "Traceback" not in err, err
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def test_days_and_deadlines_are_those_to_be_expected_with_failures() -> None:
    scenario = small()
    training = Training(
        tokens=10**9, device_mtbf=10**14, restart_time=10**12, checkpoint_bandwidth=1e9
    )
    only = {"tensor": (1,), "slices": (None,), "recomputation": ("none",)}
    failing = search(replace(scenario, training=training), only=only, jobs=1, explain=False)
    best = failing.best
    assert best.days == expected_days(best.iteration_ns, best.plan, failing.scenario)
    calm = search(
        replace(scenario, training=Training(tokens=10**9)), only=only, jobs=1, explain=False
    )
    assert calm.best.days is not None and best.days is not None
    assert calm.best.plan == best.plan and best.days > 1.001 * calm.best.days
    late = search(
        failing.scenario,
        gpus=(4,),
        objective="gpus",
        deadline_days=(calm.best.days + best.days) / 2,
        only=only,
        jobs=1,
        explain=False,
    )
    assert not late.meets_deadline


def test_processes_end_though_their_executor_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_ENDING_S", 0.2)
    monkeypatch.setattr(ProcessPoolExecutor, "shutdown", lambda *_, **__: threading.Event().wait())
    own = psutil.Process()
    before = set(own.children(recursive=True))
    with workers.Workers(Desk(small(), None, None, Evaluator), jobs=2) as pool:
        assert len(list(pool.run([("space", (4,))] * 2))) == 2
        started = set(own.children(recursive=True)) - before
        children = [p for p in started if "popen_loky" in " ".join(p.cmdline())]
        assert len(children) == 2
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
