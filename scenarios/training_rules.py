"""Rules about the whole training run, each with a value that would work."""

from __future__ import annotations

from collections.abc import Iterator

from scenarios.schema import Scenario, Training
from scenarios.units import exact_duration_ns

READS = ("training", "model", "cluster")


def find(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """What is wrong with a scenario's training run: the field, and what is wrong with it."""
    training = scenario.training
    if training is None:
        return
    yield from _failures(training)
    yield from _checkpoints(training)
    slow = training.stragglers
    if slow is not None and slow.of == "nodes" and scenario.cluster is None:
        yield (
            "training.stragglers.of",
            "is nodes, but without a cluster nobody knows which devices share one; `of: devices` "
            "would work",
        )
    size_known = training.checkpoint_size is not None or scenario.model is not None
    if _saves(training) and not size_known:
        yield (
            "training.checkpoint_size",
            "is missing: without a model nobody knows what a checkpoint holds; `checkpoint_size: "
            "2.4 TB` would work",
        )


def _saves(training: Training) -> bool:
    return training.device_mtbf is not None or training.checkpoint_interval is not None


def _failures(training: Training) -> Iterator[tuple[str, str]]:
    if training.device_mtbf == 0:
        yield (
            "training.device_mtbf",
            "is 0, so that nothing would ever run; `device_mtbf: 50000 h` would work",
        )
    if training.device_mtbf is not None and training.restart_time is None:
        yield (
            "training.restart_time",
            "is missing: with `device_mtbf` devices fail, and the run needs to be started again; "
            "`restart_time: 10 min` would work",
        )
    if training.device_mtbf is None and training.restart_time is not None:
        yield (
            "training.restart_time",
            "is given, but nothing fails without `device_mtbf`: leave it out, or write "
            "`device_mtbf: 50000 h`",
        )


def _checkpoints(training: Training) -> Iterator[tuple[str, str]]:
    if _saves(training) and training.checkpoint_bandwidth is None:
        because = "device_mtbf" if training.device_mtbf is not None else "checkpoint_interval"
        yield (
            "training.checkpoint_bandwidth",
            f"is missing: with `{because}` checkpoints are written, which takes time; "
            "`checkpoint_bandwidth: 100 GB/s` would work",
        )
    if training.checkpoint_interval is not None and training.checkpoint_interval < 10**6:
        yield (
            "training.checkpoint_interval",
            f"is {exact_duration_ns(training.checkpoint_interval)}, shorter than any iteration; "
            "`checkpoint_interval: 30 min` would work",
        )
    if training.checkpoints == "blocking" and training.checkpoint_stall:
        yield (
            "training.checkpoint_stall",
            "is for `checkpoints: background`; training stands still for the whole of a blocking "
            "checkpoint: leave it out, or write `checkpoints: background`",
        )
