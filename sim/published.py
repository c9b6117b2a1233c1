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
from itertools import combinations

from scenarios.published import PublishedRow, PublishedTable
from scenarios.schema import Scenario
from sim.cost.baselines import BASELINES, Baseline
from sim.cost.measured import fitted_cluster
from sim.cost.modelled import part_times, setup_of
from sim.cost.parts import total_ns
from sim.cost.profile import Profile, same_device
from sim.cost.runs import Run
from sim.planner.search import best_slicing
from sim.prediction import fits, predict
from sim.published_rows import calibrated_on as calibrated_on
from sim.published_rows import figure_of as figure_of
from sim.published_rows import part_of
from sim.published_rows import seconds_of as seconds_of
from sim.published_rows import work_tflop as work_tflop
from sim.scores import TIE, score

Progress = Callable[[str], None]

SIMULATIONS = 8
"""Slicings simulated for a row that leaves them to the search: the formula's best, which a longer
search betters by less than a hundredth."""
CLEARLY = 0.05
"""Two published times of the same work that differ by more have an order worth predicting."""
FIGURES = tuple(f"ptdp.fig{n}" for n in (11, 12, 13, 14, 15, 16, 18))
"""The figures of PTD-P that compare plans on many GPUs; scored together where all are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was predicted for a row: time (ns) of an iteration or of a part's pass, highest peak of
    memory (bytes), and whether that fits (None where memory is unknown).

    scenario: with the slices that were searched for it, where the row leaves them to the search.
    """

    iteration_ns: int
    peak_bytes: int | None
    fits: bool | None
    scenario: Scenario | None = None

    @property
    def slices(self) -> tuple[int, ...] | None:
        """The tokens of each slice, where they were searched."""
        slices = self.scenario.plan.slices if self.scenario is not None else None
        return slices if isinstance(slices, tuple) else None


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
    workers = min(os.cpu_count() or 1, len(rows)) or 1
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
    searched = None
    if row.scenario.plan.slices == "optimal":
        searched = best_slicing(
            row.scenario, profile, keep_microbatches=True, simulations=SIMULATIONS
        ).best.scenario
    found = predict(searched or row.scenario, profile)
    peak = max((curve.peak_bytes for curve in found.memory), default=0) if found.memory else None
    return index, Outcome(
        iteration_ns=found.iteration_ns,
        peak_bytes=peak,
        fits=fits(found),
        scenario=searched,
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


def _judged(
    table: PublishedTable, row: PublishedRow, outcome: Outcome, profile: Profile | None
) -> JudgedRow:
    if outcome.scenario is not None:
        row = replace(row, scenario=outcome.scenario)
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
