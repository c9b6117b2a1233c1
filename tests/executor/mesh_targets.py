"""What ranks run in the tests of tensor x pipeline x data; imported by the ranks' own processes."""

from collections.abc import Sequence

from executor.joining import RankContext
from executor.session import Assignment, RankResult, Visit, run_visits
from scenarios.schema import Scenario


def each_alone(context: RankContext, scenarios: Sequence[Scenario]) -> list[RankResult]:
    """Three iterations of every scenario from its start, each built anew, with its tensors."""
    visits = (Visit(job=0, warmup=0, iterations=3),)
    return [
        run_visits(Assignment(scenarios=(s,), visits=visits, keep_tensors=True), context)
        for s in scenarios
    ]
