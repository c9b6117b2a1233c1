"""Floating-point operations and parameters of a whole model, by the published formulas."""

from __future__ import annotations

from scenarios.schema import Model
from sim.workload.parameters import (
    embedding_parameters,
    head_parameters,
    layer_parameters,
    token_table_parameters,
)
from sim.workload.setting import Recomputation


def model_flops(
    model: Model, num_sequences: int, *, frozen_layers: int = 0, cached_layers: int = 0
) -> int:
    """FLOPs of one iteration over `num_sequences` sequences without recomputation.

    72 B s l h^2 (1 + s/6h + V/12lh) at f = 4h: Narayanan et al. 2021 (arXiv 2104.04473), equation 3
    without its recomputed forward pass; any f by 3 (2 B s (4 h^2 + 2 h f) + 4 B s^2 h) a layer.
    Attention counts as if not causal, as published. A classifier reads one token, and the patch
    projection of `vit` has no input gradient. Frozen layers and the embedding before them count
    their forward pass alone, cached ones nothing.
    Not modelled: operations outside matrix products.
    """
    passes = 3 * model.layers - 2 * frozen_layers - cached_layers
    ends = _head(model, num_sequences)
    if not cached_layers:
        ends += _embedding_forward(model, num_sequences) * (1 if frozen_layers else 2)
    return passes * _layer_forward(model, num_sequences) + ends


def hardware_flops(
    model: Model,
    num_sequences: int,
    recomputation: Recomputation,
    *,
    frozen_layers: int = 0,
    cached_layers: int = 0,
) -> int:
    """FLOPs of one iteration with those that recomputation repeats.

    full: 96 B s l h^2 (1 + s/6h + V/16lh), Narayanan et al. 2021 (arXiv 2104.04473), equation 3;
    selective: 4 B s^2 h a layer more than the model's, Korthikanti et al. 2022 (arXiv 2205.05198),
    appendix A.
    Not modelled: operations outside matrix products.
    """
    again = 0
    if recomputation == "full":
        again = _layer_forward(model, num_sequences)
    elif recomputation == "selective":
        again = 4 * num_sequences * model.sequence**2 * model.hidden
    once = model_flops(
        model, num_sequences, frozen_layers=frozen_layers, cached_layers=cached_layers
    )
    return once + (model.layers - frozen_layers) * again


def _layer_forward(model: Model, num_sequences: int) -> int:
    h, s, tokens = model.hidden, model.sequence, num_sequences * model.sequence
    return 2 * tokens * (4 * h * h + 2 * h * model.ffn) + 4 * tokens * s * h


def _embedding_forward(model: Model, num_sequences: int) -> int:
    """FLOPs of the embedding going forward; its weight gradient takes as many."""
    if model.family != "vit":
        return 0
    tokens = num_sequences * model.sequence
    return 2 * tokens * (model.patch_inputs or model.hidden) * model.hidden


def _head(model: Model, num_sequences: int) -> int:
    """FLOPs of the head, both passes."""
    h, tokens = model.hidden, num_sequences * model.sequence
    if model.classifies:
        return 6 * num_sequences * h * model.outputs
    transform = 6 * tokens * h * h if model.family == "bert" else 0
    return 6 * tokens * h * model.vocabulary + transform


def num_parameters(model: Model) -> int:
    """Weights of the whole model, tied embeddings once.

    12 l h^2 (1 + 13/12h + (V + s)/12lh) at f = 4h: Narayanan et al. 2021 (arXiv 2104.04473),
    equation 2, and the final layernorm's 2h, which it leaves out.
    """
    tied = token_table_parameters(model) if model.shares_table else 0
    return (
        model.layers * layer_parameters(model)
        + embedding_parameters(model)
        + head_parameters(model)
        - tied
    )
