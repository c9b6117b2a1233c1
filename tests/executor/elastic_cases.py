"""Small elastic runs on the digits: what several tests share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from executor.elastic.order import ElasticOrder
from scenarios.schema import Elastic, Execution, Model, Plan, Scenario
from sim.elastic.phases import Layout

LAYERS = 4
RANKS = 4
BATCH = 32


def scenario(pipeline: int = 4, data: int = 1, **elastic: Any) -> Scenario:
    """Four layers on 4 x 4 patches, two iterations an epoch, in float64."""
    settings = {"epochs": 5, "samples": 2 * BATCH, "dataset": "digits", "alpha": 0.5}
    return Scenario(
        name="small",
        model=Model(
            family="vit",
            layers=LAYERS,
            hidden=16,
            heads=2,
            sequence=5,
            patch_inputs=16,
            vocabulary=10,
            tied_embeddings=False,
        ),
        plan=Plan(
            schedule="gpipe",
            pipeline=pipeline,
            data=data,
            placement="pipeline-data-tensor",
            micro_batch=BATCH // (4 * data),
            microbatches=4,
            precision="fp64",
        ),
        elastic=Elastic(**(settings | elastic)),
        execution=Execution(learning_rate=3e-3, deadline=30_000_000_000),
    )


def text(samples: int = 96, classes: int | None = 4, **settings: Any) -> Scenario:
    """The same with passages of 16 bytes, told apart by their file; settings: of the model, or of
    the run under `elastic`."""
    elastic = settings.pop("elastic", {})
    shape = {"sequence": 17, "vocabulary": 257, "classes": classes} | settings
    model = Model(family="bert", layers=LAYERS, hidden=16, heads=2, tied_embeddings=False, **shape)
    return replace(scenario(dataset="text", samples=samples, **elastic), model=model)


def layout(frozen: int, stages: tuple[int, ...], data: int, apart: int | None = None) -> Layout:
    return Layout(
        frozen_layers=frozen,
        layers_per_stage=stages,
        data=data,
        micro_batch=BATCH // (4 * data),
        microbatches=4,
        replica_ranks=apart,
    )


def without_freezing(run: Scenario) -> Scenario:
    assert run.elastic is not None
    return replace(run, elastic=replace(run.elastic, freeze="off"))


SHRINKING = (
    layout(0, (1, 1, 1, 1), 1),
    layout(1, (2, 2), 2),
    layout(2, (3, 1), 2),
    layout(3, (4,), 4),
    layout(4, (4,), 4),
)
"""Four ranks: 4 x 1, then 2 x 2, then 1 x 4."""
IDLE = (
    layout(0, (2, 2), 2),
    layout(1, (2, 2), 2),
    layout(2, (4,), 2, apart=2),
    layout(3, (4,), 2, apart=2),
    layout(4, (4,), 2, apart=2),
)
"""Four ranks: 2 x 2, then 2 of them idle, ranks 1 and 3."""
STAYING = tuple(layout(frozen, (1, 1, 1, 1), 1) for frozen in range(LAYERS + 1))


def order(run: Scenario | None = None, **settings: Any) -> ElasticOrder:
    settings = {"layouts": SHRINKING, "caches_from": 1} | settings
    return ElasticOrder(scenario=run or scenario(), **settings)
