"""Differences: what sets two iterations apart, each simulated or measured: in their scenarios, in
their figures, and in where their time goes."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from scenarios.files import Key
from scenarios.schema import Scenario
from sim.sides import Side
from sim.timeline.figures import figures

NOT_COMPARED = ("name", "description", "variants")
"""Fields of a scenario that make no difference to an iteration."""
WHOLE_PASSES = frozenset({"given", "measured"})
"""Categories of time that know a pass only as a whole."""
COUNTS = ("devices", "sequences_per_iteration")
COST_FIGURES = (
    "training_days",
    "training_gpu_hours",
    "training_cost_dollars",
    "expected_days",
    "expected_dollars",
    "dollars_per_billion_tokens",
)
"""Those of the whole training run."""
FIGURES = (
    "iteration_s",
    "sequences_per_s",
    "tokens_per_s",
    "tokens_per_s_per_device",
    "model_tflops_per_gpu",
    "hardware_tflops_per_gpu",
    "mfu",
    "bubble_fraction",
    "exposed_communication_fraction",
    "peak_memory_bytes",
    "sent_bytes_per_device",
    "inter_node_bytes_per_device",
    *COUNTS,
    "device_s_per_iteration",
    *COST_FIGURES,
)
"""Names of the figures held side by side, those of `sim.prediction.summary` among them."""

Work = Literal["same", "resized", "other model", "unknown"]
"""What an iteration of one does beside one of the other: the same model on as many sequences; on
another number of them; another model; or nothing that says so (one has no model)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldDifference:
    """A field of the scenario with its two values; None where it is unknown or not there."""

    path: tuple[Key, ...]
    a: Any
    b: Any

    @property
    def field(self) -> str:
        """The dotted name, as `--set` takes it."""
        return ".".join(map(str, self.path))


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureDifference:
    """A figure of both; None where it is unknown."""

    name: str
    a: float | None
    b: float | None

    @property
    def difference(self) -> float | None:
        """B less A."""
        return None if self.a is None or self.b is None else self.b - self.a

    @property
    def ratio(self) -> float | None:
        """B over A; None where A is zero."""
        return self.b / self.a if self.a and self.b is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryTime:
    """The mean rank-time of a category, in whole nanoseconds."""

    category: str
    a_ns: int
    b_ns: int

    @property
    def difference_ns(self) -> int:
        """B less A."""
        return self.b_ns - self.a_ns


@dataclass(frozen=True, kw_only=True)
class Differences:
    """What sets two iterations apart.

    fields: that differ. same: by section of the scenario how many known values are the same.
    figures: those that at least one of both has.
    categories: the mean rank-time by category, which sums to the iteration time of each, the
    largest difference first. by_pass: whether they are of whole passes, since one of both knows no
    more.
    """

    a: Side
    b: Side
    fields: tuple[FieldDifference, ...]
    same: Mapping[str, int]
    figures: tuple[FigureDifference, ...]
    categories: tuple[CategoryTime, ...]
    by_pass: bool

    @property
    def sides(self) -> tuple[Side, Side]:
        """A and B."""
        return self.a, self.b

    @property
    def difference_ns(self) -> int:
        """B's iteration time less A's."""
        return self.b.iteration_ns - self.a.iteration_ns

    @property
    def is_none(self) -> bool:
        """Whether nothing differs: no field, no figure, and both are simulated or measured."""
        return (
            not self.fields
            and self.a.origin == self.b.origin
            and {**self.a.summary, "scenario": ""} == {**self.b.summary, "scenario": ""}
        )

    @property
    def work(self) -> Work:
        """Whether both iterations do the same work."""
        a, b = self.a.scenario, self.b.scenario
        if a.model is None or b.model is None:
            if a.model is not None or b.model is not None:
                return "unknown"
        elif replace(a.model, name="") != replace(b.model, name=""):
            return "other model"
        return "same" if a.plan.num_sequences == b.plan.num_sequences else "resized"

    @property
    def uncertainty_ns(self) -> float:
        """How sure the difference in iteration time is, both uncertainties added as independent."""
        return math.hypot(self.a.uncertainty_ns, self.b.uncertainty_ns)

    def figure(self, name: str) -> FigureDifference | None:
        """A figure by its name; None where neither has it."""
        return next((own for own in self.figures if own.name == name), None)


def differences(a: Side, b: Side) -> Differences:
    """What sets two iterations apart."""
    values_a, values_b = field_values(a.scenario), field_values(b.scenario)
    paths = dict.fromkeys([*values_a, *values_b])
    by_pass = any(_knows_passes_only(side) for side in (a, b))
    shares_a, shares_b = time_by_category(a, by_pass), time_by_category(b, by_pass)
    found = figures_of(a), figures_of(b)
    if None in (found[0]["expected_days"], found[1]["expected_days"]):
        for side, own, other in ((a, found[0], found[1]), (b, found[1], found[0])):
            if other["expected_days"] is not None and _runs_plainly(side):
                own["expected_days"] = own["training_days"]
                own["expected_dollars"] = own["training_cost_dollars"]
    same: Counter[str] = Counter()
    for path in paths:
        value = values_a.get(path)
        if value == values_b.get(path) and value is not None and value != "":
            same[str(path[0])] += 1
    return Differences(
        a=a,
        b=b,
        fields=tuple(
            FieldDifference(path=path, a=values_a.get(path), b=values_b.get(path))
            for path in paths
            if values_a.get(path) != values_b.get(path)
        ),
        same=same,
        figures=tuple(
            FigureDifference(name=name, a=found[0][name], b=found[1][name])
            for name in FIGURES
            if not (found[0][name] is None and found[1][name] is None)
        ),
        categories=tuple(
            sorted(
                (
                    CategoryTime(
                        category=name, a_ns=shares_a.get(name, 0), b_ns=shares_b.get(name, 0)
                    )
                    for name in {**shares_a, **shares_b}
                ),
                key=lambda own: (-abs(own.difference_ns), own.category),
            )
        ),
        by_pass=by_pass,
    )


def field_values(scenario: Scenario) -> dict[tuple[Key, ...], Any]:
    """Every value of a scenario by the path of its field, but for those that make no difference to
    an iteration."""
    return {path: v for path, v in _leaves(scenario, ()) if path[0] not in NOT_COMPARED}


def _leaves(owner: Any, path: tuple[Key, ...]) -> Iterator[tuple[tuple[Key, ...], Any]]:
    if isinstance(owner, Mapping):
        items = list(owner.items())
    else:
        items = [(f.name, getattr(owner, f.name)) for f in dataclasses.fields(owner)]
    for key, value in items:
        if dataclasses.is_dataclass(value) or isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def figures_of(side: Side) -> dict[str, float | None]:
    """One side's FIGURES by name; None for what is unknown."""
    known, plan, cluster = side.summary, side.scenario.plan, side.scenario.cluster
    found: dict[str, float | None] = {name: known.get(name) for name in FIGURES}
    rate, devices = known["tokens_per_s"], plan.num_devices
    found["devices"], found["sequences_per_iteration"] = devices, plan.num_sequences
    found["device_s_per_iteration"] = devices * known["iteration_s"]
    found["peak_memory_bytes"] = side.peak_bytes
    if found["sequences_per_s"] is None and known["iteration_s"] > 0:
        found["sequences_per_s"] = plan.num_sequences / known["iteration_s"]
    price = cluster.price_per_device_hour if cluster is not None else None
    if rate:
        found["tokens_per_s_per_device"] = rate / devices
        if price is not None:
            found["dollars_per_billion_tokens"] = price * devices / 3600 / rate * 1e9
    sent = known.get("traffic")
    if sent is not None:
        found["sent_bytes_per_device"] = sent["sent_bytes_per_device"]
        if sent["near_share"] is not None:
            far = 1 - sent["near_share"]
            found["inter_node_bytes_per_device"] = far * sent["sent_bytes_per_device"]
    run = side.prediction.training if side.prediction is not None else None
    if run is not None and not run.is_plain and run.expected_days is not None:
        found["expected_days"] = run.expected_days
        if run.dollars_a_day is not None:
            found["expected_dollars"] = run.expected_days * run.dollars_a_day
    return found


def _runs_plainly(side: Side) -> bool:
    """Whether nothing disturbs its training run, which is then expected to take as long as its
    iterations do."""
    run = side.prediction.training if side.prediction is not None else None
    return run is not None and run.is_plain and run.expected_days is not None


def time_by_category(side: Side, by_pass: bool) -> dict[str, int]:
    """One side's mean rank-time by category, in whole nanoseconds that sum to the iteration time.

    by_pass: keep passes whole, whatever their costs are made of.
    """
    found = side.figures
    if by_pass and side.timeline.parts:
        found = figures(replace(side.timeline, parts={}), side.program)
    sums: Counter[str] = Counter()
    for rank in found.ranks:
        sums.update(rank.breakdown_ns)
    return apportioned(side.iteration_ns, sums)


def apportioned(total: int, weights: Mapping[str, int]) -> dict[str, int]:
    """Divide a whole number by weights into whole numbers that sum to it: each its part rounded
    down, and one more for those with the largest remainders (Hamilton's method)."""
    whole = sum(weights.values())
    if not whole:
        return {}
    parts = {name: divmod(total * weight, whole) for name, weight in weights.items()}
    found = {name: part for name, (part, _) in parts.items()}
    rest = total - sum(found.values())
    for name in sorted(parts, key=lambda name: (-parts[name][1], name))[:rest]:
        found[name] += 1
    return found


def _knows_passes_only(side: Side) -> bool:
    """Whether the costs of passes have no parts: those measured, and those given outright."""
    return side.origin == "measured" or not WHOLE_PASSES.isdisjoint(side.figures.breakdown)


def differences_json(found: Differences) -> dict[str, object]:
    """The stable machine form, which `compare --json` prints; unknown figures are null."""
    a, b = found.sides
    return {
        "names": {"a": a.label, "b": b.label},
        "a": dict(a.summary),
        "b": dict(b.summary),
        "nothing_differs": found.is_none,
        "difference_uncertainty_s": found.uncertainty_ns / 1e9,
        "work": found.work,
        "differences": [
            {
                "field": own.field,
                "a": _plain(own.a),
                "b": _plain(own.b),
                "a_from": source(a, own.field),
                "b_from": source(b, own.field),
            }
            for own in found.fields
        ],
        "figures": [
            {
                "name": own.name,
                "a": own.a,
                "b": own.b,
                "difference": own.difference,
                "ratio": own.ratio,
            }
            for own in found.figures
        ],
        "time_by_category": [
            {
                "category": own.category,
                "a_s": own.a_ns / 1e9,
                "b_s": own.b_ns / 1e9,
                "difference_s": own.difference_ns / 1e9,
            }
            for own in found.categories
        ],
        "categories_by_pass": found.by_pass,
    }


def source(side: Side, field: str) -> str:
    """Where one side's value of a field was written."""
    return "not on record" if side.origins is None else side.origins.get(field, "default")


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {key: _plain(own) for key, own in dataclasses.asdict(value).items()}
    return value
