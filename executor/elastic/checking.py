"""The check of elastic runs: with freezing off, they are plain training, to the last bit."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from executor.elastic import checkpoint
from executor.elastic.datasets import load_dataset
from executor.elastic.order import ElasticOrder
from executor.elastic.training import run_training
from executor.model import StageModule
from executor.session import double_precision
from scenarios.schema import Scenario
from sim.elastic.layouts import layouts
from sim.elastic.phases import Layout, elastic_of
from sim.elastic.sharding import epoch_order, microbatch_samples
from sim.workload.partition import StagePart

_TOLERANCE = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainCheck:
    """Largest differences of a run without freezing to a plain loop of one process, in float64.

    loss: of any iteration, relative. weights: at the end, relative to each tensor's largest
    element. exact: whether sums are in the same order, so that there must be no difference at all;
    replicas add theirs in another one.
    """

    loss: float
    weights: float
    num_tensors: int
    epochs: int
    exact: bool

    @property
    def passed(self) -> bool:
        """Whether the two are the same: to the bit, or with replicas to 1e-10."""
        return max(self.loss, self.weights) <= (0.0 if self.exact else _TOLERANCE)

    def __str__(self) -> str:
        verdict = "equals" if self.passed else "DIFFERS FROM"
        bound = "to the bit" if self.exact else f"at most {_TOLERANCE:g} relative"
        return (
            f"check: the run without freezing {verdict} plain training in one process in float64 "
            f"over {self.epochs} epochs: loss {self.loss:.1e}, weights {self.weights:.1e} relative "
            f"({self.num_tensors} tensors; {bound})"
        )


def check_plain(
    scenario: Scenario, *, epochs: int = 2, progress: Callable[[str], None] = lambda text: None
) -> PlainCheck | None:
    """Run a scenario's first epochs without freezing, in float64, and hold every iteration's loss
    and the weights at the end against a plain loop; None on torchrun's other ranks.

    Raises what `run_training` raises.
    """
    exact = double_precision(scenario)
    elastic = elastic_of(exact)
    exact = replace(
        exact, elastic=replace(elastic, freeze="off", epochs=min(epochs, elastic.epochs))
    )
    progress(f"checking {scenario.name} without freezing against plain training in float64 ...")
    with tempfile.TemporaryDirectory(prefix="pipetwin-check-") as folder:
        order = ElasticOrder(scenario=exact, layouts=layouts(exact), checkpoints=Path(folder))
        measured = run_training(order)
        if measured is None:
            return None
        manifest = checkpoint.last_manifest(Path(folder), order.identity)
        parts = checkpoint.read_parts(Path(folder), manifest, tuple(manifest.parts))
    losses, weights = plain_training(exact, order.layouts[0])
    found = [loss for epoch in measured.epochs for loss in epoch.losses]
    tensors = {name: t for part in parts.values() for name, t in part.items() if name in weights}
    if tensors.keys() != weights.keys():
        missing = sorted(weights.keys() - tensors.keys())
        raise AssertionError(f"the checkpoint does not hold the model: {missing[:4]}")
    return PlainCheck(
        loss=max(_finite(abs(a - b) / abs(b)) for a, b in zip(found, losses, strict=True)),
        weights=max(
            _finite(
                float((tensors[name] - weight).abs().max()) / (float(weight.abs().max()) or 1.0)
            )
            for name, weight in weights.items()
        ),
        num_tensors=len(weights),
        epochs=len(measured.epochs),
        exact=scenario.plan.data == 1,
    )


def plain_training(scenario: Scenario, layout: Layout) -> tuple[list[float], dict[str, Tensor]]:
    """Train a scenario's epochs in one process, with gradients summed over the microbatches of each
    global batch and torch's own Adam or SGD: losses by iteration, and the weights at the end."""
    model, elastic = scenario.model, elastic_of(scenario)
    assert model is not None, "a run has a model"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # As the ranks have; more add in another order.
    try:
        whole = StagePart(
            stage=0, first_layer=0, num_layers=model.layers, embedding=True, head=True
        )
        module = StageModule(scenario, whole)
        data = load_dataset(scenario)
        make = torch.optim.Adam if scenario.plan.optimizer == "adam" else torch.optim.SGD
        optimizer = make(module.parameters(), lr=scenario.execution.learning_rate, fused=True)
        share = torch.tensor(1 / (layout.data * layout.microbatches), dtype=torch.float64)
        losses = []
        for epoch in range(elastic.epochs):
            order = epoch_order(scenario.execution.seed, epoch, elastic.samples)
            for iteration in range(elastic.samples // layout.global_batch):
                optimizer.zero_grad()
                found = []
                for replica in range(layout.data):
                    for microbatch in range(layout.microbatches):
                        picked = microbatch_samples(order, layout, iteration, replica, microbatch)
                        loss = module.loss(module(data.inputs[picked]), data.targets[picked])
                        loss.backward(share)  # type: ignore[no-untyped-call]
                        found.append(loss.detach())
                optimizer.step()
                losses.append(float(torch.stack(found).sum() / len(found)))
    finally:
        torch.set_num_threads(threads)
    return losses, {name: p.detach().clone() for name, p in module.named_parameters()}


def _finite(difference: float) -> float:
    """The difference; infinite where it is not a number, which no comparison would notice."""
    return difference if math.isfinite(difference) else math.inf
