"""Clusters of another number of devices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scenarios.loader import load_cluster
from scenarios.resizing import NotWholeNodes, resized
from scenarios.rules import check
from scenarios.schema import Model, Plan, Scenario

MODEL = Model(layers=2, hidden=64, heads=8, sequence=32, vocabulary=64)


@pytest.mark.parametrize("devices", [1, 2, 3, 5, 6, 7, 8, 16, 1024])
@pytest.mark.parametrize("nics", [1, 2, 4, 8])
def test_a_plan_of_so_many_devices_keeps_the_rules(devices: int, nics: int) -> None:
    cluster = resized(replace(load_cluster("dgx-a100"), nics_per_node=nics), devices)
    assert cluster.num_devices == devices
    assert cluster.nics_per_node <= max(1, -(-nics * min(devices, 8) // 8))
    scenario = Scenario(name="s", model=MODEL, cluster=cluster, plan=Plan(data=devices))
    assert check(scenario) == []


def test_whole_nodes_only() -> None:
    cluster = load_cluster("dgx-a100")
    with pytest.raises(NotWholeNodes, match=r"1020 devices .* 1016 or 1024 would work"):
        resized(cluster, 1020)
    with pytest.raises(NotWholeNodes, match=r"0 devices .* nodes of 8: 8 would work"):
        resized(cluster, 0)
