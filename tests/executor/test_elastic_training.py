"""Elastic runs on real processes: nothing is lost or seen twice when the pipeline changes.

All runs that end well share one launch of four ranks; those are launched once for the module.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import elastic_cases as cases
import numpy as np
import pytest
import torch
from torch import Tensor

from executor.elastic.cache import folders
from executor.elastic.checkpoint import complete
from executor.elastic.datasets import load_dataset
from executor.elastic.errors import ElasticError
from executor.elastic.order import ElasticOrder
from executor.elastic.training import require_runnable, run_training
from executor.joining import RankFailure
from executor.launching import run_ranks
from executor.model import StageModule
from scenarios.schema import Scenario
from sim.elastic.phases import Layout
from sim.elastic.sharding import epoch_order, microbatch_samples
from sim.elastic_measurement import ElasticMeasurement
from sim.workload.partition import StagePart

pytestmark = pytest.mark.timeout(280)
EPOCHS = 5


def orders(folder: Path) -> dict[str, ElasticOrder]:
    off = cases.without_freezing(cases.scenario())
    two = cases.without_freezing(cases.scenario(pipeline=2, data=2, epochs=2))
    replicated = (cases.layout(0, (2, 2), 2),) * (cases.LAYERS + 1)
    adaptive = cases.text(2 * cases.BATCH, elastic={"freeze": "adaptive"})
    return {
        "off": cases.order(off, layouts=cases.STAYING),
        "off 2x2": cases.order(two, layouts=replicated, caches_from=None),
        "plain 2x2": cases.order(two, layouts=replicated, caches_from=None),
        "staying": cases.order(layouts=cases.STAYING, caches_from=None),
        "shrinking": cases.order(caches_from=None, fixed_batch=True),
        "cached": cases.order(fixed_batch=True, checkpoints=folder / "whole"),
        "forgetful": cases.order(),
        "idle": cases.order(
            cases.scenario(pipeline=2, data=2, autodp=False),
            layouts=cases.IDLE,
            fixed_batch=True,
        ),
        "adaptive": cases.order(adaptive, fixed_batch=True),
        "steady": cases.order(cases.scenario(interval=2, epochs=4), fixed_batch=True),
        "stopped": cases.order(checkpoints=folder / "stopped"),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, list[Any]]:
    """What each rank gave back, by run."""
    found = run_ranks(cases.RANKS, "elastic_targets:each", orders(folder), wait_s=60.0)
    assert found is not None
    return {name: [rank[name] for rank in found.results] for name in found.results[0]}


def measurement(run: list[Any]) -> ElasticMeasurement:
    found = run[0]["measurement"]
    assert isinstance(found, ElasticMeasurement)
    return found


def losses(run: list[Any]) -> np.ndarray:
    return np.array([epoch.losses for epoch in measurement(run).epochs])


def weights(run: list[Any]) -> dict[str, list[Tensor]]:
    """Every copy of each weight."""
    found: dict[str, list[Tensor]] = {}
    for rank in run:
        for name, tensor in rank["weights"].items():
            found.setdefault(name, []).append(tensor)
    return found


def largest_difference(run: list[Any], expected: dict[str, Tensor]) -> float:
    found = weights(run)
    assert found.keys() == expected.keys()
    return max(float((copy - expected[name]).abs().max()) for name in found for copy in found[name])


@dataclass
class Plain:
    """losses: by epoch and iteration. norms: of the active layers' last gradients."""

    losses: np.ndarray
    weights: dict[str, Tensor]
    norms: list[float]


def single_process(scenario: Scenario, layout: Layout, frozen_by_epoch: tuple[int, ...]) -> Plain:
    """A plain training loop over the whole model."""
    torch.set_num_threads(1)
    assert scenario.elastic is not None and scenario.model is not None
    whole = StagePart(
        stage=0, first_layer=0, num_layers=scenario.model.layers, embedding=True, head=True
    )
    module = StageModule(scenario, whole)
    data = load_dataset(scenario)
    parameters = dict(module.named_parameters())
    optimizer = torch.optim.Adam(
        parameters.values(), lr=scenario.execution.learning_rate, fused=True
    )
    losses = []
    for epoch, frozen in enumerate(frozen_by_epoch):
        for name, parameter in parameters.items():
            layer = int(name.split(".")[1]) if name.startswith("blocks.") else -1
            parameter.requires_grad_(not frozen or layer >= frozen or name.startswith("head."))
        order = epoch_order(scenario.execution.seed, epoch, scenario.elastic.samples)
        batch = layout.micro_batch * layout.microbatches
        losses.append([])
        for iteration in range(scenario.elastic.samples // batch):
            optimizer.zero_grad()
            found = []
            for microbatch in range(layout.microbatches):
                picked = microbatch_samples(order, layout, iteration, 0, microbatch)
                loss = module.loss(module(data.inputs[picked]), data.targets[picked])
                loss.backward(torch.tensor(1 / layout.microbatches, dtype=torch.float64))
                found.append(loss.detach())
            optimizer.step()
            losses[-1].append(float(torch.stack(found).sum() / len(found)))
    norms = [
        float(torch.stack([p.grad.square().sum() for p in block.parameters()]).sum().sqrt())
        for block in module.blocks.values()
        if all(p.grad is not None for p in block.parameters())
    ]
    trained = {name: p.detach().clone() for name, p in parameters.items()}
    return Plain(losses=np.array(losses), weights=trained, norms=norms)


@pytest.fixture(scope="module")
def plain() -> Plain:
    return single_process(cases.scenario(), cases.SHRINKING[0], (0,) * EPOCHS)


@pytest.fixture(scope="module")
def plain_frozen() -> Plain:
    return single_process(cases.scenario(), cases.SHRINKING[0], (0, 2, 3, 4, 4))


def test_without_freezing_it_is_a_plain_loop_to_the_bit(
    runs: dict[str, list[Any]], plain: Plain
) -> None:
    assert np.array_equal(losses(runs["off"]), plain.losses)
    assert largest_difference(runs["off"], plain.weights) == 0
    assert measurement(runs["off"]).frozen_by_epoch == (0,) * EPOCHS
    assert not measurement(runs["off"]).transitions


def test_before_the_first_freeze_it_is_a_plain_loop_to_the_bit(runs: dict[str, list[Any]]) -> None:
    first = losses(runs["off"])[0]
    for name in ("staying", "shrinking", "cached"):
        assert np.array_equal(losses(runs[name])[0], first), name


def test_with_replicas_it_is_the_ordinary_job_to_the_bit(runs: dict[str, list[Any]]) -> None:
    plain = runs["plain 2x2"]
    by_replica = [rank["losses"] for rank in plain if rank["losses"][0] is not None]
    assert len(by_replica) == 2
    assert np.array_equal(losses(runs["off 2x2"]).ravel(), np.mean(by_replica, axis=0))
    for elastic, ordinary in zip(runs["off 2x2"], plain, strict=True):
        assert elastic["weights"].keys() == ordinary["weights"].keys()
        for name, tensor in ordinary["weights"].items():
            assert torch.equal(elastic["weights"][name], tensor), name


@pytest.mark.parametrize("name", ["staying", "shrinking", "cached", "forgetful", "idle"])
def test_however_the_pipeline_changes_the_training_is_the_same(
    name: str, runs: dict[str, list[Any]], plain_frozen: Plain
) -> None:
    """Weights and the optimizer's state travel: else Adam's next steps would differ."""
    assert measurement(runs[name]).frozen_by_epoch == (0, 2, 3, 4, 4)
    np.testing.assert_allclose(losses(runs[name]), plain_frozen.losses, rtol=1e-10)
    assert largest_difference(runs[name], plain_frozen.weights) < 1e-10


@pytest.mark.parametrize("name", ["shrinking", "cached", "idle", "adaptive"])
def test_a_transition_loses_nothing(name: str, runs: dict[str, list[Any]]) -> None:
    transitions = measurement(runs[name]).transitions
    assert len(transitions) >= 2
    for transition in transitions:
        assert transition.loss_before is not None and transition.loss_after is not None
        assert abs(transition.loss_before - transition.loss_after) < 1e-10
        assert {"rebuild", "move", "evaluate"} <= transition.seconds.keys()
    assert any(transition.moved_bytes for transition in transitions)


@pytest.mark.parametrize("name", ["shrinking", "cached", "adaptive"])
def test_only_the_last_stages_are_kept(name: str, runs: dict[str, list[Any]]) -> None:
    assert [rank["open"] for rank in runs[name]] == [[True]] * cases.RANKS
    assert all(rank["jobs"] > 2 for rank in runs[name])


def test_where_only_the_cache_changes_the_stages_stay(runs: dict[str, list[Any]]) -> None:
    found = measurement(runs["steady"])
    assert [p.fills_cache for p in found.phases] == [False, True, False]
    filling, reading = found.transitions
    assert filling.moved_bytes > 0 and reading.moved_bytes == 0
    assert [e.cache_written for e in found.epochs] == [0, 0, 2 * cases.BATCH, 0]
    assert [e.cache_read for e in found.epochs] == [0, 0, 0, 2 * cases.BATCH]
    assert reading.loss_before == reading.loss_after
    assert [rank["jobs"] for rank in runs["steady"]] == [2] * cases.RANKS


@pytest.mark.parametrize("name", ["off", "off 2x2", "shrinking", "cached", "idle", "adaptive"])
def test_each_sample_is_seen_exactly_once_in_an_epoch(
    name: str, runs: dict[str, list[Any]]
) -> None:
    for epoch in range(len(measurement(runs[name]).epochs)):
        seen = sorted(sample for rank in runs[name] for sample in rank["seen"].get(epoch, []))
        assert seen == list(range(2 * cases.BATCH))


def test_the_cache_changes_nothing_and_is_used(runs: dict[str, list[Any]]) -> None:
    """But for rounding: a product of more rows may add in another order, and the cached output was
    made in larger microbatches."""
    np.testing.assert_allclose(losses(runs["cached"]), losses(runs["shrinking"]), rtol=1e-14)
    by_name = weights(runs["shrinking"])
    assert largest_difference(runs["cached"], {n: t[0] for n, t in by_name.items()}) < 1e-14
    epochs, samples = measurement(runs["cached"]).epochs, 2 * cases.BATCH
    # Nothing frozen; 2 layers filled; read and 3 filled; read and 4 filled; read alone.
    assert [e.cache_written for e in epochs] == [0, samples, samples, samples, 0]
    assert [e.cache_read for e in epochs] == [0, 0, samples, samples, samples]
    assert not any(e.cache_missed for e in epochs)
    assert measurement(runs["cached"]).environment["cache"]["in_memory"] == samples
    assert not any(e.cache_read for e in measurement(runs["shrinking"]).epochs)


def test_what_the_cache_has_lost_is_computed_anew(runs: dict[str, list[Any]]) -> None:
    np.testing.assert_allclose(losses(runs["forgetful"]), losses(runs["shrinking"]), rtol=1e-14)
    epochs = measurement(runs["forgetful"]).epochs
    assert epochs[4].cache_missed > 0 and epochs[4].cache_read > 0
    assert epochs[4].cache_missed + epochs[4].cache_read == 2 * cases.BATCH


def test_ranks_without_a_place_stand_idle(runs: dict[str, list[Any]]) -> None:
    last = measurement(runs["idle"]).phases[-1].layout
    assert [last.rank_of(0, d) for d in range(last.data)] == [0, 2]
    assert not runs["idle"][1]["weights"] and not runs["idle"][3]["weights"]
    assert runs["idle"][0]["seen"][4] and not runs["idle"][3]["seen"].get(4)


def test_every_rank_knows_every_layer_s_gradient_norm(
    runs: dict[str, list[Any]], plain: Plain
) -> None:
    assert len(plain.norms) == cases.LAYERS and len(set(plain.norms)) == cases.LAYERS
    for rank in runs["off"]:
        np.testing.assert_allclose(rank["norms"], plain.norms, rtol=1e-12)
    two = [rank["norms"] for rank in runs["off 2x2"]]
    assert len(set(two)) == 1 and min(two[0]) > 0
    assert {rank["norms"] for rank in runs["shrinking"]} == {(0.0,) * cases.LAYERS}


def test_adaptive_freezing_follows_the_gradients(runs: dict[str, list[Any]]) -> None:
    frozen = measurement(runs["adaptive"]).frozen_by_epoch
    assert len(frozen) == EPOCHS and frozen[0] == 0
    assert list(frozen) == sorted(frozen)
    bound = measurement(runs["cached"]).frozen_by_epoch
    assert all(own <= most for own, most in zip(frozen, bound, strict=True))
    for rank in runs["adaptive"]:
        assert rank["measurement"].frozen_by_epoch == frozen


def test_an_epoch_is_told_and_measured(runs: dict[str, list[Any]]) -> None:
    found = measurement(runs["cached"])
    assert [e.accuracy is not None for e in found.epochs] == [True] * EPOCHS
    assert all(0 <= (e.accuracy or 0) <= 1 for e in found.epochs)
    for epoch in found.epochs:
        assert len(epoch.iteration_s) == 2 and min(epoch.iteration_s) > 0
        assert epoch.seconds == pytest.approx(sum(epoch.iteration_s))
    assert found.seconds > sum(e.seconds for e in found.epochs)
    assert [p.layout.data for p in found.phases] == [1, 2, 4, 4, 4]


def test_an_interrupted_run_keeps_what_was_finished(
    folder: Path, runs: dict[str, list[Any]]
) -> None:
    assert len(measurement(runs["stopped"]).epochs) == 2
    assert complete(folder / "stopped")[-1].name == "epoch-00002"


@pytest.fixture(scope="module")
def resumed(folder: Path, runs: dict[str, list[Any]]) -> tuple[RankFailure, list[Any], list[Any]]:
    """A rank's end in the middle of the fourth epoch; and then, on other processes, what a run
    gives that goes on from there, and one from where the interrupted one stopped."""
    order = cases.order(checkpoints=folder / "killed")
    with pytest.raises(RankFailure) as failure:
        run_training(order, target="elastic_targets:killed")
    assert [path.name for path in complete(folder / "killed")] == ["epoch-00002", "epoch-00003"]
    again = {
        "resumed": replace(order, resume=True),
        "from stop": replace(order, checkpoints=folder / "stopped", resume=True),
    }
    found = run_ranks(cases.RANKS, "elastic_targets:each", again, wait_s=60.0)
    assert found is not None
    return (
        failure.value,
        [rank["resumed"] for rank in found.results],
        [rank["from stop"] for rank in found.results],
    )


def test_a_rank_that_dies_stops_all_and_leaves_no_cache(
    resumed: tuple[RankFailure, list[Any], list[Any]],
) -> None:
    failure = resumed[0]
    assert failure.failure == "rank 1 was killed by signal 9 (SIGKILL)"
    assert len(failure.stories) == cases.RANKS
    for folder in folders(f"{os.getpid()}-*"):
        assert not list(folder.parent.glob(folder.name))


@pytest.mark.parametrize("which", [1, 2])
def test_a_resumed_run_ends_as_an_undisturbed_one(
    which: int,
    resumed: tuple[RankFailure, list[Any], list[Any]],
    runs: dict[str, list[Any]],
) -> None:
    again = resumed[which]
    assert isinstance(again, list)
    assert measurement(again).resumed_from == (3 if which == 1 else 2)
    assert measurement(again).frozen_by_epoch == measurement(runs["cached"]).frozen_by_epoch
    assert np.array_equal(losses(again), losses(runs["cached"]))
    by_name = weights(runs["cached"])
    assert largest_difference(again, {n: t[0] for n, t in by_name.items()}) == 0
    assert measurement(again).final_accuracy == measurement(runs["cached"]).final_accuracy
    counts = [(e.cache_read, e.cache_written, e.cache_missed) for e in measurement(again).epochs]
    expected = measurement(runs["cached"]).epochs
    assert counts == [(e.cache_read, e.cache_written, e.cache_missed) for e in expected]


def test_another_run_s_checkpoint_is_refused(folder: Path, runs: dict[str, list[Any]]) -> None:
    order = cases.order(checkpoints=folder / "whole")
    with pytest.raises(ElasticError, match="holds a run's checkpoints"):
        require_runnable(order)
    require_runnable(replace(order, resume=True))
    other = cases.scenario(epochs=7)
    with pytest.raises(ElasticError, match="another model, cluster, plan or elastic run"):
        require_runnable(replace(order, scenario=other, resume=True))
    execution = replace(order.scenario.execution, seed=1)
    seeded = replace(order.scenario, execution=execution)
    with pytest.raises(ElasticError, match="seed 0, and this run has 1"):
        require_runnable(replace(order, scenario=seeded, resume=True))
    with pytest.raises(ElasticError, match="no complete checkpoint"):
        require_runnable(replace(order, checkpoints=folder / "nothing", resume=True))
    with pytest.raises(ElasticError, match="directory"):
        require_runnable(replace(order, checkpoints=None, resume=True))


def test_what_cannot_run_is_refused() -> None:
    good = cases.order()
    require_runnable(good)
    with pytest.raises(ElasticError, match="64 or 96 would work"):
        require_runnable(cases.order(cases.scenario(samples=70)))
    with pytest.raises(ElasticError, match="one for each"):
        require_runnable(replace(good, layouts=good.layouts[:2]))
    few = replace(good.scenario, plan=replace(good.scenario.plan, pipeline=2))
    with pytest.raises(ElasticError, match="needs 4 ranks, and the plan has 2"):
        require_runnable(replace(good, scenario=few))
    elastic = copy.copy(good.scenario.elastic)
    assert elastic is not None
    none = replace(good.scenario, elastic=replace(elastic, dataset=None))
    with pytest.raises(ElasticError, match="dataset is not given"):
        require_runnable(replace(good, scenario=none))
