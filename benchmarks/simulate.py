"""Time of `pipetwin`, start to end of the process: large scenarios, and what comes before them.

The second table has the start-up as a ratio to an empty Python's, in processor time too, which
hangs less on what else the machine does.

Run: .venv/bin/python benchmarks/simulate.py [repetitions]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

SCENARIOS = ("megatron/175b", "megatron/1t")
ROOT = Path(__file__).resolve().parent.parent
FRONT = str(ROOT / "pipetwin.py")
EMPTY = "python -c pass"
STARTS: dict[str, tuple[str, ...]] = {
    EMPTY: ("-c", "pass"),
    "pipetwin --help": (FRONT, "--help"),
    "pipetwin simulate --help": (FRONT, "simulate", "--help"),
    "complete `simulate local-`": (FRONT, "__complete", "simulate", "local-"),
    "complete `--set plan.`": (FRONT, "__complete", "simulate", "x", "--set", "plan."),
    "pipetwin simulate local-2rank": (FRONT, "simulate", "local-2rank"),
    "pipetwin schedule show 1f1b": (FRONT, "schedule", "show", "1f1b"),
}
"""What is started, by what the table calls it; each is a small thing to ask."""


def main() -> None:
    """Time each several times; print tables, and one JSON object as the last line."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    result: dict[str, object] = {"repetitions": repetitions}
    sys.stdout.write(f"{'scenario':24} {'iteration':>10} {'median wall':>12} {'worst wall':>11}\n")
    for scenario in SCENARIOS:
        walls, iteration = [], 0.0
        for _ in range(repetitions):
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, FRONT, "simulate", scenario, "--json"],
                capture_output=True,
                check=True,
                cwd=ROOT,
            )
            walls.append(time.perf_counter() - started)
            iteration = json.loads(done.stdout)["iteration_s"]
        median = statistics.median(walls)
        sys.stdout.write(f"{scenario:24} {iteration:8.2f} s {median:10.2f} s {max(walls):9.2f} s\n")
        result[scenario] = {"iteration_s": iteration, "median_wall_s": median, "walls_s": walls}
    result["starts"] = starts(repetitions)
    sys.stdout.write(json.dumps(result) + "\n")


def starts(repetitions: int) -> dict[str, dict[str, float]]:
    """Least wall and processor seconds of each start, and their ratios to an empty Python's."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in STARTS}
    for _ in range(repetitions):
        for name, arguments in STARTS.items():
            measured[name].append(_start(arguments))
    found: dict[str, dict[str, float]] = {}
    sys.stdout.write(f"\n{'start':32} {'wall':>8} {'processor':>10} {'x empty':>8}\n")
    for name, times in measured.items():
        wall, processor = min(w for w, _ in times), min(p for _, p in times)
        empty = found.get(EMPTY, {"processor_s": processor})["processor_s"]
        found[name] = {"wall_s": wall, "processor_s": processor, "ratio": processor / empty}
        ratio = found[name]["ratio"]
        sys.stdout.write(f"{name:32} {wall:6.2f} s {processor:8.2f} s {ratio:8.1f}\n")
    return found


def _start(arguments: tuple[str, ...]) -> tuple[float, float]:
    """Wall and processor seconds of one Python process with these arguments."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{arguments} ended with {process.returncode}")
    return time.perf_counter() - started, used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
