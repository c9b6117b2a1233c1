"""Small scenarios of tensor x pipeline x data, run on real processes: what several tests share."""

from collections.abc import Mapping

import torch

from executor.assembly import assemble, whole_tensors
from executor.launch import launch
from executor.launching import SessionResult
from executor.session import Assignment, Visit
from scenarios.loader import load
from scenarios.schema import Scenario

TINY = (
    "model.layers=4",
    "model.hidden=16",
    "model.heads=4",
    "model.sequence=8",
    "model.vocabulary=61",  # Divides by no tensor degree.
    "model.tied_embeddings=true",
    "plan.micro_batch=2",
    "plan.microbatches=4",
    "plan.precision=fp64",
    "execution.deadline=60 s",
)
# Adam hardly sees the scale of gradients: SGD shows a norm that counts something twice.
CLIPPED = ("plan.clip_gradients=true", "plan.optimizer=sgd", "execution.learning_rate=0.1")
INTERLEAVED = ("plan.schedule=interleaved", "plan.chunks=2")
GPIPE = ("plan.schedule=gpipe",)
BLOCKING = ("plan.p2p=blocking",)
SCATTER = ("plan.scatter_gather=true",)
SEQUENCE = ("plan.sequence_parallel=true",)
ZERO1 = ("plan.sharding=optimizer",)
ZERO3 = ("plan.sharding=full",)
BUCKETS = ("plan.gradient_reduction=overlapped", "plan.gradient_bucket=8 KiB")
SELECTIVE = ("plan.recomputation=selective",)
FULL = ("plan.recomputation=full",)
PAIRS = ("plan.recomputation=full", "plan.recompute_every=2")
UNTIED = ("model.tied_embeddings=false",)
GLOO = ("execution.transport=gloo",)
OUTSIDE_IN = ("plan.placement=pipeline-data-tensor",)
BERT = ("model.family=bert",)
SPLIT = (
    "plan.schedule=given",
    "plan.microbatches=1",
    'plan.schedule_order=["0F0,0I0,0W0"]',
)
VIT = ("model.family=vit", "model.tied_embeddings=false", "model.patch_inputs=6")

Case = tuple[tuple[int, int, int], tuple[str, ...]]
"""Degrees (tensor, pipeline, data), and overrides."""


def scenario_of(case: Case) -> Scenario:
    (tensor, pipeline, data), overrides = case
    sizes = {"tensor": tensor, "pipeline": pipeline, "data": data}
    degrees = [f"plan.{name}={size}" for name, size in sizes.items()]
    cluster = f"cluster.devices_per_node={tensor * pipeline * data}"
    return load("local-2rank", (*TINY, *degrees, cluster, *overrides)).scenario


def run_cases(cases: Mapping[str, Case]) -> dict[str, SessionResult]:
    """Every case for three iterations, one launch for all of one number of ranks."""
    by_size: dict[int, list[str]] = {}
    for name, ((tensor, pipeline, data), _) in cases.items():
        by_size.setdefault(tensor * pipeline * data, []).append(name)
    found = {}
    for size, names in by_size.items():
        scenarios = [scenario_of(cases[name]) for name in names]
        by_rank = launch(
            size, "mesh_targets:each_alone", scenarios, deadline_s=400.0, wait_s=120.0, pin=True
        )
        for name, scenario, results in zip(
            names, scenarios, zip(*by_rank, strict=True), strict=True
        ):
            found[name] = SessionResult(
                measurements=assemble(
                    Assignment(
                        scenarios=(scenario,), visits=(Visit(job=0, warmup=0, iterations=3),)
                    ),
                    results,
                    {},
                ),
                interrupted=False,
                gradients=whole_tensors(scenario, [r.gradients for r in results]),
                weights=whole_tensors(scenario, [r.weights for r in results]),
                environment={},
            )
    return found


def check_delays(scenario: Scenario, seeds: int) -> None:
    """Random delays of so many seeds change nothing, each message being the one expected: four
    ranks' losses are one, and each rank's gradients equal to the bit."""
    payload = {"scenario": scenario, "seeds": list(range(seeds))}
    by_rank = launch(4, "session_targets:wrapped", payload, deadline_s=250.0, pin=True)
    assert len({loss for rank in by_rank for loss, _ in rank if loss is not None}) == 1
    for rank in by_rank:
        first = rank[0][1]
        assert len(rank) == seeds and first
        for _, gradients in rank[1:]:
            assert all(torch.equal(gradients[name], first[name]) for name in first)
