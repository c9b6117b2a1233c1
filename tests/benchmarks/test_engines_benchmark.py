"""The engines' benchmark on programs small enough for a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.engines import doubled, evaluations_s, grown, one, synthetic
from sim.engine.shapes import encoded_shape

ROOT = Path(__file__).resolve().parents[2]


def test_growth_of_small_programs() -> None:
    found = grown("small", [one(2, m) for m in doubled(4, 32)], 3)
    assert found["passes"] == [16, 32, 64, 128]
    assert isinstance(found["exponent"], float)


def test_every_evaluation_has_prices_of_its_own() -> None:
    encoded = encoded_shape(one(4, 8, 2))
    prices = synthetic(encoded)
    assert prices.num_links == 8
    assert len(evaluations_s(encoded, prices, 7)) == 7


def test_memory_is_that_of_the_process_alone() -> None:
    """Not what its parent, with all of pytest in it, ever had."""
    taken = bytearray(600 << 20)
    taken[:: 1 << 12] = b"x" * len(taken[:: 1 << 12])
    done = subprocess.run(
        [sys.executable, "benchmarks/engines.py", "--memory", "nothing"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    del taken
    assert 30 << 20 < int(done.stdout) < 400 << 20
