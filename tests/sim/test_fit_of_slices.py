"""Parameters fitted to iterations of token slices and of unequal microbatches."""

from __future__ import annotations

import pytest

from scenarios.loader import load
from scenarios.schema import Scenario
from sim.cost.fit import PARAMETERS, fit_runs, predict_runs
from sim.cost.runs import Run
from sim.log_calibration import simulated

PARAMETER = next(p for p in PARAMETERS if p.name == "matmul_max")
GROUPS = "[{microbatches: 2, micro_batch: 3, slices: [24, 72, 32]}, {micro_batch: 1, slices: 2}]"


def cut(*settings: str) -> Scenario:
    return load("local-2rank", ["plan.schedule=terapipe", *settings]).scenario


SCENARIOS = (
    cut("plan.slices=[8, 90, 30]"),
    cut("plan.micro_batch=1", "plan.microbatches=null", f"plan.microbatch_groups={GROUPS}"),
)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=("slices", "unequal microbatches"))
def test_a_parameter_is_found_again_from_sliced_iterations(scenario: Scenario) -> None:
    """Also what the fit predicts along the critical path must be the iteration: with only the first
    slice's cost on it, the fit ends elsewhere."""
    true = {PARAMETER.name: 0.31}
    (time,) = predict_runs([Run(scenario=scenario, measured_ns=1.0, line=1)], true, simulated)
    runs = [Run(scenario=scenario, measured_ns=time, line=n) for n in range(40)]
    fit = fit_runs(runs, simulated, parameters=(PARAMETER,))
    assert fit.values[PARAMETER.name] == pytest.approx(0.31, rel=0.01)
    assert fit.predicted_ns[0] == pytest.approx(time, rel=0.01)
