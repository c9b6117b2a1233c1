"""A scenario's variants run side by side, each predicted from other slicings of the same rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from executor.commands import CheckResult, UnsupportedPlan, check_against_reference
from executor.loop import in_turn
from scenarios.loader import Loaded
from sim.cost.profile import Profile
from sim.cost.shapes import shape_of
from sim.loop import LoopResult
from sim.variants import VariantError, VariantsResult, calibration_slicings, variants_of

ROUNDS = 5


def run_variants(
    loaded: Loaded,
    *,
    profile: Profile | None = None,
    check: bool = False,
    rounds: int = ROUNDS,
    progress: Callable[[str], None] = lambda text: None,
) -> VariantsResult:
    """Run a scenario's variants in turn with calibration runs in other slicings, and predict each.

    A variant with `slices: optimal` gets those that the search finds, from `profile` or from a
    first calibration. check: hold each against the single process afterwards.
    Raises UnsupportedPlan where they do not go together in one session.
    """
    variants = loaded.variants
    if not variants:
        raise UnsupportedPlan(f"{loaded.scenario.name} has no variants to run")
    try:
        others = _calibration(loaded)
    except VariantError as error:
        raise UnsupportedPlan(str(error)) from error
    found = in_turn(variants, others, rounds=rounds, profile=profile, progress=progress)
    beside = variants_of(found, loaded)
    if check and not found.interrupted:
        beside = replace(beside, checks=_checks(found, progress))
    return beside


def _calibration(loaded: Loaded) -> list[Loaded]:
    """Other slicings of the variants, of each shape among them (microbatch, precision, ...)."""
    shapes = {shape_of(item.scenario): item for item in reversed(loaded.variants)}
    taken = [item.scenario for item in loaded.variants]
    found = [
        replace(item, scenario=scenario)
        for item in shapes.values()
        for scenario in calibration_slicings(item.scenario, taken)
    ]
    return [
        replace(item, scenario=replace(item.scenario, name=f"{loaded.scenario.name}:other-{n}"))
        for n, item in enumerate(found, start=1)
    ]


def _checks(found: LoopResult, progress: Callable[[str], None]) -> dict[str, CheckResult]:
    checks = {}
    for case in found.cases:
        name = case.loaded.scenario.name
        progress(f"checking {name} against a single process in float64 ...")
        result = check_against_reference(case.loaded.scenario)
        assert result is not None, "these ranks were started here"
        checks[name] = result
    return checks
