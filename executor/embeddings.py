"""Where the model begins: token ids or image patches into the residual stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from executor.deferred import Linear, WeightGradients
from executor.shards import vocabulary_share
from executor.tensor_parallel import TensorGroup, vocabulary_embedding
from scenarios.schema import Model


class TokenEmbedding(nn.Module):
    """Token plus learned position: (micro_batch, tokens) ids to (micro_batch, own tokens, hidden).

    positions: False for the copy of the token weights that a last stage with a tied head holds.
    """

    positions: nn.Parameter | None

    def __init__(
        self,
        model: Model,
        tensor: TensorGroup,
        *,
        positions: bool = True,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.tensor = tensor
        self.tokens = nn.Module()
        shape = (vocabulary_share(model.vocabulary, tensor.size), model.hidden)
        self.tokens.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.positions = None
        if positions:
            shape = (model.sequence, model.hidden)
            self.positions = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

    @property
    def weight(self) -> nn.Parameter:
        """The token weights, (own vocabulary, hidden)."""
        return self.tokens.get_parameter("weight")

    def forward(self, tokens: Tensor, context: int = 0) -> Tensor:
        """Embed int64 ids, which `context` others precede."""
        assert self.positions is not None, "the tied copy embeds nothing"
        num_tokens = tokens.shape[1]
        if self.tensor.size == 1:
            rows = F.embedding(tokens, self.weight)
        else:
            rows = vocabulary_embedding(tokens, self.weight, self.tensor)
        own = self.tensor.own_tokens(num_tokens)
        if own.stop - own.start == len(self.positions):
            return rows + self.positions
        return rows + self.positions[context + own.start : context + own.stop]


class PatchEmbedding(nn.Module):
    """ViT's start: (micro_batch, tokens - 1, patch_inputs) to (micro_batch, own tokens, hidden)."""

    def __init__(
        self,
        model: Model,
        store: WeightGradients,
        tensor: TensorGroup,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.tensor, self.own = tensor, tensor.own_tokens(model.sequence)
        if model.patch_inputs is None:
            raise ValueError(f"model {model.name}: family vit needs patch_inputs")
        self.patches = Linear(model.patch_inputs, model.hidden, store, device=device, dtype=dtype)
        self.class_token = nn.Parameter(torch.empty(model.hidden, device=device, dtype=dtype))
        shape = (model.sequence, model.hidden)
        self.positions = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

    def forward(self, patches: Tensor) -> Tensor:
        """Project the patches and put the class token before them."""
        if self.tensor.shares_tokens:
            return self._own(patches)
        projected = self.patches(patches)
        first = self.class_token.expand(projected.shape[0], 1, -1)
        return torch.cat((first, projected), dim=1) + self.positions

    def _own(self, patches: Tensor) -> Tensor:
        """The same for this rank's tokens: the class token is the first rank's."""
        projected = self.patches(patches[:, max(0, self.own.start - 1) : self.own.stop - 1])
        first = self.class_token.expand(projected.shape[0], 1, -1)
        if self.own.start > 0:
            first = first[:, :0]  # Its gradient, zero, is made: reductions wait for every one.
        return torch.cat((first, projected), dim=1) + self.positions[self.own]
