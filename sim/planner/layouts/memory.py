"""What a layout's ranks hold, by content: the memory model's figures without a model of each stage.

The same functions as `sim.workload.memory.memory_model`'s, each called once for all plans that
agree in what it depends on.
"""

from __future__ import annotations

from collections.abc import Hashable
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scenarios.schema import Plan, Scenario
from sim.planner.layouts.cuts import Cut, Cuts, num_chunks
from sim.planner.layouts.plans import piece_fields, scenario_with
from sim.schedule.actions import Kind
from sim.workload.memory import (
    Counts,
    cached_bytes,
    kept_by_slice,
    optimizer_bytes,
    receive_window,
    stage_buffers,
    static_by_kind,
    working_by_kind,
)
from sim.workload.parameters import rank_parameters
from sim.workload.peaks import Contents
from sim.workload.setting import message_bytes, settings_by_variant

_state_fields = attrgetter(
    "tensor",
    "sharding",
    "precision",
    "gradient_precision",
    "master_weights",
    "optimizer",
)
I64 = NDArray[np.int64]


class _Held(NamedTuple):
    """By content: see Contents; `message` is the bytes of a message."""

    activations: I64
    caches: I64
    forward_working: I64
    backward_working: I64
    message: int


class MemoryBook:
    """Memory of the plans of one model, each figure computed once.

    For plans whose microbatches are alike and without frozen layers.
    """

    def __init__(self, scenario: Scenario, cuts: Cuts) -> None:
        self.scenario, self.cuts = scenario, cuts
        self._held: dict[Hashable, _Held] = {}
        self._states: dict[Hashable, tuple[I64, I64]] = {}
        self._buffers: dict[Hashable, I64] = {}

    def contents(self, plan: Plan) -> Contents:
        """What the ranks of a plan hold."""
        cut, cut_key = self.cuts.cut(plan), Cuts.key(plan)
        shards = plan.sharding == "full" and plan.data > 1
        held_key = (cut_key, shards, *piece_fields(plan))
        held = self._held.get(held_key)
        if held is None:
            held = self._held[held_key] = self._found(plan, cut)
        state_key = (cut_key, plan.data if plan.sharding != "none" else 1, *_state_fields(plan))
        state = self._states.get(state_key)
        if state is None:
            state = self._states[state_key] = self._state(plan, cut)
        buffer_key = (plan.pipeline, cut_key[1], plan.p2p)
        buffers = self._buffers.get(buffer_key)
        if buffers is None:
            buffers = self._buffers[buffer_key] = _buffers(plan)
        return Contents(
            cut.content,
            held.activations,
            held.caches,
            held.forward_working,
            held.backward_working,
            state[0] + held.message * buffers,
            state[1],
        )

    def _found(self, plan: Plan, cut: Cut) -> _Held:
        scenario = scenario_with(self.scenario, plan)
        (settings,) = settings_by_variant(scenario)
        working = [working_by_kind(part, settings, scenario) for part in cut.parts]
        kept = [kept_by_slice(part, (settings,))[0] for part in cut.parts]
        cached = [cached_bytes(setting, settings) for setting in settings]
        caches = [[part.num_layers * size for size in cached] for part in cut.parts]
        return _Held(
            activations=np.array(kept, np.int64),
            caches=np.array(caches, np.int64),
            forward_working=np.array([by[Kind.FORWARD] for by in working], np.int64),
            backward_working=np.array([by[Kind.BACKWARD] for by in working], np.int64),
            message=message_bytes(settings),
        )

    def _state(self, plan: Plan, cut: Cut) -> tuple[I64, I64]:
        """What each rank holds throughout, but for its buffers, and what its optimizer needs."""
        scenario = scenario_with(self.scenario, plan)
        static, optimizer = [], []
        for kind in cut.held:
            count = rank_parameters([cut.parts[c] for c in kind], scenario)
            static.append(sum(static_by_kind(scenario, Counts(count, count)).values()))
            optimizer.append(optimizer_bytes(scenario, count))
        by_kind = np.array([static, optimizer], np.int64)
        return by_kind[0][cut.kind_of], by_kind[1][cut.kind_of]


def _buffers(plan: Plan) -> I64:
    """Of each rank the messages it has room for."""
    p, stages = plan.pipeline, plan.pipeline * num_chunks(plan)
    if p == 1:
        return np.zeros(1, np.int64)
    window = receive_window(plan)
    return np.array(
        [sum(stage_buffers(s, stages, window) for s in range(r, stages, p)) for r in range(p)],
        np.int64,
    )
