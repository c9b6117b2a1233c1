"""Routes: what each member of a group sends to which other, in the algorithms of
`sim.cost.collectives`.

Members are numbered node by node; `spread` says how many are on each node. Whole bytes, cut as
evenly as they can be, so that sums are exact whatever does not divide. Within a node a ring: of a
reduce-scatter, a member sends all but the shard that it ends with; an all-gather is the same
backwards, and an all-reduce is both (Thakur et al. 2005). Across nodes, the members that hold a
shard pass it on, shard by shard; where nodes have unequal numbers of members, those whose shards
overlap do. Where the cost model takes a tree, the two trees of Sanders et al. 2009.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple, TypeAlias

Routes: TypeAlias = Mapping[tuple[int, int], int]
"""Bytes by (sender, receiver)."""
Form = Literal["all_reduce", "reduce_scatter", "all_gather", "broadcast"]


class Collective(NamedTuple):
    """A collective of `payload_bytes` on each member (all that is there after an all-gather)."""

    form: Form
    payload_bytes: int


@lru_cache(maxsize=4096)
def routes(collective: Collective, spread: tuple[int, ...], *, tree: bool = False) -> Routes:
    """What members of a group so spread send one another in a collective.

    tree: whether an all-reduce goes by tree, within the one node or across nodes. A broadcast goes
    from the first member along all others in turn.
    """
    form, payload = collective
    found: Counter[tuple[int, int]] = Counter()
    size = sum(spread)
    if form == "broadcast":
        return {(i, i + 1): payload for i in range(size - 1)}
    reduces, gathers = form != "all_gather", form != "reduce_scatter"
    both = reduces and gathers
    if len(spread) == 1 and tree and both:
        _trees(range(size), payload, found)
        return dict(found)
    first = 0
    for number in spread:
        members = range(first, first + number)
        _ring(members, payload, found, reduces=reduces, gathers=gathers)
        first += number
    if len(spread) > 1:
        for holders, shard in _shards(spread, payload):
            if tree and both:
                _trees(holders, shard, found)
            else:
                _ring(holders, shard, found, reduces=reduces, gathers=gathers)
    return dict(found)


def _ring(
    members: Sequence[int],
    payload: int,
    found: Counter[tuple[int, int]],
    *,
    reduces: bool,
    gathers: bool,
) -> None:
    """A ring's reduce-scatter, after which the member in place i has share i, and all-gather."""
    number = len(members)
    if number == 1:
        return
    shares = _shares(payload, number)
    for place, member in enumerate(members):
        following = (place + 1) % number
        sent = reduces * (payload - shares[place]) + gathers * (payload - shares[following])
        if sent:
            found[member, members[following]] += sent


def _trees(members: Sequence[int], payload: int, found: Counter[tuple[int, int]]) -> None:
    """Half of the payload up and down each of two trees; who passes on in one is a leaf of the
    other."""
    number = len(members)
    edges = _edges(0, number)
    for shift, half in enumerate(_shares(payload, 2)):
        for child, parent in edges:
            a, b = members[(child + shift) % number], members[(parent + shift) % number]
            if half:
                found[a, b] += half
                found[b, a] += half


def _edges(first: int, number: int) -> list[tuple[int, int]]:
    """The (child, parent) pairs of a binary tree in order over so many places, whose inner nodes
    are all at odd distances from the first."""
    if number < 2:
        return []
    left = (1 << (number.bit_length() - 1)) - 1
    root, right = first + left, number - left - 1
    edges = [(_root(first, left), root), *_edges(first, left)]
    if right:
        edges += [(_root(root + 1, right), root), *_edges(root + 1, right)]
    return edges


def _root(first: int, number: int) -> int:
    return first + (1 << (number.bit_length() - 1)) - 1


def _shards(spread: Sequence[int], payload: int) -> list[tuple[tuple[int, ...], int]]:
    """What is reduced across nodes: the member of each node that holds a shard, and its bytes."""
    ends = [list(accumulate(_shares(payload, number))) for number in spread]
    firsts = [0, *accumulate(spread)]
    cuts = sorted({end for own in ends for end in own})
    places = [0] * len(spread)
    found, begin = [], 0
    for cut in cuts:
        if cut > begin:
            for node, own in enumerate(ends):
                while own[places[node]] <= begin:
                    places[node] += 1
            holders = tuple(firsts[node] + place for node, place in enumerate(places))
            found.append((holders, cut - begin))
            begin = cut
    return found


def _shares(payload: int, number: int) -> list[int]:
    """A payload in so many parts that differ by a byte at most."""
    cuts = [i * payload // number for i in range(number + 1)]
    return [after - before for before, after in pairwise(cuts)]
