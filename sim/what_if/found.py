"""What was asked of a layout, and the answers: freed, near, sensitive, break-even, scaled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scenarios.schema import Plan
from sim.planner.layouts.found import Sensitivity


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """The iteration, were something free: simulated again without it.

    what: its name, as `tensor_parallel` (a category of costs) or `bubble` (`sim.what_if.freeing`
    has them all); words: as a reader calls it. share: of rank-time that it takes now; None where
    that is not counted apart. iteration_ns: without it.
    gain: how much shorter the iteration is then, as a fraction of it; below 0 where it is longer.
    """

    what: str
    words: str
    share: float | None
    iteration_ns: int
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A layout that differs from the given one in one decision, all else as it is.

    field, value: what is otherwise, as in a plan (`micro_batch`, `2`); where another field has to
    follow (data with tensor), `plan` has both, `field` the one that was meant and `also` the other
    one (`data 4`).
    iteration_ns: simulated; None where it does not fit in memory and so was not simulated.
    peak_bytes: of the fullest rank, exact. days, dollars: of the whole run; None where unknown.
    slower: its time over the given one's, less 1; None without a time.
    on_front: neither the given layout nor another neighbour beats it in both time and memory.
    """

    field: str
    value: str
    plan: Plan
    iteration_ns: int | None
    peak_bytes: int
    fits: bool
    slower: float | None
    days: float | None
    dollars: float | None
    on_front: bool
    also: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """Where an input has to be for a neighbour to be as fast as the given layout.

    input, field: as of a Sensitivity. now, at: its value in the scenario, and where the two are
    equal, both in the field's own unit (`unit`: bytes/s, s, bytes, fraction).
    below: whether the neighbour is faster below `at` (else above). For the device's memory: whether
    below `at` the given layout no longer fits, and the neighbour does (else above it the neighbour,
    which is faster, fits as well).
    iteration_ns: of both at `at`; for the device's memory, of the neighbour.
    """

    input: str
    field: str
    unit: str
    now: float
    at: float
    below: bool
    neighbour: Neighbour
    iteration_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPoint:
    """The layout on another number of devices.

    kind: `strong`: the global batch stays; `weak`: it grows with the devices.
    num_devices, data, global_batch: of the point. efficiency: work done per device and second over
    that of the fewest devices of its kind. peak_bytes, fits: as elsewhere; days, dollars: of the
    whole run, None where unknown. is_own: whether it is the given layout itself.
    """

    kind: Literal["strong", "weak"]
    num_devices: int
    data: int
    global_batch: int
    iteration_ns: int
    tokens_per_s: float
    tflops_per_gpu: float
    efficiency: float
    peak_bytes: int
    fits: bool
    days: float | None
    dollars: float | None
    is_own: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """All of it, for one prediction; what cannot be asked of its scenario is empty.

    freed: most gain first. neighbours: fastest first, those that do not fit last.
    sensitivities: largest effect first. break_evens: nearest to the scenario's own value first.
    scaling: by kind, then by devices. left_out: in words, what was not asked and why.
    plan: the given one, from which neighbours differ.
    """

    iteration_ns: int
    peak_bytes: int | None
    freed: tuple[Freed, ...]
    neighbours: tuple[Neighbour, ...] = ()
    sensitivities: tuple[Sensitivity, ...] = ()
    break_evens: tuple[BreakEven, ...] = ()
    scaling: tuple[ScalingPoint, ...] = ()
    left_out: tuple[str, ...] = ()
    plan: Plan | None = None
