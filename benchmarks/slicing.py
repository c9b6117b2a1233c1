"""The slicing search against the plain enumeration of bounds, on the same table, on one core.

Run: .venv/bin/python benchmarks/slicing.py [--units 256] [--batch 32] [--sample 200] [--full]

The table: GPT-3 13B (2048 tokens) in 40 stages of 8 V100 each, forward and backward pass of one
layer and both its messages, from the device and link models at a grid of lengths and contexts and
linear between them; once smooth, once each time made up to 2 % longer by seeded noise.

The baseline is the paper's formulation (arXiv 2102.07988, sections 3.3 and 3.4): for every bound,
for every batch size the least sum by a dynamic program over the sequence, then the knapsack, and
K - 1 times the bound. It runs the very kernels of the search, compiled alike, so the ratio is that
of the algorithms. Its bounds: every distinct time, all of them or (the paper's stop) while K - 1
times the bound is no more than the optimum; and multiples of 0.1 ms and 0.01 ms, which may miss
the optimum. What would take long is timed on an even sample of the bounds and extrapolated in
proportion, and said to be; --full runs it all. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scenarios.loader import load
from sim.cost.modelled import message, part_times, setup_of
from sim.planner.slicing import best_splitting
from sim.planner.slicing_kernels import NEVER, cheapest_sums, knapsack
from sim.schedule.compiling import compiled

STAGES = 40
SEQUENCE = 2048
SCENARIO = f"""
extends: [models/gpt3-13b, clusters/p3-16xlarge]
cluster: {{nodes: {STAGES}}}
plan: {{schedule: gpipe, tensor: 8, pipeline: {STAGES}, global_batch: 1, micro_batch: 1,
  precision: fp16, scatter_gather: true}}
"""
Table = NDArray[np.int64]


def modelled_table(units: int, batch: int) -> Table:
    """Times of slices, of shape (batch + 1, units + 1, units), by the device and link models."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "slicing.yaml"
        file.write_text(SCENARIO)
        scenario = load(file).scenario
    granularity = SEQUENCE // units
    lengths = sorted({1, *(min(units, round(2 ** (i / 2))) for i in range(40))})
    contexts = sorted({round(i * (units - 1) / 6) for i in range(7)})
    table = np.zeros((batch + 1, units + 1, units))
    for size in range(1, batch + 1):
        plan = replace(scenario.plan, micro_batch=size, global_batch=size)
        setup = setup_of(replace(scenario, plan=plan))
        known = np.zeros((len(lengths), len(contexts)))
        for row, length in enumerate(lengths):
            transfer, post, unpack = message(setup, 0, 1, length * granularity)
            messages = 2 * (transfer.occupancy_ns + sum(post.values()) + sum(unpack.values()))
            for column, context in enumerate(contexts):
                layer = part_times(setup, length * granularity, context * granularity)["layer"]
                passes = sum(layer["forward"].values()) + sum(layer["backward"].values())
                known[row, column] = passes + messages
        over_contexts = np.array([np.interp(np.arange(units), contexts, row) for row in known])
        for context in range(units):
            table[size, 1:, context] = np.interp(
                np.arange(1, units + 1), lengths, over_contexts[:, context]
            )
    return table.astype(np.int64)


def packed_of(table: Table) -> Table:
    """The table's times by end and context, as the kernels read them."""
    units = table.shape[2]
    cells = [(end - context, context) for end in range(1, units + 1) for context in range(end)]
    lengths, contexts = np.array(cells).T
    return np.ascontiguousarray(table[1:, lengths, contexts])


@compiled
def enumerate_bounds(packed: Table, units: int, sequences: int, stages: int, bounds: Table) -> int:
    """The best objective over the bounds: a program per bound and batch size, then the knapsack."""
    sums = np.zeros(units + 1, np.int64)
    totals = np.zeros(len(packed) + 1, np.int64)
    peaks = np.zeros(len(packed) + 1, np.int64)
    chosen = np.zeros(sequences + 1, np.int64)
    best = NEVER
    for bound in bounds:
        for size in range(1, len(totals)):
            totals[size] = cheapest_sums(packed[size - 1], bound, units, sums)
        total, _ = knapsack(totals, peaks, chosen)
        if total < NEVER:
            best = min(best, total + (stages - 1) * bound)
    return int(best)


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """An enumeration's time, extrapolated where bounds_run < bounds; its objective if run whole."""

    seconds: float
    bounds: int
    bounds_run: int
    objective_ns: int | None


def enumerated(packed: Table, batch: int, units: int, bounds: Table, most: int | None) -> Baseline:
    """The enumeration over the bounds, or over an even sample of at most as many."""
    run = bounds
    if most is not None and len(bounds) > most:
        run = bounds[np.linspace(0, len(bounds) - 1, most).astype(int)]
    started = time.perf_counter()
    objective = enumerate_bounds(packed, units, batch, STAGES, run)
    seconds = (time.perf_counter() - started) * len(bounds) / len(run)
    whole = len(run) == len(bounds)
    return Baseline(
        seconds=seconds,
        bounds=len(bounds),
        bounds_run=len(run),
        objective_ns=objective if whole else None,
    )


def compare(table: Table, most: int | None, repetitions: int = 5) -> dict[str, object]:
    """Both on one table; writes a line each."""
    batch, units = table.shape[0] - 1, table.shape[2]
    walls = []
    for _ in range(repetitions):
        started = time.perf_counter()
        ours = best_splitting(table, batch, STAGES)
        walls.append(time.perf_counter() - started)
    wall = statistics.median(walls)
    slices = sum(len(split.slices) for split in ours.microbatches)
    sys.stdout.write(
        f"  {'search':26} {wall:10.4f} s  {ours.bounds_tried:8} bounds  "
        f"{ours.objective_ns / 1e6:.3f} ms in {len(ours.microbatches)} microbatches, "
        f"{slices} slices\n"
    )
    packed = packed_of(table)
    distinct = np.unique(packed)
    stop = distinct[(STAGES - 1) * distinct <= ours.objective_ns]
    spaced = {
        f"every {step / 1e6:g} ms": np.arange(
            -(-distinct[0] // step) * step, distinct[-1] + step, step, dtype=np.int64
        )
        for step in (100_000, 10_000)
    }
    found: dict[str, object] = {"search_s": wall, "search_worst_s": max(walls)}
    found |= {"bounds_tried": ours.bounds_tried, "objective_ns": ours.objective_ns}
    for name, bounds in ({"every time": distinct, "every time, with stop": stop} | spaced).items():
        baseline = enumerated(packed, batch, units, bounds, most)
        objective, said = baseline.objective_ns, f"extrapolated from {baseline.bounds_run}"
        if objective is not None:
            worse = objective / ours.objective_ns - 1
            same = objective == ours.objective_ns
            said = "run whole, " + ("same optimum" if same else f"{worse:.2e} off the optimum")
            if worse < 0 or ("time" in name and not same):
                raise SystemExit(f"the optimum differs: {objective} and {ours.objective_ns} ns")
        sys.stdout.write(
            f"  {name:26} {baseline.seconds:10.4f} s  {baseline.bounds:8} bounds  "
            f"ratio {baseline.seconds / wall:8.0f}  {said}\n"
        )
        found[name] = {
            "seconds": baseline.seconds,
            "bounds": baseline.bounds,
            "extrapolated": objective is None,
            "ratio": baseline.seconds / wall,
            "objective_ns": objective,
        }
    return found


def main() -> None:
    """Time both on the asked grid, and on one small enough for the baseline in full."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=256, help="units a sequence")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--sample", type=int, default=200, help="bounds timed of each enumeration")
    parser.add_argument("--full", action="store_true", help="run every enumeration whole")
    options = parser.parse_args()
    started = time.perf_counter()
    tiny = np.ones((2, 3, 2), np.int64)
    best_splitting(tiny, 1, 2)
    enumerate_bounds(packed_of(tiny), 2, 1, 2, np.ones(1, np.int64))
    compiling = time.perf_counter() - started
    sys.stdout.write(f"compiling, or loading what was compiled before: {compiling:.2f} s\n")
    result: dict[str, object] = {"stages": STAGES, "compile_s": compiling}
    for units, batch, most in (
        (min(64, options.units), min(8, options.batch), None),
        (options.units, options.batch, None if options.full else options.sample),
    ):
        smooth = modelled_table(units, batch)
        noise = np.random.default_rng(0).random(smooth.shape)
        for name, table in (
            ("smooth", smooth),
            ("noisy", (smooth * (1 + 0.02 * noise)).astype(np.int64)),
        ):
            title = f"{units} units, batch {batch}, {STAGES} stages, {name}"
            sys.stdout.write(title + "\n")
            result[title] = compare(table, most)
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
