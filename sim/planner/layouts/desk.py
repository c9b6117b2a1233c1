"""Where candidates are evaluated: a desk in each process, with all that its candidates share."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scenarios.schema import Plan, Scenario
from sim.cost.profile import Profile
from sim.cost.table import cost_table
from sim.engine.choice import simulate
from sim.planner.layouts.evaluation import Evaluator
from sim.planner.layouts.space import Cell, LayoutSpace, Spread
from sim.schedule.build import build_program, build_schedule
from sim.timeline.figures import figures
from sim.workload.memory import memory_model, peak_bytes

_ROOMS_KEPT = 256


class Evaluates(Protocol):
    """What a search asks of a plan (`sim.planner.layouts.evaluation.Evaluator`)."""

    def peak_bytes(self, plan: Plan) -> int:
        """The largest peak of a rank, exactly."""
        ...

    def bound_ns(self, plan: Plan) -> int:
        """No more than `iteration_ns`."""
        ...

    def iteration_ns(self, plan: Plan) -> int:
        """The simulated iteration."""
        ...


MakeEvaluator: TypeAlias = Callable[[Scenario, Profile | None], Evaluates]


class Place(NamedTuple):
    """Which candidate: the numbers of its room, of its cell there, of its spread there."""

    room: int
    cell: int
    spread: int


class Inputs(NamedTuple):
    """A scenario's hardware, and the profile of it, as a sensitivity changes them."""

    scenario: Scenario
    profile: Profile | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What is known of a room without simulating.

    counted, refused: candidates, and combinations of fields that the rules do not allow.
    over_memory: candidates whose peak is over the capacity.
    least: by dimension and code of a value (the number of it in the dimension's domain), the least
    peak of a candidate that has it, those over memory included, and the first that has that peak.
    places: (n, 3) int32, peak_bytes, bound_ns: (n,) int64: the candidates that were bounded.
    codes: (n, dimensions) int16: the codes of their values.
    """

    room: int
    counted: int
    refused: int
    over_memory: int
    least: Mapping[tuple[int, int], tuple[int, Place]]
    places: NDArray[np.int32]
    peak_bytes: NDArray[np.int64]
    bound_ns: NDArray[np.int64]
    codes: NDArray[np.int16]


class Desk:
    """Evaluates the candidates of one search."""

    def __init__(
        self,
        scenario: Scenario,
        profile: Profile | None = None,
        only: Mapping[str, Sequence[object]] | None = None,
        make: MakeEvaluator = Evaluator,
    ) -> None:
        self.scenario, self.profile, self.only, self.make = scenario, profile, only, make
        self.space = lru_cache(maxsize=None)(self._space)
        self.cells = lru_cache(maxsize=_ROOMS_KEPT)(self._cells)
        self.evaluator = lru_cache(maxsize=4)(self._evaluator)

    def plan(self, num_devices: int, place: Place) -> Plan:
        """A candidate as a plan."""
        cell = self.cells(num_devices, place.room)[place.cell]
        return self.space(num_devices).plan(cell, cell.spreads[place.spread])

    def surveys(
        self, num_devices: int, rooms: Sequence[int], capacity: int, beyond: int
    ) -> list[Survey]:
        """Survey several rooms in a row."""
        # Of the million objects that are kept none is garbage, and scanning them takes a tenth.
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            return [self.survey(num_devices, room, capacity, beyond) for room in rooms]
        finally:
            if was_enabled:
                gc.enable()

    def survey(self, num_devices: int, room: int, capacity: int, beyond: int) -> Survey:
        """Count a room's candidates, those over `capacity` bytes apart, and bound those whose peak
        is not over `beyond`."""
        space, evaluator = self.space(num_devices), self.evaluator(num_devices)
        names = space.dimensions
        numbers = [{value: i for i, value in enumerate(space.domain(name))} for name in names]
        spread_at = [
            (dimension, Spread._fields.index(name))
            for dimension, name in enumerate(names)
            if name in Spread._fields
        ]
        least: dict[tuple[int, int], tuple[int, Place]] = {}
        counted = over = 0
        rows: list[tuple[Place, int, int, tuple[int, ...]]] = []
        found = space.cells(space.rooms[room])
        for at, cell in enumerate(found.cells):
            first = Place(room, at, 0)
            peak = evaluator.peak_bytes(space.plan(cell, cell.spreads[0]))
            counted += len(cell.spreads)
            over += len(cell.spreads) if peak > capacity else 0
            code = [
                of[v] for of, v in zip(numbers, space.values(cell, cell.spreads[0]), strict=True)
            ]
            seen = list(enumerate(code))
            for number, spread in enumerate(cell.spreads):
                if number:
                    for dimension, field in spread_at:
                        code[dimension] = numbers[dimension][spread[field]]
                    seen = [(dimension, code[dimension]) for dimension, _ in spread_at]
                place = first._replace(spread=number)
                for value in seen:
                    if value not in least or peak < least[value][0]:
                        least[value] = peak, place
                if peak <= beyond:
                    bound = evaluator.bound_ns(space.plan(cell, spread))
                    rows.append((place, peak, bound, tuple(code)))
        return Survey(
            room=room,
            counted=counted,
            refused=found.refused,
            over_memory=over,
            least=least,
            places=np.array([row[0] for row in rows], np.int32).reshape(-1, 3),
            peak_bytes=np.array([row[1] for row in rows], np.int64),
            bound_ns=np.array([row[2] for row in rows], np.int64),
            codes=np.array([row[3] for row in rows], np.int16).reshape(-1, len(names)),
        )

    def iterations(self, num_devices: int, places: Sequence[Place]) -> list[int]:
        """Simulate candidates: their iterations in nanoseconds."""
        evaluator = self.evaluator(num_devices)
        return [evaluator.iteration_ns(self.plan(num_devices, place)) for place in places]

    def iterations_with(self, inputs: Inputs, plans: Sequence[Plan]) -> list[int | None]:
        """Simulate plans under other inputs: the first, and of the others those that may be
        faster than it; None for the rest."""
        evaluator = self.make(*inputs)
        found: list[int | None] = []
        for plan in plans:
            if found and found[0] is not None and evaluator.bound_ns(plan) >= found[0]:
                found.append(None)
            else:
                found.append(evaluator.iteration_ns(plan))
        return found

    def breakdown(self, scenario: Scenario) -> Mapping[str, float]:
        """The fraction of all rank-time by category, as `predict`'s figures have it."""
        program = build_program(scenario)
        costs = cost_table(scenario, program, self.profile)
        parts = {
            (key.kind.value, key.stage, key.slice_index, key.variant): {
                str(category): ns for category, ns in cost.parts.items()
            }
            for key, cost in costs.costs.items()
        }
        timeline = replace(
            simulate(program, costs, "compiled"), parts=parts, variants=costs.variants
        )
        return figures(timeline, program).breakdown

    def fullest(self, scenario: Scenario) -> tuple[int, int]:
        """The largest peak of a rank, and the first rank that has it."""
        schedule = build_schedule(scenario)
        model = memory_model(scenario, schedule)
        assert model is not None, "there is a model"
        peaks = peak_bytes(model, schedule)
        return max(peaks), peaks.index(max(peaks))

    def _space(self, num_devices: int) -> LayoutSpace:
        return LayoutSpace(self.scenario, num_devices, self.only)

    def _cells(self, num_devices: int, room: int) -> tuple[Cell, ...]:
        space = self.space(num_devices)
        return space.cells(space.rooms[room]).cells

    def _evaluator(self, num_devices: int) -> Evaluates:
        return self.make(self.space(num_devices).scenario, self.profile)
