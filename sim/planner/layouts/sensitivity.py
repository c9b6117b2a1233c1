"""How the winner's time hangs on the inputs, and which layout overtakes it where they are wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scenarios.schema import Plan
from sim.planner.layouts.area import Area, by_bound
from sim.planner.layouts.found import Alternative, Candidate, Sensitivity
from sim.planner.layouts.inputs import FACTORS, INPUTS, MEMORY, changed

NEAR = 0.25
"""How much slower than the winner a layout may be that is tried under other inputs."""
MOST = 24


def sensitivities(
    area: Area, ranked: Sequence[Candidate], alternatives: Sequence[Alternative]
) -> tuple[Sensitivity, ...]:
    """What each input's change by FACTORS does to an area's best layout.

    Overtaking is looked for among the layouts that came near it: the other best ones, and those
    that are best with another value of a dimension. For the device's memory, among all layouts:
    where the winner does not fit any more, or more of them do, the time is the then best one's.
    """
    winner = area.candidate(area.ranked()[0])
    near = _near(winner, ranked, alternatives)
    inputs = [one for one in INPUTS if one.field != MEMORY]
    scenarios = [
        changed(area.space.scenario, area.desk.profile, one, factor)
        for one in inputs
        for factor in FACTORS
    ]
    calls = [("iterations_with", (inputs_, near)) for inputs_, _ in scenarios]
    times: list[list[int | None]] = [[] for _ in calls]
    for number, found in area.workers.run(calls):
        times[number] = found
        area.tell("sensitivity")
    result = []
    for number, one in enumerate(inputs):
        low, high = 2 * number, 2 * number + 1
        ends = [_best(near, times[end]) for end in (low, high)]
        result.append(
            Sensitivity(
                input=one.words,
                field=f"cluster.{one.field}",
                low=scenarios[low][1],
                high=scenarios[high][1],
                low_ns=ends[0][0],
                high_ns=ends[1][0],
                overtaken_low=ends[0][1],
                overtaken_high=ends[1][1],
            )
        )
    memory = _memory(area, winner)
    return (*result, *([] if memory is None else [memory]))


def _near(
    winner: Candidate, ranked: Iterable[Candidate], alternatives: Iterable[Alternative]
) -> list[Plan]:
    """The winner's plan, then those near it by time."""
    others = [
        *ranked,
        *(a.candidate for a in alternatives if a.candidate is not None),
    ]
    limit = winner.iteration_ns * (1 + NEAR)
    close = [c for c in others if c.num_devices == winner.num_devices and c.iteration_ns <= limit]
    close.sort(key=lambda c: c.iteration_ns)
    return list(dict.fromkeys([winner.plan, *(c.plan for c in close)]))[: MOST + 1]


def _best(plans: Sequence[Plan], times: Sequence[int | None]) -> tuple[int, Plan | None]:
    """The winner's time (it is the first), and the plan that is faster than it, if any."""
    own = times[0]
    assert own is not None, "the winner is always simulated"
    known = [(time, number) for number, time in enumerate(times) if time is not None]
    best, number = min(known)
    return own, plans[number] if best < own else None


def _memory(area: Area, winner: Candidate) -> Sensitivity | None:
    """None where nothing fits in less memory."""
    low, high = FACTORS
    less = int(area.capacity * low)
    # The front has the fastest layout for any memory.
    fitting = [p for p in area.ranked() if area.peak_bytes[p] <= less]
    if not fitting:
        return None
    smaller = area.candidate(fitting[0])
    best, larger = winner.iteration_ns, None
    wide = Area(area.workers, area.num_devices, area.report)
    wide.bounded = area.wider
    for position in by_bound(wide, range(len(wide.bound_ns))):
        if wide.bound_ns[position] >= best:
            break
        wide.simulate([int(position)])
        if wide.times[int(position)] < best:
            best, larger = wide.times[int(position)], wide.plan(int(position))
    return Sensitivity(
        input="device memory",
        field=f"cluster.{MEMORY}",
        low=low,
        high=high,
        low_ns=smaller.iteration_ns,
        high_ns=best,
        overtaken_low=smaller.plan if smaller.plan != winner.plan else None,
        overtaken_high=larger,
    )
