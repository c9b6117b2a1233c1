"""The budget of what-if questions: how much may be simulated, counted, not timed."""

from __future__ import annotations

from scenarios.schema import Plan, Scenario
from sim.engine.choice import why_no_numba
from sim.planner.layouts.plans import scenario_with
from sim.schedule.shape import shape_of

MOST_PASSES = 60_000_000
"""Passes simulated in all: about three seconds on a core where the engine is compiled."""
_UNSHAPED = 200
"""How many times longer a pass takes whose program is made of actions."""
_INTERPRETED = 500
"""How many times longer it takes where nothing compiles the engine."""


class Budget:
    """What is left of the passes that may be simulated."""

    def __init__(self, scenario: Scenario, most: int = MOST_PASSES) -> None:
        self._scenario, self.left = scenario, most
        self._factor = 1 if why_no_numba() is None else _INTERPRETED

    def passes(self, plan: Plan) -> int:
        """What simulating a plan costs."""
        slices = sum(group.microbatches * group.num_slices for group in plan.groups)
        shaped = shape_of(scenario_with(self._scenario, plan)) is not None
        own = 2 * plan.num_stages * slices
        return own * (self._factor if shaped else max(_UNSHAPED, self._factor))

    def take(self, plan: Plan, times: int = 1) -> bool:
        """Whether there is enough left to simulate a plan so often; it is taken then."""
        needed = times * self.passes(plan)
        if needed > self.left:
            return False
        self.left -= needed
        return True
