"""The candidates of a layout search on one number of devices: all that the rules allow, once each.

Dimensions: tensor x pipeline x data = all devices; micro_batch: whatever divides a replica's batch;
schedule: 1f1b, gpipe, interleaved (a pipeline of several ranks, each number of chunks that divides
its layers), and 1f1b and terapipe over 2, 4, 8 or 16 even token slices; recomputation;
sequence_parallel; sharding; gradient_reduction; placement. All else is as the scenario has it, but
for fields that a restriction adds. The rules themselves (`scenarios.rules`) say what is allowed.

Of equal layouts one is counted: where a field has no meaning (sharding of one replica, sequence
parallelism of one device) it has the first value allowed; one microbatch is the same in every
order; placements that put the same ranks on the same nodes and NICs cost the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import NamedTuple, TypeAlias, get_args, get_type_hints

from scenarios.resizing import resized
from scenarios.rules import RULES, Rule
from scenarios.schema import Plan, Scenario
from sim.planner.layouts.placements import distinct_placements
from sim.planner.layouts.plans import plan_with, scenario_with

DIMENSIONS = (
    "pipeline",
    "tensor",
    "data",
    "micro_batch",
    "schedule",
    "chunks",
    "slices",
    "recomputation",
    "sequence_parallel",
    "sharding",
    "gradient_reduction",
    "placement",
)
"""Fields of a plan that are searched; of layouts that are equally good the one is preferred that
has the earlier value in the first of them in which they differ."""
ADDABLE = (
    "p2p",
    "scatter_gather",
    "broadcast_messages",
    "gpipe_backward",
    "recompute_every",
    "gradient_bucket",
    "precision",
    "gradient_precision",
    "master_weights",
    "optimizer",
    "kernels",
    "clip_gradients",
)
"""Fields that a restriction makes a dimension; else they are as the scenario has them."""
NUM_SLICES = (None, 2, 4, 8, 16)
_LEVELS = (
    ("pipeline", "tensor", "data"),
    ("micro_batch",),
    ("schedule", "chunks", "slices", *(name for name in ADDABLE if name != "recompute_every")),
    ("recomputation", "recompute_every"),
    ("sequence_parallel",),
    ("sharding",),
)
_ELSEWHERE = ("recompute_every", "gradient_bucket")
_DEGREES, _SIZE, _ORDER, _SHARDING = 0, 1, 2, 5
_PLAIN: Mapping[str, object] = {
    "schedule": "1f1b",
    "schedule_file": None,
    "schedule_order": None,
    "chunks": 1,
    "slices": None,
    "micro_batch": 1,
    "microbatches": None,
    "microbatch_groups": None,
    "layers_per_stage": None,
    "devices": None,
    "recomputation": "none",
    "recompute_every": 1,
    "sequence_parallel": False,
    "sharding": "none",
    "gradient_reduction": "after",
}
_VALUES: Mapping[str, tuple[object, ...]] = {
    "schedule": ("1f1b", "gpipe", "interleaved", "terapipe"),
    "slices": NUM_SLICES,
    "recomputation": ("none", "selective", "full"),
    "sequence_parallel": (False, True),
    "sharding": ("none", "optimizer", "full"),
    "gradient_reduction": ("after", "overlapped"),
}


Changes: TypeAlias = dict[str, object]
"""Of a layout, the fields that are searched."""


class CannotPlan(ValueError):
    """The scenario, or what is asked of it, leaves nothing to search."""

    is_bad_input = True


class Room(NamedTuple):
    """Candidates of the same degrees and microbatch."""

    pipeline: int
    tensor: int
    data: int
    micro_batch: int


class Spread(NamedTuple):
    """What of a layout no rank's memory depends on."""

    gradient_reduction: str
    gradient_bucket: int
    placement: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Candidates that need the same memory: they differ in their spreads alone."""

    changes: Changes
    spreads: tuple[Spread, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """The cells of a room, the plainer before the more elaborate; and how many were refused."""

    cells: tuple[Cell, ...]
    refused: int


class LayoutSpace:
    """The candidates on one number of devices.

    Raises CannotPlan where the scenario cannot be searched, or a field of `only` is no dimension,
    and NotWholeNodes where the devices are no whole nodes.
    """

    def __init__(
        self,
        scenario: Scenario,
        num_devices: int,
        only: Mapping[str, Sequence[object]] | None = None,
    ) -> None:
        """only: of some fields, the values that are searched."""
        self.num_devices = num_devices
        self.only = {name: tuple(dict.fromkeys(values)) for name, values in (only or {}).items()}
        self.batch = batch_of(scenario)
        _check(scenario, self.only)
        assert scenario.model is not None and scenario.cluster is not None
        self.layers = scenario.model.layers
        plan = plan_with(scenario.plan, **_PLAIN, global_batch=self.batch, tensor=1, pipeline=1)
        self._own = scenario.plan
        self.scenario = scenario_with(
            scenario, plan_with(plan, data=1), resized(scenario.cluster, num_devices)
        )
        self.dimensions = (*DIMENSIONS, *(name for name in ADDABLE if name in self.only))
        self.refusal: tuple[str, str] | None = None
        self._rules = tuple(_rules_reading(names) for names in _LEVELS)
        self._placements: dict[tuple[int, int, int], tuple[str, ...]] = {}
        searched = {rule.find for rules in self._rules for rule in rules}
        for rule in RULES:
            for field, problem in rule.find(self.scenario) if rule.find not in searched else ():
                raise CannotPlan(f"{field}: {problem}")

    @cached_property
    def rooms(self) -> tuple[Room, ...]:
        """The rooms that the rules allow, the plainer before the more elaborate."""
        return tuple(room for room, allowed in self._all_rooms if allowed)

    @property
    def refused_rooms(self) -> int:
        """Degrees and microbatches that the rules do not allow, whatever the rest."""
        return sum(not allowed for _, allowed in self._all_rooms)

    @cached_property
    def _all_rooms(self) -> tuple[tuple[Room, bool], ...]:
        found = []
        for pipeline in self._whole("pipeline", self.num_devices):
            for tensor in self._whole("tensor", self.num_devices // pipeline):
                data = self.num_devices // pipeline // tensor
                degrees: Changes = {"pipeline": pipeline, "tensor": tensor, "data": data}
                if data not in self.only.get("data", (data,)):
                    continue
                if not self._allows(_DEGREES, degrees):
                    found.append((Room(pipeline, tensor, data, 1), False))
                    continue
                for size in self._whole("micro_batch", self.batch // data):
                    allowed = self._allows(_SIZE, {**degrees, "micro_batch": size})
                    found.append((Room(pipeline, tensor, data, size), allowed))
        return tuple(found)

    def cells(self, room: Room) -> Cells:
        """The cells of a room, the plainer before the more elaborate."""
        names = [name for name in ADDABLE if name in self.only and name not in _ELSEWHERE]
        partial: list[Changes] = [
            {**room._asdict(), **dict(zip(names, values, strict=True))}
            for values in product(*(self.only[name] for name in names))
        ]
        refused = 0
        steps: tuple[Callable[[Changes], Iterable[Changes]], ...] = (
            self._orders,
            self._recomputations,
            self._sequence_parallel,
            self._shardings,
        )
        for level, choices in enumerate(steps, start=_ORDER):
            extended = [{**above, **choice} for above in partial for choice in choices(above)]
            partial = [changes for changes in extended if self._allows(level, changes)]
            refused += len(extended) - len(partial)
        cells = tuple(
            Cell(changes=changes, spreads=self._spreads(changes))
            for changes in partial
            if self._differs(changes)
        )
        return Cells(cells=cells, refused=refused)

    def plan(self, cell: Cell, spread: Spread) -> Plan:
        """A candidate as a plan."""
        return plan_with(self.scenario.plan, **cell.changes, **spread._asdict())

    def domain(self, name: str) -> tuple[object, ...]:
        """The values that a dimension can have, the plainer before the more elaborate."""
        if name in self.only:
            return self.only[name]
        whole = {"micro_batch": self.batch, "chunks": self.layers}
        whole |= dict.fromkeys(("pipeline", "tensor", "data"), self.num_devices)
        return divisors(whole[name]) if name in whole else self._values(name)

    def values(self, cell: Cell, spread: Spread) -> tuple[object, ...]:
        """A candidate's values, by dimension."""
        own = {**cell.changes, **spread._asdict()}
        return tuple(own[name] for name in self.dimensions)

    def _values(self, name: str) -> tuple[object, ...]:
        if name == "placement":
            return self.only.get(name) or tuple(
                dict.fromkeys((self._own.placement, *get_args(get_type_hints(Plan)[name])))
            )
        return self.only.get(name) or _VALUES.get(name) or (getattr(self._own, name),)

    def _whole(self, name: str, number: int) -> tuple[int, ...]:
        """The divisors of a number that a restriction lets be a dimension's values."""
        found = divisors(number)
        return tuple(v for v in found if v in self.only[name]) if name in self.only else found

    def _allows(self, level: int, changes: Changes) -> bool:
        """Whether all rules that read a field of a level do. What is still to be chosen is plain,
        and what the rules refuse then, they refuse whatever comes."""
        scenario = scenario_with(self.scenario, plan_with(self.scenario.plan, **changes))
        for rule in self._rules[level]:
            for finding in rule.find(scenario):
                self.refusal = finding
                return False
        return True

    def _orders(self, above: Changes) -> Iterator[Changes]:
        pipeline, size = _int(above["pipeline"]), _int(above["micro_batch"])
        microbatches = self.batch // _int(above["data"]) // size
        both = {"schedule", "slices"} <= self.only.keys()
        backward = above.get("gpipe_backward", self._own.gpipe_backward)
        seen = set()
        for schedule in self._values("schedule"):
            chunked = schedule == "interleaved" and pipeline > 1
            held = self._whole("chunks", self.layers // pipeline) if chunked else (1,)
            for chunks, slices in product(held, self._values("slices")):
                if chunks not in self.only.get("chunks", (chunks,)):
                    continue
                allowed = ("1f1b", "terapipe") if slices else ("1f1b", "gpipe", "interleaved")
                if schedule not in allowed and not both:
                    continue
                order = "1f1b" if schedule == "interleaved" and chunks == 1 else schedule
                if order == "gpipe" and backward == "reversed":
                    order = "terapipe"
                if microbatches == 1 and chunks == 1:
                    order = "any"
                if slices and schedule == "interleaved":
                    order = schedule  # Which the rules refuse, and not the others.
                same = order, chunks, slices
                if same not in seen:
                    seen.add(same)
                    yield {"schedule": schedule, "chunks": chunks, "slices": slices}

    def _recomputations(self, above: Changes) -> Iterator[Changes]:
        for kind in self._values("recomputation"):
            every = (self._own.recompute_every if kind == "full" else 1,)
            for number in self.only.get("recompute_every", every):
                yield {"recomputation": kind, "recompute_every": number}

    def _sequence_parallel(self, above: Changes) -> Iterator[Changes]:
        values = self._values("sequence_parallel")
        for value in values if above["tensor"] != 1 else values[:1]:
            yield {"sequence_parallel": value}

    def _shardings(self, above: Changes) -> Iterator[Changes]:
        choices: list[Changes] = [{"sharding": value} for value in self._values("sharding")]
        if above["data"] == 1:
            allowed = (choice for choice in choices if self._allows(_SHARDING, above | choice))
            choices = [next(allowed, choices[0])]
        yield from choices

    def _differs(self, changes: Changes) -> bool:
        """Whether a layout differs from those before it: fields that a restriction adds, but that
        mean nothing in it, have their first value."""
        alone, whole = changes["pipeline"] == 1, changes["tensor"] == 1
        means = {
            "p2p": not alone,
            "scatter_gather": not (alone or whole or changes["sequence_parallel"]),
            "broadcast_messages": not (alone or whole),
            "gpipe_backward": changes["schedule"] == "gpipe",
        }
        return all(
            means.get(name, True) or changes[name] == self.only[name][0]
            for name in changes
            if name in self.only and name in means
        )

    def _spreads(self, changes: Changes) -> tuple[Spread, ...]:
        reductions = self._values("gradient_reduction")
        if changes["data"] == 1 or changes["sharding"] == "full":
            reductions = reductions[:1]
        buckets = self._values("gradient_bucket")
        return tuple(
            Spread(str(reduction), _int(bucket), placement)
            for reduction in reductions
            for bucket in (buckets if reduction == "overlapped" else buckets[:1])
            for placement in self._distinct(changes)
        )

    def _distinct(self, changes: Changes) -> tuple[str, ...]:
        degrees = _int(changes["pipeline"]), _int(changes["data"]), _int(changes["tensor"])
        if degrees not in self._placements:
            cluster = self.scenario.cluster
            assert cluster is not None
            names = map(str, self._values("placement"))
            self._placements[degrees] = distinct_placements(cluster, degrees, names)
        return self._placements[degrees]


def batch_of(scenario: Scenario) -> int:
    """Sequences in one iteration, which all layouts share.

    Raises CannotPlan where the plan does not say.
    """
    plan = scenario.plan
    if plan.global_batch is not None:
        return plan.global_batch
    if plan.microbatches is None and plan.microbatch_groups is None:
        raise CannotPlan(
            f"{scenario.name} does not say how many sequences an iteration has, which all layouts "
            "share: `--set plan.global_batch=1536` would"
        )
    return plan_with(plan, slices=None).num_sequences


def _check(scenario: Scenario, only: Mapping[str, tuple[object, ...]]) -> None:
    plan = scenario.plan
    if scenario.costs is not None or scenario.model is None or scenario.cluster is None:
        missing = "costs are given outright" if scenario.costs is not None else "are not both there"
        raise CannotPlan(
            f"{scenario.name} cannot be laid out otherwise, as its "
            + (missing if scenario.costs is not None else f"model and cluster {missing}")
            + ": the search needs a model and a cluster to know what another layout takes"
        )
    if scenario.elastic is not None or plan.frozen_layers:
        raise CannotPlan(
            f"{scenario.name} freezes layers, and which it does depends on its layout: the search "
            "is for training all of them; `--set plan.frozen_layers=0` would work"
        )
    for name, values in only.items():
        if name not in (*DIMENSIONS, *ADDABLE):
            raise CannotPlan(
                f"plan.{name} is no dimension of the search: it has {', '.join(DIMENSIONS)}, and "
                f"{', '.join(ADDABLE)} can be added"
            )
        if not values:
            raise CannotPlan(f"no value of plan.{name} is left to search")
        if name == "schedule" and "given" in values:
            orders = ", ".join(map(str, _VALUES["schedule"]))
            raise CannotPlan(f"a given order is for one layout alone; schedules searched: {orders}")


def _rules_reading(names: Sequence[str]) -> tuple[Rule, ...]:
    reads = {f"plan.{name}" for name in names}
    return tuple(rule for rule in RULES if reads.intersection(rule.reads))


def divisors(number: int) -> tuple[int, ...]:
    """The divisors of a number, ascending."""
    return tuple(d for d in range(1, number + 1) if number % d == 0)


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value
