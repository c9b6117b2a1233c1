"""Tensor x pipeline x data on real processes, against the single process in float64.

Processes are dear, so one launch runs all cases of its size, and each test looks at one of them.
"""

import math
import os

import pytest
import torch
from children import ranks_of
from mesh_cases import (
    BERT,
    BLOCKING,
    BUCKETS,
    CLIPPED,
    FULL,
    GLOO,
    GPIPE,
    INTERLEAVED,
    OUTSIDE_IN,
    PAIRS,
    SCATTER,
    SELECTIVE,
    SEQUENCE,
    SPLIT,
    UNTIED,
    VIT,
    ZERO1,
    ZERO3,
    Case,
    check_delays,
    run_cases,
    scenario_of,
)

from executor.commands import UnsupportedPlan, against_reference, require_supported
from executor.joining import RankFailure
from executor.launch import launch
from executor.launching import SessionResult
from executor.reference import reference

CASES: dict[str, Case] = {
    # name: (tensor, pipeline, data), overrides
    "t2p2": ((2, 2, 1), (*CLIPPED,)),
    "t2p2-gpipe-untied-selective": ((2, 2, 1), (*GPIPE, *UNTIED, *SELECTIVE)),
    "t2p2-scatter-blocking-full": ((2, 2, 1), (*SCATTER, *BLOCKING, *FULL, *CLIPPED)),
    "t2p2v2-scatter": ((2, 2, 1), (*INTERLEAVED, *SCATTER, *PAIRS)),
    "t2p2-scatter-gloo-bert": ((2, 2, 1), (*SCATTER, *GLOO, *BLOCKING, *BERT)),
    "t2p2v2-sequence-gloo": ((2, 2, 1), (*INTERLEAVED, *SEQUENCE, *BLOCKING, *GLOO, *CLIPPED)),
    "p2d2": ((1, 2, 2), (*CLIPPED,)),
    "p2d2-buckets-gpipe": ((1, 2, 2), (*BUCKETS, *GPIPE, *BLOCKING)),
    "p2v2d2-buckets": ((1, 2, 2), (*INTERLEAVED, *BUCKETS, *CLIPPED)),
    "p2d2-zero1": ((1, 2, 2), (*ZERO1, *CLIPPED)),
    "p2d2-zero1-buckets": ((1, 2, 2), (*ZERO1, *BUCKETS, *CLIPPED, *PAIRS)),
    "t2d2-zero1-sequence": ((2, 1, 2), (*ZERO1, *SEQUENCE, *CLIPPED, *OUTSIDE_IN)),
    "t2d2v2-one-rank": ((2, 1, 2), (*INTERLEAVED, *ZERO1, *BUCKETS, *CLIPPED)),
    "t4-sequence": ((4, 1, 1), (*SEQUENCE, *PAIRS, *CLIPPED)),
    "t2p2-vit-sequence": ((2, 2, 1), (*VIT, *SEQUENCE, *CLIPPED)),
    "t2d2-vit-sequence-buckets": ((2, 1, 2), (*VIT, *SEQUENCE, *BUCKETS, *CLIPPED)),
    "p4": ((1, 4, 1), ("plan.devices=[2,0,3,1]",)),
    "d4-zero3": ((1, 1, 4), (*ZERO3, *CLIPPED)),
    # Eight processes.
    "t2p2v2d2-all": ((2, 2, 2), (*INTERLEAVED, *ZERO1, *BUCKETS, *SCATTER, *CLIPPED, *BLOCKING)),
    "t2p2d2-sequence": ((2, 2, 2), (*SEQUENCE, *ZERO1, *CLIPPED, *SELECTIVE)),
    "t2p2d2-placed": ((2, 2, 2), (*OUTSIDE_IN, *BUCKETS, *GPIPE, *CLIPPED)),
    "t4p2": ((4, 2, 1), ("plan.devices=[7,6,5,4,3,2,1,0]", *SCATTER, *FULL, *CLIPPED)),
    # Three replicas, whose shares need padding.
    "d3-zero1": ((1, 1, 3), (*ZERO1, *CLIPPED)),
    "d3-zero1-buckets": ((1, 1, 3), (*ZERO1, *BUCKETS, *INTERLEAVED, "plan.microbatches=1")),
}
SIXTEEN_BIT = {
    "bf16": ((2, 2, 1), ("plan.precision=bf16", *SEQUENCE, *CLIPPED)),
    "fp16": ((1, 2, 2), ("plan.precision=fp16", *ZERO1, *BUCKETS, *CLIPPED)),
}


@pytest.fixture(scope="module")
def sessions() -> dict[str, SessionResult]:
    """Every case, run for three iterations."""
    return run_cases(CASES | SIXTEEN_BIT)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_single_process(name: str, sessions: dict[str, SessionResult]) -> None:
    """Loss, whole gradients of every copy, and weights after 3 steps, to 1e-10 relative."""
    scenario = scenario_of(CASES[name])
    result = against_reference(scenario, sessions[name])
    assert result.passed, str(result)
    measured = sessions[name].measurements[0]
    assert all(t.num_ranks == scenario.plan.pipeline for t in measured.timelines)
    assert len(measured.peak_memory_bytes) == scenario.plan.pipeline


def test_every_copy_is_compared(sessions: dict[str, SessionResult]) -> None:
    """Whole parameters once a rank, shared ones once a replica, the tied table at both ends."""
    weights = sessions["t2p2v2d2-all"].weights
    assert len(weights["blocks.0.attention_norm.weight"]) == 4
    assert len(weights["blocks.0.mlp_in.weight"]) == 2
    assert len(weights["embedding.tokens.weight"]) == 4


@pytest.mark.parametrize("name", ["t2p2", "t2p2v2d2-all", "d4-zero3"])
def test_clipping_is_at_work_in_the_cases_that_clip(name: str) -> None:
    """A gradient norm below 1 would leave the norm untested."""
    gradients = reference(scenario_of(CASES[name]), 3).gradients
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
    assert norm > 1.05


@pytest.mark.parametrize("name", SIXTEEN_BIT)
def test_sixteen_bit_runs_stay_near_the_reference(
    name: str, sessions: dict[str, SessionResult]
) -> None:
    """All replicas and stages agree on what they hold twice, and losses are within 1 %."""
    (degrees, overrides) = SIXTEEN_BIT[name]
    exact = scenario_of((degrees, (*overrides, "plan.precision=fp64")))
    expected = reference(exact, 3).losses
    assert sessions[name].measurements[0].losses == pytest.approx(expected, rel=0.01)
    for copies in sessions[name].weights.values():
        assert all(torch.equal(copy, copies[0]) for copy in copies)


@pytest.mark.timeout(300)
def test_random_delays_change_nothing() -> None:
    """20 seeds of random delays, each message checked to be the one expected: interleaved, with
    two tensor ranks, on four processes."""
    scenario = scenario_of(((2, 2, 1), (*INTERLEAVED, *SCATTER)))
    check_delays(scenario, 20)


@pytest.mark.timeout(150)
def test_a_rank_that_dies_stops_its_tensor_group_and_all_others() -> None:
    """Rank 3 is killed at a message, while rank 2 waits for it inside a pass."""
    scenario = scenario_of(((2, 2, 1), ()))
    payload = {"scenario": scenario, "rank": 3, "at_message": 3, "how": "kill"}
    with pytest.raises(RankFailure, match=r"rank 3 was killed") as caught:
        launch(4, "session_targets:wrapped", payload, deadline_s=120.0, pin=True)
    assert not ranks_of(os.getpid())
    assert "pipeline 1, data 0, tensor 0" in str(caught.value), "the others say where they were"


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (((2, 1, 2), ZERO3), r"plan\.sharding is full and plan\.tensor is 2"),
        (((1, 1, 2), (*ZERO3, *INTERLEAVED)), r"the model is cut into 2 stages"),
        (((1, 1, 2), (*ZERO3, *SPLIT)), r"cuts backward passes into I and W"),
    ],
)
def test_what_is_not_supported_is_said(case: Case, said: str) -> None:
    with pytest.raises(UnsupportedPlan, match=said):
        require_supported(scenario_of(case))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_everything_else_is_supported(case: Case) -> None:
    require_supported(scenario_of(case))
