"""Failures at random: what becomes of a training run, simulated failure by failure.

The clock is an int in nanoseconds. Failures of the whole job come at exponential times, whatever it
does: working, writing a checkpoint or starting again. After each the job starts again, for which
another failure may be too soon, and goes on from the last complete checkpoint.

Not modelled: failures that come in groups or with age, failures that stop a part of the devices
only, waiting for a spare.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.planner.goodput.run import Run

Times = NDArray[np.int64]
_CELLS = 200_000
"""Failures drawn at once, over all runs."""
_LONGEST_GAP_NS = 4e18


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcomes:
    """What became of simulated runs; each array is (runs,) int64, times in nanoseconds.

    useful_ns + checkpoint_ns + lost_ns + restart_ns = total_ns, for each run.
    useful_ns: work that was not lost. checkpoint_ns: stalls of checkpoints that were not lost, and
    the wait for the last one. lost_ns: from the last complete checkpoint to the failure, work and
    stalls. restart_ns: starting again, broken off or not. failures: how many.
    """

    total_ns: Times
    useful_ns: Times
    checkpoint_ns: Times
    lost_ns: Times
    restart_ns: Times
    failures: Times


def simulate_runs(run: Run, work_ns: Times, generator: np.random.Generator) -> Outcomes:
    """Simulate a run once for each of `work_ns`, of which it has so much to do.

    The last stretch is as in `Run.stretches`. Raises ValueError where nothing fails or none is
    saved, as there is nothing to simulate then.
    """
    if run.mtbf_ns is None or run.interval_ns is None:
        raise ValueError("only a run that fails and is saved is simulated")
    return _Simulation(run, work_ns, generator).run()


class _Simulation:
    """All runs side by side, in blocks of failures; a failure makes what follows independent of
    what was, so that only the checkpoints so far are carried on."""

    def __init__(self, run: Run, work_ns: Times, generator: np.random.Generator) -> None:
        assert run.mtbf_ns is not None and run.interval_ns is not None
        self.generator = generator
        self.mtbf_ns = run.mtbf_ns
        self.restart_ns, self.pending_ns = run.restart_ns, run.pending_ns
        self.cycle_ns = run.interval_ns + run.stall_ns
        self.full, self.last = _stretches(run, work_ns)
        self.ending_ns = self.last + run.stall_ns + run.pending_ns
        num = len(work_ns)
        self.saved = np.zeros(num, np.int64)
        self.total, self.lost, self.restarted, self.failures = (
            np.zeros(num, np.int64) for _ in range(4)
        )
        self.useful = self.full * run.interval_ns + self.last
        self.checkpoints = (self.full + 1) * run.stall_ns + run.pending_ns
        self.per_block = max(8, min(1024, _CELLS // max(1, num)))

    def run(self) -> Outcomes:
        left = np.arange(len(self.full))
        first = True
        while left.size:
            left = self.block(left, first=first)
            first = False
        return Outcomes(
            total_ns=self.total,
            useful_ns=self.useful,
            checkpoint_ns=self.checkpoints,
            lost_ns=self.lost,
            restart_ns=self.restarted,
            failures=self.failures,
        )

    def block(self, left: Times, *, first: bool) -> Times:
        """Draw the next failures of the runs that are left, and return those left then."""
        gaps = self.gaps(len(self.full))[left]
        starting = np.minimum(gaps, self.restart_ns)
        if first:
            starting[:, 0] = 0
        up = gaps - starting
        complete = np.maximum(up - self.pending_ns, 0) // self.cycle_ns
        full = self.full[left, None]
        after = np.minimum(self.saved[left, None] + np.cumsum(complete, axis=1), full)
        before = np.column_stack([self.saved[left], after[:, :-1]])
        needed = (full - before) * self.cycle_ns + self.ending_ns[left, None]
        ended = up >= needed
        finished = ended.any(axis=1)
        count = np.where(finished, ended.argmax(axis=1), gaps.shape[1])
        failed = np.arange(gaps.shape[1]) < count[:, None]
        lost = up - (after - before) * self.cycle_ns
        self.lost[left] += (lost * failed).sum(axis=1)
        self.restarted[left] += (starting * failed).sum(axis=1)
        self.total[left] += (gaps * failed).sum(axis=1)
        self.failures[left] += count
        self.saved[left] = after[:, -1]
        rows = np.flatnonzero(finished)
        at, which = count[rows], left[rows]
        self.restarted[which] += starting[rows, at]
        self.total[which] += starting[rows, at] + needed[rows, at]
        unfinished: Times = left[~finished]
        return unfinished

    def gaps(self, runs: int) -> Times:
        """Times from each failure to the next, (runs, per_block), of all runs: each so has the same
        failures whenever the others end."""
        drawn = self.generator.exponential(self.mtbf_ns, (runs, self.per_block))
        return np.rint(np.minimum(drawn, _LONGEST_GAP_NS)).astype(np.int64)


def _stretches(run: Run, work_ns: Times) -> tuple[Times, Times]:
    """`Run.stretches` of each amount of work."""
    assert run.interval_ns is not None
    full, rest = np.divmod(work_ns, run.interval_ns)
    merged = (full > 0) & (rest < max(1, run.pending_ns))
    return full - merged, rest + merged * run.interval_ns
