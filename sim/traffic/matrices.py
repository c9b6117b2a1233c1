"""Matrices: who sends how much to whom, in a size that can be looked at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Literal

from scenarios.schema import Scenario
from sim.cost.links import devices_by_rank
from sim.traffic.found import Flow, Matrix
from sim.traffic.routes import Routes

MAX_ENDS = 64
"""Devices up to which each is an end of the matrix, and the most nodes that are."""


def matrix_of(sent: Mapping[Flow, Routes], scenario: Scenario) -> Matrix:
    """The matrix of a plan's devices; of their nodes where there are more than MAX_ENDS devices,
    and of the nodes of the first replicas where there are more than that; of pipeline ranks, all
    their copies together, where there is no cluster."""
    plan, cluster = scenario.plan, scenario.cluster
    held = devices_by_rank(plan)
    holders: dict[int, tuple[int, int, int]] = {
        device: (rank, *divmod(place, plan.tensor))
        for rank, devices in enumerate(held)
        for place, device in enumerate(devices)
    }
    if cluster is None:
        end_of = {device: rank for device, (rank, _, _) in holders.items()}
        kind: Literal["device", "node", "rank"] = "rank"
        about = dict.fromkeys(range(plan.pipeline), f"{plan.tensor * plan.data} copies")
        return _matrix(sent, kind, end_of, tuple(range(plan.pipeline)), about)
    if len(holders) <= MAX_ENDS:
        about = {device: _holder(*where) for device, where in holders.items()}
        return _matrix(sent, "device", {d: d for d in holders}, tuple(sorted(holders)), about)
    end_of = {device: device // cluster.devices_per_node for device in holders}
    own: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for device, where in holders.items():
        own[end_of[device]].append(where)
    about = {end: _holders(held_there) for end, held_there in own.items()}
    ends = tuple(sorted(own))
    if len(ends) <= MAX_ENDS:
        return _matrix(sent, "node", end_of, ends, about)
    shown: set[int] = set()
    replicas = 0
    for replica in range(plan.data):
        own_nodes = {end_of[d] for d, (_, i, _) in holders.items() if i == replica}
        if len(shown | own_nodes) > MAX_ENDS:
            break
        shown |= own_nodes
        replicas += 1
    whose = "the first replica" if replicas == 1 else f"the first {replicas} replicas"
    if not replicas:
        # Ranks are numbered along the pipeline.
        for device in (d for devices in held for d in devices[: plan.tensor]):
            if len(shown) < MAX_ENDS or end_of[device] in shown:
                shown.add(end_of[device])
        whose = "the first pipeline ranks of the first replica"
    return _matrix(sent, "node", end_of, tuple(sorted(shown)), about, whose)


def _matrix(
    sent: Mapping[Flow, Routes],
    kind: Literal["device", "node", "rank"],
    end_of: Mapping[int, int],
    ends: tuple[int, ...],
    about: Mapping[int, str],
    whose: str = "",
) -> Matrix:
    place = {end: i for i, end in enumerate(ends)}
    flows: dict[Flow, tuple[tuple[int, ...], ...]] = {}
    kept = left = 0
    for flow, pairs in sent.items():
        rows = [[0] * len(ends) for _ in ends]
        for (source, target), num_bytes in pairs.items():
            row, column = place.get(end_of[source]), place.get(end_of[target])
            if row is None:
                continue
            if column is None:
                left += num_bytes
            else:
                rows[row][column] += num_bytes
                kept += num_bytes
        flows[flow] = tuple(map(tuple, rows))
    every = len(set(end_of.values()))
    note = ""
    if whose:
        note = (
            f"{len(ends)} of {every} nodes: those of {whose}; "
            f"{100 * left / max(1, kept + left):.1f} % of what they send goes to nodes not shown."
        )
    return Matrix(
        ends=kind,
        labels=tuple(map(str, ends)),
        about=tuple(about[end] for end in ends),
        flows=flows,
        shown=len(ends),
        of=every,
        note=note,
    )


def _holder(rank: int, replica: int, part: int) -> str:
    return f"pipeline rank {rank}, replica {replica}, tensor rank {part}"


def _holders(own: list[tuple[int, int, int]]) -> str:
    """What a node holds: its pipeline ranks and replicas, each from first to last."""
    ranks, replicas = ({where[axis] for where in own} for axis in (0, 1))
    return f"{_several('pipeline rank', ranks)}, {_several('replica', replicas)}"


def _several(noun: str, numbers: set[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{noun} {low}" if low == high else f"{noun}s {low} to {high}"
