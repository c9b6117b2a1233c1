"""The compiled engine against the SimPy engine, on one core, all in one run.

Run: .venv/bin/python benchmarks/engines.py [--repetitions 200] [--simpy 3] [--quick]

The program: GPT 1T's of Megatron-LM's Table 1 (64 stages x 512 microbatches, 1F1B, blocking
messages), under the costs of that scenario. An action is a forward or backward pass (65,536 of
them), the strictest count; with both ends of the messages, and the flush, there are 194,754.

Engines take turns, and rates are of medians, by the processor's time of this process, which does
not count what else runs on the machine: rates are those of one core. What is timed of the compiled
engine: an evaluation without spans of the program encoded before, under new prices each time, as a
search or a sweep does it. Before its fourth time a program is walked, then played from a tape of
it; both are shown, as are programs whose links contend and which are always walked. SimPy has no
mode without spans; the compiled engine's simulation with them is timed, too, encoding included.

Growth: the time of an evaluation over a range of sizes, the fastest of many, and the exponent that
fits it best.
Memory: the largest resident size of a fresh process that does nothing else than shape (or lower and
encode) that program and evaluate it; all libraries are in it. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scenarios.loader import load
from sim.engine.encoded import Encoded, Op, Prices
from sim.schedule.lowering import Flush
from sim.schedule.shape import Shape, shape_of

ROOT = Path(__file__).resolve().parent.parent
SCENARIO = "megatron/1t"
FLUSH = Flush(reduce_gradients=True, norm=True)


def main() -> None:
    """Measure all of it; print tables, and one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=200, help="evaluations of each program")
    parser.add_argument("--simpy", type=int, default=3, help="simulations by SimPy")
    parser.add_argument("--quick", action="store_true", help="less of the growth")
    parser.add_argument("--memory", choices=("nothing", "shape", "program"), help="used by itself")
    asked = parser.parse_args()
    if asked.memory:
        print(resident_bytes(asked.memory))
        return
    result = engine_against_engine(asked.repetitions, asked.simpy)
    result |= ways_of_evaluating(asked.repetitions)
    result |= growth(asked.repetitions, quick=asked.quick)
    result |= memory()
    print(json.dumps(result))


def times_s(run: Callable[[], object], repetitions: int) -> list[float]:
    """The times of calls."""
    times = []
    for _ in range(repetitions):
        started = time.process_time()
        run()
        times.append(time.process_time() - started)
    return times


def changed(prices: Prices, number: int) -> Prices:
    """Other prices of the same program."""
    return replace(prices, duration_ns=prices.duration_ns + number)


def evaluations_s(encoded: Encoded, prices: Prices, repetitions: int) -> list[float]:
    """The times of evaluations, each under other prices."""
    from sim.engine.compiled import FROM_TAPE, evaluate

    for _ in range(FROM_TAPE):
        evaluate(encoded, prices)
    priced = iter([changed(prices, number) for number in range(repetitions)])
    return times_s(lambda: evaluate(encoded, next(priced)), repetitions)


def engine_against_engine(repetitions: int, simulations: int) -> dict[str, object]:
    """Both engines on the 1T program, and that they agree."""
    from sim.cost.table import cost_table
    from sim.engine import compiled, simpy_engine
    from sim.engine.choice import num_actions
    from sim.engine.encoding import encode, price
    from sim.schedule.build import build_program

    gc.disable()
    scenario = load(SCENARIO).scenario
    program = build_program(scenario)
    costs = cost_table(scenario, program)
    encoded = encode(program, costs)
    prices = price(encoded, costs)
    passes, actions = int((encoded.op == Op.PASS).sum()), num_actions(program)
    started = time.process_time()
    compiled.evaluate(encoded, prices)
    loading_s = time.process_time() - started
    compiled.simulate(program, costs)
    ours, theirs, spans = [], [], []
    for _ in range(simulations):
        started = time.process_time()
        expected = simpy_engine.simulate(program, costs)
        theirs.append(time.process_time() - started)
        started = time.process_time()
        found = compiled.simulate(program, costs)
        spans.append(time.process_time() - started)
        ours += evaluations_s(encoded, prices, repetitions)
        if sorted(found.spans) != sorted(expected.spans):
            raise SystemExit("the engines differ")
        if compiled.evaluate(encoded, prices).iteration_ns != expected.iteration_ns:
            raise SystemExit("the engines differ without spans")
    simpy_s, compiled_s = statistics.median(theirs), statistics.median(ours)
    gc.enable()
    result: dict[str, object] = {
        "scenario": SCENARIO,
        "passes": passes,
        "actions_with_messages": actions,
        "ops": encoded.num_ops,
        "iteration_s": expected.iteration_ns / 1e9,
        "simpy_s": simpy_s,
        "compiled_s": compiled_s,
        "compiled_with_spans_s": statistics.median(spans),
        "loading_s": loading_s,
        "encode_s": statistics.median(times_s(lambda: encode(program, costs), 3)),
        "compiled_actions_per_s": passes / compiled_s,
        "simpy_actions_per_s": passes / simpy_s,
        "ratio": simpy_s / compiled_s,
        "compiled_actions_with_messages_per_s": actions / compiled_s,
        "spans_ratio": simpy_s / statistics.median(spans),
    }
    print(f"{SCENARIO}: {passes:,} passes, {actions:,} actions with messages and flush")
    print(f"{'engine':34} {'time':>12} {'passes/s':>14} {'with messages/s':>16}")
    rows = (
        ("SimPy", simpy_s),
        ("compiled, with spans, encoding", statistics.median(spans)),
        ("compiled, without spans", compiled_s),
    )
    for name, seconds in rows:
        rates = f"{passes / seconds:14,.0f} {actions / seconds:16,.0f}"
        print(f"{name:34} {seconds * 1e3:9.2f} ms {rates}")
    print(f"ratio without spans: {simpy_s / compiled_s:,.0f}\n")
    return result


def synthetic(encoded: Encoded) -> Prices:
    """Prices of any shape's slots: passes of about 10 and 20 ms, messages of 1 ms on a link out of
    the one rank and a link into the other."""
    generator = np.random.default_rng(0)
    usual = {"F": 10_000_000, "B": 20_000_000, "STEP": 30_000_000}
    duration = [usual.get(str(slot.kind), 5_000) for slot in encoded.slots]
    num_transfers = len(encoded.transfer_slots)
    ends = np.zeros((num_transfers, 2), np.int32)
    ends[encoded.transfer_slot, 0] = 2 * encoded.sender
    ends[encoded.transfer_slot, 1] = 2 * encoded.receiver + 1
    return Prices(
        duration_ns=(np.array(duration) * generator.uniform(1, 1.1, len(duration))).astype(
            np.int64
        ),
        hidden_ns=np.zeros(len(duration), np.int64),
        occupancy_ns=np.full(num_transfers, 1_000_000, np.int64),
        latency_ns=np.full(num_transfers, 5_000, np.int64),
        first_link=2 * np.arange(num_transfers + 1),
        links=ends.ravel(),
        num_links=2 * encoded.num_ranks,
        processors=np.zeros(0, np.int32),
    )


def ways_of_evaluating(repetitions: int) -> dict[str, object]:
    """The first evaluation of a program and later ones, with and without contention."""
    from sim.engine.compiled import evaluate
    from sim.engine.shapes import encoded_shape

    published = shape_of(load(SCENARIO).scenario)
    assert published is not None
    shapes = {
        "1F1B, blocking": published,
        "1F1B, exchange": replace(published, mode="exchange"),
        "1F1B, overlapped": replace(published, mode="overlapped"),
        "interleaved x 2, blocking": replace(published, schedule="interleaved", num_chunks=2),
        "GPipe, overlapped": replace(published, schedule="gpipe", mode="overlapped"),
    }
    found: dict[str, dict[str, float]] = {}
    print(f"{'64 ranks x 512 microbatches':27} {'passes':>8} {'first':>9} {'second':>9} later")
    for name, shape in shapes.items():
        encoded = encoded_shape(shape)
        prices = synthetic(encoded)
        firsts, seconds = [], []
        for _ in range(5):
            unknown = replace(encoded)
            firsts += times_s(lambda e=unknown, p=prices: evaluate(e, p), 1)  # type: ignore[misc]
            seconds += times_s(lambda e=unknown, p=prices: evaluate(e, p), 1)  # type: ignore[misc]
        passes = int((encoded.op == Op.PASS).sum())
        found[name] = {
            "passes": passes,
            "first_s": statistics.median(firsts),
            "second_s": statistics.median(seconds),
            "later_s": statistics.median(evaluations_s(encoded, prices, max(5, repetitions // 4))),
        }
        times = [found[name][when] for when in ("first_s", "second_s", "later_s")]
        shown = " ".join(f"{each * 1e3:6.2f} ms" for each in times)
        print(f"{name:27} {passes:8,} {shown}, {passes / times[-1]:,.0f} passes/s")
    print()
    return {"ways": found}


def growth(repetitions: int, *, quick: bool) -> dict[str, object]:
    """Times of evaluations over pipeline depth, microbatches, ranks and stages a rank."""
    factor = 1 if quick else 2
    series: dict[str, list[Shape]] = {
        "pipeline depth (512 microbatches)": [one(p, 512) for p in doubled(8, 128 * factor)],
        "microbatches (64 ranks)": [one(64, m) for m in doubled(64, 1024 * factor)],
        "ranks (8 microbatches each)": [one(p, 8 * p) for p in doubled(8, 64 * factor)],
        "stages a rank (32 ranks x 128)": [one(32, 128, v) for v in doubled(2, 8 * factor)],
    }
    result: dict[str, object] = {}
    for name, shapes in series.items():
        result[name] = grown(name, shapes, max(5, repetitions // 4))
    print()
    return {"growth": result}


def one(ranks: int, microbatches: int, chunks: int = 1) -> Shape:
    """1F1B with blocking messages, interleaved where a rank has several stages."""
    return Shape(
        schedule="interleaved" if chunks > 1 else "1f1b",
        num_ranks=ranks,
        num_microbatches=microbatches,
        num_chunks=chunks,
        mode="blocking",
        flush=FLUSH,
    )


def doubled(first: int, last: int) -> list[int]:
    """First, twice that and so on up to last."""
    return [first << i for i in range((last // first).bit_length())]


def grown(name: str, shapes: Sequence[Shape], repetitions: int) -> dict[str, object]:
    """Times by number of passes, and the exponent."""
    from sim.engine.shapes import encoded_shape

    print(f"{name:36} {'passes':>10} {'time':>11} {'passes/s':>14}")
    passes, times = [], []
    for shape in shapes:
        encoded = encoded_shape(shape)
        passes.append(int((encoded.op == Op.PASS).sum()))
        times.append(min(evaluations_s(encoded, synthetic(encoded), repetitions)))
        size = f"{shape.num_ranks} x {shape.num_microbatches} x {shape.num_chunks}"
        print(
            f"{size:>36} {passes[-1]:10,} {times[-1] * 1e3:8.3f} ms {passes[-1] / times[-1]:14,.0f}"
        )
    exponent = float(np.polyfit(np.log(passes), np.log(times), 1)[0])
    print(f"{'time grows as passes to the power of':>47} {exponent:.2f}")
    return {"passes": passes, "seconds": times, "exponent": exponent}


def memory() -> dict[str, object]:
    """Largest resident sizes of fresh processes."""
    found = {}
    for what in ("nothing", "shape", "program"):
        command = [sys.executable, __file__, "--memory", what]
        done = subprocess.run(command, capture_output=True, check=True, text=True, cwd=ROOT)
        found[what] = int(done.stdout)
    print("largest resident size of a process that")
    for what, name in (
        ("nothing", "imports the libraries"),
        ("shape", "also shapes and evaluates"),
        ("program", "also lowers, encodes and evaluates"),
    ):
        print(f"  {name:36} {found[what] / 1e6:8.1f} MB")
    return {
        "peak_bytes": found["shape"],
        "peak_bytes_with_program": found["program"],
        "peak_bytes_of_imports": found["nothing"],
    }


def resident_bytes(what: str) -> int:
    """In a fresh process: evaluate the program four times, so that it is walked, then played."""
    from sim.cost.table import cost_table
    from sim.engine.compiled import FROM_TAPE, evaluate
    from sim.engine.encoding import encode, price
    from sim.planner.layouts.evaluation import Evaluator
    from sim.schedule.build import build_program

    scenario = load(SCENARIO).scenario
    if what == "shape":
        evaluator = Evaluator(scenario)
        for _ in range(FROM_TAPE):
            evaluator.iteration_ns(scenario.plan)
    elif what == "program":
        program = build_program(scenario)
        costs = cost_table(scenario, program)
        encoded = encode(program, costs)
        for _ in range(FROM_TAPE):
            evaluate(encoded, price(encoded, costs))
    # Linux hands a parent's ru_maxrss down, but counts VmHWM anew for each program.
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


if __name__ == "__main__":
    main()
