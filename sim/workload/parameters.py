"""How many weights each part of a model, each stage and each rank has on one device of a
tensor-parallel group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scenarios.schema import Model, Plan, Scenario
from sim.workload.partition import StagePart


def share(whole: int, parts: int) -> int:
    """A device's share of something split over `parts` devices, rounded up."""
    return -(-whole // parts)


def layer_parameters(model: Model, tensor: int = 1) -> int:
    """Weights of one layer on one device: 12 h^2 + 13 h at f = 4 h, without tensor parallelism.

    Split over the tensor group: all matrices, and the biases of qkv and of the MLP's first one.
    """
    h, f = model.hidden, model.ffn
    local, wide = share(h, tensor), share(f, tensor)
    return (
        (3 * local * h + 3 * local) + (local * h + h) + (h * wide + wide) + (wide * h + h) + 4 * h
    )


def embedding_parameters(model: Model, tensor: int = 1) -> int:
    """Weights of the embedding on one device: the token table, split, and positions, whole.

    For `vit`: the patch projection with bias, positions and the class token, not split.
    """
    h = model.hidden
    if model.family == "vit":
        return ((model.patch_inputs or h) + 1) * h + model.sequence * h + h
    return share(model.vocabulary, tensor) * h + model.sequence * h


def head_parameters(model: Model, tensor: int = 1) -> int:
    """Weights that the head multiplies by or adds, on one device, tied or not.

    Where embeddings are tied and both ends share a device, the token table among them is the
    embedding's (`token_table_parameters`) and must be counted once. A classifier is a norm and one
    product, with bias.
    """
    h = model.hidden
    if model.classifies:
        return 2 * h + (h + 1) * model.outputs
    extra = h * h + 3 * h + share(model.vocabulary, tensor) if model.family == "bert" else 0
    return 2 * h + extra + token_table_parameters(model, tensor)


def token_table_parameters(model: Model, tensor: int = 1) -> int:
    """Weights of the token table on one device; 0 for `vit`, which has none."""
    return 0 if model.family == "vit" else share(model.vocabulary, tensor) * model.hidden


def sequence_parallel_parameters(model: Model, num_layers: int, *, head: bool) -> int:
    """Weights that act on each device's own tokens under sequence parallelism, so that the tensor
    group must sum their gradients: a layer's norms and the biases of its second products, 6 h, and
    the final norm (for `bert` with its masked-token loss, its transform too)."""
    h = model.hidden
    transform = model.family == "bert" and not model.classifies
    end = 2 * h + (h * h + 3 * h if transform else 0)
    return num_layers * 6 * h + (end if head else 0)


LAYER_MATRICES = 4
"""Weight matrices of a layer: of qkv, projection and the MLP's two products."""


def largest_matrix(model: Model, tensor: int, *, table: bool) -> int:
    """Weights of the largest matrix on one device: of a layer, or the token table where it counts.

    What full sharding holds whole at a time: DeepSpeed gathers module by module, and keeps what is
    smaller than a matrix whole.
    """
    h = model.hidden
    layers = h * max(3 * share(h, tensor), share(model.ffn, tensor))
    return max(layers, token_table_parameters(model, tensor) if table else 0)


def part_parameters(part: StagePart, scenario: Scenario) -> Mapping[str, int]:
    """Weights on one device of one layer, and of the embedding and the head as far as the stage has
    them (each with its own copy of tied embeddings)."""
    model, tensor = scenario.model, scenario.plan.tensor
    assert model is not None
    found = {"layer": layer_parameters(model, tensor)}
    if part.embedding:
        found["embedding"] = embedding_parameters(model, tensor)
    if part.head:
        found["head"] = head_parameters(model, tensor)
    return found


def stage_parameters(part: StagePart, scenario: Scenario) -> int:
    """Weights that one device of a stage holds, its own copy of tied embeddings included (once,
    where both ends are on this stage)."""
    model, tensor = scenario.model, scenario.plan.tensor
    assert model is not None
    found = part_parameters(part, scenario)
    count = part.num_layers * found["layer"] + found.get("embedding", 0) + found.get("head", 0)
    if part.embedding and part.head and model.shares_table:
        count -= token_table_parameters(model, tensor)
    return count


def rank_parameters(parts: Sequence[StagePart], scenario: Scenario) -> int:
    """Weights that one device of a rank holds for its stages, tied embeddings once where both ends
    are among them."""
    model = scenario.model
    assert model is not None
    count = sum(stage_parameters(part, scenario) for part in parts)
    apart = not any(part.embedding and part.head for part in parts)
    both = any(part.embedding for part in parts) and any(part.head for part in parts)
    if model.shares_table and apart and both:
        count -= token_table_parameters(model, scenario.plan.tensor)
    return count


def updated_parameters(count: int, plan: Plan) -> int:
    """Of `count` weights on a device, those that its own optimizer step updates."""
    return count if plan.sharding == "none" else share(count, plan.data)
