"""render_variants: a scenario's variants side by side, measured and predicted, as one page."""

from __future__ import annotations

from reports import words
from reports.pages import charts_slices, gantt
from reports.pages.assumptions import assumptions_section
from reports.pages.page import fill
from reports.pages.sections import (
    Figure,
    Legend,
    Section,
    Tile,
    legend_of,
    scenario_section,
    window_note,
)
from reports.variant_words import slices_table, variants_json, variants_table, verdict
from scenarios.schema import Scenario
from sim.cost.profile import Profile
from sim.cost.shapes import Pass, family_of, shape_of
from sim.cost.slice_fit import PassFit, SliceFit
from sim.loop import LoopCase
from sim.prediction import summary
from sim.variants import VariantsResult, slicing_text


def render_variants(found: VariantsResult, command: str = "") -> str:
    """Render the variants of a scenario as HTML text (see reports.pages.page).

    command: what the user typed, for reproducing it.
    """
    best = _best(found)
    figures = summary(best.prediction)
    about = best.prediction.scenario if found.loaded is None else found.loaded.scenario
    return fill(
        title=f"{found.name}: its variants side by side",
        name=about.name,
        description=about.description,
        verdict=verdict(found) + ".",
        tiles=_tiles(found),
        sections=(
            _beside(found),
            _timelines(found),
            *_slices(found),
            scenario_section(best.prediction, best.loaded if found.loaded is not None else None),
            assumptions_section(best.prediction, figures, command),
        ),
        summary=variants_json(found),
    )


def _best(found: VariantsResult) -> LoopCase:
    return min(found.cases, key=lambda case: case.row.measured_ns)


def _tiles(found: VariantsResult) -> list[Tile]:
    """Of every variant what was measured and what was predicted."""
    tiles = []
    for case in found.cases:
        row = case.row
        measured, predicted = found.speedups(case)
        side = "above" if row.predictive_error >= 0 else "below"
        off = f"{words.percent(abs(row.predictive_error))} {side}"
        first = case is found.cases[0]
        tiles.append(
            Tile(
                label=f"{case.variant}, iteration time",
                text=words.duration(row.measured_ns),
                note=f"±{words.percent(row.run_to_run_spread)} from run to run"
                if first
                else f"{measured:.2f}× as fast as {found.cases[0].variant}",
                origin="measured",
                value=row.measured_ns / 1e9,
            )
        )
        tiles.append(
            Tile(
                label=f"{case.variant}, iteration time",
                text=words.duration(row.predicted_ns),
                note=off if first else f"{off}; {predicted:.2f}×",
                value=row.predicted_ns / 1e9,
            )
        )
    return tiles


def _beside(found: VariantsResult) -> Section:
    worst = max(found.cases, key=lambda case: abs(case.row.predictive_error))
    structural = max(abs(case.row.structural_error) for case in found.cases)
    rounds = found.cases[0].row.rounds
    how = "medians"
    if rounds > 1:
        how = (
            f"each the median of {rounds} rounds, pair by pair, so that an error need not be that "
            "of the two times beside it"
        )
    return Section(
        name="variants",
        topic="Side by side",
        claim=f"The predictions are at most {words.percent(abs(worst.row.predictive_error))} off "
        f"({worst.variant}); the model's structure alone at most {words.percent(structural)}",
        reading="Errors are simulated over measured, less 1: above zero the simulation is too "
        f"slow. Times, errors and speed-ups are {how}; speed-ups are over "
        f"{found.cases[0].variant}. The bars' whiskers are quartiles of measured iterations.",
        figures=(
            Figure(
                name="variants",
                title="Iteration time of every variant, measured and predicted (simulated)",
                data=charts_slices.variant_times(found),
                legend=(("measured", "measured"), ("predicted", "predicted (simulated)")),
            ),
        ),
        tables=(variants_table(found),),
        lists=(("How it was predicted", tuple(_notes(found))),),
    )


def _notes(found: VariantsResult) -> list[str]:
    notes = [f"{found.note[0].upper()}{found.note[1:]}."] if found.note else []
    kept = sum(case.comparison.num_iterations for case in found.cases)
    disturbed = sum(case.comparison.num_disturbed for case in found.cases)
    notes.append(f"Of all variants together: {words.disturbed(disturbed, kept)}.")
    if any(case.comparison.in_sample for case in found.cases):
        notes.append(
            "The profile was calibrated on runs of these very variants, so the predictive errors "
            "are those of a fit."
        )
    notes += [f"{name}: {check}" for name, check in found.checks.items()]
    return notes


def _timelines(found: VariantsResult) -> Section:
    named, used = [], set()
    for case in found.cases:
        cut = gantt.cut_of(case.loaded.scenario)
        program = case.prediction.program
        measured = case.measurement.typical
        slices = slicing_text(case.loaded.scenario).replace(" x ", " × ")
        named.append(
            (
                case.variant if slices == case.variant else f"{case.variant}: {_short(slices)}",
                gantt.Track(case.prediction.timeline, program, cut),
                gantt.Track(measured, program, cut),
            )
        )
        spans = (*case.prediction.timeline.spans, *measured.spans)
        used |= {gantt.style_of(span) for span in spans}
    data = gantt.stacked_data(named)
    best, first = _best(found), found.cases[0]
    claim = f"{best.variant} takes {words.duration(best.row.measured_ns)} an iteration (measured)"
    if best is not first:
        lost = first.prediction.figures.bubble_fraction
        left = best.prediction.figures.bubble_fraction
        claim = (
            f"The bubble, {words.percent(lost)} of the rank-time in {first.variant}, is "
            f"{words.percent(left)} in {best.variant} (simulated)"
        )
    return Section(
        name="timelines",
        topic="Timelines",
        claim=claim,
        reading="All variants on one scale of time. Of each rank the simulated iteration is above, "
        "the measured below; a block is a pass with the number of its slice, hatching is time in "
        "which the rank waits. Point at a block for its tokens and what it waited for.",
        figures=(
            Figure(
                name="timelines",
                title="Every variant: of each rank the simulated above, the measured below",
                data=data,
                kind="timeline",
                legend=legend_of(data, sorted(used)),
                note=" ".join(
                    [
                        "Measured is the undisturbed iteration nearest the median; simulated is "
                        "drawn with the median of every action.",
                        window_note(data),
                    ]
                ).strip(),
            ),
        ),
    )


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _slices(found: VariantsResult) -> tuple[Section, ...]:
    """What slices take, against their tokens and context, with the fit; and the errors of all."""
    figures = []
    notes: tuple[str, ...] = ()
    scenario = found.cases[0].loaded.scenario
    fit = fit_of(found.profile, scenario)
    model = scenario.model
    if fit is not None and model is not None and (passes := _layer(fit)):
        contexts = charts_slices.fit_contexts(model.sequence)
        legend: Legend = tuple(
            (f"r{i}", f"after {words.count(c)} tokens" if c else "the first of its sequence")
            for i, c in enumerate(contexts)
        )
        figures.append(
            Figure(
                name="fit",
                title="A layer's time by a slice's tokens: the fit (lines), and what was measured",
                data=charts_slices.fitted_times(passes, model.sequence, scenario.plan.micro_batch),
                legend=legend,
                note="Points are of the calibration runs, in the colour of the nearest context.",
                half=True,
            )
        )
        notes = fit.lines()
    figures.append(
        Figure(
            name="slice-errors",
            title="Error of each kind of pass, by the tokens of its slice",
            data=charts_slices.slice_errors(found),
            legend=tuple((f"r{i % 6}", case.variant) for i, case in enumerate(found.cases)),
            half=bool(figures),
        )
    )
    return (
        Section(
            name="slices",
            topic="Slices",
            claim=_slices_claim(fit),
            reading="A slice's time grows with its tokens and with the context it attends to; the "
            "errors are those of the median pass, predicted over measured, less 1.",
            figures=tuple(figures),
            tables=(slices_table(found),),
            lists=(("The fit of a layer's time, t(b, l, c)", notes),) if notes else (),
        ),
    )


def _slices_claim(fit: SliceFit | None) -> str:
    if fit is None or fit.median_error is None:
        return "What each slice takes, predicted and measured"
    return (
        "What a slice takes by its tokens and context is fitted with a median error of "
        f"{words.percent(fit.median_error)}"
    )


def fit_of(profile: Profile | None, scenario: Scenario) -> SliceFit | None:
    """A profile's fit for a scenario's shapes; None where it has none."""
    if profile is None or scenario.model is None:
        return None
    return profile.slice_fits.get(family_of(shape_of(scenario)))


def _layer(fit: SliceFit) -> list[PassFit]:
    """The fits of a layer's forward and whole backward pass; none where either is missing."""
    names: tuple[Pass, ...] = ("forward", "backward")
    if ("layer", "backward") not in fit.passes:
        names = ("forward", "backward_input", "backward_weight")
    found = [fit.passes.get(("layer", name)) for name in names]
    return [own for own in found if own is not None] if all(found) else []
