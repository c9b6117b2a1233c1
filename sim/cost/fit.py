"""Fitting the device and link models' parameters to whole-iteration times of real runs, and to
measured collectives where there are any.

Each run is simulated once and its critical path taken; on that path its time is a smooth function
of the parameters, which are then fitted robustly; and again on the new paths, until stable. Weak
priors keep the parameters near their defaults where the data says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scenarios.schema import Cluster, Scenario
from sim.cost.collective_runs import CollectivePoint
from sim.cost.collectives import Group, all_reduce_ns
from sim.cost.costs import CostTable
from sim.cost.measured import with_parameters
from sim.cost.modelled import part_times, setup_of
from sim.cost.parts import total_ns
from sim.cost.path import Composition, Simulate
from sim.cost.profile import Fitted
from sim.cost.runs import Run
from sim.cost.shapes import Part, Pass
from sim.cost.table import cost_table, cost_variants
from sim.schedule.build import build_program
from sim.schedule.lowering import Program, Step

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter to fit, within physical bounds.

    scale: `log` for what spans decades, fitted by its logarithm; `linear` for fractions.
    spread: standard deviation of the prior around the default, on that scale.
    typical: the prior's middle where the default is 0, which no logarithm has.
    """

    name: str
    low: float
    high: float
    scale: str
    spread: float
    typical: float | None = None

    def inward(self, value: float) -> float:
        """From value to the scale it is fitted on, within the bounds."""
        clipped = min(max(value, self.low), self.high)
        return math.log(clipped) if self.scale == "log" else clipped

    def outward(self, position: float) -> float:
        """From the fitted scale back to the value."""
        return math.exp(position) if self.scale == "log" else position


PARAMETERS: tuple[Parameter, ...] = (
    Parameter(name="matmul_max", low=0.3, high=0.98, scale="linear", spread=0.15),
    Parameter(name="matmul_half_dimension", low=5.0, high=1500.0, scale="log", spread=0.5),
    Parameter(name="memory", low=0.3, high=0.95, scale="linear", spread=0.1),
    Parameter(name="attention_memory", low=0.2, high=0.98, scale="linear", spread=0.2),
    Parameter(name="launch", low=500.0, high=40_000.0, scale="log", spread=0.7),
    Parameter(name="message_overhead", low=1e4, high=5e6, scale="log", spread=1.0, typical=2e5),
    Parameter(name="collective_launch", low=500.0, high=3e5, scale="log", spread=0.5, typical=2e4),
    Parameter(name="overlap_slowdown", low=0.0, high=1.0, scale="linear", spread=0.3),
    Parameter(name="optimizer_bandwidth", low=0.1, high=0.98, scale="linear", spread=0.2),
    Parameter(name="iteration_overhead", low=1e6, high=3e9, scale="log", spread=1.5, typical=2e7),
    Parameter(name="intra_node.latency", low=500.0, high=60_000.0, scale="log", spread=0.7),
    Parameter(name="intra_node.efficiency", low=0.2, high=0.98, scale="linear", spread=0.05),
    Parameter(name="inter_node.latency", low=1_000.0, high=300_000.0, scale="log", spread=0.7),
    Parameter(name="inter_node.efficiency", low=0.05, high=0.98, scale="linear", spread=0.2),
)
SHORT_PASSES: tuple[Parameter, ...] = (
    Parameter(name="layer_overhead", low=1e4, high=1e7, scale="log", spread=0.5, typical=1e6),
    Parameter(name="launch", low=500.0, high=40_000.0, scale="log", spread=0.2),
    Parameter(name="matmul_half_dimension", low=5.0, high=1500.0, scale="log", spread=0.15),
    Parameter(name="matmul_half_rows", low=5.0, high=1500.0, scale="log", spread=0.3),
)
"""Where there are times of parts, of short passes too, which the host bounds: its time is fitted
to them, and what else short passes depend on, of which iterations of whole sequences tell next to
nothing, is held closer to its default."""
SHARED_NIC: tuple[Parameter, ...] = (
    Parameter(name="inter_node.message_share", low=0.3, high=3.0, scale="log", spread=0.3),
    Parameter(name="intra_node.message_share", low=0.01, high=1.0, scale="log", spread=0.7),
)
"""Where devices share a NIC, and messages do not reach what collectives do."""
NOISE = 0.03
"""Relative error of a run that the fit takes for normal; beyond it residuals count less."""
COLLECTIVES_WEIGHT = 5.0
"""What all measured collectives count together, in runs: they are many, and of one kind."""


def parameters_for(runs: Sequence[Run], parts: Sequence[PartPoint]) -> tuple[Parameter, ...]:
    """What to fit to these runs and parts: PARAMETERS, but for parts with SHORT_PASSES, and with
    SHARED_NIC where TeraPipe's messages (`broadcast_messages`) go through NICs that are shared."""
    chosen = {p.name: p for p in PARAMETERS}
    if parts:
        chosen |= {p.name: p for p in SHORT_PASSES}
    clusters = [r.scenario.cluster for r in runs if r.scenario.plan.broadcast_messages]
    if any(c is not None and c.nics_per_node < c.devices_per_node for c in clusters):
        chosen |= {p.name: p for p in SHARED_NIC}
    return tuple(chosen.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Fitted parameters, and each run's predicted time (ns) with them, in the order given.

    rounds: how often the paths were taken anew.
    """

    parameters: Mapping[str, Fitted]
    predicted_ns: tuple[float, ...]
    rounds: int

    @property
    def values(self) -> dict[str, float]:
        """The parameters' values alone."""
        return {name: fitted.value for name, fitted in self.parameters.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPoint:
    """Measured time (ns) of one pass of a part of the model, in a scenario: `layer` `forward`."""

    scenario: Scenario
    part: Part
    name: Pass
    time_ns: float

    def predicted_ns(self, values: Mapping[str, float]) -> float:
        """The part's time by the device model, of the scenario's whole sequence."""
        setup = setup_of(on_parameters(self.scenario, values))
        return total_ns(part_times(setup, setup.model.sequence, 0)[self.part][self.name])


class _Prepared:
    """A run with its program, which does not depend on the parameters."""

    def __init__(self, run: Run) -> None:
        self.scenario = run.scenario
        self.measured_ns = run.measured_ns
        self.noise = math.hypot(NOISE, run.spread)
        self.program: Program = build_program(run.scenario)
        self.keys = CostTable(costs={}, variants=cost_variants(run.scenario.plan))

    def table(self, values: Mapping[str, float], program: Program | None = None) -> CostTable:
        return cost_table(on_parameters(self.scenario, values), program or self.program)

    def along(self, path: Composition) -> Program:
        """The program without what is not on a path, whose costs the path does not ask for."""
        kept = tuple(
            (action,)
            for action in self.program.distinct_in(self.keys.variants)
            if (key := self.keys.key(action)) in path.costs or key in path.transfers
        )
        others: tuple[tuple[Step, ...], ...] = ((),) * (self.program.num_ranks - 1)
        return replace(self.program, steps=(kept, *others))


def on_parameters(scenario: Scenario, values: Mapping[str, float]) -> Scenario:
    """The scenario with its cluster's parameters set by name."""
    assert scenario.cluster is not None
    return replace(scenario, cluster=with_parameters(scenario.cluster, values))


def predict_runs(
    runs: Sequence[Run], values: Mapping[str, float], simulate: Simulate
) -> tuple[float, ...]:
    """Iteration times (ns) of runs with parameters set by name."""
    prepared = [_Prepared(run) for run in runs]
    return tuple(simulate(p.program, p.table(values))[0] for p in prepared)


def fit_runs(
    runs: Sequence[Run],
    simulate: Simulate,
    *,
    collectives: Sequence[CollectivePoint] = (),
    parts: Sequence[PartPoint] = (),
    parameters: Sequence[Parameter] | None = None,
    max_rounds: int = 4,
    tolerance: float = 2e-3,
) -> Fit:
    """Fit parameters (those of `parameters_for` unless given) to runs' iteration times, to times of
    parts of the model, and to measured all-reduces within a node.

    Minimises soft_l1 of log(predicted / measured) / noise plus the priors, by
    scipy.optimize.least_squares, where the noise is NOISE and a run's own spread together; a part
    counts as a run, all collectives as COLLECTIVES_WEIGHT. 90 % intervals are from the Jacobian at
    the optimum, prior included, with the scale of the runs' own residuals; None where the data
    leaves a parameter as wide as its prior (or its bounds), so that its value is the default's
    doing.
    Raises ValueError where there are no runs, or a run has no cluster.
    Not modelled: correlation between runs of one session, a run's own network placement.
    """
    import numpy as np

    if not runs:
        raise ValueError("there are no runs to fit to: give at least one")
    if parameters is None:
        parameters = parameters_for(runs, parts)
    prepared = [_Prepared(run) for run in runs]
    start = np.array(
        [p.inward(v) for p, v in zip(parameters, _defaults(runs, parameters), strict=True)]
    )
    middle = start.copy()
    position = start.copy()
    jacobian = np.zeros((0, len(start)))
    residuals = np.zeros(0)
    previous: float | None = None
    rounds = 0
    for _ in range(max_rounds):
        rounds += 1
        values = _values(parameters, position)
        paths = [simulate(p.program, p.table(values))[1] for p in prepared]
        position, residuals, jacobian = _solve(
            prepared, paths, collectives, parts, parameters, position, middle
        )
        quality = float(np.mean(np.abs(residuals[: len(prepared)]))) * NOISE
        if previous is not None and abs(previous - quality) < tolerance:
            break
        previous = quality
    values = _values(parameters, position)
    counts = len(prepared), len(collectives) + len(parts)
    intervals = _intervals(parameters, position, jacobian, residuals, *counts)
    predicted = tuple(simulate(p.program, p.table(values))[0] for p in prepared)
    return Fit(
        parameters={
            p.name: Fitted(value=values[p.name], interval=interval)
            for p, interval in zip(parameters, intervals, strict=True)
        },
        predicted_ns=predicted,
        rounds=rounds,
    )


def _defaults(runs: Sequence[Run], parameters: Sequence[Parameter]) -> list[float]:
    cluster = runs[0].scenario.cluster
    if cluster is None:
        raise ValueError("a run to fit to has no cluster")
    return [_value_of(cluster, p.name) or p.typical or 0.0 for p in parameters]


def _value_of(cluster: Cluster, name: str) -> float:
    link, dot, field = name.partition(".")
    holder = getattr(cluster, link) if dot else cluster.device.efficiency
    value = getattr(holder, field if dot else name)
    if name == "matmul_half_rows" and value is None:
        value = cluster.device.efficiency.matmul_half_dimension
    return float(value)


def _values(parameters: Sequence[Parameter], position: Vector) -> dict[str, float]:
    return {
        p.name: min(max(p.outward(float(x)), p.low), p.high)
        for p, x in zip(parameters, position, strict=True)
    }


def _solve(
    prepared: Sequence[_Prepared],
    paths: Sequence[Composition],
    collectives: Sequence[CollectivePoint],
    parts: Sequence[PartPoint],
    parameters: Sequence[Parameter],
    position: Vector,
    middle: Vector,
) -> tuple[Vector, Vector, Vector]:
    """The best parameters on fixed paths, with the residuals and their Jacobian there."""
    import numpy as np
    from scipy.optimize import least_squares

    spreads = np.array([p.spread for p in parameters])
    low = np.array([p.inward(p.low) for p in parameters])
    high = np.array([p.inward(p.high) for p in parameters])
    cluster = prepared[0].scenario.cluster
    assert cluster is not None, "_defaults asks for it"
    weight = math.sqrt(COLLECTIVES_WEIGHT / max(COLLECTIVES_WEIGHT, len(collectives)))

    groups = [Group(per_node=p.ranks, nodes=1, active_per_node=p.ranks) for p in collectives]

    programs = [run.along(path) for run, path in zip(prepared, paths, strict=True)]

    def residuals(at: Vector) -> Vector:
        values = _values(parameters, at)
        logs = [
            math.log(path.time_ns(run.table(values, program)) / run.measured_ns) / run.noise
            for run, path, program in zip(prepared, paths, programs, strict=True)
        ]
        fitted = with_parameters(cluster, values)
        logs += [
            weight * math.log(all_reduce_ns(p.payload_bytes, group, fitted) / p.time_ns) / NOISE
            for p, group in zip(collectives, groups, strict=True)
        ]
        logs += [math.log(p.predicted_ns(values) / p.time_ns) / NOISE for p in parts]
        return np.array([*logs, *((at - middle) / spreads)])

    margin = 1e-6 * (high - low)
    found = least_squares(
        residuals,
        np.clip(position, low + margin, high - margin),
        bounds=(low, high),
        loss="soft_l1",
        diff_step=np.full(len(position), 1e-3),
        x_scale=spreads,
        xtol=1e-4,
        ftol=1e-4,
        max_nfev=30,
    )
    return np.asarray(found.x), np.asarray(residuals(found.x)), np.asarray(found.jac)


def _intervals(
    parameters: Sequence[Parameter],
    position: Vector,
    jacobian: Vector,
    residuals: Vector,
    num_runs: int,
    num_others: int,
) -> list[tuple[float, float] | None]:
    import numpy as np

    # The scale is the runs' own: many collectives of little weight would make it look small.
    scales = np.ones(num_runs + num_others)
    scales[:num_runs] = max(1.0, float(1.4826 * np.median(np.abs(residuals[:num_runs]))))
    data = residuals[: len(scales)]
    weights = np.ones(len(residuals))
    weights[: len(scales)] = 1.0 / (scales * np.sqrt(1.0 + (data / scales) ** 2) ** 0.5)
    # The Jacobian of soft_l1 comes scaled by the loss; undo that to weigh the rows by hand.
    undone = jacobian / np.maximum(1e-9, _soft_l1_scale(residuals))[:, None]
    information = (undone * weights[:, None]).T @ (undone * weights[:, None])
    covariance = np.linalg.pinv(information)
    found: list[tuple[float, float] | None] = []
    for i, parameter in enumerate(parameters):
        deviation = float(np.sqrt(max(0.0, covariance[i, i])))
        low = float(position[i]) - 1.645 * deviation
        high = float(position[i]) + 1.645 * deviation
        bounds = parameter.inward(parameter.low), parameter.inward(parameter.high)
        if deviation > 0.7 * parameter.spread or high - low >= bounds[1] - bounds[0]:
            found.append(None)
        else:
            ends = max(low, bounds[0]), min(high, bounds[1])
            found.append((parameter.outward(ends[0]), parameter.outward(ends[1])))
    return found


def _soft_l1_scale(residuals: Vector) -> Vector:
    """What least_squares multiplies each row of the Jacobian by under soft_l1."""
    import numpy as np

    squares = residuals**2
    first = (1 + squares) ** -0.5
    second = -0.5 * (1 + squares) ** -1.5
    return np.sqrt(np.maximum(np.finfo(float).eps, first + 2 * squares * second))
