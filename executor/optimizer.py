"""The optimizer step of one stage: Adam or SGD on accumulated gradients, with their norm.

Low-precision weights are updated through fp32 copies, kept between the steps where the plan keeps
master weights and made for the step where it does not; Adam's moments are in fp32 (fp64 in fp64).

Covered: a fixed loss scale for fp16. Not covered: dynamic loss scaling, skipped steps, weight
decay, learning rate schedules, a sharded (ZeRO) optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from scenarios.schema import Plan, Scenario

_FP16_LOSS_SCALE = 1024.0


def loss_scale(plan: Plan) -> float:
    """What the loss is multiplied by before the backward pass, so that fp16 does not underflow.

    Gradients stay scaled until the optimizer, which undoes it; 1 in other precisions.
    """
    return _FP16_LOSS_SCALE if plan.precision == "fp16" else 1.0


class Optimizer:
    """Updates the parameters of one stage.

    parameters, gradients: by name; the gradients are those accumulated over the iteration, in the
    plan's reduced precision, and are read at each call (so they may be reduced in place before).
    copied: the name of a parameter that another stage holds too and counts in the norm.
    """

    def __init__(
        self,
        scenario: Scenario,
        parameters: Mapping[str, nn.Parameter],
        gradients: Mapping[str, Tensor],
        *,
        copied: str | None = None,
    ) -> None:
        plan, rate = scenario.plan, scenario.execution.learning_rate
        dtype = torch.float64 if plan.precision == "fp64" else torch.float32
        self._unscale = 1.0 / loss_scale(plan)
        self._parameters = [parameters[name] for name in parameters]
        self._gradients = [gradients[name] for name in parameters]
        self._counted = [gradients[name] for name in parameters if name != copied]
        self._keeps = plan.keeps_master_weights
        self._copies = self._keeps or any(p.dtype != dtype for p in self._parameters)
        self._updated = self._parameters
        if self._copies:
            self._updated = [
                nn.Parameter(p.detach().to(dtype, copy=True)) for p in self._parameters
            ]
        self._optimizer: torch.optim.Optimizer
        if plan.optimizer == "adam":
            self._optimizer = torch.optim.Adam(self._updated, lr=rate, fused=True)
        else:
            self._optimizer = torch.optim.SGD(self._updated, lr=rate, fused=True)
        self._release()

    @property
    def state(self) -> dict[str, object]:
        """torch's state of the optimizer, for checkpoints and comparisons."""
        return self._optimizer.state_dict()

    @torch.no_grad()
    def squared_norm(self) -> Tensor:
        """The squared norm of this stage's gradients, an fp64 scalar on their device.

        The gradients of a copied weight are left out: the first stage counts them.
        """
        if not self._counted:
            return torch.zeros((), dtype=torch.float64, device=self._gradients[0].device)
        norms = [
            torch.linalg.vector_norm(
                g, dtype=torch.float64 if g.dtype == torch.float64 else torch.float32
            )
            for g in self._counted
        ]
        return (torch.stack(norms).double() * self._unscale).square().sum()

    @torch.no_grad()
    def clip(self, total_norm: Tensor, max_norm: float = 1.0) -> None:
        """Scale the gradients in place so that their norm over all stages is at most `max_norm`.

        total_norm: the square root of the sum of all stages' `squared_norm`.
        """
        factor = (max_norm / (total_norm + 1e-6)).clamp(max=1.0)
        for gradient in self._gradients:
            gradient.mul_(factor.to(gradient.dtype))

    @torch.no_grad()
    def step(self, grad_scale: float = 1.0) -> None:
        """Update the weights with `grad_scale` times the gradients (which it may scale in place).

        Use grad_scale = 1 / replicas where gradients were summed over them.
        """
        scale = grad_scale * self._unscale
        if self._copies and not self._keeps:
            for updated, parameter in zip(self._updated, self._parameters, strict=True):
                updated.data = parameter.detach().to(updated.dtype)
        kept = [p.grad for p in self._updated]
        for updated, gradient in zip(self._updated, self._gradients, strict=True):
            grad = gradient.to(updated.dtype)
            updated.grad = grad if scale == 1.0 else grad.mul_(scale)
        self._optimizer.step()
        for updated, grad_before in zip(self._updated, kept, strict=True):
            updated.grad = grad_before
        if self._copies:
            for updated, parameter in zip(self._updated, self._parameters, strict=True):
                parameter.copy_(updated)
        self._release()

    def _release(self) -> None:
        if self._copies and not self._keeps:
            for updated in self._updated:
                updated.data = updated.data.new_empty(0)
