"""The model as a stage holds it: GPT, and BERT and ViT as the same blocks with other ends.

Pre-norm Transformer blocks with biases, as in GPT-2 and Megatron-LM; tanh GELU; no dropout. Every
parameter is initialised from its name and the seed alone, so any cut into stages has the same
weights to the bit. Layers carry their number in the whole model: `blocks.7.mlp_in.weight`.

Frozen layers, and the embedding with them, need no gradient and run without autograd; a pass may
begin behind some of them, with their output.

In a tensor group each rank builds its share of the same weights (`executor.shards`); alone, a stage
is made of torch's own layers and does nothing for the group. Told of a token slice, layers attend
to what the slices before have left (`executor.slices`); else a microbatch runs whole.

Not covered: dropout, BERT's segment embedding, pooler and head transform.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from executor.deferred import Linear, WeightGradients, linear
from executor.embeddings import PatchEmbedding, TokenEmbedding
from executor.shards import TOKEN_WEIGHT, full_shape, shard, split_dimension, vocabulary_share
from executor.slices import Slice, attend_after
from executor.tensor_parallel import (
    ALONE,
    ColumnLinear,
    RowLinear,
    TensorGroup,
    column_linear,
    first_token,
    vocabulary_cross_entropy,
)
from scenarios.schema import Model, Precision, Scenario
from sim.workload.partition import StagePart

DTYPES: dict[Precision, torch.dtype] = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_STD = 0.02
_RESIDUAL = ("attention.output.weight", "mlp_out.weight")


class Attention(nn.Module):
    """Self-attention by this rank's heads: (micro_batch, own tokens, hidden) to the same.

    recompute_core: keep only queries, keys and values, and repeat the core in the backward pass.
    """

    def __init__(
        self,
        model: Model,
        store: WeightGradients,
        tensor: TensorGroup,
        *,
        recompute_core: bool,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        width = model.hidden
        self.heads, self.causal = model.heads // tensor.size, model.causal
        self.recompute_core = recompute_core
        self.query_key_value, self.output = _pair(
            (width, 3 * width), (width, width), store, tensor, device=device, dtype=dtype
        )

    def forward(self, x: Tensor, part: Slice | None = None) -> Tensor:
        """Attend, to the slices before as well."""
        projected = self.query_key_value(x)
        batch, tokens, width = projected.shape
        heads = projected.view(batch, tokens, 3, self.heads, width // (3 * self.heads))
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        if part is not None:
            key, value = part.extend(self, key, value)
            # Else the backward pass would keep all of `projected` for it. Attention lays its result
            # out as the queries are: so the next product reads it without another copy.
            query = query.transpose(1, 2).contiguous().transpose(1, 2)
        if self.recompute_core and torch.is_grad_enabled():
            mixed = checkpoint(
                self.core, query, key, value, part, use_reentrant=False, preserve_rng_state=False
            )
        else:
            mixed = self.core(query, key, value, part)
        output: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, tokens, width // 3))
        return output

    def core(self, query: Tensor, key: Tensor, value: Tensor, part: Slice | None = None) -> Tensor:
        """Scores, softmax, mix: three times (micro_batch, heads, tokens, head width) to one; of a
        slice, keys and values are also those of its context."""
        if part is not None and part.context:
            return attend_after(query, key, value, context=part.context, sequence=part.sequence)
        return F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)


class TransformerBlock(nn.Module):
    """Norm, attention, norm, MLP, each pair added to the residual stream."""

    def __init__(
        self,
        model: Model,
        store: WeightGradients,
        tensor: TensorGroup,
        *,
        recompute_core: bool = False,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(model.hidden, device=device, dtype=dtype)
        self.attention = Attention(
            model, store, tensor, recompute_core=recompute_core, device=device, dtype=dtype
        )
        self.mlp_norm = nn.LayerNorm(model.hidden, device=device, dtype=dtype)
        self.mlp_in, self.mlp_out = _pair(
            (model.hidden, model.ffn),
            (model.ffn, model.hidden),
            store,
            tensor,
            device=device,
            dtype=dtype,
        )

    def forward(self, x: Tensor, part: Slice | None = None) -> Tensor:
        """Map (micro_batch, own tokens, hidden) to the same."""
        x = x + self.attention(self.attention_norm(x), part)
        inner = F.gelu(self.mlp_in(self.mlp_norm(x)), approximate="tanh")
        output: Tensor = x + self.mlp_out(inner)
        return output


class Head(nn.Module):
    """Final norm, logits and mean cross-entropy, of every token or, where the model classifies, of
    the first; the weight comes from outside where it is tied."""

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
        self.store, self.tensor, self.vocabulary = store, tensor, model.vocabulary
        self.pooled = model.classifies
        self.norm = nn.LayerNorm(model.hidden, device=device, dtype=dtype)
        if not model.shares_table:
            sharers = 1 if self.pooled else tensor.size
            share = vocabulary_share(model.outputs, sharers)
            self.output = Linear(model.hidden, share, store, bias=False, device=device, dtype=dtype)

    def forward(self, x: Tensor, targets: Tensor, tied: nn.Parameter | None) -> Tensor:
        """The mean loss over the microbatch's targets that are not -100, in fp32 or fp64.

        x: (micro_batch, own tokens, hidden). targets: (micro_batch, tokens); classes
        (micro_batch,).
        """
        if self.tensor.size > 1 and not self.pooled:
            return self._shared(x, targets, self.output.weight if tied is None else tied)
        x = self.norm(first_token(x, self.tensor) if self.pooled else x)
        logits = self.output(x) if tied is None else linear(x, tied, None, self.store)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=-100)

    def _shared(self, x: Tensor, targets: Tensor, weight: nn.Parameter) -> Tensor:
        """The same with logits shared out by vocabulary."""
        logits = column_linear(self.norm(x), weight, None, self.store, self.tensor)
        return vocabulary_cross_entropy(
            logits.flatten(0, -2), targets.flatten(), self.vocabulary, self.tensor
        )


def _pair(
    first: tuple[int, int],
    second: tuple[int, int],
    store: WeightGradients,
    tensor: TensorGroup,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Linear, Linear]:
    """Two linears, (inputs, outputs) each, between which a tensor group sends nothing."""
    if tensor.size == 1:
        return (
            Linear(*first, store, device=device, dtype=dtype),
            Linear(*second, store, device=device, dtype=dtype),
        )
    return (
        ColumnLinear(*first, store, tensor, device=device, dtype=dtype),
        RowLinear(*second, store, tensor, device=device, dtype=dtype),
    )


class StageModule(nn.Module):
    """What one stage holds of the model: embedding, some of the layers, head, as its part says.

    Built and initialised on `device` (the CPU unless given), in the plan's precision.

    tensor: this rank's place in its tensor group; every parameter is its share of the whole one.
    """

    def __init__(
        self,
        scenario: Scenario,
        part: StagePart,
        *,
        device: torch.device | str = "cpu",
        tensor: TensorGroup = ALONE,
    ) -> None:
        super().__init__()
        model, plan = scenario.model, scenario.plan
        if model is None:
            raise ValueError(f"scenario {scenario.name} has no model to build")
        place, dtype = torch.device(device), DTYPES[plan.precision]
        store = self.weight_gradients = WeightGradients()
        self.part, self.model, self.tensor = part, model, tensor
        self.tied = model.shares_table
        self.recompute_every = plan.recompute_every if plan.recomputation == "full" else 0
        self.embedding: TokenEmbedding | PatchEmbedding | None = None
        if part.embedding and model.family == "vit":
            self.embedding = PatchEmbedding(model, store, tensor, device=place, dtype=dtype)
        elif part.embedding or (part.head and self.tied):
            self.embedding = TokenEmbedding(
                model, tensor, positions=part.embedding, device=place, dtype=dtype
            )
        selective = plan.recomputation == "selective"
        self.blocks = nn.ModuleDict(
            {
                str(layer): TransformerBlock(
                    model, store, tensor, recompute_core=selective, device=place, dtype=dtype
                )
                for layer in range(part.first_layer, part.first_layer + part.num_layers)
            }
        )
        self.head = Head(model, store, tensor, device=place, dtype=dtype) if part.head else None
        layers = tuple(self.blocks.values())
        self._frozen, self._active = layers[: part.frozen_layers], layers[part.frozen_layers :]
        every = self.recompute_every or 1
        self._recomputed = tuple(
            self._active[i : i + every] for i in range(0, len(self._active), every)
        )
        self._initialise(scenario.execution.seed, model.layers)
        for layer in self._frozen:
            layer.requires_grad_(False)
        if self.embedding is not None and part.embedding:
            self.embedding.requires_grad_(part.trains_embedding)

    @property
    def shared_weight(self) -> nn.Parameter | None:
        """The token weights, where another stage holds them too and gradients must be summed."""
        if self.tied and self.part.embedding != self.part.head:
            return self._token_weight
        return None

    @property
    def copied_name(self) -> str | None:
        """The name of the parameter here that is a copy of the first stage's; None without one."""
        return TOKEN_WEIGHT if self.shared_weight is not None and self.part.head else None

    @property
    def replicated(self) -> frozenset[str]:
        """The names of the parameters here that every rank of the tensor group holds whole."""
        return frozenset(
            name for name, _ in self.named_parameters() if split_dimension(name, self.model) is None
        )

    @property
    def partial(self) -> tuple[str, ...]:
        """The names of those whose gradients each rank makes of its own tokens only, so that they
        must be summed over the group (a classifier sees one token, the same on every rank)."""
        if not self.tensor.shares_tokens:
            return ()
        one_token = "head." if self.model.classifies else None
        return tuple(
            name
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
            and name in self.replicated
            and not (one_token and name.startswith(one_token))
        )

    @property
    def _token_weight(self) -> nn.Parameter:
        assert isinstance(self.embedding, TokenEmbedding)
        return self.embedding.weight

    def forward(self, x: Tensor, part: Slice | None = None, depth: int = 0) -> Tensor:
        """Map the stage's input to its last layer's activation, (micro_batch, own tokens, hidden).

        x: on the first stage token ids (or patches), elsewhere the activation before.
        part: which slice of the microbatch it is; None where it is whole.
        depth: where above 0, x is the output of the model's first so many layers, all frozen.
        """
        return self.active(self.frozen(x, part, depth), part)

    def frozen(
        self,
        x: Tensor,
        part: Slice | None = None,
        depth: int = 0,
        *,
        until: int | None = None,
    ) -> Tensor:
        """What `forward` does up to the last frozen layer, without gradients; x itself where
        nothing is frozen.

        until: on the first stage, stop behind so many of them.
        Raises ValueError for a depth at which no frozen layer of this stage ends.
        """
        if depth and not (self.part.embedding and depth <= len(self._frozen)):
            raise ValueError(
                f"stage {self.part.stage} cannot begin behind layer {depth - 1}: a pass can only "
                f"begin behind frozen layers of the first stage, and here {len(self._frozen)} are "
                "frozen"
            )
        if not self._frozen:
            return x
        with torch.no_grad():
            if not depth:
                x = self._embed(x, part)
            return _through(self._frozen[depth:until], x, part)

    def active(self, x: Tensor, part: Slice | None = None) -> Tensor:
        """What `forward` does from the first layer that is trained on."""
        if not self._frozen:
            x = self._embed(x, part)
        if not self.recompute_every or not torch.is_grad_enabled():
            return _through(self._active, x, part)
        for group in self._recomputed:
            x = checkpoint(_through, group, x, part, use_reentrant=False, preserve_rng_state=False)
        return x

    def _embed(self, x: Tensor, part: Slice | None) -> Tensor:
        if not self.part.embedding:
            return x
        assert self.embedding is not None
        output: Tensor = self.embedding(x) if part is None else self.embedding(x, part.context)
        return output

    def loss(self, activation: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a microbatch or a slice of it, on the last stage."""
        assert self.head is not None, f"stage {self.part.stage} has no head"
        loss: Tensor = self.head(activation, targets, self._token_weight if self.tied else None)
        return loss

    def _initialise(self, seed: int, num_layers: int) -> None:
        tensor = self.tensor
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                shape = full_shape(parameter.shape, name, self.model, tensor.size)
                full = initial_value(name, shape, seed, num_layers)
                parameter.copy_(shard(full, name, self.model, tensor.rank, tensor.size))


def _through(layers: tuple[nn.Module, ...], x: Tensor, part: Slice | None) -> Tensor:
    for layer in layers:
        x = layer(x, part)
    return x


def initial_value(name: str, shape: tuple[int, ...], seed: int, num_layers: int) -> Tensor:
    """A parameter's first value, in fp64 on the CPU, from its name and the seed alone.

    Weights are normal with standard deviation 0.02, those that end in the residual stream divided
    by sqrt(2 layers) (GPT-2); biases are zero and norms one.
    """
    if name.endswith("bias"):
        return torch.zeros(shape, dtype=torch.float64)
    if name.endswith("norm.weight"):
        return torch.ones(shape, dtype=torch.float64)
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    std = _STD / math.sqrt(2 * num_layers) if name.endswith(_RESIDUAL) else _STD
    return torch.randn(shape, generator=generator, dtype=torch.float64).mul_(std)
