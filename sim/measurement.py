"""Measurement: what the executor saw, and the file that carries it to calibration and reports.

Read and written without torch, so that a run made on a cluster is judged anywhere.
"""

from __future__ import annotations

import gzip
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from scenarios.schema import Scenario
from scenarios.writing import write_whole
from sim.timeline.spans import Timeline

_FORMAT = "pipetwin-measurement-1"
_FORMAT_OF_SEVERAL = "pipetwin-measurements-1"


class MeasurementError(ValueError):
    """A file does not hold a measurement; the message says what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Measured iterations of one scenario.

    timelines: of one pipeline, the ranks with data and tensor index 0; its iteration time is what
    is reported. The other replicas and tensor ranks did the same beside it.
    disturbed: per iteration, whether other processes took more than 5 % of the ranks' processor
    time; such iterations are kept, but left out of medians.
    losses: per iteration, the loss (over all microbatches of all replicas) before its optimizer
    step.
    peak_memory_bytes: per pipeline rank, the most memory seen on any of its copies (replicas and
    tensor ranks); None where it could not be read.
    environment: transport, versions, host, pinning, clock offsets with their uncertainty.
    """

    scenario: Scenario
    timelines: tuple[Timeline, ...]
    disturbed: tuple[bool, ...]
    losses: tuple[float, ...] = ()
    peak_memory_bytes: tuple[int | None, ...] = ()
    environment: Mapping[str, object] = field(default_factory=dict)

    @cached_property
    def judged(self) -> tuple[Timeline, ...]:
        """The undisturbed iterations; all of them where every one was disturbed."""
        calm = tuple(t for t, d in zip(self.timelines, self.disturbed, strict=True) if not d)
        return calm or self.timelines

    @cached_property
    def iteration_ns(self) -> int:
        """Median iteration time of the judged iterations."""
        return round(statistics.median(t.iteration_ns for t in self.judged))

    @cached_property
    def quartiles_ns(self) -> tuple[int, int]:
        """Lower and upper quartile of the judged iteration times."""
        times = [t.iteration_ns for t in self.judged]
        if len(times) < 2:
            return times[0], times[0]
        low, _, high = statistics.quantiles(times, n=4, method="inclusive")
        return round(low), round(high)

    @cached_property
    def typical(self) -> Timeline:
        """The judged iteration whose time is nearest the median: the one to draw."""
        return min(self.judged, key=lambda t: abs(t.iteration_ns - self.iteration_ns))


def write_measurement(measurement: Measurement, path: Path, *, force: bool = False) -> None:
    """Write a measurement as JSON (gzipped where the name ends in .gz), whole or not at all.

    Raises FileExistsError where the file exists and `force` is not given.
    """
    write_measurements((measurement,), path, force=force)


def write_measurements(
    measurements: Sequence[Measurement], path: Path, *, force: bool = False
) -> None:
    """The same for several measurements in one file."""
    documents = [_to_data(measurement) for measurement in measurements]
    document = documents[0]
    if len(documents) > 1:
        document = {"format": _FORMAT_OF_SEVERAL, "measurements": documents}
    data = json.dumps(document, separators=(",", ":")).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    write_whole(path, data, force=force)


def read_measurement(path: Path) -> Measurement:
    """Read what `write_measurement` wrote.

    Raises MeasurementError where the file cannot be read or holds something else.
    """
    found = read_measurements(path)
    if len(found) > 1:
        names = ", ".join(m.scenario.name for m in found)
        raise MeasurementError(
            f"{path}: holds {len(found)} measurements ({names}), and one is wanted: `validate` "
            "takes all of them, or one by the name of its variant"
        )
    return found[0]


def read_measurements(path: Path) -> tuple[Measurement, ...]:
    """Read a file of one or several measurements.

    Raises MeasurementError where the file cannot be read or holds something else.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        document = json.loads(data)
    except OSError as error:
        raise MeasurementError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, RecursionError) as error:
        raise MeasurementError(f"{path}: not JSON: {error}") from error
    documents: Any = [document]
    if isinstance(document, dict) and document.get("format") == _FORMAT_OF_SEVERAL:
        documents = document.get("measurements")
        if not isinstance(documents, list) or not documents:
            raise MeasurementError(f"{path}: damaged: holds no list of measurements")
    return tuple(_from_data(data, path) for data in documents)


def merged(measurements: Sequence[Measurement]) -> Measurement:
    """Several measurements of one scenario as one, with the iterations of all."""
    first = measurements[0]
    return replace(
        first,
        timelines=tuple(t for m in measurements for t in m.timelines),
        disturbed=tuple(d for m in measurements for d in m.disturbed),
        losses=tuple(loss for m in measurements for loss in m.losses),
    )


def _to_data(measurement: Measurement) -> dict[str, object]:
    return {
        "format": _FORMAT,
        "scenario": asdict(measurement.scenario),
        "timelines": [t.to_json() for t in measurement.timelines],
        "disturbed": list(measurement.disturbed),
        "losses": list(measurement.losses),
        "peak_memory_bytes": list(measurement.peak_memory_bytes),
        "environment": dict(measurement.environment),
    }


def _from_data(document: Any, path: Path) -> Measurement:
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise MeasurementError(
            f"{path}: not a measurement: write one with `pipetwin run SCENARIO -o measured.json`"
        )
    try:
        scenario = TypeAdapter(Scenario).validate_python(document["scenario"])
        timelines = tuple(Timeline.from_json(t) for t in document["timelines"])
        measurement = Measurement(
            scenario=scenario,
            timelines=timelines,
            disturbed=tuple(map(bool, document["disturbed"])),
            losses=tuple(map(float, document["losses"])),
            peak_memory_bytes=tuple(document["peak_memory_bytes"]),
            environment=document["environment"],
        )
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise MeasurementError(f"{path}: damaged: {error}") from error
    if not timelines or len(measurement.disturbed) != len(timelines):
        raise MeasurementError(f"{path}: damaged: holds {len(timelines)} iterations")
    return measurement
