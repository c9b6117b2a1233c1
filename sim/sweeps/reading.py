"""A sweep's results read back, for whoever shows them; the file is left as it is, and may still be
written to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sim.sweeps.records import START, Seen, seen
from sim.sweeps.space import SweepError

Timed = Literal["iteration", "run"]
_FOREIGN = "is no result of a sweep, as `pipetwin sweep -o results.jsonl` writes them"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A point with what its record tells beside time, throughput and memory; unknown figures are
    None.

    timed: what `seen.seconds` is of. capacity_bytes: of a device's memory. dollars, days: of the
    whole training run.
    """

    seen: Seen
    timed: Timed = "iteration"
    capacity_bytes: int | None = None
    dollars: float | None = None
    days: float | None = None

    @property
    def seconds(self) -> float:
        """The time of a point that was simulated; raises ValueError of one that failed."""
        if self.seen.seconds is None:
            raise ValueError(f"point {self.seen.index} failed")
        return self.seen.seconds

    @property
    def is_done(self) -> bool:
        """Whether it was simulated."""
        return self.seen.seconds is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What a file of results holds, its points by their index.

    num_asked: points of the sweep as last asked for, those that are the same scenario as another
    among them; None where the file does not tell. torn: whether its last line is half written.
    """

    path: Path
    scenario: str
    points: tuple[Point, ...]
    num_asked: int | None
    torn: bool

    @property
    def done(self) -> tuple[Point, ...]:
        """The points that were simulated."""
        return tuple(point for point in self.points if point.is_done)

    @property
    def failed(self) -> tuple[Point, ...]:
        """The points that could not be."""
        return tuple(point for point in self.points if not point.is_done)

    @property
    def num_missing(self) -> int:
        """Points asked for of which the file has nothing: not simulated yet, or the same scenario
        as another."""
        return max(0, (self.num_asked or 0) - len(self.points))


def is_results_file(path: Path) -> bool:
    """Whether a file begins as results of a sweep do; an empty one by its name, `.jsonl`.

    Raises OSError where it cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(len(START))
    return head == START or (path.suffix == ".jsonl" and START.startswith(head))


def read_results(path: Path) -> Results:
    """Read a file of results; of a point tried again the last record counts.

    Raises OSError, and SweepError where the file holds anything else than results of one sweep.
    """
    points: dict[str, Point] = {}
    names: dict[str, str] = {}
    asked: list[int] = []
    torn = False
    for place, line in _lines(path):
        if not line.endswith(b"\n"):
            if not START.startswith(line[: len(START)]):
                raise SweepError(f"{place}: {_FOREIGN}")
            torn = True
            break
        try:
            record = json.loads(line)
            names.setdefault(str(record["sweep"]), str(record["scenario"]))
            found = point_of(record)
            if record.get("points") is not None:
                asked.append(int(record["points"]))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            raise SweepError(f"{place}: {_FOREIGN}") from None
        if len(names) > 1:
            raise SweepError(
                f"{place}: is of another sweep ({record['scenario']}) than the lines before: a "
                "page is of one scenario with the same --set, --profile and --figures"
            )
        points[found.seen.key] = found
    return Results(
        path=path,
        scenario=next(iter(names.values()), ""),
        points=tuple(sorted(points.values(), key=lambda p: (p.seen.index, p.seen.key))),
        num_asked=max(asked, default=None),
        torn=torn,
    )


def point_of(record: Mapping[str, Any]) -> Point:
    """What a record tells of its point; raises KeyError, TypeError, ValueError where it is none."""
    found = seen(record)
    result: Mapping[str, Any] = record["result"] or {}
    return Point(
        seen=found,
        timed="run" if "iteration_s" not in result and "total_s" in result else "iteration",
        capacity_bytes=result.get("memory_capacity_bytes"),
        dollars=result.get("training_cost_dollars"),
        days=result.get("training_days"),
    )


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            yield f"{path}:{number}", line
