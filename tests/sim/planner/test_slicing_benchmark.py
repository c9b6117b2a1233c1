"""The benchmark of the slicing search at its smallest: what it checks and prints, not how long
anything took."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_both_find_the_same_optimum_and_the_last_line_is_json() -> None:
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "benchmarks" / "slicing.py")),
            *("--units", "16", "--batch", "2", "--sample", "5"),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    for kind in ("smooth", "noisy"):
        found = result[f"16 units, batch 2, 40 stages, {kind}"]
        assert found["every time"]["bounds"] > found["every time, with stop"]["bounds"] > 5
        assert found["every time"]["extrapolated"] and found["every time"]["objective_ns"] is None
    assert done.stdout.count("same optimum") == 4
    assert "extrapolated from 5" in done.stdout
