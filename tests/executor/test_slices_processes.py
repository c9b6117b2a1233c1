"""Token slices with tensor x pipeline x data on real processes, against one process without slices.

Processes are dear, so one launch runs all cases of its size, and each test looks at one of them.
"""

import json

import pytest
import torch
from mesh_cases import (
    BLOCKING,
    BUCKETS,
    CLIPPED,
    FULL,
    GLOO,
    GPIPE,
    PAIRS,
    SCATTER,
    SELECTIVE,
    SEQUENCE,
    UNTIED,
    ZERO1,
    ZERO3,
    Case,
    check_delays,
    run_cases,
    scenario_of,
)

from executor.commands import against_reference, require_supported, run_scenario
from executor.launching import SessionResult

torch.set_num_threads(1)

TERAPIPE = ("plan.schedule=terapipe",)
EVEN = ("plan.slices=4",)
UNEVEN = ("plan.slices=[3,1,4]",)
SHARED = ("plan.slices=[2,4,2]",)  # Of tokens that two tensor ranks share.
SIZES = (
    "plan.micro_batch=1",
    "plan.microbatches=null",
    'plan.microbatch_groups=[{"microbatches":1,"micro_batch":3,"slices":[5,3]},'
    '{"microbatches":2,"micro_batch":1,"slices":[1,6,1]},{"microbatches":1,"micro_batch":2}]',
)


def split_chunks(rank: int) -> str:
    """Two chunks a rank, two microbatches of two slices: all F, then all I, then all W."""
    places = [(m, n) for m in (0, 1) for n in (0, 1)]
    chunks = (rank, rank + 2)
    forward = [f"{s}F{m}.{n}" for s in chunks for m, n in places]
    back = [f"{s}I{m}.{n}" for s in reversed(chunks) for m, n in reversed(places)]
    weights = [f"{s}W{m}.{n}" for s in chunks for m, n in places]
    return ",".join(forward + back + weights)


CHUNKS = (
    "plan.schedule=given",
    "plan.chunks=2",
    "plan.microbatches=2",
    "plan.slices=[5,3]",
    f"plan.schedule_order={json.dumps([split_chunks(0), split_chunks(1)])}",
)

CASES: dict[str, Case] = {
    # name: (tensor, pipeline, data), overrides
    "p4-1f1b-sizes-blocking": ((1, 4, 1), (*SIZES, *BLOCKING, *CLIPPED)),
    "t2p2-terapipe-sequence": ((2, 2, 1), (*TERAPIPE, *SHARED, *SEQUENCE, *PAIRS, *CLIPPED)),
    "t2p2-terapipe-sizes-scatter": ((2, 2, 1), (*TERAPIPE, *SIZES, *SCATTER, *FULL, *CLIPPED)),
    "t2p2-gpipe-gloo": ((2, 2, 1), (*GPIPE, *EVEN, *SELECTIVE, *GLOO, *UNTIED)),
    "p2d2-1f1b-zero1-buckets": ((1, 2, 2), (*UNEVEN, *ZERO1, *BUCKETS, *CLIPPED)),
    "p2v2d2-split-buckets": ((1, 2, 2), (*CHUNKS, *BUCKETS, *CLIPPED)),
    "d4-zero3": ((1, 1, 4), (*TERAPIPE, *UNEVEN, *ZERO3, *CLIPPED, *FULL)),
    # Eight processes.
    "t2p2d2": ((2, 2, 2), (*TERAPIPE, *UNEVEN, *ZERO1, *BUCKETS, *SCATTER, *CLIPPED)),
    "t2p2d2-1f1b-sequence": ((2, 2, 2), (*SHARED, *SEQUENCE, *CLIPPED, *SELECTIVE)),
}


@pytest.fixture(scope="module")
def sessions() -> dict[str, SessionResult]:
    """Every case, run for three iterations."""
    return run_cases(CASES)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_unsliced_single_process(name: str, sessions: dict[str, SessionResult]) -> None:
    """Loss, whole gradients of every copy, and weights after 3 steps, to 1e-10 relative."""
    scenario = scenario_of(CASES[name])
    result = against_reference(scenario, sessions[name])
    assert result.passed, str(result)
    slices = [group.num_slices for group in scenario.plan.groups for _ in range(group.microbatches)]
    forward = {
        str(span.action)
        for span in sessions[name].measurements[0].timelines[0].spans
        if span.lane == "compute" and span.action.kind == "F" and span.action.stage == 0
    }
    assert len(forward) == sum(slices) > scenario.plan.num_microbatches


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_they_are_supported(case: Case) -> None:
    require_supported(scenario_of(case))


@pytest.mark.timeout(300)
def test_random_delays_change_nothing() -> None:
    """Four seeds of random delays, each message checked to be the one expected."""
    scenario = scenario_of(((2, 2, 1), (*TERAPIPE, *UNEVEN, *SCATTER)))
    check_delays(scenario, 4)


@pytest.mark.timeout(150)
def test_a_run_is_checked() -> None:
    """As `pipetwin run --check` does."""
    overrides = ("plan.precision=fp32", "execution.iterations=2", "execution.warmup=1")
    result = run_scenario(scenario_of(((1, 2, 1), (*TERAPIPE, *UNEVEN, *overrides))), check=True)
    assert result is not None and result.check is not None
    assert result.check.passed, str(result.check)
    assert len(result.measurement.timelines) == 2
