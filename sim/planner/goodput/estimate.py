"""What simulated runs say of the time: a mean, how sure it is, and where most of them lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sim.planner.goodput.failures import Times, simulate_runs
from sim.planner.goodput.run import DAY_NS, Run

MOST_FAILURES = 20_000_000
"""Failures simulated in all, about; where a run has many, fewer runs say as much."""
FEWEST_RUNS = 20
"""So many, or all that are asked for where these are fewer, are simulated or none."""
LONGEST_SIMULATED_NS = 10 * 365 * DAY_NS
"""A run that is expected to take longer than these 10 years is not simulated: one that comes to 29
times as much, as one in e^29 may, would be more than 64 bits of nanoseconds hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Days over `num_runs` simulated runs: their mean, its standard error, and the 5th and 95th
    percentile."""

    num_runs: int
    mean: float
    error: float
    low: float
    high: float

    def times(self, factor: float) -> dict[str, float]:
        """The same in another unit, as JSON values."""
        return {
            "mean": self.mean * factor,
            "standard_error": self.error * factor,
            "low": self.low * factor,
            "high": self.high * factor,
        }


def estimated_days(run: Run, works_ns: Sequence[int], num_runs: int, seed: int) -> Estimate | None:
    """Simulate a run so many times, or as often as MOST_FAILURES allows, with each of the amounts
    of work in turn.

    None where nothing is random; where it never finishes, or after LONGEST_SIMULATED_NS only; or
    where even FEWEST_RUNS have too many failures, of which the mean then is known well enough.
    """
    if not run.finishes or (run.mtbf_ns is None and len(works_ns) == 1):
        return None
    if run.mtbf_ns is None:
        undisturbed = [replace(run, work_ns=work).undisturbed_ns for work in works_ns]
        return _estimate(np.array(undisturbed, dtype=np.int64), np.arange(len(works_ns)))
    if run.expected_ns > LONGEST_SIMULATED_NS:
        return None
    affordable = int(MOST_FAILURES / max(1.0, run.expected_ns / run.mtbf_ns))
    if affordable < min(num_runs, FEWEST_RUNS):
        return None
    num_runs = min(num_runs, affordable)
    works = np.array(works_ns, dtype=np.int64)
    which = np.arange(num_runs) % len(works)
    found = simulate_runs(run, works[which], np.random.default_rng([seed, 0]))
    return _estimate(found.total_ns, which)


def _estimate(total_ns: Times, which: Times) -> Estimate:
    """which: of each run the draw of slow devices, which several share."""
    days = total_ns / DAY_NS
    low, high = np.quantile(days, (0.05, 0.95))
    counts = np.bincount(which)
    groups = np.bincount(which, weights=days) / counts
    # Runs of one draw are alike, so that several draws' means are what is independent.
    independent = groups if len(groups) > 1 else days
    num = len(independent)
    error = float(np.std(independent, ddof=1) / np.sqrt(num)) if num > 1 else 0.0
    return Estimate(
        num_runs=len(days), mean=float(days.mean()), error=error, low=float(low), high=float(high)
    )
