"""Traffic of an iteration: between whom, of what, over which links."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Flow = Literal[
    "point_to_point",
    "tensor_parallel",
    "data_parallel",
    "weight_gather",
    "tied_embedding",
    "gradient_norm",
]
FLOWS: tuple[Flow, ...] = get_args(Flow)


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Bytes sent in one iteration from each end (row) to each (column).

    ends: what a row is: `device` or `node`, numbered as the cluster's; `rank` of the pipeline where
    there is no cluster. labels: of the rows. about: what each holds, in words. bytes: per flow, row
    by row; the sum over flows is the traffic. shown, of: how many of the plan's ends are in it
    (large clusters: the ends of the first replicas, as the others repeat them; `note` says so).
    """

    ends: Literal["device", "node", "rank"]
    labels: tuple[str, ...]
    about: tuple[str, ...]
    flows: Mapping[Flow, tuple[tuple[int, ...], ...]]
    shown: int
    of: int
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkUse:
    """How much a kind of link carries over the iteration.

    link: in words, as `NIC`. bandwidth_bytes_per_s: one way, as the scenario has it.
    busiest: which one. busiest_bytes, mean_bytes: carried in an iteration in the busier direction
    of the kind's busiest link, and one way on average over all of them. utilisation: of the
    busiest: its bytes over what it could carry in the iteration. flows: the busiest link's bytes by
    flow.
    """

    link: str
    bandwidth_bytes_per_s: float
    busiest: str
    busiest_bytes: int
    mean_bytes: float
    utilisation: float
    flows: Mapping[Flow, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Everything sent in an iteration, by flow in bytes over all devices, the matrix and links.

    node_bytes: of the total, what stays in its node; None without a cluster. rank_bytes: sent by
    all devices of each pipeline rank.
    """

    iteration_ns: int
    num_devices: int
    total_bytes: Mapping[Flow, int]
    node_bytes: Mapping[Flow, int] | None
    rank_bytes: tuple[Mapping[Flow, int], ...]
    matrix: Matrix
    links: tuple[LinkUse, ...]

    @property
    def sent_bytes(self) -> int:
        """Sent by all devices, of all flows."""
        return sum(self.total_bytes.values())

    @property
    def near_share(self) -> float | None:
        """The share of it that stays in its node; None without a cluster, or where nothing is
        sent."""
        if self.node_bytes is None or not self.sent_bytes:
            return None
        return sum(self.node_bytes.values()) / self.sent_bytes
