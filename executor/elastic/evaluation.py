"""Forward passes through a phase's pipelines without training: accuracy and loss on given samples.

Activations travel by torch.distributed's send and receive, beside the run's own transport.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from executor.model import DTYPES, Head, StageModule
from executor.session import Job
from sim.elastic.phases import Layout

_CHUNK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """accuracy: the fraction of samples whose class was found. loss: their mean cross-entropy."""

    accuracy: float
    loss: float


def evaluate(
    job: Job | None,
    layout: Layout,
    inputs: Tensor,
    targets: Tensor,
    *,
    device: torch.device,
    by_all: bool = False,
) -> Evaluation:
    """Evaluate samples, shared out to the replicas; all ranks of the world call it together.

    job: None on a rank that has no place in the phase. by_all: each replica takes all samples, so
    that the mean tells whether one of them is not like the others.
    """
    totals = torch.zeros(3, dtype=torch.float64, device=device)
    if job is not None:
        place = job.interpreter.place
        own = slice(None)
        if not by_all:
            share = -(-len(targets) // layout.data)
            own = slice(place.data * share, (place.data + 1) * share)
        line = [layout.rank_of(stage, place.data) for stage in range(layout.pipeline)]
        totals += _through(job, line, inputs[own], targets[own], device)
    dist.all_reduce(totals)
    loss, correct, count = totals.tolist()
    return Evaluation(accuracy=correct / count, loss=loss / count)


@torch.no_grad()
def _through(
    job: Job, line: list[int], inputs: Tensor, targets: Tensor, device: torch.device
) -> Tensor:
    """The summed loss, right answers and samples of one replica, on its last rank; else zeros.

    line: the world ranks of the pipeline.
    """
    stage = job.interpreter.place.pipeline
    module = job.runners[stage].module
    model, dtype = module.model, DTYPES[job.scenario.plan.precision]
    totals = torch.zeros(3, dtype=torch.float64, device=device)
    sending: list[tuple[Any, Tensor]] = []
    for tag, begin in enumerate(range(0, len(targets), _CHUNK)):
        chunk = targets[begin : begin + _CHUNK].to(device)
        if stage == 0:
            x = inputs[begin : begin + _CHUNK].to(device)
        else:
            shape = (len(chunk), model.sequence, model.hidden)
            x = torch.empty(shape, dtype=dtype, device=device)
            dist.recv(x, line[stage - 1], tag=tag)
        x = module(x)
        if stage < len(line) - 1:
            x = x.contiguous()
            sending.append((dist.isend(x, line[stage + 1], tag=tag), x))
            continue
        logits = _logits(module, x)
        totals[0] += F.cross_entropy(logits, chunk, reduction="sum").double()
        totals[1] += (logits.argmax(1) == chunk).sum()
        totals[2] += len(chunk)
    for work, _ in sending:
        work.wait()
    return totals


def _logits(module: StageModule, x: Tensor) -> Tensor:
    """What the classifier says of the first token, (samples, classes), in fp32 or fp64."""
    head = module.head
    assert isinstance(head, Head) and head.pooled
    logits: Tensor = head.output(head.norm(x[:, 0]))
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
