"""Rules that span several fields of a scenario, each with a value that would work."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from scenarios import elastic_rules, model_rules, slice_rules, training_rules
from scenarios.schema import GivenCosts, Scenario, StageCosts

Finding: TypeAlias = tuple[str, str]
"""Dotted path of a field, and what is wrong with it."""
MAX_PASSES = 50_000_000
"""Forward and backward passes of one iteration: a thousand times those of the largest published."""
SMALLEST_BUCKET = 1 << 10
"""Bytes of gradients worth a reduction of their own; a model has too many smaller ones to cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule, and the fields it reads."""

    reads: tuple[str, ...]
    find: Callable[[Scenario], Iterator[Finding]]


def check(scenario: Scenario, doubtful: Collection[str] = ()) -> list[Finding]:
    """Return what breaks a rule; rules that read a `doubtful` field or part of it are skipped."""
    return [
        finding
        for rule in RULES
        if not any(_overlap(a, b) for a in rule.reads for b in doubtful)
        for finding in rule.find(scenario)
    ]


def _overlap(a: str, b: str) -> bool:
    return a == b or a.startswith(f"{b}.") or b.startswith(f"{a}.")


def _divisors(number: int, limit: int = 10**6) -> list[int]:
    small = [d for d in range(1, min(int(number**0.5) + 1, limit)) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def _nearest_divisor(number: int, wanted: int) -> int:
    return min(_divisors(number), key=lambda d: (abs(d - wanted), d))


def _parts(scenario: Scenario) -> Iterator[Finding]:
    if scenario.costs is not None:
        return
    for name, example in (("model", "models/gpt3-1.3b"), ("cluster", "clusters/dgx-a100")):
        if getattr(scenario, name) is None:
            yield (
                name,
                f"is missing: a scenario needs a model and a cluster, or `costs` given outright; "
                f"`extends: {example}` would give one",
            )


def _degrees(scenario: Scenario) -> Iterator[Finding]:
    plan, cluster = scenario.plan, scenario.cluster
    if cluster is None or plan.num_devices == cluster.num_devices:
        return
    without_data = plan.tensor * plan.pipeline
    if cluster.num_devices % without_data == 0:
        works = f"`plan.data: {cluster.num_devices // without_data}`"
    elif plan.num_devices % cluster.devices_per_node == 0:
        works = f"`cluster.nodes: {plan.num_devices // cluster.devices_per_node}`"
    elif plan.num_devices % cluster.nodes == 0:
        works = f"`cluster.devices_per_node: {plan.num_devices // cluster.nodes}`"
    else:
        works = f"`cluster.nodes: 1` with `cluster.devices_per_node: {plan.num_devices}`"
    yield (
        "plan.data",
        f"tensor {plan.tensor} x pipeline {plan.pipeline} x data {plan.data} = {plan.num_devices} "
        f"devices, but the cluster has {cluster.nodes} nodes x {cluster.devices_per_node} = "
        f"{cluster.num_devices}: the two must be equal; {works} would work",
    )


def _layers(scenario: Scenario) -> Iterator[Finding]:
    plan, model = scenario.plan, scenario.model
    given, stages = plan.layers_per_stage, plan.pipeline * plan.chunks
    if given is not None and len(given) != stages:
        yield (
            "plan.layers_per_stage",
            f"has {len(given)} entries for {stages} stages: write one a stage; "
            f"`{_even(model.layers if model else sum(given), stages)}` would work",
        )
    elif given is not None and model is not None and sum(given) != model.layers:
        yield (
            "plan.layers_per_stage",
            f"adds up to {sum(given)}, but the model has {model.layers} layers: the two must be "
            f"equal; `{_even(model.layers, stages)}` would work",
        )
    elif given is None and model is not None and model.layers % stages:
        field, what = "plan.pipeline", "pipeline"
        works = f"`pipeline: {_nearest_divisor(model.layers, plan.pipeline)}`"
        if plan.chunks > 1:
            field, what = "plan.chunks", "pipeline x chunks"
            each = model.layers // plan.pipeline
            works = f"`chunks: {_nearest_divisor(max(1, each), plan.chunks)}`"
            if model.layers % plan.pipeline:
                works += f" with `pipeline: {_nearest_divisor(model.layers, plan.pipeline)}`"
        if stages < model.layers and stages <= 16:
            works += f", or `layers_per_stage: {_even(model.layers, stages)}`,"
        yield (
            field,
            f"{model.layers} layers do not divide evenly into {stages} stages: {what} "
            f"must divide model.layers, unless layers_per_stage is given; {works} would work",
        )


def _chunks(scenario: Scenario) -> Iterator[Finding]:
    plan = scenario.plan
    if plan.chunks > 1 and plan.schedule not in ("interleaved", "given"):
        yield (
            "plan.chunks",
            f"is {plan.chunks}, but `schedule: {plan.schedule}` holds one stage a rank; "
            "`schedule: interleaved` would work",
        )
    if plan.schedule == "interleaved" and plan.chunks > 1:
        m, p = plan.num_microbatches, plan.pipeline
        if m % p:
            works = max(1, round(m / p)) * p
            yield (
                "plan.microbatches",
                f"{m} microbatches do not divide by pipeline {p}: the interleaved schedule runs "
                f"them in groups of one a rank; `microbatches: {works}` "
                f"(`global_batch: {works * plan.micro_batch * plan.data}`) would work",
            )


def _sequence_parallel(scenario: Scenario) -> Iterator[Finding]:
    plan, model = scenario.plan, scenario.model
    if not plan.sequence_parallel or model is None:
        return
    if model.sequence % plan.tensor:
        yield (
            "plan.sequence_parallel",
            f"shares the {model.sequence} tokens out over tensor {plan.tensor}, which must divide "
            f"model.sequence; `tensor: {_nearest_divisor(model.sequence, plan.tensor)}` would work",
        )


def _recomputation(scenario: Scenario) -> Iterator[Finding]:
    plan = scenario.plan
    if plan.recompute_every > 1 and plan.recomputation != "full":
        yield (
            "plan.recompute_every",
            f"is {plan.recompute_every}, but only `recomputation: full` recomputes groups of "
            "layers; leave it out, or write `recomputation: full`",
        )


def _sharding(scenario: Scenario) -> Iterator[Finding]:
    plan = scenario.plan
    if plan.sharding == "full" and plan.pipeline > 1:
        yield (
            "plan.sharding",
            f"full (ZeRO-3) gathers every layer for every microbatch and is modelled without a "
            f"pipeline, but pipeline is {plan.pipeline}; `sharding: optimizer` would work",
        )


def _gradient_bucket(scenario: Scenario) -> Iterator[Finding]:
    size = scenario.plan.gradient_bucket
    if size < SMALLEST_BUCKET:
        yield (
            "plan.gradient_bucket",
            f"is {size} bytes: below {SMALLEST_BUCKET} every few weights would be a reduction of "
            "their own; `25 MiB`, torch's, would work",
        )


def _devices(scenario: Scenario) -> Iterator[Finding]:
    plan = scenario.plan
    if plan.devices is None:
        return
    if sorted(plan.devices) != list(range(plan.num_devices)):
        shown = ", ".join(map(str, range(min(4, plan.num_devices))))
        yield (
            "plan.devices",
            f"must name each device from 0 to {plan.num_devices - 1} once, one a rank; "
            f"`devices: [{shown}{', ...' if plan.num_devices > 4 else ''}]` would work",
        )


def _even(layers: int, stages: int) -> list[int]:
    """Split layers into stages as evenly as they go, at least one each."""
    return [max(1, (layers * (s + 1)) // stages - (layers * s) // stages) for s in range(stages)]


def _widths(scenario: Scenario) -> Iterator[Finding]:
    model = scenario.model
    if model is not None and model.hidden % model.heads:
        yield (
            "model.heads",
            f"hidden {model.hidden} does not divide by {model.heads} heads: heads must divide "
            f"hidden; `heads: {_nearest_divisor(model.hidden, model.heads)}` would work",
        )


def _tensor(scenario: Scenario) -> Iterator[Finding]:
    plan, model = scenario.plan, scenario.model
    if model is None:
        return
    for what, name, number in (("heads", "heads", model.heads), ("ffn", "ffn_hidden", model.ffn)):
        if number % plan.tensor:
            yield (
                "plan.tensor",
                f"{what} {number} does not divide by tensor {plan.tensor}: tensor must divide "
                f"model.{name}; `tensor: {_nearest_divisor(number, plan.tensor)}` would work",
            )


def _batch(scenario: Scenario) -> Iterator[Finding]:
    plan = scenario.plan
    if plan.global_batch is None or plan.microbatch_groups is not None:
        return
    step = plan.micro_batch * plan.data
    if plan.microbatches is not None:
        product = step * plan.microbatches
        if plan.global_batch != product:
            yield (
                "plan.global_batch",
                f"is {plan.global_batch}, but micro_batch {plan.micro_batch} x data {plan.data} x "
                f"microbatches {plan.microbatches} = {product}: give one of global_batch and "
                f"microbatches, or equal numbers; `global_batch: {product}` would work",
            )
    elif plan.global_batch % step:
        works = max(1, round(plan.global_batch / step)) * step
        yield (
            "plan.global_batch",
            f"{plan.global_batch} does not divide by micro_batch {plan.micro_batch} x data "
            f"{plan.data} = {step}: it must; `global_batch: {works}` would work",
        )


def _size(scenario: Scenario) -> Iterator[Finding]:
    """A typing error, not a plan: listing its passes would take all memory."""
    plan = scenario.plan
    passes = 2 * plan.num_stages * plan.num_microbatches
    if passes > MAX_PASSES:
        fit = max(1, MAX_PASSES // (2 * plan.num_stages))
        yield (
            "plan.microbatches",
            f"{plan.num_microbatches} microbatches through {plan.num_stages} stages are {passes} "
            f"passes, more than the {MAX_PASSES:,} of one iteration that can be simulated; "
            f"`microbatches: {min(fit, 8 * plan.num_stages)}` would work",
        )


def _schedule_file(scenario: Scenario) -> Iterator[Finding]:
    plan = scenario.plan
    if plan.schedule == "given" and plan.schedule_file is None and plan.schedule_order is None:
        yield (
            "plan.schedule_file",
            "is missing: `schedule: given` reads the order of actions from a CSV file; "
            "`schedule_file: schedule.csv` would work",
        )
    if plan.schedule != "given" and (plan.schedule_file or plan.schedule_order) is not None:
        yield (
            "plan.schedule_file",
            f"is not read by `schedule: {plan.schedule}`: leave it out, or write `schedule: given`",
        )


def _precision(scenario: Scenario) -> Iterator[Finding]:
    plan, cluster = scenario.plan, scenario.cluster
    if cluster is None or scenario.costs is not None:
        return
    peaks = cluster.device.matmul_peak
    if plan.precision not in peaks:
        works = f"`precision: {next(iter(peaks))}`" if peaks else "`matmul_peak: {fp16: 1 TFLOP/s}`"
        yield (
            "plan.precision",
            f"{cluster.device.name} has no matmul peak for {plan.precision}, only for "
            f"{', '.join(peaks) or 'none'}: cluster.device.matmul_peak must have the plan's "
            f"precision; {works} would work",
        )


def _nics(scenario: Scenario) -> Iterator[Finding]:
    cluster = scenario.cluster
    if cluster is None or cluster.devices_per_node % cluster.nics_per_node == 0:
        return
    works = [d for d in _divisors(cluster.devices_per_node) if d <= cluster.nics_per_node][-1]
    yield (
        "cluster.nics_per_node",
        f"{cluster.devices_per_node} devices do not share {cluster.nics_per_node} NICs evenly: "
        f"nics_per_node must divide devices_per_node; `nics_per_node: {works}` would work",
    )


def _memory(scenario: Scenario) -> Iterator[Finding]:
    if scenario.cluster is None:
        return
    device = scenario.cluster.device
    if device.memory == 0:
        yield "cluster.device.memory", "is zero: a device needs memory; `80 GiB` would work"
    elif device.reserved_memory >= device.memory:
        yield (
            "cluster.device.reserved_memory",
            f"is {device.reserved_memory} bytes of {device.memory}, which leaves nothing: it must "
            "be below the device's memory; `1 GiB` would work on a GPU",
        )


def _transport(scenario: Scenario) -> Iterator[Finding]:
    cluster, transport = scenario.cluster, scenario.execution.transport
    if cluster is not None and cluster.device.kind == "cpu" and transport == "nccl":
        yield (
            "execution.transport",
            "nccl runs on GPUs only, and the device's kind is cpu; `transport: auto` would work",
        )
    if cluster is not None and cluster.nodes > 1 and transport == "mailbox":
        yield (
            "execution.transport",
            f"mailbox joins processes of one host, and the cluster has {cluster.nodes} nodes; "
            "`transport: auto` would work",
        )


def _costs(scenario: Scenario) -> Iterator[Finding]:
    costs, plan = scenario.costs, scenario.plan
    if costs is None:
        return
    num_stages = plan.pipeline * plan.chunks
    for stage in costs.stages:
        if not 0 <= stage < num_stages:
            of = f"pipeline {plan.pipeline}" + (f" x chunks {plan.chunks}" * (plan.chunks > 1))
            yield (
                f"costs.stages.{stage}",
                f"there is no stage {stage}: {of} has stages 0 to {num_stages - 1}",
            )
    numbers = range(min(num_stages, len(costs.stages) + 1))
    inherits = any(stage not in costs.stages for stage in numbers)
    if inherits and (missing := list(_stage_costs("costs", costs, costs))):
        yield from missing
        return
    for stage, own in sorted(costs.stages.items()):
        if 0 <= stage < num_stages:
            yield from _stage_costs(f"costs.stages.{stage}", own, costs)


def _stage_costs(path: str, own: StageCosts, costs: GivenCosts) -> Iterator[Finding]:
    forward = own.forward if own.forward is not None else costs.forward
    if forward == 0:
        yield (
            f"{path}.forward",
            "is missing: given costs need the time of a forward pass; `forward: 18.5 ms` would "
            "work",
        )
    if all(times.backward is None and times.backward_input is None for times in (own, costs)):
        yield (
            f"{path}.backward",
            "is missing: given costs need `backward`, or `backward_input` (and "
            "`backward_weight`); `backward: 37 ms` would work",
        )
    halves = (own.backward_input, own.backward_weight)
    if own.backward is not None and None not in halves:
        total = sum(half for half in halves if half is not None)
        if total != own.backward:
            yield (
                f"{path}.backward",
                f"is {own.backward} ns, but backward_input + backward_weight are {total} ns: leave "
                f"one of the three out, or write `backward: {total} ns`",
            )


RULES: tuple[Rule, ...] = (
    Rule(reads=("model", "cluster", "costs"), find=_parts),
    Rule(
        reads=(
            "plan.tensor",
            "plan.pipeline",
            "plan.data",
            "cluster.nodes",
            "cluster.devices_per_node",
        ),
        find=_degrees,
    ),
    Rule(
        reads=("model.layers", "plan.pipeline", "plan.chunks", "plan.layers_per_stage"),
        find=_layers,
    ),
    Rule(
        reads=(
            "plan.schedule",
            "plan.chunks",
            "plan.pipeline",
            "plan.microbatches",
            "plan.global_batch",
            "plan.micro_batch",
            "plan.data",
        ),
        find=_chunks,
    ),
    Rule(
        reads=("model.sequence", "plan.sequence_parallel", "plan.tensor"), find=_sequence_parallel
    ),
    Rule(reads=("plan.recomputation", "plan.recompute_every"), find=_recomputation),
    Rule(reads=("plan.sharding", "plan.pipeline"), find=_sharding),
    Rule(reads=("plan.gradient_bucket",), find=_gradient_bucket),
    Rule(reads=("plan.devices", "plan.tensor", "plan.data", "plan.pipeline"), find=_devices),
    Rule(reads=("model.hidden", "model.heads"), find=_widths),
    Rule(reads=("model.heads", "model.hidden", "model.ffn_hidden", "plan.tensor"), find=_tensor),
    Rule(
        reads=(
            "plan.global_batch",
            "plan.micro_batch",
            "plan.microbatches",
            "plan.microbatch_groups",
            "plan.data",
        ),
        find=_batch,
    ),
    Rule(
        reads=(
            "plan.global_batch",
            "plan.micro_batch",
            "plan.microbatches",
            "plan.microbatch_groups",
            "plan.data",
            "plan.pipeline",
            "plan.chunks",
            "plan.layers_per_stage",
        ),
        find=_size,
    ),
    Rule(reads=slice_rules.READS, find=slice_rules.find),
    Rule(reads=("plan.schedule", "plan.schedule_file", "plan.schedule_order"), find=_schedule_file),
    Rule(reads=("plan.precision", "cluster.device.matmul_peak", "costs"), find=_precision),
    Rule(reads=model_rules.READS, find=model_rules.find),
    Rule(reads=elastic_rules.READS, find=elastic_rules.find),
    Rule(reads=training_rules.READS, find=training_rules.find),
    Rule(reads=("cluster.nics_per_node", "cluster.devices_per_node"), find=_nics),
    Rule(reads=("cluster.device.memory", "cluster.device.reserved_memory"), find=_memory),
    Rule(reads=("cluster.device.kind", "cluster.nodes", "execution.transport"), find=_transport),
    Rule(reads=("costs", "plan.pipeline", "plan.chunks"), find=_costs),
)
