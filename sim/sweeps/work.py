"""A sweep's points simulated, some at a time, wherever there are workers; done again, the same."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from scenarios.schema import Scenario
from sim.prediction import predict, summary
from sim.sweeps.records import Head, done_line, failed_line
from sim.sweeps.setting import Setting

DRAWS = 15
"""Draws from a profile's distribution, as `simulate` has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A point to be simulated; `refused` is what is wrong with it where it breaks a rule."""

    head: Head
    scenario: Scenario | None
    refused: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A point's record as a line of the results, and how long the simulation took."""

    head: Head
    line: str
    seconds: float


Chunk: TypeAlias = tuple[Task, ...]
Outcomes: TypeAlias = tuple[Outcome, ...]
Workers: TypeAlias = Callable[[Setting, Iterator[Chunk]], Generator[Outcomes, None, None]]
"""Simulates chunks, several at once, and yields what is finished in any order; closed early, it
leaves nothing running. Chunks are asked for one at a time, as there is room, from any thread."""


def simulate_chunk(setting: Setting, chunk: Chunk) -> Outcomes:
    """Simulate some points; what goes wrong with one is its record."""
    return tuple(_simulate(setting, task) for task in chunk)


def lost(task: Task, times: int) -> Outcome:
    """The outcome of a point whose workers died of it."""
    message = (
        "the process that simulated it ended suddenly, "
        f"{'once' if times == 1 else f'{times} times'}: out of memory, perhaps; --retry-failed "
        "tries it again"
    )
    return Outcome(head=task.head, line=failed_line(task.head, "WorkerLost", message), seconds=0.0)


def start_worker(parent: int) -> None:
    """Make this process a worker of the process `parent`: Ctrl-C is the parent's to hear, and the
    worker ends with it, though the parent be killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True, name="end-with-parent").start()


def _simulate(setting: Setting, task: Task) -> Outcome:
    began = time.perf_counter()
    try:
        if task.scenario is None:
            kind, message = task.refused or ("", "")
            return Outcome(head=task.head, line=failed_line(task.head, kind, message), seconds=0.0)
        result = simulated(task.scenario, setting)
        seconds = time.perf_counter() - began
        return Outcome(head=task.head, line=done_line(task.head, result, seconds), seconds=seconds)
    except Exception as error:
        seconds = time.perf_counter() - began
        line = failed_line(task.head, type(error).__name__, str(error), seconds)
        return Outcome(head=task.head, line=line, seconds=seconds)


def simulated(scenario: Scenario, setting: Setting) -> dict[str, Any]:
    """What `simulate --json` prints of a scenario, or its `time` figures alone; of one with epochs
    all but its ablation."""
    profile = setting.profile
    draws = DRAWS if profile is not None else 0
    if scenario.elastic is not None:
        from sim import elastic_run

        return elastic_run.summary(elastic_run.predict_run(scenario, profile, draws=draws))
    if scenario.plan.slices == "optimal":
        from sim.planner.search import resolve

        scenario = resolve(scenario, profile)

    def whole() -> dict[str, Any]:
        return summary(predict(scenario, profile, draws=draws, engine=setting.engine))

    if setting.figures == "all":
        return whole()
    from sim.sweeps.brief import brief

    return brief(scenario, setting, whole)
