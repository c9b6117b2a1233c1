"""Published tables predicted row by row, and how good the predictions are.

Errors are of iteration times, or, in a table of them, of times of a part's pass. Orders and regrets
compare times of the same work (FLOPs of equation 3, arXiv 2104.04473, a device), so that rows of
different models can be told apart as well. Rows that the profile (or, without one, the catalogue's
device) was calibrated on are kept, but do not count.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from typing import cast

from scenarios import catalogue
from scenarios.published import PublishedRow, PublishedTable, Unit, load_table
from scenarios.schema import Scenario
from sim.cost.baselines import BASELINES, Baseline
from sim.cost.measured import fitted_cluster
from sim.cost.modelled import part_times, setup_of
from sim.cost.parts import total_ns
from sim.cost.profile import Part, Pass, Profile, Source, same_device
from sim.cost.runs import Run
from sim.planner.search import resolve
from sim.prediction import fits, predict
from sim.scores import TIE, score
from sim.workload.flops import hardware_flops

Progress = Callable[[str], None]

CLEARLY = 0.05
"""Two published times of the same work that differ by more have an order worth predicting."""
FIGURES = tuple(f"ptdp.fig{n}" for n in (11, 12, 13, 14, 15, 16, 18))
"""The figures of PTD-P that compare plans on many GPUs; scored together where all are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was predicted for a row: time (ns) of an iteration or of a part's pass, highest peak of
    memory (bytes), and whether that fits (None where memory is unknown).

    slices: the tokens of each slice, where the row left them to the search.
    """

    iteration_ns: int
    peak_bytes: int | None
    fits: bool | None
    slices: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedRow:
    """A row with its prediction.

    measured_s: the published time, None for a row that was not run; figures are in the table's
    unit. resolution: how far the printed figure may be from the true one, as a fraction.
    calibration: whether what predicts it, the profile or else the catalogue's device, was fitted to
    this row. profiled: whether a profile's
    parameters were used.
    """

    row: PublishedRow
    outcome: Outcome
    predicted_figure: float
    measured_s: float | None
    resolution: float | None
    calibration: bool
    profiled: bool

    @property
    def predicted_s(self) -> float:
        """The predicted iteration time."""
        return self.outcome.iteration_ns / 1e9

    @property
    def error(self) -> float | None:
        """Predicted over published time, less one; None for a row that was not run."""
        return None if self.measured_s is None else self.predicted_s / self.measured_s - 1

    @property
    def device(self) -> str:
        """The device it ran on; what is told of one says nothing of another."""
        cluster = self.row.scenario.cluster
        return cluster.device.name if cluster is not None else ""

    @property
    def group(self) -> Hashable:
        """What the row competes in: the same model, batch, device and number of devices."""
        plan, model = self.row.scenario.plan, self.row.scenario.model
        assert model is not None
        return replace(model, name=""), plan.num_sequences, plan.num_devices, self.device

    @property
    def work(self) -> float:
        """Work of an iteration on one device (TFLOP by equation 3)."""
        return work_tflop(self.row.scenario)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedGain:
    """What an optimization gains at one row: speedup less one, predicted and published."""

    key: str
    predicted: float
    published: float

    @property
    def difference(self) -> float:
        """Predicted less published gain, as a fraction (0.01 is one percentage point)."""
        return self.predicted - self.published


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedTable:
    """A table with the predictions of its rows."""

    table: PublishedTable
    rows: tuple[JudgedRow, ...]

    @property
    def judged(self) -> tuple[JudgedRow, ...]:
        """The rows that were run and that the profile was not calibrated on."""
        return tuple(r for r in self.rows if r.measured_s is not None and not r.calibration)

    @property
    def gains(self) -> tuple[PairedGain, ...]:
        """The gain at each row of the table's comparison; none where it has no comparison."""
        gain = self.table.gain
        if gain is None:
            return ()
        by_name = {r.row.name: r for r in self.rows}
        found = []
        for name, with_it in by_name.items():
            block, _, key = name.partition("/")
            without = by_name.get(f"{gain.over}/{key}")
            if block != gain.of or without is None:
                continue
            if with_it.measured_s is not None and without.measured_s is not None:
                predicted = without.predicted_s / with_it.predicted_s - 1
                published = without.measured_s / with_it.measured_s - 1
                found.append(PairedGain(key=key, predicted=predicted, published=published))
        return tuple(found)


def work_tflop(scenario: Scenario) -> float:
    """TFLOP of an iteration on one device by equation 3, with a recomputed forward pass always."""
    model, plan = scenario.model, scenario.plan
    assert model is not None
    return hardware_flops(model, plan.num_sequences, "full") / plan.num_devices / 1e12


def seconds_of(scenario: Scenario, unit: Unit, figure: float) -> float:
    """Turn a figure in a table's unit into seconds an iteration."""
    if unit == "ms":
        return figure / 1e3
    amount = work_tflop(scenario) if unit == "TFLOP/s" else scenario.plan.num_sequences
    return amount / figure


def figure_of(scenario: Scenario, unit: Unit, seconds: float) -> float:
    """Turn seconds an iteration into a figure in a table's unit."""
    if unit == "ms":
        return seconds * 1e3
    # Rates and times are each other's inverse.
    return seconds_of(scenario, unit, seconds)


def part_of(table: PublishedTable) -> tuple[Part, Pass]:
    """The part and the pass whose times a table's figures are."""
    assert table.part is not None, f"{table.id} is of iterations"
    part, name = table.part
    return cast(Part, part), cast(Pass, name)


def predict_tables(
    tables: Sequence[PublishedTable],
    profile: Profile | Mapping[str, Profile] | None,
    progress: Progress,
) -> tuple[JudgedTable, ...]:
    """Predict every row of the tables, rows in parallel processes.

    A profile is used for rows on its device, memory size aside: its parameters are fractions of
    the device's peaks. profile: one for all tables, or each by the name that tables have for it.
    Where a row leaves its slices to the search, they are found with the same profile.
    """
    from joblib import Parallel, delayed

    def profile_for(table: PublishedTable) -> Profile | None:
        return profile.get(table.profile) if isinstance(profile, Mapping) else profile

    owners = [table for table in tables for _ in table.rows]
    rows = [row for table in tables for row in table.rows]
    order = sorted(range(len(rows)), key=lambda i: -_size(rows[i].scenario))
    jobs = (
        delayed(_outcome)(i, owners[i], rows[i], _profile_of(rows[i], profile_for(owners[i])))
        for i in order
    )
    workers = min(os.cpu_count() or 1, len(rows))
    outcomes: dict[int, Outcome] = {}
    for index, outcome in Parallel(n_jobs=workers, return_as="generator_unordered")(jobs):
        outcomes[index] = outcome
        progress(f"predicted {len(outcomes)} of {len(rows)} rows, {rows[index].full_name} last")
    found = iter(range(len(rows)))
    return tuple(
        JudgedTable(
            table=table,
            rows=tuple(
                _judged(table, row, outcomes[next(found)], profile_for(table)) for row in table.rows
            ),
        )
        for table in tables
    )


def _outcome(
    index: int, table: PublishedTable, row: PublishedRow, profile: Profile | None
) -> tuple[int, Outcome]:
    if table.part is not None:
        part, name = part_of(table)
        setup = setup_of(row.scenario)
        if profile is not None:
            setup = setup_of(row.scenario, fitted_cluster(setup.cluster, profile.efficiency))
        time = total_ns(part_times(setup, setup.model.sequence, 0)[part][name])
        return index, Outcome(iteration_ns=round(time), peak_bytes=None, fits=None)
    scenario = resolve(row.scenario, profile)
    slices = scenario.plan.slices if scenario is not row.scenario else None
    found = predict(scenario, profile)
    peak = max((curve.peak_bytes for curve in found.memory), default=0) if found.memory else None
    return index, Outcome(
        iteration_ns=found.iteration_ns,
        peak_bytes=peak,
        fits=fits(found),
        slices=slices if isinstance(slices, tuple) else None,
    )


def _size(scenario: Scenario) -> int:
    plan = scenario.plan
    searched = plan.slices == "optimal"
    slices = 40 if searched else max(group.num_slices for group in plan.groups)
    return plan.num_microbatches * plan.num_stages * slices * (40 if searched else 1)


def _profile_of(row: PublishedRow, profile: Profile | None) -> Profile | None:
    """The profile, as one of the row's device; None where it is of another kind of device."""
    cluster = row.scenario.cluster
    if profile is None or cluster is None:
        return None
    device = cluster.device.name
    return replace(profile, device=device) if same_device(device, profile.device) else None


def calibrated_on(profile: Profile | None, table: PublishedTable, row: PublishedRow) -> bool:
    """Whether a profile was fitted to a row: its sources name it, its whole table, or a row of
    another table that is the same run."""
    sources = [
        source
        for source in (profile.sources if profile is not None else ())
        if source.kind == "published"
    ]
    return any(
        source.name == table.id and (not source.points or row.scenario.name in source.points)
        for source in sources
    ) or any(
        _run_of(other, owner) == _run_of(row, table)
        for source in sources
        for owner, other in _rows_of(source)
    )


@cache
def _rows_of(source: Source) -> tuple[tuple[PublishedTable, PublishedRow], ...]:
    """The rows of the catalogue's tables that a source means."""
    if source.name not in catalogue.tables():
        return ()
    table = load_table(source.name)
    rows = (r for r in table.rows if not source.points or r.scenario.name in source.points)
    return tuple((table, row) for row in rows)


def _run_of(row: PublishedRow, table: PublishedTable) -> tuple[object, ...]:
    """What is the same in two rows that are one run: all but names and sources."""
    model, plan = row.scenario.model, row.scenario.plan
    assert model is not None
    seconds = None
    if row.figure is not None:
        seconds = round(seconds_of(row.scenario, table.unit, row.figure), 9)
    return replace(model, name="", source=""), plan, seconds, table.part


def _judged(
    table: PublishedTable, row: PublishedRow, outcome: Outcome, profile: Profile | None
) -> JudgedRow:
    measured = resolution = None
    if row.figure is not None:
        measured = seconds_of(row.scenario, table.unit, row.figure)
        resolution = table.resolution / 2 / row.figure
    profiled = _profile_of(row, profile) is not None
    return JudgedRow(
        row=row,
        outcome=outcome,
        predicted_figure=figure_of(row.scenario, table.unit, outcome.iteration_ns / 1e9),
        measured_s=measured,
        resolution=resolution,
        calibration=calibrated_on(profile, table, row) if profiled else row.fitted,
        profiled=profiled,
    )


def scores_of(found: JudgedTable) -> dict[str, object]:
    """A table's scores as one of the `sets` of `validate --json`: plain fractions, seconds."""
    table = found.table
    wrong = [r for r in found.rows if r.outcome.fits is not None and r.outcome.fits != r.row.fits]
    gains = [
        {
            "what": g.key,
            "predicted": g.predicted,
            "published": g.published,
            "difference": g.difference,
        }
        for g in found.gains
    ]
    return {
        "id": table.id,
        "title": table.title,
        "source": table.source,
        "url": table.url,
        "unit": table.unit,
        "notes": list(table.notes),
        **score_rows(found.judged),
        "calibrated_on": score_rows([r for r in found.rows if r.calibration]),
        "baselines": {
            f"{name}{suffix}": score_rows(found.judged, _baseline(found.judged, baseline, own))
            for name, baseline in BASELINES.items()
            for suffix, own in (("", True), ("_left_out", False))
        },
        "memory": {
            "n": sum(r.outcome.fits is not None for r in found.rows),
            "wrong": [r.row.name for r in wrong],
        },
        "gain": None
        if table.gain is None
        else {
            "what": table.gain.what,
            "pairs": gains,
            "largest_difference": max((abs(g.difference) for g in found.gains), default=None),
        },
        "points": [_point(r) for r in found.rows if r.measured_s is not None],
        "memory_points": [_point(r) for r in found.rows if r.measured_s is None],
    }


def pooled_scores(found: Sequence[JudgedTable]) -> list[dict[str, object]]:
    """Scores over the judged rows of several tables: of PTD-P's figures, and of all."""
    ids = {t.table.id for t in found}
    pools = {"all": ids}
    if ids > set(FIGURES):
        pools = {"ptdp figures 11 to 16 and 18": set(FIGURES), **pools}
    result = []
    for name, members in pools.items():
        tables = [t for t in found if t.table.id in members]
        # Orders hold within a table: between two of them code and cluster may differ.
        orders = [_orders(t.judged, [r.predicted_s for r in t.judged]) for t in tables]
        pairs, right = (sum(o[i] for o in orders) for i in (0, 1))
        scores = score_rows([r for t in tables for r in t.judged])
        scores["orders"] = _share(pairs, right)
        result.append({"id": name, **scores})
    return result


def score_rows(
    rows: Sequence[JudgedRow], predicted_s: Sequence[float] | None = None
) -> dict[str, object]:
    """Score rows that were run, by their own predictions unless others are given.

    orders: of the pairs on one kind of device whose published times of the same work differ by
    more than 5 %, how many were predicted in the right order. The rest is `sim.scores.score`'s.
    """
    times = predicted_s if predicted_s is not None else [r.predicted_s for r in rows]
    points = [
        (r.row.name, seconds / r.work, (r.measured_s or 0) / r.work)
        for r, seconds in zip(rows, times, strict=True)
    ]
    scores = score(points, groups=[r.group for r in rows])
    del scores["points"]
    return {**scores, "orders": _share(*_orders(rows, times))}


def _orders(rows: Sequence[JudgedRow], predicted_s: Sequence[float]) -> tuple[int, int]:
    """Pairs with a clear published order, and how many of them are predicted in that order."""
    pairs = right = 0
    times = [
        (seconds / r.work, (r.measured_s or 0) / r.work, r.device)
        for r, seconds in zip(rows, predicted_s, strict=True)
    ]
    for (p, m, one), (q, n, other) in combinations(times, 2):
        if one == other and max(m, n) / min(m, n) > 1 + CLEARLY:
            pairs += 1
            right += (p < q) == (m < n) and not math.isclose(p, q, rel_tol=TIE)
    return pairs, right


def _share(pairs: int, right: int) -> dict[str, object]:
    return {"pairs": pairs, "right": right, "share": right / pairs if pairs else None}


def _baseline(rows: Sequence[JudgedRow], baseline: Baseline, own: bool) -> list[float]:
    """A baseline's times (s), fitted to the rows on the same device, with or without the very row.

    A row that is alone on its device is fitted to itself.
    """
    runs = [
        Run(
            scenario=r.row.scenario,
            measured_ns=(r.measured_s or 0) * 1e9,
            line=r.row.origin.line or 0,
        )
        for r in rows
    ]
    times = []
    for run, row in zip(runs, rows, strict=True):
        alike = [b for b, a in zip(runs, rows, strict=True) if a.device == row.device]
        train = alike if own else [other for other in alike if other is not run]
        times.append(baseline(train or [run], [run])[0] / 1e9)
    return times


def _point(judged: JudgedRow) -> dict[str, object]:
    return {
        "what": judged.row.name,
        "scenario": judged.row.full_name,
        "predicted_s": judged.predicted_s,
        "measured_s": judged.measured_s,
        "error": judged.error,
        "predicted_figure": judged.predicted_figure,
        "published_figure": judged.row.figure,
        "resolution": judged.resolution,
        "peak_memory_bytes": judged.outcome.peak_bytes,
        "fits": judged.outcome.fits,
        "fitted_then": judged.row.fits,
        "slices": list(judged.outcome.slices) if judged.outcome.slices is not None else None,
        "calibration": judged.calibration,
        "profiled": judged.profiled,
    }
