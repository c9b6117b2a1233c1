"""What a layout search found: candidates, what became of them, the best, the front, the reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from scenarios.schema import Plan, Scenario

Objective = Literal["time", "cost", "gpus"]
Fate = Literal["simulated", "over_memory", "bounded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One layout that was simulated.

    iteration_ns: simulated. bound_ns: what it was known to need at least, before that.
    peak_bytes: the largest peak of a rank. num_devices: of the plan.
    days: that the whole training run is expected to take, with the failures, restarts and
    checkpoints that the scenario tells of (not its stragglers and jitter), and dollars it costs;
    None where tokens or price are unknown, or where no end is to be expected.
    """

    plan: Plan
    iteration_ns: int
    bound_ns: int
    peak_bytes: int
    num_devices: int
    tflops_per_gpu: float
    days: float | None
    dollars: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The candidates of one number of devices, each counted once.

    counted: all layouts that the plan's rules allow; = over_memory + bounded + simulated.
    over_memory: those that do not fit, by the exact memory model. bounded: those that a lower bound
    of their time shows to be no better than one that was simulated.
    refused: combinations that the rules do not allow, which are not counted among the candidates.
    sizes: how many values each dimension has among the candidates.
    smallest_peak_bytes: the peak of the layout that needs least memory, `smallest_plan`; None where
    there is no candidate.
    """

    num_devices: int
    counted: int
    over_memory: int
    bounded: int
    simulated: int
    refused: int
    sizes: Mapping[str, int] = field(default_factory=dict)
    smallest_peak_bytes: int | None = None
    smallest_plan: Plan | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a search is, in one number of devices.

    counted: candidates; settled: of them over memory, bounded or simulated so far.
    best_ns: the fastest iteration so far; None before the first.
    what: which part of the search goes on.
    """

    num_devices: int
    counted: int
    settled: int
    simulated: int
    best_ns: int | None
    what: Literal["counting", "simulating", "reasons", "sensitivity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """Why not: the best layout with another value of one dimension.

    field: as `tensor` or `recomputation`; value: as written in a plan; chosen: the winner's value.
    candidate: the best layout that has it; None where none fits (`missing_bytes` then is what the
    one that needs least is over the device's memory) or none is allowed.
    slower: its time over the winner's, less 1.
    reason: what it costs, in words: the category of time that grew most, and why.
    """

    field: str
    value: str
    chosen: str
    candidate: Candidate | None
    slower: float | None
    missing_bytes: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What a change of one input does to the winner.

    input: in words, as `inter-node bandwidth`; field: as in a scenario; low, high: the factors
    tried. low_ns, high_ns: the winner's iteration with them. overtaken_low, overtaken_high: the
    layout that is better then, of those that came near the winner; None where the winner stays.
    """

    input: str
    field: str
    low: float
    high: float
    low_ns: int
    high_ns: int
    overtaken_low: Plan | None
    overtaken_high: Plan | None


@dataclass(frozen=True, kw_only=True)
class PlanSearch:
    """The answer of `pipetwin plan`.

    scenario: what was asked: model, cluster, global batch; its own plan is `baseline`'s, simulated
    like the others where it is complete and fits.
    best: by the objective; ranked: the best layouts, best first (`best` is the first); empty where
    none fits.
    front: layouts that no other one beats in time, memory and cost at once, by time.
    spaces: one per number of devices. seconds: how long the search took.
    shares: of the winner's rank-time by category, for the reasons.
    """

    scenario: Scenario
    objective: Objective
    deadline_days: float | None
    ranked: tuple[Candidate, ...]
    front: tuple[Candidate, ...]
    baseline: Candidate | None
    alternatives: tuple[Alternative, ...]
    sensitivities: tuple[Sensitivity, ...]
    spaces: tuple[Space, ...]
    shares: Mapping[str, float]
    seconds: float

    @property
    def best(self) -> Candidate:
        """The best layout by the objective; there is none where `ranked` is empty, as nothing
        fits."""
        return self.ranked[0]

    @property
    def meets_deadline(self) -> bool | None:
        """Whether the best layout does; None where no deadline was asked, or nothing fits."""
        if self.deadline_days is None or not self.ranked or self.best.days is None:
            return None
        return self.best.days <= self.deadline_days
