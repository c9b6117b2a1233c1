"""Wall time of `pipetwin simulate`, start to end of the process, on the two large scenarios.

Run: .venv/bin/python benchmarks/simulate.py [repetitions]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

SCENARIOS = ("megatron/175b", "megatron/1t")
ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Time each scenario several times; print a table, and one JSON object as the last line."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    result: dict[str, object] = {"repetitions": repetitions}
    sys.stdout.write(f"{'scenario':24} {'iteration':>10} {'median wall':>12} {'worst wall':>11}\n")
    for scenario in SCENARIOS:
        walls, iteration = [], 0.0
        for _ in range(repetitions):
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, str(ROOT / "pipetwin.py"), "simulate", scenario, "--json"],
                capture_output=True,
                check=True,
                cwd=ROOT,
            )
            walls.append(time.perf_counter() - started)
            iteration = json.loads(done.stdout)["iteration_s"]
        median = statistics.median(walls)
        sys.stdout.write(f"{scenario:24} {iteration:8.2f} s {median:10.2f} s {max(walls):9.2f} s\n")
        result[scenario] = {"iteration_s": iteration, "median_wall_s": median, "walls_s": walls}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
