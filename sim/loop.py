"""What a closed loop found: scenarios predicted and measured in the same rounds."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from scenarios.loader import Loaded
from sim.comparison import Comparison, LoopRow
from sim.cost.profile import Profile
from sim.measurement import Measurement
from sim.prediction import Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopCase:
    """One judged scenario: its row, and the round nearest to its median, to be drawn.

    rounds_ns: (predicted, measured) iteration time of every round. whole: all rounds' iterations.
    """

    loaded: Loaded
    prediction: Prediction
    measurement: Measurement
    comparison: Comparison
    row: LoopRow
    rounds_ns: tuple[tuple[int, int], ...]
    whole: Measurement

    @property
    def variant(self) -> str:
        """The variant's own name; the scenario's where it is none."""
        return self.row.scenario.rpartition(":")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopResult:
    """A closed loop's cases, its last profile, and how it was made.

    calibration: rows of the scenarios calibrated on, which are not judged.
    interrupted: whether it has fewer rounds than asked for.
    """

    cases: tuple[LoopCase, ...]
    profile: Profile
    note: str
    calibration: tuple[LoopRow, ...] = ()
    interrupted: bool = False

    @property
    def errors(self) -> tuple[float, ...]:
        """Every case's predictive and structural error."""
        return errors_of(self.cases)

    @property
    def median_predictive(self) -> float:
        """Median over scenarios of the absolute predictive error."""
        return statistics.median(abs(c.row.predictive_error) for c in self.cases)

    @property
    def worst_predictive(self) -> float:
        """Largest absolute predictive error."""
        return max(abs(c.row.predictive_error) for c in self.cases)

    @property
    def worst_structural(self) -> float:
        """Largest absolute structural error."""
        return max(abs(c.row.structural_error) for c in self.cases)


def errors_of(cases: tuple[LoopCase, ...]) -> tuple[float, ...]:
    """Every case's predictive and structural error."""
    return tuple(e for c in cases for e in (c.row.predictive_error, c.row.structural_error))
