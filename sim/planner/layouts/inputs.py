"""Inputs: numbers of the hardware that a layout's time hangs on, and scenarios with other ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Literal

from scenarios.schema import Cluster, Scenario
from sim.cost.measured import fitted_cluster
from sim.cost.profile import Profile
from sim.planner.layouts.desk import Inputs
from sim.planner.layouts.plans import scenario_with

MORE = 1.2
FACTORS = (0.8, MORE)
MEMORY = "device.memory"
Unit = Literal["fraction", "bytes/s", "s", "bytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """An input: in words, its field in the cluster, the name of it in a profile where it has one,
    the largest value it can have, and the unit in which `in_unit` tells it."""

    words: str
    field: str
    fitted: str | None = None
    most: float | None = None
    unit: Unit = "fraction"

    @property
    def is_rate(self) -> bool:
        """Whether times go with one over it (bandwidths and efficiencies), not with it."""
        return self.unit != "s"

    def in_unit(self, value: float) -> float:
        """A value of the field in the input's unit: durations are held in nanoseconds."""
        return value / 1e9 if self.unit == "s" else float(value)


INPUTS = (
    Input(
        words="matrix product efficiency",
        field="device.efficiency.matmul_max",
        fitted="matmul_max",
        most=1.0,
    ),
    Input(words="memory bandwidth", field="device.memory_bandwidth", unit="bytes/s"),
    Input(
        words="bandwidth within a node",
        field="intra_node.bandwidth",
        fitted="intra_node.bandwidth",
        unit="bytes/s",
    ),
    Input(
        words="bandwidth between nodes",
        field="inter_node.bandwidth",
        fitted="inter_node.bandwidth",
        unit="bytes/s",
    ),
    Input(
        words="latency within a node",
        field="intra_node.latency",
        fitted="intra_node.latency",
        unit="s",
    ),
    Input(
        words="latency between nodes",
        field="inter_node.latency",
        fitted="inter_node.latency",
        unit="s",
    ),
    Input(
        words="overhead of a message",
        field="device.efficiency.message_overhead",
        fitted="message_overhead",
        unit="s",
    ),
    Input(words="device memory", field=MEMORY, unit="bytes"),
)
"""Those that a layout search tries; the device's memory comes last."""
OF_ONE_LAYOUT = (
    *INPUTS[:-1],
    Input(words="kernel launch", field="device.efficiency.launch", fitted="launch", unit="s"),
    Input(
        words="host time of a layer",
        field="device.efficiency.layer_overhead",
        fitted="layer_overhead",
        unit="s",
    ),
    Input(
        words="host time of an iteration",
        field="device.efficiency.iteration_overhead",
        fitted="iteration_overhead",
        unit="s",
    ),
    Input(
        words="data loading",
        field="device.efficiency.data_loading",
        fitted="data_loading",
        unit="s",
    ),
    Input(
        words="optimizer's share of memory bandwidth",
        field="device.efficiency.optimizer_bandwidth",
        fitted="optimizer_bandwidth",
        most=1.0,
    ),
    INPUTS[-1],
)
"""Those that are asked of one layout, with what all layouts of a search have nearly alike."""


def value_of(scenario: Scenario, profile: Profile | None, one: Input) -> float:
    """An input's value in a scenario, or as a profile has fitted it."""
    found = reduce(getattr, one.field.split("."), _own(scenario, profile, one)[0])
    assert isinstance(found, (int, float))
    return found


def changed(
    scenario: Scenario, profile: Profile | None, one: Input, factor: float
) -> tuple[Inputs, float]:
    """A scenario whose input is so many times as large, and the factor, which is smaller where the
    input cannot be as large. What a profile has fitted to it is put into the cluster first."""
    cluster, left = _own(scenario, profile, one)
    if one.most is not None:
        factor = min(factor, one.most / value_of(scenario, profile, one))
    cluster = _put(cluster, one.field.split("."), factor)
    return Inputs(scenario_with(scenario, scenario.plan, cluster), left), factor


def _own(scenario: Scenario, profile: Profile | None, one: Input) -> tuple[Cluster, Profile | None]:
    """The cluster with an input as a profile has fitted it, and the profile without it."""
    cluster = scenario.cluster
    assert cluster is not None
    if profile is None or one.fitted is None or one.fitted not in profile.efficiency:
        return cluster, profile
    fitted = profile.efficiency
    left = {name: f for name, f in fitted.items() if name != one.fitted}
    cluster = fitted_cluster(cluster, {one.fitted: fitted[one.fitted]})
    return cluster, replace(profile, efficiency=left)


def _put(owner: Any, path: Sequence[str], factor: float) -> Any:
    """A part of a cluster with one of its numbers so many times as large, whole where it was."""
    value = getattr(owner, path[0])
    if len(path) > 1:
        return replace(owner, **{path[0]: _put(value, path[1:], factor)})
    scaled = value * factor
    return replace(owner, **{path[0]: round(scaled) if isinstance(value, int) else scaled})
