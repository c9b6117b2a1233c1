"""Which share of a parameter each rank of a tensor group holds, and the whole from the shares.

Megatron-LM's cut (Shoeybi et al. 2019, arXiv 1909.08053): attention by heads, the MLP by its inner
width, token table and output by vocabulary. Biases that are added after a sum over the group,
norms, positions, a ViT's patch embedding and a classifier are whole on every rank.

A vocabulary that does not divide is shared out in equal parts rounded up; the rows that the last
ranks lack are padding, zero at the start and for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from scenarios.schema import Model

TOKEN_WEIGHT = "embedding.tokens.weight"
_OUTPUT_WEIGHT = "head.output.weight"
_FUSED = ("query_key_value.weight", "query_key_value.bias")
_BY_ROWS = (*_FUSED, "mlp_in.weight", "mlp_in.bias")
_BY_COLUMNS = ("attention.output.weight", "mlp_out.weight")


def split_dimension(name: str, model: Model) -> int | None:
    """The dimension of a full parameter that is shared out over the tensor group; None: whole."""
    if name.endswith(_BY_ROWS) or _is_by_vocabulary(name, model):
        return 0
    return 1 if name.endswith(_BY_COLUMNS) else None


def shard(full: Tensor, name: str, model: Model, rank: int, size: int) -> Tensor:
    """One rank's share of a full parameter, contiguous; the parameter itself where it is whole.

    The fused projection's rows are (3, heads, head width): a rank's share is the queries of its
    heads, then their keys, then their values.
    Raises ValueError where heads or inner width do not divide by `size`.
    """
    dimension = split_dimension(name, model)
    if dimension is None or size == 1:
        return full
    if _is_by_vocabulary(name, model):
        share = vocabulary_share(model.vocabulary, size)
        rows = full[rank * share : (rank + 1) * share]
        return F.pad(rows, (0, 0, 0, share - len(rows))).contiguous()
    if name.endswith(_FUSED):
        heads = full.view(3, model.heads, -1, *full.shape[1:])
        return _pieces(heads, 1, name, size)[rank].flatten(0, 2).contiguous()
    return _pieces(full, dimension, name, size)[rank].contiguous()


def unshard(shards: Sequence[Tensor], name: str, model: Model) -> Tensor:
    """The full parameter from the shares of all ranks, in their order; the inverse of `shard`."""
    dimension = split_dimension(name, model)
    if dimension is None or len(shards) == 1:
        return shards[0]
    if name.endswith(_FUSED):
        own = (3, model.heads // len(shards), -1)
        heads = [part.reshape(*own, *part.shape[1:]) for part in shards]
        return torch.cat(heads, dim=1).flatten(0, 2)
    full = torch.cat(tuple(shards), dim=dimension)
    return full[: model.vocabulary] if _is_by_vocabulary(name, model) else full


def full_shape(shape: Sequence[int], name: str, model: Model, size: int) -> tuple[int, ...]:
    """The shape of the full parameter of which a rank's share has this one."""
    dimension = split_dimension(name, model)
    if dimension is None:
        return tuple(shape)
    full = list(shape)
    by_vocabulary = _is_by_vocabulary(name, model)
    full[dimension] = model.vocabulary if by_vocabulary else shape[dimension] * size
    return tuple(full)


def vocabulary_share(vocabulary: int, size: int) -> int:
    """Rows of the token table that each rank holds, padding included."""
    return -(-vocabulary // size)


def _is_by_vocabulary(name: str, model: Model) -> bool:
    return name == TOKEN_WEIGHT or (name == _OUTPUT_WEIGHT and not model.classifies)


def _pieces(tensor: Tensor, dimension: int, name: str, size: int) -> tuple[Tensor, ...]:
    length = tensor.shape[dimension]
    if length % size:
        raise ValueError(
            f"{name}: {length} heads or inner units do not divide by a tensor group of {size}"
        )
    return tensor.chunk(size, dim=dimension)
