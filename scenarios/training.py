"""What a scenario says of the whole training run: its tokens, failures, checkpoints, stragglers.

Quantities are in base units: bytes, bytes/s, nanoseconds. What a device costs is the cluster's
`price_per_device_hour`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictInt
from pydantic.dataclasses import dataclass

from scenarios.hardware import CONFIG, Positive
from scenarios.units import Bytes, BytesPerSecond, Count, LongDurationNs


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Stragglers:
    """Devices that compute more slowly than the others throughout the run: drawn with the run's
    seed, each slow or not by itself."""

    share: Annotated[float, Field(ge=0, le=1)]
    """Fraction of the devices (or nodes) that are slow."""
    slowdown: Annotated[float, Field(ge=1, le=1000)]
    """How many times longer a slow device takes for what it computes; its links are as fast as
    others'."""
    of: Literal["devices", "nodes"] = "devices"
    """What is slow as one: single devices, or all devices of a node."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Training:
    """The whole training run, for days and money."""

    tokens: Count
    """Tokens to train on."""
    device_mtbf: LongDurationNs | None = None
    """Mean time between failures of one device with its share of the node and of the network; any
    failure stops the run. Nothing fails unless given. Llama 3 had 419 unexpected interruptions in
    54 days on 16,384 H100, 50,700 h (arXiv 2407.21783, section 3.3.4)."""
    restart_time: LongDurationNs | None = None
    """From a failure until training goes on where the last checkpoint left it: detection,
    replacement, starting, reading the checkpoint. Needed with `device_mtbf`."""
    checkpoint_interval: LongDurationNs | None = None
    """Training between two checkpoints; the one of least expected time unless given."""
    checkpoint_bandwidth: BytesPerSecond | None = None
    """Bandwidth at which the whole job writes a checkpoint to storage. Needed with `device_mtbf` or
    `checkpoint_interval`."""
    checkpoint_size: Bytes | None = None
    """Bytes of one checkpoint; weights, master weights and optimizer state, each once, unless
    given."""
    checkpoints: Literal["blocking", "background"] = "blocking"
    """`blocking`: training stands still until a checkpoint is written; `background`: it goes on
    after the state is copied aside, and the checkpoint counts once it is written."""
    checkpoint_stall: Annotated[float, Field(ge=0, le=1)] = 0.0
    """For `background`: fraction of the writing time for which training stands still nevertheless,
    while the state is copied aside."""
    stragglers: Stragglers | None = None
    """Devices slower than the others; none unless given."""
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Spread of a device's speed from one iteration to the next: the standard deviation of the
    logarithm of the time it takes for what it computes; the median stays as predicted."""
    runs: Positive = 1000
    """Training runs that are simulated, for means and intervals."""
    seed: Annotated[StrictInt, Field(ge=0)] = 0
    """Seed of failures, stragglers and jitter."""
