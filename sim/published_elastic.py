"""Published runs of epochs predicted, and how good the predictions are.

A speed-up is the whole time of the run it is over, transitions included, over the run's own; a
throughput is that of an epoch without the transition before it. Errors are predicted over published
figures, less one. Runs that the catalogue was calibrated on are kept, but do not count; runs whose
source leaves open what decides the figure are shown alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scenarios.published_elastic import PublishedRun, RunTable
from scenarios.schema import Scenario
from sim.elastic_run import ElasticPrediction, predict_run
from sim.scores import of_ratios

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedFigure:
    """A published figure with its prediction, in the table's unit.

    epoch: of a throughput; None for a speed-up. calibration: whether the catalogue was calibrated
    on it. assumed: whether it is shown alone. resolution: how far the printed figure may be from
    the true one, as a fraction.
    """

    run: str
    epoch: int | None
    predicted: float
    published: float
    calibration: bool
    assumed: bool
    resolution: float

    @property
    def what(self) -> str:
        """The run, and the epoch where it is one's."""
        return self.run if self.epoch is None else f"{self.run}, epoch {self.epoch}"

    @property
    def error(self) -> float:
        """Predicted over published figure, less one."""
        return self.predicted / self.published - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedRuns:
    """A table of runs with the predictions of its figures, in their order."""

    table: RunTable
    figures: tuple[JudgedFigure, ...]

    @property
    def judged(self) -> tuple[JudgedFigure, ...]:
        """The figures that count."""
        return tuple(f for f in self.figures if not (f.calibration or f.assumed))


def predict_runs(tables: Sequence[RunTable], progress: Progress) -> tuple[JudgedRuns, ...]:
    """Predict every run of the tables; equal ones once. Epochs beyond those of the scenario, which
    an override may have cut short, are left out."""
    seen: dict[str, ElasticPrediction] = {}

    def predicted(scenario: Scenario, what: str) -> ElasticPrediction:
        if scenario.digest not in seen:
            progress(what)
            seen[scenario.digest] = predict_run(scenario)
        return seen[scenario.digest]

    def figures(table: RunTable, run: PublishedRun) -> tuple[float, ...]:
        found = predicted(run.scenario, f"{table.id}: {run.name}")
        if run.over is not None:
            over = predicted(run.over, f"{table.id}: what {run.name} is over")
            return (over.total_ns / found.total_ns,)
        return tuple(epoch.samples_per_s for epoch in found.epochs)

    return tuple(
        JudgedRuns(
            table=table,
            figures=tuple(
                JudgedFigure(
                    run=run.name,
                    epoch=epoch if run.over is None else None,
                    predicted=one,
                    published=published,
                    calibration=run.fitted,
                    assumed=run.assumed,
                    resolution=table.resolution / 2 / published,
                )
                for run in table.runs
                for epoch, (one, published) in enumerate(
                    zip(figures(table, run), run.figures, strict=False)
                )
            ),
        )
        for table in tables
    )


def run_scores(found: JudgedRuns) -> dict[str, object]:
    """A table's scores as one of the `sets` of `validate --json`: plain fractions.

    mape, bias, worst, within_15_percent: of the errors of the figures that are judged; kendall_tau,
    and right and wrong pairs: of the order of all figures but the assumed ones, over pairs
    published as different. Each point has `what`, the `predicted` and the `published` figure (which
    other sets call `measured`), their `error`, and whether it was calibrated on or is assumed.
    """
    table, errors = found.table, [figure.error for figure in found.judged]
    compared = [(f.predicted, f.published) for f in found.figures if not f.assumed]
    fitted = [abs(f.error) for f in found.figures if f.calibration]
    return {
        "id": table.id,
        "title": table.title,
        "source": table.source,
        "url": table.url,
        "unit": table.unit,
        "notes": list(table.notes),
        **of_ratios(errors, compared),
        "calibrated_on": {"n": len(fitted), "worst": max(fitted, default=None)},
        "points": [
            {
                "what": figure.what,
                "predicted": figure.predicted,
                "published": figure.published,
                "measured": figure.published,
                "error": figure.error,
                "calibration": figure.calibration,
                "assumed": figure.assumed,
            }
            for figure in found.figures
        ],
    }
