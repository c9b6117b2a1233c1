"""LoopRow: one scenario of a calibration loop, as the loop's table shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopRow:
    """One scenario predicted by a profile that was calibrated on others, and then measured.

    structural_error, predictive_error: simulated over measured, less 1.
    run_to_run_spread: half the interquartile range of the iteration time over its median.
    predicted_ns, measured_ns: iteration times in nanoseconds.
    rounds: rounds of calibration before the prediction.
    """

    scenario: str
    structural_error: float
    predictive_error: float
    run_to_run_spread: float
    predicted_ns: int
    measured_ns: int
    rounds: int
