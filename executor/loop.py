"""The closed loop: calibration runs and judged runs in turn, in one session, compared in pairs.

The machine drifts within minutes, so every round calibrates afresh on its own calibration runs and
predicts its own judged runs; a scenario's error is the median over the rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from executor.commands import UnsupportedPlan, require_supported
from executor.joining import under_torchrun
from executor.launching import run_session
from executor.session import Assignment, Visit
from scenarios.loader import Loaded, load
from sim.calibration import calibrate_from_runs
from sim.comparison import Comparison, LoopRow, compare, structural_error
from sim.cost.profile import Profile, shape_of
from sim.measurement import Measurement
from sim.prediction import Prediction, predict

_DRAWS = 9
_BUSY_SPREAD = 0.05
_BUSY_KEPT = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopCase:
    """One judged scenario: its row, and the round nearest to its median, to be drawn."""

    loaded: Loaded
    prediction: Prediction
    measurement: Measurement
    comparison: Comparison
    row: LoopRow


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopResult:
    """A closed loop's cases, its last profile, and how it was made."""

    cases: tuple[LoopCase, ...]
    profile: Profile
    note: str

    @property
    def errors(self) -> tuple[float, ...]:
        """Every case's predictive and structural error."""
        return tuple(
            e for c in self.cases for e in (c.row.predictive_error, c.row.structural_error)
        )

    @property
    def median_predictive(self) -> float:
        """Median over scenarios of the absolute predictive error."""
        return statistics.median(abs(c.row.predictive_error) for c in self.cases)

    @property
    def worst_predictive(self) -> float:
        """Largest absolute predictive error."""
        return max(abs(c.row.predictive_error) for c in self.cases)

    @property
    def worst_structural(self) -> float:
        """Largest absolute structural error."""
        return max(abs(c.row.structural_error) for c in self.cases)


def closed_loop(
    judged: Sequence[str],
    calibrate_on: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    rounds: int = 5,
    progress: Callable[[str], None] = lambda text: None,
) -> LoopResult:
    """Run judged and calibration scenarios in turn and predict each round's from each round's.

    Every scenario needs the same number of ranks, and each judged one a calibration run of its
    shape (width, microbatch, precision). `execution.iterations` are spread over the rounds.
    Raises UnsupportedPlan where that is not so.
    """
    if under_torchrun():
        raise UnsupportedPlan("the closed loop starts its own ranks: run it without torchrun")
    if not judged:
        raise UnsupportedPlan("give at least one scenario to judge")
    if rounds < 1:
        raise UnsupportedPlan(f"--rounds {rounds}: at least 1 is needed, as --rounds 5")
    loaded = [load(name, overrides) for name in judged]
    others = [load(name, overrides) for name in calibrate_on]
    _require_alike(loaded, others)
    everyone = [*others, *loaded]
    visits = tuple(
        Visit(
            job=job,
            warmup=item.scenario.execution.warmup if turn == 0 else 1,
            iterations=max(2, -(-item.scenario.execution.iterations // rounds)),
        )
        for turn in range(rounds)
        for job, item in enumerate(everyone)
    )
    assignment = Assignment(scenarios=tuple(i.scenario for i in everyone), visits=visits)
    progress(f"{rounds} rounds of {len(others)} calibration and {len(loaded)} judged runs ...")
    session = run_session(assignment, progress)
    assert session is not None, "these ranks were started here"
    if session.interrupted:
        raise KeyboardInterrupt
    width = len(everyone)
    turns = [session.measurements[t * width : (t + 1) * width] for t in range(rounds)]
    profiles = []
    for number, turn_measurements in enumerate(turns, start=1):
        progress(f"calibrating round {number} of {rounds} ...")
        profiles.append(calibrate_from_runs(turn_measurements[: len(others)]))
    cases = []
    for number, item in enumerate(loaded):
        progress(f"predicting {item.scenario.name} ({number + 1} of {len(loaded)}) ...")
        measured = [turn[len(others) + number] for turn in turns]
        cases.append(_judge(item, measured, profiles))
    names = ", ".join(item.scenario.name for item in others)
    return LoopResult(
        cases=tuple(cases),
        profile=profiles[-1],
        note=f"calibrated on {names} in each of {rounds} rounds, alternating with the judged runs; "
        f"{session.environment.get('pinning', '')}{_warning(cases)}",
    )


def _warning(cases: Sequence[LoopCase]) -> str:
    """A remark where other processes kept the machine busy; empty where it was calm."""
    worst = max(case.row.run_to_run_spread for case in cases)
    kept = sum(case.comparison.num_iterations - case.comparison.num_disturbed for case in cases)
    total = sum(case.comparison.num_iterations for case in cases)
    if worst <= _BUSY_SPREAD and kept >= _BUSY_KEPT * total:
        return ""
    return (
        f". THE MACHINE WAS BUSY: runs spread by up to {worst:.1%}, and {total - kept} of {total} "
        "judged iterations were disturbed by other processes; repeat on a calm machine"
    )


def _require_alike(judged: Sequence[Loaded], others: Sequence[Loaded]) -> None:
    everyone = [*judged, *others]
    for item in everyone:
        require_supported(item.scenario)
    ranks = {item.scenario.plan.num_devices for item in everyone}
    if len(ranks) > 1:
        raise UnsupportedPlan(
            f"one session has one number of ranks, but these scenarios need {sorted(ranks)}: "
            "run the loop once for each"
        )
    digests = {item.scenario.digest: item.scenario.name for item in others}
    shapes = {shape_of(item.scenario) for item in others}
    for item in judged:
        name = item.scenario.name
        if item.scenario.digest in digests:
            raise UnsupportedPlan(
                f"{name} is also calibrated on (as {digests[item.scenario.digest]}): a prediction "
                "is judged on other runs than those it was calibrated on"
            )
        if shape_of(item.scenario) not in shapes:
            raise UnsupportedPlan(
                f"no calibration run has the shape of {name} (width, microbatch, precision): add "
                "one with other layers or microbatches but the same shape"
            )


def _judge(item: Loaded, measured: Sequence[Measurement], profiles: Sequence[Profile]) -> LoopCase:
    predictions = [
        predict(item.scenario, profile, draws=_DRAWS, seed=seed)
        for seed, profile in enumerate(profiles)
    ]
    pairs = [
        p.iteration_ns / m.iteration_ns - 1 for p, m in zip(predictions, measured, strict=True)
    ]
    program = predictions[0].program
    median = statistics.median(pairs)
    nearest = min(range(len(pairs)), key=lambda i: abs(pairs[i] - median))
    times = [t.iteration_ns for m in measured for t in m.judged]
    low, middle, high = (
        statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    )
    spread = (high - low) / 2 / middle
    return LoopCase(
        loaded=item,
        prediction=predictions[nearest],
        measurement=measured[nearest],
        comparison=replace(
            compare(predictions[nearest], measured[nearest]),
            measured_spread=spread,
            num_iterations=sum(len(m.timelines) for m in measured),
            num_disturbed=sum(sum(m.disturbed) for m in measured),
        ),
        row=LoopRow(
            scenario=item.scenario.name,
            structural_error=statistics.median(structural_error(m, program) for m in measured),
            predictive_error=median,
            run_to_run_spread=spread,
            predicted_ns=round(statistics.median(p.iteration_ns for p in predictions)),
            measured_ns=round(statistics.median(m.iteration_ns for m in measured)),
            rounds=len(measured),
        ),
    )
