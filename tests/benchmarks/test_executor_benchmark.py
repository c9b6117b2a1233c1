"""The benchmark of the executor against torch's runtime, at its smallest: what it checks and
prints, never how long anything took."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved"])
def test_both_runtimes_agree_and_the_last_line_is_json(schedule: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "benchmarks" / "executor.py")),
            *("--sizes", "tiny", "--rounds", "3", "--schedules", schedule),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    details = result["details"][schedule]
    assert result["size"] == "tiny"
    assert set(details["differences"]) == {"gradients", "losses", "weights at the end"}
    assert max(details["differences"].values()) < 1e-12
    low, high = details["gloo"]["interval"]
    assert 0 < low <= result[schedule] <= high < math.inf
    assert details["turns"] == details["gloo"]["pairs"] == 3


def test_the_other_benchmark_still_finds_the_executor() -> None:
    """`benchmarks/executor.py` has the name of a package, beside scripts that import it."""
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import runpy, sys; sys.path[0] = sys.argv[1];"
            "runpy.run_path(sys.argv[1] + '/closed_loop.py', run_name='imported')",
            str(ROOT / "benchmarks"),
        ],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
