"""The section on cost and days: what training takes at the predicted speed, and where it goes."""

from __future__ import annotations

from dataclasses import replace

from reports import tables, what_if_words, words
from reports.pages import charts_cost
from reports.pages.sections import Figure, Section
from reports.pages.sections_training import has_training, training_section
from reports.tables import Cell, Summary, Table
from reports.training_words import days
from reports.words import NBSP
from sim.prediction import Prediction
from sim.timeline.figures import BUBBLE
from sim.what_if.found import WhatIf

BILLION = 1e9
TOPIC = "Cost and days"


def cost_section(
    prediction: Prediction, summary: Summary, what_if: WhatIf | None = None
) -> Section | None:
    """Days, device hours and dollars; None where the scenario has no tokens to count.

    Of a run with failures, checkpoints or slow devices the section of `sections_training`, with
    where its hours go.
    """
    if summary["tokens_per_s"] is None:
        return None
    elsewhere = _elsewhere(prediction, what_if)
    unit = _unit(prediction, summary)
    hours = Figure(
        name="cost-by-category",
        title=f"Where the {unit} go (simulated)",
        data=charts_cost.hours(_hours(prediction, summary), unit),
        half=bool(elsewhere),
    )
    if has_training(prediction):
        own = training_section(prediction)
        return replace(
            own,
            topic=TOPIC,
            figures=(*own.figures, hours, *elsewhere),
            tables=(*own.tables, _hours_table(prediction, summary)),
        )
    return Section(
        name="cost",
        topic=TOPIC,
        claim=_claim(prediction, summary),
        reading="Iterations as fast as the predicted one, one after another: without failures, "
        "checkpoints and slow devices, which a scenario's “training” section can tell of.",
        figures=(hours, *elsewhere),
        tables=(_figures_table(prediction, summary), _hours_table(prediction, summary)),
    )


def _elsewhere(prediction: Prediction, what_if: WhatIf | None) -> tuple[Figure, ...]:
    """Days and dollars on other numbers of devices, where both are known."""
    points = [] if what_if is None else charts_cost.priced(what_if)
    if len(points) < 2:
        return ()
    return (
        Figure(
            name="cost-and-days",
            title="The whole run on other numbers of devices, the same batch (simulated)",
            data=charts_cost.days_and_dollars(points),
            legend=(("r1", "a number of devices"), ("ring-predicted", "as given")),
            half=True,
            note=what_if_words.without_stragglers(prediction),
        ),
    )


def _devices(prediction: Prediction) -> str:
    scenario = prediction.scenario
    if scenario.cluster is None or scenario.cluster.device.kind == "cpu":
        return words.plural(scenario.plan.num_devices, "device")
    return f"{words.count(scenario.plan.num_devices)} {scenario.cluster.device.name}"


def _price(prediction: Prediction) -> float | None:
    cluster = prediction.scenario.cluster
    return cluster.price_per_device_hour if cluster is not None else None


def _per_billion_s(summary: Summary) -> float:
    return float(BILLION / summary["tokens_per_s"])


def _total_hours(prediction: Prediction, summary: Summary) -> float:
    """Device hours of the whole run, of a billion tokens where it has no length."""
    if summary["training_gpu_hours"] is not None:
        return float(summary["training_gpu_hours"])
    return _per_billion_s(summary) / 3600 * prediction.scenario.plan.num_devices


def _unit(prediction: Prediction, summary: Summary) -> str:
    what = "dollars" if _price(prediction) is not None else "device hours"
    if summary["training_gpu_hours"] is None:
        return f"{what} of a billion tokens"
    return f"{what} of training as predicted" if has_training(prediction) else what


def _hours(prediction: Prediction, summary: Summary) -> dict[str, float]:
    """Dollars by category, device hours where a price is unknown."""
    total = _total_hours(prediction, summary) * (_price(prediction) or 1.0)
    return {name: part * total for name, part in summary["breakdown"].items() if part}


def _claim(prediction: Prediction, summary: Summary) -> str:
    training, total = prediction.scenario.training, _total_hours(prediction, summary)
    price = _price(prediction)
    if training is not None:
        what = f"{_tokens(training.tokens)} take {days(summary['training_days'])}"
    else:
        what = f"A billion tokens take {days(_per_billion_s(summary) / 86_400)}"
    text = f"{what} on {_devices(prediction)}: {words.significant(total)} device hours"
    if price is not None:
        text += f" or {words.dollars(total * price)}"
    name = max(_lost(summary), key=_lost(summary).__getitem__, default=None)
    if name is None:
        return text
    lost = _lost(summary)[name]
    worth = words.dollars(total * price * lost) if price is not None else words.percent(lost)
    what = "the pipeline bubble" if name == BUBBLE else words.CATEGORY_NAMES[name]
    return f"{text}; {worth} of it {'go' if price is not None else 'goes'} to {what}"


def _lost(summary: Summary) -> dict[str, float]:
    """Shares of time in which nothing is computed."""
    names = words.CATEGORY_NAMES
    return {
        name: part
        for name, part in summary["breakdown"].items()
        if part and words.family(name) in ("bubble", "communication", "messages") and name in names
    }


def _tokens(tokens: int) -> str:
    """A number of tokens: `300 billion tokens`."""
    for unit, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if tokens >= unit:
            return f"{words.significant(tokens / unit)}{NBSP}{name} tokens"
    return f"{tokens:,}{NBSP}tokens"


def _figures_table(prediction: Prediction, summary: Summary) -> Table:
    scenario, price = prediction.scenario, _price(prediction)
    assert scenario.model is not None
    per_s, devices = summary["tokens_per_s"], scenario.plan.num_devices
    batch = scenario.plan.num_sequences * scenario.model.sequence
    billion = _per_billion_s(summary)
    rows: list[tuple[str, Cell]] = []
    if scenario.training is not None:
        tokens = scenario.training.tokens
        run_days, run_hours = summary["training_days"], summary["training_gpu_hours"]
        rows += [
            ("tokens of the run", Cell(text=words.count(tokens), value=tokens)),
            ("iterations", Cell(text=words.count(tokens / batch), value=tokens / batch)),
            ("days", Cell(text=days(run_days), value=run_days, figure="training_days")),
            (
                "device hours",
                Cell(text=words.count(run_hours), value=run_hours, figure="training_gpu_hours"),
            ),
        ]
        if price is not None:
            cost, name = summary["training_cost_dollars"], "training_cost_dollars"
            rows.append(("cost", Cell(text=words.dollars(cost), value=cost, figure=name)))
    rows += [
        ("tokens of an iteration", Cell(text=words.count(batch), value=batch)),
        (
            "tokens a second",
            Cell(text=words.significant(per_s), value=per_s, figure="tokens_per_s"),
        ),
        ("a billion tokens take", Cell(text=days(billion / 86_400), value=billion / 86_400)),
        ("device hours of a billion tokens", _number(billion / 3600 * devices)),
    ]
    if price is not None:
        dollars = billion / 3600 * devices * price
        hour = Cell(text=f"${price:.2f}", value=price)
        rows += [
            ("cost of a billion tokens", Cell(text=words.dollars(dollars), value=dollars)),
            ("price of a device hour", hour),
        ]
    return Table(
        caption="Training at this speed (simulated)",
        columns=("Figure", "Value"),
        rows=tuple((tables.text(name), cell) for name, cell in rows),
    )


def _number(value: float) -> Cell:
    return Cell(text=words.significant(value), value=value)


def _hours_table(prediction: Prediction, summary: Summary) -> Table:
    total, price = _total_hours(prediction, summary), _price(prediction)
    shares = sorted(summary["breakdown"].items(), key=lambda item: -item[1])
    rows = []
    for name, part in [*((n, p) for n, p in shares if p), ("sum", 1.0)]:
        spent = _number(total * part)
        if price is not None:
            dollars = total * part * price
            spent = Cell(text=words.dollars(dollars), value=dollars)
        key = None if name == "sum" else f"breakdown.{name}"
        what = tables.text(words.CATEGORY_NAMES.get(name, name))
        rows.append((what, spent, tables.share(part, key)))
    return Table(
        caption=f"Where the {_unit(prediction, summary)} go",
        columns=("Category", "Device hours" if price is None else "Cost", "Share"),
        rows=tuple(rows),
    )
