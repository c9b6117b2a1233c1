"""Tiles at the head of an iteration's page: its figures, and those of the training run."""

from __future__ import annotations

from reports import words
from reports.pages.sections import Tile
from reports.tables import Summary
from reports.training_words import between
from reports.training_words import days as days_text
from sim.prediction import Prediction


def tiles(prediction: Prediction, summary: Summary, measured_ns: int | None) -> list[Tile]:
    """The figures at the head of the page; those that are unknown are left out."""
    scenario = prediction.scenario
    gpu = "device" if scenario.cluster is None or scenario.cluster.device.kind == "cpu" else "GPU"
    note = ""
    if prediction.spread_ns is not None:
        low, _, high = prediction.spread_ns
        note = f"half of all draws: {words.duration(low)} to {words.duration(high)}"
    elif summary["sequences_per_s"] is not None:
        note = f"{words.significant(summary['sequences_per_s'])} sequences a second"
    iteration = summary["iteration_s"]
    found = [
        _tile(
            "Iteration time",
            words.duration(prediction.iteration_ns),
            note,
            iteration,
            "iteration_s",
        )
    ]
    if measured_ns is not None:
        off = prediction.iteration_ns / measured_ns - 1
        side = "above" if off >= 0 else "below"
        found.append(
            Tile(
                label="Iteration time",
                text=words.duration(measured_ns),
                note=f"the prediction is {words.percent(abs(off))} {side}",
                origin="measured",
                value=measured_ns / 1e9,
            )
        )

    def add(label: str, key: str, shown: str, about: str = "") -> None:
        if summary[key] is not None:
            found.append(_tile(label, shown, about, summary[key], key))

    for label, key in (("Model", "model_tflops_per_gpu"), ("Hardware", "hardware_tflops_per_gpu")):
        about = "with recomputation" if label == "Hardware" else ""
        add(f"{label} throughput per {gpu}", key, words.tflops(summary[key]), about)
    add("Model FLOPs utilisation", "mfu", words.percent(summary["mfu"]), _hfu(summary))
    ideal = f"{words.percent(summary['bubble_over_ideal'])} of ideal time on the busiest rank"
    add("Pipeline bubble", "bubble_fraction", words.percent(summary["bubble_fraction"]), ideal)
    exposed = summary["exposed_communication_fraction"]
    key = "exposed_communication_fraction"
    about = "in collectives that nothing hides, or waiting on transfers under way"
    add("Exposed communication", key, words.percent(exposed), about)
    if summary["memory_capacity_bytes"] is not None and prediction.memory:
        rank, peak, capacity = words.tightest(prediction)
        about = f"of {words.size(capacity)}, on rank {rank}"
        key = f"ranks.{rank}.peak_memory_bytes"
        found.append(_tile("Peak memory", words.size(peak), about, peak, key))
    add(
        "Throughput",
        "tokens_per_s",
        f"{words.significant(summary['tokens_per_s'])}{words.NBSP}tokens/s",
    )
    plain = prediction.training is None or prediction.training.is_plain
    hours = f"{words.count(summary['training_gpu_hours'])} {gpu} hours"
    days = f"{words.significant(summary['training_days'], 3)}{words.NBSP}days"
    found += _expected_tiles(prediction)
    add("Whole training run" if plain else "Without failures", "training_days", days, hours)
    if scenario.cluster is not None and scenario.cluster.price_per_device_hour is not None:
        about = f"at ${scenario.cluster.price_per_device_hour:.2f} per {gpu} hour"
        about += "" if plain else ", without failures"
        key = "training_cost_dollars"
        add("Cost of training", key, words.dollars(summary[key]), about)
    return found


def _expected_tiles(prediction: Prediction) -> list[Tile]:
    """Days and money of the training run with what may happen to it, where something may."""
    run = prediction.training
    if run is None or run.is_plain or run.expected_days is None:
        return []
    days, note = run.expected_days, f"{words.percent(run.goodput)} of it training as predicted"
    if run.days is not None:
        note = f"90{words.NBSP}% of runs: {between(run.days.low, run.days.high)}"
    found = [_tile("Whole training run", days_text(days), note, days, "training.expected_days")]
    if run.dollars_a_day is not None:
        cost = days * run.dollars_a_day
        note = f"{words.count(days * run.hours_a_day)} device hours"
        key = "training.expected_dollars"
        found.append(_tile("Expected cost of training", words.dollars(cost), note, cost, key))
    return found


def _tile(label: str, shown: str, note: str, value: float | None, figure: str) -> Tile:
    return Tile(label=label, text=shown, note=note, value=value, figure=figure)


def _hfu(summary: Summary) -> str:
    return f"{words.percent(summary['hfu'])} with recomputation (HFU)" if summary["hfu"] else ""
