"""The closed loop: calibration runs and judged runs in turn, in one session, compared in pairs.

The machine drifts within minutes, so every round calibrates afresh on its own calibration runs and
predicts its own judged runs; a scenario's error is the median over the rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

from executor.commands import UnsupportedPlan, require_supported
from executor.joining import under_torchrun
from executor.launching import run_session
from executor.session import Assignment, Visit
from scenarios.loader import Loaded, load
from scenarios.schema import Scenario
from sim.calibration import calibrate_from_runs
from sim.comparison import LoopRow, compare, structural_error
from sim.cost.profile import Profile
from sim.cost.shapes import shape_of
from sim.loop import LoopCase, LoopResult
from sim.measurement import Measurement, merged
from sim.planner.search import best_slicing, resolve
from sim.prediction import predict
from sim.workload.partition import pieces

_DRAWS = 9
_FIRST = 3
"""Iterations of each run of the calibration before the search."""
_BUSY_SPREAD = 0.05
_BUSY_KEPT = 0.75


def closed_loop(
    judged: Sequence[str],
    calibrate_on: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    rounds: int = 5,
    progress: Callable[[str], None] = lambda text: None,
) -> LoopResult:
    """Run judged and calibration scenarios in turn and predict each round's from each round's.

    Of a scenario with variants, all of them. Every scenario needs the same number of ranks, and
    each judged one a calibration run of its shape (width, microbatch, precision).
    `execution.iterations` are spread over the rounds.
    Raises UnsupportedPlan where that is not so.
    """
    if not judged:
        raise UnsupportedPlan("give at least one scenario to judge")
    loaded = [item for name in judged for item in each(load(name, overrides))]
    others = [item for name in calibrate_on for item in each(load(name, overrides))]
    return in_turn(loaded, others, rounds=rounds, progress=progress)


def each(loaded: Loaded) -> tuple[Loaded, ...]:
    """A scenario's variants; itself where it has none."""
    return loaded.variants or (loaded,)


def in_turn(
    judged: Sequence[Loaded],
    others: Sequence[Loaded],
    *,
    rounds: int,
    profile: Profile | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> LoopResult:
    """The closed loop of loaded scenarios.

    profile: where a judged one has `slices: optimal`, the search finds them with this profile;
    unless given, with one calibrated just before.
    An interrupted loop keeps the rounds that were finished; KeyboardInterrupt where there is none.
    """
    if under_torchrun():
        raise UnsupportedPlan("the closed loop starts its own ranks: run it without torchrun")
    if rounds < 1:
        raise UnsupportedPlan(f"--rounds {rounds}: at least 1 is needed, as --rounds 5")
    if any(item.scenario.plan.slices == "optimal" for item in others):
        raise UnsupportedPlan(
            "a calibration run has `slices: optimal`, which are only found once there is a "
            "profile: give it slices of its own"
        )
    _require_alike([i for i in judged if i.scenario.plan.slices != "optimal"], others)
    judged = _searched(judged, others, profile, progress)
    taken = {item.scenario.digest for item in judged}
    # The search may have found what a calibration run has; the others are enough.
    others = [i for i in others if i.scenario.digest not in taken]
    _require_alike(judged, others)
    everything, interrupted, pinning = _turns([*others, *judged], rounds, progress)
    turns = _calm(everything)
    profiles = []
    for number, turn_measurements in enumerate(turns, start=1):
        progress(f"calibrating round {number} of {len(turns)} ...")
        profiles.append(calibrate_from_runs(turn_measurements[: len(others)]))
    cases = []
    for number, item in enumerate(judged):
        progress(f"predicting {item.scenario.name} ({number + 1} of {len(judged)}) ...")
        position = len(others) + number
        whole = merged([turn[position] for turn in everything])
        cases.append(_judge(item, [turn[position] for turn in turns], profiles, whole))
    rows = []
    for position, item in enumerate(others):
        whole = merged([turn[position] for turn in everything])
        fitted = _judge(item, [turn[position] for turn in turns], profiles, whole)
        rows.append(replace(fitted.row, judged=False))
    names = ", ".join(item.scenario.name for item in others)
    return LoopResult(
        cases=tuple(cases),
        calibration=tuple(rows),
        profile=profiles[-1],
        note=f"calibrated on {names} in each of {len(turns)} rounds, alternating with the judged "
        f"runs; {pinning}{_rounds(rounds, len(everything), len(turns))}{_warning(cases)}",
        interrupted=interrupted,
    )


def _searched(
    judged: Sequence[Loaded],
    others: Sequence[Loaded],
    profile: Profile | None,
    progress: Callable[[str], None],
) -> list[Loaded]:
    """The judged scenarios, with `slices: optimal` replaced by those that the search finds."""
    if all(item.scenario.plan.slices != "optimal" for item in judged):
        return list(judged)
    if profile is not None:
        return [
            replace(item, scenario=resolve(item.scenario, profile, progress)) for item in judged
        ]
    progress("a first calibration, for the search ...")
    turns, _, _ = _turns(others, 1, progress, at_most=_FIRST)
    profile = calibrate_from_runs(turns[0])
    found = []
    for item in judged:
        scenario = item.scenario
        if scenario.plan.slices == "optimal":
            best = best_slicing(
                scenario,
                profile,
                granularity=_shortest(scenario, others),
                keep_microbatches=True,
                progress=progress,
            )
            scenario = best.best.scenario
        found.append(replace(item, scenario=scenario))
    return found


def _shortest(scenario: Scenario, others: Sequence[Loaded]) -> int:
    """A granularity at which the search finds no shorter slices than those calibrated on, whose
    times a short calibration would only guess: it divides the sequence into whole units."""
    assert scenario.model is not None
    sequence, plan = scenario.model.sequence, scenario.plan
    step = plan.tensor if plan.sequence_parallel else 1
    shortest = min(p.tokens for item in others for cut in pieces(item.scenario) for p in cut)
    fitting = [g for g in range(step, shortest + 1, step) if sequence % g == 0]
    return max(fitting, default=step)


def _turns(
    everyone: Sequence[Loaded],
    rounds: int,
    progress: Callable[[str], None],
    *,
    at_most: int | None = None,
) -> tuple[list[tuple[Measurement, ...]], bool, str]:
    """The measurements of every finished round, whether it was interrupted, and the pinning.

    at_most: so many iterations a visit.
    """
    visits = tuple(
        Visit(
            job=job,
            warmup=item.scenario.execution.warmup if turn == 0 else 1,
            iterations=max(2, -(-item.scenario.execution.iterations // rounds)),
        )
        for turn in range(rounds)
        for job, item in enumerate(everyone)
    )
    if at_most is not None:
        visits = tuple(replace(v, iterations=min(v.iterations, at_most)) for v in visits)
    assignment = Assignment(scenarios=tuple(i.scenario for i in everyone), visits=visits)
    progress(f"{rounds} rounds of {len(everyone)} runs ...")
    session = run_session(assignment, progress)
    assert session is not None, "these ranks were started here"
    width = len(everyone)
    # A visit cut short is not a round's whole visit.
    found = session.measurements
    whole = 0
    while whole < len(found) and len(found[whole].timelines) == visits[whole].iterations:
        whole += 1
    turns = [found[t * width : (t + 1) * width] for t in range(whole // width)]
    if not turns:
        raise KeyboardInterrupt
    return turns, session.interrupted, str(session.environment.get("pinning", ""))


def _rounds(asked: int, finished: int, calm: int) -> str:
    """What became of the rounds asked for; empty where all of them count."""
    text = f"; interrupted after {finished} of {asked} rounds" if finished < asked else ""
    if calm < finished:
        text += f"; {finished - calm} of {finished} rounds were disturbed and left out"
    return text


def _calm(
    turns: Sequence[tuple[Measurement, ...]],
) -> Sequence[tuple[Measurement, ...]]:
    """The rounds in which every run had an undisturbed iteration; all where there is none: a pair
    of which one side alone was disturbed tells nothing."""
    return [t for t in turns if not any(all(m.disturbed) for m in t)] or turns


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


def _judge(
    item: Loaded, measured: Sequence[Measurement], profiles: Sequence[Profile], whole: Measurement
) -> LoopCase:
    """A scenario's case; `measured` are the rounds judged, `whole` all of its iterations."""
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
    low, high = whole.quartiles_ns
    spread = (high - low) / 2 / whole.iteration_ns
    return LoopCase(
        loaded=item,
        prediction=predictions[nearest],
        measurement=measured[nearest],
        comparison=replace(
            compare(predictions[nearest], measured[nearest]),
            measured_spread=spread,
            num_iterations=len(whole.timelines),
            num_disturbed=sum(whole.disturbed),
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
        rounds_ns=tuple(
            (p.iteration_ns, m.iteration_ns) for p, m in zip(predictions, measured, strict=True)
        ),
        whole=whole,
    )
