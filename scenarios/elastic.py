"""What a scenario says of a training run whose pipeline changes: PipeTransformer's settings.

Quantities are in base units: bytes, bytes/s, nanoseconds.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field, StrictBool
from pydantic.dataclasses import dataclass

from scenarios.hardware import CONFIG, NonNegative, Positive
from scenarios.units import Bytes, BytesPerSecond, DurationNs


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class ElasticCache:
    """Where the outputs of frozen layers are kept, and how fast."""

    memory: Bytes = 8 << 30
    """Memory of a node that the cache may take; what is more is kept on disk."""
    read: BytesPerSecond = 4e9
    """Rate at which all ranks of a node together read it."""
    write: BytesPerSecond = 2e9
    """Rate at which all ranks of a node together write it."""
    one_rank: BytesPerSecond | None = None
    """What one rank alone reaches at most, reading or writing; the node's rates unless given."""
    disk_read: BytesPerSecond = 1e9
    """The same for what is on disk."""
    disk_write: BytesPerSecond = 5e8
    """The same for what is on disk."""
    pays_from: NonNegative | None = None
    """Frozen layers from which on their output is cached; where it saves time unless given."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Transition:
    """What a change of the pipeline takes, beside moving weights over the links."""

    rebuild: DurationNs = 0
    """Making the process groups anew."""
    device_start: DurationNs = 0
    """Loading a stage onto its device; the devices of a pipeline one after another."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Elastic:
    """A training run in epochs in which layers freeze one after another, and the pipeline gets
    shorter with them (PipeTransformer, arXiv 2102.03161); `plan` is its first epoch's."""

    epochs: Positive
    """Epochs of the run."""
    samples: Positive
    """Training samples in an epoch; each is seen once."""
    dataset: Literal["digits", "text"] | None = None
    """What `run` trains on: scikit-learn's digits, or lines of files that Python is installed with;
    the simulator needs none."""
    freeze: Literal["off", "schedule", "adaptive"] = "schedule"
    """Which layers freeze: none; by the closed form ceil(L (1 - (1 - alpha)^T)); or at most a
    fraction alpha of those left, and none above the active layer of the least gradient norm."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 1 / 3
    """Fraction of the layers left that freeze at each decision."""
    interval: Positive = 1
    """Epochs from one decision to the next; the first comes after so many."""
    autopipe: StrictBool = True
    """Whether stages are balanced anew and the pipeline is halved where that fits (AutoPipe)."""
    autodp: StrictBool = True
    """Whether ranks that a shorter pipeline frees become further replicas (AutoDP)."""
    autocache: StrictBool = True
    """Whether the output of the frozen layers is cached (AutoCache; with `autopipe` only)."""
    batch: Literal["global", "replica"] = "global"
    """Whose batch stays the same when replicas are added: that of all together, or of each."""
    frozen_weight: Annotated[float, Field(ge=0, le=1)] | None = None
    """What a frozen layer weighs against an active one where stages are balanced; its share of the
    time unless given (PipeTransformer: 1/6)."""
    microbatches: dict[int, Positive] | None = None
    """Microbatches a pipeline, by its length; searched from one to six times the length unless
    given."""
    cache: ElasticCache = field(default_factory=ElasticCache)
    """The cache."""
    transition: Transition = field(default_factory=Transition)
    """What a change of the pipeline takes."""
