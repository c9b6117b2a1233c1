"""Scatter/gather: each tensor rank sends its share of a message, and the receivers gather it.

What a stage gives on is the same on all ranks of its tensor group, so each of them sends one part
in as many to its counterpart, and the receiving group puts the parts together (Narayanan et al.
2021, arXiv 2104.04473, section 4.1). Exact: nothing is added up. A message always divides, for the
tensor degree divides the heads, and they the hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from executor.collectives import all_gather
from executor.tensor_parallel import TensorGroup
from executor.transport.base import (
    PendingReceive,
    PendingSend,
    Post,
    ReceiveAround,
    ReceivePost,
    SendPost,
    Transport,
    TransportAround,
)
from sim.schedule.actions import Action


class _GatheringReceive(ReceiveAround):
    """A receive of a share, whose `wait` gathers the others'; its times are those of this rank's
    share."""

    def __init__(
        self, inner: PendingReceive, shape: tuple[int, ...], size: int, group: dist.ProcessGroup
    ) -> None:
        super().__init__(inner)
        self._shape, self._size, self._group = shape, size, group
        self._tensor: Tensor | None = None

    def wait(self, deadline_s: float) -> Tensor:
        """The whole tensor; all ranks of the group wait for their messages in the same order."""
        if self._tensor is None:
            part = self._inner.wait(deadline_s)
            whole = part.new_empty(self._size * len(part))
            all_gather(whole, part, group=self._group)
            self._tensor = whole.view(self._shape)
        return self._tensor


class ScatteringTransport(TransportAround):
    """Sends and receives shares over another transport; see the module."""

    def __init__(self, inner: Transport, tensor: TensorGroup) -> None:
        """inner: joins ranks of the same tensor index. tensor: must have a process group."""
        assert tensor.group is not None
        super().__init__(inner)
        self._rank, self._size, self._group = tensor.rank, tensor.size, tensor.group

    def post_receive(
        self, message: Action, source: int, shape: tuple[int, ...], dtype: torch.dtype
    ) -> PendingReceive:
        """See Transport."""
        inner = self._inner.post_receive(message, source, (self._length(shape),), dtype)
        return self._gathering(inner, shape)

    def send(self, message: Action, destination: int, tensor: Tensor) -> PendingSend:
        """See Transport; the tensor is the same on all ranks of the group."""
        return self._inner.send(message, destination, self._part(tensor))

    def batch(self, posts: Sequence[Post]) -> tuple[PendingReceive | PendingSend, ...]:
        """See Transport."""
        shares: list[Post] = []
        for post in posts:
            if isinstance(post, SendPost):
                part = self._part(post.tensor)
                shares.append(
                    SendPost(message=post.message, destination=post.destination, tensor=part)
                )
            else:
                shape = (self._length(post.shape),)
                shares.append(
                    ReceivePost(
                        message=post.message, source=post.source, shape=shape, dtype=post.dtype
                    )
                )
        return tuple(
            self._gathering(pending, post.shape)  # type: ignore[arg-type]
            if isinstance(post, ReceivePost)
            else pending
            for post, pending in zip(posts, self._inner.batch(shares), strict=True)
        )

    def _gathering(self, inner: PendingReceive, shape: tuple[int, ...]) -> PendingReceive:
        return _GatheringReceive(inner, shape, self._size, self._group)

    def _length(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape) // self._size

    def _part(self, tensor: Tensor) -> Tensor:
        return tensor.detach().reshape(self._size, -1)[self._rank]
