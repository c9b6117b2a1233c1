"""The answer of `plan` as terminal, JSON and page show it: what was found, and where time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from reports import layout_words
from scenarios.resizing import resized
from scenarios.schema import Cluster, Model, Scenario
from scenarios.unplanned import Unplanned
from sim.cost.profile import Profile
from sim.planner.layouts.found import Candidate, PlanSearch
from sim.prediction import Prediction, predict, rates

NEAR = 3
"""Alternatives whose time is shown by category beside the winner's, those that come closest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """One layout predicted with all figures: what it is called, and the prediction."""

    name: str
    candidate: Candidate
    prediction: Prediction

    @property
    def breakdown(self) -> Mapping[str, float]:
        """Shares of its rank-time by category; they sum to 1."""
        return self.prediction.figures.breakdown


@dataclass(frozen=True, kw_only=True)
class PlanAnswer:
    """What was asked and what was found.

    details: the winner first, then the layout that it is held against, where there is one, then
    alternatives that come near; where nothing fits, the layout that needs least memory.
    """

    asked: Unplanned
    only: Mapping[str, Sequence[object]]
    found: PlanSearch
    details: tuple[Detail, ...] = ()
    profile: Profile | None = None

    @property
    def model(self) -> Model:
        """The model asked for."""
        model = self.found.scenario.model
        assert model is not None, "a layout is of a model"
        return model

    @property
    def cluster(self) -> Cluster:
        """The cluster asked for, of any number of nodes."""
        cluster = self.found.scenario.cluster
        assert cluster is not None, "a layout is on a cluster"
        return cluster

    @property
    def capacity_bytes(self) -> int:
        """Memory of one device."""
        return self.cluster.device.memory

    @property
    def num_candidates(self) -> int:
        """Layouts counted, of all numbers of devices."""
        return sum(space.counted for space in self.found.spaces)

    @property
    def gain(self) -> float | None:
        """How many times as fast as the baseline the winner is; None where either is missing."""
        if self.found.baseline is None or not self.found.ranked:
            return None
        return self.found.baseline.iteration_ns / self.found.best.iteration_ns

    def detail(self, candidate: Candidate | None) -> Detail | None:
        """The prediction of a layout, where it was made."""
        if candidate is None:
            return None
        return next((d for d in self.details if d.candidate.plan == candidate.plan), None)


def laid_out(scenario: Scenario, candidate: Candidate) -> Scenario:
    """The scenario with a layout that was found, on as many devices as that has."""
    assert scenario.cluster is not None
    cluster = resized(scenario.cluster, candidate.num_devices)
    return replace(scenario, plan=candidate.plan, cluster=cluster)


def details_of(found: PlanSearch, profile: Profile | None, *, near: int = 0) -> tuple[Detail, ...]:
    """Predict the winner and the baseline, and so many alternatives that come near; where nothing
    fits, the layout that needs least memory."""
    if not found.ranked:
        return _least(found, profile)
    chosen = [("best", found.best)]
    if found.baseline is not None and found.baseline.plan != found.best.plan:
        chosen.append(("own layout", found.baseline))
    alternatives = sorted(
        (a for a in found.alternatives if a.candidate is not None and a.slower is not None),
        key=lambda a: a.slower or 0.0,
    )
    seen = {candidate.plan for _, candidate in chosen}
    for other in alternatives:
        if near <= 0:
            break
        assert other.candidate is not None
        if other.candidate.plan not in seen:
            seen.add(other.candidate.plan)
            chosen.append((layout_words.instead(other), other.candidate))
            near -= 1
    return tuple(
        Detail(
            name=name,
            candidate=candidate,
            prediction=predict(laid_out(found.scenario, candidate), profile),
        )
        for name, candidate in chosen
    )


def _least(found: PlanSearch, profile: Profile | None) -> tuple[Detail, ...]:
    known = [s for s in found.spaces if s.smallest_plan is not None]
    if not known:
        return ()
    space = min(known, key=lambda s: s.smallest_peak_bytes or 0)
    assert space.smallest_plan is not None
    candidate = Candidate(
        plan=space.smallest_plan,
        iteration_ns=0,
        bound_ns=0,
        peak_bytes=space.smallest_peak_bytes or 0,
        num_devices=space.num_devices,
        tflops_per_gpu=0.0,
        days=None,
        dollars=None,
    )
    prediction = predict(laid_out(found.scenario, candidate), profile)
    own = rates(prediction.scenario, prediction.figures.iteration_ns / 1e9)
    candidate = replace(
        candidate,
        iteration_ns=prediction.figures.iteration_ns,
        tflops_per_gpu=own["model_tflops_per_gpu"] or 0.0,
    )
    return (Detail(name="needs least memory", candidate=candidate, prediction=prediction),)
