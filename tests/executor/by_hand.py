"""Stages run by hand in one process, whatever the order: what several tests share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from executor.data import CachedData, Data, Source
from executor.model import StageModule
from executor.optimizer import Optimizer, loss_scale
from executor.reference import ReferenceResult
from executor.stages import StageRunner
from scenarios.schema import Model, Plan, Scenario
from sim.schedule.actions import Action, Kind
from sim.schedule.schedule import Schedule
from sim.workload.partition import partition


def tiny(plan: dict[str, Any] | None = None, **model: Any) -> Scenario:
    settings: dict[str, Any] = {"micro_batch": 2, "microbatches": 4, "precision": "fp64"}
    shape: dict[str, Any] = {"layers": 4, "hidden": 32, "heads": 4, "sequence": 16}
    shape |= {"vocabulary": 256, "tied_embeddings": False} | model
    return Scenario(name="tiny", model=Model(**shape), plan=Plan(**(settings | (plan or {}))))


def split(schedule: Schedule, *, late: bool) -> Schedule:
    """Every B as I then W at once, or every W at the end."""
    orders = []
    for order in schedule.orders:
        new: list[Action] = []
        weights: list[Action] = []
        for action in order:
            if action.kind is Kind.BACKWARD:
                new.append(action._replace(kind=Kind.BACKWARD_INPUT))
                (weights if late else new).append(action._replace(kind=Kind.BACKWARD_WEIGHT))
            else:
                new.append(action)
        orders.append(tuple(new + weights))
    return replace(schedule, orders=tuple(orders))


def run_passes(
    runners: list[StageRunner], schedule: Schedule, data: Source, iteration: int, replica: int
) -> None:
    """Interpret a schedule in one process: any rank whose next pass has its input goes on."""
    mail: dict[tuple[str, int, int, int], Tensor | None] = {}
    position = [0] * len(runners)
    while any(position[r] < len(order) for r, order in enumerate(schedule.orders)):
        before = list(position)
        for rank, order in enumerate(schedule.orders):
            while position[rank] < len(order):
                kind, stage, microbatch, n, _ = order[position[rank]]
                assert microbatch is not None
                place = (microbatch, n)
                runner = runners[stage]
                if kind is Kind.FORWARD:
                    batch = data.slices(iteration, replica, microbatch)[n]
                    inputs, targets, depth, samples = batch
                    if not runner.part.embedding:
                        if ("F", stage, *place) not in mail:
                            break
                        received = mail.pop(("F", stage, *place))
                        assert received is not None
                        inputs, depth = received, 0
                    assert depth or inputs.shape == runner.input_shape(*place)
                    labels = targets if runner.part.head else None
                    sent = runner.forward(*place, inputs, labels, depth=depth, samples=samples)
                    assert (None if sent is None else sent.shape) == runner.output_shape(*place)
                    mail["F", stage + 1, *place] = sent
                elif kind is Kind.BACKWARD_WEIGHT:
                    runner.backward_weight(*place)
                else:
                    grad = None
                    if not runner.part.head:
                        if ("B", stage, *place) not in mail:
                            break
                        grad = mail.pop(("B", stage, *place))
                    whole = kind is Kind.BACKWARD
                    backward = runner.backward if whole else runner.backward_input
                    mail["B", stage - 1, *place] = backward(*place, grad)
                position[rank] += 1
        assert position != before, "deadlock"
    assert all(runner.num_in_flight == 0 for runner in runners)


def train(scenario: Scenario, schedule: Schedule, iterations: int = 3) -> ReferenceResult:
    """What `reference` does, through stages."""
    plan = scenario.plan
    has_split = any(a.kind is Kind.BACKWARD_INPUT for order in schedule.orders for a in order)
    runners, optimizers = [], []
    for part in partition(scenario):
        module = StageModule(scenario, part)
        runner = StageRunner(module, scenario, part, split_backward=has_split)
        runners.append(runner)
        optimizers.append(
            Optimizer(scenario, runner.parameters, runner.gradients, uncounted={module.copied_name})
        )
    data: Source = Data(scenario)
    if plan.cached_layers:
        data = CachedData(data, runners[0].module, plan.cached_layers)
    losses = []
    gradients: dict[str, Tensor] = {}
    for iteration in range(iterations):
        for runner in runners:
            runner.zero_grad()
        for replica in range(plan.data):
            run_passes(runners, schedule, data, iteration, replica)
        first, last = runners[0].tied_gradient, runners[-1].tied_gradient
        if first is not None and last is not None:
            first.add_(last)
            last.copy_(first)
        for runner in runners:
            runner.gradient_buffer.div_(plan.data)
        losses.append(float(runners[-1].mean_loss()))
        gradients = {
            n: g / loss_scale(plan) for runner in runners for n, g in runner.gradients.items()
        }
        if plan.clip_gradients:
            total = torch.stack([o.squared_norm() for o in optimizers]).sum().sqrt()
            for optimizer in optimizers:
                optimizer.clip(total)
        for optimizer in optimizers:
            optimizer.step()
    weights = {n: p.detach().clone() for r in runners for n, p in r.module.named_parameters()}
    return ReferenceResult(losses=tuple(losses), gradients=gradients, weights=weights)


def difference(one: ReferenceResult, other: ReferenceResult) -> float:
    """The largest relative difference, a tensor's by its largest element; 0 is bit-equal."""
    worst = max(abs(a - b) / abs(b) for a, b in zip(one.losses, other.losses, strict=True))
    for mine, theirs in ((one.gradients, other.gradients), (one.weights, other.weights)):
        assert mine.keys() == theirs.keys()
        for name, tensor in theirs.items():
            scale = float(tensor.abs().max()) or 1.0
            worst = max(worst, float((mine[name] - tensor).abs().max()) / scale)
    return worst
