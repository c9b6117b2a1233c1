"""Costs before they are rounded: nanoseconds by category, and the one rounding they get.

An amount may be an array of many pieces' amounts instead of a number (`sim.cost.slices`), except
where it is rounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from sim.cost.costs import Category, Cost

Parts: TypeAlias = Mapping[Category, float]


def summed(pieces: Iterable[tuple[float, Parts]]) -> Parts:
    """The sum of (number of times, parts)."""
    total: dict[Category, float] = {}
    for times, parts in pieces:
        for category, amount in parts.items():
            total[category] = total.get(category, 0.0) + times * amount
    return total


def scaled(parts: Parts, factor: float) -> Parts:
    """Every part times a factor."""
    return {category: factor * amount for category, amount in parts.items()}


def apart_from(category: Category, parts: Parts) -> Parts:
    """The other parts."""
    return {name: amount for name, amount in parts.items() if name != category}


def larger(a: float, b: float) -> float:
    """The larger of two amounts, each a number or an array."""
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return max(a, b)
    from numpy import maximum

    found: float = maximum(a, b)
    return found


def at_least(parts: Parts, host_ns: float) -> Parts:
    """The parts, and as `host` what is missing to a floor: kernels that wait to be launched."""
    if not host_ns:
        return parts
    missing = larger(host_ns - total_ns(parts), 0.0)
    if isinstance(missing, float) and not missing:
        return parts
    return {**parts, "host": parts.get("host", 0.0) + missing}


def total_ns(parts: Parts) -> float:
    """All parts together."""
    return sum(parts.values())


def rounded(parts: Parts) -> Cost:
    """Whole nanoseconds: the total to the nearest, the parts by largest remainder, so that they sum
    to it exactly (ties to the category that comes first)."""
    duration = round(total_ns(parts))
    floors = {category: int(amount) for category, amount in parts.items()}
    missing = duration - sum(floors.values())
    by_remainder = sorted(parts, key=lambda c: floors[c] - parts[c])
    for category in by_remainder[: max(missing, 0)]:
        floors[category] += 1
    for category in reversed(by_remainder):  # float sums may round below the floors' sum
        if missing < 0 and floors[category] > 0:
            floors[category] -= 1
            missing += 1
    return Cost(duration_ns=duration, parts={c: n for c, n in floors.items() if n})
