"""Split backward: linear layers whose weight gradients can be made later than their input's.

A backward pass B is I, then W: I makes the gradient of the stage's input (and of the embedding, the
norms and other small parameters), W those of the linear layers' weights and biases. Both halves do
the operations of B, each once and on the same numbers, so I + W equals B and costs what B costs.

A linear layer whose inputs a tensor group shares out adds its bias outside (after the sum over the
group), so there I makes the bias's gradient.

Covered: linear layers, any number of microbatches between I and W. Not covered: second derivatives.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Deferred(NamedTuple):
    """What one linear layer keeps from I to W for one microbatch.

    inputs: (rows, inputs). grad_outputs: (rows, outputs). bias: None where the layer has none.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    inputs: Tensor
    grad_outputs: Tensor


class WeightGradients:
    """Where the linear layers of one stage leave the work that I does not do.

    splittable: whether the forward pass runs in the form whose backward pass can be split; else it
    is `F.linear` with torch's own backward pass, which is faster on small layers.
    """

    __slots__ = ("_collected", "splittable")

    def __init__(self) -> None:
        self.splittable = False
        self._collected: list[Deferred] | None = None

    def start(self) -> None:
        """Defer the weight gradients of the backward passes that follow."""
        self._collected = []

    def stop(self) -> list[Deferred]:
        """End deferring; return what was deferred, in the order of the backward pass."""
        collected, self._collected = self._collected, None
        return collected if collected is not None else []

    @property
    def collected(self) -> list[Deferred] | None:
        """What has been deferred since `start`; None outside `start` and `stop`."""
        return self._collected


class _SplitLinear(torch.autograd.Function):
    """`F.linear` whose backward pass leaves the weight's half to the store while it collects.

    The products are those of torch's own backward pass of `F.linear`, in the same layout, so the
    gradients are equal to the bit.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        store: WeightGradients,
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        # The parameters themselves: under checkpointing the saved weight comes back as an alias.
        ctx.parameters = (weight, bias)
        ctx.store = store
        return F.linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        (grad_output,) = grads
        inputs, weight = ctx.saved_tensors
        rows = grad_output.reshape(-1, grad_output.shape[-1])
        grad_input = rows.mm(weight).view(inputs.shape) if ctx.needs_input_grad[0] else None
        return grad_input, *weight_half(ctx, inputs, rows), None


def weight_half(ctx: Any, inputs: Tensor, rows: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The second half of a linear layer's backward pass: the gradients of weight and bias, or
    None where they are left to the store.

    ctx: of a Function with (inputs, weight, bias, ...), its `parameters` and its `store`.
    inputs: (..., inputs). rows: the output's gradient, (rows, outputs).
    """
    _, need_weight, need_bias = ctx.needs_input_grad[:3]
    collected = ctx.store.collected
    if not need_weight:
        return None, rows.sum(0) if need_bias else None
    if collected is None:
        return _products(inputs, rows, need_bias)
    parameter, bias = ctx.parameters
    flat = inputs.reshape(-1, inputs.shape[-1])
    collected.append(Deferred(parameter, bias if need_bias else None, flat, rows))
    return None, None


def _products(inputs: Tensor, rows: Tensor, bias: bool) -> tuple[Tensor, Tensor | None]:
    flat = inputs.reshape(-1, inputs.shape[-1])
    return rows.t().mm(flat), rows.sum(0) if bias else None


def weight_gradients(deferred: Deferred) -> tuple[Tensor, Tensor | None]:
    """W of one layer: the gradients of its weight (outputs, inputs) and bias (outputs)."""
    return _products(deferred.inputs, deferred.grad_outputs, deferred.bias is not None)


def linear(
    inputs: Tensor, weight: nn.Parameter, bias: nn.Parameter | None, store: WeightGradients
) -> Tensor:
    """`F.linear`, in the form that can be split where the store asks for it."""
    if store.splittable:
        output: Tensor = _SplitLinear.apply(  # type: ignore[no-untyped-call]
            inputs, weight, bias, store
        )
        return output
    return F.linear(inputs, weight, bias)


class Linear(nn.Module):
    """A linear layer, uninitialised, whose weight gradient may be deferred to `store`."""

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        store: WeightGradients,
        *,
        bias: bool = True,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.store = store
        self.weight = nn.Parameter(torch.empty(num_outputs, num_inputs, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(num_outputs, device=device, dtype=dtype))
        if not bias:
            self.register_parameter("bias", None)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        return linear(inputs, self.weight, self.bias, self.store)
