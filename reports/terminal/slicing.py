"""What the terminal shows of a slicing search: the answer, why, and what else was tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from reports.terminal.console import console, plain_table, progress_done, show_json
from reports.words import duration, plural, size
from scenarios.schema import MicrobatchGroup, Scenario
from sim.planner.search import Candidate, SlicingResult
from sim.variants import tokens_text
from sim.workload.partition import slice_tokens

_SHOWN = 5
"""Of the best candidates; the best even slicing and what the rest is held against come on top."""


def show_slicing(found: SlicingResult, scenario: Scenario, *, as_json: bool) -> None:
    """The best slicing, its gain over whole microbatches, and the candidates simulated."""
    progress_done()
    if as_json:
        show_json(slicing_json(found, scenario))
        return
    out = console()
    best, whole = found.best, found.whole
    gain = whole.iteration_ns / best.iteration_ns
    out.print(
        Text(
            f"{scenario.name}: {described(best.groups)}: {duration(best.iteration_ns)} an "
            f"iteration, {gain:.2f} times as fast as {duration(whole.iteration_ns)} unsliced",
            style="bold",
        )
    )
    if not best.fits:
        out.print(
            Text("no candidate fits in memory: the one that needs least is shown", style="bold red")
        )
    out.print(_table(found))
    out.print(_explained(found))
    if turned := _turned(found):
        out.print(turned)
    out.print(
        "formula: sum t + (stages - 1) x largest t over all slices, without ends of the model, "
        "optimizer and reductions; "
        f"simulated: all of them, with the memory of every rank. {found.bounds_tried} bounds on "
        "the largest slice tried."
    )
    if found.table.fit is not None:
        out.print(str(found.table.fit))
    if not best.fits:
        return
    setting = _setting(best, scenario)
    # In one line however long: a break would end the command of whoever copies it.
    told = f"use it: {setting}" if setting else "the scenario is cut so already"
    out.print(told, soft_wrap=True)


def described(groups: Sequence[MicrobatchGroup]) -> str:
    """A batch's cut in words: `2 microbatches of 1 sequence in 16 slices of 16 x 128`."""
    return ", then ".join(_group(group) for group in groups)


def _group(group: MicrobatchGroup) -> str:
    head = (
        f"{plural(group.microbatches, 'microbatch', 'microbatches')} of "
        f"{plural(group.micro_batch, 'sequence')}"
    )
    if group.slices is None or group.num_slices == 1:
        return f"{head}, whole"
    if isinstance(group.slices, int):
        return f"{head} in {group.slices} even slices"
    return f"{head} in {plural(group.num_slices, 'slice')} of {tokens_text(group.slices, ' + ')}"


def _short(group: MicrobatchGroup) -> str:
    cut = "whole"
    if isinstance(group.slices, tuple):
        cut = tokens_text(group.slices, " + ")
    return f"{group.microbatches} x {group.micro_batch}: {cut}"


def _table(found: SlicingResult) -> Any:
    columns = ("microbatches x sequences: tokens of their slices", "from", "simulated", "formula")
    table = plain_table(*columns, "peak memory", "fits", right=(2, 3, 4))
    shown = list(found.candidates[:_SHOWN])
    even = next((c for c in found.candidates if c.how.endswith("even slices")), None)
    for extra in (found.formula, even, found.whole):
        if extra is not None and extra not in shown:
            shown.append(extra)
    for candidate in [*shown, found.other_order]:
        table.add_row(
            "; ".join(_short(group) for group in candidate.groups),
            candidate.how,
            duration(candidate.iteration_ns),
            duration(candidate.formula_ns),
            size(candidate.peak_bytes),
            "yes" if candidate.fits else "NO",
        )
    return table


def _explained(found: SlicingResult) -> str:
    best, formula = found.best, found.formula
    tried = plural(len(found.candidates), "candidate")
    if best is formula:
        return f"The formula's own choice is also the fastest of {tried} simulated."
    if not best.fits:
        return (
            f"None of {tried} simulated fits; more tensor or pipeline ranks, or recomputation, "
            "would help."
        )
    if not formula.fits:
        return f"The formula's choice does not fit in memory; of {tried} simulated this one does."
    lost = formula.iteration_ns / best.iteration_ns - 1
    return (
        f"The formula's choice takes {duration(formula.iteration_ns)} when simulated, {lost:.1%} "
        f"more than the best of {tried} ({best.how})."
    )


def _turned(found: SlicingResult) -> str:
    """What the other order of passes would be better at, if anything."""
    best, other = found.best, found.other_order
    name = other.scenario.plan.schedule
    if not other.fits or (best.fits and other.iteration_ns >= best.iteration_ns):
        return ""
    what = f"the same slices take {duration(other.iteration_ns)}"
    if not best.fits:
        what = (
            f"the formula's choice takes {duration(other.iteration_ns)} and fits, with "
            f"{size(other.peak_bytes)}"
        )
    return f"In {name} order {what}: `--set plan.schedule={name}` searches so."


def _setting(best: Candidate, scenario: Scenario) -> str:
    """The overrides that give a scenario its best slicing."""
    names = ("slices", "microbatch_groups", "micro_batch", "microbatches")
    changed = {
        name: getattr(best.scenario.plan, name)
        for name in names
        if getattr(best.scenario.plan, name) != getattr(scenario.plan, name)
    }
    return " ".join(f"--set 'plan.{name}={_value(value)}'" for name, value in changed.items())


def _value(value: object) -> str:
    if isinstance(value, MicrobatchGroup):
        cut = f", slices: {_value(value.slices)}" if value.slices is not None else ""
        return f"{{microbatches: {value.microbatches}, micro_batch: {value.micro_batch}{cut}}}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    return "null" if value is None else str(value)


def slicing_json(found: SlicingResult, scenario: Scenario) -> dict[str, object]:
    """The stable machine form; times in seconds, memory in bytes, slices in tokens."""
    sequence = scenario.model.sequence if scenario.model is not None else 0

    def shown(candidate: Candidate) -> dict[str, object]:
        return {
            "how": candidate.how,
            "schedule": candidate.scenario.plan.schedule,
            "microbatches": [
                {
                    "microbatches": group.microbatches,
                    "micro_batch": group.micro_batch,
                    "slices": list(slice_tokens(group, sequence)),
                }
                for group in candidate.groups
            ],
            "iteration_s": candidate.iteration_ns / 1e9,
            "formula_s": None if candidate.formula_ns is None else candidate.formula_ns / 1e9,
            "peak_memory_bytes": candidate.peak_bytes,
            "fits": candidate.fits,
        }

    fit = found.table.fit
    return {
        "scenario": scenario.name,
        "digest": scenario.digest,
        "granularity": found.table.granularity,
        "speedup": found.whole.iteration_ns / found.best.iteration_ns,
        "best": shown(found.best),
        "unsliced": shown(found.whole),
        "formula": shown(found.formula),
        "other_order": shown(found.other_order),
        "candidates": [shown(candidate) for candidate in found.candidates],
        "bounds_tried": found.bounds_tried,
        "fit": None if fit is None else str(fit),
    }
