"""How long iterations of a layout take, and the epochs of a run: what decisions are judged by."""

from __future__ import annotations

from collections.abc import Sequence

from scenarios.schema import Scenario
from sim.cost.profile import Profile
from sim.cost.table import cost_table
from sim.elastic.phases import Layout, Phase, phase_scenario, phases
from sim.engine.choice import iterations
from sim.schedule.build import build_program, build_schedule
from sim.workload.memory import memory_model, peak_bytes


def of_layout(
    layout: Layout, *, cached_layers: int = 0, fills_cache: bool = False, iterations: int = 1
) -> Phase:
    """A phase by itself in such a layout."""
    return Phase(
        index=0,
        first_epoch=0,
        epochs=1,
        layout=layout,
        cached_layers=cached_layers,
        fills_cache=fills_cache,
        iterations=iterations,
    )


class Iterations:
    """Simulated iterations of a scenario's run, each kind of phase once.

    They depend on its plan and cache, and on no decision, so that runs which differ in those alone
    may share them.
    """

    def __init__(self, scenario: Scenario, profile: Profile | None = None) -> None:
        self._scenario, self._profile = scenario, profile
        self._times: dict[tuple[Layout, int, bool], int] = {}

    def time_ns(self, phase: Phase) -> int:
        """One iteration of a phase."""
        key = (phase.layout, phase.cached_layers, phase.fills_cache)
        if key not in self._times:
            one = phase_scenario(self._scenario, phase)
            program = build_program(one)
            costs = cost_table(one, program, self._profile)
            self._times[key] = iterations(program, costs)(costs)
        return self._times[key]

    def run_ns(
        self, frozen_by_epoch: Sequence[int], layouts: Sequence[Layout], caches_from: int | None
    ) -> int:
        """All epochs of a run, without what lies between its phases."""
        cut = phases(self._scenario, frozen_by_epoch, layouts, caches_from)
        return sum(self.time_ns(phase) * phase.iterations * phase.epochs for phase in cut)

    def peak_bytes(self, phase: Phase) -> int:
        """The largest peak of a rank in a phase, by the memory model."""
        one = phase_scenario(self._scenario, phase)
        schedule = build_schedule(one)
        model = memory_model(one, schedule)
        if model is None:
            raise ValueError(f"scenario {self._scenario.name} has no model that takes memory")
        return max(peak_bytes(model, schedule))
