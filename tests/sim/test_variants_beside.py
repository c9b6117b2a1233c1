"""Variants held beside one another, from runs made with known costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scenarios.loader import Loaded, load
from scenarios.schema import Scenario
from sim.calibration import calibrate_from_runs
from sim.comparison import own_costs, pieces_of
from sim.engine.simpy_engine import simulate
from sim.measurement import (
    Measurement,
    MeasurementError,
    merged,
    read_measurement,
    read_measurements,
    write_measurements,
)
from sim.prediction import predict
from sim.variants import (
    VariantError,
    as_measured,
    beside,
    calibration_slicings,
    slicing_text,
)
from sim.workload.partition import Piece, pieces


def made_run(scenario: Scenario, slower: float = 1.0) -> Measurement:
    """A run as the device model predicts it, all passes slower by a factor."""
    prediction = predict(scenario)
    costs = own_costs(prediction.timeline)
    durations = {a: round(slower * d) for a, d in costs.durations.items()}
    timeline = simulate(prediction.program, replace(costs, durations=durations))
    return Measurement(
        scenario=scenario,
        timelines=(replace(timeline, origin="measured"),) * 3,
        disturbed=(False,) * 3,
        losses=(1.0, 2.0, 3.0),
    )


def resolved(loaded: Loaded, tokens: tuple[int, ...]) -> list[Scenario]:
    """The variants' scenarios, `optimal` replaced by these tokens."""
    return [
        replace(v.scenario, plan=replace(v.scenario.plan, slices=tokens))
        if v.scenario.plan.slices == "optimal"
        else v.scenario
        for v in loaded.variants
    ]


def test_sliced_is_simulated_faster_than_unsliced() -> None:
    whole, sliced = (
        predict(load(f"local-terapipe:{name}").scenario).iteration_ns
        for name in ("unsliced", "uniform")
    )
    assert sliced < 0.75 * whole


def test_variants_are_found_by_name_and_optimal_is_what_was_measured() -> None:
    loaded = load("local-terapipe")
    tokens = (800, 700, 548)
    runs = [made_run(s, 1.1) for s in reversed(resolved(loaded, tokens))]
    found = beside(loaded, loaded.variants, runs, None)
    assert [case.variant for case in found.cases] == ["unsliced", "uniform", "optimal"]
    assert found.cases[2].loaded.scenario.plan.slices == tokens
    for case in found.cases:
        assert case.row.structural_error == 0
        assert case.row.predictive_error == pytest.approx(-0.09, abs=0.01)
        measured, predicted = found.speedups(case)
        assert measured == pytest.approx(predicted, rel=0.01)
        assert measured == found.cases[0].row.measured_ns / case.row.measured_ns
    assert "not calibrated" in found.note
    assert len(found.errors) == 6
    with pytest.raises(VariantError, match="no measurement is of local-terapipe:unsliced"):
        beside(loaded, loaded.variants, runs[:1], None)
    other = replace(runs[0], scenario=load("local-terapipe:uniform", ["model.layers=6"]).scenario)
    with pytest.raises(VariantError, match="of another scenario"):
        beside(loaded, loaded.variants, [runs[0], other, runs[2]], None)


@pytest.mark.parametrize("layers", [2, 4])
def test_other_slicings_calibrate_what_predicts_the_variants(layers: int) -> None:
    """Also where every stage has one layer, which nothing tells from a pass's fixed time."""
    loaded = load("local-terapipe", [f"model.layers={layers}", "variants.optimal=null"])
    taken = [v.scenario for v in loaded.variants]
    others = calibration_slicings(taken[0], taken)
    profile = calibrate_from_runs([made_run(s, 1.3) for s in others])
    for case in beside(loaded, loaded.variants, [made_run(s, 1.3) for s in taken], profile).cases:
        assert case.comparison.calibrated and not case.comparison.in_sample
        assert abs(case.row.predictive_error) < 0.01


def test_only_optimal_is_taken_from_the_measurement() -> None:
    uniform, optimal = (load(f"local-terapipe:{n}").scenario for n in ("uniform", "optimal"))
    assert as_measured(uniform, optimal) == uniform
    assert as_measured(optimal, uniform).plan == uniform.plan


def test_actions_are_compared_slice_by_slice() -> None:
    loaded = load("local-terapipe")
    runs = [made_run(s) for s in resolved(loaded, (1024, 768, 256))]
    unsliced, _, optimal = beside(loaded, loaded.variants, runs, None).cases
    assert all(a.piece is None for a in unsliced.comparison.actions)
    forwards = [a for a in optimal.comparison.actions if a.kind == "F" and a.stage == 0]
    assert [a.piece for a in forwards] == [
        Piece(1, 0, 1024),
        Piece(1, 1024, 768),
        Piece(1, 1792, 256),
    ]
    assert all(a.simulated_ns == a.measured_ns > 0 for a in forwards)


def test_pieces_are_told_apart_only_where_they_differ() -> None:
    assert pieces_of(load("local-2rank").scenario) is None
    assert pieces_of(load("replay/stage-times").scenario) is None
    sliced = load("local-2rank", ["plan.slices=2"]).scenario
    assert pieces_of(sliced) == ((Piece(2, 0, 64), Piece(2, 64, 64)),) * 8


def test_several_measurements_travel_in_one_file(tmp_path: Path) -> None:
    scenarios = resolved(load("local-terapipe"), (1024, 1024))
    runs = [made_run(s) for s in scenarios]
    path = tmp_path / "m.json.gz"
    write_measurements(runs, path)
    again = read_measurements(path)
    assert [m.scenario for m in again] == scenarios
    assert [m.iteration_ns for m in again] == [m.iteration_ns for m in runs]
    with pytest.raises(MeasurementError, match="holds 3 measurements"):
        read_measurement(path)
    write_measurements(runs[:1], path, force=True)
    assert read_measurement(path).scenario == read_measurements(path)[0].scenario == scenarios[0]
    for text in (
        '{"format": "pipetwin-measurements-1"}',
        '{"format": "pipetwin-measurements-1", "measurements": [3]}',
    ):
        path.write_text(text)
        with pytest.raises(MeasurementError):
            read_measurements(path)


def test_merged_holds_all_iterations() -> None:
    run = made_run(load("local-terapipe:uniform").scenario)
    both = merged([run, replace(run, disturbed=(True, False, True))])
    assert len(both.timelines) == 6 == len(both.losses)
    assert both.disturbed == (False, False, False, True, False, True)
    assert len(both.judged) == 4


def test_calibration_slicings_are_others_and_cover_the_sequence() -> None:
    loaded = load("local-terapipe")
    taken = [v.scenario for v in loaded.variants]
    found = calibration_slicings(taken[0], taken)
    assert len(found) == 5
    used = {pieces(s) for s in taken if s.plan.slices != "optimal"}
    cut = [pieces(s)[0] for s in found]
    assert all(sum(p.tokens for p in own) == 2048 for own in cut)
    assert not used & {pieces(s) for s in found}
    seen = [p for own in cut for p in own]
    assert max(p.tokens for p in seen) >= 0.95 * 2048 and min(p.tokens for p in seen) <= 64
    assert max(p.context for p in seen) >= 0.95 * 2048
    assert len({p.tokens for p in seen if p.context == 0}) >= 4
    again = calibration_slicings(taken[0], [*taken, found[1]])
    assert found[1] not in again and len(again) == 4


def test_calibration_slicings_divide_by_the_tensor_group() -> None:
    shape = (
        "model.heads=4",
        "plan.tensor=2",
        "plan.sequence_parallel=true",
        "cluster.devices_per_node=4",
    )
    scenario = load("local-terapipe:unsliced", [*shape, "model.sequence=66"]).scenario
    for made in calibration_slicings(scenario, ()):
        tokens = [p.tokens for p in pieces(made)[0]]
        assert sum(tokens) == 66 and all(t % 2 == 0 for t in tokens)


def test_what_cannot_be_cut_otherwise_is_refused() -> None:
    with pytest.raises(VariantError, match="cannot be cut"):
        calibration_slicings(load("replay/stage-times").scenario, ())
    short = load("local-terapipe:unsliced", ["model.sequence=1"]).scenario
    with pytest.raises(VariantError, match="too few to calibrate"):
        calibration_slicings(short, ())


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("plan.slices=1", "whole"),
        ("plan.slices=8", "8 x 256"),
        ("plan.slices=3", "2 x 683, 682"),
        ("plan.slices=[1000,1000,48]", "2 x 1000, 48"),
        ("plan.slices=optimal", "optimal"),
    ],
)
def test_slicings_in_words(setting: str, text: str) -> None:
    assert slicing_text(load("local-terapipe", [setting]).scenario) == text


def test_unequal_microbatches_in_words() -> None:
    groups = "[{microbatches: 2, slices: 4}, {micro_batch: 2}]"
    empty = ["plan.microbatches=null", "plan.micro_batch=null"]
    scenario = load("local-2rank", [*empty, f"plan.microbatch_groups={groups}"]).scenario
    assert slicing_text(scenario) == "2 of 1: 4 x 32; 1 of 2: whole"
