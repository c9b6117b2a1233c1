"""The layout search: GPT-3 175B on 1,024 A100, and Megatron-LM's published layouts against it.

Run: .venv/bin/python benchmarks/planner.py [--jobs 2] [--table1] [--rows 18b,1t]

The search: DGX-A100, batch 1536, the whole space (`sim.planner.layouts.space`), its front, the
reasons against other layouts and the sensitivity to inputs; `seconds` is all of that, `search_s` up
to the best layouts and the front; `processor_s` is what all processes worked, where a machine is
shared. A candidate is over memory by the exact model, bounded (a proved
lower bound of its time leaves it no place among the best nor on the front) or simulated.

The baseline is Megatron-LM's layout of tensor 8, pipeline 16, data 8 (arXiv 2104.04473), with 1F1B
and with two chunks a rank, with its full recomputation, by the same model.

--table1: for each row of that paper's table 1 the time of the published layout over that of the
best found: among the layouts that the paper's software had (full recomputation, no sequence
parallelism, nothing sharded, tensor innermost, then data; 1F1B, and interleaved where the pipeline
has more than two ranks, as Megatron-LM asks; gradients reduced beside the passes by DDP where there
is one stage, after them else), and in the whole space; with what the published layout loses to the
first. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scenarios.loader import load
from scenarios.published import load_table
from scenarios.schema import Plan, Scenario
from sim.planner.layouts.area import candidate_of
from sim.planner.layouts.desk import Desk
from sim.planner.layouts.evaluation import Evaluator
from sim.planner.layouts.found import Candidate, Progress
from sim.planner.layouts.reasons import Seen, why_slower
from sim.planner.layouts.search import search
from sim.planner.layouts.space import DIMENSIONS, CannotPlan

SCENARIO = "megatron/175b"
GPUS = 1024
CHUNKS = 2
OF_ITS_TIME: Mapping[str, tuple[object, ...]] = {
    "recomputation": ("full",),
    "sequence_parallel": (False,),
    "sharding": ("none",),
    "placement": ("tensor-data-pipeline",),
    "slices": (None,),
}


def main() -> None:
    """Search, print tables, and one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=None, help="processes; all cores unless given")
    parser.add_argument("--table1", action="store_true", help="the ten rows of table 1, too")
    parser.add_argument("--rows", default="", help="of table 1 only these, as 18b,1t")
    asked = parser.parse_args()
    result = largest(asked.jobs)
    if asked.table1 or asked.rows:
        result["table1"] = table1(asked.jobs, [row for row in asked.rows.split(",") if row])
    print(json.dumps(result))


def largest(jobs: int | None) -> dict[str, object]:
    """The search over the whole space, and what became of its candidates."""
    scenario = load(SCENARIO).scenario
    explained: list[float] = []

    def told(progress: Progress) -> None:
        if progress.what == "reasons" and not explained:
            explained.append(time.perf_counter())

    started = time.perf_counter()
    found = search(scenario, gpus=(GPUS,), jobs=jobs, progress=told)
    seconds = time.perf_counter() - started
    searched = (explained[0] if explained else time.perf_counter()) - started
    cpu = sum(_processor_s(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    space = found.spaces[0]
    evaluator = Evaluator(scenario)
    interleaved = replace(scenario.plan, schedule="interleaved", chunks=CHUNKS)
    baselines = {"1f1b": scenario.plan, f"interleaved x {CHUNKS}": interleaved}
    times = {name: evaluator.iteration_ns(plan) for name, plan in baselines.items()}
    print(f"{scenario.name} on {GPUS} GPUs, batch {scenario.plan.global_batch}")
    print(f"  candidates   {space.counted:>9,}   ({space.refused:,} combinations not allowed)")
    print(f"  over memory  {space.over_memory:>9,}")
    print(f"  bounded      {space.bounded:>9,}")
    print(f"  simulated    {space.simulated:>9,}")
    print(
        f"  {searched:.1f} s to the best and the front, {seconds:.1f} s with all reasons; ", end=""
    )
    print(f"{space.counted / searched:,.0f} candidates/s")
    print(f"\n  {'time':>9} {'bound':>7} {'memory':>8} {'TFLOP/s':>8}  layout")
    for candidate in found.ranked:
        print(_line(candidate))
    for name, iteration_ns in times.items():
        slower = iteration_ns / found.best.iteration_ns - 1
        print(f"  {iteration_ns / 1e9:7.3f} s {'':34} Megatron-LM's, {name} ({slower:+.1%})")
    print(f"  front of time, memory and cost: {len(found.front)} layouts\n")
    return {
        "candidates": space.counted,
        "simulated": space.simulated,
        "pruned": space.bounded,
        "over_memory": space.over_memory,
        "refused": space.refused,
        "seconds": seconds,
        "search_s": searched,
        "processor_s": cpu,
        "plans_per_s": space.counted / searched,
        "front": len(found.front),
        "best": {
            "iteration_s": found.best.iteration_ns / 1e9,
            "peak_bytes": found.best.peak_bytes,
            **_layout(found.best.plan),
        },
        "baseline": {name: {"iteration_s": t / 1e9} for name, t in times.items()},
    }


def _processor_s(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def table1(jobs: int | None, names: Sequence[str]) -> dict[str, object]:
    """The published layouts of table 1 against the best found."""
    found: dict[str, object] = {}
    print(f"  {'row':6} {'published':>10} {'of its time':>12} {'':>7} {'whole space':>12}")
    for row in load_table("ptdp.table1").rows:
        if names and row.name not in names:
            continue
        scenario = row.scenario
        published = _published(scenario)
        own = of_its_time(scenario, jobs)
        whole = search(scenario, top=1, jobs=jobs, explain=False)
        best = whole.best
        ratios = [published.iteration_ns / c.iteration_ns for c in (own, best)]
        why = _why(scenario, own, published)
        print(
            f"  {row.name:6} {published.iteration_ns / 1e9:8.3f} s "
            f"{own.iteration_ns / 1e9:10.3f} s {ratios[0] - 1:+7.1%} "
            f"{best.iteration_ns / 1e9:10.3f} s {ratios[1] - 1:+7.1%}"
        )
        for what, candidate in (("published", published), ("of its time", own), ("whole", best)):
            memory = f"{candidate.peak_bytes / 2**30:4.1f} GiB"
            print(f"         {what:12} {memory}  {_words(candidate.plan)}")
        print(f"         published against of its time: {why}", flush=True)
        found[row.name] = {
            "published_s": published.iteration_ns / 1e9,
            "published_peak_bytes": published.peak_bytes,
            "of_its_time_s": own.iteration_ns / 1e9,
            "of_its_time_peak_bytes": own.peak_bytes,
            "over_of_its_time": ratios[0] - 1,
            "of_its_time": _layout(own.plan),
            "why": why,
            "whole_s": best.iteration_ns / 1e9,
            "over_whole": ratios[1] - 1,
            "whole": _layout(best.plan),
            "candidates": whole.spaces[0].counted,
            "simulated": whole.spaces[0].simulated,
            "seconds": whole.seconds,
        }
    return found


def of_its_time(scenario: Scenario, jobs: int | None) -> Candidate:
    """The best layout that the paper's software could run: each number of stages had its own way to
    reduce gradients, and interleaving asked for more than two ranks."""
    number = scenario.plan.num_devices
    several = tuple(p for p in range(3, number + 1) if number % p == 0)
    found: list[Candidate] = []
    for pipeline, orders, reduction in (
        ((1,), ("1f1b",), "overlapped"),
        ((2,), ("1f1b",), "after"),
        (several, ("1f1b", "interleaved"), "after"),
    ):
        only = {
            **OF_ITS_TIME,
            "pipeline": pipeline,
            "schedule": orders,
            "gradient_reduction": (reduction,),
        }
        try:
            result = search(scenario, only=only, top=1, jobs=jobs, explain=False)
        except CannotPlan:
            continue
        found += result.ranked
    return min(found, key=lambda candidate: candidate.iteration_ns)


def _published(scenario: Scenario) -> Candidate:
    evaluator = Evaluator(scenario)
    return candidate_of(
        scenario,
        scenario.plan,
        iteration_ns=evaluator.iteration_ns(scenario.plan),
        bound_ns=evaluator.bound_ns(scenario.plan),
        peak_bytes=evaluator.peak_bytes(scenario.plan),
    )


def _why(scenario: Scenario, best: Candidate, other: Candidate) -> str:
    """What a layout loses to the best one."""
    desk = Desk(scenario)
    shares = [desk.breakdown(replace(scenario, plan=c.plan)) for c in (best, other)]
    seen = Seen(candidate=best, scenario=scenario, shares=shares[0])
    return why_slower("plan", seen, other, shares[1])


def _line(candidate: Candidate) -> str:
    tightness = candidate.bound_ns / candidate.iteration_ns
    return (
        f"  {candidate.iteration_ns / 1e9:7.3f} s {tightness:7.4f} "
        f"{candidate.peak_bytes / 2**30:4.1f} GiB {candidate.tflops_per_gpu:8.1f}  "
        f"{_words(candidate.plan)}"
    )


def _layout(plan: Plan) -> dict[str, object]:
    values = asdict(plan)
    return {name: values[name] for name in DIMENSIONS}


def _words(plan: Plan) -> str:
    order = plan.schedule + (f" x {plan.chunks}" if plan.chunks > 1 else "")
    order += f", {plan.slices} slices" if plan.slices else ""
    words = [f"t{plan.tensor} p{plan.pipeline} d{plan.data} b{plan.micro_batch}", order]
    words.append({"none": "keeps all"}.get(plan.recomputation, f"{plan.recomputation} recomputed"))
    words += ["sequence parallel"] if plan.sequence_parallel else []
    words += [f"{plan.sharding} sharded"] if plan.sharding != "none" else []
    words += ["overlapped"] if plan.gradient_reduction == "overlapped" else []
    words += [plan.placement] if plan.placement != "tensor-data-pipeline" else []
    return ", ".join(words)


if __name__ == "__main__":
    main()
