"""Frozen layers on real processes, against the single process in float64; and a job that is fed
from a cache. One launch runs all cases."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mesh_cases import (
    BLOCKING,
    BUCKETS,
    CLIPPED,
    FULL,
    GLOO,
    GPIPE,
    OUTSIDE_IN,
    SEQUENCE,
    UNTIED,
    VIT,
    Case,
    run_cases,
    scenario_of,
)
from torch import Tensor

from executor.commands import against_reference, run_scenario
from executor.data import Batch, Data
from executor.launching import SessionResult
from executor.session import Job
from executor.transport.null import NullTransport
from scenarios.loader import load
from scenarios.schema import Scenario
from sim.comparison import structural_error
from sim.schedule.actions import Kind

torch.set_num_threads(1)

CLASSIFIER = ("model.family=bert", "model.classes=3", *UNTIED)


def frozen(layers: int) -> tuple[str, ...]:
    return (*UNTIED, f"plan.frozen_layers={layers}")


CASES: dict[str, Case] = {
    # name: (tensor, pipeline, data), overrides
    "p4-three-gpipe": ((1, 4, 1), (*frozen(3), *GPIPE, *CLIPPED)),
    "p4-all-vit": ((1, 4, 1), (*VIT, *frozen(4), *BLOCKING, *CLIPPED)),
    "p2d2-whole-stage": ((1, 2, 2), (*frozen(2), *OUTSIDE_IN, *CLIPPED)),
    "p2d2-inside-buckets": ((1, 2, 2), (*frozen(1), *BUCKETS, *FULL, *GPIPE)),
    "p2d2-stage-buckets": ((1, 2, 2), (*frozen(3), *BUCKETS, *GLOO, *CLIPPED)),
    "t2p2-classifier": ((2, 2, 1), (*CLASSIFIER, *frozen(3), *CLIPPED)),
    "t2p2-classifier-sequence": ((2, 2, 1), (*CLASSIFIER, *frozen(1), *SEQUENCE, *CLIPPED)),
    "t2p2-cached": ((2, 2, 1), (*frozen(2), "plan.cached_layers=1", *SEQUENCE)),
    "p2d2-cached": ((1, 2, 2), (*frozen(2), "plan.cached_layers=2", *BUCKETS)),
}


@pytest.fixture(scope="module")
def sessions() -> dict[str, SessionResult]:
    """Every case, run for three iterations."""
    return run_cases(CASES)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_single_process(name: str, sessions: dict[str, SessionResult]) -> None:
    result = against_reference(scenario_of(CASES[name]), sessions[name])
    assert result.passed, str(result)
    assert result.num_tensors >= 4 * 12 + 5


def test_a_run_is_measured_and_replayed_with_what_is_left_of_its_passes() -> None:
    sizes = ("model.hidden=64", "model.sequence=32", "plan.microbatches=4", "execution.warmup=1")
    overrides = ("plan.frozen_layers=4", "execution.iterations=3", "execution.deadline=30 s")
    scenario = load("local-2rank-gpipe", (*sizes, *overrides)).scenario
    result = run_scenario(scenario)
    assert result is not None
    for timeline in result.measurement.timelines:
        passes = [(s.rank, s.action.kind) for s in timeline.spans if s.lane == "compute"]
        assert passes.count((0, Kind.FORWARD)) == passes.count((1, Kind.BACKWARD)) == 4
        assert (0, Kind.BACKWARD) not in passes and (1, Kind.SEND_BACKWARD) not in passes
    assert abs(structural_error(result.measurement)) < 0.05


class Fed:
    """The data with a number for every sample, or what was kept of it; notes when it is read."""

    def __init__(self, scenario: Scenario, kept: dict[int, Tensor] | None = None) -> None:
        self.data, self.kept, self.depth = Data(scenario), kept, scenario.plan.cached_layers
        self.reads: list[int] = []

    def slices(self, iteration: int, replica: int, microbatch: int) -> tuple[Batch, ...]:
        self.reads.append(microbatch)
        (batch,) = self.data.slices(iteration, replica, microbatch)
        numbers = torch.arange(len(batch.inputs)) + len(batch.inputs) * microbatch
        if self.kept is None:
            return (batch._replace(samples=numbers),)
        inputs = torch.stack([self.kept[int(number)] for number in numbers])
        return (batch._replace(inputs=inputs, depth=self.depth),)


def test_a_job_reads_what_another_has_kept_as_its_passes_begin() -> None:
    filling = scenario_of(((1, 1, 1), (*CLASSIFIER, *frozen(3), "plan.fills_cache=true")))
    reading = replace(
        filling, plan=replace(filling.plan, fills_cache=False, cached_layers=3, schedule="1f1b")
    )
    kept: dict[int, Tensor] = {}

    def keep(samples: Tensor, activation: Tensor) -> None:
        # Each microbatch is read before its own pass, and not before the one of another.
        assert source.reads == list(range(len(source.reads)))
        assert source.reads[-1] == int(samples[0]) // len(samples)
        kept.update(zip(samples.tolist(), activation.clone(), strict=True))

    found = []
    for scenario in (filling, reading):
        source = Fed(scenario, kept if scenario is reading else None)
        device = torch.device("cpu")
        job = Job(
            scenario,
            0,
            device,
            NullTransport(device),
            keep_gradients=True,
            data=source,
            read_at_pass=True,
        )
        job.runners[0].on_boundary = keep
        loss = job.interpreter.run_iteration(0).loss
        found.append((loss, job.interpreter.kept))
        assert source.reads == [0, 1, 2, 3] and not job.interpreter.batches
    (loss, gradients), (again, others) = found
    assert loss == again and len(gradients) == 12 + 3
    assert all(torch.equal(gradient, others[name]) for name, gradient in gradients.items())
