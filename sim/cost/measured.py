"""Costs from a profile: measured times of parts, matched by shape, over those of the models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from scenarios.schema import PRECISION_BYTES, Cluster, Efficiency
from sim.cost.costs import Transfer
from sim.cost.modelled import PartTimes, PassTimes, Setup, message, part_times
from sim.cost.parts import Parts, larger, scaled, total_ns
from sim.cost.profile import Fitted, MessageTime, Profile
from sim.cost.shapes import Part, PartTime, Pass, Shape, family_of, shape_of
from sim.cost.slice_fit import SliceFit

PARTS: tuple[Part, ...] = ("layer", "embedding", "head")
PASSES: tuple[Pass, ...] = ("forward", "backward", "backward_input", "backward_weight")
_INTEGERS = frozenset(
    {
        "launch",
        "layer_overhead",
        "data_loading",
        "message_overhead",
        "pass_overhead",
        "collective_launch",
        "iteration_overhead",
        "intra_node.latency",
        "inter_node.latency",
    }
)
_OF_LINKS = ("latency", "efficiency", "message_share", "bandwidth")
_OF_DEVICE = frozenset(Efficiency.__dataclass_fields__) - {"source"}


def with_parameters(cluster: Cluster, values: Mapping[str, float]) -> Cluster:
    """The cluster with parameters set by name: `matmul_max`, ..., `intra_node.latency`, ...

    Raises ValueError, with the names that exist, for any other name.
    """
    efficiency: dict[str, float] = {}
    links: dict[str, dict[str, float]] = {"intra_node": {}, "inter_node": {}}
    for name, value in values.items():
        amount = round(value) if name in _INTEGERS else value
        link, dot, field = name.partition(".")
        if dot and link in links and field in _OF_LINKS:
            links[link][field] = amount
        elif name in _OF_DEVICE:
            efficiency[name] = amount
        else:
            known = sorted(_OF_DEVICE) + [f"{a}.{b}" for a in links for b in _OF_LINKS]
            raise ValueError(f"no parameter is called {name!r}: there are {', '.join(known)}")
    device = cluster.device
    return replace(
        cluster,
        device=replace(device, efficiency=replace(device.efficiency, **efficiency)),  # type: ignore[arg-type]
        intra_node=replace(cluster.intra_node, **links["intra_node"]),  # type: ignore[arg-type]
        inter_node=replace(cluster.inter_node, **links["inter_node"]),  # type: ignore[arg-type]
    )


def fitted_cluster(cluster: Cluster, fitted: Mapping[str, Fitted]) -> Cluster:
    """The cluster with a profile's fitted parameters in place of its own."""
    return with_parameters(cluster, {name: f.value for name, f in fitted.items()})


def profiled_part_times(
    setup: Setup, profile: Profile, tokens: int, context: int
) -> tuple[PartTimes, dict[tuple[Part, Pass], str]]:
    """Part times with measured ones in place of the model's, and what had to be assumed.

    A (part, pass) measured in this shape is taken as it is; a whole backward pass is the sum of
    measured halves, and halves share a measured whole as the model's do. Else it is what was fitted
    to slices measured with other tokens, context or batch (`sim.cost.slice_fit`). Else the model's
    time is scaled by measured over modelled in the nearest shape (by the logarithms of its sizes,
    among those of the same family, precision and recomputation), or taken as it is where there is
    none.
    """
    modelled = part_times(setup, tokens, context)
    shape = shape_of(setup.scenario, tokens, context)
    exact = medians(profile.times.get(shape, {}))
    fit = profile.slice_fits.get(family_of(shape))
    fitted = fitted_times(fit, setup, tokens, context, modelled)
    near = nearest_shape(profile, shape) if profile.times else None
    near_times = medians(profile.times[near]) if near is not None else {}
    near_modelled: PartTimes = {}
    times: dict[Part, PassTimes] = {}
    assumed: dict[tuple[Part, Pass], str] = {}
    for part in PARTS:
        passes: dict[Pass, Parts] = {}
        for name in PASSES:
            found = measured_time(exact, part, name, modelled[part])
            if found is not None:
                passes[name] = {"measured": found}
                continue
            found = measured_time(fitted, part, name, modelled[part])
            if found is not None and fit is not None:
                passes[name] = {"measured": found}
                if found > 0:
                    assumed[part, name] = _said(fit, part, name, shape)
                continue
            factor, how = 1.0, "device model as it is"
            if near is not None and near != shape:
                near_modelled = near_modelled or part_times(
                    setup_in_shape(setup, near), near.tokens, near.context
                )
                seen = measured_time(near_times, part, name, near_modelled[part])
                base = total_ns(near_modelled[part][name])
                if seen is not None and base > 0:
                    factor, how = seen / base, f"device model x {seen / base:.2f} from {near}"
            passes[name] = scaled(modelled[part][name], factor)
            if profile.times and total_ns(passes[name]) > 0:
                assumed[part, name] = f"{part} {name} of {tokens} tokens: not measured, {how}"
        times[part] = passes
    seen_times = exact or fitted or near_times
    times["action"] = action_times(seen_times) if seen_times else modelled["action"]
    return times, assumed


def fitted_times(
    fit: SliceFit | None, setup: Setup, tokens: Any, context: Any, modelled: PartTimes
) -> dict[tuple[Part, Pass], Any]:
    """What a fit gives for slices, whose tokens and context may be arrays; where no context was
    measured, context adds as much as in the model."""
    if fit is None:
        return {}
    batch = setup.plan.micro_batch
    alone: PartTimes = {}
    found: dict[tuple[Part, Pass], Any] = {}
    for (part, name), one in fit.passes.items():
        time = one.time_ns(batch, tokens, context)
        if part == "layer" and not one.terms:
            alone = alone or part_times(setup, tokens, 0)
            growth = total_ns(modelled[part][name]) / larger(total_ns(alone[part][name]), 1e-300)
            time = time * growth
        found[part, name] = time
    return found


def _said(fit: SliceFit, part: Part, name: Pass, shape: Shape) -> str:
    """What is assumed where a fit stands for a measurement; without tokens and context, so that
    what is said of all slices of a run is one."""
    keys: tuple[tuple[Part, Pass], ...] = ((part, name), (part, "backward"))
    one = next((fit.passes[key] for key in keys if key in fit.passes), None)
    if one is None:
        one = fit.passes[part, "backward_input"]
    error = ""
    if one.median_error is not None and one.worst_error is not None:
        error = (
            f" (points left out: median error {one.median_error:.1%}, worst {one.worst_error:.1%})"
        )
    beyond = one.beyond(shape.micro_batch, shape.tokens, shape.context)
    if shape.context and part == "layer" and not one.terms:
        beyond = ", ".join(filter(None, (beyond, "no context measured: as the model's")))
    return (
        f"{part} {name}: not measured with these tokens and context, fitted to "
        f"{len(one.points)} points{error}{f'; beyond those measured: {beyond}' if beyond else ''}"
    )


def medians(seen: Mapping[tuple[Part, Pass], PartTime]) -> dict[tuple[Part, Pass], float]:
    """The medians alone."""
    return {key: time.median_ns for key, time in seen.items()}


def action_times(seen: Mapping[tuple[Part, Pass], float]) -> dict[Pass, Parts]:
    """The fixed time of any action."""
    found: dict[Pass, Parts] = {}
    for name in PASSES:
        overhead = measured_time(seen, "action", name, {})
        if overhead is not None:
            found[name] = {"measured": overhead}
    return found


def measured_time(
    seen: Mapping[tuple[Part, Pass], float], part: Part, name: Pass, modelled: PassTimes
) -> float | None:
    """The time of a pass from what was measured of it; times may be arrays."""
    direct = seen.get((part, name))
    if direct is not None:
        return direct
    if name == "backward":
        first, second = seen.get((part, "backward_input")), seen.get((part, "backward_weight"))
        return None if first is None or second is None else first + second
    whole = seen.get((part, "backward"))
    if name == "forward" or whole is None:
        return None
    if not modelled:
        return whole / 2
    # Where the whole takes no time, neither do its halves.
    return whole * total_ns(modelled[name]) / larger(total_ns(modelled["backward"]), 1e-300)


def nearest_shape(profile: Profile, shape: Shape) -> Shape | None:
    """The measured shape nearest to a shape; None where no measured one is comparable."""
    alike = [other for other in profile.times if comparable(other, shape)]
    return min(alike, key=lambda other: (distance(other, shape), other), default=None)


def comparable(other: Shape, shape: Shape) -> bool:
    """Whether times measured in one shape say something of another's."""
    return (other.family, other.precision, other.recomputation) == (
        shape.family,
        shape.precision,
        shape.recomputation,
    )


def distance(other: Shape, shape: Shape, log: Callable[[Any], Any] = math.log) -> Any:
    """How far apart two shapes are, by the logarithms of their sizes; the second one's sizes may be
    arrays for a `log` of arrays."""
    sizes = ("hidden", "heads", "ffn", "vocabulary", "micro_batch", "tokens", "context", "tensor")
    ratios = ((1 + getattr(other, size)) / (1 + getattr(shape, size)) for size in sizes)
    return sum(log(ratio) ** 2 for ratio in ratios)


def setup_in_shape(setup: Setup, shape: Shape) -> Setup:
    """The setup of a model and plan whose parts run in a measured shape."""
    model = replace(
        setup.model,
        hidden=shape.hidden,
        heads=shape.heads,
        ffn_hidden=shape.ffn,
        vocabulary=shape.vocabulary,
        sequence=shape.tokens + shape.context,
    )
    plan = replace(setup.plan, micro_batch=shape.micro_batch, tensor=shape.tensor)
    scenario = replace(setup.scenario, model=model, plan=plan)
    return Setup(scenario=scenario, model=model, cluster=setup.cluster, plan=plan)


def profiled_optimizer_ns(
    setup: Setup, profile: Profile, num_layers: int, embedding: bool, head: bool
) -> float | None:
    """A rank's measured optimizer step: action + layers x layer + embedding + head; None where the
    layer's was not measured.

    It does not depend on the batch or the slices, so that any shape of the same widths will do: of
    those measured the one with as many tokens in all (the position embedding's length), or nearly.
    """
    shape = shape_of(setup.scenario)

    def order(other: Shape) -> tuple[int, bool, Shape]:
        tokens = other.tokens + other.context
        return abs(tokens - shape.tokens), other.micro_batch != shape.micro_batch, other

    alike = [
        other
        for other, seen in profile.times.items()
        if family_of(other)._replace(recomputation="")
        == family_of(shape)._replace(recomputation="")
        and ("layer", "optimizer") in seen
    ]
    if not alike:
        return None
    seen = profile.times[min(alike, key=order)]
    counts: dict[Part, int] = {
        "action": 1,
        "layer": num_layers,
        "embedding": int(embedding),
        "head": int(head),
    }
    return sum(
        count * seen[part, "optimizer"].median_ns
        for part, count in counts.items()
        if (part, "optimizer") in seen
    )


def profiled_message(
    setup: Setup, profile: Profile | None, sender: int, receiver: int, tokens: int
) -> tuple[Transfer, Parts, Parts]:
    """`sim.cost.modelled.message` with a profile's measured times, where there is one: of posting
    and unpacking, and of the transfer between devices of one node."""
    transfer, post, unpack = message(setup, sender, receiver, tokens)
    if profile is None:
        return transfer, post, unpack
    plan, network = setup.plan, setup.network
    payload = PRECISION_BYTES[plan.precision] * plan.micro_batch * tokens * setup.model.hidden
    ends = (network.devices_of(rank)[0] for rank in (sender, receiver))
    near = len({network.node_of(device) for device in ends}) == 1
    scattered = plan.tensor > 1 and (plan.scatter_gather or plan.sequence_parallel)
    if profile.transfer is not None and near and not scattered:
        transfer = Transfer(
            occupancy_ns=round(payload * profile.transfer.ns_per_byte),
            latency_ns=round(profile.transfer.fixed_ns),
            resources=(sender * plan.pipeline + receiver,),
            payload_bytes=payload,
        )
    if profile.post is not None:
        post = {"point_to_point": message_time_ns(profile.post, payload)}
    if profile.unpack is not None:
        # No run broadcasts what it receives, so that no profile has that in its times.
        spread = unpack["point_to_point"] if plan.broadcast_messages and plan.tensor > 1 else 0.0
        unpack = {"point_to_point": message_time_ns(profile.unpack, payload) + spread}
    return transfer, post, unpack


def message_time_ns(time: MessageTime, payload_bytes: int) -> float:
    """Time of a message by a measured line."""
    return time.fixed_ns + payload_bytes * time.ns_per_byte
