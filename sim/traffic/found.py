"""Traffic of an iteration: between whom, of what, over which links."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Flow = Literal[
    "point_to_point", "tensor_parallel", "data_parallel", "weight_gather", "tied_embedding"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Bytes sent in one iteration from each end (row) to each (column).

    ends: what a row is: `device` or `node`, numbered as the cluster's; `rank` of the pipeline where
    there is no cluster. labels: of the rows. bytes: per flow, row by row; the sum over flows is the
    traffic. shown, of: how many of the cluster's ends are in it (large clusters: the ends of the
    first replicas, as the others repeat them; `note` says so).
    """

    ends: Literal["device", "node", "rank"]
    labels: tuple[str, ...]
    flows: dict[Flow, tuple[tuple[int, ...], ...]]
    shown: int
    of: int
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkUse:
    """How much a kind of link carries over the iteration.

    link: in words, as `NVLink of a device`. bandwidth_bytes_per_s: one way.
    busiest_bytes, mean_bytes: sent one way in an iteration over the kind's busiest link, and on
    average. utilisation: of the busiest: its bytes over what it could carry in the iteration.
    flows: the busiest link's bytes by flow.
    """

    link: str
    bandwidth_bytes_per_s: float
    busiest: str
    busiest_bytes: int
    mean_bytes: float
    utilisation: float
    flows: dict[Flow, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Everything sent in an iteration, by flow in bytes over all devices, the matrix and links."""

    iteration_ns: int
    total_bytes: dict[Flow, int]
    matrix: Matrix
    links: tuple[LinkUse, ...]
