"""What an elastic run of the executor saw, its epochs, phases and transitions; and its file.

Read and written without torch, so that a run made elsewhere is judged anywhere.
"""

from __future__ import annotations

import gzip
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from scenarios.schema import Scenario
from scenarios.writing import write_whole
from sim.elastic.phases import Phase

FORMAT = "pipetwin-elastic-measurements-1"
ASIDE = frozenset({"checkpoint", "evaluate"})
"""The parts of a transition that watch over training or look at it, and are not predicted."""


class ElasticFileError(ValueError):
    """A file does not hold measured elastic runs; the message says what is wrong with it."""

    is_bad_input = True


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredEpoch:
    """One epoch of training.

    seconds: from its first iteration's start to its last one's end, on the slowest rank.
    iteration_s: each iteration's. losses: of each iteration, the mean over all its samples.
    accuracy: on the test set after it, a fraction; None where it was not evaluated.
    cache_read, cache_written, cache_missed: samples, over all ranks.
    foreign: the share of the time in which others held the ranks up; None where unknown.
    """

    epoch: int
    phase: int
    seconds: float
    iteration_s: tuple[float, ...]
    losses: tuple[float, ...]
    accuracy: float | None = None
    cache_read: int = 0
    cache_written: int = 0
    cache_missed: int = 0
    foreign: float | None = None

    @property
    def mean_loss(self) -> float | None:
        """Over its iterations; None without any."""
        return sum(self.losses) / len(self.losses) if self.losses else None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredTransition:
    """What happened between two phases, before epoch `epoch`.

    seconds: by what took them: `rebuild` (groups, stages, transport), `move` (weights and optimizer
    state), `checkpoint`, `evaluate`. moved_bytes: over all ranks.
    loss_before, loss_after: of one fixed batch; None where it was not asked for.
    """

    epoch: int
    phase: int
    seconds: Mapping[str, float]
    moved_bytes: int
    loss_before: float | None = None
    loss_after: float | None = None

    @property
    def training_s(self) -> float:
        """What it takes without checkpoint and evaluation."""
        return sum(s for part, s in self.seconds.items() if part not in ASIDE)


@dataclass(frozen=True, kw_only=True)
class ElasticMeasurement:
    """An elastic run as it was executed.

    frozen_by_epoch: layers frozen in each epoch. seconds: of the whole run, transitions included,
    evaluation and checkpoints too. resumed_from: the epoch it was resumed at; None from the start.
    """

    scenario: Scenario
    frozen_by_epoch: tuple[int, ...]
    phases: tuple[Phase, ...]
    epochs: tuple[MeasuredEpoch, ...]
    transitions: tuple[MeasuredTransition, ...]
    seconds: float
    environment: Mapping[str, Any] = field(default_factory=dict)
    resumed_from: int | None = None

    @property
    def final_accuracy(self) -> float | None:
        """On the test set after the last epoch."""
        return self.epochs[-1].accuracy if self.epochs else None

    @property
    def final_loss(self) -> float | None:
        """Mean training loss of the last epoch."""
        return self.epochs[-1].mean_loss if self.epochs else None

    @cached_property
    def training_s(self) -> float:
        """Seconds of all epochs and transitions, without checkpoints and evaluation."""
        changes = sum(t.training_s for t in self.transitions)
        return sum(e.seconds for e in self.epochs) + changes

    def epochs_of(self, phase: int) -> tuple[MeasuredEpoch, ...]:
        """The epochs of a phase, by its index."""
        return tuple(e for e in self.epochs if e.phase == phase)

    def iteration_s(self, phase: int) -> float | None:
        """The median iteration of a phase; None where it has none (a resumed run's early ones)."""
        times = [s for e in self.epochs_of(phase) for s in e.iteration_s]
        return statistics.median(times) if times else None


def write_elastic(
    measurements: Sequence[ElasticMeasurement], path: Path, *, force: bool = False
) -> None:
    """Write measured runs as JSON (gzipped where the name ends in .gz), whole or not at all.

    Raises FileExistsError where the file exists and `force` is not given.
    """
    document = {"format": FORMAT, "runs": [asdict(m) for m in measurements]}
    data = json.dumps(document, separators=(",", ":")).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    write_whole(path, data, force=force)


def read_elastic(path: Path) -> tuple[ElasticMeasurement, ...]:
    """Read what `write_elastic` wrote.

    Raises ElasticFileError where the file cannot be read or holds something else.
    """
    document = _document(path)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ElasticFileError(
            f"{path}: holds no elastic runs: write some with `pipetwin run SCENARIO -o "
            "measured.json` of a scenario with an `elastic` section"
        )
    runs = document.get("runs")
    if not isinstance(runs, list) or not runs:
        raise ElasticFileError(f"{path}: damaged: holds no list of runs")
    try:
        found = tuple(TypeAdapter(tuple[ElasticMeasurement, ...]).validate_python(runs))
    except (TypeError, ValueError, ValidationError) as error:
        raise ElasticFileError(f"{path}: damaged: {error}") from error
    for run in found:
        known = {phase.index for phase in run.phases}
        if not run.epochs or any(e.phase not in known for e in run.epochs):
            raise ElasticFileError(
                f"{path}: damaged: {run.scenario.name} has {len(run.epochs)} epochs, of which not "
                f"all are of its {len(run.phases)} phases"
            )
    return found


def is_elastic_file(path: Path) -> bool:
    """Whether a file says of itself that it holds measured elastic runs."""
    try:
        document = _document(path)
    except ElasticFileError:
        return False
    return isinstance(document, dict) and document.get("format") == FORMAT


def _document(path: Path) -> Any:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return json.loads(data)
    except OSError as error:
        raise ElasticFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, RecursionError) as error:
        raise ElasticFileError(f"{path}: not JSON: {error}") from error
