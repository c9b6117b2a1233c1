"""The section on what was measured: both timelines, both errors, and the calibration loop."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from reports import tables, words
from reports.pages import charts, charts_measured, gantt
from reports.pages.sections import Figure, Legend, Section, legend_of, window_note
from sim.comparison import Comparison, LoopRow
from sim.measurement import Measurement
from sim.prediction import Prediction

_NOTHING = Section(
    name="measured",
    topic="Simulated against measured",
    claim="Nothing here is measured: every figure above is simulated",
    reading="Run the scenario with “pipetwin run SCENARIO -o measured.json”, and hold the two "
    "against each other with “pipetwin validate”.",
)


def measured_section(
    prediction: Prediction,
    measurement: Measurement | None,
    comparison: Comparison | None,
    loop: Sequence[LoopRow],
) -> Section:
    """What was measured against what was simulated."""
    if measurement is None and comparison is None and not loop:
        return _NOTHING
    judged = tuple(row for row in loop if row.judged)
    figures: list[Figure] = []
    found = []
    notes: list[str] = []
    if measurement is not None:
        figures.append(_overlay(prediction, measurement))
    if measurement is not None and comparison is not None:
        figures.append(
            Figure(
                name="runs",
                title="Iterations (measured) and their prediction (simulated)",
                data=charts_measured.runs(measurement, comparison),
                legend=_runs_legend(comparison),
                half=True,
            )
        )
    if comparison is not None:
        notes += _errors(comparison)
        notes += _which_runs(prediction, comparison, judged)
        found.append(tables.error_table(comparison))
        if comparison.actions:
            figures.append(
                Figure(
                    name="action-errors",
                    title="Error of each kind of action, by stage (simulated over measured)",
                    data=charts_measured.action_errors(comparison),
                    legend=_kinds_legend(comparison),
                    half=True,
                )
            )
    if loop:
        found.append(tables.loop_table(loop))
        figures.append(
            Figure(
                name="parity",
                title="The calibration loop: predicted (simulated) against measured",
                data=charts_measured.parity(loop),
                legend=(
                    ("predicted", "a judged scenario"),
                    *(
                        (("ring-predicted", "calibrated on, not judged"),)
                        * (len(judged) < len(loop))
                    ),
                    ("line-muted", "where both are equal"),
                ),
            )
        )
    return Section(
        name="measured",
        topic="Simulated against measured",
        claim=_claim(measurement, comparison, judged),
        reading="Errors are simulated over measured, less 1: above zero the simulation is too "
        "slow. An error smaller than the run-to-run spread is within the noise.",
        figures=tuple(figures),
        tables=tuple(found),
        lists=(("Two errors, kept apart", tuple(notes)),) if notes else (),
    )


def _claim(
    measurement: Measurement | None, comparison: Comparison | None, loop: Sequence[LoopRow]
) -> str:
    if comparison is not None:
        side = "above" if comparison.predictive >= 0 else "below"
        return (
            f"The prediction is {words.percent(abs(comparison.predictive))} {side} the measured "
            f"{words.duration(comparison.measured_ns)}; the model's structure alone is "
            f"{words.percent(comparison.structural, signed=True)} off, and runs differ by "
            f"±{words.percent(comparison.measured_spread)}"
        )
    if measurement is not None:
        return f"The measured iteration takes {words.duration(measurement.iteration_ns)}"
    middle = median(abs(row.predictive_error) for row in loop)
    worst = max(abs(row.predictive_error) for row in loop)
    return (
        f"Over {words.plural(len(loop), 'scenario')} the median predictive error is "
        f"{words.percent(middle)}, the largest {words.percent(worst)}"
    )


def _overlay(prediction: Prediction, measurement: Measurement) -> Figure:
    cut = gantt.cut_of(prediction.scenario)
    data = gantt.pair_data(prediction.timeline, measurement.typical, prediction.program, cut)
    spans = (*prediction.timeline.spans, *measurement.typical.spans)
    return Figure(
        name="overlay",
        title="Both timelines: of each rank the simulated above, the measured below",
        data=data,
        kind="timeline",
        legend=legend_of(data, sorted({gantt.style_of(span) for span in spans})),
        note=" ".join(
            [
                "Measured is the undisturbed iteration nearest the median.",
                window_note(data),
            ]
        ).strip(),
    )


def _errors(comparison: Comparison) -> list[str]:
    source = "the device model, not calibrated"
    if comparison.calibrated:
        source = "a profile calibrated on other runs, never from this run"
    if comparison.in_sample:
        source = "a profile calibrated on runs of this very scenario, so this is a fit's error"
    disturbed = f", {words.disturbed(comparison.num_disturbed, comparison.num_iterations)}"
    return [
        f"Structural error {words.percent(comparison.structural, signed=True)}: the run's own "
        "durations replayed through the engine; what differs is what the model believes to wait "
        "for what.",
        f"Predictive error {words.percent(comparison.predictive, signed=True)}: durations from "
        f"{source}.",
        f"Run-to-run spread ±{words.percent(comparison.measured_spread)}: half the interquartile "
        f"range of {words.plural(comparison.num_iterations, 'iteration')}"
        f"{disturbed if comparison.num_disturbed else ''}; no prediction can beat it.",
    ]


def _which_runs(
    prediction: Prediction, comparison: Comparison, loop: Sequence[LoopRow]
) -> list[str]:
    """Which runs costs were calibrated on, apart from those that are judged."""
    profile = prediction.profile
    if profile is None or not comparison.calibrated:
        return []
    judged = f"the {words.plural(comparison.num_iterations, 'iteration')} of this run"
    if loop:
        names = ", ".join(row.scenario for row in loop)
        judged = f"the runs of {names}"
    apart = "" if comparison.in_sample else ", and none of them was calibrated on"
    return [
        f"Calibration runs, not judged: {profile.provenance}.",
        f"Judged: {judged}{apart}.",
    ]


def _runs_legend(comparison: Comparison) -> Legend:
    measured: Legend = (("measured", "a measured iteration"),)
    if comparison.num_disturbed:
        left_out = comparison.num_disturbed < comparison.num_iterations
        name = "a disturbed one, left out of the median" if left_out else "a disturbed one"
        measured += (("ring-measured", name),)
    return (
        *measured,
        ("line-measured", "median measured"),
        ("line-predicted", "predicted (simulated)"),
    )


def _kinds_legend(comparison: Comparison) -> Legend:
    names = dict.fromkeys(words.family(a.kind.name.lower()) for a in comparison.actions)
    return tuple((name, text) for name, text in charts.RANK_PARTS.items() if name in names)
