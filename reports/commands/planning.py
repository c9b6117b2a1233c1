"""What `plan` does: read what is asked, search, and show and write what was found."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

from reports import words
from reports.commands import files, scenario_files
from reports.commands.files import InputError, command_line
from reports.plan_answer import NEAR, PlanAnswer, details_of, laid_out
from reports.terminal import console
from reports.terminal import plan as terminal_plan
from scenarios.schema import Plan
from scenarios.unplanned import Unplanned, only_values, unplanned
from scenarios.writing import write_whole
from sim.planner.layouts.found import Objective, PlanSearch, Progress


class Asked(NamedTuple):
    """What the command line says of the search."""

    cluster: str
    batch: int | None
    gpus: str
    objective: Objective
    deadline_days: float | None
    top: int
    only: Sequence[str]
    jobs: int | None


def plan(
    name: str,
    overrides: Sequence[str],
    asked: Asked,
    profile: Path | None,
    outputs: tuple[Path | None, Path | None],
    *,
    as_json: bool,
    force: bool,
) -> int:
    """Search the layouts of a scenario or a model, show them and write what was asked; the exit
    code.

    outputs: the HTML report, and the best layout as a scenario.
    """
    from sim.planner.layouts.search import search

    report, output = outputs
    files.check_outputs(outputs, force=force)
    used = files.profile(profile)
    only = only_values(asked.only)
    numbers = gpu_counts(asked.gpus)
    if asked.jobs is not None and asked.jobs < 1:
        raise InputError(f"--jobs {asked.jobs}: at least one process, as --jobs 2")
    question = unplanned(name, overrides, cluster=asked.cluster, batch=asked.batch, gpus=numbers)
    found = search(
        question.loaded.scenario,
        gpus=() if asked.objective == "gpus" and not numbers else question.gpus,
        objective=asked.objective,
        deadline_days=asked.deadline_days,
        top=asked.top,
        only=only,
        profile=used,
        jobs=asked.jobs,
        progress=meter(console.progress()),
    )
    if not question.has_baseline:
        found = replace(found, baseline=None)
    near = NEAR if report is not None else 0
    answer = PlanAnswer(
        asked=question,
        only=only,
        found=found,
        details=details_of(found, used, near=near),
        profile=used,
    )
    if report is not None:
        from reports.pages.page_plan import render_plan

        write_whole(report, render_plan(answer, command=command_line()), force=force)
    written = write_best(output, question, found, force=force)
    terminal_plan.show_plan(answer, as_json=as_json)
    console.wrote((report, written), as_json=as_json)
    return 0


def gpu_counts(text: str) -> tuple[int, ...]:
    """Read `--gpus 512,1024`.

    Raises InputError for what are no numbers of devices.
    """
    parts = [part.strip().replace("_", "") for part in text.split(",") if part.strip()]
    if text and (not parts or not all(part.isdecimal() and int(part) > 0 for part in parts)):
        raise InputError(f"--gpus {text}: write numbers of GPUs, as `--gpus 512,1024`")
    return tuple(dict.fromkeys(map(int, parts)))


def write_best(
    path: Path | None, question: Unplanned, found: PlanSearch, *, force: bool
) -> Path | None:
    """Write the best layout as a scenario; the file, None where none was asked for or none fits."""
    if path is None or not found.ranked:
        return None
    old = question.loaded.scenario
    best = laid_out(old, found.best)
    told = (
        f"The best of {words.count(sum(s.counted for s in found.spaces))} layouts by "
        f"{found.objective}, found by pipetwin plan"
    )
    changed = [
        f"plan.{field.name}"
        for field in fields(Plan)
        if getattr(best.plan, field.name) != getattr(old.plan, field.name)
    ]
    scenario_files.write_scenario(
        path,
        question.loaded,
        replace(best, description=told),
        ("description", "cluster.nodes", *changed),
        force=force,
    )
    return path


def meter(
    show: Callable[[str], None], clock: Callable[[], float] = time.monotonic
) -> Callable[[Progress], None]:
    """Says how far a search is: what is settled, the best so far, and when it will be done.

    show: takes the line. clock: seconds.
    """
    begun: dict[int, tuple[float, int]] = {}

    def tell(state: Progress) -> None:
        head = f"{words.count(state.num_devices)} GPUs: "
        if state.what == "counting":
            text = f"{words.count(state.counted)} layouts counted and bounded so far"
            show(f"{head}{text}, {words.count(state.settled)} of them over memory")
            return
        if state.what != "simulating":
            doing = {
                "reasons": "why not others",
                "sensitivity": "what the best hangs on",
            }[state.what]
            show(head + doing)
            return
        now = clock()
        start, before = begun.setdefault(state.num_devices, (now, state.settled))
        done, left = state.settled - before, state.counted - state.settled
        text = (
            f"{head}{words.count(state.settled)} of {words.count(state.counted)} layouts settled, "
            f"{words.count(state.simulated)} simulated"
        )
        if state.best_ns is not None:
            text += f", best {words.duration(state.best_ns)}"
        if done > 0 and now > start:
            rest = left * (now - start) / done
            at = time.strftime("%H:%M:%S", time.localtime(time.time() + rest))
            text += f", about {words.count(rest)} s left (until {at})"
        show(text.replace(words.NBSP, " "))

    return tell
