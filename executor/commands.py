"""What the command line asks of the executor: run, check, the closed loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from executor.launching import SessionResult, run_session
from executor.reference import reference
from executor.session import Assignment, Visit, double_precision
from scenarios.schema import Scenario
from sim.measurement import Measurement
from sim.schedule.actions import Kind
from sim.schedule.build import build_program
from sim.schedule.checks import ScheduleError, run_untimed

Progress = Callable[[str], None]
_CHECK_ITERATIONS = 3
_TOLERANCE = 1e-10


class UnsupportedPlan(ValueError):
    """The executor cannot run this plan; the message says which part, and what it can."""

    is_bad_input = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """Largest relative differences to a single process in float64, after three iterations.

    loss: of any iteration; gradients: of the third, relative to each tensor's largest element;
    weights: after the third optimizer step.
    """

    loss: float
    gradients: float
    weights: float
    num_tensors: int
    tolerance: float = _TOLERANCE

    @property
    def passed(self) -> bool:
        """Whether all three are within the tolerance."""
        return max(self.loss, self.gradients, self.weights) <= self.tolerance

    def __str__(self) -> str:
        verdict = "equals" if self.passed else "DIFFERS FROM"
        return (
            f"check: the run {verdict} a single process in float64 over {_CHECK_ITERATIONS} "
            f"iterations: loss {self.loss:.1e}, gradients {self.gradients:.1e}, weights "
            f"{self.weights:.1e} relative ({self.num_tensors} tensors; at most {self.tolerance:g})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A measured run and, where asked, its check against the reference; `interrupted` where it has
    fewer iterations than asked for."""

    measurement: Measurement
    check: CheckResult | None
    interrupted: bool = False


def run_scenario(
    scenario: Scenario, *, check: bool = False, progress: Progress = lambda text: None
) -> RunResult | None:
    """Execute a scenario; None on the ranks of a torchrun job that have nothing to tell.

    Raises UnsupportedPlan, or RankFailure with every rank's story where a rank dies.
    """
    require_supported(scenario)
    execution = scenario.execution
    exact = double_precision(scenario)
    timed = Visit(job=0, warmup=execution.warmup, iterations=execution.iterations)
    checked = Visit(job=1, warmup=0, iterations=_CHECK_ITERATIONS)
    assignment = Assignment(scenarios=(scenario,), visits=(timed,))
    if check:
        assignment = Assignment(
            scenarios=(scenario, exact), visits=(timed, checked), keep_tensors=True
        )
    progress(
        f"running {scenario.name}: {execution.iterations} iterations on "
        f"{scenario.plan.num_devices} ranks ..."
    )
    session = run_session(assignment, progress)
    if session is None:
        return None
    result = None
    if check and not session.interrupted:
        progress("checking against a single process in float64 ...")
        result = against_reference(exact, session)
    return RunResult(
        measurement=session.measurements[0], check=result, interrupted=session.interrupted
    )


def require_supported(scenario: Scenario) -> None:
    """Raise UnsupportedPlan where the executor cannot run the scenario."""
    plan = scenario.plan
    problems = []
    if scenario.model is None:
        problems.append("it has costs but no model: only `simulate` can replay it")
    elif not scenario.model.ends:
        problems.append("model.ends is false, which only `simulate` can; `ends: true` would work")
    if plan.broadcast_messages and plan.tensor > 1:
        problems.append(
            "plan.broadcast_messages is true: the executor's tensor ranks each send their own "
            "message; `scatter_gather: true` in its place would work"
        )
    if plan.sharding == "full" and plan.tensor > 1:
        problems.append(
            f"plan.sharding is full and plan.tensor is {plan.tensor}: the executor shares weights "
            "out over replicas or over a tensor group, not both; `tensor: 1` or `sharding: "
            "optimizer` would work"
        )
    if plan.sharding == "full" and plan.num_stages > 1:
        problems.append(
            f"plan.sharding is full and the model is cut into {plan.num_stages} stages: the "
            "executor shares the whole model out; `pipeline: 1` with `chunks: 1` would work"
        )
    if plan.frozen_first:
        problems.append(
            "plan.frozen_first is true, which only `simulate` can: the executor runs frozen layers "
            "microbatch by microbatch; `frozen_first: false` would work"
        )
    program = build_program(scenario)
    kinds = {action.kind for order in program.schedule.orders for action in order}
    if plan.sharding == "full" and Kind.BACKWARD_INPUT in kinds:
        problems.append(
            "plan.sharding is full and its order cuts backward passes into I and W: the executor "
            "shares weights out over whole ones; an order of B, or `sharding: optimizer`, would "
            "work"
        )
    if problems:
        raise UnsupportedPlan(f"{scenario.name} cannot be run: " + "; ".join(problems))
    waiting = run_untimed(program, synchronous=True)
    if waiting:
        title = f"{scenario.name} would deadlock with p2p: {plan.p2p}:"
        raise ScheduleError("\n  ".join([title, *map(str, waiting)]))


def check_against_reference(scenario: Scenario) -> CheckResult | None:
    """Run three iterations in float64 and hold them against the plain single process; None on
    torchrun's other ranks."""
    exact = double_precision(scenario)
    visit = Visit(job=0, warmup=0, iterations=_CHECK_ITERATIONS)
    session = run_session(Assignment(scenarios=(exact,), visits=(visit,), keep_tensors=True))
    return against_reference(exact, session) if session is not None else None


def against_reference(exact: Scenario, session: SessionResult) -> CheckResult:
    """Hold a session's last visit, in float64 and from its start, against the reference."""
    expected = reference(exact, _CHECK_ITERATIONS)
    losses = session.measurements[-1].losses
    return CheckResult(
        loss=max(
            _finite(abs(a - b) / abs(b)) for a, b in zip(losses, expected.losses, strict=True)
        ),
        gradients=_difference(session.gradients, expected.gradients),
        weights=_difference(session.weights, expected.weights),
        num_tensors=len(expected.weights),
    )


def _difference(found: dict[str, list[Tensor]], expected: dict[str, Tensor]) -> float:
    """The largest difference relative to each tensor's largest element; every copy is compared."""
    if found.keys() != expected.keys():
        missing = sorted(found.keys() ^ expected.keys())
        raise AssertionError(f"the ranks together do not hold the model: {missing[:4]}")
    worst = 0.0
    for name, copies in found.items():
        scale = float(expected[name].abs().max()) or 1.0
        for copy in copies:
            worst = max(worst, _finite(float((copy - expected[name]).abs().max()) / scale))
    return worst


def _finite(difference: float) -> float:
    """The difference; infinite where it is not a number, which no comparison would notice."""
    return difference if math.isfinite(difference) else math.inf
