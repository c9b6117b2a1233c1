"""The search on one number of devices: counted, bounded, then simulated as far as needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scenarios.schema import Plan, Scenario
from sim.planner.goodput.run import dollars, expected_days
from sim.planner.layouts.desk import Desk, Place, Survey
from sim.planner.layouts.found import Candidate, Progress, Space
from sim.planner.layouts.front import Key, Record
from sim.planner.layouts.workers import Workers
from sim.workload.flops import model_flops

Report: TypeAlias = Callable[[Progress], None]
Part: TypeAlias = Literal["counting", "simulating", "reasons", "sensitivity"]
ROUND = 48
"""Candidates simulated before the next are chosen: the same for any number of processes, so that
which are simulated does not depend on it."""
_BLOCK = 1 << 14
_TASKS = 8
"""Pieces of a round for each process, so that none waits long for the last."""


class BoundBroken(AssertionError):
    """A simulated time is below what was proved to be its bound: a mistake of this program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounded:
    """Candidates with their peak and bound; see `Survey`."""

    places: NDArray[np.int32]
    peak_bytes: NDArray[np.int64]
    bound_ns: NDArray[np.int64]
    codes: NDArray[np.int16]

    @classmethod
    def none(cls, num_dimensions: int) -> Bounded:
        """No candidates."""
        return cls(
            places=np.zeros((0, 3), np.int32),
            peak_bytes=np.zeros(0, np.int64),
            bound_ns=np.zeros(0, np.int64),
            codes=np.zeros((0, num_dimensions), np.int16),
        )

    def where(self, chosen: NDArray[np.bool_]) -> Bounded:
        """Those of them that are chosen."""
        return Bounded(
            places=self.places[chosen],
            peak_bytes=self.peak_bytes[chosen],
            bound_ns=self.bound_ns[chosen],
            codes=self.codes[chosen],
        )


class Area:
    """All candidates on one number of devices, and what is known of each.

    Candidates that fit have positions, in the order of their space: the plainer before the more
    elaborate. least: see `Survey`; times: of those simulated, by position.
    """

    def __init__(self, workers: Workers, num_devices: int, report: Report) -> None:
        self.workers, self.num_devices, self.report = workers, num_devices, report
        self.space = self.desk.space(num_devices)
        cluster = self.space.scenario.cluster
        assert cluster is not None
        self.capacity = cluster.device.memory
        self.times: dict[int, int] = {}
        self.least: dict[tuple[int, int], tuple[int, Place]] = {}
        self.counted = self.refused = self.over_memory = 0
        self._found: Space | None = None
        self.bounded = self.wider = Bounded.none(len(self.space.dimensions))

    @property
    def desk(self) -> Desk:
        """Where this process evaluates candidates."""
        return self.workers.desk

    def survey(self, beyond: float = 1.0) -> None:
        """Count all candidates, and bound those that fit; and apart from them (`wider`) those that
        a device of `beyond` times the memory would hold."""
        # Rooms of one tensor degree and microbatch share their layers' times: a task. The smallest
        # microbatches, of which most fits, come first, so that no long task is left for the end.
        tasks: dict[tuple[int, int], list[int]] = {}
        for number, room in enumerate(self.space.rooms):
            tasks.setdefault((room.micro_batch, room.tensor), []).append(number)
        limits = self.capacity, int(self.capacity * beyond)
        calls = [
            ("surveys", (self.num_devices, rooms, *limits)) for _, rooms in sorted(tasks.items())
        ]
        surveys: list[Survey] = []
        for _, found in self.workers.run(calls):
            surveys += found
            self.counted += sum(survey.counted for survey in found)
            self.over_memory += sum(survey.over_memory for survey in found)
            self.tell("counting", self.over_memory)
        surveys.sort(key=lambda survey: survey.room)
        self.refused = self.space.refused_rooms + sum(s.refused for s in surveys)
        for survey in surveys:
            for value, entry in survey.least.items():
                self.least[value] = min(self.least.get(value, entry), entry)
        if surveys:
            every = Bounded(
                places=np.concatenate([s.places for s in surveys]),
                peak_bytes=np.concatenate([s.peak_bytes for s in surveys]),
                bound_ns=np.concatenate([s.bound_ns for s in surveys]),
                codes=np.concatenate([s.codes for s in surveys]),
            )
            fits = every.peak_bytes <= self.capacity
            self.bounded, self.wider = every.where(fits), every.where(~fits)

    @property
    def peak_bytes(self) -> NDArray[np.int64]:
        """Of each candidate that fits, by position."""
        return self.bounded.peak_bytes

    @property
    def bound_ns(self) -> NDArray[np.int64]:
        """Of each candidate that fits, by position."""
        return self.bounded.bound_ns

    def search(self, top: int) -> None:
        """Simulate, cheapest bound first, until the `top` best and the front are known."""
        record = Record(top)
        positions = np.arange(len(self.bound_ns))
        order = np.lexsort((positions, self.peak_bytes, self.bound_ns))
        for start in range(0, len(order), _BLOCK):
            block = order[start : start + _BLOCK]
            while len(block := self._open(block, record)):
                now, block = block[:ROUND], block[ROUND:]
                self.simulate(map(int, now))
                for position in map(int, now):
                    record.add(self.key(position))
                left = len(order) - start - _BLOCK
                self.tell("simulating", self.counted - len(block) - max(0, left))
        smallest = min(self.least.values(), default=None)
        self._found = Space(
            num_devices=self.num_devices,
            counted=self.counted,
            over_memory=self.over_memory,
            bounded=len(self.bound_ns) - len(self.times),
            simulated=len(self.times),
            refused=self.refused,
            sizes={
                name: sum(dimension == number for dimension, _ in self.least)
                for number, name in enumerate(self.space.dimensions)
            },
            smallest_peak_bytes=smallest[0] if smallest else None,
            smallest_plan=self.desk.plan(self.num_devices, smallest[1]) if smallest else None,
        )

    @property
    def found(self) -> Space:
        """What became of the candidates in the search."""
        assert self._found is not None, "the search comes first"
        return self._found

    def _open(self, block: NDArray[np.int64], record: Record) -> NDArray[np.int64]:
        settled = record.settled(self.bound_ns[block], self.peak_bytes[block], block)
        return block[~settled]

    def simulate(self, positions: Iterable[int]) -> None:
        """Simulate those of the candidates that have not been yet.

        Raises BoundBroken.
        """
        new = sorted({p for p in positions if p not in self.times})
        size = max(1, len(new) // (_TASKS * self.workers.jobs))
        pieces = [new[i : i + size] for i in range(0, len(new), size)]
        calls = [
            ("iterations", (self.num_devices, [self.place(p) for p in piece])) for piece in pieces
        ]
        for number, times in self.workers.run(calls):
            self.times.update(zip(pieces[number], times, strict=True))
        for position in new:
            if self.times[position] < self.bound_ns[position]:
                raise BoundBroken(
                    f"{self.plan(position)} takes {self.times[position]} ns, less than its bound "
                    f"of {self.bound_ns[position]} ns"
                )

    def key(self, position: int) -> Key:
        """What a simulated candidate is ranked by."""
        return self.times[position], int(self.peak_bytes[position]), position

    def ranked(self) -> list[int]:
        """The simulated candidates, the fastest first."""
        return sorted(self.times, key=self.key)

    def place(self, position: int) -> Place:
        """Where a candidate is in the space."""
        return Place(*map(int, self.bounded.places[position]))

    def plan(self, position: int) -> Plan:
        """A candidate as a plan."""
        return self.desk.plan(self.num_devices, self.place(position))

    def candidate(self, position: int) -> Candidate:
        """A simulated candidate, with what it amounts to."""
        return candidate_of(
            self.space.scenario,
            self.plan(position),
            iteration_ns=self.times[position],
            bound_ns=int(self.bound_ns[position]),
            peak_bytes=int(self.peak_bytes[position]),
        )

    def with_value(self, dimension: int, code: int) -> NDArray[np.int64]:
        """The candidates that fit and have a value of a dimension, both by number."""
        return np.flatnonzero(self.bounded.codes[:, dimension] == code)

    def tell(self, what: Part, settled: int | None = None) -> None:
        """Report how far the search is."""
        self.report(
            Progress(
                num_devices=self.num_devices,
                counted=self.counted,
                settled=self.counted if settled is None else settled,
                simulated=len(self.times),
                best_ns=min(self.times.values(), default=None),
                what=what,
            )
        )


def candidate_of(
    scenario: Scenario, plan: Plan, *, iteration_ns: int, bound_ns: int, peak_bytes: int
) -> Candidate:
    """A simulated plan of a scenario's model, training and cluster, with what it amounts to."""
    assert scenario.model is not None, "the space asks for it"
    days = expected_days(iteration_ns, plan, scenario)
    flops = model_flops(scenario.model, plan.num_sequences)
    return Candidate(
        plan=plan,
        iteration_ns=iteration_ns,
        bound_ns=bound_ns,
        peak_bytes=peak_bytes,
        num_devices=plan.num_devices,
        tflops_per_gpu=flops / (iteration_ns * plan.num_devices * 1e3),
        days=days,
        dollars=dollars(days, plan, scenario),
    )


def by_bound(area: Area, positions: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Candidates, the least bound first."""
    numbers = np.asarray(positions, np.int64)
    return numbers[np.lexsort((numbers, area.peak_bytes[numbers], area.bound_ns[numbers]))]
