"""The optimizer step of one stage: Adam or SGD on accumulated gradients, with their norm.

Low-precision weights are updated through fp32 copies, kept between the steps where the plan keeps
master weights and made for the step where it does not; Adam's moments are in fp32 (fp64 in fp64).

Where the optimizer is sharded over replicas (ZeRO-1), `own_segments` cuts parameters and gradients
to one replica's share, which is then all that it updates and keeps state for.

Covered: a fixed loss scale for fp16. Not covered: dynamic loss scaling, skipped steps, weight
decay, learning rate schedules.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from scenarios.schema import Plan, Scenario

_FP16_LOSS_SCALE = 1024.0


def loss_scale(plan: Plan) -> float:
    """What the loss is multiplied by before the backward pass, so that fp16 does not underflow.

    Gradients stay scaled until the optimizer, which undoes it; 1 in other precisions.
    """
    return _FP16_LOSS_SCALE if plan.precision == "fp16" else 1.0


def own_segments(
    tensors: Mapping[str, Tensor], ranges: Sequence[tuple[int, int]], starts: Mapping[str, int]
) -> dict[str, Tensor]:
    """The parts of a stage's parameters or gradients that lie in some ranges of its flat buffer.

    ranges: (begin, end) elements, ascending. starts: each tensor's first element in the buffer.
    Returns one-dimensional views: a tensor's own name where it lies whole in one range, else with
    the elements that are in it, as `weight[16:32]`.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        start, flat = starts[name], tensor.detach().view(-1)
        for begin, end in ranges:
            low, high = max(begin - start, 0), min(end - start, flat.numel())
            if low < high:
                whole = high - low == flat.numel()
                found[name if whole else f"{name}[{low}:{high}]"] = flat[low:high]
    return found


class Optimizer:
    """Updates the parameters of one stage, or one replica's segments of them.

    parameters, gradients: by name; the gradients are those accumulated over the iteration, in the
    plan's reduced precision, and are read at each call (so they may be reduced in place before).
    uncounted: the names of parameters that another rank holds too and counts in the norm.

    Over no parameters, as where all of a stage is frozen, it does nothing.
    """

    def __init__(
        self,
        scenario: Scenario,
        parameters: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        *,
        uncounted: Collection[str] = (),
    ) -> None:
        plan, rate = scenario.plan, scenario.execution.learning_rate
        dtype = torch.float64 if plan.precision == "fp64" else torch.float32
        self._unscale = 1.0 / loss_scale(plan)
        self._places = {name: place for place, name in enumerate(parameters)}
        self._parameters = [parameters[name] for name in parameters]
        self._gradients = [gradients[name] for name in parameters]
        self._device = self._gradients[0].device if self._gradients else torch.device("cpu")
        self._counted = [
            gradients[name] for name in parameters if name.partition("[")[0] not in uncounted
        ]
        self._keeps = plan.keeps_master_weights
        self._copies = self._keeps or any(p.dtype != dtype for p in self._parameters)
        self._updated = [
            p
            if isinstance(p, nn.Parameter) and not self._copies
            else nn.Parameter(p.detach().to(dtype, copy=self._copies))
            for p in self._parameters
        ]
        self._optimizer: torch.optim.Optimizer | None = None
        if self._updated and plan.optimizer == "adam":
            self._optimizer = torch.optim.Adam(self._updated, lr=rate, fused=True)
        elif self._updated:
            self._optimizer = torch.optim.SGD(self._updated, lr=rate, fused=True)
        self._release()

    @property
    def state(self) -> dict[str, object]:
        """torch's state of the optimizer, for comparisons."""
        return {} if self._optimizer is None else self._optimizer.state_dict()

    @torch.no_grad()
    def state_of(self, name: str) -> dict[str, Tensor]:
        """What is kept for one parameter from step to step, by name, to be moved or stored: Adam's
        `step` and moments (zeros before the first step), the `master` weights where the plan keeps
        them. The tensors are the optimizer's own, or as good as new."""
        updated = self._updated[self._places[name]]
        found: dict[str, Tensor] = {}
        if isinstance(self._optimizer, torch.optim.Adam):
            kept = self._optimizer.state.get(updated)
            if kept:
                found = {key: kept[key] for key in ("step", "exp_avg", "exp_avg_sq")}
            else:
                step = torch.zeros((), dtype=torch.float32, device=self._device)
                like = self._parameters[self._places[name]]
                zeros = torch.zeros_like(like, dtype=updated.dtype)
                found = {"step": step, "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
        if self._keeps:
            found["master"] = updated.detach()
        return found

    @torch.no_grad()
    def load_state(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_of` has given for a parameter, here or on another rank.

        Raises ValueError where it is another optimizer's.
        """
        expected = self.state_of(name)
        if state.keys() != expected.keys():
            raise ValueError(
                f"the optimizer's state of {name} holds {sorted(state)}, and here "
                f"{sorted(expected)} are kept: it is of another optimizer or precision"
            )
        updated = self._updated[self._places[name]]
        if isinstance(self._optimizer, torch.optim.Adam):
            self._optimizer.state[updated] = {
                key: state[key].to(expected[key]).view_as(expected[key]).clone()
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
        if self._keeps:
            updated.copy_(state["master"].view_as(updated))

    @torch.no_grad()
    def squared_norm(self) -> Tensor:
        """The squared norm of this stage's gradients, an fp64 scalar on their device.

        Those of `uncounted` parameters are left out.
        """
        if not self._counted:
            return torch.zeros((), dtype=torch.float64, device=self._device)
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
        if self._optimizer is None:
            return
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
