"""The layout search: every candidate counted, checked for memory, bounded, and simulated unless its
bound shows that it is neither among the best nor on the front.

On each number of devices by itself: all candidates that fit are bounded, and simulated in rounds,
the least bound first (`sim.planner.layouts.area`), until no open one can be among the `top` best or
on the front of time and memory (`sim.planner.layouts.front` says why that loses nothing). Then all
numbers of devices are ranked together by the objective.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from scenarios import rules
from scenarios.resizing import NotWholeNodes
from scenarios.schema import Scenario
from sim.cost.profile import Profile
from sim.planner.layouts.alternatives import alternatives
from sim.planner.layouts.area import Area, candidate_of
from sim.planner.layouts.desk import Desk, MakeEvaluator
from sim.planner.layouts.evaluation import Evaluator
from sim.planner.layouts.found import Candidate, Objective, PlanSearch, Progress
from sim.planner.layouts.front import cost, front
from sim.planner.layouts.inputs import MORE
from sim.planner.layouts.sensitivity import sensitivities
from sim.planner.layouts.space import CannotPlan, divisors
from sim.planner.layouts.workers import Workers

_NEAR = 65
LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Nodes that are tried for the fewest devices that meet a deadline, unless numbers are given."""


def search(
    scenario: Scenario,
    *,
    gpus: Sequence[int] = (),
    objective: Objective = "time",
    deadline_days: float | None = None,
    top: int = 10,
    only: Mapping[str, Sequence[object]] | None = None,
    profile: Profile | None = None,
    jobs: int | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
    explain: bool = True,
    make: MakeEvaluator = Evaluator,
) -> PlanSearch:
    """Search the best layouts of a scenario's model, batch and cluster.

    gpus: numbers of devices to lay it on; the cluster's own unless given, and for the objective
    `gpus` as many nodes as in LADDER, up to the first that meets the deadline. objective: `time`:
    the shortest iteration; `cost`: the fewest device-hours (and so dollars); `gpus`: the fewest
    devices; of the layouts that meet `deadline_days` (needed for `gpus`), and where none does the
    shortest iteration. top: how many of the best layouts to know for certain, on each number of
    devices. only: values that fields of the plan are restricted to; a field that is otherwise not
    searched (`sim.planner.layouts.space`) becomes a dimension. jobs: processes, as many as there
    are cores unless given; the answer does not depend on them.
    explain: whether to find out why nothing else is better, and which inputs matter. make: what
    evaluates plans.
    Raises CannotPlan where there is nothing to search, NotWholeNodes where devices are no whole
    nodes, and ProfileMismatch for a profile of another device.
    """
    started = time.monotonic()
    _check(scenario, objective, deadline_days, top, gpus)
    areas: list[Area] = []
    with Workers(Desk(scenario, profile, only, make), jobs) as workers:
        for num_devices in _numbers(scenario, gpus, objective):
            area = Area(workers, num_devices, progress)
            area.survey(beyond=MORE if explain else 1.0)
            area.search(top)
            areas.append(area)
            if not gpus and any(_meets(c, deadline_days) for c in _candidates(area, 1)):
                break
        if not any(area.counted for area in areas):
            raise CannotPlan(_nothing(scenario, areas))
        best = [candidate for area in areas for candidate in _candidates(area, top)]
        ranked = sorted(best, key=lambda c: _rank(c, objective, deadline_days))[:top]
        found = PlanSearch(
            scenario=scenario,
            objective=objective,
            deadline_days=deadline_days,
            ranked=tuple(ranked),
            front=front(c for area in areas for c in _candidates(area)),
            baseline=_baseline(workers.desk),
            alternatives=(),
            sensitivities=(),
            spaces=tuple(area.found for area in areas),
            shares={},
            seconds=time.monotonic() - started,
        )
        if explain and ranked:
            area = next(a for a in areas if a.num_devices == ranked[0].num_devices)
            others = [c for a in areas if a is not area for c in _candidates(a, 1)]
            reasons, shares = alternatives(area, others)
            found = replace(
                found,
                alternatives=reasons,
                shares=shares,
                sensitivities=sensitivities(area, ranked, reasons),
            )
    return replace(found, seconds=time.monotonic() - started)


def _check(
    scenario: Scenario,
    objective: Objective,
    deadline_days: float | None,
    top: int,
    gpus: Sequence[int],
) -> None:
    if top < 1:
        raise CannotPlan(f"the {top} best layouts cannot be ranked: `--top 10` would work")
    if objective == "gpus" and deadline_days is None:
        raise CannotPlan(
            "the fewest GPUs are those that meet a deadline: `--deadline 30` (days) would say which"
        )
    if deadline_days is not None and scenario.training is None:
        raise CannotPlan(
            f"{scenario.name} does not say how many tokens the training run has, so no layout can "
            "be held to a deadline: `--set training.tokens=300e9` would"
        )
    if deadline_days is not None and not deadline_days > 0:
        raise CannotPlan(f"{deadline_days} days are no deadline: `--deadline 30` would work")
    if wrong := [number for number in gpus if number < 1]:
        raise CannotPlan(f"{wrong[0]} GPUs hold no layout: `--gpus 512,1024` would work")


def _numbers(scenario: Scenario, gpus: Sequence[int], objective: Objective) -> Iterator[int]:
    """The numbers of devices to search."""
    cluster = scenario.cluster
    assert cluster is not None
    if gpus:
        yield from dict.fromkeys(gpus)
    elif objective == "gpus":
        yield from (nodes * cluster.devices_per_node for nodes in LADDER)
    else:
        yield cluster.num_devices


def _candidates(area: Area, most: int | None = None) -> Iterator[Candidate]:
    return map(area.candidate, area.ranked()[:most])


def _rank(
    candidate: Candidate, objective: Objective, deadline_days: float | None
) -> tuple[float, ...]:
    """What is less is better; of equal layouts the first of its space stays so, as sorting is
    stable."""
    own = (candidate.iteration_ns, candidate.num_devices, candidate.peak_bytes)
    late = deadline_days is not None and not _meets(candidate, deadline_days)
    if late or objective == "time":
        return (late, *own)
    if objective == "cost":
        return (late, *cost(candidate), *own)
    return (late, candidate.num_devices, *own)


def _meets(candidate: Candidate | None, deadline_days: float | None) -> bool:
    if candidate is None or candidate.days is None or deadline_days is None:
        return False
    return candidate.days <= deadline_days


def _baseline(desk: Desk) -> Candidate | None:
    """The scenario's own plan, where it is complete and fits."""
    scenario = desk.scenario
    if rules.check(scenario) or scenario.plan.slices == "optimal":
        return None
    assert scenario.cluster is not None
    evaluator = desk.make(scenario, desk.profile)
    peak = evaluator.peak_bytes(scenario.plan)
    if peak > scenario.cluster.device.memory:
        return None
    return candidate_of(
        scenario,
        scenario.plan,
        iteration_ns=evaluator.iteration_ns(scenario.plan),
        bound_ns=evaluator.bound_ns(scenario.plan),
        peak_bytes=peak,
    )


def _nothing(scenario: Scenario, areas: Sequence[Area]) -> str:
    """Why no number of devices has a layout: by the nearest numbers that have one, by the last rule
    that refused one, or by what the restriction leaves."""
    numbers = ", ".join(str(area.num_devices) for area in areas)
    text = f"{scenario.name} has no layout on {numbers} devices"
    space = areas[-1].space
    nearby = [] if space.only else _near(areas[-1])
    if nearby:
        return f"{text}; `--gpus {' or '.join(map(str, nearby))}` would have some"
    refusal = next((a.space.refusal for a in reversed(areas) if a.space.refusal), None)
    if refusal is not None:
        return f"{text}, as {refusal[0]} {refusal[1]}"
    for name in ("tensor", "pipeline", "data", "micro_batch"):
        whole = space.batch if name == "micro_batch" else space.num_devices
        what = "sequences" if name == "micro_batch" else "devices"
        asked = [value for value in space.only.get(name, ()) if isinstance(value, int)]
        if asked and all(whole % value for value in asked):
            near = min(divisors(whole), key=lambda value: abs(value - asked[0]))
            given = " or ".join(map(str, asked))
            return f"{text}: {name} {given} does not divide {whole} {what}; `{name}={near}` would"
    names = ", ".join(f"{name} {_listed(values)}" for name, values in space.only.items())
    return f"{text}: no combination of {names} is one; leaving one of them out may help"


def _near(area: Area) -> list[int]:
    """The nearest numbers of devices below and above that have layouts, of those near."""
    found = []
    for step in (-1, 1):
        for number in range(area.num_devices + step, area.num_devices + step * _NEAR, step):
            if number > 0 and _has_layouts(area.desk, number):
                found.append(number)
                break
    return found


def _has_layouts(desk: Desk, num_devices: int) -> bool:
    try:
        space = desk.space(num_devices)
    except NotWholeNodes:
        return False
    return any(space.cells(room).cells for room in space.rooms)


def _listed(values: Sequence[object]) -> str:
    return " or ".join(map(str, values))
