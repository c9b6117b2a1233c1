"""What the terminal shows of a layout search, and its JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from reports import layout_words, plan_tables, plan_words
from reports.plan_answer import PlanAnswer
from reports.terminal.cells import head, left, plain, rich, some
from reports.terminal.console import console, progress_done, show_json, wide
from scenarios.schema import Plan
from sim.planner.layouts.found import Alternative, Candidate
from sim.prediction import rates

_FRONT = 10
"""Rows of the front in a terminal."""
_HEADS = (
    "t, p, d: tensor, pipeline, data degree; mb: sequences of a microbatch; interleaved:3 has 3 "
    "chunks a rank, 1f1b:4 cuts sequences into 4 token slices; sp: sequence parallel; "
    "shard: zero1 the optimizer's state, zero3 all; reduce: gradients after or beside the passes; "
    "place: innermost first"
)
_PER_FIELD = 2
"""Alternatives of a dimension in a terminal, the nearest."""


def show_plan(answer: PlanAnswer, *, as_json: bool) -> None:
    """The verdict, what was searched, the best layouts, the front, why not others, what it hangs
    on."""
    progress_done()
    if as_json:
        show_json(plan_json(answer))
        return
    out = console()
    found = answer.found
    style = "bold" if found.ranked else "bold red"
    out.print(Text(plain(plan_words.verdict(answer)), style=style))
    out.print(plain(plan_words.searched(answer)))
    if len(found.spaces) > 1:
        out.print(rich(plan_tables.spaces(answer)))
    if found.ranked:
        _show_found(out, answer)
    for note in plan_words.notes(answer):
        out.print(plain(note))


def _show_found(out: Console, answer: PlanAnswer) -> None:
    found = answer.found
    best = plan_tables.ranked(answer)
    out.print(f"The best: {plain(layout_words.layout(found.best.plan, answer.only))}.")
    if tight := plan_words.tight(answer):
        out.print(plain(tight))
    out.print()
    wide(out, rich(best.table))
    if best.alike:
        out.print(f"in all of them: {', '.join(best.alike)}")
    out.print(_HEADS, style="dim")
    own = answer.details[: 1 if found.baseline is None else 2]
    head(out, "where a device's time goes")
    out.print(rich(plan_tables.time_table(own, least=0.01)))
    if len(found.front) > 1:
        head(out, "the front: none of these is beaten in time, memory and cost at once")
        whole = plan_tables.front(answer, short=True)
        out.print(rich(some(whole, _FRONT)))
        left(out, len(whole.rows) - _FRONT)
        out.print(plain(layout_words.COMPACT), style="dim")
    if found.alternatives:
        head(out, "why not")
        shown = list(nearest(found.alternatives, _PER_FIELD))
        for other in shown:
            out.print(Padding(plain(plan_words.why_not(other)), (0, 0, 0, 2)))
        left(out, len(found.alternatives) - len(shown))
    if found.sensitivities:
        head(out, "what it hangs on: the winner's time where an input is otherwise")
        out.print(rich(plan_tables.sensitivities(answer)))
        out.print(plan_words.MEMORY_INPUT, style="dim")
    out.print()


def nearest(alternatives: Sequence[Alternative], per_field: int) -> Iterator[Alternative]:
    """Of every dimension the alternatives that come closest, those that fit first."""
    for field in dict.fromkeys(other.field for other in alternatives):
        own = [other for other in alternatives if other.field == field]
        own.sort(key=lambda a: (a.slower is None, a.slower or 0.0))
        yield from own[:per_field]


def plan_json(answer: PlanAnswer) -> dict[str, object]:
    """The stable machine form: times in seconds, memory in bytes, shares as fractions; null for
    what is unknown."""
    found = answer.found

    def shown(candidate: Candidate | None) -> dict[str, object] | None:
        if candidate is None:
            return None
        detail = answer.detail(candidate)
        laid = replace(found.scenario, plan=candidate.plan)
        undisturbed = rates(laid, candidate.iteration_ns / 1e9)
        return {
            "plan": layout_json(candidate.plan, tuple(answer.only)),
            "gpus": candidate.num_devices,
            "iteration_s": candidate.iteration_ns / 1e9,
            "bound_s": candidate.bound_ns / 1e9,
            "peak_memory_bytes": candidate.peak_bytes,
            "model_tflops_per_gpu": candidate.tflops_per_gpu,
            "training_days": undisturbed["training_days"],
            "training_cost_dollars": undisturbed["training_cost_dollars"],
            "expected_days": candidate.days,
            "expected_dollars": candidate.dollars,
            "bubble_fraction": (
                None if detail is None else detail.prediction.figures.bubble_fraction
            ),
            "breakdown": None if detail is None else dict(detail.breakdown),
        }

    best_ns = found.best.iteration_ns if found.ranked else 0
    return {
        "scenario": found.scenario.name,
        "digest": found.scenario.digest,
        "objective": found.objective,
        "deadline_days": found.deadline_days,
        "meets_deadline": found.meets_deadline,
        "only": {name: list(values) for name, values in answer.only.items()},
        "assumed": list(answer.asked.assumed),
        "fits": bool(found.ranked),
        "memory_capacity_bytes": answer.capacity_bytes,
        "speedup": answer.gain,
        "best": shown(found.best if found.ranked else None),
        "baseline": shown(found.baseline),
        "ranked": [shown(candidate) for candidate in found.ranked],
        "front": [shown(candidate) for candidate in found.front],
        "alternatives": [
            {
                "field": other.field,
                "value": other.value,
                "chosen": other.chosen,
                "slower": other.slower,
                "missing_bytes": other.missing_bytes,
                "reason": other.reason,
                "layout": shown(other.candidate),
            }
            for other in found.alternatives
        ],
        "sensitivities": [
            {
                "input": item.input,
                "field": item.field,
                "low": item.low,
                "high": item.high,
                "low_s": item.low_ns / 1e9,
                "high_s": item.high_ns / 1e9,
                "low_effect": plan_tables.effects(item, best_ns)[0],
                "high_effect": plan_tables.effects(item, best_ns)[1],
                "overtaken_low": _layout_or_none(item.overtaken_low, answer),
                "overtaken_high": _layout_or_none(item.overtaken_high, answer),
            }
            for item in found.sensitivities
        ],
        "spaces": [
            {
                "gpus": space.num_devices,
                "candidates": space.counted,
                "over_memory": space.over_memory,
                "bounded": space.bounded,
                "simulated": space.simulated,
                "refused": space.refused,
                "sizes": dict(space.sizes),
                "smallest_peak_memory_bytes": space.smallest_peak_bytes,
                "smallest": _layout_or_none(space.smallest_plan, answer),
            }
            for space in found.spaces
        ],
        "candidates": answer.num_candidates,
        "seconds": found.seconds,
    }


def layout_json(plan: Plan, more: Sequence[str] = ()) -> dict[str, Any]:
    """What makes a layout, by the plan's own names; `microbatches` is what a pipeline runs.

    more: other fields that were searched.
    """
    named = dict.fromkeys((*layout_words.LISTED, *more))
    found = {name: getattr(plan, name) for name in named}
    return {**found, "microbatches": plan.num_microbatches, "global_batch": plan.num_sequences}


def _layout_or_none(plan: Plan | None, answer: PlanAnswer) -> dict[str, Any] | None:
    return None if plan is None else layout_json(plan, tuple(answer.only))
