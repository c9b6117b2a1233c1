"""What ranks run in the tests of tensor parallelism; imported by the ranks' own processes."""

import zlib
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from executor import tensor_parallel
from executor.data import Data
from executor.joining import RankContext
from executor.model import StageModule
from executor.optimizer import loss_scale
from executor.shards import full_shape, shard
from executor.stages import StageRunner
from executor.tensor_parallel import TensorGroup, sum_over
from scenarios.schema import Scenario
from sim.workload.partition import partition


class Case(NamedTuple):
    """A scenario, run with or without split backward passes; the plan says all else."""

    scenario: Scenario
    split: bool = False


class Outcome(NamedTuple):
    """One rank's loss, gradients (its shares, unscaled), weights, and what was replicated."""

    loss: float
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]
    replicated: frozenset[str]


def run_cases(context: RankContext, cases: list[Case]) -> list[Outcome]:
    """Every case on this rank: groups of `tensor` neighbouring ranks do the same work each."""
    torch.set_num_threads(1)
    groups: dict[int, dist.ProcessGroup] = {}
    for size in sorted({case.scenario.plan.tensor for case in cases}):
        for first in range(0, context.num_ranks, size):
            group = dist.new_group(list(range(first, first + size)))
            if first <= context.rank < first + size:
                groups[size] = group
    found = []
    for case in cases:
        plan = case.scenario.plan
        tensor = TensorGroup(
            rank=context.rank % plan.tensor,
            size=plan.tensor,
            group=groups[plan.tensor],
            sequence=plan.sequence_parallel,
        )
        found.append(run_case(case, tensor))
    return found


def run_case(case: Case, tensor: TensorGroup) -> Outcome:
    """One iteration, all stages in this process: all forward passes, then all backward passes."""
    scenario, split = case
    plan = scenario.plan
    runners = [
        StageRunner(
            StageModule(scenario, part, tensor=tensor), scenario, part, split_backward=split
        )
        for part in partition(scenario)
    ]
    for runner in runners:
        disturb(runner.module, tensor)
    data = Data(scenario)
    for microbatch in range(plan.num_microbatches):
        message, targets = data.batch(0, 0, microbatch)
        for runner in runners:
            assert runner.part.embedding or message.shape == runner.input_shape()
            sent = runner.forward(microbatch, 0, message, targets if runner.part.head else None)
            if sent is not None:
                assert sent.shape == runner.output_shape()
                message = sent
    for microbatch in range(plan.num_microbatches):
        gradient: Tensor | None = None
        for runner in reversed(runners):
            backward = runner.backward_input if split else runner.backward
            gradient = backward(microbatch, 0, gradient)
    if split:
        for microbatch in range(plan.num_microbatches):
            for runner in runners:
                runner.backward_weight(microbatch, 0)
    for runner in runners:
        sum_over(runner.partial_gradients, tensor)
    first, last = runners[0].tied_gradient, runners[-1].tied_gradient
    if first is not None and last is not None:
        first.add_(last)
        last.copy_(first)
    scale = loss_scale(plan)
    return Outcome(
        loss=float(runners[-1].mean_loss()),
        gradients={n: g / scale for runner in runners for n, g in runner.gradients.items()},
        weights={n: p.detach() for runner in runners for n, p in runner.parameters.items()},
        replicated=frozenset().union(*(runner.replicated for runner in runners)),
    )


@torch.no_grad()
def disturb(module: StageModule, tensor: TensorGroup) -> None:
    """Add to every parameter its share of what its name alone determines, so that no bias is zero
    and no norm is one."""
    model = module.model
    for name, parameter in module.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        shape = full_shape(parameter.shape, name, model, tensor.size)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64).mul_(0.1)
        parameter.add_(shard(noise, name, model, tensor.rank, tensor.size).to(parameter.dtype))


def collectives_of_passes(context: RankContext, scenarios: list[Scenario]) -> list[list[str]]:
    """For each scenario, the collectives that F, I and W of its second stage call, in words."""
    return [" ".join(_collectives(context, scenario)).split("|") for scenario in scenarios]


def _collectives(context: RankContext, scenario: Scenario) -> list[str]:
    calls: list[str] = []

    def told(name: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            return function(*arguments, **options)

        return call

    tensor = TensorGroup(
        rank=context.rank,
        size=context.num_ranks,
        group=dist.group.WORLD,
        sequence=scenario.plan.sequence_parallel,
    )
    part = partition(scenario)[1]
    runner = StageRunner(
        StageModule(scenario, part, tensor=tensor), scenario, part, split_backward=True
    )
    original = tensor_parallel.all_gather, tensor_parallel.reduce_scatter, dist.all_reduce
    tensor_parallel.all_gather = told("gather", tensor_parallel.all_gather)
    tensor_parallel.reduce_scatter = told("scatter", tensor_parallel.reduce_scatter)
    dist.all_reduce = told("reduce", dist.all_reduce)
    try:
        dtype = runner.dtype
        sent = runner.forward(0, 0, torch.randn(runner.input_shape(), dtype=dtype), None)
        assert sent is not None
        calls.append("|")
        runner.backward_input(0, 0, torch.randn_like(sent))
        calls.append("|")
        runner.backward_weight(0, 0)
    finally:
        tensor_parallel.all_gather, tensor_parallel.reduce_scatter, dist.all_reduce = original
    return calls
