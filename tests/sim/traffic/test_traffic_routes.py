"""Who sends what in a collective: conserved to the byte, and as the cost model's algorithms do."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.traffic.routes import Collective, Form, Routes, routes

SPREADS = st.lists(st.integers(1, 9), min_size=1, max_size=6).map(tuple)
FORMS: dict[Form, int] = {"all_reduce": 2, "reduce_scatter": 1, "all_gather": 1, "broadcast": 1}


def sent_by(found: Routes) -> Counter[int]:
    total: Counter[int] = Counter()
    for (sender, _), num_bytes in found.items():
        total[sender] += num_bytes
    return total


def nodes_of(spread: tuple[int, ...]) -> list[int]:
    return [node for node, number in enumerate(spread) for _ in range(number)]


@pytest.mark.parametrize("members", [2, 3, 4, 8])
def test_ring_all_reduce(members: int) -> None:
    payload = members * 1000
    found = routes(Collective("all_reduce", payload), (members,))
    each = 2 * (members - 1) * payload // members
    assert found == {(i, (i + 1) % members): each for i in range(members)}


def test_a_ring_that_does_not_divide() -> None:
    """Shares of 2, 3, 2 and 3: reducing, a member sends all but its own; gathering, all but what
    the next one has."""
    reduced = routes(Collective("reduce_scatter", 10), (4,))
    gathered = routes(Collective("all_gather", 10), (4,))
    assert reduced == {(0, 1): 8, (1, 2): 7, (2, 3): 8, (3, 0): 7}
    assert gathered == {(0, 1): 7, (1, 2): 8, (2, 3): 7, (3, 0): 8}


def test_halves_of_a_ring_sum_to_the_whole() -> None:
    for spread in ((5,), (4, 4), (1, 1, 1), (3, 1)):
        halves: Counter[tuple[int, int]] = Counter()
        for form in ("reduce_scatter", "all_gather"):
            halves.update(routes(Collective(form, 9973), spread))
        assert halves == routes(Collective("all_reduce", 9973), spread)


@settings(max_examples=150)
@given(st.sampled_from(sorted(FORMS)), SPREADS, st.integers(0, 10_000), st.booleans())
def test_conserves_every_byte(
    form: Form, spread: tuple[int, ...], payload: int, tree: bool
) -> None:
    """Every member but one has to hear, and in an all-reduce to be heard, of every byte; so must
    every node but one."""
    found = routes(Collective(form, payload), spread, tree=tree)
    members, node = sum(spread), nodes_of(spread)
    assert sum(found.values()) == FORMS[form] * (members - 1) * payload
    assert all(sender != receiver for sender, receiver in found)
    assert all(0 <= end < members for pair in found for end in pair)
    across = sum(n for (a, b), n in found.items() if node[a] != node[b])
    assert across == FORMS[form] * (len(spread) - 1) * payload


@pytest.mark.parametrize("tree", [False, True])
def test_nodes_share_what_goes_across(tree: bool) -> None:
    """Only members with the same shard meet across nodes, each with its part of the payload."""
    per_node, nodes, payload = 4, 3, 2400
    spread = (per_node,) * nodes
    found = routes(Collective("all_reduce", payload), spread, tree=tree)
    node = nodes_of(spread)
    across = {pair: n for pair, n in found.items() if node[pair[0]] != node[pair[1]]}
    assert all(a % per_node == b % per_node for a, b in across)
    for lane in range(per_node):
        own = sum(n for (a, _), n in across.items() if a % per_node == lane)
        assert own == 2 * (nodes - 1) * payload // per_node
    if not tree:
        leaving = sent_by(across)
        assert set(leaving.values()) == {2 * (nodes - 1) * payload // (nodes * per_node)}


def test_unequal_nodes_send_whatever_shards_overlap() -> None:
    found = routes(Collective("reduce_scatter", 600), (2, 3))
    node = nodes_of((2, 3))
    across = {pair: n for pair, n in found.items() if node[pair[0]] != node[pair[1]]}
    # Shards of 300 against shards of 200: the middle one of three lies in both halves. Each node
    # ends with half of every overlap.
    assert across == {
        (0, 2): 100,
        (0, 3): 50,
        (1, 3): 50,
        (1, 4): 100,
        (2, 0): 100,
        (3, 0): 50,
        (3, 1): 50,
        (4, 1): 100,
    }


@pytest.mark.parametrize("members", range(3, 40))
def test_trees_share_the_load(members: int) -> None:
    """No member sends more than twice the payload, each passes on in one tree at most, and either
    tree reaches every member in a logarithmic number of steps."""
    payload = 2
    found = routes(Collective("all_reduce", payload), (members,), tree=True)
    assert max(sent_by(found).values()) <= 2 * payload
    steps = {0: 0}
    reached = [0]
    for member in reached:
        for a, b in found:
            if a == member and b not in steps:
                steps[b] = steps[a] + 1
                reached.append(b)
    assert len(steps) == members
    assert max(steps.values()) <= 2 * math.ceil(math.log2(members))
