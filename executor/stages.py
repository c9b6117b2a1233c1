"""One stage at work: its passes over microbatches, and the gradients they accumulate.

The runner knows neither ranks, messages nor order; whoever interprets the schedule calls its passes
and moves tensors between runners. Gradients are those of the mean loss over the tokens of one
replica in one iteration; replicas are to be averaged.

Of frozen layers and a frozen embedding there are neither gradients nor activations kept; a stage
that holds nothing else has forward passes alone.

A pass is of a slice of a microbatch; one of a single slice is run whole. The microbatches' sizes
and slices are the plan's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from executor.buckets import GradientBuckets, OnReady
from executor.deferred import Deferred, weight_gradients
from executor.model import DTYPES, StageModule
from executor.optimizer import loss_scale
from executor.sharded import ReplicaGroup, ShardedWeights
from executor.slices import SlicedMicrobatch
from scenarios.schema import Scenario
from sim.workload.partition import StagePart, pieces

OnBoundary = Callable[[Tensor, Tensor], None]
_ALIGNMENT = 16


class StageRunner:
    """Runs the passes of one stage.

    split_backward: whether I and W will be called; the forward pass then runs in the form that can
    be split (which B can follow as well), else in torch's own, which is faster on small layers.

    replicas: with whom to share weights and gradients out (ZeRO-3); nobody if None or alone.

    Attributes, beside the arguments:
    parameters, gradients: of what is trained, by name; gradients are views of `gradient_buffer`, in
        the plan's reduced precision, zero after `zero_grad`, and scaled by `loss_scale` in fp16.
        Where weights are shared out over replicas, both are this replica's shares, by unit, and the
        gradients are already averaged over the replicas.
    frozen_parameters: the stage's other parameters, by name.
    on_boundary: called, where the plan fills a cache, with the numbers of a microbatch's samples
        and the last frozen layer's output (micro_batch, own tokens, hidden), which is only to be
        read; nobody unless set.
    sharded: those shares, and whole tensors from them; None where nothing is shared out.
    gradient_buffer: all gradients of the stage in one dimension, for one reduction of them all
        (64-byte padding between them stays zero).
    tied_gradient: the part of it that first and last stage must sum; None without one.
    dtype: of messages, forward and backward.
    replicated: names of the parameters that every rank of the tensor group holds whole, so that the
        gradient norm is to count them once.
    partial_gradients: the gradients, views of `gradient_buffer`, that must be summed over the
        tensor group before they are used (none but with sequence parallelism).
    losses: each slice's mean loss since `zero_grad`, in the order of their passes, scalars on the
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
        named = dict(module.named_parameters())
        self.parameters: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in named.items() if parameter.requires_grad
        }
        self.frozen_parameters = {n: p for n, p in named.items() if not p.requires_grad}
        self.on_boundary: OnBoundary | None = None
        self._fills_cache = plan.fills_cache and part.frozen_layers > 0
        # Its input's gradient is for a layer before, or the embedding, that is trained.
        self._returns_gradient = not part.embedding and (
            plan.frozen_layers == 0 or part.first_layer > plan.frozen_layers
        )
        self.sharded: ShardedWeights | None = None
        if replicas is not None and replicas.size > 1:
            if split_backward:
                raise ValueError("full sharding runs without split backward passes")
            self.sharded = ShardedWeights(module, replicas, DTYPES[plan.reduced_precision])
            self.parameters = self.sharded.parameters
        self.dtype = DTYPES[plan.precision]
        self.losses: list[Tensor] = []
        self._live: dict[tuple[int, int], tuple[Tensor | None, Tensor]] = {}
        self._deferred: dict[tuple[int, int], list[Deferred]] = {}
        self._pieces = pieces(scenario)
        self._sliced: dict[int, SlicedMicrobatch] = {}
        self._unused: dict[int, list[SlicedMicrobatch]] = {}
        self._num_passes, self._num_completed = sum(map(len, self._pieces)), 0
        self._buckets: GradientBuckets | None = None
        self._hooks: list[RemovableHandle] = []
        self._num_tokens = [[p.micro_batch * p.tokens for p in cut] for cut in self._pieces]
        self._loss_tokens: list[int] = []
        self._loss_gradients: dict[int, Tensor] = {}
        if part.head:
            self._loss_gradients = self._make_loss_gradients(loss_scale(plan))
        self._allocate_gradients(DTYPES[plan.reduced_precision])
        if self.sharded is not None:
            self.sharded.accumulate_into(self.gradients)
        self.replicated = module.replicated & self.parameters.keys()
        self.partial_gradients = [self.gradients[name] for name in module.partial]

    def input_shape(self, microbatch: int = 0, slice_index: int = 0) -> tuple[int, ...]:
        """Of what a pass receives: (micro_batch, own tokens, hidden); the first stage's input is
        the data's, whole, not a message. Gradients sent back have the same shape."""
        model = self.module.model
        micro_batch, _, tokens = self._pieces[microbatch][slice_index]
        if not self.part.embedding:
            own = self.module.tensor.own_tokens(tokens)
            return micro_batch, own.stop - own.start, model.hidden
        if model.family == "vit":
            return micro_batch, tokens - 1, model.patch_inputs or 0
        return micro_batch, tokens

    def output_shape(self, microbatch: int = 0, slice_index: int = 0) -> tuple[int, ...] | None:
        """Of what a pass sends forward, (micro_batch, own tokens, hidden); None on the last stage.
        Gradients received have the same shape."""
        if self.part.head:
            return None
        micro_batch, _, tokens = self._pieces[microbatch][slice_index]
        own = self.module.tensor.own_tokens(tokens)
        return micro_batch, own.stop - own.start, self.module.model.hidden

    def forward(
        self,
        microbatch: int,
        slice_index: int,
        received: Tensor | None,
        targets: Tensor | None,
        *,
        depth: int = 0,
        samples: Tensor | None = None,
    ) -> Tensor | None:
        """F: the tensor to send on, or None on the last stage, whose loss is then recorded.

        received: the message, or on the first stage the data's, behind `depth` layers where above
        0. It may be kept until the backward pass and must not be overwritten before. targets: read
        on the last stage only. samples: their numbers, for `on_boundary`.
        Raises RuntimeError where the slices before this one have not run, and ValueError for an
        input that is not that of its depth.
        """
        assert received is not None, f"stage {self.part.stage} needs an input"
        if self.part.embedding:
            self._require_shape(received, microbatch, slice_index, depth)
        leaf = received.detach().requires_grad_() if self._returns_gradient else received
        part = None
        if len(self._pieces[microbatch]) > 1:
            part = self._sliced_microbatch(microbatch).forward(slice_index)
        # Of what is frozen only the output is kept, as the input of what is not.
        boundary = self.module.frozen(leaf, part, depth)
        if self._fills_cache and self.on_boundary is not None and samples is not None:
            self.on_boundary(samples, boundary)
        if not self.part.trained:
            return boundary
        output = self.module.active(boundary, part)
        kept = leaf if self._returns_gradient else None
        if not self.part.head:
            self._live[microbatch, slice_index] = (kept, output)
            return output.detach()
        assert targets is not None, "the last stage needs targets"
        loss = self.module.loss(output, targets)
        self._live[microbatch, slice_index] = (kept, loss)
        self.losses.append(loss.detach())
        self._loss_tokens.append(self._num_tokens[microbatch][slice_index])
        return None

    def backward(
        self, microbatch: int, slice_index: int, grad_output: Tensor | None
    ) -> Tensor | None:
        """B: accumulate every gradient; the input's is returned, to be sent (None on the first
        stage, and where all before is frozen).

        grad_output: the message; None on the last stage.
        Raises RuntimeError where the slices after this one have not run theirs.
        """
        self._num_completed += 1
        if self._buckets is not None and self._num_completed == self._num_passes:
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
        """W: accumulate the gradients that I of this slice left."""
        deferred = self._deferred.pop((microbatch, slice_index))
        buckets = None
        self._num_completed += 1
        if self._num_completed == self._num_passes:
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
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                buckets.ready
            )
            for parameter in self._by_parameter
        ]
        self._buckets = buckets
        return buckets.views

    def close(self) -> None:
        """Tell nobody of gradients any more: by torch's hooks parameters would keep themselves."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._buckets, self.on_boundary = [], None, None

    def zero_grad(self) -> None:
        """Begin an iteration: gradients to zero, losses forgotten."""
        self._num_completed = 0
        self.gradient_buffer.zero_()
        self.losses.clear()
        self._loss_tokens.clear()

    def mean_loss(self) -> Tensor:
        """The mean of `losses` over their tokens, an fp64 scalar on the device."""
        # Without their common factor, equal ones are 1, and the mean is the plain one to the bit.
        factor = math.gcd(*self._loss_tokens)
        tokens = [count // factor for count in self._loss_tokens]
        losses = torch.stack(self.losses).double()
        return (losses * losses.new_tensor(tokens)).sum() / sum(tokens)

    @property
    def num_in_flight(self) -> int:
        """Slices whose forward pass has run and whose last backward pass has not."""
        return len(self._live.keys() | self._deferred.keys())

    def _backward(
        self, microbatch: int, slice_index: int, grad_output: Tensor | None
    ) -> Tensor | None:
        sliced = self._sliced.get(microbatch)
        if sliced is not None:
            sliced.backward(slice_index)
        leaf, output = self._live.pop((microbatch, slice_index))
        gradient = grad_output
        if self.part.head:
            gradient = self._loss_gradients[self._num_tokens[microbatch][slice_index]]
        if self.sharded is not None:
            self.sharded.start_backward()
        torch.autograd.backward(output, gradient)
        if self.sharded is not None:
            self.sharded.finish_backward()
        if sliced is not None and slice_index == 0:
            sliced.finish()
            del self._sliced[microbatch]
            self._unused.setdefault(self._pieces[microbatch][0].micro_batch, []).append(sliced)
        return leaf.grad if leaf is not None else None

    def _require_shape(
        self, received: Tensor, microbatch: int, slice_index: int, depth: int
    ) -> None:
        """Raise ValueError for an input of the first stage that does not come from this depth."""
        expected = self.input_shape(microbatch, slice_index)
        if depth:
            micro_batch, _, tokens = self._pieces[microbatch][slice_index]
            own = self.module.tensor.own_tokens(tokens)
            expected = (micro_batch, own.stop - own.start, self.module.model.hidden)
        if received.shape != expected:
            raise ValueError(
                f"an input behind {depth} layers is {expected}, and this one {(*received.shape,)}: "
                "it is of another depth, microbatch or model"
            )

    def _sliced_microbatch(self, microbatch: int) -> SlicedMicrobatch:
        """What a microbatch's slices share: begun with its first slice, in the buffers of one of
        as many sequences that has ended."""
        cut = self._pieces[microbatch]
        sliced = self._sliced.get(microbatch)
        if sliced is None:
            unused = self._unused.get(cut[0].micro_batch)
            sliced = unused.pop() if unused else SlicedMicrobatch()
            sliced.begin(cut)
            self._sliced[microbatch] = sliced
        return sliced

    def _make_loss_gradients(self, scale: float) -> dict[int, Tensor]:
        """The gradient of each slice's mean loss: its share of the replica's tokens, by its own."""
        total = sum(map(sum, self._num_tokens))
        dtype = self.dtype if self.dtype == torch.float64 else torch.float32
        return {
            count: torch.tensor(scale * count / total, dtype=dtype, device=self.device)
            for counts in self._num_tokens
            for count in counts
        }

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
