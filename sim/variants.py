"""Variants of a scenario held beside one another: each predicted and measured, and by how much it
is faster than the first."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scenarios.loader import Loaded
from scenarios.schema import Plan, Scenario
from sim.comparison import Comparison, LoopRow, compare
from sim.cost.profile import Profile
from sim.loop import LoopCase, LoopResult, errors_of
from sim.measurement import Measurement
from sim.prediction import Prediction, predict
from sim.workload.partition import pieces, slice_tokens

DRAWS = 15
PARTS = 32
"""Calibration slicings are given in so many parts of a sequence."""
_CALIBRATION = (
    (31, 1),
    (13, 19),
    (5, 7, 9, 11),
    (1, 9, 6, 3, 13),
    (2, 3, 3, 2, 3, 3, 3, 2, 3, 3, 3, 2),
)


class VariantError(ValueError):
    """The variants of a scenario cannot be held beside one another; the message says why."""

    is_bad_input = True


@dataclass(frozen=True, kw_only=True)
class VariantsResult:
    """All variants of a scenario, beside one another, in the file's order.

    loaded: the scenario itself; None where only its measurements are at hand.
    checks: what a comparison with a single process found, by variant, where it was asked for.
    """

    loaded: Loaded | None
    cases: tuple[LoopCase, ...]
    profile: Profile | None
    note: str = ""
    interrupted: bool = False
    checks: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The scenario's name."""
        if self.loaded is not None:
            return self.loaded.scenario.name
        return self.cases[0].row.scenario.rpartition(":")[0]

    @property
    def errors(self) -> tuple[float, ...]:
        """Every variant's predictive and structural error."""
        return errors_of(self.cases)

    def speedups(self, case: LoopCase) -> tuple[float, float]:
        """Measured and predicted: the first variant's iteration time over this one's, as the median
        over the rounds."""
        pairs = list(zip(self.cases[0].rounds_ns, case.rounds_ns, strict=True))
        return (
            statistics.median(first[1] / own[1] for first, own in pairs),
            statistics.median(first[0] / own[0] for first, own in pairs),
        )


def variants_of(result: LoopResult, loaded: Loaded) -> VariantsResult:
    """A closed loop over the variants of a scenario, beside one another."""
    return VariantsResult(
        loaded=loaded,
        cases=result.cases,
        profile=result.profile,
        note=result.note,
        interrupted=result.interrupted,
    )


def calibration_slicings(scenario: Scenario, taken: Sequence[Scenario]) -> tuple[Scenario, ...]:
    """The scenario in other slicings than those of `taken`, to calibrate a profile from.

    Their slices are short and long, early and late in the sequence, so that what `taken` needs lies
    between them; a slice nearly as long as the sequence stands for the whole of it.
    Raises VariantError where the scenario cannot be cut, or its sequence is too short to.
    """
    model, plan = scenario.model, scenario.plan
    if model is None or not model.causal or plan.schedule in ("interleaved", "given"):
        raise VariantError(
            f"{scenario.name} cannot be cut into other slices to calibrate from: calibrate on "
            "other scenarios, with `validate NAME --calibrate-on OTHER`"
        )
    step = plan.tensor if plan.sequence_parallel else 1
    used = {pieces(other) for other in taken if other.plan.slices != "optimal"}
    found = []
    for parts in _CALIBRATION:
        ends = [
            round(end / PARTS * (model.sequence // step)) * step
            for end in itertools.accumulate(parts)
        ]
        ends[-1] = model.sequence
        tokens = [end - start for start, end in itertools.pairwise([0, *ends]) if end > start]
        made = replace(scenario, plan=with_slices(plan, tuple(tokens)), variants={})
        if len(tokens) > 1 and pieces(made) not in used:
            used.add(pieces(made))
            found.append(made)
    if len(found) < 2:
        raise VariantError(
            f"{scenario.name} has {model.sequence} tokens a sequence, too few to calibrate from "
            "other slicings of it: `model.sequence: 64` would work"
        )
    return tuple(found)


def with_slices(plan: Plan, tokens: tuple[int, ...]) -> Plan:
    """The plan with every microbatch cut so."""
    if plan.microbatch_groups is not None:
        groups = tuple(replace(group, slices=tokens) for group in plan.microbatch_groups)
        return replace(plan, microbatch_groups=groups)
    return replace(plan, slices=tokens)


def tokens_text(tokens: Sequence[int], between: str = ", ") -> str:
    """The tokens of slices, runs of equal ones written once: `4 x 120, 112`."""
    runs = ((count, len(list(run))) for count, run in itertools.groupby(tokens))
    return between.join(f"{n} x {count}" if n > 1 else str(count) for count, n in runs)


def slicing_text(scenario: Scenario) -> str:
    """A plan's slicing: `whole`, `8 x 256`, `704, 688, 656`; of unequal microbatches each run's."""
    assert scenario.model is not None
    if scenario.plan.slices == "optimal":
        return "optimal"
    texts = []
    for group in scenario.plan.groups:
        tokens = slice_tokens(group, scenario.model.sequence)
        texts.append("whole" if len(tokens) == 1 else tokens_text(tokens))
    if len(texts) == 1:
        return texts[0]
    groups = zip(scenario.plan.groups, texts, strict=True)
    return "; ".join(f"{g.microbatches} of {g.micro_batch}: {text}" for g, text in groups)


def beside(
    loaded: Loaded | None,
    variants: Sequence[Loaded],
    measurements: Sequence[Measurement],
    profile: Profile | None,
) -> VariantsResult:
    """Predict the variants from a profile, and hold them against their measurements.

    measurements: one a variant, found by name. `slices: optimal` is what was measured under it.
    Raises VariantError where one is missing, or is of other settings.
    """
    by_name = {m.scenario.name: m for m in measurements}
    cases = []
    for item in variants:
        name = item.scenario.name
        measurement = by_name.get(name)
        if measurement is None:
            there = ", ".join(by_name)
            raise VariantError(f"no measurement is of {name}: there is {there}; run it again")
        found = replace(item, scenario=as_measured(item.scenario, measurement.scenario))
        prediction = predict(found.scenario, profile, draws=DRAWS if profile else 0)
        try:
            comparison = compare(prediction, measurement)
        except ValueError as error:
            raise VariantError(str(error)) from error
        cases.append(
            LoopCase(
                loaded=found,
                prediction=prediction,
                measurement=measurement,
                comparison=comparison,
                row=_row(prediction, comparison),
                rounds_ns=((comparison.predicted_ns, comparison.measured_ns),),
                whole=measurement,
            )
        )
    return VariantsResult(
        loaded=loaded, cases=tuple(cases), profile=profile, note=_provenance(profile)
    )


def as_measured(scenario: Scenario, measured: Scenario) -> Scenario:
    """The scenario, with `slices: optimal` as it was when it was measured with the same
    microbatches; else as it is."""
    plan, was = scenario.plan, measured.plan
    alike = was.microbatch_groups is None and was.micro_batch == plan.micro_batch
    if plan.slices != "optimal" or not alike or was.num_microbatches != plan.num_microbatches:
        return scenario
    plan = replace(plan, slices=was.slices, microbatches=was.microbatches)
    return replace(scenario, plan=plan)


def _row(prediction: Prediction, comparison: Comparison) -> LoopRow:
    """The figures of a single comparison as those of a loop of one round."""
    return LoopRow(
        scenario=prediction.scenario.name,
        structural_error=comparison.structural,
        predictive_error=comparison.predictive,
        run_to_run_spread=comparison.measured_spread,
        predicted_ns=comparison.predicted_ns,
        measured_ns=comparison.measured_ns,
        rounds=1,
    )


def _provenance(profile: Profile | None) -> str:
    if profile is None:
        return "predicted by the device model, not calibrated; --profile takes a calibrated one"
    return f"predicted from a profile of {profile.device}: {profile.provenance}"
