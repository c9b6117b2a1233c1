"""The best slicing of a scenario: TeraPipe's search by formula, then the candidates simulated.

The formula, sum t + (K - 1) max t over all slices (Li et al. 2021, arXiv 2102.07988, section
3.3), takes all stages as equal, messages as part of each slice's time and memory as unlimited. So
its best splittings, even ones and what lies around the best of them are simulated, with the
scenario's own stages, links and memory, and the fastest that fits is the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scenarios.schema import MicrobatchGroup, Scenario
from sim.cost.profile import Profile, require_device
from sim.cost.slices import SliceTable, slice_table
from sim.cost.table import cost_table
from sim.engine.choice import iterations
from sim.planner.cuts import even, grouped, neighbours, unsliced
from sim.planner.room import fitting_slices
from sim.planner.slicing import NoSplit, best_splitting, frontier
from sim.schedule.build import build_program
from sim.workload.memory import memory_model, peak_bytes
from sim.workload.partition import slice_tokens

GRANULARITY = 8
"""Tokens in a unit of the search unless given, as in the paper's runs."""
SIMULATIONS = 40
"""Candidates that are simulated unless given."""
FEWEST_SIMULATIONS = 4
CHANGED = tuple(f"plan.{name}" for name in ("micro_batch", "microbatches", "slices", "schedule"))
"""Fields of a scenario that its slicing sets."""
_MOST_UNITS = 1024
_FRONTIER = 6
_APART = 0.02


class CannotSlice(ValueError):
    """The scenario has nothing that could be sliced, or no slicing of it is possible."""

    is_bad_input = True


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to cut the batch, simulated.

    how: where it comes from, as `formula` or `8 even slices`.
    groups: its microbatches in runs of equal ones, slices in tokens.
    formula_ns: sum t + (K - 1) max t; None where a slice is not whole units.
    iteration_ns: the simulated iteration, optimizer step and reductions included.
    peak_bytes: the largest peak of a rank; None where memory is unknown.
    """

    how: str
    groups: tuple[MicrobatchGroup, ...]
    scenario: Scenario
    formula_ns: int | None
    iteration_ns: int
    peak_bytes: int | None
    fits: bool

    @property
    def num_slices(self) -> int:
        """Slices of all microbatches."""
        return sum(group.microbatches * group.num_slices for group in self.groups)


@dataclass(frozen=True, kw_only=True)
class SlicingResult:
    """What the search found.

    candidates: all that were simulated: those that fit, by time, then by what they need too much.
    formula: the candidate that the formula chose; whole: the scenario's microbatches unsliced.
    other_order: the best candidate's slices in the other order (1F1B for TeraPipe's and GPipe's,
    TeraPipe's for 1F1B); the formula's where none fits.
    bounds_tried: bounds on the largest slice that the search by formula tried.
    """

    candidates: tuple[Candidate, ...]
    formula: Candidate
    whole: Candidate
    other_order: Candidate
    table: SliceTable
    bounds_tried: int

    @property
    def best(self) -> Candidate:
        """The fastest candidate of those that fit; where none does, the one that needs least."""
        return self.candidates[0]


def with_slices(scenario: Scenario, groups: Sequence[MicrobatchGroup]) -> Scenario:
    """The scenario with its batch cut so: in plan.slices where all microbatches are alike."""
    plan, groups = scenario.plan, tuple(groups)
    if len({(group.micro_batch, group.slices) for group in groups}) > 1:
        plan = replace(
            plan, micro_batch=1, microbatches=None, slices=None, microbatch_groups=groups
        )
    else:
        plan = replace(
            plan,
            micro_batch=groups[0].micro_batch,
            microbatches=sum(group.microbatches for group in groups),
            slices=groups[0].slices,
            microbatch_groups=None,
        )
    return replace(scenario, plan=plan)


def best_slicing(
    scenario: Scenario,
    profile: Profile | None = None,
    *,
    granularity: int = GRANULARITY,
    keep_microbatches: bool = False,
    memory_bytes: int | None = None,
    simulations: int = SIMULATIONS,
    progress: Callable[[str], None] = lambda text: None,
) -> SlicingResult:
    """Search the best split of a scenario's batch into microbatches and token slices.

    granularity: tokens in a unit; slices are whole units. keep_microbatches: cut tokens only, the
    microbatches stay as the plan has them (else the batch is cut as well, which the paper calls the
    joint search). memory_bytes: cap on a device's memory, the device's own unless given.
    simulations: about how many candidates to simulate, at least 4.
    Raises CannotSlice for a scenario without a model, not causal, or where no split fits, and
    ProfileMismatch for a profile of another device.
    """
    scenario = _ready(scenario)
    plan, model = scenario.plan, scenario.model
    assert model is not None and scenario.cluster is not None
    require_device(profile, scenario)
    sequences = plan.num_sequences // plan.data
    sizes = {group.micro_batch for group in plan.groups}
    if keep_microbatches and len(sizes) > 1:
        raise CannotSlice(
            f"{scenario.name} has microbatches of {sorted(sizes)} sequences, which are cut alike "
            "only where they are alike: leave --keep-microbatches out"
        )
    if simulations < FEWEST_SIMULATIONS:
        raise CannotSlice(
            f"{simulations} simulations are too few to compare with one another; "
            f"{FEWEST_SIMULATIONS} would work"
        )
    largest = max(sizes) if keep_microbatches else sequences
    progress(f"costs of slices of up to {largest} x {model.sequence} tokens ...")
    try:
        table = slice_table(scenario, profile, granularity=granularity, max_batch=largest)
    except ValueError as error:
        raise CannotSlice(f"{scenario.name}: {error}") from error
    simulator = _Simulator(scenario, profile, table, memory_bytes)
    allowed = fitting_slices(scenario, table, simulator.capacity)
    if keep_microbatches:
        allowed[[b for b in range(len(allowed)) if b not in sizes]] = False
    units = model.sequence // granularity
    progress(f"searching {units} units x {sequences} sequences x {plan.pipeline} stages ...")
    try:
        best = best_splitting(table.times, sequences, plan.num_stages, allowed=allowed)
        others = frontier(
            table.times,
            sequences,
            num_stages=plan.num_stages,
            allowed=allowed,
            limit=_FRONTIER,
            apart=_APART,
        )
    except NoSplit as error:
        raise CannotSlice(
            f"{scenario.name}: no slice of {granularity} tokens or more fits in memory beside the "
            "weights; more tensor or pipeline ranks, or recomputation, would help"
        ) from error
    formula = simulator.add("formula", grouped(best.microbatches, granularity))
    if not formula.fits and not keep_microbatches:
        _add_smaller(simulator, formula, allowed, sequences)
    whole = simulator.add("unsliced", unsliced(plan.groups))
    for other in others:
        simulator.add("formula, near the best", grouped(other.microbatches, granularity))
    for groups, count in even(formula.groups, units, granularity):
        if simulator.num_tried < max(4, simulations * 2 // 3) and simulator.promising(groups):
            progress(f"simulating {count} even slices ...")
            simulator.add(f"{count} even slices", groups)
    _descend(simulator, granularity, simulations, progress)
    ranked = simulator.ranked()
    order: Literal["1f1b", "terapipe"] = "1f1b"
    if plan.schedule == "1f1b":
        order = "terapipe"
    turned = replace(scenario, plan=replace(plan, schedule=order))
    reordered = _Simulator(turned, profile, table, memory_bytes)
    return SlicingResult(
        candidates=ranked,
        formula=formula,
        whole=whole,
        other_order=reordered.add(
            f"{'the best' if ranked[0].fits else 'formula'}, in {order} order",
            (ranked[0] if ranked[0].fits else formula).groups,
        ),
        table=table,
        bounds_tried=best.bounds_tried,
    )


def resolve(
    scenario: Scenario,
    profile: Profile | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Scenario:
    """The scenario with `slices: optimal` replaced by those that the search finds for its
    microbatches; any other scenario as it is."""
    if scenario.plan.slices != "optimal":
        return scenario
    found = best_slicing(
        scenario,
        profile,
        granularity=_granularity(scenario),
        keep_microbatches=True,
        progress=progress,
    )
    return found.best.scenario


def _granularity(scenario: Scenario) -> int:
    """Tokens in a unit where nobody gives them: of those that make a sequence at most 1024 whole
    units, which sequence parallelism can share out, as many as in the paper, or nearly."""
    model, plan = scenario.model, scenario.plan
    assert model is not None, "scenarios.slice_rules asks for it"
    step, length = plan.tensor if plan.sequence_parallel else 1, model.sequence
    whole = [g for g in range(step, length + 1, step) if length % g == 0]
    fitting = [g for g in whole if length // g <= _MOST_UNITS]
    if fitting == [length] and length > GRANULARITY:
        raise CannotSlice(
            f"{scenario.name} has sequences of {length} tokens, which divide into no equal units "
            f"to search: `model.sequence={length // 64 * 64 or 64}` would work"
        )
    return min(fitting, key=lambda g: (abs(g - GRANULARITY), g))


def _ready(scenario: Scenario) -> Scenario:
    """The scenario with whole microbatches, in an order that runs slices."""
    model, plan = scenario.model, scenario.plan
    if model is None or scenario.cluster is None:
        raise CannotSlice(
            f"{scenario.name} has no model or no cluster: the search needs to know what a slice "
            "costs, so give both"
        )
    if not model.causal:
        raise CannotSlice(
            f"{scenario.name} is of family {model.family}: only causal attention (gpt) can be cut "
            "into token slices"
        )
    if plan.slices == "optimal":
        scenario = replace(scenario, plan=replace(plan, slices=None))
    if plan.schedule in ("interleaved", "given"):
        raise CannotSlice(
            f"{scenario.name} has `schedule: {plan.schedule}`, whose order is of whole "
            "microbatches; `--set plan.schedule=terapipe` would work"
        )
    return scenario


class _Simulator:
    """Simulates candidates, each once."""

    def __init__(
        self,
        scenario: Scenario,
        profile: Profile | None,
        table: SliceTable,
        memory_bytes: int | None,
    ) -> None:
        self.scenario, self.profile, self.table = scenario, profile, table
        assert scenario.cluster is not None and scenario.model is not None
        self.sequence = scenario.model.sequence
        self.capacity = memory_bytes or scenario.cluster.device.memory
        self._found: dict[tuple[MicrobatchGroup, ...], Candidate] = {}

    @property
    def num_tried(self) -> int:
        """Candidates simulated so far."""
        return len(self._found)

    def add(self, how: str, groups: Sequence[MicrobatchGroup]) -> Candidate:
        """Simulate one iteration with the batch cut so."""
        key = tuple(groups)
        if key not in self._found:
            scenario = with_slices(self.scenario, key)
            program = build_program(scenario)
            costs = cost_table(scenario, program, self.profile)
            iteration_ns = iterations(program, costs, times=SIMULATIONS)(costs)
            memory = memory_model(scenario, program)
            peak = max(peak_bytes(memory, program.schedule)) if memory is not None else None
            self._found[key] = Candidate(
                how=how,
                groups=key,
                scenario=scenario,
                formula_ns=self._formula_ns(key),
                iteration_ns=iteration_ns,
                peak_bytes=peak,
                fits=peak is None or peak <= self.capacity,
            )
        return self._found[key]

    def promising(self, groups: Sequence[MicrobatchGroup]) -> bool:
        """Whether a cut is worth its simulation: not where it takes more than twice as long as the
        fastest by the formula, as many short slices do; four times where nothing fits yet."""
        fitting = [c.formula_ns for c in self._found.values() if c.fits and c.formula_ns]
        tried = [c.formula_ns for c in self._found.values() if c.formula_ns]
        own = self._formula_ns(tuple(groups))
        return own is None or own <= (2 * min(fitting) if fitting else 4 * min(tried))

    def rank(self, candidate: Candidate) -> tuple[int, int]:
        """What is less is better: the memory that is missing, then the time."""
        missing = 0 if candidate.fits else (candidate.peak_bytes or 0) - self.capacity
        return missing, candidate.iteration_ns

    def ranked(self) -> tuple[Candidate, ...]:
        """All candidates, the best first; of equal ones the one of fewest slices."""
        return tuple(
            sorted(
                self._found.values(),
                key=lambda c: (*self.rank(c), c.num_slices, str(c.groups)),
            )
        )

    def _formula_ns(self, groups: Sequence[MicrobatchGroup]) -> int | None:
        total = largest = 0
        unit, times = self.table.granularity, self.table.times
        for group in groups:
            context = 0
            for tokens in slice_tokens(group, self.sequence):
                if tokens % unit or group.micro_batch >= len(times):
                    return None
                time = int(times[group.micro_batch, tokens // unit, context // unit])
                total += group.microbatches * time
                largest = max(largest, time)
                context += tokens
        return total + (self.scenario.plan.num_stages - 1) * largest


def _add_smaller(
    simulator: _Simulator, formula: Candidate, allowed: NDArray[np.bool_], sequences: int
) -> None:
    """The formula's choices from smaller and smaller microbatches, until one fits in memory."""
    table, stages = simulator.table, simulator.scenario.plan.num_stages
    allowed = allowed.copy()
    most = max(group.micro_batch for group in formula.groups) // 2
    while most:
        allowed[most + 1 :] = False
        try:
            best = best_splitting(table.times, sequences, stages, allowed=allowed)
        except NoSplit:
            return
        how = f"formula, microbatches of at most {most}"
        if simulator.add(how, grouped(best.microbatches, table.granularity)).fits:
            return
        most //= 2


def _descend(
    simulator: _Simulator, granularity: int, simulations: int, progress: Callable[[str], None]
) -> None:
    """Move tokens between neighbouring slices of the best so far, join or halve them, as long as
    one of these is faster and simulations are left."""
    step = 0
    while simulator.num_tried < simulations:
        best = simulator.ranked()[0]
        if not best.fits:  # What needs least has the most slices, each step away as dear again.
            return
        for groups in neighbours(best.groups, simulator.sequence, granularity):
            if simulator.num_tried >= simulations:
                return
            found = simulator.add("around the best", groups)
            if simulator.rank(found) < simulator.rank(best):
                step += 1
                progress(f"improvement {step}: {found.iteration_ns / 1e6:,.1f} ms ...")
                break
        else:
            return
