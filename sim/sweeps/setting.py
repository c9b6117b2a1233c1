"""What all points of a sweep have in common."""

from __future__ import annotations

from dataclasses import dataclass

from sim.cost.profile import Profile
from sim.engine.choice import Engine
from sim.sweeps.records import Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a sweep's points are simulated, and what of them is kept."""

    profile: Profile | None
    profile_sha256: str | None = None
    engine: Engine = "auto"
    figures: Figures = "all"
