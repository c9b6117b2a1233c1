"""A scenario whose layout is still open: what `plan` is asked, from a scenario or a model's name.

The plan's own layout is what others are held against; that it suits the number of devices is no
rule here. All else is checked as in any scenario.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from types import MappingProxyType

from scenarios import catalogue, rules
from scenarios.compose import compose
from scenarios.errors import Origin, Problem, ScenarioError
from scenarios.files import Node, parse_override
from scenarios.loader import Loaded, load_cluster
from scenarios.resizing import NotWholeNodes, resized
from scenarios.schema import Plan, Scenario
from scenarios.validate import place, split, validate
from scenarios.variants import merge

OPTIONS = "planning/gpt3-175b-dgx-a100"
"""What a model named alone is planned with, but for its batch and its tokens."""
LAYOUT = (
    *("tensor", "pipeline", "data", "micro_batch", "microbatches", "schedule", "chunks", "slices"),
    *("recomputation", "recompute_every", "sequence_parallel", "sharding", "gradient_reduction"),
    *("placement", "microbatch_groups", "layers_per_stage", "devices"),
)
"""Fields of a plan that a search may set otherwise; rules that read one are not checked here."""
NOT_SEARCHED: Mapping[str, str] = {
    "global_batch": "is what is asked: give it as --batch",
    "microbatches": "follows from the batch, micro_batch and data: restrict those",
    "microbatch_groups": "is found by `pipetwin slice`",
    "layers_per_stage": "is even in every layout",
    "devices": "is what `placement` says",
    "schedule_file": "belongs to a given order, which is not searched",
    "schedule_order": "belongs to a given order, which is not searched",
}
"""Why `--only` does not take these."""


class CannotPlan(ValueError):
    """What was asked cannot be planned; the text says what would work."""

    is_bad_input = True


@dataclass(frozen=True, kw_only=True)
class Unplanned:
    """What a search is asked.

    loaded: model, cluster and batch; the plan is the one that others are held against, on the
        first of `gpus` devices, where `has_baseline`: it is the scenario's, and suits them.
    is_borrowed: a model was named alone, whose plan is that of another one, but for its layout.
    assumed: what nobody gave, in words.
    """

    loaded: Loaded
    gpus: tuple[int, ...]
    has_baseline: bool
    is_borrowed: bool = False
    assumed: tuple[str, ...] = ()


def unplanned(
    name: str,
    overrides: Sequence[str] = (),
    *,
    cluster: str = "",
    batch: int | None = None,
    gpus: Sequence[int] = (),
) -> Unplanned:
    """Read what a search is asked: a scenario, or a model's name.

    cluster: a cluster or device of the catalogue, or a file, instead of the scenario's; batch:
    sequences an iteration, instead of its own. gpus: numbers of devices; the cluster's unless
    given.
    Raises ScenarioError for problems of files and overrides, CannotPlan for what cannot be planned.
    """
    full = catalogue.full_name(name)
    is_model = full in catalogue.names() and catalogue.kind_of(full) == "model"
    names = _names(full) if is_model else (name,)
    loaded = _loaded(name, names, overrides, cluster, is_model)
    scenario = _plannable(loaded.scenario, name)
    assert scenario.model is not None and scenario.cluster is not None
    assumed = list(_assumed_of_model(scenario, names, cluster, batch, gpus)) if is_model else []
    borrowed = is_model and len(names) > 1
    if batch is None and borrowed:
        raise CannotPlan(
            f"{name} is a model: give the sequences of one iteration, as `--batch 1536`"
        )
    if batch is None and not is_model and not _has_batch(scenario.plan):
        raise CannotPlan(
            f"{name} does not say how many sequences an iteration has: give them as "
            "`--batch 1536`, or in the file as `plan: {global_batch: 1536}`"
        )
    if batch is not None and batch < 1:
        raise CannotPlan(
            f"--batch {batch}: an iteration has at least one sequence, as --batch 1536"
        )
    plan, notes = _baseline(scenario.plan, batch)
    counts = tuple(dict.fromkeys(gpus)) or (scenario.cluster.num_devices,)
    own = scenario.plan.num_devices
    first = own if own in counts else counts[0]
    plan = _on(plan, first)
    try:
        clusters = {number: resized(scenario.cluster, number) for number in counts}
    except NotWholeNodes as error:
        raise CannotPlan(f"--gpus {','.join(map(str, counts))}: {error}") from None
    asked = replace(scenario, plan=plan, cluster=clusters[first], variants={})
    return Unplanned(
        loaded=replace(loaded, scenario=asked),
        gpus=counts,
        has_baseline=not borrowed and not rules.check(asked),
        is_borrowed=borrowed,
        assumed=(*assumed, *notes),
    )


def only_values(texts: Sequence[str]) -> dict[str, tuple[object, ...]]:
    """Read `--only FIELD=V1,V2`: the values that a field of the plan may have.

    Raises ScenarioError with every mistake, naming what was probably meant.
    """
    found: dict[str, tuple[object, ...]] = {}
    problems: list[Problem] = []
    known = [field.name for field in fields(Plan)]
    for text in texts:
        name, equals, rest = text.partition("=")
        name = name.strip().removeprefix("plan.")
        values = _split(rest)
        message = ""
        if not equals or not values:
            message = "is no restriction: write a field of the plan and values, as `tensor=4,8`"
        elif name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean `{close[0]}`?" if close else "as `tensor=4,8`"
            message = f"a plan has no `{name}`: {hint}"
        elif name in NOT_SEARCHED:
            message = f"`{name}` {NOT_SEARCHED[name]}"
        elif name in found:
            message = f"`{name}` is restricted twice: write `--only {name}=` once, with all values"
        if message:
            problems.append(
                Problem(file=f"--only {text}", line=None, column=None, field="", message=message)
            )
            continue
        found[name] = tuple(_read(name, value, text, problems) for value in values)
    if problems:
        raise ScenarioError(problems)
    return found


def _split(text: str) -> list[str]:
    """Split at the commas that are in no brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _read(name: str, value: str, text: str, problems: list[Problem]) -> object:
    origin = Origin(file=f"--only {text}")
    node = parse_override(value, origin, problems)
    root = Node(
        value={"plan": Node(value={name: node}, at=origin, key=origin)}, at=origin, key=origin
    )
    scenario, found = validate(root, partial=True)
    problems += found
    return getattr(scenario.plan, name) if scenario is not None else None


def _names(model: str) -> tuple[str, ...]:
    """What a model is planned as: a scenario made for it, or the common options with it."""
    start = f"planning/{model.rsplit('/', 1)[-1]}-"
    own = [entry for entry in catalogue.names() if entry.startswith(start)]
    return (own[0],) if own else (OPTIONS, model)


def _loaded(
    name: str, names: Sequence[str], overrides: Sequence[str], cluster: str, is_model: bool
) -> Loaded:
    """The files merged, later over earlier, with another cluster where asked; rules about the
    layout are not checked."""
    parts = [_cluster_name(cluster)] if cluster else []
    order = [names[0], *names[1:], *parts]
    # Overrides stand above all: they come with the last file.
    composed = [compose(n, tuple(overrides) if n is order[-1] else ()) for n in order]
    trees = []
    for position, part in enumerate(composed):
        later = order[position + 1 :]
        dropped = {"variants", "name"} if is_model else {"variants"}
        if position == 0 and len(names) > 1:
            dropped |= {"model", "training", "description"}
        if cluster and len(parts) and later:
            dropped |= {"cluster"}
        assert isinstance(part.root.value, dict)
        values = {k: v for k, v in part.root.value.items() if k not in dropped}
        trees.append(Node(value=values, at=part.root.at, key=part.root.key))
    root = reduce(merge, trees)
    assert isinstance(root.value, dict)
    if "name" not in root.value:
        stem = composed[0].path.stem if not is_model else name.rsplit("/", 1)[-1]
        own = Node(value=stem, at=root.at, key=root.key)
        root = Node(value={**root.value, "name": own}, at=root.at, key=root.key)
    problems = [problem for part in composed for problem in part.problems]
    scenario, found = validate(root, partial=True)
    if scenario is None:
        raise ScenarioError([*problems, *(found or validate(root)[1])])
    doubtful = [f"plan.{field}" for field in LAYOUT]
    problems += found
    if scenario.costs is None:
        for field, message in rules.check(scenario, doubtful=doubtful):
            problems.append(Problem.at(place(root, split(field)), field, message))
    if problems:
        raise ScenarioError(problems)
    origins = {
        ".".join(map(str, path)): node.at
        for path, node in root.walk()
        if path and node.value is not None
    }
    files = tuple(dict.fromkeys(file for part in composed for file in part.files))
    return Loaded(scenario=scenario, origins=MappingProxyType(origins), files=files)


def _cluster_name(name: str) -> str:
    """The entry or file of a cluster that a name means; a device's is the catalogue's of it."""
    wanted = load_cluster(name)
    full = catalogue.full_name(name)
    if full not in catalogue.names() or catalogue.kind_of(full) == "cluster":
        return name
    entries = (entry.name for entry in catalogue.catalogue() if entry.kind == "cluster")
    return next(entry for entry in entries if load_cluster(entry) == wanted)


def _plannable(scenario: Scenario, name: str) -> Scenario:
    """The scenario, where it is one that layouts can be found for."""
    if scenario.costs is not None:
        raise CannotPlan(
            f"{name} gives its costs outright, which no other layout would have: `plan` needs a "
            "model and a cluster, as `pipetwin plan gpt3-175b --gpus 1024`"
        )
    if scenario.elastic is not None:
        raise CannotPlan(
            f"{name} is a run of epochs whose pipeline changes: plan one iteration of it, with "
            "`--set elastic=null`"
        )
    return scenario


def _assumed_of_model(
    scenario: Scenario, names: Sequence[str], cluster: str, batch: int | None, gpus: Sequence[int]
) -> list[str]:
    """What is taken for a model named alone, in words."""
    plan, found = scenario.plan, []
    assert scenario.cluster is not None
    if not cluster:
        found.append(f"cluster {scenario.cluster.name} (--cluster)")
    if not gpus:
        found.append(f"{scenario.cluster.num_devices:,} GPUs (--gpus)")
    if batch is None and len(names) == 1:
        found.append(f"{plan.global_batch:,} sequences an iteration (--batch)")
    if scenario.training is not None:
        found.append(
            f"{scenario.training.tokens / 1e9:,.0f} billion tokens (--set training.tokens=300e9)"
        )
    if scenario.cluster.price_per_device_hour is not None:
        price = scenario.cluster.price_per_device_hour
        found.append(f"${price:.2f} a GPU and hour (--set cluster.price_per_device_hour='$2.00/h')")
    options = [plan.precision, plan.optimizer, f"{plan.p2p} messages"]
    options += ["scatter/gather of messages"] * plan.scatter_gather
    options += ["gradients clipped"] * plan.clip_gradients
    found.append(f"{', '.join(options)} (--set plan.p2p=overlapped and so on)")
    return found


def _baseline(plan: Plan, batch: int | None) -> tuple[Plan, list[str]]:
    """The plan with its batch, or another, as `global_batch`, and of the kind that is searched."""
    notes = []
    changes: dict[str, object] = {"microbatches": None, "microbatch_groups": None}
    if plan.microbatch_groups is not None:
        changes["micro_batch"] = plan.microbatch_groups[0].micro_batch
        notes.append("microbatches of one size in every layout, also the scenario's own")
    if plan.slices == "optimal":
        changes["slices"] = None
        notes.append("even token slices in every layout; the scenario's own is taken whole")
    if plan.schedule == "given":
        changes |= {"schedule": "1f1b", "schedule_file": None, "schedule_order": None, "chunks": 1}
        notes.append("the scenario's given order is not searched: its layout is taken with 1F1B")
    return replace(plan, global_batch=batch or _sequences(plan), **changes), notes  # type: ignore[arg-type]


def _has_batch(plan: Plan) -> bool:
    """Whether a plan states its batch: without, it is what its layout happens to hold."""
    stated = (plan.global_batch, plan.microbatches, plan.microbatch_groups)
    return any(field is not None for field in stated) or plan.schedule == "given"


def _sequences(plan: Plan) -> int:
    """Sequences of one iteration as they are asked for, also where the plan's own microbatches and
    replicas do not divide them."""
    if plan.global_batch is not None and plan.microbatch_groups is None:
        return plan.global_batch
    # Slices that are still to be found have no groups, from which the batch is counted.
    return replace(plan, slices=None).num_sequences


def _on(plan: Plan, num_devices: int) -> Plan:
    """The plan on another number of devices, by its replicas, where that goes."""
    pipeline = plan.tensor * plan.pipeline
    if plan.num_devices == num_devices or num_devices % pipeline:
        return plan
    return replace(plan, data=num_devices // pipeline)
