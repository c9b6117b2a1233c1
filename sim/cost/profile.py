"""Profile: what calibration found for a device with its software, and the file that holds it.

Two kinds of knowledge, either or both: `times`, measured times of the parts of one model shape
(what a CPU or GPU at hand was seen to need); and `efficiency`, the device model's parameters fitted
to runs, which apply to any shape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from scenarios.schema import Scenario
from sim.cost.shapes import Part, PartTime, Pass, Shape
from sim.cost.slice_fit import SliceFit, fit_slices

Bound = Literal["low", "high"]
SourceKind = Literal["runs", "published", "collectives"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageTime:
    """Time of a message of n bytes: `fixed_ns` + n `ns_per_byte`, with the fit's median error."""

    fixed_ns: float
    ns_per_byte: float
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A fitted parameter of the device model: value and 90 % interval; None where the data does not
    determine it (the value is then the default).

    at_bound: where the value is as far as the fit lets it go, so that something is amiss: which end
    of what is physical it is at.
    """

    value: float
    interval: tuple[float, float] | None
    at_bound: Bound | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Data that a profile was fitted to, so that predictions of the same data are told apart.

    name: of the file or of the published set; digest: SHA-256 of the file (hex), empty for a set.
    points: what identifies each point: of a published set the scenario's name, of a file of runs
    `sim.cost.runs.fingerprint`; empty for collectives.
    """

    kind: SourceKind
    name: str
    digest: str = ""
    points: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What calibration found, with its provenance.

    times: by shape, the time of each (part, pass); part `action` is the fixed time of any action.
    Times are per layer, per embedding, per head; of the optimizer, too.
    post, unpack, transfer: the processor time of sending and of receiving a message, and its time
    on the way; all_reduce: over all ranks of the measurement; None where not measured.
    ratios: measured over fitted time of single actions, as seen (the spread to draw from).
    efficiency: parameters of scenarios.schema.Efficiency and of links (`intra_node.latency`, ...).
    sources: what `efficiency` was fitted to.
    """

    device: str
    provenance: str
    created: str = ""
    software: Mapping[str, str] = field(default_factory=dict)
    host: str = ""
    times: Mapping[Shape, Mapping[tuple[Part, Pass], PartTime]] = field(default_factory=dict)
    post: MessageTime | None = None
    unpack: MessageTime | None = None
    transfer: MessageTime | None = None
    all_reduce: MessageTime | None = None
    ratios: tuple[float, ...] = ()
    efficiency: Mapping[str, Fitted] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    raw: tuple[Mapping[str, object], ...] = ()

    @cached_property
    def slice_fits(self) -> Mapping[Shape, SliceFit]:
        """What slices take, fitted to `times`, by `family_of` a shape; of the families
        in which slices of different tokens were measured."""
        return fit_slices(self.times)


class ProfileMismatch(ValueError):
    """A profile is of another device than the scenario's."""


def require_device(profile: Profile | None, scenario: Scenario) -> None:
    """Raise ProfileMismatch for a profile of another device than the scenario's."""
    cluster = scenario.cluster
    if profile is not None and cluster is not None and profile.device != cluster.device.name:
        raise ProfileMismatch(
            f"the profile is of {profile.device}, but {scenario.name} runs on "
            f"{cluster.device.name}: calibrate one on that device"
        )


def same_device(name: str, other: str) -> bool:
    """Whether two devices are of one kind, memory size aside, as A100-SXM4-40GB and -80GB."""
    return re.sub(r"-\d+GB$", "", name) == re.sub(r"-\d+GB$", "", other)
