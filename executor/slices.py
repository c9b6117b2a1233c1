"""Token slices: a microbatch's sequences run piece by piece (TeraPipe, arXiv 2102.07988).

Causal attention lets a slice run as soon as the ones before it have left their keys and values,
which every attention layer keeps for the microbatch in one buffer. Backward passes run in the
reverse order: each gives the gradients of earlier keys and values to the layer, and the earlier
slice's own backward pass takes them on from there. So gradients are those of the whole sequence, in
another order of summation.

The buffers live from the first slice's forward pass to its backward pass, and are then used again.
What recomputation writes into them once more is what is there already.

On the CPU torch's attention kernel does not skip what a mask hides, and so runs a slice in blocks
of queries, each with the keys that it sees (15 % less time for 1024 tokens after 1024). Attending
to the context and to the own tokens apart, merged by their sums of exponentials, made whole stages
as fast at best, and slower in slices of some tens of tokens.

On GPUs torch's own choice of kernel for a lower-right causal mask is used; not run on one so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

from sim.workload.partition import Piece

_BLOCK = 256


class KeyValues:
    """One layer's keys and values of one microbatch, and the gradients that slices send back.

    Each of both is (micro_batch, own heads, sequence, head width), filled from the front; of the
    gradients there are those of the tokens up to the last slice that has gone backward.
    """

    __slots__ = ("_gradients", "_held")

    def __init__(self) -> None:
        self._held: tuple[Tensor, ...] = ()
        self._gradients: tuple[Tensor, ...] = ()

    def write(self, new: Sequence[Tensor], context: int, sequence: int) -> tuple[Tensor, ...]:
        """Put a slice's keys and values behind those of `context` tokens; all up to there."""
        if not self._held:
            batch, heads, _, width = new[0].shape
            self._held = tuple(n.new_empty((batch, heads, sequence, width)) for n in new)
        end = context + new[0].shape[2]
        for held, tensor in zip(self._held, new, strict=True):
            held[:, :, context:end] = tensor
        # `data`: what later slices write behind is no change of what this one has read.
        return tuple(held[:, :, :end].data for held in self._held)

    def collect(
        self, gradients: Sequence[Tensor], context: int, *, last: bool
    ) -> tuple[Tensor, ...]:
        """Take the gradients of all tokens up to a slice's end, from its backward pass; return the
        slice's own, to which later slices have added theirs.

        last: whether it is the sequence's last slice, which begins the sums: in its own tensors,
        for attention's backward pass has just made them, and nobody else holds them.
        """
        if last:
            self._gradients = tuple(gradients)
        else:
            for total, gradient in zip(self._gradients, gradients, strict=True):
                total[:, :, : gradient.shape[2]] += gradient
        end = gradients[0].shape[2]
        return tuple(total[:, :, context:end] for total in self._gradients)

    def forget_gradients(self) -> None:
        """Let the gradients go; the keys' and values' buffers stay, to be used again."""
        self._gradients = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What the layers of a stage are told of the slice at work.

    context, tokens: how many tokens are before it, and in it. sequence: in all slices together.
    held: the microbatch's keys and values, by attention layer.
    """

    context: int
    tokens: int
    sequence: int
    held: dict[nn.Module, KeyValues]

    def extend(self, layer: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Leave a layer's keys and values of this slice; those of all tokens up to its end.

        key, value: (micro_batch, own heads, tokens, head width). What is returned are views of the
        layer's buffers, to be read by attention alone.
        """
        held = self.held.get(layer)
        if held is None:
            held = self.held[layer] = KeyValues()
        extended: tuple[Tensor, Tensor] = _Extend.apply(  # type: ignore[no-untyped-call]
            key, value, held, self
        )
        return extended


class SlicedMicrobatch:
    """A microbatch between its slices on one stage: what its layers hold, and how far it is."""

    def __init__(self) -> None:
        self._held: dict[nn.Module, KeyValues] = {}
        self._pieces: tuple[Piece, ...] = ()
        self._num_run = self._num_to_collect = 0

    def begin(self, pieces: tuple[Piece, ...]) -> None:
        """Begin a microbatch with these slices; another one before must have had as many
        sequences of the same length."""
        self._pieces = pieces
        self._num_run = 0
        self._num_to_collect = len(pieces)

    def forward(self, slice_index: int) -> Slice:
        """A slice's forward pass begins.

        Raises RuntimeError unless the slices before it have run.
        """
        if slice_index != self._num_run:
            raise RuntimeError(
                f"slice {slice_index} cannot go forward: slice {self._num_run} is next"
            )
        self._num_run += 1
        _, context, tokens = self._pieces[slice_index]
        sequence = sum(piece.tokens for piece in self._pieces)
        return Slice(context=context, tokens=tokens, sequence=sequence, held=self._held)

    def backward(self, slice_index: int) -> None:
        """A slice's backward pass begins.

        Raises RuntimeError unless those after it have run theirs.
        """
        # The last slice begins the sums, also where it is run again and again.
        next_to_collect = slice_index + 1 in (len(self._pieces), self._num_to_collect)
        if slice_index != self._num_run - 1 or not next_to_collect:
            raise RuntimeError(
                f"slice {slice_index} cannot go backward: of {len(self._pieces)} slices "
                f"{self._num_run} have gone forward and {len(self._pieces) - self._num_to_collect} "
                "back, from the last one on"
            )
        self._num_run = self._num_to_collect = slice_index

    def finish(self) -> None:
        """The first slice's backward pass has ended."""
        for held in self._held.values():
            held.forget_gradients()


class _Extend(torch.autograd.Function):
    """Keys and values into a layer's buffers, and gradients to and from later slices."""

    @staticmethod
    def forward(
        ctx: Any, key: Tensor, value: Tensor, held: KeyValues, place: Slice
    ) -> tuple[Tensor, ...]:
        ctx.held, ctx.place = held, place
        return held.write((key, value), place.context, place.sequence)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        place: Slice = ctx.place
        last = place.context + place.tokens == place.sequence
        key, value = ctx.held.collect(grads, place.context, last=last)
        return key, value, None, None


def attend_after(
    query: Tensor, key: Tensor, value: Tensor, *, context: int, sequence: int
) -> Tensor:
    """Causal attention of tokens that have `context` others before them.

    query: (micro_batch, heads, tokens, head width). key, value: the same of context + tokens.
    sequence: the most tokens that there can be.
    """
    if query.is_cuda:
        return _with_bias(query, key, value)
    return _in_blocks(query, key, value, context, sequence)


def _with_bias(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """By the kernels that skip what is hidden, where there are any for the type; else masked."""
    bias = causal_lower_right(query.shape[2], key.shape[2])
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def _in_blocks(query: Tensor, key: Tensor, value: Tensor, context: int, sequence: int) -> Tensor:
    """Some queries at a time, each with the keys that it sees."""
    tokens = query.shape[2]
    parts = []
    for begin in range(0, tokens, _BLOCK):
        end = min(begin + _BLOCK, tokens)
        mixed = F.scaled_dot_product_attention(
            query[:, :, begin:end],
            key[:, :, : context + end],
            value[:, :, : context + end],
            attn_mask=_mask(end - begin, context + begin, sequence, query),
        )
        parts.append(mixed.transpose(1, 2))  # As it lies in memory, and is needed next.
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).transpose(1, 2)


@lru_cache(maxsize=8)
def _whole_mask(sequence: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zero where a query of a block sees a key, minus infinity behind, after a whole sequence.

    (queries, sequence + queries): the last columns are the block's own tokens, so that a mask for
    less context is a view that begins further on.
    """
    rows = min(_BLOCK, sequence)
    hidden = torch.full((rows, sequence + rows), -torch.inf, dtype=dtype, device=device)
    return hidden.triu_(sequence + 1)


def _mask(tokens: int, context: int, sequence: int, like: Tensor) -> Tensor:
    """The mask for a block of tokens after `context` others: (tokens, context + tokens)."""
    whole = _whole_mask(sequence, like.dtype, like.device)
    return whole[:tokens, sequence - context : sequence + tokens]
