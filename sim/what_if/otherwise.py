"""Times of plans on the given hardware with one of its numbers otherwise, each simulated once."""

from __future__ import annotations

from scenarios.schema import Plan, Scenario
from sim.cost.profile import Profile
from sim.planner.layouts.desk import Evaluates, MakeEvaluator
from sim.planner.layouts.evaluation import Evaluator
from sim.planner.layouts.inputs import MEMORY, OF_ONE_LAYOUT, Input, changed, value_of
from sim.what_if.budget import Budget


class OutOfBudget(Exception):
    """No more may be simulated."""


class Otherwise:
    """Simulates plans of one scenario under other inputs."""

    def __init__(
        self,
        scenario: Scenario,
        profile: Profile | None,
        budget: Budget,
        make: MakeEvaluator = Evaluator,
    ) -> None:
        self.scenario, self.profile, self.budget, self.make = scenario, profile, budget, make
        self._evaluators: dict[tuple[str, float], tuple[Evaluates, float]] = {}
        self._times: dict[tuple[str, float, Plan], int] = {}

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The inputs that are not zero, which no factor changes; without the device's memory."""
        found = (one for one in OF_ONE_LAYOUT if one.field != MEMORY)
        return tuple(one for one in found if self.value(one))

    def value(self, one: Input) -> float:
        """An input's value in the scenario, or in its profile."""
        return value_of(self.scenario, self.profile, one)

    def reached(self, one: Input, factor: float) -> float:
        """The factor, or what of it an input can have."""
        return self._evaluator(one, factor)[1]

    def time_ns(self, one: Input, factor: float, plan: Plan) -> int:
        """A plan's iteration with an input so many times as large, as far as it can be.

        Raises OutOfBudget.
        """
        key = (one.field, factor, plan)
        if key not in self._times:
            if not self.budget.take(plan):
                raise OutOfBudget
            self._times[key] = self._evaluator(one, factor)[0].iteration_ns(plan)
        return self._times[key]

    def _evaluator(self, one: Input, factor: float) -> tuple[Evaluates, float]:
        key = (one.field, factor)
        if key not in self._evaluators:
            inputs, reached = changed(self.scenario, self.profile, one, factor)
            self._evaluators[key] = self.make(*inputs), reached
        return self._evaluators[key]
