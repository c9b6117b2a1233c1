"""One process that drives a whole pipeline starts the passes of all its devices in turn."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scenarios.loader import load
from scenarios.schema import Scenario
from sim.cost.profile import Fitted, Profile
from sim.prediction import predict

OVERHEAD_NS = 1_000_000


def scenario(pipeline: int, overhead_ns: int) -> Scenario:
    found = load("published/ptdp.table1/1.7b").scenario
    cluster = found.cluster
    assert cluster is not None
    efficiency = replace(cluster.device.efficiency, pass_overhead=overhead_ns)
    device = replace(cluster.device, efficiency=efficiency)
    plan = replace(
        found.plan,
        schedule="gpipe",
        pipeline=pipeline,
        data=1,
        tensor=1,
        global_batch=None,
        microbatches=5,
        micro_batch=1,
        recomputation="none",
    )
    return replace(found, plan=plan, cluster=replace(cluster, device=device))


@pytest.mark.parametrize("pipeline", [1, 2, 4])
def test_each_pass_takes_it_once_for_every_rank(pipeline: int) -> None:
    plain, slow = (predict(scenario(pipeline, ns)) for ns in (0, OVERHEAD_NS))
    passes = 2 * (5 + pipeline - 1)
    extra = slow.iteration_ns - plain.iteration_ns
    assert extra == passes * pipeline * OVERHEAD_NS


def test_a_profile_of_parameters_alone_keeps_it() -> None:
    without = scenario(2, 0)
    assert without.cluster is not None
    profile = Profile(
        device=without.cluster.device.name,
        provenance="a test",
        efficiency={"pass_overhead": Fitted(value=OVERHEAD_NS, interval=None)},
    )
    given = predict(scenario(2, OVERHEAD_NS)).iteration_ns
    assert predict(without, profile).iteration_ns == given
