"""Rules about frozen and cached layers and elastic runs, each with a value that would work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scenarios.schema import Plan, Scenario

READS = (
    "costs",
    "model.layers",
    "model.family",
    "model.classes",
    "model.tied_embeddings",
    "model.ends",
    "plan.frozen_layers",
    "plan.cached_layers",
    "plan.fills_cache",
    "plan.frozen_first",
    "plan.schedule",
    "plan.pipeline",
    "plan.chunks",
    "plan.tensor",
    "plan.data",
    "plan.placement",
    "plan.devices",
    "plan.layers_per_stage",
    "plan.micro_batch",
    "plan.microbatches",
    "plan.global_batch",
    "plan.microbatch_groups",
    "plan.slices",
    "plan.sharding",
    "elastic",
)
_SCHEDULES = ("gpipe", "1f1b")


def find(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """What is wrong with what a scenario freezes: the field, and what is wrong with it."""
    plan, elastic = scenario.plan, scenario.elastic
    freezes = elastic is not None and elastic.freeze != "off"
    if elastic is not None:
        yield from _elastic(scenario)
    elif plan.cached_layers > plan.frozen_layers:
        yield (
            "plan.cached_layers",
            f"is {plan.cached_layers}, but only frozen layers can be read from the cache, and "
            f"frozen_layers is {plan.frozen_layers}; `cached_layers: {plan.frozen_layers}` would "
            "work",
        )
    elif plan.fills_cache and not plan.frozen_layers:
        yield (
            "plan.fills_cache",
            "is true, but no layer is frozen whose output could be cached; `frozen_layers: 1`, or "
            "`fills_cache: false`, would work",
        )
    elif plan.frozen_layers:
        yield from _frozen(scenario)
    if freezes or plan.frozen_layers:
        yield from _order(scenario)


def _frozen(scenario: Scenario) -> Iterator[tuple[str, str]]:
    plan, model = scenario.plan, scenario.model
    if model is None or scenario.costs is not None:
        yield (
            "plan.frozen_layers",
            f"is {plan.frozen_layers}, but times given outright do not say what a frozen layer "
            "takes: give a model and a cluster instead, or write `frozen_layers: 0`",
        )
        return
    most = model.layers if model.ends else model.layers - 1
    if plan.frozen_layers > most:
        left = "" if model.ends else " and no head that would be left to train"
        yield (
            "plan.frozen_layers",
            f"is {plan.frozen_layers}, but the model has {model.layers} layers{left}; "
            f"`frozen_layers: {most}` would work",
        )
        return
    counts = _layers_per_stage(plan, model.layers)
    for field, asked in (
        ("cached_layers", plan.cached_layers > 0),
        ("fills_cache", plan.fills_cache),
        ("frozen_first", plan.frozen_first),
    ):
        if asked and counts and plan.frozen_layers > counts[0]:
            yield (
                f"plan.{field}",
                f"needs all {plan.frozen_layers} frozen layers on the first stage, which has "
                f"{counts[0]}; {_first_stage(plan, model.layers, counts)} would work",
            )
    if plan.frozen_first and plan.microbatch_groups is not None:
        yield (
            "plan.frozen_first",
            "runs the frozen layers over the whole batch at once, which is for equal microbatches; "
            "`microbatch_groups: null` with `micro_batch` and `microbatches` would work",
        )


def _layers_per_stage(plan: Plan, layers: int) -> Sequence[int]:
    """Empty where another rule says what is wrong with the cut."""
    if plan.layers_per_stage is not None:
        return plan.layers_per_stage
    return () if layers % plan.num_stages else (layers // plan.num_stages,) * plan.num_stages


def _first_stage(plan: Plan, layers: int, counts: Sequence[int]) -> str:
    """What has all frozen layers on the first stage, and one layer at least on each other."""
    others, left = len(counts) - 1, layers - plan.frozen_layers
    if left < others:
        return f"`frozen_layers: {counts[0]}`"
    base, extra = divmod(left, others)
    cut = [plan.frozen_layers, *(base + (i >= others - extra) for i in range(others))]
    return f"`layers_per_stage: {cut}`"


def _order(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """How the pipeline must run where layers are frozen."""
    plan, model = scenario.plan, scenario.model
    if plan.schedule not in _SCHEDULES or plan.chunks > 1:
        schedule = plan.schedule if plan.schedule in _SCHEDULES else "1f1b"
        yield (
            "plan.schedule",
            "frozen layers are for one stage a rank under gpipe or 1f1b, and the schedule is "
            f"{plan.schedule} with chunks {plan.chunks}; `schedule: {schedule}` with `chunks: 1` "
            "would work",
        )
    sliced = plan.slices not in (None, 1)
    groups = plan.microbatch_groups or ()
    if sliced or any(group.num_slices > 1 for group in groups):
        yield (
            "plan.slices" if sliced else "plan.microbatch_groups",
            "cuts sequences into token slices, which frozen layers are not made for; "
            "`slices: null` would work",
        )
    if plan.sharding != "none":
        yield (
            "plan.sharding",
            f"is {plan.sharding}, but frozen layers are for replicas that hold all of their state; "
            "`sharding: none` would work",
        )
    if model is not None and model.ends and model.shares_table:
        yield (
            "model.tied_embeddings",
            "is true, but the embedding is frozen with the first layer, and the head that shares "
            "its table is trained to the end; `tied_embeddings: false` would work",
        )


def _elastic(scenario: Scenario) -> Iterator[tuple[str, str]]:
    plan, model, elastic = scenario.plan, scenario.model, scenario.elastic
    assert elastic is not None
    if model is None or scenario.costs is not None:
        yield (
            "elastic",
            "stands beside times given outright, which do not say what a frozen layer takes: give "
            "a model and a cluster instead, or write `elastic: null`",
        )
    for field, off in (("frozen_layers", "0"), ("cached_layers", "0"), ("fills_cache", "false")):
        if getattr(plan, field):
            yield (
                f"plan.{field}",
                "stands beside `elastic`, whose phases each have their own: leave it out, or write "
                f"`{field}: {off}`",
            )
    if plan.tensor > 1:
        yield (
            "plan.tensor",
            f"is {plan.tensor}, but an elastic run moves whole layers between ranks; `tensor: 1` "
            "would work",
        )
    yield from _placement(plan)
    freezes = elastic.freeze != "off"
    if freezes and elastic.autopipe and plan.pipeline & (plan.pipeline - 1):
        works = 1 << (plan.pipeline.bit_length() - 1)
        yield (
            "plan.pipeline",
            f"is {plan.pipeline}, but AutoPipe halves the pipeline again and again: it must be a "
            f"power of two; `pipeline: {works}`, or `elastic.autopipe: false`, would work",
        )
    if plan.microbatch_groups is not None:
        yield (
            "plan.microbatch_groups",
            "stands beside `elastic`, which chooses equal microbatches for each phase: "
            "`microbatch_groups: null` with `micro_batch` and `microbatches` would work",
        )
        return
    for length in sorted(elastic.microbatches or {}):
        if not 1 <= length <= plan.pipeline:
            yield (
                f"elastic.microbatches.{length}",
                f"is for a pipeline of {length} ranks, but the pipeline has {plan.pipeline} at "
                f"first and never more; `{length}: null` leaves it out",
            )
    if plan.slices != "optimal" and elastic.samples < plan.num_sequences:
        yield (
            "elastic.samples",
            f"is {elastic.samples}, less than the {plan.num_sequences} sequences of one iteration: "
            f"an epoch must have one at least; `samples: {plan.num_sequences}` would work",
        )


def _placement(plan: Plan) -> Iterator[tuple[str, str]]:
    """Where an elastic run's ranks may be: its phases have pipelines of several lengths."""
    works = "`placement: pipeline-data-tensor`"
    if plan.devices is not None:
        yield (
            "plan.devices",
            "gives each rank of the first pipelines a device, but an elastic run changes their "
            f"length; `devices: null` with {works} would work",
        )
    elif plan.placement.index("data") < plan.placement.index("pipeline") and plan.pipeline > 1:
        yield (
            "plan.placement",
            f"is {plan.placement}, but the pipelines of an elastic run lie one after another, so "
            f"that a shorter one leaves its last devices to others; {works} would work",
        )
