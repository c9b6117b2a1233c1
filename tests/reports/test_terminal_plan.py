"""What the terminal shows of a layout search, at several widths, and its progress."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import plan_cases
import pytest
from rich.console import Console

from reports import layout_words, plan_words
from reports.commands.planning import gpu_counts, meter
from reports.plan_answer import PlanAnswer, details_of
from reports.terminal import plan as terminal_plan
from reports.terminal.plan import nearest, plan_json, show_plan
from sim.planner.layouts.found import Candidate, Progress


@pytest.fixture(scope="module")
def answer() -> PlanAnswer:
    """The best layouts made as long in words as they get."""
    few = plan_cases.answer(near=0)
    wide = {
        "schedule": "interleaved",
        "chunks": 12,
        "sharding": "optimizer",
        "placement": "tensor-pipeline-data",
    }

    def long(candidate: Candidate, number: int) -> Candidate:
        changes = wide if number % 2 else {}
        plan = replace(candidate.plan, data=128, micro_batch=16, global_batch=1 << 14, **changes)  # type: ignore[arg-type]
        return replace(candidate, plan=plan, dollars=1.2e6 + number)

    found = replace(few.found, ranked=tuple(long(c, i) for i, c in enumerate(few.found.ranked)))
    return replace(few, found=found)


def shown(answer: PlanAnswer, width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    out = Console(width=width, file=StringIO(), highlight=False, markup=False)
    monkeypatch.setattr(terminal_plan, "console", lambda: out)
    show_plan(answer, as_json=False)
    assert isinstance(out.file, StringIO)
    return out.file.getvalue().splitlines()


def test_it_reads_well_at_80_and_120(answer: PlanAnswer, monkeypatch: pytest.MonkeyPatch) -> None:
    broad, narrow = (shown(answer, width, monkeypatch) for width in (120, 80))
    assert max(map(len, broad)) <= 120 and max(map(len, narrow)) <= 80
    heads = [line for line in broad if line.startswith("#")]
    assert len(heads) == 1, "one band of columns"
    for column in ("mb", "schedule", "recompute", "sp", "shard", "reduce", "place", "time"):
        assert column in heads[0].split()
    assert heads[0].split()[-2:] == ["days", "cost"]
    assert any("interleaved:12" in line and "$1.200M" in line for line in broad)
    told = " ".join(" ".join(narrow).split())
    for other in nearest(answer.found.alternatives, 2):
        assert " ".join(layout_words.instead(other).split()) in told


def test_the_verdict_names_what_was_asked(answer: PlanAnswer) -> None:
    found = answer.found
    text = plan_words.verdict(answer).replace("\u00a0", " ")
    assert text.startswith("GPT-3 6.7B on") and "times as fast as the scenario's own" in text
    late = replace(found, objective="gpus", deadline_days=1.0)
    text = plan_words.verdict(replace(answer, found=late))
    assert "No number of A100-SXM4-80GB that was tried meets the deadline of 1 days" in text
    soon = replace(found, objective="gpus", deadline_days=400.0)
    text = plan_words.verdict(replace(answer, found=soon))
    assert "are the fewest of those tried that do it in 400 days" in text
    cheap = replace(found, objective="cost", deadline_days=400.0)
    assert "This is cheapest within 400 days." in plan_words.verdict(replace(answer, found=cheap))
    own = replace(found, baseline=found.best)
    assert "that is the scenario's own layout" in plan_words.verdict(replace(answer, found=own))


def test_notes_say_what_is_unknown(answer: PlanAnswer) -> None:
    best = replace(answer.found.best, days=None, dollars=None)
    found = replace(answer.found, ranked=(best,), baseline=None)
    told = " ".join(plan_words.notes(replace(answer, found=found, only={"p2p": ("blocking",)})))
    assert "training.tokens=300e9 would tell" in told and "Only messages blocking." in told
    assert "does not fit in memory, so nothing is beside it" in told
    assert "blocking messages; --set" not in told


def test_a_best_layout_that_fills_the_memory_is_told_with_one_that_leaves_room(
    answer: PlanAnswer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, capacity = answer.found, answer.capacity_bytes
    best, slow, lean = found.ranked[:3]
    full = replace(best, peak_bytes=int(0.96 * capacity))
    near = replace(slow, peak_bytes=int(0.91 * capacity), num_devices=full.num_devices)
    free = replace(lean, peak_bytes=int(0.8 * capacity), num_devices=full.num_devices)

    def told(*ranked: Candidate) -> str:
        whole = replace(answer, found=replace(found, ranked=ranked, front=ranked))
        text = " ".join(plan_words.tight(whole).split())
        assert text in " ".join(" ".join(shown(whole, 120, monkeypatch)).split())
        return text

    assert told(free, full) == ""
    text = told(full, near, free)
    assert "fills 96.0 % of a device's memory" in text
    assert layout_words.compact(free.plan) in text and "80 %" not in text
    slower = free.iteration_ns / full.iteration_ns - 1
    assert f"+{100 * slower:.1f} %" in text
    elsewhere = replace(free, num_devices=2 * full.num_devices)
    assert told(full, near, elsewhere).endswith("no layout found leaves a tenth free.")


def test_json_has_every_layout(answer: PlanAnswer) -> None:
    data = plan_json(answer)
    ranked = data["ranked"]
    assert isinstance(ranked, list) and len(ranked) == len(answer.found.ranked)
    assert ranked[1]["plan"]["chunks"] == 12 and ranked[0]["bubble_fraction"] is None
    baseline = data["baseline"]
    assert isinstance(baseline, dict) and 0 < baseline["bubble_fraction"] < 1
    assert data["speedup"] == answer.gain


def test_layouts_in_words() -> None:
    plan = plan_cases.question().loaded.scenario.plan
    assert layout_words.compact(plan) == "t8 p2 d1 b1 1f1b full"
    sliced = replace(plan, schedule="terapipe", slices=4, sharding="full", recomputation="none")
    assert layout_words.compact(sliced) == "t8 p2 d1 b1 terapipe:4 zero3"
    assert "TeraPipe's order, 4 token slices, no recomputation" in layout_words.layout(sliced)
    told = layout_words.difference(sliced, plan)
    assert told == "schedule terapipe, slices 4, recomputation none, sharding full"
    assert layout_words.difference(plan, plan) == "the same layout"


def test_other_fields_that_were_searched_are_told() -> None:
    plan = plan_cases.question().loaded.scenario.plan
    other = replace(plan, precision="bf16", p2p="overlapped")
    only = ("tensor", "precision", "p2p")
    assert layout_words.compact(other, only).endswith("full precision=bf16 p2p=overlapped")
    assert layout_words.layout(other, only).endswith("precision bf16, messages overlapped")
    assert layout_words.difference(other, plan, only) == "messages overlapped, precision bf16"


def test_messages_are_not_said_to_be_beside_the_passes(
    answer: PlanAnswer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent(candidate: Candidate, number: int) -> Candidate:
        plan = candidate.plan
        own = replace(plan, p2p="overlapped") if number % 2 else replace(plan, p2p="blocking")
        return replace(candidate, plan=own)

    ranked = tuple(sent(c, i) for i, c in enumerate(answer.found.ranked))
    only = {"p2p": ("blocking", "overlapped")}
    asked = replace(answer, found=replace(answer.found, ranked=ranked), only=only)
    lines = shown(asked, 160, monkeypatch)
    head = next(line for line in lines if line.startswith("#"))
    place = head.split().index("p2p")
    first = next(line for line in lines if line.startswith("1 ")).split()
    second = next(line for line in lines if line.startswith("2 ")).split()
    assert (first[place], second[place]) == ("blocking", "overlapped")
    assert first[place - 1] in {"t-d-p", "t-p-d"}


def test_details_follow_the_answer() -> None:
    few = plan_cases.answer(near=2)
    assert [d.name for d in few.details][:2] == ["best", "own layout"]
    assert len(few.details) == 4 and few.details[0].candidate is few.found.best
    for detail in few.details:
        assert detail.prediction.figures.iteration_ns == detail.candidate.iteration_ns
    nothing = plan_cases.nothing(plan_cases.question())
    assert [d.name for d in details_of(nothing, None)] == ["needs least memory"]
    unknown = replace(nothing, spaces=(replace(nothing.spaces[0], smallest_plan=None),))
    assert details_of(unknown, None) == ()


def test_progress_tells_how_far_and_until_when() -> None:
    lines: list[str] = []
    now = iter([0.0, 10.0])
    tell = meter(lines.append, lambda: next(now))
    state = Progress(
        num_devices=1024, counted=2_000, settled=0, simulated=0, best_ns=None, what="counting"
    )
    tell(state)
    tell(replace(state, what="simulating"))
    tell(replace(state, what="simulating", settled=500, simulated=7, best_ns=19_220_000_000))
    tell(replace(state, what="reasons"))
    counting = "1,024 GPUs: 2,000 layouts counted and bounded so far, 0 of them over memory"
    assert lines[0] == counting and lines[3].endswith("why not others")
    assert lines[1] == "1,024 GPUs: 0 of 2,000 layouts settled, 0 simulated"
    assert lines[2].startswith(
        "1,024 GPUs: 500 of 2,000 layouts settled, 7 simulated, best 19.22 s, about 30 s left"
    )


def test_numbers_of_gpus_are_read() -> None:
    assert gpu_counts("") == () and gpu_counts("512, 1_024,512") == (512, 1024)
