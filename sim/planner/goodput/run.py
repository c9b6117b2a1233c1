"""A training run as failures and checkpoints see it: so much work, saved so often.

Closed forms, a few microseconds each, so that a layout search can ask for every candidate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from scenarios.schema import Plan, Scenario
from sim.planner.goodput.checkpoint import checkpoint_bytes
from sim.planner.goodput.intervals import best_interval, exact_time

DAY_NS = 86_400 * 10**9
LONGEST_NS = 100 * 365 * DAY_NS
"""A run that is expected to take longer than these 100 years is said never to finish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One job that works `work_ns`, is saved now and then, fails and is started again.

    work_ns: all its iterations one after another, undisturbed.
    iteration_ns: one of them: the shortest time between two checkpoints.
    num_devices: that it keeps until its end, restarts included.
    mtbf_ns: mean time between failures of any of its devices; None where nothing fails.
    restart_ns: from a failure until it goes on.
    interval_ns: work between two checkpoints, and one is written at the end; None where none is.
    stall_ns: for which a checkpoint stops the work. pending_ns: from then until it is complete.
    write_ns: their sum. checkpoint_bytes: None where none is written.
    """

    work_ns: int
    iteration_ns: int
    num_devices: int
    mtbf_ns: float | None = None
    restart_ns: int = 0
    interval_ns: int | None = None
    stall_ns: int = 0
    pending_ns: int = 0
    checkpoint_bytes: int | None = None

    @property
    def write_ns(self) -> int:
        """How long a checkpoint is written."""
        return self.stall_ns + self.pending_ns

    @property
    def shortest_interval_ns(self) -> int:
        """No checkpoint begins within an iteration, nor before the one before is written."""
        return max(1, self.iteration_ns, self.pending_ns)

    def saved_every(self, interval_ns: float) -> Run:
        """The same run with checkpoints after so much work each, as far as that can be."""
        longest = max(self.work_ns, self.shortest_interval_ns)
        wanted = round(min(max(interval_ns, self.shortest_interval_ns), longest))
        return replace(self, interval_ns=wanted)

    @property
    def stretches(self) -> tuple[int, int]:
        """The full intervals of work, and the work of the last stretch after them: what is left, or
        together with a full interval where that alone would end before a checkpoint is written."""
        if self.interval_ns is None:
            return 0, self.work_ns
        full, rest = divmod(self.work_ns, self.interval_ns)
        if full and rest < max(1, self.pending_ns):
            full, rest = full - 1, rest + self.interval_ns
        return full, rest

    @property
    def undisturbed_ns(self) -> int:
        """Without a failure: the work and its checkpoints."""
        if self.interval_ns is None:
            return self.work_ns
        full, _ = self.stretches
        return self.work_ns + (full + 1) * self.stall_ns + self.pending_ns

    @property
    def expected_ns(self) -> float:
        """Expected time with failures, exactly (`exact_time`); inf beyond floats."""
        if self.mtbf_ns is None:
            return float(self.undisturbed_ns)
        full, last = self.stretches
        return exact_time(
            full,
            float(self.interval_ns or 0),
            float(last),
            mtbf_ns=self.mtbf_ns,
            stall_ns=float(self.stall_ns),
            restart_ns=float(self.restart_ns),
            pending_ns=float(self.pending_ns),
        )

    @property
    def is_too_long(self) -> bool:
        """Whether its work alone takes longer than LONGEST_NS."""
        return self.work_ns > LONGEST_NS

    @property
    def finishes(self) -> bool:
        """Whether an end is to be expected within LONGEST_NS."""
        return self.expected_ns <= LONGEST_NS


def run_of(scenario: Scenario, plan: Plan, iteration_ns: float) -> Run | None:
    """The run of a scenario's training under a plan, in iterations of so long; None where nobody
    knows how many they are, or how long.

    Saved as `checkpoint_interval` says, as far as iterations and storage allow; where something
    fails and it is not given, at the interval of least expected time (`best_interval`).
    """
    training, model = scenario.training, scenario.model
    if training is None or model is None or iteration_ns <= 0:
        return None
    iterations = training.tokens / (plan.num_sequences * model.sequence)
    work_ns, one_ns, num = round(iterations * iteration_ns), round(iteration_ns), plan.num_devices
    if training.device_mtbf is None and training.checkpoint_interval is None:
        return Run(work_ns=work_ns, iteration_ns=one_ns, num_devices=num)
    size, bandwidth = checkpoint_bytes(scenario, plan), training.checkpoint_bandwidth
    if size is None or bandwidth is None:
        return None
    write_ns = round(size / bandwidth * 1e9)
    part = training.checkpoint_stall if training.checkpoints == "background" else 1.0
    stall_ns = round(part * write_ns)
    mtbf_ns = training.device_mtbf / num if training.device_mtbf is not None else None
    interval_ns: float | None = training.checkpoint_interval
    if interval_ns is None:
        assert mtbf_ns is not None
        interval_ns = best_interval(mtbf_ns, float(stall_ns))
    run = Run(
        work_ns=work_ns,
        iteration_ns=one_ns,
        num_devices=num,
        mtbf_ns=mtbf_ns,
        restart_ns=training.restart_time or 0,
        stall_ns=stall_ns,
        pending_ns=write_ns - stall_ns,
        checkpoint_bytes=size,
    )
    return run.saved_every(interval_ns)


def expected_days(iteration_ns: float, plan: Plan, scenario: Scenario) -> float | None:
    """Days that a scenario's training is expected to take under a plan, in a few microseconds:
    with its failures, restarts and checkpoints, without stragglers and jitter, which are simulated.

    None where tokens, model or checkpoints are unknown, or where the run never finishes.
    """
    run = run_of(scenario, plan, iteration_ns)
    expected_ns = run.expected_ns if run is not None else math.inf
    return expected_ns / DAY_NS if expected_ns <= LONGEST_NS else None


def dollars(days: float | None, plan: Plan, scenario: Scenario) -> float | None:
    """What a plan's devices cost for so many days; None where days or price are unknown."""
    cluster = scenario.cluster
    if days is None or cluster is None or cluster.price_per_device_hour is None:
        return None
    return days * 24 * plan.num_devices * cluster.price_per_device_hour
