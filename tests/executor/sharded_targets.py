"""What ranks run in the tests of full sharding; imported by the ranks' own processes."""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from executor import sharded
from executor.data import Data
from executor.joining import RankContext
from executor.model import StageModule
from executor.optimizer import Optimizer, loss_scale
from executor.sharded import ReplicaGroup
from executor.stages import StageRunner
from scenarios.schema import Scenario
from sim.workload.partition import partition


class Trained(NamedTuple):
    """One replica's losses; whole gradients of the last iteration and weights after it; numbers
    that it holds, of weights and of gradients; and the collectives of each last pass."""

    losses: list[float]
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]
    held: int
    collectives: dict[str, list[str]]


def train(context: RankContext, payload: tuple[list[Scenario], int]) -> list[Trained]:
    """Train each scenario for some iterations, this rank being a replica."""
    torch.set_num_threads(1)
    scenarios, iterations = payload
    replicas = ReplicaGroup(rank=context.rank, size=context.num_ranks, group=dist.group.WORLD)
    return [_train(scenario, iterations, replicas) for scenario in scenarios]


def _train(scenario: Scenario, iterations: int, replicas: ReplicaGroup) -> Trained:
    part = partition(scenario)[0]
    module = StageModule(scenario, part)
    runner = StageRunner(module, scenario, part, replicas=replicas)
    assert runner.sharded is not None
    optimizer = Optimizer(scenario, runner.parameters, runner.gradients)
    data = Data(scenario)
    losses: list[float] = []
    calls: dict[str, list[str]] = {}
    gradients: dict[str, Tensor] = {}
    for iteration in range(iterations):
        runner.zero_grad()
        for microbatch in range(scenario.plan.num_microbatches):
            batch = data.batch(iteration, replicas.rank, microbatch)
            calls["F"] = _told(runner.forward, microbatch, 0, *batch)
            calls["B"] = _told(runner.backward, microbatch, 0, None)
            assert _held_whole(module) == 0, "weights stay gathered between passes"
        losses.append(float(runner.mean_loss()))
        gradients = runner.sharded.whole(runner.gradients)
        optimizer.step()
    scale = loss_scale(scenario.plan)
    return Trained(
        losses=losses,
        gradients={name: gradient / scale for name, gradient in gradients.items()},
        weights=runner.sharded.whole(runner.parameters),
        held=sum(p.numel() for p in runner.parameters.values()),
        collectives=calls,
    )


def _held_whole(module: StageModule) -> int:
    return sum(p.untyped_storage().size() for p in module.parameters())


def _told(run: Any, *arguments: Any) -> list[str]:
    """Run a pass; return the collectives that it called, in their order."""
    calls: list[str] = []
    original = sharded.all_gather, sharded.reduce_scatter

    def gather(whole: Tensor, *rest: Any, **options: Any) -> Any:
        calls.append("gather")
        return original[0](whole, *rest, **options)

    def scatter(share: Tensor, *rest: Any, **options: Any) -> Any:
        calls.append("scatter")
        return original[1](share, *rest, **options)

    sharded.all_gather, sharded.reduce_scatter = gather, scatter
    try:
        run(*arguments)
    finally:
        sharded.all_gather, sharded.reduce_scatter = original
    return calls
