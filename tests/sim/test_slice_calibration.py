"""Calibration from sliced runs, made with known costs: other slicings are predicted from it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scenarios.loader import load
from scenarios.schema import Scenario
from sim.calibration import calibrate_from_runs, message_bytes
from sim.comparison import compare
from sim.cost.costs import ActionCosts, Transfer
from sim.cost.measured import profiled_optimizer_ns
from sim.cost.modelled import setup_of
from sim.cost.profile import Profile
from sim.cost.profile_file import from_data, to_data
from sim.cost.shapes import shape_of, shapes_of
from sim.engine.simpy_engine import simulate
from sim.measurement import Measurement
from sim.prediction import predict
from sim.schedule.actions import RECEIVES, SENDS, Action, Kind
from sim.schedule.build import build_program
from sim.workload.partition import Piece, partition, pieces

LONG = ("model.sequence=1024", "plan.micro_batch=1", "plan.microbatches=2")
TERAPIPE = (*LONG, "plan.schedule=terapipe")


def scenario(*overrides: str) -> Scenario:
    return load("local-2rank", (*LONG, *overrides)).scenario


def layer_ns(piece: Piece) -> float:
    """Small slices are slow, attention computes what the mask hides only after a context."""
    b, c, n = piece
    rows = b * n
    attention = 0.45 * b * n * n if not c else 40e3 + 0.9 * b * n * (n + c)
    return 150e3 + 3000.0 * rows * (1 + 30 / (30 + rows)) + attention


def made_run(made: Scenario) -> Measurement:
    """A run as the executor would measure it, if a slice took what the law above says."""
    program, parts = build_program(made), partition(made)
    cut, payloads = pieces(made), message_bytes(made)
    durations, transfers = {}, {}
    for action in (a for steps in program.steps for step in steps for a in step):
        if action.kind in (Kind.FORWARD, Kind.BACKWARD):
            piece, part = cut[action.microbatch or 0][action.slice_index], parts[action.stage]
            rows = piece.micro_batch * piece.tokens
            time = 40e3 + part.num_layers * layer_ns(piece)
            time += 80.0 * rows * part.embedding + 900.0 * rows * part.head
            durations[action] = round(time * (1 if action.kind is Kind.FORWARD else 2))
        elif action.kind in SENDS:
            payload = payloads[action.microbatch or 0][action.slice_index]
            durations[action] = round(9_000 + 0.02 * payload)
            transfers[action] = Transfer(
                occupancy_ns=0,
                latency_ns=round(30_000 + 0.1 * payload),
                resources=(),
                payload_bytes=0,
            )
        elif action.kind in RECEIVES:
            payload = payloads[action.microbatch or 0][action.slice_index]
            durations[action] = round(5_000 + 0.03 * payload)
        else:
            durations[action] = 700_000 * parts[action.stage].num_layers
    simulated = simulate(program, ActionCosts(durations=durations, transfers=transfers))
    return Measurement(
        scenario=made,
        timelines=(replace(simulated, origin="measured"),) * 2,
        disturbed=(False, False),
        environment={"transport": "made", "host": "h", "software": {"torch": "2"}},
    )


SLICINGS = (
    "plan.slices=2",
    "plan.slices=4",
    "plan.slices=16",
    "plan.slices=64",
    "plan.slices=null",
)


@pytest.fixture(scope="module")
def profile() -> Profile:
    """From runs of two depths in each of a few even slicings."""
    runs = [
        scenario("plan.schedule=terapipe", slices, layers)
        for slices in SLICINGS
        for layers in ("model.layers=4", "model.layers=10")
    ]
    return calibrate_from_runs([made_run(run) for run in runs])


def test_every_pass_counts_in_its_own_shape(profile: Profile) -> None:
    made = scenario("plan.slices=4")
    for index, piece in enumerate(pieces(made)[0]):
        shape = shapes_of(made)[1][index]
        assert (shape.tokens, shape.context) == (256, 256 * index)
        times = profile.times[shape]
        assert times["layer", "forward"].median_ns == pytest.approx(layer_ns(piece), rel=1e-3)
    optimizers = [s for s, times in profile.times.items() if ("layer", "optimizer") in times]
    assert optimizers == [shape_of(made)]


def test_other_slicings_are_predicted(profile: Profile) -> None:
    """Within 1 %, from the fit, which tells what error to expect."""
    for cut in (
        "plan.slices=8",
        "plan.slices=32",
        "plan.slices=[300,250,200,150,124]",
        "plan.slices=[40,400,584]",
    ):
        made = scenario("plan.schedule=terapipe", cut, "model.layers=8")
        found = predict(made, profile)
        assert abs(compare(found, made_run(made)).predictive) < 0.01, cut
        what = [what for what, _ in found.costs.assumed]
        assert any("layer forward: not measured" in w and "points left out" in w for w in what)
        assert len(what) <= 8 and not any("beyond" in w for w in what)
    measured = scenario("plan.slices=4", "plan.schedule=1f1b", "model.layers=8")
    assert abs(compare(predict(measured, profile), made_run(measured)).predictive) < 2e-3
    assert not predict(measured, profile).costs.assumed


def test_a_kernel_that_computes_the_hidden_is_seen(profile: Profile) -> None:
    (fit,) = profile.slice_fits.values()
    forward = fit.passes["layer", "forward"]
    assert "square" in forward.terms and forward.other_terms
    assert fit.median_error is not None and fit.median_error < 0.01
    assert len(fit.lines()) == 2 and "left out: median error" in str(fit)
    again = from_data(to_data(profile))
    assert again.slice_fits == profile.slice_fits


def test_beyond_the_measured_is_said(profile: Profile) -> None:
    found = predict(scenario("plan.schedule=terapipe", "plan.slices=128"), profile)
    assert any(
        "beyond those measured: tokens 16 to 1024" in what for what, _ in found.costs.assumed
    )
    larger = scenario("plan.schedule=terapipe", "plan.slices=8", "plan.micro_batch=4")
    assert any("batch 1 to 1" in what for what, _ in predict(larger, profile).costs.assumed)


def test_batches_between_measured_ones_are_predicted() -> None:
    groups = "[{micro_batch: 1, slices: 4}, {micro_batch: 4, slices: 4}, {micro_batch: 1}]"
    unlike = ("plan.micro_batch=1", "plan.microbatches=null", f"plan.microbatch_groups={groups}")
    runs = [
        load("local-2rank", (LONG[0], "plan.schedule=terapipe", *unlike, layers)).scenario
        for layers in ("model.layers=4", "model.layers=10")
    ]
    found = calibrate_from_runs([made_run(run) for run in runs])
    assert {shape.micro_batch for shape in found.times} == {1, 4}
    made = scenario("plan.schedule=terapipe", "plan.micro_batch=2", "plan.slices=4")
    assert abs(compare(predict(made, found), made_run(made)).predictive) < 0.03
    assert abs(compare(predict(runs[0], found), made_run(runs[0])).predictive) < 2e-3


def test_the_optimizer_does_not_depend_on_slices(profile: Profile) -> None:
    for cut in ("plan.slices=7", "plan.micro_batch=3", "plan.recomputation=full"):
        setup = setup_of(scenario("plan.schedule=terapipe", cut))
        found = profiled_optimizer_ns(setup, profile, 4, True, False)
        assert found == pytest.approx(4 * 700_000, rel=1e-3)
    narrower = setup_of(scenario("model.hidden=128"))
    assert profiled_optimizer_ns(narrower, profile, 4, True, False) is None


def test_messages_count_in_their_own_size(profile: Profile) -> None:
    assert message_bytes(scenario("plan.slices=[1000,24]")) == ((1000 * 1024, 24 * 1024),) * 2
    for line, fixed, slope in (
        (profile.post, 9_000, 0.02),
        (profile.unpack, 5_000, 0.03),
    ):
        assert line is not None and line.error < 1e-3
        assert line.fixed_ns == pytest.approx(fixed, rel=0.01)
        assert line.ns_per_byte == pytest.approx(slope, rel=0.01)
    assert Action(Kind.FORWARD, 0, 0).slice_index == 0
