"""Frozen and cached layers in one iteration: what is left of it equals the single process, which
knows of neither and only leaves weights alone."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from by_hand import difference, run_passes, tiny, train
from torch import Tensor

from executor.data import Batch, CachedData, Data
from executor.model import StageModule
from executor.optimizer import Optimizer
from executor.reference import reference
from executor.stages import StageRunner
from scenarios.schema import Scenario
from sim.schedule.build import build_schedule
from sim.workload.partition import StagePart, partition

torch.set_num_threads(1)

CLASSIFIER: dict[str, Any] = {"family": "bert", "classes": 5}
VIT: dict[str, Any] = {"family": "vit", "vocabulary": 10, "patch_inputs": 12}


def frozen(layers: int, plan: dict[str, Any] | None = None, **model: Any) -> Scenario:
    return tiny({"frozen_layers": layers, "schedule": "gpipe"} | (plan or {}), **model)


def trained(scenario: Scenario, iterations: int = 3) -> Any:
    return train(scenario, build_schedule(scenario), iterations)


def runner_of(scenario: Scenario, stage: int = 0) -> StageRunner:
    part = partition(scenario)[stage]
    return StageRunner(StageModule(scenario, part), scenario, part)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_any_cut_and_any_frozen_layers_equal_the_single_process(
    schedule: str, stages: int, layers: int
) -> None:
    """Inside a stage, whole stages, all layers."""
    scenario = frozen(layers, {"schedule": schedule, "pipeline": stages})
    result = trained(scenario)
    assert difference(result, reference(scenario, 3)) == 0
    first: dict[str, Tensor] = {}
    for part in partition(scenario):
        first |= _initial(scenario, part)
    still = [n for n in first if n.startswith(("embedding.", "blocks.")) and _number(n) < layers]
    assert len(still) == 2 + 12 * layers
    assert all(torch.equal(result.weights[name], first[name]) for name in still)
    assert not any(torch.equal(result.weights[n], first[n]) for n in first if n not in still)
    assert result.gradients.keys() == first.keys() - set(still)


def _number(name: str) -> int:
    return -1 if name.startswith("embedding.") else int(name.split(".")[1])


def _initial(scenario: Scenario, part: StagePart) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in StageModule(scenario, part).named_parameters()}


@pytest.mark.parametrize(
    ("plan", "model"),
    [
        ({"recomputation": "full"}, {}),
        ({"recomputation": "full", "recompute_every": 2}, {}),
        ({"recomputation": "selective"}, {}),
        ({"clip_gradients": True, "optimizer": "sgd"}, {}),
        ({"data": 2, "microbatches": 2}, {}),
        ({"layers_per_stage": (3, 1)}, VIT),
        ({"layers_per_stage": (1, 3)}, VIT),
        ({"schedule": "1f1b"}, CLASSIFIER),
        ({"precision": "fp32"}, {}),
        ({"precision": "bf16", "gradient_precision": "fp32"}, CLASSIFIER),
    ],
    ids=str,
)
def test_in_every_mode(plan: dict[str, Any], model: dict[str, Any]) -> None:
    for layers in (2, 3):
        scenario = frozen(layers, {"pipeline": 2} | plan, **model)
        found = difference(trained(scenario), reference(scenario, 3))
        # Clipping and replicas sum in another order.
        exact = not (plan.keys() & {"clip_gradients", "data"})
        assert found == 0 if exact else found < 1e-12


@pytest.mark.parametrize("model", [{}, VIT, CLASSIFIER], ids=["gpt", "vit", "classifier"])
@pytest.mark.parametrize(("layers", "cached"), [(2, 1), (2, 2), (3, 3)])
@pytest.mark.parametrize("recomputation", ["none", "full"])
def test_cached_inputs_give_the_same_to_the_bit(
    model: dict[str, Any], layers: int, cached: int, recomputation: str
) -> None:
    plan = {"pipeline": 2, "layers_per_stage": (3, 1), "recomputation": recomputation}
    computed = trained(frozen(layers, plan, **model))
    read = trained(frozen(layers, plan | {"cached_layers": cached}, **model))
    assert difference(read, computed) == 0


class Counted:
    """The data with a number for every sample."""

    def __init__(self, data: Data) -> None:
        self.data = data

    def slices(self, iteration: int, replica: int, microbatch: int) -> tuple[Batch, ...]:
        (batch,) = self.data.slices(iteration, replica, microbatch)
        numbers = torch.arange(len(batch.inputs)) + 100 * microbatch
        return (batch._replace(samples=numbers),)


class Kept:
    """A cache: of some microbatches the activations, of the others the inputs."""

    def __init__(self, data: Data, activations: dict[int, Tensor], depth: int) -> None:
        self.data, self.activations, self.depth = data, activations, depth

    def slices(self, iteration: int, replica: int, microbatch: int) -> tuple[Batch, ...]:
        (batch,) = self.data.slices(iteration, replica, microbatch)
        if microbatch not in self.activations:
            return (batch,)
        return (batch._replace(inputs=self.activations[microbatch], depth=self.depth),)


def test_what_the_boundary_gives_is_what_a_cached_input_needs() -> None:
    """Also where some microbatches are missed, and from one depth to the next."""
    plan = {"pipeline": 2, "layers_per_stage": (3, 1), "cached_layers": 1, "fills_cache": True}
    scenario = frozen(3, plan, **CLASSIFIER)
    data = Data(scenario)
    early = CachedData(data, runner_of(scenario).module, 1)
    found: dict[int, Tensor] = {}

    def keep(samples: Tensor, activation: Tensor) -> None:
        assert not activation.requires_grad
        assert samples.tolist() == [100 * len(found), 100 * len(found) + 1]
        found[len(found)] = activation.clone()

    gradients = []
    for source in (Counted(data), Counted(early), None):  # type: ignore[arg-type]
        kept = Kept(data, {m: a for m, a in found.items() if m != 1}, 3)
        found = {}
        runners = [runner_of(scenario, stage) for stage in (0, 1)]
        runners[0].on_boundary = keep
        run_passes(runners, build_schedule(scenario), source or kept, 0, 0)
        gradients.append([runner.gradient_buffer.clone() for runner in runners])
    assert not found, "without numbers nobody is told of anything"
    for others in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients[0], others, strict=True))


def test_the_boundary_is_told_of_only_where_the_plan_fills_a_cache() -> None:
    for fills in (False, True):
        scenario = frozen(2, {"fills_cache": fills})
        told: list[int] = []
        runner = runner_of(scenario)
        runner.on_boundary = lambda samples, activation, told=told: told.append(len(samples))
        inputs, targets, *_ = Data(scenario).slices(0, 0, 0)[0]
        runner.forward(0, 0, inputs, targets, samples=torch.arange(2))
        assert told == ([2] if fills else [])


def test_an_input_of_another_depth_is_refused() -> None:
    scenario = frozen(2, {"pipeline": 2, "layers_per_stage": (3, 1)})
    inputs, targets = Data(scenario).batch(0, 0, 0)
    activation = torch.zeros(2, 16, 32, dtype=torch.float64)
    first = runner_of(scenario)
    with pytest.raises(ValueError, match=r"cannot begin behind layer 2: .*here 2 are frozen"):
        first.forward(0, 0, activation, None, depth=3)
    with pytest.raises(ValueError, match=r"an input behind 1 layers is \(2, 16, 32\), and this"):
        first.forward(0, 0, inputs, None, depth=1)
    with pytest.raises(ValueError, match=r"an input behind 0 layers is \(2, 16\), and this"):
        first.forward(0, 0, activation, None)
    last = runner_of(frozen(4, {"pipeline": 2}), 1)
    with pytest.raises(ValueError, match=r"only begin behind frozen layers of the first stage"):
        last.forward(0, 0, activation, targets, depth=1)


def test_a_frozen_stage_keeps_nothing_and_has_nothing_to_train() -> None:
    scenario = frozen(2, {"pipeline": 2})
    runner = runner_of(scenario)
    inputs, _ = Data(scenario).batch(0, 0, 0)
    sent = runner.forward(0, 0, inputs, None)
    assert sent is not None and not sent.requires_grad and sent.grad_fn is None
    assert runner.num_in_flight == 0
    assert not runner.parameters and not runner.gradients and not len(runner.gradient_buffer)
    assert len(runner.frozen_parameters) == 2 + 2 * 12
    optimizer = Optimizer(scenario, runner.parameters, runner.gradients)
    assert float(optimizer.squared_norm()) == 0
    optimizer.step()


def test_the_first_trained_stage_makes_no_gradient_of_its_input() -> None:
    scenario = frozen(2, {"pipeline": 2})
    runner = runner_of(scenario, 1)
    received = torch.ones(2, 16, 32, dtype=torch.float64)
    _, targets = Data(scenario).batch(0, 0, 0)
    runner.forward(0, 0, received, targets)
    assert runner.backward(0, 0, None) is None
    assert received.grad is None and not received.requires_grad
    below = runner_of(frozen(1, {"pipeline": 2}), 1)
    below.forward(0, 0, received, targets)
    gradient = below.backward(0, 0, None)
    assert gradient is not None and float(gradient.abs().max()) > 0


def test_only_activations_of_active_layers_are_kept() -> None:
    """What autograd saves of a stage: with two of its three layers frozen, a third as much."""
    sizes = []
    for layers in (0, 2, 3):
        scenario = frozen(layers, {"pipeline": 2, "layers_per_stage": (3, 1)})
        runner = runner_of(scenario)
        own = {p.data_ptr() for p in runner.module.parameters()}
        saved: dict[int, int] = {}

        def note(tensor: Tensor, own: set[int] = own, saved: dict[int, int] = saved) -> Tensor:
            if tensor.data_ptr() not in own:
                saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            runner.forward(0, 0, Data(scenario).batch(0, 0, 0)[0], None)
        sizes.append(sum(saved.values()))
    assert sizes[2] == 0
    assert 0.3 * sizes[0] < sizes[1] < 0.36 * sizes[0]


@pytest.mark.parametrize(("stage", "layers"), [(0, 2), (1, 4)])
def test_the_input_of_frozen_layers_is_let_go(stage: int, layers: int) -> None:
    """In the cache of a first stage as in the message to a later one; not that of active layers."""
    scenario = frozen(layers, {"pipeline": 2, "layers_per_stage": (3, 1)})
    _, targets = Data(scenario).batch(0, 0, 0)
    for runner, freed in ((runner_of(scenario, stage), True), (runner_of(tiny(), 0), False)):
        inputs, depth = Data(tiny()).batch(0, 0, 0)[0], 0
        if freed:
            inputs = torch.ones(2, 16, 32, dtype=torch.float64)
            depth = 1 - stage
        held = weakref.ref(inputs)
        runner.forward(0, 0, inputs, targets, depth=depth)
        del inputs
        assert (held() is None) is freed
        assert runner.num_in_flight == 1


@pytest.mark.parametrize("model", [VIT, CLASSIFIER], ids=["vit", "classifier"])
def test_a_classifier_learns_from_its_first_token_alone(model: dict[str, Any]) -> None:
    scenario = tiny({"pipeline": 2}, **model)
    result = trained(replace(scenario, plan=replace(scenario.plan, schedule="1f1b")))
    assert difference(result, reference(scenario, 3)) == 0
    assert scenario.model is not None
    assert result.weights["head.output.weight"].shape == (scenario.model.outputs, 32)
    last = runner_of(scenario, 1)
    activation = torch.randn(2, 16, 32, dtype=torch.float64)
    _, targets = Data(scenario).batch(0, 0, 0)
    assert targets.shape == (2,) and int(targets.max()) < scenario.model.outputs
    losses = [last.module.loss(a, targets) for a in (activation, activation.clone())]
    other = activation.clone()
    other[:, 1:] += 1.0
    losses.append(last.module.loss(other, targets))
    assert losses[0] == losses[1] == losses[2]
    other[:, 0] *= torch.linspace(0.5, 2.0, 32, dtype=torch.float64)
    assert last.module.loss(other, targets) != losses[0]
