"""The gradient norm of each layer, the same on every rank: what adaptive freezing decides by."""

from __future__ import annotations

import torch
import torch.distributed as dist

from executor.elastic.parts import part_of
from executor.optimizer import loss_scale
from executor.session import Job


def layer_norms(job: Job | None, layers: int, device: torch.device) -> tuple[float, ...]:
    """Each layer's gradient norm of the last iteration; 0 for a frozen one. All ranks of the world
    call it together.

    job: None on a rank that has no place in the phase. Where gradients were clipped all are smaller
    by the same factor.
    """
    squares = torch.zeros(layers, dtype=torch.float64, device=device)
    if job is not None and job.interpreter.place.data == 0:
        scale = loss_scale(job.scenario.plan)
        for runner in job.runners.values():
            for name, gradient in runner.gradients.items():
                part = part_of(name)
                if part.startswith("layer "):
                    norm = torch.linalg.vector_norm(gradient.double()) / scale
                    squares[int(part.split(" ")[1])] += norm.square()
    # Each layer is on one rank of replica 0: nothing is rounded in the sum.
    dist.all_reduce(squares)
    return tuple(squares.sqrt().tolist())
