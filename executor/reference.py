"""What every pipeline must compute, as one plain function of one process."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from executor.data import Data
from executor.model import DTYPES, StageModule
from executor.optimizer import Optimizer, loss_scale
from scenarios.schema import Scenario
from sim.workload.partition import StagePart


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceResult:
    """What training a few iterations gave.

    losses: the mean loss of each iteration over all microbatches of all replicas.
    gradients: of that mean in the last iteration, by parameter name, before clipping; of what is
        trained.
    weights: by parameter name, after the last step.
    """

    losses: tuple[float, ...]
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]


def reference(
    scenario: Scenario, iterations: int, *, device: torch.device | str = "cpu"
) -> ReferenceResult:
    """Train the whole model on one device, without pipeline, replicas, slices or recomputation.

    Frozen layers run like all others, with autograd and from the data; they are only not updated.
    """
    model, plan = scenario.model, replace(scenario.plan, recomputation="none")
    if model is None:
        raise ValueError(f"scenario {scenario.name} has no model to train")
    whole = StagePart(stage=0, first_layer=0, num_layers=model.layers, embedding=True, head=True)
    module = StageModule(replace(scenario, plan=plan), whole, device=device)
    named = dict(module.named_parameters())
    frozen = _frozen(plan.frozen_layers)
    parameters = {n: p for n, p in named.items() if not n.startswith(frozen)}
    gradients = {
        name: torch.zeros_like(parameter, dtype=DTYPES[plan.reduced_precision])
        for name, parameter in parameters.items()
    }
    optimizer = Optimizer(scenario, parameters, gradients)
    data = Data(scenario, device=device)
    losses = []
    made: dict[str, Tensor] = {}
    for iteration in range(iterations):
        for gradient in gradients.values():
            gradient.zero_()
        total = 0.0
        for replica in range(plan.data):
            for microbatch in range(plan.num_microbatches):
                inputs, targets = data.batch(iteration, replica, microbatch)
                weight = len(inputs) / plan.num_sequences
                loss = module.loss(module(inputs), targets)
                parts = torch.autograd.grad(
                    loss * (weight * loss_scale(plan)), list(parameters.values())
                )
                for gradient, part in zip(gradients.values(), parts, strict=True):
                    gradient.add_(part)
                total += float(loss.detach()) * weight
        losses.append(total)
        made = {name: g / loss_scale(plan) for name, g in gradients.items()}
        if plan.clip_gradients:
            optimizer.clip(optimizer.squared_norm().sqrt())
        optimizer.step()
    weights = {name: p.detach().clone() for name, p in named.items()}
    return ReferenceResult(losses=tuple(losses), gradients=made, weights=weights)


def _frozen(layers: int) -> tuple[str, ...]:
    """How the names of frozen parameters begin."""
    if not layers:
        return ()
    return ("embedding.", *(f"blocks.{layer}." for layer in range(layers)))
