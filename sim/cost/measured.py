"""Costs from a profile: measured times of parts, matched by shape, over those of the models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from scenarios.schema import Cluster, Efficiency
from sim.cost.modelled import PartTimes, PassTimes, Setup, part_times
from sim.cost.parts import Parts, scaled, total_ns
from sim.cost.profile import Fitted, MessageTime, Part, PartTime, Pass, Profile, Shape, shape_of

PARTS: tuple[Part, ...] = ("layer", "embedding", "head")
PASSES: tuple[Pass, ...] = ("forward", "backward", "backward_input", "backward_weight")
_INTEGERS = frozenset(
    {
        "launch",
        "layer_overhead",
        "data_loading",
        "message_overhead",
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
    measured halves, and halves share a measured whole as the model's do. Else the model's time is
    scaled by measured over modelled in the nearest shape (by the logarithms of its sizes, among
    those of the same family, precision and recomputation), or taken as it is where there is none.
    """
    modelled = part_times(setup, tokens, context)
    shape = shape_of(setup.scenario, tokens, context)
    exact = profile.times.get(shape, {})
    near = nearest_shape(profile, shape) if profile.times else None
    near_times = profile.times[near] if near is not None else {}
    near_modelled: PartTimes = {}
    times: dict[Part, PassTimes] = {}
    assumed: dict[tuple[Part, Pass], str] = {}
    for part in PARTS:
        passes: dict[Pass, Parts] = {}
        for name in PASSES:
            found = _measured(exact, part, name, modelled[part])
            if found is not None:
                passes[name] = {"measured": found}
                continue
            factor, how = 1.0, "device model as it is"
            if near is not None and near != shape:
                near_modelled = near_modelled or part_times(
                    _setup_in(setup, near), near.tokens, near.context
                )
                seen = _measured(near_times, part, name, near_modelled[part])
                base = total_ns(near_modelled[part][name])
                if seen is not None and base > 0:
                    factor, how = seen / base, f"device model x {seen / base:.2f} from {near}"
            passes[name] = scaled(modelled[part][name], factor)
            if profile.times and total_ns(passes[name]) > 0:
                assumed[part, name] = f"{part} {name} of {tokens} tokens: not measured, {how}"
        times[part] = passes
    fixed = exact or near_times
    action: dict[Pass, Parts] = {}
    for name in PASSES:
        overhead = _measured(fixed, "action", name, {})
        if overhead is not None:
            action[name] = {"measured": overhead}
    times["action"] = action
    return times, assumed


def _measured(
    seen: Mapping[tuple[Part, Pass], PartTime], part: Part, name: Pass, modelled: PassTimes
) -> float | None:
    direct = seen.get((part, name))
    if direct is not None:
        return direct.median_ns
    if name == "backward":
        first, second = seen.get((part, "backward_input")), seen.get((part, "backward_weight"))
        return first.median_ns + second.median_ns if first and second else None
    whole = seen.get((part, "backward"))
    if name == "forward" or whole is None:
        return None
    if not modelled:
        return whole.median_ns / 2
    base = total_ns(modelled["backward"])
    return whole.median_ns * total_ns(modelled[name]) / base if base > 0 else 0.0


def nearest_shape(profile: Profile, shape: Shape) -> Shape | None:
    """The measured shape nearest to a shape; None where no measured one is comparable."""
    sizes = ("hidden", "heads", "ffn", "vocabulary", "micro_batch", "tokens", "context", "tensor")

    def distance(other: Shape) -> float:
        ratios = ((1 + getattr(other, s)) / (1 + getattr(shape, s)) for s in sizes)
        return sum(math.log(ratio) ** 2 for ratio in ratios)

    comparable = [
        other
        for other in profile.times
        if (other.family, other.precision, other.recomputation)
        == (shape.family, shape.precision, shape.recomputation)
    ]
    return min(comparable, key=lambda other: (distance(other), other), default=None)


def _setup_in(setup: Setup, shape: Shape) -> Setup:
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
    """A rank's measured optimizer step in the whole sequence's shape: action + layers x layer +
    embedding + head; None where the layer's was not measured."""
    seen = profile.times.get(shape_of(setup.scenario), {})
    if ("layer", "optimizer") not in seen:
        return None
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


def message_time_ns(time: MessageTime, payload_bytes: int) -> float:
    """Time of a message by a measured line."""
    return time.fixed_ns + payload_bytes * time.ns_per_byte
