"""In which setting a part of the model runs: its sizes, its share of the tokens, its precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scenarios.schema import PRECISION_BYTES, Model, Precision, Scenario
from sim.workload.parameters import share
from sim.workload.partition import group_pieces

Attention = Literal["unfused", "fused"]
Recomputation = Literal["none", "selective", "full"]
Kernels = Literal["fused", "plain"]
LOGIT_BYTES = 4
"""The loss works on logits in fp32 (in fp64, on 8 bytes: `Setting.logit_bytes`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """In which a part runs: `tokens` per sequence after `context` earlier ones, on one of `tensor`
    devices; recomputed in groups of `recompute_every` layers where `recomputation` is full."""

    model: Model
    micro_batch: int
    tokens: int
    context: int = 0
    tensor: int = 1
    precision: Precision = "fp16"
    gradient_precision: Precision = "fp16"
    recomputation: Recomputation = "none"
    recompute_every: int = 1
    sequence_parallel: bool = False
    attention: Attention = "unfused"
    kernels: Kernels = "fused"

    @property
    def rows(self) -> int:
        """T: tokens of a microbatch (of its slice)."""
        return self.micro_batch * self.tokens

    @property
    def near_rows(self) -> int:
        """Tokens of which a device holds norms, dropouts and residuals: T, or T/t with sequence
        parallelism."""
        return share(self.rows, self.tensor) if self.sequence_parallel else self.rows

    @property
    def element_bytes(self) -> int:
        """Bytes of an activation or weight."""
        return PRECISION_BYTES[self.precision]

    @property
    def logit_bytes(self) -> int:
        """Bytes of a logit in the loss."""
        return max(LOGIT_BYTES, self.element_bytes)

    @property
    def local_vocabulary(self) -> int:
        """Vocabulary entries on one device."""
        return share(self.model.vocabulary, self.tensor)


def setting_of(scenario: Scenario, tokens: int | None = None, context: int = 0) -> Setting:
    """The setting of a scenario's parts; the whole sequence unless `tokens` is given."""
    model, plan = scenario.model, scenario.plan
    if model is None:
        raise ValueError(f"scenario {scenario.name} has no model")
    return Setting(
        model=model,
        micro_batch=plan.micro_batch,
        tokens=tokens if tokens is not None else model.sequence,
        context=context,
        tensor=plan.tensor,
        precision=plan.precision,
        gradient_precision=plan.reduced_precision,
        recomputation=plan.recomputation,
        recompute_every=plan.recompute_every,
        sequence_parallel=plan.sequence_parallel,
        kernels=plan.kernels,
    )


def settings_by_variant(scenario: Scenario) -> tuple[tuple[Setting, ...], ...]:
    """The settings of the slices of each variant of the plan's microbatches."""
    assert scenario.model is not None
    return tuple(
        tuple(
            replace(setting_of(scenario, tokens, context), micro_batch=micro_batch)
            for micro_batch, context, tokens in group_pieces(group, scenario.model.sequence)
        )
        for group in scenario.plan.variant_groups
    )


def message_bytes(settings: Sequence[Setting]) -> int:
    """What a device has of the largest message."""
    largest = max(settings, key=lambda setting: setting.near_rows)
    return largest.element_bytes * largest.near_rows * largest.model.hidden
