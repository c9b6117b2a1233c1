"""The balance of stages against every cut there is."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.elastic.balance import balanced, largest

COSTS = st.lists(st.integers(0, 9).map(float), min_size=1, max_size=8)
ENDS = st.tuples(st.integers(0, 9).map(float), st.integers(0, 9).map(float))


def cuts(num_items: int, stages: int, together: int) -> list[tuple[int, ...]]:
    found = []
    for places in combinations(range(1, num_items), stages - 1):
        counts = tuple(b - a for a, b in pairwise((0, *places, num_items)))
        if counts[0] >= together:
            found.append(counts)
    return found


@given(costs=COSTS, ends=ENDS, data=st.data())
def test_no_other_cut_is_better(
    costs: list[float], ends: tuple[float, float], data: st.DataObject
) -> None:
    together = data.draw(st.integers(0, len(costs)))
    stages = data.draw(st.integers(1, len(costs) - max(together, 1) + 1))
    found = balanced(costs, stages, ends=ends, together=together)
    ways = cuts(len(costs), stages, together)
    assert found in ways
    least = min(largest(costs, way, ends) for way in ways)
    assert largest(costs, found, ends) == least

    def squares(way: tuple[int, ...]) -> float:
        first, total = 0, 0.0
        for stage, count in enumerate(way):
            cost = sum(costs[first : first + count])
            cost += (stage == 0) * ends[0] + (stage == len(way) - 1) * ends[1]
            total, first = total + cost * cost, first + count
        return total

    ways = [way for way in ways if largest(costs, way, ends) == least]
    assert squares(found) == min(squares(way) for way in ways)


def test_equal_items_are_shared_out_evenly() -> None:
    assert sorted(balanced([1.0] * 12, 8)) == [1, 1, 1, 1, 2, 2, 2, 2]
    assert balanced([1.0] * 12, 4) == (3, 3, 3, 3)


def test_ends_weigh_on_their_stages() -> None:
    assert balanced([1.0] * 5, 3, ends=(1.0, 0.0)) == (1, 2, 2)
    assert balanced([1.0] * 7, 3, ends=(0.0, 9.0)) == (3, 3, 1)


def test_items_that_stay_together_may_leave_too_few() -> None:
    assert balanced([0.0] * 4 + [1.0, 1.0], 3, together=4) == (4, 1, 1)
    with pytest.raises(ValueError, match="6 items, of which 5 stay together, cannot fill 3 stages"):
        balanced([1.0] * 6, 3, together=5)
