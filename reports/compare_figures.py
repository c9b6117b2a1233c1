"""Figures of two iterations as text: their names, their differences, their changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from reports import words
from reports.training_words import days
from reports.words import NBSP, UNKNOWN, count, dollars, duration, percent, significant, size
from sim.differences import FigureDifference

MINUS = "−"


@dataclass(frozen=True, slots=True)
class FigureWords:
    """How a figure is told: its name, its text, that of a difference where it is another (then a
    change in percent would be read as that); whether less of it is better (None: neither)."""

    name: str
    text: Callable[[float], str]
    gap: Callable[[float], str] | None = None
    less_is_better: bool | None = True

    @property
    def relative(self) -> bool:
        """Whether its change is told in percent."""
        return self.gap is not _points


def _points(fraction: float) -> str:
    """A difference of shares: `4.2 points`, of a hundred."""
    return f"{percent(fraction).removesuffix('%')}points"


def _days(number: float) -> str:
    return f"{significant(number, 3)}{NBSP}days"


FIGURES: Mapping[str, FigureWords] = {
    "iteration_s": FigureWords("Iteration time", lambda s: duration(s * 1e9)),
    "sequences_per_s": FigureWords("Sequences a second", significant, less_is_better=False),
    "tokens_per_s": FigureWords("Tokens a second", significant, less_is_better=False),
    "tokens_per_s_per_device": FigureWords(
        "Tokens a second per device", significant, less_is_better=False
    ),
    "model_tflops_per_gpu": FigureWords(
        "Model throughput per device", words.tflops, less_is_better=False
    ),
    "hardware_tflops_per_gpu": FigureWords(
        "Hardware throughput per device", words.tflops, less_is_better=None
    ),
    "mfu": FigureWords("Model FLOPs utilisation", percent, _points, False),
    "bubble_fraction": FigureWords("Pipeline bubble", percent, _points),
    "exposed_communication_fraction": FigureWords("Exposed communication", percent, _points),
    "peak_memory_bytes": FigureWords("Peak memory, fullest rank", size),
    "sent_bytes_per_device": FigureWords("Sent by a device, an iteration", size),
    "inter_node_bytes_per_device": FigureWords("Of that between nodes", size),
    "devices": FigureWords("Devices", count, less_is_better=None),
    "sequences_per_iteration": FigureWords("Sequences an iteration", count, less_is_better=None),
    "device_s_per_iteration": FigureWords(
        "Device time of an iteration", lambda s: duration(s * 1e9)
    ),
    "training_days": FigureWords("Training run, no failures", days, _days),
    "training_gpu_hours": FigureWords(
        "Device hours of training", lambda hours: f"{count(hours)}{NBSP}hours"
    ),
    "training_cost_dollars": FigureWords("Cost of training", dollars),
    "expected_days": FigureWords("Training run, expected", days, _days),
    "expected_dollars": FigureWords("Expected cost of training", dollars),
    "dollars_per_billion_tokens": FigureWords("Cost of a billion tokens", dollars),
}


def signed(value: float, text: Callable[[float], str]) -> str:
    """A difference with its sign: `+2.2 GiB`, `−632 ms`; `0` for none."""
    if not value:
        return "0"
    return f"{'+' if value > 0 else MINUS}{text(abs(value))}"


def difference(own: FigureDifference) -> str:
    """B less A, as text."""
    about = FIGURES[own.name]
    return UNKNOWN if own.difference is None else signed(own.difference, about.gap or about.text)


def change(own: FigureDifference) -> str:
    """B over A, less 1, in percent."""
    return UNKNOWN if own.ratio is None else percent(own.ratio - 1, signed=True)
