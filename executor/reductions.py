"""What a rank's stages do together with other ranks around the optimizer step: gradients summed
over replicas and over the holders of the same weights, and weights gathered.

With a sharded optimizer (ZeRO-1) a stage's flat buffer of gradients is cut into pieces, one or,
where reductions overlap the backward pass, one a bucket; of every piece each replica reduces,
updates and then gives to the others an equal share. Gradients are divided by the number of replicas
before they are summed, so that 16-bit sums do not overflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from executor.collectives import all_gather, reduce_scatter
from executor.mesh import Groups
from executor.optimizer import own_segments
from executor.stages import StageRunner
from executor.tensor_parallel import TensorGroup, sum_over
from scenarios.schema import Plan

Range = tuple[int, int]


class Reductions:
    """One rank's reductions; `groups` says with whom, and that nothing is sent where it is None.

    replica: this rank's data index.
    """

    def __init__(
        self,
        plan: Plan,
        runners: Mapping[int, StageRunner],
        groups: Groups,
        tensor: TensorGroup,
        replica: int,
    ) -> None:
        self._groups, self._tensor = groups, tensor
        # With full sharding each backward pass reduces its own gradients (executor.sharded).
        reduces = plan.data > 1 and plan.sharding != "full"
        overlapped = reduces and plan.gradient_reduction == "overlapped"
        self._stages = {
            stage: _Stage(
                runner,
                groups.data,
                replica,
                plan.data,
                sharded=reduces and plan.sharding == "optimizer",
                bucket_bytes=plan.gradient_bucket if overlapped else None,
            )
            for stage, runner in runners.items()
        }
        self._tied = [stage for stage in self._stages.values() if stage.tied is not None]
        self._partial = [g for runner in runners.values() for g in runner.partial_gradients]

    def owned(self, stage: int) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """The parameters and gradients of a stage that this rank's optimizer updates."""
        return self._stages[stage].owned()

    def reduce(self, stage: int) -> None:
        """Average a stage's gradients over the replicas, and wait until that is done."""
        self._stages[stage].reduce()

    def wait(self, stage: int) -> None:
        """Wait for what was started during a stage's last backward pass."""
        self._stages[stage].wait()

    def sum_partial(self) -> None:
        """Sum over the tensor group what sequence parallelism makes only in parts; and where this
        rank holds both ends of the model, their gradients of the token weights."""
        sum_over(self._partial, self._tensor)
        if len(self._tied) > 1:
            self.sum_tied()

    def sum_tied(self) -> None:
        """Sum the gradients of the token weights over all that hold them.

        The two ends of the model share their flat buffers out differently, so a sharded optimizer
        sums its shares, zero elsewhere, over the replicas as well.
        """
        if not self._tied:
            return
        gradients = [stage.tied_alone() for stage in self._tied]
        total = gradients[0] if len(gradients) == 1 else gradients[0] + gradients[1]
        if self._groups.tied is not None:
            dist.all_reduce(total, group=self._groups.tied)
        for gradient in gradients:
            gradient.copy_(total)

    def sum_norm(self, squared: Tensor) -> None:
        """Sum the squared norm of what each rank counts, in place."""
        if self._groups.norm is not None:
            dist.all_reduce(squared, group=self._groups.norm)

    def gather(self, stage: int) -> None:
        """Give the other replicas the weights that this one has updated, and take theirs."""
        self._stages[stage].gather()

    def whole_gradients(self) -> dict[str, Tensor]:
        """Every reduced gradient by name, those of other replicas' shares included, on the CPU;
        all replicas call it together."""
        found: dict[str, Tensor] = {}
        for stage in self._stages.values():
            found |= stage.whole_gradients()
        return {name: gradient.cpu().clone() for name, gradient in found.items()}

    def whole_weights(self) -> dict[str, Tensor]:
        """Every weight by name, as `whole_gradients` gives the gradients."""
        found: dict[str, Tensor] = {}
        for stage in self._stages.values():
            found |= stage.whole_weights()
        return {name: weight.detach().cpu().clone() for name, weight in found.items()}


class _Stage:
    """One stage's flat buffers, their pieces, and the reductions of these under way."""

    def __init__(
        self,
        runner: StageRunner,
        group: dist.ProcessGroup | None,
        replica: int,
        replicas: int,
        *,
        sharded: bool,
        bucket_bytes: int | None,
    ) -> None:
        self._runner, self._group = runner, group
        self._replica, self._replicas, self._sharded = replica, replicas, sharded
        self._buffer = runner.gradient_buffer
        self._starts = {name: int(g.storage_offset()) for name, g in runner.gradients.items()}
        self._pieces: tuple[Range, ...] = ((0, len(self._buffer)),)
        self._works: list[_Work] = []
        self.tied = runner.tied_gradient
        if bucket_bytes is not None:
            slices = runner.on_gradient_ready(self._start, bucket_bytes)
            starts = [int(s.storage_offset()) for s in slices]
            self._pieces = tuple((b, b + len(s)) for b, s in zip(starts, slices, strict=True))
        if sharded:
            self._own = tuple(_share(piece, replica, replicas) for piece in self._pieces)
            self._weights = self._flatten_weights()

    def owned(self) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        if not self._sharded:
            return self._runner.parameters, self._runner.gradients
        parameters = own_segments(self._runner.parameters, self._own, self._starts)
        return parameters, own_segments(self._runner.gradients, self._own, self._starts)

    def reduce(self) -> None:
        for index, (begin, end) in enumerate(self._pieces):
            self._start(index, self._buffer[begin:end])
        self.wait()

    def wait(self) -> None:
        if self._group is not None and len(self._works) != len(self._pieces):
            raise RuntimeError(
                f"stage {self._runner.part.stage} has reduced {len(self._works)} of "
                f"{len(self._pieces)} pieces of its gradients"
            )
        for work in self._works:
            work.wait()
        self._works.clear()

    def gather(self) -> None:
        if self._group is None:
            return
        for piece, own in zip(self._pieces, self._own, strict=True):
            whole, mine = self._weights[slice(*piece)], self._weights[slice(*own)]
            length = -(-len(whole) // self._replicas)
            if length * self._replicas == len(whole):
                all_gather(whole, mine, group=self._group)
                continue
            parts = whole.new_empty(length * self._replicas)
            all_gather(parts, _padded(mine, length), group=self._group)
            whole.copy_(parts[: len(whole)])

    def tied_alone(self) -> Tensor:
        """The token weights' gradient; of a sharded optimizer with zeros for other shares."""
        assert self.tied is not None
        if self._sharded:
            flat, start = self.tied.view(-1), int(self.tied.storage_offset())
            last = 0
            for begin, end in (*sorted(self._own), (start + len(flat),) * 2):
                flat[last : max(last, begin - start)].zero_()
                last = int(min(max(last, end - start), len(flat)))
        return self.tied

    def whole_gradients(self) -> Mapping[str, Tensor]:
        gradients = self._runner.gradients
        if self._runner.sharded is not None:
            return self._runner.sharded.whole(gradients)
        if not self._sharded:
            return gradients
        buffer = torch.zeros_like(self._buffer)
        for own in self._own:
            buffer[slice(*own)] = self._buffer[slice(*own)]
        if self._group is not None:
            dist.all_reduce(buffer, group=self._group)
        return {
            name: buffer[start : start + gradients[name].numel()].view(gradients[name].shape)
            for name, start in self._starts.items()
        }

    def whole_weights(self) -> Mapping[str, Tensor]:
        if self._runner.sharded is not None:
            return self._runner.sharded.whole(self._runner.parameters)
        return {**self._runner.parameters, **self._runner.frozen_parameters}

    def _start(self, index: int, piece: Tensor) -> None:
        """Begin to average one piece; called as soon as its gradients are all there."""
        if self._group is None:
            return
        piece.mul_(1 / self._replicas)
        if not self._sharded:
            work = dist.all_reduce(piece, group=self._group, async_op=True)
            self._works.append(_Work(work))
            return
        own = self._buffer[slice(*self._own[index])]
        length = -(-len(piece) // self._replicas)
        if length * self._replicas == len(piece):
            work = reduce_scatter(own, piece, group=self._group, async_op=True)
            self._works.append(_Work(work))
            return
        part = piece.new_empty(length)
        parts = _padded(piece, length * self._replicas)
        work = reduce_scatter(part, parts, group=self._group, async_op=True)
        self._works.append(_Work(work, own, part, parts))

    def _flatten_weights(self) -> Tensor:
        """Move the stage's weights into one buffer laid out as that of the gradients."""
        weights = torch.zeros_like(self._buffer, dtype=self._runner.dtype)
        for name, parameter in self._runner.parameters.items():
            start = self._starts[name]
            view = weights[start : start + parameter.numel()].view(parameter.shape)
            parameter.data = view.copy_(parameter.detach())
        return weights


class _Work:
    """A reduction under way, and what is to be copied out of it at its end."""

    __slots__ = ("_kept", "_part", "_target", "_work")

    def __init__(
        self, work: Any, target: Tensor | None = None, part: Tensor | None = None, *kept: Tensor
    ) -> None:
        self._work, self._target, self._part, self._kept = work, target, part, kept

    def wait(self) -> None:
        self._work.wait()
        if self._target is not None and self._part is not None:
            self._target.copy_(self._part[: len(self._target)])


def _share(piece: Range, replica: int, replicas: int) -> Range:
    """A replica's equal share of a piece, rounded up; the last ones' may be shorter or empty."""
    begin, end = piece
    length = -(-(end - begin) // replicas)
    return min(begin + replica * length, end), min(begin + (replica + 1) * length, end)


def _padded(tensor: Tensor, length: int) -> Tensor:
    padded = tensor.new_zeros(length)
    padded[: len(tensor)] = tensor
    return padded
