"""Tensor parallelism: a group of ranks that share every layer's products, after Megatron-LM.

Column linears hold some of the outputs, row linears some of the inputs; between the two nothing is
sent. Without sequence parallelism activations outside them are whole on every rank, a column
linear sums its input's gradient over the group, a row linear its output (arXiv 1909.08053). With
it they are shared out by tokens: a column linear gathers its input (again in the backward pass, so
that only the share is kept) and reduce-scatters its gradient, a row linear reduce-scatters its
output (arXiv 2205.05198).

The collectives are torch.distributed's own, called in place: its functional ones make a copy and a
dispatch for each call (1.5 ms against 0.4 ms on gloo for 8 KiB). As in Megatron-LM, nothing else
runs beside them but, with sequence parallelism, the product of a column linear's input gradient
(beside gathering its input again) and that of its weight gradient (beside the reduce-scatter). All
ranks of a group run the same passes in the same order, and so meet in the same collectives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from executor.collectives import all_gather, reduce_scatter
from executor.deferred import Linear, WeightGradients, linear, weight_half


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorGroup:
    """A rank's place in its tensor group.

    group: None where nothing is sent (one rank; or a null transport, whose numbers mean nothing but
        whose work is that of a real run).
    sequence: whether activations outside the linears are shared out by tokens.
    """

    rank: int
    size: int
    group: dist.ProcessGroup | None
    sequence: bool

    @property
    def shares_tokens(self) -> bool:
        """Whether a rank holds only some of the tokens between the linears."""
        return self.sequence and self.size > 1

    def own_tokens(self, tokens: int) -> slice:
        """Which of a sequence's tokens this rank holds between the linears."""
        if not self.shares_tokens:
            return slice(0, tokens)
        share = tokens // self.size
        return slice(self.rank * share, (self.rank + 1) * share)


ALONE = TensorGroup(rank=0, size=1, group=None, sequence=False)
"""The group of a rank that shares nothing."""


def sum_over(tensors: Sequence[Tensor], tensor: TensorGroup) -> None:
    """Sum each of some tensors of one type over the group, in place, with one all-reduce."""
    if tensor.group is None or not tensors:
        return
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat, group=tensor.group)
    start = 0
    for target in tensors:
        target.copy_(flat[start : start + target.numel()].view(target.shape))
        start += target.numel()


def reduce_from(inputs: Tensor, tensor: TensorGroup) -> Tensor:
    """The sum of the ranks' partial (micro_batch, tokens, hidden), of which each keeps all tokens
    or, with sequence parallelism, its own; `inputs` may be overwritten."""
    operation = _ReduceScatterTokens if tensor.sequence else _Reduce
    output: Tensor = operation.apply(inputs, tensor)  # type: ignore[no-untyped-call]
    return output


def first_token(inputs: Tensor, tensor: TensorGroup) -> Tensor:
    """Token 0 of (micro_batch, own tokens, hidden) on every rank, each of which is to do the same
    with it: (micro_batch, hidden)."""
    if not tensor.shares_tokens:
        return inputs[:, 0]
    output: Tensor = _FirstToken.apply(inputs, tensor)  # type: ignore[no-untyped-call]
    return output


def column_linear(
    inputs: Tensor,
    weight: nn.Parameter,
    bias: nn.Parameter | None,
    store: WeightGradients,
    tensor: TensorGroup,
) -> Tensor:
    """This rank's outputs of a linear layer: (micro_batch, own tokens, inputs) to (micro_batch,
    tokens, own outputs)."""
    output: Tensor = _ColumnLinear.apply(  # type: ignore[no-untyped-call]
        inputs, weight, bias, store, tensor
    )
    return output


class ColumnLinear(Linear):
    """A linear layer of which every rank of the group holds some outputs."""

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        store: WeightGradients,
        tensor: TensorGroup,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(num_inputs, num_outputs // tensor.size, store, device=device, dtype=dtype)
        self.tensor = tensor

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (micro_batch, own tokens, inputs) to (micro_batch, tokens, own outputs)."""
        return column_linear(inputs, self.weight, self.bias, self.store, self.tensor)


class RowLinear(Linear):
    """A linear layer of which every rank of the group holds some inputs; its bias is whole."""

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        store: WeightGradients,
        tensor: TensorGroup,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(num_inputs // tensor.size, num_outputs, store, device=device, dtype=dtype)
        self.tensor = tensor

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (micro_batch, tokens, own inputs) to (micro_batch, own tokens, outputs)."""
        return reduce_from(linear(inputs, self.weight, None, self.store), self.tensor) + self.bias


def vocabulary_embedding(ids: Tensor, weight: nn.Parameter, tensor: TensorGroup) -> Tensor:
    """The rows of a token table shared out by vocabulary: ids (micro_batch, tokens) to
    (micro_batch, own tokens, hidden)."""
    local = ids - tensor.rank * weight.shape[0]
    elsewhere = (local < 0) | (local >= weight.shape[0])
    rows = F.embedding(local.masked_fill(elsewhere, 0), weight)
    return reduce_from(rows.masked_fill(elsewhere.unsqueeze(-1), 0.0), tensor)


def vocabulary_cross_entropy(
    logits: Tensor, targets: Tensor, vocabulary: int, tensor: TensorGroup, *, ignored: int = -100
) -> Tensor:
    """The mean cross-entropy of logits shared out by vocabulary, the same on every rank.

    logits: (rows, own vocabulary), of which those past `vocabulary` count as minus infinity.
    targets: (rows,), left out of the mean where `ignored`. The logits are never gathered: the
    ranks sum each row's largest logit, sum of exponentials and target logit, in fp32 (fp64).
    """
    loss: Tensor = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
        logits, targets, vocabulary, tensor, ignored
    )
    return loss


class _Reduce(torch.autograd.Function):
    """Sum over the group; the gradient, already the same on every rank, passes."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, tensor: TensorGroup) -> Tensor:
        ctx.mark_dirty(inputs)
        return _summed(inputs, tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        return grads[0], None


class _ReduceScatterTokens(torch.autograd.Function):
    """Sum over the group and keep this rank's tokens; gather the gradient's."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, tensor: TensorGroup) -> Tensor:
        ctx.tensor = tensor
        return _reduce_scattered(inputs, tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        return _gathered(grads[0], ctx.tensor), None


class _FirstToken(torch.autograd.Function):
    """Rank 0's first token to all; its gradient, the same on every rank, stays with rank 0."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, tensor: TensorGroup) -> Tensor:
        ctx.shape, ctx.rank = inputs.shape, tensor.rank
        first = inputs[:, 0].contiguous() if tensor.rank == 0 else torch.zeros_like(inputs[:, 0])
        return _summed(first, tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        grad = grads[0].new_zeros(ctx.shape)
        if ctx.rank == 0:
            grad[:, 0] = grads[0]
        return grad, None


class _ColumnLinear(torch.autograd.Function):
    """A column linear with its communication: I sums the input's gradient, W only multiplies."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        store: WeightGradients,
        tensor: TensorGroup,
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.parameters = (weight, bias)
        ctx.store, ctx.tensor = store, tensor
        return F.linear(_gathered(inputs, tensor) if tensor.sequence else inputs, weight, bias)

    @staticmethod
    def backward(
        ctx: Any, *grads: Any
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        (grad_output,) = grads
        inputs, weight = ctx.saved_tensors
        tensor: TensorGroup = ctx.tensor
        rows = grad_output.reshape(-1, grad_output.shape[-1])
        if not tensor.sequence:
            grad_input = _summed(grad_output @ weight, tensor)
            return grad_input, *weight_half(ctx, inputs, rows), None, None
        gathering = _start_gather(inputs, tensor)
        grad_inputs = grad_output @ weight
        inputs = gathering()
        scattering = _start_reduce_scatter(grad_inputs, tensor)
        if ctx.store.collected is not None:
            grad_input = scattering()  # I ends with it: the product that would hide it is W's.
            return grad_input, *weight_half(ctx, inputs, rows), None, None
        grad_weight, grad_bias = weight_half(ctx, inputs, rows)
        return scattering(), grad_weight, grad_bias, None, None


class _CrossEntropy(torch.autograd.Function):
    """The loss, and its gradient from the softmax that the forward pass made."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        vocabulary: int,
        tensor: TensorGroup,
        ignored: int,
    ) -> Tensor:
        share = logits.shape[-1]
        first = tensor.rank * share
        held = max(0, min(share, vocabulary - first))
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        largest = torch.full(targets.shape, -torch.inf, dtype=dtype, device=logits.device)
        if held:
            largest.copy_(logits[:, :held].amax(dim=-1))
        if tensor.group is not None:
            dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=tensor.group)
        shifted = logits.to(dtype) - largest.unsqueeze(-1)
        shifted[:, held:] = -torch.inf
        local = targets - first
        here = (local >= 0) & (local < held)
        local = local.masked_fill(~here, 0)
        wanted = shifted.gather(1, local.unsqueeze(-1)).squeeze(-1).masked_fill(~here, 0.0)
        exponentials = shifted.exp_()
        sums = _summed(torch.stack((exponentials.sum(-1), wanted)), tensor)
        totals, wanted = sums[0], sums[1]
        counted = targets != ignored
        losses = (totals.log() - wanted).masked_fill(~counted, 0.0)
        softmax = exponentials.div_(totals.unsqueeze(-1))
        count = counted.sum()
        ctx.save_for_backward(softmax, local, here, counted, count)
        ctx.dtype = logits.dtype
        return losses.sum() / count

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None, None, None]:
        softmax, local, here, counted, count = ctx.saved_tensors
        minus_one = here.to(softmax.dtype).neg().unsqueeze(-1)
        grad = softmax.scatter_add(1, local.unsqueeze(-1), minus_one)
        grad.mul_((counted * (grads[0] / count)).unsqueeze(-1))
        return grad.to(ctx.dtype), None, None, None, None


def _summed(partial: Tensor, tensor: TensorGroup) -> Tensor:
    """The sum over the group, in place."""
    if tensor.group is not None:
        dist.all_reduce(partial, group=tensor.group)
    return partial


def _gathered(own: Tensor, tensor: TensorGroup) -> Tensor:
    """(micro_batch, own tokens, width) of all ranks as (micro_batch, tokens, width)."""
    return _start_gather(own, tensor)()


def _start_gather(own: Tensor, tensor: TensorGroup) -> Callable[[], Tensor]:
    """Begin `_gathered`; what is returned waits for it."""
    if tensor.group is None:
        return lambda: own.repeat(1, tensor.size, 1)
    batch, tokens, width = own.shape
    own = own.contiguous()
    parts = own.new_empty((tensor.size * batch, tokens, width))
    work = all_gather(parts, own, group=tensor.group, async_op=True)

    def finish() -> Tensor:
        work.wait()
        by_rank = parts.view(tensor.size, batch, tokens, width)
        return by_rank.transpose(0, 1).reshape(batch, tensor.size * tokens, width)

    return finish


def _reduce_scattered(partial: Tensor, tensor: TensorGroup) -> Tensor:
    """This rank's tokens of the sum over the group: (micro_batch, own tokens, width)."""
    return _start_reduce_scatter(partial, tensor)()


def _start_reduce_scatter(partial: Tensor, tensor: TensorGroup) -> Callable[[], Tensor]:
    """Begin `_reduce_scattered`; what is returned waits for it."""
    batch, tokens, width = partial.shape
    own = tokens // tensor.size
    by_rank = partial.view(batch, tensor.size, own, width).transpose(0, 1).contiguous()
    if tensor.group is None:
        return lambda: by_rank[tensor.rank]
    parts = by_rank.view(-1, own, width)
    output = partial.new_empty((batch, own, width))
    work = reduce_scatter(output, parts, group=tensor.group, async_op=True)

    def finish() -> Tensor:
        work.wait()
        return output

    return finish
