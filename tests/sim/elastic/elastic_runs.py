"""Runs to test decisions with: PipeTransformer's, and a small one whose figures come out even."""

from dataclasses import replace

from scenarios.loader import load_cluster
from scenarios.schema import Cluster, Device, Elastic, Link, Model, Plan, Scenario


def small_run(*, plan: dict[str, object] | None = None, **elastic: object) -> Scenario:
    """Eight layers of a classifier on four ranks of a slow device, all of one node."""
    settings: dict[str, object] = {
        "schedule": "gpipe",
        "pipeline": 4,
        "micro_batch": 6,
        "microbatches": 8,
        "precision": "fp32",
        "placement": "pipeline-data-tensor",
    }
    run: dict[str, object] = {"epochs": 6, "samples": 480, "alpha": 0.4, "batch": "global"}
    return Scenario(
        name="small",
        model=Model(
            family="vit",
            layers=8,
            hidden=64,
            heads=4,
            sequence=17,
            vocabulary=10,
            patch_inputs=4,
            tied_embeddings=False,
        ),
        cluster=small_cluster(),
        plan=Plan(**(settings | (plan or {}))),  # type: ignore[arg-type]
        elastic=Elastic(**(run | elastic)),  # type: ignore[arg-type]
    )


def small_cluster() -> Cluster:
    """Four devices of 10 GFLOP/s that exchange 1 byte a nanosecond."""
    device = Device(
        name="slow",
        memory=1 << 30,
        memory_bandwidth=10e9,
        matmul_peak={"fp32": 10e9},
    )
    link = Link(bandwidth=1e9, latency=10_000, efficiency=1.0)
    return Cluster(devices_per_node=4, device=device, intra_node=link, inter_node=link)


def authors_run(**elastic: object) -> Scenario:
    """ViT-B/16 as PipeTransformer's authors trained it: 2 x 8 GPUs, 400 images a pipeline."""
    model = Model(
        name="ViT-B/16",
        family="vit",
        layers=12,
        hidden=768,
        heads=12,
        sequence=197,
        vocabulary=1000,
        patch_inputs=768,
        tied_embeddings=False,
    )
    plan = Plan(
        schedule="gpipe",
        pipeline=8,
        data=2,
        micro_batch=25,
        microbatches=16,
        layers_per_stage=(1, 1, 2, 2, 2, 2, 1, 1),
        precision="fp32",
        placement="pipeline-data-tensor",
        frozen_first=True,
    )
    run: dict[str, object] = {
        "epochs": 10,
        "samples": 1_281_167,
        "batch": "replica",
        "microbatches": {8: 16, 4: 16, 2: 16, 1: 16},
    }
    return Scenario(
        name="authors",
        model=model,
        cluster=load_cluster("clusters/pipetransformer-pair"),
        plan=plan,
        elastic=Elastic(**(run | elastic)),  # type: ignore[arg-type]
    )


def changed(scenario: Scenario, **elastic: object) -> Scenario:
    """The scenario with other settings of its run."""
    assert scenario.elastic is not None
    return replace(scenario, elastic=replace(scenario.elastic, **elastic))  # type: ignore[arg-type]
