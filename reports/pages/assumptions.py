"""The last section: what the figures rest on, what is not modelled, and how to get them again."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import metadata

from reports import tables, words
from reports.pages.sections import Section
from reports.tables import Summary
from sim.cost.measured import fitted_cluster
from sim.prediction import Prediction

PLOTLY_JS = "4.1.1"
NOT_MODELLED = (
    "Kernels: steps at multiples of tile sizes and of the number of multiprocessors, and what an "
    "earlier kernel leaves in the cache; efficiency is smooth in the shape.",
    "Communication: contention inside the fabric beyond its stated oversubscription, in-network "
    "reduction, and protocols that change with the message's size.",
    "Overlap of tensor-parallel all-reduces with weight gradients; limits to how far ahead fully "
    "sharded weights are gathered; a smaller first bucket of overlapped gradient reductions.",
    "Memory: fragmentation and cached blocks of the allocator; a stage's output kept once sent.",
    "Token slices: a slice's keys and values are read as one block, whatever the slices before it; "
    "copying and adding up their gradients counts as memory traffic alone.",
    "Storage and logging beyond a fixed time an iteration, data loading beyond a fixed time a "
    "microbatch, and failures, stragglers and jitter that the scenario does not state.",
)


def assumptions_section(
    prediction: Prediction, summary: Summary, command: str, more: Sequence[str] = ()
) -> Section:
    """Where costs come from, what lies outside the measured range, and how to reproduce.

    more: what else is not modelled.
    """
    assumed = summary["assumed"]
    table = (tables.assumed_table(summary),) if assumed else ()
    return Section(
        name="assumptions",
        topic="Assumptions",
        claim=_claim(prediction, [item["share"] for item in assumed]),
        reading="What is listed here bounds how far the figures above can be trusted; what is not "
        "modelled is not in them.",
        tables=table,
        lists=(
            ("Where the costs come from", tuple(_sources(prediction))),
            ("What is not modelled", (*NOT_MODELLED, *more)),
            ("How to reproduce", tuple(_versions(prediction))),
        ),
        code=command,
    )


def _claim(prediction: Prediction, shares: Sequence[float]) -> str:
    if prediction.profile is not None:
        start = f"Costs are calibrated on {prediction.profile.device}"
    elif prediction.scenario.costs is not None:
        start = "Costs are the times that the scenario gives"
    else:
        start = "Costs come from the device model; no profile calibrated on this hardware was given"
    if not shares:
        return start
    outside = f"{words.plural(len(shares), 'cost')} of them"
    verb = "lies" if len(shares) == 1 else "lie"
    part = words.percent(sum(shares))
    return f"{start}; {outside}, {part} of the compute time, {verb} outside the measured range"


def _sources(prediction: Prediction) -> list[str]:
    profile, scenario = prediction.profile, prediction.scenario
    found = []
    if profile is not None:
        made = f", {profile.created}" if profile.created else ""
        host = f", on {profile.host}" if profile.host else ""
        found.append(f"Profile of {profile.device}: {profile.provenance}{made}{host}")
        if profile.software:
            found.append(
                ", ".join(f"{name} {version}" for name, version in profile.software.items())
            )
    if scenario.costs is not None:
        found.append("Times given outright in the scenario; no device model is used.")
    elif profile is None:
        found.append("Device model, without a profile calibrated on this hardware.")
    if scenario.cluster is not None and scenario.costs is None:
        cluster = scenario.cluster
        for what, source in (
            (f"Peaks of {cluster.device.name}", cluster.device.source),
            ("Efficiencies", cluster.device.efficiency.source),
            ("Links within a node", cluster.intra_node.source),
            ("Links between nodes", cluster.inter_node.source),
        ):
            if source:
                found.append(f"{what}: {source}")
        found.append(_fixed_times(prediction))
    return found


def _fixed_times(prediction: Prediction) -> str:
    """The named times that depend on no size, as the scenario or the profile has them."""
    cluster = prediction.scenario.cluster
    assert cluster is not None
    if prediction.profile is not None:
        cluster = fitted_cluster(cluster, prediction.profile.efficiency)
    efficiency = cluster.device.efficiency
    times = (
        ("a kernel", efficiency.launch),
        ("a collective", efficiency.collective_launch),
        ("an exchange of blocking messages", efficiency.message_overhead),
        ("a microbatch's data", efficiency.data_loading),
        ("an iteration", efficiency.iteration_overhead),
    )
    return "Fixed times: " + ", ".join(f"{what} {words.duration(t)}" for what, t in times)


def _versions(prediction: Prediction) -> list[str]:
    names = ("pipetwin", "simpy", "numpy")
    found = [f"{name} {_version(name)}" for name in names]
    return [
        f"Scenario {prediction.scenario.name}, SHA-256 of its resolved values "
        f"{prediction.scenario.digest}",
        ", ".join([*found, f"Python {platform.python_version()}", f"plotly.js {PLOTLY_JS}"]),
        "The simulation is exact in nanoseconds: the same scenario gives the same figures to the "
        "last digit.",
    ]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(not installed as a package)"
