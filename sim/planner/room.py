"""Which token slices fit in memory, one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scenarios.schema import Scenario
from sim.cost.slices import SliceTable
from sim.schedule.build import build_program
from sim.workload.memory import memory_model, piece_bytes
from sim.workload.partition import partition
from sim.workload.setting import setting_of


def fitting_slices(scenario: Scenario, table: SliceTable, capacity: int) -> NDArray[np.bool_]:
    """Which slices fit in memory by themselves, beside weights and optimizer state, on every stage;
    whether all that are in flight together do is checked on whole candidates.

    Sizes grow with tokens and with context, so that the largest context that fits is bisected.
    """
    allowed = np.ones(table.times.shape, dtype=np.bool_)
    parts = partition(scenario)
    memory = memory_model(scenario, build_program(scenario))
    assert memory is not None, "a scenario with a model has one"
    # Message buffers are as large as the slices, which are not known yet.
    rooms = {
        (part.num_layers, part.embedding, part.head): (
            part,
            capacity - sum(size for kind, size in kinds.items() if kind != "message_buffers"),
        )
        for part, kinds in zip(parts, memory.static, strict=True)
    }.values()
    units = table.times.shape[2]

    def fits(batch: int, length: int, context: int) -> bool:
        unit = table.granularity
        setting = replace(setting_of(scenario, length * unit, context * unit), micro_batch=batch)
        return all(piece_bytes(part, setting, scenario) <= room for part, room in rooms)

    for batch in range(1, len(allowed)):
        if fits(batch, units, 0):
            continue
        for length in range(1, units + 1):
            low, high = -1, units - length
            if fits(batch, length, high):
                continue
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if fits(batch, length, middle) else (low, middle)
            allowed[batch, length, high:] = False
    return allowed
