"""Weights and the optimizer's state part by part: moved, stored, and gone on from."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import elastic_cases as cases
import pytest
import torch
from torch import Tensor, nn

from executor.elastic import checkpoint
from executor.elastic.checkpoint import Identity, Manifest
from executor.elastic.errors import ElasticError
from executor.elastic.moving import is_trained
from executor.elastic.parts import Parts, pack, part_of, unpack
from executor.model import StageModule
from executor.optimizer import Optimizer
from executor.session import Job
from executor.stages import StageRunner
from executor.transport.null import NullTransport
from scenarios.schema import Model, Plan, Scenario
from sim.elastic_measurement import MeasuredEpoch, MeasuredTransition
from sim.workload.partition import partition

torch.set_num_threads(1)


def job(scenario: Scenario, stage: int = 0) -> Job:
    """What parts look at of a job, without its messages."""
    part = partition(scenario)[stage]
    runner = StageRunner(StageModule(scenario, part), scenario, part)
    optimizer = Optimizer(scenario, runner.parameters, runner.gradients)
    return cast(Job, SimpleNamespace(runners={stage: runner}, optimizers={stage: optimizer}))


def scenario(seed: int = 0, frozen: int = 0, **plan: Any) -> Scenario:
    run = cases.scenario(pipeline=1)
    settings = replace(run.plan, frozen_layers=frozen, **plan)
    execution = replace(run.execution, seed=seed)
    return replace(run, plan=settings, execution=execution, elastic=None)


def step(target: Job, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for runner in target.runners.values():
        for gradient in runner.gradients.values():
            gradient.copy_(torch.randn(gradient.shape, generator=generator, dtype=torch.float64))
    for optimizer in target.optimizers.values():
        optimizer.step()


def all_weights(target: Job) -> dict[str, Tensor]:
    runner = next(iter(target.runners.values()))
    return {**runner.parameters, **runner.frozen_parameters}


@pytest.mark.parametrize(
    "plan",
    [
        {"precision": "fp64"},
        {"precision": "fp64", "optimizer": "sgd"},
        {"precision": "fp32"},
        {"precision": "bf16"},
        {"precision": "bf16", "master_weights": False, "gradient_precision": "fp32"},
    ],
    ids=lambda plan: "-".join(str(value) for value in plan.values()),
)
def test_training_goes_on_elsewhere_as_if_it_had_not_moved(plan: dict[str, Any]) -> None:
    one, other = job(scenario(**plan)), job(scenario(seed=1, **plan))
    for n in range(3):
        step(one, n)
    old, new = Parts(one), Parts(other)
    assert old.names == ("embedding", "layer 0", "layer 1", "layer 2", "layer 3", "head")
    for part in old.names:
        data = pack(old.tensors(part, state=True))
        new.load(part, unpack(data, new.tensors(part, state=True)))
    for n in range(3, 6):
        step(one, n)
        step(other, n)
    mine, theirs = all_weights(one), all_weights(other)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_newly_frozen_parts_travel_without_state() -> None:
    one, other = job(scenario()), job(scenario(seed=1, frozen=2))
    step(one, 0)
    old, new = Parts(one), Parts(other)
    for part in new.names:
        trained = is_trained(part, 2)
        assert trained == (part in ("layer 2", "layer 3", "head"))
        tensors = old.tensors(part, state=trained)
        assert tensors.keys() == new.tensors(part, state=True).keys()
        assert any(" " in name for name in tensors) == trained
        new.load(part, tensors)
    mine, theirs = all_weights(one), all_weights(other)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert is_trained("embedding", 0) and is_trained("layer 0", 0) and is_trained("head", 4)


def test_parts_of_another_shape_or_optimizer_are_refused() -> None:
    one, small = job(scenario()), job(scenario(optimizer="sgd"))
    tensors = Parts(one).tensors("head", state=True)
    with pytest.raises(ValueError, match="of another optimizer"):
        Parts(small).load("head", tensors)
    del tensors["head.output.weight"]
    with pytest.raises(ValueError, match="nothing was given"):
        Parts(one).load("head", tensors)
    with pytest.raises(ValueError, match="bytes are not the"):
        unpack(torch.zeros(3, dtype=torch.uint8), {"a": torch.zeros(2)})
    assert Parts(None).names == () and "head" not in Parts(None)
    assert part_of("blocks.11.mlp_in.weight") == "layer 11" and part_of("head.norm.bias") == "head"


def test_packing_keeps_every_bit_of_every_type() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "step": torch.tensor(3.0),
        "odd": torch.randn(3, generator=generator).bfloat16(),
        "wide": torch.randn(5, 2, generator=generator, dtype=torch.float64).t(),
        "one": torch.tensor([float("nan"), -0.0]),
    }
    found = unpack(pack(tensors), {name: torch.empty_like(t) for name, t in tensors.items()})
    for name, tensor in tensors.items():
        assert found[name].shape == tensor.shape and found[name].dtype == tensor.dtype
        assert torch.equal(
            found[name].contiguous().view(-1).view(torch.uint8),
            tensor.contiguous().view(-1).view(torch.uint8),
        )


@pytest.mark.parametrize("plan", [{}, {"precision": "bf16"}, {"clip_gradients": True}], ids=str)
def test_what_a_closed_job_held_is_free_without_a_collection(plan: dict[str, Any]) -> None:
    """Else the stages of a run's first phase, which the collector was told to pass over, and all
    whose gradients are told of as they are made, would be in memory to its end."""
    place = torch.device("cpu")
    gc.collect()
    gc.disable()
    try:
        job = Job(scenario(**plan), 0, place, NullTransport(place))
        (runner,), (optimizer,) = job.runners.values(), job.optimizers.values()
        told: list[StageRunner] = []
        runner.on_gradient_ready(lambda index, view, runner=runner: told.append(runner), 1 << 20)
        assert job.interpreter.run_iteration(0).loss and told
        told.clear()
        left = [
            weakref.ref(one)
            for one in (runner, optimizer, runner.gradient_buffer, *runner.parameters.values())
        ]
        job.close()
        del job, runner, optimizer
        assert not [found for found in left if found() is not None]
    finally:
        gc.enable()


def test_an_optimizer_over_nothing_does_nothing() -> None:
    plain = Scenario(
        name="t",
        model=Model(layers=1, hidden=8, heads=2, sequence=4, vocabulary=16),
        plan=Plan(clip_gradients=True),
    )
    optimizer = Optimizer(plain, {}, {})
    assert float(optimizer.squared_norm()) == 0 and optimizer.state == {}
    optimizer.clip(torch.tensor(2.0))
    optimizer.step()


def test_before_the_first_step_the_state_is_as_good_as_new() -> None:
    plain = scenario(precision="fp64")
    weights = {"a": nn.Parameter(torch.ones(3, dtype=torch.float64))}
    gradients = {"a": torch.full((3,), 0.5, dtype=torch.float64)}
    fresh = {"a": nn.Parameter(torch.ones(3, dtype=torch.float64))}
    one, other = Optimizer(plain, weights, gradients), Optimizer(plain, fresh, gradients)
    one.load_state("a", one.state_of("a"))
    for optimizer in (one, other):
        optimizer.step()
    assert torch.equal(weights["a"], fresh["a"])
    assert float(one.state_of("a")["step"]) == 1


# Checkpoints.


def identity(**changes: Any) -> Identity:
    found = Identity.of(cases.scenario(), cases.SHRINKING, 1)
    return replace(found, **changes)


def write(folder: Path, epoch: int, *, seed: int = 0) -> Job:
    """A checkpoint of one rank that has trained a little."""
    trained = job(scenario())
    step(trained, seed)
    checkpoint.begin(folder, epoch)
    shard = checkpoint.write_shard(folder, epoch, 0, Parts(trained))
    assert not checkpoint.complete(folder) or epoch
    manifest = Manifest(
        identity=identity(),
        epoch=epoch,
        frozen_by_epoch=(0, 2),
        epochs=(
            MeasuredEpoch(epoch=0, phase=0, seconds=2.0, iteration_s=(1.0, 1.0), losses=(3.0, 2.5)),
        ),
        transitions=(MeasuredTransition(epoch=1, phase=1, seconds={"move": 0.5}, moved_bytes=7),),
        seconds=4.0,
        shards={shard.name: shard.digest},
        parts=dict.fromkeys(shard.parts, shard.name),
    )
    checkpoint.write_manifest(folder, manifest)
    return trained


def test_a_checkpoint_gives_back_what_was_written(tmp_path: Path) -> None:
    trained = write(tmp_path, 3)
    manifest = checkpoint.last_manifest(tmp_path, identity())
    assert manifest.epoch == 3 and manifest.frozen_by_epoch == (0, 2)
    assert manifest.epochs[0].losses == (3.0, 2.5) and manifest.transitions[0].moved_bytes == 7
    other = job(scenario(seed=1))
    wanted = ("layer 1", "head")
    found = checkpoint.read_parts(tmp_path, manifest, wanted)
    assert tuple(sorted(found)) == ("head", "layer 1")
    for part in wanted:
        Parts(other).load(part, found[part])
    mine, theirs = all_weights(trained), all_weights(other)
    same = {name for name in mine if torch.equal(mine[name], theirs[name])}
    assert {name for name in mine if part_of(name) in wanted} <= same


def test_only_the_last_two_are_kept(tmp_path: Path) -> None:
    for epoch in (1, 2, 5, 11):
        write(tmp_path, epoch)
    assert [path.name for path in checkpoint.complete(tmp_path)] == ["epoch-00005", "epoch-00011"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-00005", "epoch-00011"]


def test_what_is_half_written_is_not_looked_at(tmp_path: Path) -> None:
    write(tmp_path, 1)
    checkpoint.begin(tmp_path, 2)
    checkpoint.write_shard(tmp_path, 2, 0, Parts(job(scenario())))
    assert checkpoint.last_manifest(tmp_path, identity()).epoch == 1
    write(tmp_path, 2)
    checkpoint.begin(tmp_path, 2)
    assert checkpoint.last_manifest(tmp_path, identity()).epoch == 1


def test_a_damaged_shard_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 1)
    manifest = checkpoint.last_manifest(tmp_path, identity())
    path = checkpoint.folder_of(tmp_path, 1) / "rank-0.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ElasticError, match="is not what was written: remove"):
        checkpoint.read_parts(tmp_path, manifest, ("head",))
    path.unlink()
    with pytest.raises(ElasticError, match="is missing: remove"):
        checkpoint.read_parts(tmp_path, manifest, ("head",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"digest": "0"}, "another model, cluster, plan or elastic run"),
        ({"layouts": "0"}, "other layouts of the pipeline"),
        ({"learning_rate": 1.0}, "learning_rate 0.003, and this run has 1.0"),
        ({"caches_from": None}, "caches_from 1, and this run has None"),
    ],
)
def test_another_run_s_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path, 1)
    with pytest.raises(ElasticError, match=message):
        checkpoint.last_manifest(tmp_path, identity(**changes))


def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 1)
    path = checkpoint.folder_of(tmp_path, 1) / "manifest.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"format": "pipetwin-elastic-checkpoint-0"}))
    with pytest.raises(ElasticError, match="another version"):
        checkpoint.last_manifest(tmp_path, identity())
    path.write_text("{")
    with pytest.raises(ElasticError, match="cannot be read"):
        checkpoint.last_manifest(tmp_path, identity())
