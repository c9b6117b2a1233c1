"""render_published, render_log: predictions held against what others measured, as one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports import validation_tables, validation_words, words
from reports.pages import charts_validation
from reports.pages.page import fill
from reports.pages.sections import Figure, Legend, Section, Tile
from reports.validation_points import (
    LETTERS,
    Held,
    Plotted,
    Set,
    held_points,
    plotted_by_name,
    plotted_rows,
    plotted_runs,
)
from sim.published import JudgedTable
from sim.published_elastic import JudgedRuns

_KIND_TITLES = {
    "time": "Predicted time (simulated) against the {what} one",
    "ratio": "Predicted speed-up (simulated) against the {what} one",
    "rate": "Predicted rate (simulated) against the {what} one",
}
Found = Mapping[str, Sequence[Set]]


def render_published(
    tables: Sequence[JudgedTable],
    runs: Sequence[JudgedRuns],
    found: Mapping[str, Any],
    *,
    command: str = "",
) -> str:
    """Render published tables beside their predictions as HTML text (see reports.pages.page).

    found: what `validate --published --json` prints of them (sim.published_sets).
    command: what the user typed, for reproducing it.
    """
    sets: Sequence[Set] = found["sets"]
    points = held_points(sets)
    return fill(
        title=f"Published results predicted: {_ids(sets)}",
        name=_ids(sets),
        description="Every figure of published tables, with the one predicted for it.",
        fits=True,
        verdict=validation_words.published_verdict(sets, points),
        tiles=published_tiles(found, points),
        sections=(
            overview_section(sets, found["pooled"], points, "published"),
            *(
                _set_section(number, one, points, _plotted(one, tables, runs))
                for number, one in enumerate(sets)
            ),
            about_section(command),
        ),
        summary=found,
    )


def render_log(one: Set, notes: Sequence[str], device: str, *, command: str = "") -> str:
    """Render a log of iteration times beside its predictions as HTML text.

    one, notes: as `validate --runs --json` prints them. device: what the runs are taken as on.
    """
    points = held_points([one])
    return fill(
        title=f"Runs of {one['id']} predicted",
        name=str(one["id"]),
        description=f"Whole-iteration times of a log, taken as on {device}.",
        fits=True,
        verdict=validation_words.log_verdict(one),
        tiles=log_tiles(one),
        sections=(*log_sections(0, one, points), about_section(command, notes)),
        summary={"sets": [one], "notes": list(notes)},
    )


def _ids(sets: Sequence[Set]) -> str:
    names = [str(one["id"]) for one in sets]
    return ", ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} more"


def _plotted(one: Set, tables: Sequence[JudgedTable], runs: Sequence[JudgedRuns]) -> Plotted:
    for table in tables:
        if table.table.id == one["id"]:
            return plotted_rows(one, table)
    for judged in runs:
        if judged.table.id == one["id"]:
            return plotted_runs(one, judged)
    return plotted_by_name(one)


def published_tiles(found: Mapping[str, Any], points: Sequence[Held]) -> list[Tile]:
    """The figures at the head of the page."""
    made: list[Tile] = []
    pooled = found["pooled"]
    for number, one in enumerate(pooled):
        if one["id"] != "all" or not one["n"]:
            continue
        at = f"pooled.{number}"
        made.append(
            _tile(
                "Mean error of times",
                words.percent(one["mape"]),
                one["mape"],
                f"{at}.mape",
                f"of {one['n']} judged rows",
            )
        )
        made.append(
            _tile(
                "Bias",
                words.percent(one["bias"], signed=True),
                one["bias"],
                f"{at}.bias",
                "mean error with its sign",
            )
        )
        orders = one["orders"]
        if orders["pairs"]:
            made.append(
                _tile(
                    "Clear orders right",
                    words.percent(orders["share"]),
                    orders["share"],
                    f"{at}.orders.share",
                    f"{orders['right']} of {orders['pairs']} pairs",
                )
            )
    judged = [p for p in points if p.judged]
    if judged:
        near = sum(abs(p.error) <= 0.10 for p in judged)
        made.append(
            _tile(
                "Within 10 %",
                f"{near} of {len(judged)}",
                near / len(judged),
                None,
                "judged points, speed-ups and rates among them",
            )
        )
    fitted = sum(p.fitted for p in points)
    if fitted:
        made.append(_tile("Fitted to", words.count(fitted), fitted, None, "shown, not judged"))
    made.append(
        _tile(
            "Published figures",
            words.count(len(points)),
            len(points),
            None,
            words.plural(len(found["sets"]), "set"),
        )
    )
    return made


def log_tiles(one: Set) -> list[Tile]:
    """The figures at the head of a log's page."""
    made = [
        _tile(
            "Mean error",
            words.percent(one["mape"]),
            one["mape"],
            "sets.0.mape",
            f"of {words.plural(one['n'], 'run')}",
        ),
        _tile(
            "Bias",
            words.percent(one["bias"], signed=True),
            one["bias"],
            "sets.0.bias",
            "mean error with its sign",
        ),
        _tile("Worst", words.percent(one["worst"]), one["worst"], "sets.0.worst"),
    ]
    if one["kendall_tau"] is not None:
        made.append(
            _tile(
                "Kendall's tau",
                f"{one['kendall_tau']:.2f}",
                one["kendall_tau"],
                "sets.0.kendall_tau",
                "of plans for the same work",
            )
        )
    if one["regret"] is not None:
        made.append(
            _tile(
                "Regret",
                words.percent(one["regret"]),
                one["regret"],
                "sets.0.regret",
                "over the best plan of each group",
            )
        )
    return made


def _tile(label: str, shown: str, value: float | None, figure: str | None, note: str = "") -> Tile:
    return Tile(label=label, text=shown, note=note, value=value, figure=figure)


def overview_section(
    sets: Sequence[Set], pooled: Sequence[Set], points: Sequence[Held], what: str
) -> Section:
    """All sets together: parity, errors, scores."""
    ids = list(dict.fromkeys(str(one["id"]) for one in sets))
    figures = []
    for kind, title in _KIND_TITLES.items():
        own = [p for p in points if p.kind == kind]
        if own:
            figures.append(
                Figure(
                    name=f"parity-{kind}",
                    title=title.format(what=what),
                    data=charts_validation.parity(own, what, ids),
                    legend=parity_legend(own, ids),
                )
            )
    figures.append(
        Figure(
            name="errors",
            title="The error of every prediction (simulated)",
            data=charts_validation.errors(points, ids),
        )
    )
    return Section(
        name="overview",
        topic="Accuracy",
        claim=validation_words.overview_claim(points),
        reading="On the dotted line a prediction is right; the band is 10 % to either side. "
        "Open grey squares are not judged: a profile, or the catalogue's device, was fitted to "
        "them, or their source leaves open what decides them. Point at one for what it is.",
        figures=tuple(figures),
        tables=(validation_tables.summary_table(sets, pooled),),
    )


def parity_legend(points: Sequence[Held], ids: Sequence[str]) -> Legend:
    """A colour a set, and a symbol where colours come again."""
    found = []
    shown = list(dict.fromkeys(p.set_id for p in points if p.judged))
    for set_id in shown:
        number = ids.index(set_id)
        tint, _, symbol = charts_validation.tint_of(number)
        found.append((tint, set_id if len(ids) <= 6 else f"{set_id} ({symbol})"))
    if any(not p.judged for p in points):
        found.append(("grey", "open squares: not judged"))
    return tuple(found)


def _set_section(number: int, one: Set, points: Sequence[Held], plotted: Plotted) -> Section:
    """A published table: its points as the paper plots them, its tables, and what was taken."""
    own = [p for p in points if p.place[0] == number]
    is_rows = "memory_points" in one
    figures = [
        Figure(
            name=f"set-{number}",
            title=f"{one['id']}: {one['title']} (predicted: simulated; published: measured)",
            data=charts_validation.as_published(one, plotted),
            legend=_series_legend(one, plotted),
            note=_letters(plotted),
        )
    ]
    made = [
        validation_tables.row_table(one, number)
        if is_rows
        else validation_tables.ratio_table(one, number)
    ]
    gain = one.get("gain")
    if gain and gain["pairs"]:
        figures.append(
            Figure(
                name=f"gain-{number}",
                title=f"Gain of {gain['what']} (predicted: simulated; published: measured)",
                data=charts_validation.gains(gain),
                legend=(("ring-predicted", "predicted"), ("measured", "published")),
            )
        )
        made.append(validation_tables.gain_table(one, number))
    if is_rows:
        made.append(validation_tables.score_table(one, number))
    lists = []
    if notes := validation_words.found_notes(one):
        lists.append(("What follows from it", notes))
    if one.get("notes"):
        told = tuple(_sentence(note) for note in one["notes"])
        lists.append(("What the table leaves unstated, and what was taken", told))
    return Section(
        name=f"set-{number}-section",
        topic=str(one["id"]),
        claim=validation_words.set_claim(one, own),
        reading=f"{one['source']}, {one['url']}. Filled marks are the published figures, rings "
        "those predicted.",
        figures=tuple(figures),
        tables=tuple(table for table in made if table.rows),
        lists=tuple(lists),
    )


def _series_legend(one: Set, plotted: Plotted) -> Legend:
    found = [(f"r{number % 6}", name) for number, name in enumerate(plotted.series) if name]
    every = [*one["points"], *one.get("memory_points", ())]
    if any(p.get("calibration") or p.get("assumed") for p in every):
        found.append(("grey", "open squares: published, not judged"))
    if one.get("memory_points"):
        found.append(("grey", "crosses: predicted; did not fit when tried"))
    return tuple(found)


def _letters(plotted: Plotted) -> str:
    return "; ".join(f"{letter}: {LETTERS[letter]}" for letter in plotted.letters)


def _sentence(note: str) -> str:
    text = note[:1].upper() + note[1:]
    return text if text.endswith(".") else f"{text}."


def log_sections(number: int, one: Set, points: Sequence[Held]) -> tuple[Section, ...]:
    """A log's runs: parity and errors, scores beside baselines, every run, the worst."""
    own = [p for p in points if p.place[0] == number]
    fitted = one["sample"] == "in-sample"
    name = str(one["id"]).removesuffix(" (in-sample)")
    against = (
        "Fitted (simulated) against measured time"
        if fitted
        else "Predicted (simulated) against measured time"
    )
    scores = validation_tables.score_table(one, number)
    return (
        Section(
            name=f"runs-{number}",
            topic=f"Fitted to {name}" if fitted else "Judged",
            claim=validation_words.set_claim(one, own)
            if fitted
            else validation_words.overview_claim(own),
            reading="On the dotted line a prediction is right; the band is 10 % to either side. "
            + (
                "These are the very runs that were fitted to, so they judge nothing. "
                if fitted
                else ""
            )
            + f"Baselines are fitted to {one['baselines_fitted_to']}.",
            figures=(
                Figure(
                    name=f"parity-{number}",
                    title=against,
                    data=charts_validation.parity(own, "measured", [str(one["id"])]),
                    half=True,
                ),
                Figure(
                    name=f"errors-{number}",
                    title="The error of every run (simulated against measured)",
                    data=charts_validation.errors_by_size(own),
                    half=True,
                ),
            ),
            tables=tuple(
                table
                for table in (
                    scores,
                    validation_tables.worst_table(one, number),
                    validation_tables.run_table(one, number),
                )
                if table.rows
            ),
        ),
    )


def about_section(command: str, notes: Sequence[str] = ()) -> Section:
    """How to read errors, and the command."""
    return Section(
        name="about",
        topic="Reading",
        claim="What the scores are, and how to make this page again",
        reading=validation_words.ERRORS,
        lists=(("Of the reading", tuple(_sentence(note) for note in notes)),) if notes else (),
        code=command,
    )
