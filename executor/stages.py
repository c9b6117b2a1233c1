"""One stage at work: its passes over microbatches, and the gradients they accumulate.

The runner knows neither ranks, messages nor order; whoever interprets the schedule calls its passes
and moves tensors between runners. Gradients are those of the mean loss over the iteration's
microbatches of one replica; replicas are to be averaged.

Not covered: slices of a microbatch (slice_index other than 0).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from executor.buckets import GradientBuckets, OnReady
from executor.deferred import Deferred, weight_gradients
from executor.model import DTYPES, StageModule
from executor.optimizer import loss_scale
from executor.sharded import ReplicaGroup, ShardedWeights
from scenarios.schema import Scenario
from sim.workload.partition import StagePart

_ALIGNMENT = 16


class StageRunner:
    """Runs the passes of one stage.

    split_backward: whether I and W will be called; the forward pass then runs in the form that can
    be split (which B can follow as well), else in torch's own, which is faster on small layers.

    replicas: with whom to share weights and gradients out (ZeRO-3); nobody if None or alone.

    Attributes, beside the arguments:
    parameters, gradients: by name; gradients are views of `gradient_buffer`, in the plan's reduced
        precision, zero after `zero_grad`, and scaled by `loss_scale` in fp16.
        Where weights are shared out over replicas, both are this replica's shares, by unit, and the
        gradients are already averaged over the replicas.
    sharded: those shares, and whole tensors from them; None where nothing is shared out.
    gradient_buffer: all gradients of the stage in one dimension, for one reduction of them all
        (64-byte padding between them stays zero).
    tied_gradient: the part of it that first and last stage must sum; None without one.
    input_shape, output_shape: of the tensors received and sent forward, (micro_batch, own tokens,
        hidden) (output_shape is None on the last stage); gradients have the same shapes. They
        travel in `dtype`; the first stage's input is the data's, whole, not a message.
    replicated: names of the parameters that every rank of the tensor group holds whole, so that the
        gradient norm is to count them once.
    partial_gradients: the gradients, views of `gradient_buffer`, that must be summed over the
        tensor group before they are used (none but with sequence parallelism).
    losses: each microbatch's loss since `zero_grad`, in the order of their passes, scalars on the
        device (last stage).
    """

    def __init__(
        self,
        module: StageModule,
        scenario: Scenario,
        part: StagePart,
        *,
        split_backward: bool = False,
        replicas: ReplicaGroup | None = None,
    ) -> None:
        model, plan = scenario.model, scenario.plan
        assert model is not None, f"scenario {scenario.name} has no model"
        self.module, self.part, self.split_backward = module, part, split_backward
        module.weight_gradients.splittable = split_backward
        self.device = next(module.parameters()).device
        self.parameters: dict[str, nn.Parameter] = dict(module.named_parameters())
        self.sharded: ShardedWeights | None = None
        if replicas is not None and replicas.size > 1:
            if split_backward:
                raise ValueError("full sharding runs without split backward passes")
            self.sharded = ShardedWeights(module, replicas, DTYPES[plan.reduced_precision])
            self.parameters = self.sharded.parameters
        self.dtype = DTYPES[plan.precision]
        own = module.tensor.own_tokens(model.sequence)
        activation = (plan.micro_batch, own.stop - own.start, model.hidden)
        self.input_shape: tuple[int, ...] = activation
        if part.embedding and model.family == "vit":
            self.input_shape = (plan.micro_batch, model.sequence - 1, model.patch_inputs or 0)
        elif part.embedding:
            self.input_shape = (plan.micro_batch, model.sequence)
        self.output_shape = None if part.head else activation
        self.losses: list[Tensor] = []
        self._live: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._deferred: dict[tuple[int, int], list[Deferred]] = {}
        self._num_microbatches, self._num_completed = plan.num_microbatches, 0
        self._buckets: GradientBuckets | None = None
        loss_dtype = self.dtype if self.dtype == torch.float64 else torch.float32
        self._loss_gradient = torch.tensor(
            loss_scale(plan) / plan.num_microbatches, dtype=loss_dtype, device=self.device
        )
        self._allocate_gradients(DTYPES[plan.reduced_precision])
        if self.sharded is not None:
            self.sharded.accumulate_into(self.gradients)
        self.replicated = module.replicated & self.parameters.keys()
        self.partial_gradients = [self.gradients[name] for name in module.partial]

    def forward(
        self, microbatch: int, slice_index: int, received: Tensor | None, targets: Tensor | None
    ) -> Tensor | None:
        """F: the tensor to send on, or None on the last stage, whose loss is then recorded.

        received: the message, or the data's tokens on the first stage. It is kept until the
        backward pass and must not be overwritten before. targets: read on the last stage only.
        """
        if slice_index:
            raise NotImplementedError("stages run whole microbatches only, not slices of them")
        assert received is not None, f"stage {self.part.stage} needs an input"
        leaf = received if self.part.embedding else received.detach().requires_grad_()
        output: Tensor = self.module(leaf)
        if not self.part.head:
            self._live[microbatch, slice_index] = (leaf, output)
            return output.detach()
        assert targets is not None, "the last stage needs targets"
        loss = self.module.loss(output, targets)
        self._live[microbatch, slice_index] = (leaf, loss)
        self.losses.append(loss.detach())
        return None

    def backward(
        self, microbatch: int, slice_index: int, grad_output: Tensor | None
    ) -> Tensor | None:
        """B: accumulate every gradient; the input's is returned, to be sent (None on the first).

        grad_output: the message; None on the last stage.
        """
        self._num_completed += 1
        if self._buckets is not None and self._num_completed == self._num_microbatches:
            self._buckets.start()
        return self._backward(microbatch, slice_index, grad_output)

    def backward_input(
        self, microbatch: int, slice_index: int, grad_output: Tensor | None
    ) -> Tensor | None:
        """I: as B, but the gradients of the linear layers' weights are left for W."""
        if not self.split_backward:
            raise RuntimeError("this runner was built without split_backward=True: I cannot run")
        store = self.module.weight_gradients
        store.start()
        try:
            return self._backward(microbatch, slice_index, grad_output)
        finally:
            self._deferred[microbatch, slice_index] = store.stop()

    @torch.no_grad()
    def backward_weight(self, microbatch: int, slice_index: int) -> None:
        """W: accumulate the gradients that I of this microbatch left."""
        deferred = self._deferred.pop((microbatch, slice_index))
        buckets = None
        self._num_completed += 1
        if self._num_completed == self._num_microbatches:
            buckets = self._buckets
        if buckets is not None:
            buckets.start({p for layer in deferred for p in layer[:2] if p is not None})
        deferred.reverse()
        while deferred:
            layer = deferred.pop()
            grad_weight, grad_bias = weight_gradients(layer)
            made = [(layer.weight, grad_weight)]
            if layer.bias is not None and grad_bias is not None:
                made.append((layer.bias, grad_bias))
            for parameter, gradient in made:
                self._by_parameter[parameter].add_(gradient)
                if buckets is not None:
                    buckets.ready(parameter)

    def on_gradient_ready(self, on_ready: OnReady, bucket_bytes: int) -> tuple[Tensor, ...]:
        """From now on, call `on_ready(index, view)` for each slice of the gradients as soon as it
        is final, from within the last pass of an iteration that adds to them (B or W).

        bucket_bytes: the least size of a slice, except the last one's.
        Returns the slices of `gradient_buffer` in the order of the calls, its end first.
        """
        if self.sharded is not None:
            raise RuntimeError("gradients that are shared out are reduced in every backward pass")
        if self._buckets is not None:
            raise RuntimeError("the runner has been told already whom to call for its gradients")
        starts = [(p, int(g.storage_offset())) for p, g in self._by_parameter.items()]
        buckets = GradientBuckets(self.gradient_buffer, starts, on_ready, bucket_bytes)
        for parameter in self._by_parameter:
            parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                buckets.ready
            )
        self._buckets = buckets
        return buckets.views

    def zero_grad(self) -> None:
        """Begin an iteration: gradients to zero, losses forgotten."""
        self._num_completed = 0
        self.gradient_buffer.zero_()
        self.losses.clear()

    def mean_loss(self) -> Tensor:
        """The mean of `losses`, an fp64 scalar on the device."""
        return torch.stack(self.losses).double().mean()

    @property
    def num_in_flight(self) -> int:
        """Microbatches whose forward pass has run and whose last backward pass has not."""
        return len(self._live.keys() | self._deferred.keys())

    def _backward(
        self, microbatch: int, slice_index: int, grad_output: Tensor | None
    ) -> Tensor | None:
        leaf, output = self._live.pop((microbatch, slice_index))
        gradient = self._loss_gradient if self.part.head else grad_output
        if self.sharded is None:
            torch.autograd.backward(output, gradient)
            return leaf.grad
        self.sharded.start_backward()
        torch.autograd.backward(output, gradient)
        self.sharded.finish_backward()
        return leaf.grad

    def _allocate_gradients(self, dtype: torch.dtype) -> None:
        starts, end = {}, 0
        for name, parameter in self.parameters.items():
            starts[name] = end
            end += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
        self.gradient_buffer = torch.zeros(end, dtype=dtype, device=self.device)
        self.gradients = {
            name: self.gradient_buffer[start : start + parameter.numel()].view(parameter.shape)
            for (name, parameter), start in zip(
                self.parameters.items(), starts.values(), strict=True
            )
        }
        self._by_parameter: dict[nn.Parameter, Tensor] = {
            parameter: self.gradients[name] for name, parameter in self.parameters.items()
        }
        shared = self.module.shared_weight
        self.tied_gradient = None if shared is None else self._by_parameter[shared]
        for name, parameter in self.parameters.items():
            if parameter.dtype == dtype:
                parameter.grad = self.gradients[name]
            else:
                hook = _move_into(self.gradients[name])
                parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]


def _move_into(total: Tensor) -> Callable[[Tensor], None]:
    """A hook that adds a gradient, once made, to a total of another precision."""

    def move(parameter: Tensor) -> None:
        if parameter.grad is not None:  # torch calls the hook for deferred gradients as well.
            total.add_(parameter.grad)
            parameter.grad = None

    return move
