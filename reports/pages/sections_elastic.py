"""What was measured of elastic runs, with their predictions beside it, as a section of the page."""

from __future__ import annotations

from typing import Literal

from reports import elastic_measured, words
from reports.elastic_words import long_duration
from reports.pages import charts_elastic_measured
from reports.pages.sections import Figure, Legend, Section, Tile
from sim.elastic_comparison import ElasticComparison

Origin = Literal["simulated", "measured"]


def measured_section(found: ElasticComparison) -> Section:
    """Every run measured and predicted: iterations of each phase, throughput, loss, tables."""
    own = found.cases[0]
    others = [(f"r{i}", case.name) for i, case in enumerate(found.cases[1:])]
    predicted: Legend = (("predicted", f"{own.name}, predicted"), ("measured", "measured"))
    return Section(
        name="measured",
        topic="Measured",
        claim=_claim(found),
        reading="Predicted is bold, measured are points; every other run has one colour for both. "
        "Errors are predicted over measured, less 1, of training alone: epochs and the "
        "transitions between them, without checkpoints and evaluation.",
        figures=(
            Figure(
                name="measured-throughput",
                title="Samples a second in each epoch: predicted (lines) and measured (points)",
                data=charts_elastic_measured.throughputs(found.cases),
                legend=(*predicted, *others),
            ),
            Figure(
                name="measured-iterations",
                title=f"An iteration of each phase of {own.name}",
                data=charts_elastic_measured.phase_iterations(own),
                legend=(("measured", "measured"), ("predicted", "predicted (simulated)")),
                half=True,
            ),
            Figure(
                name="losses",
                title="Training loss in each epoch (measured)",
                data=charts_elastic_measured.losses(found.cases),
                legend=(("measured", own.name), *others),
                half=True,
            ),
        ),
        tables=(
            elastic_measured.runs_table(found),
            elastic_measured.phases_table(found),
            elastic_measured.transitions_table(found),
            elastic_measured.epochs_table(found),
        ),
        lists=(("How it came out", tuple(_notes(found))),),
    )


def _claim(found: ElasticComparison) -> str:
    own = found.cases[0]
    if found.speedups:
        gain = found.speedups[0]
        start = f"{own.name} is {gain.measured:.2f} times as fast as {gain.other} (measured)"
        if gain.predicted is not None:
            return f"{start}; predicted: {gain.predicted:.2f} times"
        return start
    start = f"{own.name} trained for {long_duration(own.measured_s)} (measured)"
    if own.predicted_s is None:
        return start
    return f"{start}; predicted: {long_duration(own.predicted_s)}"


def _notes(found: ElasticComparison) -> list[str]:
    notes = [f"{elastic_measured.gain_words(gain)}." for gain in found.speedups]
    notes = [f"{note[0].upper()}{note[1:]}" for note in notes]
    for case in found.cases:
        if case.measurement.resumed_from is not None:
            notes.append(f"{case.name} was resumed at epoch {case.measurement.resumed_from}.")
        if not case.whole:
            done = len(case.measurement.epochs)
            notes.append(f"{case.name} was interrupted: {words.plural(done, 'epoch')} are here.")
    if found.note:
        notes.append(f"{found.note[0].upper()}{found.note[1:]}.".replace("..", "."))
    return notes


def measured_tiles(found: ElasticComparison) -> list[Tile]:
    """The figures at the head of the page, each measured one with the simulated one below it."""
    own = found.cases[0]
    off = ""
    if own.error is not None:
        side = "above" if own.error >= 0 else "below"
        off = f"{words.percent(abs(own.error))} {side} the measured"
    epochs = words.plural(len(own.measurement.epochs), "epoch")
    tiles = [_time("Training", own.measured_s, epochs, "measured")]
    if own.predicted_s is not None:
        tiles.append(_time("Training", own.predicted_s, off, "simulated"))
    for gain in found.speedups[:1]:
        label = f"Speed-up over {gain.other}"
        tiles.append(_times(label, gain.measured, "", "measured"))
        if gain.predicted is not None and gain.error is not None:
            side = "above" if gain.error >= 0 else "below"
            about = f"{words.percent(abs(gain.error))} {side} the measured"
            tiles.append(_times(label, gain.predicted, about, "simulated"))
    accuracy = own.measurement.final_accuracy
    if accuracy is not None:
        tiles.append(_accuracy(own.name, accuracy))
        for case in found.cases[1:2]:
            if case.measurement.final_accuracy is not None:
                tiles.append(_accuracy(case.name, case.measurement.final_accuracy))
    return tiles


def _time(label: str, seconds: float, note: str, origin: Origin) -> Tile:
    return Tile(label=label, text=long_duration(seconds), note=note, origin=origin, value=seconds)


def _times(label: str, factor: float, note: str, origin: Origin) -> Tile:
    return Tile(label=label, text=f"{factor:.2f}×", note=note, origin=origin, value=factor)


def _accuracy(name: str, accuracy: float) -> Tile:
    return Tile(
        label=f"Test accuracy, {name}",
        text=words.percent(accuracy),
        note="after the last epoch",
        origin="measured",
        value=accuracy,
    )
