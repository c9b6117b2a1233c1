"""Why not otherwise: for each dimension the best layout with each other value than the winner's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scenarios.schema import Plan
from sim.planner.layouts.area import Area, by_bound
from sim.planner.layouts.desk import Place
from sim.planner.layouts.found import Alternative, Candidate
from sim.planner.layouts.plans import scenario_with
from sim.planner.layouts.reasons import Seen, does_not_fit, why_slower

MOST_SIMULATED = 24
"""Layouts simulated for a value, at most, to find its best; a bound proves it sooner as a rule."""
_AT_ONCE = 2
MOST_ACTIONS = 200_000
"""Passes and messages of the programs whose time is told apart by category, together: the nearest
layouts first; what the others lose is said by what they are."""
_GPUS = "gpus"


@dataclass(slots=True, kw_only=True)
class _Value:
    """A value of a dimension, and the search for its best layout.

    order: its layouts that are not simulated yet, the least bound first. simulated: those that are,
    `tried` of them for this.
    """

    dimension: int
    code: int
    order: NDArray[np.int64]
    simulated: int = 0
    tried: int = 0
    best: int | None = None
    proved: bool = False


def alternatives(
    area: Area, others: Sequence[Candidate]
) -> tuple[tuple[Alternative, ...], Mapping[str, float]]:
    """The alternatives to an area's best layout, by dimension and value, and the shares of the best
    layout's rank-time by category.

    others: the best layouts on other numbers of devices, which are alternatives as well.
    """
    winner = area.ranked()[0]
    values = _values(area, winner)
    _search(area, values)
    chosen = area.candidate(winner)
    found = [area.candidate(v.best) if v.best is not None else None for v in values]
    shares = _shares(area, [chosen, *sorted(filter(None, found), key=_time)])
    seen = Seen(candidate=chosen, scenario=area.space.scenario, shares=shares[chosen.plan])
    full = _fullest(area, values)
    told = []
    for value, candidate in zip(values, found, strict=True):
        name = area.space.dimensions[value.dimension]
        written = area.space.domain(name)[value.code]
        text = written_value(written)
        missing: int | None = None
        if candidate is None:
            peak, rank = full[value.dimension, value.code]
            missing = peak - area.capacity
            reason = does_not_fit(peak, area.capacity, rank)
        else:
            reason = why_slower(name, seen, candidate, shares.get(candidate.plan))
            if not value.proved:
                reason += f" (best of {value.simulated} simulated)"
        told.append(
            Alternative(
                field=name,
                value=text,
                chosen=written_value(getattr(chosen.plan, name)),
                candidate=candidate,
                slower=_slower(candidate, chosen),
                missing_bytes=missing,
                reason=reason,
            )
        )
    for other in others:
        told.append(
            Alternative(
                field=_GPUS,
                value=str(other.num_devices),
                chosen=str(chosen.num_devices),
                candidate=other,
                slower=_slower(other, chosen),
                missing_bytes=None,
                reason=why_slower(_GPUS, seen, other, None),
            )
        )
    return tuple(told), seen.shares


def written_value(value: object) -> str:
    """A value as it is written in a plan."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _values(area: Area, winner: int) -> list[_Value]:
    """The values other than the winner's, each with its layouts that fit; none of dimensions that
    make no difference to the winner, as their other values stand for other degrees alone."""
    own = area.bounded.codes[winner]
    idle = _without_effect(area.candidate(winner).plan)
    return [
        _Value(
            dimension=dimension,
            code=code,
            order=by_bound(area, area.with_value(dimension, code)),
        )
        for dimension, code in sorted(area.least)
        if code != own[dimension] and area.space.dimensions[dimension] not in idle
    ]


def _without_effect(plan: Plan) -> frozenset[str]:
    """Fields that make no difference to a plan, as it has one rank where they speak of several."""
    found: set[str] = set()
    degrees = (plan.tensor, plan.pipeline, plan.data)
    if plan.tensor == 1:
        found |= {"sequence_parallel", "scatter_gather", "broadcast_messages"}
    if plan.pipeline == 1:
        found |= {"p2p", "scatter_gather", "broadcast_messages"}
    if plan.data == 1:
        found |= {"sharding", "gradient_reduction", "gradient_bucket"}
    if sum(degree > 1 for degree in degrees) < 2:
        found.add("placement")
    return frozenset(found)


def _search(area: Area, values: Sequence[_Value]) -> None:
    """Find each value's best layout: those of least bound are simulated until no other's bound
    leaves room for a better one, or MOST_SIMULATED have been."""
    ready = np.zeros(len(area.bound_ns), np.bool_)
    ready[list(area.times)] = True
    for value in values:
        known = value.order[ready[value.order]]
        value.best = min((int(p) for p in known), key=area.key, default=None)
        value.order = value.order[~ready[value.order]]
        value.simulated = len(known)
    while True:
        wanted: list[int] = []
        for value in values:
            value.proved = _is_proved(area, value)
            if not value.proved and value.tried < MOST_SIMULATED:
                wanted += map(int, value.order[:_AT_ONCE])
        if not wanted:
            return
        area.simulate(wanted)
        area.tell("reasons")
        for value in values:
            if value.proved or value.tried >= MOST_SIMULATED:
                continue
            now, value.order = value.order[:_AT_ONCE], value.order[_AT_ONCE:]
            value.tried += len(now)
            value.simulated += len(now)
            tried = [*map(int, now), *([] if value.best is None else [value.best])]
            value.best = min(tried, key=area.key)


def _is_proved(area: Area, value: _Value) -> bool:
    if not len(value.order):
        return True
    if value.best is None:
        return False
    first = int(value.order[0])
    return area.key(value.best) < (
        int(area.bound_ns[first]),
        int(area.peak_bytes[first]),
        first,
    )


def _time(candidate: Candidate) -> int:
    return candidate.iteration_ns


def _slower(candidate: Candidate | None, chosen: Candidate) -> float | None:
    if candidate is None:
        return None
    return candidate.iteration_ns / chosen.iteration_ns - 1


def _shares(area: Area, candidates: Sequence[Candidate]) -> dict[Plan, Mapping[str, float]]:
    """Where the time goes, of the candidates in turn as far as MOST_ACTIONS reaches; of the first
    in any case."""
    plans: list[Plan] = []
    left = MOST_ACTIONS
    for candidate in candidates:
        plan = candidate.plan
        actions = _num_actions(plan)
        if plan in plans or (plans and actions > left):
            continue
        plans.append(plan)
        left -= actions
    scenario = area.space.scenario
    calls = [("breakdown", (scenario_with(scenario, plan),)) for plan in plans]
    found: dict[Plan, Mapping[str, float]] = {}
    for number, shares in area.workers.run(calls):
        found[plans[number]] = shares
        area.tell("reasons")
    return found


def _num_actions(plan: Plan) -> int:
    """About as many passes and messages as a plan's program has."""
    slices = plan.groups[0].num_slices
    passes = 2 * plan.num_stages * plan.num_microbatches * slices
    return passes * (3 if plan.pipeline > 1 else 1)


def _fullest(area: Area, values: Sequence[_Value]) -> dict[tuple[int, int], tuple[int, int | None]]:
    """Of each value none of whose layouts fits, the least peak, and the rank that has it (None
    where finding out would take long)."""
    found: dict[tuple[int, int], tuple[int, int | None]] = {}
    places: dict[Place, list[tuple[int, int]]] = {}
    for value in values:
        if value.best is None:
            key = value.dimension, value.code
            peak, place = area.least[key]
            found[key] = peak, None
            places.setdefault(place, []).append(key)
    plans = {place: area.desk.plan(area.num_devices, place) for place in places}
    short = [place for place in places if _num_actions(plans[place]) <= MOST_ACTIONS]
    calls = [("fullest", (scenario_with(area.space.scenario, plans[place]),)) for place in short]
    for number, entry in area.workers.run(calls):
        for key in places[short[number]]:
            found[key] = entry
    return found
