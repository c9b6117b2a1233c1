"""What an iteration's figures take for granted and what they leave out, by what its scenario uses.

Each sentence belongs to a "Not modelled" of the estimators that the scenario's costs come from;
those of parts that it does not use are not told.
"""

from __future__ import annotations

from reports import words
from scenarios.schema import Scenario
from sim.prediction import Prediction


def assumed(prediction: Prediction) -> tuple[str, ...]:
    """What the simulation takes for granted about this scenario."""
    scenario, plan = prediction.scenario, prediction.scenario.plan
    copies = plan.num_devices // max(1, plan.pipeline)
    link = scenario.cluster is not None and scenario.costs is None
    found = [
        (
            copies > 1,
            f"All {words.count(copies)} copies of a stage run alike: one pipeline is simulated, "
            "its tensor and data copies enter as collectives and as sharers of a NIC.",
        ),
        (
            plan.pipeline > 1 and plan.p2p == "blocking",
            "Messages block: a send waits until its receive is posted, as NCCL's do; a transport "
            "that buffers lets the sender go on earlier.",
        ),
        (
            plan.pipeline > 1 and plan.p2p == "exchange",
            "All that a rank sends and receives between two passes goes at once, and it waits for "
            "the last of it.",
        ),
        (
            plan.pipeline > 1 and plan.p2p == "overlapped",
            "Messages are on their way beside the passes, and take no time from them.",
        ),
        (
            link and scenario.cluster is not None and scenario.cluster.oversubscription > 1,
            "The fabric's oversubscription is shared evenly by all that cross it.",
        ),
        (
            prediction.spread_ns is not None,
            "Draws take each action's spread from the profile, independently of the others.",
        ),
        (
            scenario.costs is not None,
            "Times that the scenario gives are the same for every microbatch.",
        ),
        (True, "Every iteration is like this one: nothing carries over from the one before it."),
    ]
    return tuple(text for applies, text in found if applies)


def not_modelled(prediction: Prediction) -> tuple[str, ...]:
    """What would make the real iteration otherwise and is in none of the figures."""
    return (*_computing(prediction), *_communication(prediction), *_rest(prediction))


def _computing(prediction: Prediction) -> list[str]:
    scenario, plan = prediction.scenario, prediction.scenario.plan
    if scenario.costs is not None:
        return ["Passes: why they take as long as they do; their times are given."]
    sliced = prediction.program.schedule.num_slices > 1
    found = [
        (
            prediction.profile is None,
            "Kernels: steps at multiples of tile sizes and of the number of multiprocessors, and "
            "what an earlier kernel leaves in the cache; efficiency is smooth in the shape.",
        ),
        (
            prediction.profile is not None,
            "Passes of other shapes than the profile's runs had: between these, efficiency is "
            "smooth in the shape.",
        ),
        (
            scenario.model is not None and _on_gpus(scenario),
            "Fused attention (FlashAttention), which takes less time and memory: the scores pass "
            "through memory, and are kept where they are not recomputed.",
        ),
        (
            plan.recomputation != "none",
            "Recomputation beside communication: it runs on its own, before the backward pass.",
        ),
        (
            sliced,
            "Token slices: a slice's keys and values are read as one block, whatever the slices "
            "before it; copying and adding up their gradients counts as memory traffic alone.",
        ),
        (
            plan.frozen_layers > 0,
            "Frozen layers: that the first trained one needs no gradient of its input.",
        ),
        (
            plan.cached_layers > 0 or plan.fills_cache,
            "The cache of frozen layers: reading ahead beside the passes, and tensor ranks that "
            "read shares of a sample.",
        ),
        (
            scenario.cluster is not None
            and scenario.cluster.processors_per_node is not None
            and plan.num_devices > 1,
            "Shared processors: what changing between ranks costs one.",
        ),
        (
            _on_gpus(scenario),
            "Clocks: power caps and heat that slow a device under load, beyond what the "
            "efficiencies were measured with.",
        ),
    ]
    return [text for applies, text in found if applies]


def _on_gpus(scenario: Scenario) -> bool:
    return scenario.cluster is not None and scenario.cluster.device.kind == "gpu"


def _communication(prediction: Prediction) -> list[str]:
    scenario, plan = prediction.scenario, prediction.scenario.plan
    if plan.num_devices == 1 or scenario.costs is not None:
        return []
    nodes = scenario.cluster.nodes if scenario.cluster is not None else 1
    found = [
        (
            nodes > 1,
            "Networks: contention inside the fabric beyond its stated oversubscription, other "
            "jobs' traffic, and in-network reduction.",
        ),
        (
            plan.tensor > 1 or plan.data > 1,
            "Collectives: protocols that change with the message's size, and the lower bandwidth "
            "of small messages beyond a latency a step.",
        ),
        (
            plan.tensor > 1,
            "Tensor-parallel all-reduces overlapped with weight gradients.",
        ),
        (
            plan.data > 1 and plan.sharding == "full",
            "Fully sharded weights: limits to how far ahead they are gathered.",
        ),
        (
            plan.data > 1 and plan.gradient_reduction == "overlapped",
            "Overlapped reductions: a smaller first bucket, and what they take from the kernels "
            "that run beside them.",
        ),
    ]
    return [text for applies, text in found if applies]


def _rest(prediction: Prediction) -> list[str]:
    training = prediction.scenario.training
    stated = {
        "failures": training is not None and training.device_mtbf is not None,
        "stragglers": training is not None and training.stragglers is not None,
        "jitter": training is not None and training.jitter > 0,
    }
    left = [name for name, known in stated.items() if not known]
    found = [
        (
            bool(prediction.memory),
            "Memory: fragmentation and cached blocks of the allocator; a stage's output kept once "
            "sent.",
        ),
        (
            prediction.scenario.costs is None,
            "Data loading beyond a fixed time a microbatch; storage, evaluation and logging beyond "
            "a fixed time an iteration.",
        ),
        (
            bool(left),
            f"{', '.join(left).capitalize()}: the scenario states none.",
        ),
        (
            stated["failures"],
            "Failures in groups, or with age; waiting for spare devices; failures that stop a part "
            "of the devices alone.",
        ),
        (stated["stragglers"], "Slow devices being found and replaced; slow links."),
    ]
    return [text for applies, text in found if applies]
