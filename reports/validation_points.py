"""What is held against a prediction, point by point, from the sets of `validate --json`; and where
a table's points stand in its own chart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scenarios.schema import Scenario
from sim.published import JudgedTable
from sim.published_elastic import JudgedRuns

Set = Mapping[str, Any]
Kind = Literal["time", "ratio", "rate"]
_NUMBER = re.compile(r"[a-z]*([0-9]+)")
_MOST_SERIES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A prediction and what it is held against.

    kind: time in seconds, a ratio of times, or a rate. judged: whether it counts; fitted: whether
    what predicts it was fitted to it. place: of the set and of the point in it.
    """

    place: tuple[int, int]
    set_id: str
    what: str
    kind: Kind
    predicted: float
    measured: float
    error: float
    fitted: bool
    judged: bool


def held_points(sets: Sequence[Set]) -> tuple[Held, ...]:
    """Every point of the sets that has something to be held against."""
    return tuple(
        _held(number, one, position, point)
        for number, one in enumerate(sets)
        for position, point in enumerate(one["points"])
    )


def _held(number: int, one: Set, position: int, point: Mapping[str, Any]) -> Held:
    timed = "predicted_s" in point
    fitted = bool(point.get("calibration")) or one.get("sample") == "in-sample"
    kind: Kind = "time" if timed else "rate" if one.get("unit") == "samples/s" else "ratio"
    return Held(
        place=(number, position),
        set_id=str(one["id"]),
        what=str(point["what"]),
        kind=kind,
        predicted=point["predicted_s"] if timed else point["predicted"],
        measured=point["measured_s"] if timed else point.get("published", point.get("measured")),
        error=point["error"],
        fitted=fitted,
        judged=not (fitted or point.get("assumed")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plotted:
    """Where a set's points stand in a chart as the paper has it.

    title: of the x axis. labels: of places 0, 1, ... where that is no number; None where it is.
    is_log: whether x is drawn on a logarithmic axis. series: their names. places: of each point,
    those that were not run last: its series and its x.
    """

    title: str
    labels: tuple[str, ...] | None
    is_log: bool
    series: tuple[str, ...]
    places: tuple[tuple[int, float], ...]

    @property
    def letters(self) -> tuple[str, ...]:
        """Abbreviations that series and labels begin with, of those in `LETTERS`."""
        found = [*self.series, *(self.labels or ())]
        used = [re.match(r"([a-z]+)[0-9]", word) for text in found for word in text.split()]
        return tuple(dict.fromkeys(m[1] for m in used if m is not None and m[1] in LETTERS))


LETTERS: Mapping[str, str] = {
    "t": "tensor degree",
    "p": "pipeline stages",
    "d": "data-parallel replicas",
    "b": "batch",
    "mb": "microbatch",
}


def plotted_rows(one: Set, table: JudgedTable) -> Plotted:
    """Where the rows of a table stand: series are its blocks and what else takes few values."""
    names = [str(p["what"]) for p in (*one["points"], *one["memory_points"])]
    scenarios = {row.row.name: row.row.scenario for row in table.rows}
    split = [name.rpartition("/") for name in names]
    keys = [key.split("-") for _, _, key in split]
    if len({len(key) for key in keys}) > 1:
        keys = [["-".join(key)] for key in keys]
    chosen = _series_column(keys)
    series = []
    rest = []
    for (block, _, _), key in zip(split, keys, strict=True):
        own = [block] if block else []
        if chosen is not None:
            own.append(key[chosen])
        series.append(" ".join(own))
        rest.append(" ".join(word for i, word in enumerate(key) if i != chosen))
    title, numbers = _numbers(rest, [scenarios[name] for name in names])
    return _plotted(series, rest, title, numbers)


def plotted_runs(one: Set, judged: JudgedRuns) -> Plotted:
    """Where the figures of a table of runs stand: by epoch, a series a run; or by run."""
    if all(figure.epoch is not None for figure in judged.figures):
        runs = [figure.run for figure in judged.figures]
        epochs = [float(figure.epoch or 0) for figure in judged.figures]
        return _plotted(runs, [str(int(e)) for e in epochs], "epoch", epochs)
    return plotted_by_name(one)


def plotted_by_name(one: Set) -> Plotted:
    """Points side by side, by their names."""
    names = [str(point["what"]) for point in one["points"]]
    return _plotted([""] * len(names), names, "", None)


def _plotted(
    series: Sequence[str], rest: Sequence[str], title: str, numbers: Sequence[float] | None
) -> Plotted:
    order = tuple(dict.fromkeys(series))
    labels = tuple(dict.fromkeys(rest))
    xs = [float(labels.index(text)) for text in rest] if numbers is None else list(numbers)
    is_log = numbers is not None and min(numbers) > 0 and max(numbers) >= 16 * min(numbers)
    return Plotted(
        title=title,
        labels=labels if numbers is None else None,
        is_log=is_log,
        series=order,
        places=tuple((order.index(s), x) for s, x in zip(series, xs, strict=True)),
    )


def _series_column(keys: Sequence[Sequence[str]]) -> int | None:
    """Which part of the rows' keys tells series apart: that with fewest values, where there are
    several parts that vary."""
    counts = [len(set(column)) for column in zip(*keys, strict=True)]
    varied = [i for i, count in enumerate(counts) if count > 1]
    if len(varied) < 2:
        return None
    least = min(varied, key=counts.__getitem__)
    return least if counts[least] <= _MOST_SERIES else None


def _numbers(
    rest: Sequence[str], scenarios: Sequence[Scenario]
) -> tuple[str, Sequence[float] | None]:
    """What the rest of the keys counts, and the numbers, where a quantity of the scenarios has the
    very numbers."""
    found = [_NUMBER.fullmatch(text) for text in rest]
    if any(match is None for match in found) or len(set(rest)) < 2:
        return "", None
    numbers = [float(match[1]) for match in found if match is not None]
    for title, values in _quantities(scenarios).items():
        if values == numbers:
            return title, numbers
    return "", None


def _quantities(scenarios: Sequence[Scenario]) -> dict[str, list[float]]:
    plans = [scenario.plan for scenario in scenarios]
    models = [scenario.model for scenario in scenarios]
    return {
        "microbatch": [float(plan.groups[0].micro_batch) for plan in plans],
        "sequences an iteration": [float(plan.num_sequences) for plan in plans],
        "pipeline stages": [float(plan.pipeline) for plan in plans],
        "tensor degree": [float(plan.tensor) for plan in plans],
        "GPUs": [float(plan.num_devices) for plan in plans],
        "tokens a sequence": [float(m.sequence) if m is not None else 0.0 for m in models],
        "token slices": [float(plan.groups[0].num_slices) for plan in plans],
    }
