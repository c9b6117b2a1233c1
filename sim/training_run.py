"""A whole training run: how many days, device hours and dollars, with failures, checkpoints and
slow devices, and how sure that is.

An iteration's time comes from the simulator; how long the run then takes is known in closed form
(`sim.planner.goodput`), and simulated failure by failure for the interval around it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace

from scenarios.schema import Scenario, Training
from scenarios.units import exact_duration_ns
from sim.cost.costs import CostTable
from sim.planner.goodput.estimate import Estimate, estimated_days
from sim.planner.goodput.intervals import (
    best_interval,
    daly_first_order,
    daly_interval,
    young_interval,
)
from sim.planner.goodput.run import DAY_NS, Run, run_of
from sim.planner.goodput.stragglers import iteration_factors
from sim.schedule.lowering import Program

AROUND = (0.25, 0.35, 0.5, 0.71, 1.0, 1.41, 2.0, 2.83, 4.0)
"""Intervals that are simulated beside the best one, as multiples of it."""
RUNS_AROUND = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalPoint:
    """What an interval between checkpoints makes of the run: days by the closed form, and over
    simulated runs; None where it never finishes with it."""

    interval_ns: int
    expected_days: float | None
    simulated: Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """Intervals between checkpoints, in nanoseconds of work.

    best: of least expected time, as far as iterations and storage allow; young, daly_first_order,
    daly: by these formulas. points: around the best one, ascending.
    """

    best: int
    young: float
    daly_first_order: float
    daly: float
    points: tuple[IntervalPoint, ...]

    @property
    def simulated_best(self) -> IntervalPoint | None:
        """The point with the least mean over simulated runs, which all have the same failures."""
        found = [point for point in self.points if point.simulated is not None]
        return min(found, key=lambda point: point.simulated.mean, default=None)  # type: ignore[union-attr]


@dataclass(frozen=True, kw_only=True)
class TrainingOutlook:
    """What a scenario's training run comes to.

    training: as the scenario has it. iterations: of the whole run.
    run: with the mean iteration time under stragglers and jitter, saved as it will be.
    failure_free_days: as many iterations as fast as predicted, and nothing else.
    slowdowns: of an iteration by slow devices and jitter, one for each draw of them.
    expected_days: with everything, by the closed form; None where the run never finishes.
    days: over simulated runs; None where nothing is random, or there is no end.
    breakdown: the expected days by what they are spent on; empty where there is no end.
    intervals: None where nothing fails. price_per_hour: of a device. notes: for the reader.
    """

    training: Training
    iterations: float
    run: Run
    failure_free_days: float
    slowdowns: tuple[float, ...]
    expected_days: float | None
    days: Estimate | None
    breakdown: Mapping[str, float]
    intervals: Intervals | None
    price_per_hour: float | None
    notes: tuple[str, ...]

    @property
    def is_plain(self) -> bool:
        """Whether nothing fails, is saved or is slow, so that there is no more to say than days."""
        return self.run.mtbf_ns is None and self.run.interval_ns is None and self.slowdown == 1.0

    @property
    def slowdown(self) -> float:
        """How many times longer slow devices and jitter make an iteration, on average."""
        return statistics.fmean(self.slowdowns)

    @property
    def goodput(self) -> float | None:
        """The failure-free days' share of the expected ones."""
        return self.failure_free_days / self.expected_days if self.expected_days else None

    @property
    def failures(self) -> float | None:
        """Expected failures until the end."""
        if self.expected_days is None or self.run.mtbf_ns is None:
            return None
        return self.expected_days * DAY_NS / self.run.mtbf_ns

    @property
    def hours_a_day(self) -> float:
        """Device hours in a day of the run."""
        return 24.0 * self.run.num_devices

    @property
    def dollars_a_day(self) -> float | None:
        """What a day of the run costs."""
        return self.hours_a_day * self.price_per_hour if self.price_per_hour is not None else None


def outlook(
    scenario: Scenario, iteration_ns: float, program: Program, costs: CostTable
) -> TrainingOutlook | None:
    """What a scenario's training run comes to, in iterations of so long; None where the scenario
    has no `training`, or nobody knows its iterations or checkpoints.

    program, costs: of the iteration, for what slow devices make of it.
    Not modelled: what `sim.planner.goodput` does not (failures in groups, waiting for spares, slow
    devices being replaced); evaluation and planned interruptions.
    """
    training, model, cluster = scenario.training, scenario.model, scenario.cluster
    if training is None or model is None or iteration_ns <= 0:
        return None
    slowdowns = iteration_factors(scenario, program, costs)
    run = run_of(scenario, scenario.plan, iteration_ns * statistics.fmean(slowdowns))
    if run is None:
        return None
    iterations = training.tokens / (scenario.plan.num_sequences * model.sequence)
    # As `sim.prediction.rates` has it, to the last digit.
    failure_free = iterations * (iteration_ns / 1e9) / 3600 / 24
    works = [round(iterations * iteration_ns * slowdown) for slowdown in slowdowns]
    runs = [replace(run, work_ns=work) for work in works]
    finishes = all(own.finishes for own in runs)
    breakdown = _breakdown(runs, failure_free, slowdowns) if finishes else {}
    return TrainingOutlook(
        training=training,
        iterations=iterations,
        run=run,
        failure_free_days=failure_free,
        slowdowns=slowdowns,
        expected_days=math.fsum(breakdown.values()) if finishes else None,
        days=estimated_days(run, works, training.runs, training.seed) if finishes else None,
        breakdown=breakdown,
        intervals=_intervals(run, training),
        price_per_hour=cluster.price_per_device_hour if cluster is not None else None,
        notes=tuple(_notes(scenario, run, finishes=finishes)),
    )


def _breakdown(
    runs: list[Run], failure_free: float, slowdowns: tuple[float, ...]
) -> dict[str, float]:
    """Expected days by what they are spent on.

    Of the time T with failures a share 1 - e^(-R/M) is restarts: each of the failures that come
    while the run is up, one in M of that, costs M (e^(R/M) - 1) until it is up again.
    """
    found = {"training": failure_free}
    if slowdowns != (1.0,):
        found["slow_devices"] = (statistics.fmean(slowdowns) - 1) * failure_free
    run = runs[0]
    if run.interval_ns is not None:
        stalls = statistics.fmean(own.undisturbed_ns - own.work_ns for own in runs)
        found["checkpoints"] = stalls / DAY_NS
    if run.mtbf_ns is not None:
        total = statistics.fmean(own.expected_ns for own in runs) / DAY_NS
        restarts = -math.expm1(-run.restart_ns / run.mtbf_ns) * total
        found["lost_work"] = max(0.0, total - restarts - math.fsum(found.values()))
        found["restarts"] = restarts
    return found


def _intervals(run: Run, training: Training) -> Intervals | None:
    """The intervals around the best one, simulated with the same failures."""
    if run.mtbf_ns is None:
        return None
    best = run.saved_every(best_interval(run.mtbf_ns, run.stall_ns)).interval_ns
    assert best is not None and run.interval_ns is not None
    wanted = {run.saved_every(best * factor).interval_ns or 1 for factor in AROUND}
    points = []
    for interval in sorted(wanted | {run.interval_ns}):
        own = replace(run, interval_ns=interval)
        runs = min(training.runs, RUNS_AROUND)
        finishes = own.finishes
        points.append(
            IntervalPoint(
                interval_ns=interval,
                expected_days=own.expected_ns / DAY_NS if finishes else None,
                simulated=estimated_days(own, [own.work_ns], runs, training.seed),
            )
        )
    return Intervals(
        best=best,
        young=young_interval(run.mtbf_ns, run.stall_ns),
        daly_first_order=daly_first_order(run.mtbf_ns, run.stall_ns, run.restart_ns),
        daly=daly_interval(run.mtbf_ns, run.stall_ns),
        points=tuple(points),
    )


def _notes(scenario: Scenario, run: Run, *, finishes: bool) -> list[str]:
    training, found = scenario.training, []
    assert training is not None
    given = training.checkpoint_interval
    if given is not None and run.interval_ns is not None and given != run.interval_ns:
        why = "than the whole run" if given > run.interval_ns else "than an iteration"
        if given < run.pending_ns:
            why = "than writing a checkpoint takes"
        shorter = "longer" if given > run.interval_ns else "shorter"
        found.append(
            f"checkpoint_interval is {exact_duration_ns(given)}, {shorter} {why}: "
            f"{exact_duration_ns(run.interval_ns)} of work lie between checkpoints"
        )
    if run.is_too_long:
        found.append("never finishes: its iterations alone would take over 100 years")
    elif not finishes and run.mtbf_ns is None:
        found.append(
            "never finishes: with checkpoints that stop it for "
            f"{run.stall_ns / 60e9:.3g} min each it would take over 100 years"
        )
    elif not finishes and run.mtbf_ns is not None:
        found.append(
            "never finishes: something fails every "
            f"{run.mtbf_ns / 60e9:.3g} min, a restart takes {run.restart_ns / 60e9:.3g} min and a "
            f"checkpoint {run.write_ns / 60e9:.3g} min"
        )
    return found


def outlook_json(found: TrainingOutlook | None) -> dict[str, object] | None:
    """The stable machine form, `training` in `simulate --json`; unknown figures are null."""
    if found is None:
        return None
    run, days = found.run, found.days
    expected, a_day = found.expected_days, found.dollars_a_day
    hours = expected * found.hours_a_day if expected is not None else None
    cost = expected * a_day if expected is not None and a_day is not None else None
    return {
        "iterations": found.iterations,
        "failure_free_days": found.failure_free_days,
        "finishes": expected is not None,
        "expected_days": expected,
        "expected_gpu_hours": hours,
        "expected_dollars": cost,
        "days": days.times(1.0) if days is not None else None,
        "gpu_hours": days.times(found.hours_a_day) if days is not None else None,
        "dollars": days.times(a_day) if days is not None and a_day is not None else None,
        "runs": days.num_runs if days is not None else 0,
        "goodput": found.goodput,
        "slowdown": found.slowdown,
        "failures": found.failures,
        "breakdown_days": dict(found.breakdown),
        "mtbf_s": run.mtbf_ns / 1e9 if run.mtbf_ns is not None else None,
        "checkpoint": _checkpoint_json(found),
        "notes": list(found.notes),
    }


def _checkpoint_json(found: TrainingOutlook) -> dict[str, object] | None:
    run, intervals = found.run, found.intervals
    if run.interval_ns is None:
        return None
    result: dict[str, object] = {
        "bytes": run.checkpoint_bytes,
        "write_s": run.write_ns / 1e9,
        "stall_s": run.stall_ns / 1e9,
        "interval_s": run.interval_ns / 1e9,
        "interval_iterations": run.interval_ns / run.iteration_ns,
    }
    if intervals is not None:
        measured = intervals.simulated_best
        result |= {
            "best_interval_s": intervals.best / 1e9,
            "simulated_best_interval_s": measured.interval_ns / 1e9 if measured else None,
            "young_interval_s": intervals.young / 1e9,
            "daly_first_order_interval_s": intervals.daly_first_order / 1e9,
            "daly_interval_s": intervals.daly / 1e9,
            "intervals": [
                {
                    "interval_s": point.interval_ns / 1e9,
                    "expected_days": point.expected_days,
                    "simulated_days": point.simulated.times(1.0) if point.simulated else None,
                }
                for point in intervals.points
            ],
        }
    return result
