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
from typing import TYPE_CHECKING, Literal, NamedTuple

from scenarios.schema import Precision, Scenario
from sim.workload.partition import pieces

if TYPE_CHECKING:
    from sim.cost.slice_fit import SliceFit

Part = Literal["embedding", "layer", "head", "action"]
Bound = Literal["low", "high"]
SourceKind = Literal["runs", "published", "collectives"]
Pass = Literal["forward", "backward", "backward_input", "backward_weight", "optimizer"]


class Shape(NamedTuple):
    """The shape a part was measured in; `tokens` per sequence, after `context` earlier ones."""

    family: str
    hidden: int
    heads: int
    ffn: int
    vocabulary: int
    micro_batch: int
    tokens: int
    context: int
    tensor: int
    precision: Precision
    recomputation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartTime:
    """Measured time of one part in one pass: median, quartiles (ns) and number of samples."""

    median_ns: float
    quartiles_ns: tuple[float, float]
    samples: int


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
        from sim.cost.slice_fit import fit_slices

        return fit_slices(self.times)


def same_device(name: str, other: str) -> bool:
    """Whether two devices are of one kind, memory size aside, as A100-SXM4-40GB and -80GB."""
    return re.sub(r"-\d+GB$", "", name) == re.sub(r"-\d+GB$", "", other)


def family_of(shape: Shape) -> Shape:
    """What shapes have in common that differ in batch, tokens and context alone."""
    return shape._replace(micro_batch=0, tokens=0, context=0)


def shapes_of(scenario: Scenario) -> tuple[tuple[Shape, ...], ...]:
    """The shape of every pass, by microbatch and slice."""
    return tuple(
        tuple(
            shape_of(scenario, piece.tokens, piece.context)._replace(micro_batch=piece.micro_batch)
            for piece in cut
        )
        for cut in pieces(scenario)
    )


def shape_of(scenario: Scenario, tokens: int | None = None, context: int = 0) -> Shape:
    """The shape in which a scenario's parts run; the whole sequence unless `tokens` is given."""
    model, plan = scenario.model, scenario.plan
    if model is None:
        raise ValueError(f"scenario {scenario.name} has no model")
    return Shape(
        family=model.family,
        hidden=model.hidden,
        heads=model.heads,
        ffn=model.ffn,
        vocabulary=model.vocabulary,
        micro_batch=plan.micro_batch,
        tokens=tokens if tokens is not None else model.sequence,
        context=context,
        tensor=plan.tensor,
        precision=plan.precision,
        recomputation=plan.recomputation,
    )
