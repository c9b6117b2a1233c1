"""Rules about token slices and unequal microbatches, each with a value that would work."""

from __future__ import annotations

from collections.abc import Iterator

from scenarios.schema import MicrobatchGroup, Scenario

READS = (
    "costs",
    "model.family",
    "model.sequence",
    "plan.schedule",
    "plan.slices",
    "plan.microbatch_groups",
    "plan.micro_batch",
    "plan.microbatches",
    "plan.global_batch",
    "plan.data",
    "plan.sequence_parallel",
    "plan.tensor",
)


def find(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """What is wrong with a scenario's slices and groups: the field, and what is wrong with it."""
    plan, model = scenario.plan, scenario.model
    if plan.microbatch_groups is not None:
        yield from _groups(scenario)
        asked = [
            (f"plan.microbatch_groups.{i}.slices", group)
            for i, group in enumerate(plan.microbatch_groups)
        ]
    elif plan.slices == "optimal":
        asked = [("plan.slices", MicrobatchGroup(slices=2))]
    else:
        asked = [("plan.slices", plan.groups[0])]
    if plan.slices == "optimal" and (scenario.costs is not None or model is None):
        yield (
            "plan.slices",
            "is `optimal`, but times given outright do not say what other slices take: say how "
            "many; `slices: 4` would work",
        )
        return
    for where, group in asked:
        if group.num_slices == 1:
            yield from _fits(scenario, where, group)
        elif model is not None and not model.causal:
            yield (
                where,
                f"cuts sequences into token slices, which only causal attention allows, and the "
                f"family is {model.family}: leave it out",
            )
        elif plan.schedule == "interleaved":
            yield (
                where,
                "is not for `schedule: interleaved`, which runs whole microbatches; "
                "`schedule: terapipe` or `schedule: 1f1b` would work",
            )
        elif plan.slices != "optimal":
            yield from _fits(scenario, where, group)


def _groups(scenario: Scenario) -> Iterator[tuple[str, str]]:
    plan = scenario.plan
    assert plan.microbatch_groups is not None
    if not plan.microbatch_groups:
        yield (
            "plan.microbatch_groups",
            "is empty: write a group a run of equal microbatches; "
            "`[{microbatches: 2, micro_batch: 1, slices: 4}]` would work",
        )
        return
    given = {
        "micro_batch: 1": plan.micro_batch != 1,
        "microbatches: null": plan.microbatches is not None,
        "slices: null": plan.slices is not None,
    }
    for works, there in given.items():
        name = works.partition(":")[0]
        if there:
            yield (
                f"plan.{name}",
                f"stands beside plan.microbatch_groups, whose groups each have their own {name}: "
                f"leave one of them out; `{works}` would work",
            )
    if plan.global_batch is not None and plan.global_batch != plan.num_sequences:
        yield (
            "plan.global_batch",
            f"is {plan.global_batch}, but the groups hold {plan.num_sequences // plan.data} "
            f"sequences x data {plan.data} = {plan.num_sequences}: "
            f"`global_batch: {plan.num_sequences}` would work",
        )


def _fits(scenario: Scenario, where: str, group: MicrobatchGroup) -> Iterator[tuple[str, str]]:
    plan, model = scenario.plan, scenario.model
    if model is None or group.slices is None:
        return
    length, count = model.sequence, group.num_slices
    even = isinstance(group.slices, int)
    tokens = [length // count] if isinstance(group.slices, int) else list(group.slices)
    if even and count > length:
        yield (
            where,
            f"is {count}, but a sequence has {length} tokens; `slices: {length}` would work",
        )
        return
    if not even and sum(tokens) != length:
        last = length - sum(tokens[:-1])
        works = f"; `{[*tokens[:-1], last]}` would work" if last > 0 else ""
        yield (
            where,
            f"adds up to {sum(tokens)} tokens, but a sequence has {length}: the two must be equal"
            f"{works}",
        )
        return
    step = plan.tensor if plan.sequence_parallel else 1
    if even and length % count:
        tokens = [length // count, length // count + 1]
    if any(t % step for t in tokens):
        works = "`sequence_parallel: false`"
        if length >= step:
            works = f"`slices: {_divisor_below(length // step, count)}`"
        yield (
            where,
            f"makes slices of {', '.join(map(str, sorted(set(tokens))))} tokens, which sequence "
            f"parallelism shares out over tensor {step}: each must be a multiple of {step}; "
            f"{works} would work",
        )


def _divisor_below(number: int, wanted: int) -> int:
    return max(d for d in range(1, min(wanted, number) + 1) if number % d == 0)
