"""What ranks run in the tests of elastic runs; imported by the ranks' own processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from executor.elastic.datasets import load_dataset
from executor.elastic.feeding import EpochData
from executor.elastic.norms import layer_norms
from executor.elastic.order import ElasticOrder
from executor.elastic.trainer import Trainer
from executor.joining import STOP_KEY, RankContext
from executor.session import Job
from executor.transport import make_transport
from sim.elastic.phases import phase_scenario, phases


class Noting(Trainer):
    """Notes the jobs that it has run."""

    def run_iteration(self, job: Job, iteration: int) -> float | None:
        self.jobs = getattr(self, "jobs", [])
        if job not in self.jobs:
            self.jobs.append(job)
        return super().run_iteration(job, iteration)


def each(context: RankContext, orders: Mapping[str, ElasticOrder]) -> dict[str, dict[str, Any]]:
    """Several runs in turn, each a `traced` one, but for those of special names."""
    kinds = {"forgetful": Forgetful, "stopped": Stopped}
    return {
        name: plain(context, order)
        if name.startswith("plain")
        else traced(context, (order, name), kinds.get(name, Noting))
        for name, order in orders.items()
    }


def traced(
    context: RankContext, payload: tuple[ElasticOrder, str], kind: type[Noting] = Noting
) -> dict[str, Any]:
    """A run with what it ends with: the measurement, this rank's weights, and the samples that it
    trained on in each epoch."""
    order, name = payload
    seen: dict[int, list[int]] = {}

    def note(epoch: int, samples: np.ndarray) -> None:
        seen.setdefault(epoch, []).extend(samples.tolist())

    trainer = kind(order, context, name, on_samples=note)
    measurement = trainer.run()
    assert trainer.stages is not None and trainer.model is not None
    return {
        "measurement": measurement,
        "norms": layer_norms(trainer.stages.job, trainer.model.layers, context.device),
        "weights": weights_of(trainer),
        "seen": seen,
        "jobs": len(trainer.jobs) if hasattr(trainer, "jobs") else 0,
        "open": [
            j is trainer.stages.job for j in getattr(trainer, "jobs", ()) if j.interpreter.code
        ],
    }


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    assert trainer.stages is not None
    parts = trainer.stages.parts
    return {
        name: tensor.clone()
        for part in parts.names
        for name, tensor in parts.tensors(part, state=False).items()
    }


class Mortal(Trainer):
    """Rank 1 ends itself in the middle of the fourth epoch."""

    def run_iteration(self, job: Job, iteration: int) -> float | None:
        if self.context.rank == 1 and self.epoch == 3 and iteration == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run_iteration(job, iteration)


def killed(context: RankContext, payload: tuple[ElasticOrder, str]) -> None:
    order, name = payload
    Mortal(order, context, name).run()


class Forgetful(Noting):
    """Loses some of what is in its cache before each epoch."""

    def run_iteration(self, job: Job, iteration: int) -> float | None:
        if self.cache is not None and iteration == 0 and self.context.rank == 0:
            self.cache.forget(torch.arange(0, self.elastic.samples, 7))
        return super().run_iteration(job, iteration)


class Stopped(Noting):
    """Is interrupted in the second epoch."""

    def run_iteration(self, job: Job, iteration: int) -> float | None:
        if self.context.rank == 0 and self.epoch == 1 and iteration == 0:
            self.context.store.set(STOP_KEY, "")
        if self.context.rank == 0 and self.epoch > 1:
            raise AssertionError("went on after the interruption")
        return super().run_iteration(job, iteration)


def plain(context: RankContext, order: ElasticOrder) -> dict[str, Any]:
    """The first phase's plan as an ordinary job, run for all epochs: losses and weights."""
    scenario = order.scenario
    epochs = scenario.elastic.epochs
    (phase,) = phases(scenario, (0,) * epochs, order.layouts, None)
    planned = phase_scenario(scenario, phase)
    data = EpochData(
        load_dataset(scenario),
        phase,
        seed=scenario.execution.seed,
        device=context.device,
        reads_inputs=True,
    )
    transport = make_transport(
        "auto",
        rank=context.rank,
        num_ranks=context.num_ranks,
        store=context.store,
        device=context.device,
        deadline_s=30.0,
    )
    job = Job(planned, context.rank, context.device, transport, data=data)
    losses: list[float | None] = []
    for epoch in range(epochs):
        data.begin_epoch(epoch)
        for iteration in range(phase.iterations):
            losses.append(job.interpreter.run_iteration(iteration).loss)
    dist.barrier()
    transport.close()
    weights: Mapping[str, Tensor] = job.interpreter.reductions.whole_weights()
    return {"losses": losses, "weights": weights}
