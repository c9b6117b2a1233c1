"""Schedules as text: the order grid that errors show, and the picture in unit times."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sim.schedule.actions import Action, Kind
from sim.schedule.schedule import Schedule, dependencies

UNIT_TIMES: Mapping[Kind, int] = {
    Kind.FORWARD: 1,
    Kind.BACKWARD: 2,
    Kind.BACKWARD_INPUT: 1,
    Kind.BACKWARD_WEIGHT: 1,
}


def grid(orders: Sequence[Sequence[Action]], marked: Collection[Action] = ()) -> str:
    """The orders as rank x position, long ones cut around the first mark; marks in `>..<`."""
    rows = [[f">{a}<" if a in marked else str(a) for a in order] for order in orders]
    first = min((i for row in rows for i, c in enumerate(row) if c[0] == ">"), default=0)
    start = max(0, first - 6)
    cut = [row[start : start + 14] for row in rows]
    width = max((len(c) for row in cut for c in row), default=1)
    lines = []
    for rank, row in enumerate(cut):
        lead = "... " if start else ""
        tail = " ..." if len(rows[rank]) > start + 14 else ""
        lines.append(f"rank {rank:>2}: {lead}{' '.join(c.ljust(width) for c in row)}{tail}")
    return "\n".join(lines)


def unit_slots(schedule: Schedule) -> list[list[Action | None]]:
    """Each rank's action in every unit of time, None where it idles.

    Forward and the halves of a split backward pass take one unit, a whole backward pass two, and
    messages none. The schedule must be sound (`sim.schedule.checks`).
    """
    end: dict[Action, int] = {}
    clock = [0] * schedule.num_ranks
    position = [0] * schedule.num_ranks
    slots: list[list[Action | None]] = [[] for _ in schedule.orders]
    remaining = sum(map(len, schedule.orders))
    while remaining:
        before = remaining
        for rank, order in enumerate(schedule.orders):
            while position[rank] < len(order):
                action = order[position[rank]]
                needs = dependencies(action, schedule)
                if any(need not in end for need in needs):
                    break
                start = max([clock[rank], *(end[need] for need in needs)])
                length = UNIT_TIMES[action.kind]
                slots[rank] += [None] * (start - clock[rank]) + [action] * length
                clock[rank] = end[action] = start + length
                position[rank] += 1
                remaining -= 1
        if remaining == before:
            raise ValueError("the schedule has a cycle: run sim.schedule.checks on it first")
    width = max(clock, default=0)
    return [row + [None] * (width - len(row)) for row in slots]
