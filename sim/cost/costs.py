"""What engines ask of costs: durations of actions, transfers of messages. Integer nanoseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from sim.schedule.actions import Action, Kind

Category = Literal[
    "matmul",
    "attention",
    "memory_bound",
    "launch",
    "recomputation",
    "tensor_parallel",
    "optimizer",
    "host",
    "data_loading",
    "cache",
    "point_to_point",
    "data_parallel",
    "weight_gather",
    "tied_embedding",
    "gradient_norm",
    "measured",
    "given",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Time of one action on its lane and the categories it consists of, which sum to it.

    hidden_ns: for a reduction that overlaps with the backward pass: how much of it can lie before
    the end of the stage's last pass, as its first buckets are full by then.
    """

    duration_ns: int
    parts: Mapping[Category, int]
    hidden_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A message between two ranks: it holds each of `resources` (links, by number; ascending) for
    `occupancy_ns`, all at once, first come first served, and arrives `latency_ns` later."""

    occupancy_ns: int
    latency_ns: int
    resources: tuple[int, ...]
    payload_bytes: int


class Costs(Protocol):
    """What an engine needs to know about time."""

    @property
    def processors(self) -> tuple[int, ...]:
        """Of each rank the processor that it computes on, where ranks share some; else empty."""
        ...

    def duration_ns(self, action: Action) -> int:
        """Time on the action's lane.

        For a SEND, the processor time of posting it, for a RECV that of unpacking it (both on the
        compute lane, beside the transfer); for a reduction, the time once all ranks have come.
        """
        ...

    def hidden_ns(self, action: Action) -> int:
        """How much of an overlapped reduction can lie before the end of the pass it follows."""
        ...

    def transfer(self, message: Action) -> Transfer:
        """The transfer of a message, by its SEND action."""
        ...


class CostKey(NamedTuple):
    """What a cost depends on: of the microbatch only its size and slicing (its variant in
    `Plan.variants`)."""

    kind: Kind
    stage: int
    slice_index: int = 0
    pipe: int = 0
    variant: int = 0


_FREE = Cost(duration_ns=0, parts={})
_AT_ONCE = Transfer(occupancy_ns=0, latency_ns=0, resources=(), payload_bytes=0)


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """Costs by (kind, stage, slice, pipe, variant); what is not listed is free.

    variants: of each microbatch its variant; empty where they are all alike.
    processors: see Costs; what other pipelines' ranks make longer is in the costs already.
    assumed: (what, share of the compute time) for each cost taken outside the range in which its
    model was measured, for the reader.
    """

    costs: Mapping[CostKey, Cost]
    transfers: Mapping[CostKey, Transfer] = field(default_factory=dict)
    variants: tuple[int, ...] = ()
    processors: tuple[int, ...] = ()
    assumed: tuple[tuple[str, float], ...] = ()

    def cost(self, action: Action) -> Cost:
        """Duration and parts of an action."""
        return self.costs.get(self.key(action), _FREE)

    def duration_ns(self, action: Action) -> int:
        """See Costs."""
        return self.cost(action).duration_ns

    def hidden_ns(self, action: Action) -> int:
        """See Costs."""
        return self.cost(action).hidden_ns

    def transfer(self, message: Action) -> Transfer:
        """See Costs."""
        return self.transfers.get(self.key(message), _AT_ONCE)

    def key(self, action: Action) -> CostKey:
        """Under which the cost of an action is listed."""
        kind, stage, microbatch, slice_index, pipe = action
        if self.variants and microbatch is not None and kind is not Kind.EXCHANGE:
            return CostKey(kind, stage, slice_index, pipe, self.variants[microbatch])
        return CostKey(kind, stage, slice_index, pipe)


@dataclass(frozen=True, kw_only=True)
class ActionCosts:
    """Costs given for every single action: a measured run's own, or drawn from a distribution.

    processors: see Costs; a measured run's times have the sharing of processors in them.
    """

    durations: Mapping[Action, int]
    transfers: Mapping[Action, Transfer] = field(default_factory=dict)
    hidden: Mapping[Action, int] = field(default_factory=dict)
    processors: tuple[int, ...] = ()

    def duration_ns(self, action: Action) -> int:
        """See Costs."""
        return self.durations.get(action, 0)

    def hidden_ns(self, action: Action) -> int:
        """See Costs."""
        return self.hidden.get(action, 0)

    def transfer(self, message: Action) -> Transfer:
        """See Costs."""
        return self.transfers.get(message, _AT_ONCE)
