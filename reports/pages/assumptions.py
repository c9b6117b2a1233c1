"""The last sections: what the figures rest on, what is not modelled, and how to get them again."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import metadata

from reports import tables, words
from reports.pages.not_modelled import assumed, not_modelled
from reports.pages.sections import Section
from reports.tables import Summary
from sim.cost.measured import fitted_cluster
from sim.measurement import Measurement
from sim.prediction import Prediction

PLOTLY_JS = "4.1.1"
PACKAGES = ("numpy", "simpy", "numba", "torch")
_EXACT = (
    "The simulation is exact in nanoseconds: the same scenario gives the same figures to the last "
    "digit."
)


def assumptions_section(
    prediction: Prediction,
    summary: Summary,
    command: str | None = None,
    more: Sequence[str] = (),
    not_asked: Sequence[str] = (),
) -> Section:
    """Where costs come from, what is taken for granted and what is not modelled.

    command: what the user typed, to end with how to reproduce the page where no `reproduce_section`
    follows. more: what else is not modelled. not_asked: what-if questions that were left out.
    """
    outside = summary["assumed"]
    table = (tables.assumed_table(summary),) if outside else ()
    lists = [
        ("Where the costs come from", tuple(_sources(prediction))),
        ("What is taken for granted", assumed(prediction)),
        ("What is not modelled", (*not_modelled(prediction), *more)),
    ]
    if not_asked:
        lists.append(("What was not asked", tuple(not_asked)))
    if command is not None:
        lists.append(("How to reproduce", (*_identity(prediction), _versions(), _EXACT)))
    return Section(
        name="assumptions",
        topic="Assumptions",
        claim=_claim(prediction, [item["share"] for item in outside]),
        reading="What is listed here bounds how far the figures above can be trusted; what is not "
        "modelled is not in them.",
        tables=table,
        lists=tuple(lists),
        code=command or "",
    )


def reproduce_section(
    prediction: Prediction, command: str, measurement: Measurement | None = None
) -> Section:
    """The command, and all that decides what it gives."""
    lists = [
        ("What was simulated", tuple(_identity(prediction))),
        ("With what", (_versions(), _EXACT)),
    ]
    if measurement is not None and measurement.environment:
        ran = [f"{name.replace('_', ' ')}: {value}" for name, value in _environment(measurement)]
        lists.append(("Where it ran", tuple(ran)))
    what = "command" if command else "scenario"
    claim = f"The same {what} gives the same figures to the last digit"
    if measurement is not None:
        claim = (
            "The simulated figures come out the same to the last digit, the measured ones do not"
        )
    return Section(
        name="reproduce",
        topic="Reproduce",
        claim=claim,
        reading="Simulated figures hang on the scenario's resolved values and on the profile "
        "alone, both named here; every engine gives the same ones.",
        lists=tuple(lists),
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


def _identity(prediction: Prediction) -> list[str]:
    """What decides the figures, and which engine found them."""
    scenario, profile = prediction.scenario, prediction.profile
    found = [f"Scenario {scenario.name}, SHA-256 of its resolved values {scenario.digest}"]
    if profile is not None:
        made = f", {profile.created}" if profile.created else ""
        found.append(f"Profile of {profile.device}{made}: {profile.provenance}")
    engine = {"simpy": "the reference engine (SimPy)", "compiled": "the compiled engine"}
    found.append(f"Simulated by {engine.get(prediction.engine, prediction.engine)}")
    return found


def _versions() -> str:
    """Of this program and of the packages that its figures or its pages come from."""
    found = [f"pipetwin {_version('pipetwin')}", f"Python {platform.python_version()}"]
    found += [f"{name} {version}" for name in PACKAGES if (version := _version(name, ""))]
    return ", ".join([*found, f"plotly.js {PLOTLY_JS}"])


def _version(name: str, unknown: str = "(not installed as a package)") -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return unknown


def _environment(measurement: Measurement) -> list[tuple[str, str]]:
    """What a run tells of where it ran, each in a line."""
    known = ((str(name), str(value)) for name, value in measurement.environment.items())
    return [(name, value if len(value) < 200 else f"{value[:200]}…") for name, value in known]
