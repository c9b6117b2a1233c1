"""The table that the search for slices reads: what a slice costs, by its batch, tokens and context.

From the same sources, and to the same nanosecond, as `sim.cost.table`: the device model, or a
profile's measured times and what is fitted to them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenarios.schema import MicrobatchGroup, Scenario
from sim.cost.data_parallel import sharded_times
from sim.cost.measured import (
    PARTS,
    PASSES,
    action_times,
    comparable,
    distance,
    fitted_cluster,
    fitted_times,
    measured_time,
    medians,
    profiled_message,
    setup_in_shape,
)
from sim.cost.modelled import (
    PartTimes,
    PassTimes,
    Setup,
    message,
    part_times,
    setup_in,
    setup_of,
    stage_times,
)
from sim.cost.parts import Parts, scaled, total_ns
from sim.cost.profile import Profile
from sim.cost.shapes import Part, Pass, family_of, shape_of
from sim.cost.slice_fit import SliceFit
from sim.workload.partition import StagePart, partition

Units = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SliceTable:
    """What slices take on the typical stage.

    times: (max_batch + 1, N + 1, N), in ns: times[b, l, c] is the forward and the backward pass of
    l units after c units of context in a microbatch of b sequences, and their messages to the next
    stage and back: posting, transfer with its latency, and unpacking. Zero where b or l is, or
    where l + c is more than N.
    granularity: tokens in a unit; N units are a sequence.
    part: the typical stage's.
    fit: a profile's fit, with its error, where times between the measured ones are from it.
    """

    times: NDArray[np.int64]
    granularity: int
    part: StagePart
    fit: SliceFit | None


def slice_table(
    scenario: Scenario, profile: Profile | None = None, *, granularity: int, max_batch: int
) -> SliceTable:
    """What slices of every size take, for microbatches of up to `max_batch` sequences.

    All stages count as equal to the typical one, as in TeraPipe's formula: of those with neither
    embedding nor head the one with most layers, or the slowest of all where each has one of them.
    Its messages are those of the middle one of the pipeline's boundaries, by their time.
    Raises ValueError where the scenario has no model or no cluster or has given costs, and where
    sequences are not whole units, or units not whole shares of sequence parallelism.
    Not modelled: the host's time over the exchange of blocking messages; that transfers on lanes of
    their own hide behind other slices' passes.
    """
    setup = setup_of(scenario)
    if profile is not None:
        setup = setup_of(scenario, fitted_cluster(setup.cluster, profile.efficiency))
    _check(scenario, setup, granularity, max_batch)
    num_units = setup.model.sequence // granularity
    tokens: Units = granularity * np.arange(1, num_units + 1)[:, None]
    context: Units = granularity * np.arange(num_units)[None, :]
    parts = partition(scenario, setup.plan.num_stages)
    part = _typical(parts, setup_in(setup, MicrobatchGroup()), profile)
    ends = _boundary(setup)
    times = np.zeros((max_batch + 1, num_units + 1, num_units), dtype=np.int64)
    sent: dict[int, int] = {}
    for batch in range(1, max_batch + 1):
        own = setup_in(setup, MicrobatchGroup(micro_batch=batch))
        found = _stage_ns(own, profile, part, tokens, context)
        if ends is not None:
            for row, length in enumerate(tokens[:, 0].tolist()):
                if batch * length not in sent:
                    there = _message_ns(own, profile, *ends, length)
                    back = _message_ns(own, profile, ends[1], ends[0], length)
                    sent[batch * length] = there + back
                found[row] += sent[batch * length]
        times[batch, 1:] = np.where(tokens + context <= setup.model.sequence, found, 0)
    fit = profile.slice_fits.get(family_of(shape_of(scenario))) if profile is not None else None
    return SliceTable(times=times, granularity=granularity, part=part, fit=fit)


def _check(scenario: Scenario, setup: Setup, granularity: int, max_batch: int) -> None:
    sequence, plan = setup.model.sequence, setup.plan
    if scenario.costs is not None:
        raise ValueError("its costs are given, which do not say what a slice takes: leave them out")
    if max_batch < 1:
        raise ValueError(f"max_batch is {max_batch}, but must be 1 or more")
    step = plan.tensor if plan.sequence_parallel else 1
    if granularity < 1 or sequence % granularity or granularity % step:
        works = [g for g in range(step, sequence + 1, step) if sequence % g == 0]
        nearest = min(works, key=lambda g: (abs(g - granularity), g), default=None)
        raise ValueError(
            f"the granularity is {granularity} tokens, which must divide the sequence of {sequence}"
            + (f" and be a multiple of tensor {step}, for sequence parallelism" * (step > 1))
            + (f"; {nearest} would work" if nearest is not None else "")
        )


def _typical(parts: Sequence[StagePart], setup: Setup, profile: Profile | None) -> StagePart:
    inner = [part for part in parts if not (part.embedding or part.head)]
    if inner:
        return max(inner, key=lambda part: part.num_layers)
    whole, none = np.array([[setup.model.sequence]]), np.array([[0]])
    return max(parts, key=lambda part: int(_stage_ns(setup, profile, part, whole, none)[0, 0]))


def _boundary(setup: Setup) -> tuple[int, int] | None:
    """The ranks on either side of the middle one of all boundaries; None without any."""
    ranks = [stage % setup.plan.pipeline for stage in range(setup.plan.num_stages)]
    pairs = [pair for pair in itertools.pairwise(ranks) if pair[0] != pair[1]]

    def time_ns(pair: tuple[int, int]) -> int:
        transfer, _, _ = message(setup, *pair, setup.model.sequence)
        return transfer.occupancy_ns + transfer.latency_ns

    return sorted(pairs, key=time_ns)[len(pairs) // 2] if pairs else None


def _message_ns(
    setup: Setup, profile: Profile | None, sender: int, receiver: int, tokens: int
) -> int:
    transfer, post, unpack = profiled_message(setup, profile, sender, receiver, tokens)
    return (
        transfer.occupancy_ns
        + transfer.latency_ns
        + round(total_ns(post))
        + round(total_ns(unpack))
    )


def _stage_ns(
    setup: Setup, profile: Profile | None, part: StagePart, tokens: Units, context: Units
) -> Units:
    """Forward and backward pass of a stage for all slices, each rounded as a cost is."""
    if profile is None:
        times = part_times(setup, tokens, context)  # type: ignore[arg-type]
    else:
        times = _profiled_times(setup, profile, tokens, context)
    passes = stage_times(part, times)
    plan, loading = setup.plan, float(setup.cluster.device.efficiency.data_loading)
    if part.embedding or part.head:
        first: Any = np.where(context == 0, loading, 0.0)
        passes = {**passes, "forward": {**passes["forward"], "data_loading": first}}
    if plan.sharding == "full" and plan.data > 1:
        passes = sharded_times(setup, part, times, passes)
    shape = np.broadcast_shapes(tokens.shape, context.shape)
    found = np.zeros(shape, dtype=np.int64)
    names: tuple[Pass, ...] = ("forward", "backward")
    for name in names:
        found += np.rint(total_ns(passes[name])).astype(np.int64)
    return found


def _profiled_times(setup: Setup, profile: Profile, tokens: Units, context: Units) -> PartTimes:
    """`sim.cost.measured.profiled_part_times` of many slices at once."""
    modelled = part_times(setup, tokens, context)  # type: ignore[arg-type]
    shape = shape_of(setup.scenario)
    fit = profile.slice_fits.get(family_of(shape))
    fitted = fitted_times(fit, setup, tokens, context, modelled)
    near = _Nearest(setup, profile, tokens, context)
    times: dict[Part, PassTimes] = {}
    for part in PARTS:
        passes: dict[Pass, Parts] = {}
        for name in PASSES:
            measured = measured_time(fitted, part, name, modelled[part])
            if measured is not None:
                passes[name] = {"measured": measured}
            else:
                passes[name] = scaled(modelled[part][name], near.factor(part, name))
        times[part] = passes
    times["action"] = action_times(fitted) if fitted else near.action() or modelled["action"]
    return times


class _Nearest:
    """What the nearest of the measured shapes says of each of many slices."""

    def __init__(self, setup: Setup, profile: Profile, tokens: Units, context: Units) -> None:
        shape = shape_of(setup.scenario)
        self._setup = setup
        self._shapes = sorted(other for other in profile.times if comparable(other, shape))
        self._times = [medians(profile.times[other]) for other in self._shapes]
        self._asked = shape._replace(tokens=tokens, context=context)  # type: ignore[arg-type]

    @cached_property
    def _index(self) -> NDArray[np.int64]:
        """Of each slice's nearest shape."""
        if not self._shapes:
            return np.zeros((), dtype=np.int64)
        found: NDArray[np.int64] = np.argmin(
            [distance(other, self._asked, np.log) for other in self._shapes], axis=0
        )
        return found

    @cached_property
    def _modelled(self) -> list[PartTimes]:
        return [
            part_times(setup_in_shape(self._setup, other), other.tokens, other.context)
            for other in self._shapes
        ]

    def factor(self, part: Part, name: Pass) -> Any:
        """Measured over modelled time, 1 where it was not measured."""
        found = []
        for seen, model in zip(self._times, self._modelled, strict=True):
            measured = measured_time(seen, part, name, model[part])
            base = total_ns(model[part][name])
            found.append(measured / base if measured is not None and base > 0 else 1.0)
        return np.array(found or [1.0])[self._index]

    def action(self) -> PassTimes:
        """The fixed time of any action."""
        fixed = [action_times(seen) for seen in self._times]
        found: dict[Pass, Parts] = {}
        for name in PASSES if fixed else ():
            overhead: Any = np.array([total_ns(one.get(name, {})) for one in fixed])[self._index]
            found[name] = {"measured": overhead}
        return found
