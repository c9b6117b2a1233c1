"""What a candidate layout needs: its peak of memory, a lower bound of its time, its time."""

from __future__ import annotations

from collections import Counter

from scenarios.schema import Plan, Scenario
from sim.cost.profile import Profile, require_device
from sim.cost.table import cost_table
from sim.engine.compiled import evaluate
from sim.engine.encoding import encode, price
from sim.engine.shapes import encoded_shape
from sim.planner.layouts.bounds import bound_ns
from sim.planner.layouts.costs import CostBook
from sim.planner.layouts.cuts import Cuts
from sim.planner.layouts.memory import MemoryBook
from sim.planner.layouts.plans import scenario_with
from sim.planner.layouts.pricing import priced
from sim.schedule.actions import COMPUTE, RECEIVES, SENDS, Kind
from sim.schedule.build import build_program, build_schedule
from sim.schedule.shape import shape_of
from sim.workload.memory import memory_model, peak_bytes
from sim.workload.peaks import peaks_by_content

_OWN = COMPUTE | SENDS | RECEIVES | {Kind.OPTIMIZER}


class Evaluator:
    """Evaluates plans of one model on one cluster; what plans have in common is kept."""

    def __init__(self, scenario: Scenario, profile: Profile | None = None) -> None:
        """scenario: its model and cluster count, its plan does not.

        Raises ValueError where it has no model, no cluster or costs given outright, ProfileMismatch
        for a profile of another device.
        """
        require_device(profile, scenario)
        if scenario.model is None or scenario.cluster is None or scenario.costs is not None:
            raise ValueError(
                f"scenario {scenario.name} cannot be laid out otherwise: that needs a model and a "
                "cluster, and no `costs` given outright"
            )
        self.scenario = scenario
        self.profile = profile
        self.shared = scenario.cluster.processors_per_node is not None
        cuts = Cuts(scenario)
        self.book = CostBook(scenario, profile, cuts)
        self.memory = MemoryBook(scenario, cuts)

    def peak_bytes(self, plan: Plan) -> int:
        """The largest peak of a rank's memory: of `sim.workload.memory.peak_bytes`."""
        scenario = scenario_with(self.scenario, plan)
        shape = shape_of(scenario)
        if shape is not None and self.book.knows(plan):
            return int(peaks_by_content(shape, self.memory.contents(plan)).max())
        schedule = build_schedule(scenario)
        model = memory_model(scenario, schedule)
        assert model is not None, "there is a model, and no costs are given"
        return max(peak_bytes(model, schedule))

    def bound_ns(self, plan: Plan) -> int:
        """No more than `iteration_ns`: see `sim.planner.layouts.bounds`.

        Where processors are shared, each of them also does all work of its ranks in turn.
        """
        scenario = scenario_with(self.scenario, plan)
        shape = shape_of(scenario)
        found = 0
        if shape is not None and self.book.knows(plan):
            found = bound_ns(shape, self.book.costs(plan))
            if not self.shared:
                return found
        program = build_program(scenario)
        costs = cost_table(scenario, program, self.profile)
        work: Counter[int] = Counter()
        for rank, steps in enumerate(program.steps):
            own = sum(costs.duration_ns(a) for step in steps for a in step if a.kind in _OWN)
            work[costs.processors[rank] if costs.processors else rank] += own
        return max(found, *work.values())

    def iteration_ns(self, plan: Plan) -> int:
        """The simulated iteration: that of `sim.prediction.predict`'s figures."""
        scenario = scenario_with(self.scenario, plan)
        shape = shape_of(scenario)
        if shape is not None and self.book.knows(plan) and not self.shared:
            encoded = encoded_shape(shape)
            return evaluate(encoded, priced(encoded, self.book.costs(plan))).iteration_ns
        program = build_program(scenario)
        costs = cost_table(scenario, program, self.profile)
        encoded = encode(program, costs)
        return evaluate(encoded, price(encoded, costs), program).iteration_ns
