"""Prediction, measurement, comparison and calibration, on runs made with known costs."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from scenarios.loader import load
from scenarios.schema import Scenario
from sim.calibration import CalibrationError, calibrate_from_runs, fit_message_time
from sim.comparison import compare, own_costs, replay, structural_error
from sim.cost.costs import ActionCosts, Transfer
from sim.cost.profile import ProfileMismatch
from sim.cost.shapes import shape_of
from sim.engine.simpy_engine import simulate
from sim.measurement import Measurement, MeasurementError, read_measurement, write_measurement
from sim.prediction import fits, predict, summary
from sim.schedule.actions import SENDS, Action, Kind
from sim.schedule.build import build_program
from sim.scores import score
from sim.workload.partition import partition

ACTION, LAYER, EMBEDDING, HEAD = 40_000, 1_000_000, 90_000, 300_000


def scenario(*overrides: str) -> Scenario:
    return load("local-2rank", overrides).scenario


def made_run(made: Scenario, iterations: int = 4, noise: float = 0.0, seed: int = 0) -> Measurement:
    """A run as the executor would measure it, if passes took what the constants above say."""
    program = build_program(made)
    parts = partition(made)
    generator = random.Random(seed)
    timelines = []
    for _ in range(iterations):
        durations: dict[Action, int] = {}
        transfers = {}
        for action in (a for steps in program.steps for step in steps for a in step):
            if action.kind in SENDS:
                durations[action] = 20_000
                transfers[action] = Transfer(
                    occupancy_ns=0, latency_ns=50_000, resources=(), payload_bytes=0
                )
                continue
            part = parts[action.stage]
            time = ACTION + LAYER * part.num_layers + EMBEDDING * part.embedding + HEAD * part.head
            times = {Kind.FORWARD: time, Kind.BACKWARD: 2 * time, Kind.OPTIMIZER: time // 3}
            exact = times.get(action.kind, 5_000)
            durations[action] = round(exact * (1 + noise * abs(generator.gauss(0, 1))))
        simulated = simulate(program, ActionCosts(durations=durations, transfers=transfers))
        timelines.append(replace(simulated, origin="measured"))
    return Measurement(
        scenario=made,
        timelines=tuple(timelines),
        disturbed=(False,) * iterations,
        losses=(3.0,) * iterations,
        peak_memory_bytes=(10, 20),
        environment={"transport": "made", "host": "h", "software": {"torch": "2"}},
    )


RUNS = (
    ("model.layers=6", "plan.schedule=gpipe", "plan.microbatches=7"),
    ("model.layers=10", "plan.layers_per_stage=[4,6]", "plan.microbatches=5"),
)


def test_calibration_finds_the_parts_and_predicts_other_depths_and_schedules() -> None:
    profile = calibrate_from_runs([made_run(scenario(*o)) for o in RUNS])
    times = profile.times[shape_of(scenario())]
    assert times["layer", "forward"].median_ns == pytest.approx(LAYER, rel=1e-3)
    assert times["layer", "backward"].median_ns == pytest.approx(2 * LAYER, rel=1e-3)
    assert profile.device == "cpu-core" and "calibrated from local-2rank" in profile.provenance
    for overrides in ((), ("model.layers=14",), ("plan.schedule=gpipe", "plan.microbatches=3")):
        judged = scenario(*overrides)
        run = made_run(judged)
        comparison = compare(predict(judged, profile), run)
        assert abs(comparison.predictive) < 2e-3
        assert comparison.structural == 0
        assert comparison.calibrated


def test_draws_from_the_spread_predict_what_noise_costs() -> None:
    """A pipeline waits for its slower side: medians alone predict too little, draws do not."""
    noisy = [made_run(scenario(*o), 40, noise=0.2, seed=n) for n, o in enumerate(RUNS)]
    profile = calibrate_from_runs(noisy)
    run = made_run(scenario(), 40, noise=0.2, seed=9)
    plain = predict(scenario(), profile).iteration_ns / run.iteration_ns - 1
    drawn = predict(scenario(), profile, draws=25)
    assert drawn.spread_ns is not None
    low, middle, high = drawn.spread_ns
    assert low < middle < high and drawn.iteration_ns == middle
    assert predict(scenario(), profile, draws=25).spread_ns == drawn.spread_ns
    assert plain < -0.01
    assert abs(middle / run.iteration_ns - 1) < abs(plain) / 2
    assert structural_error(run) == 0


def test_replay_is_exact_also_with_collectives() -> None:
    run = made_run(scenario("plan.clip_gradients=true"))
    timeline = run.timelines[0]
    assert set(replay(timeline, build_program(run.scenario)).spans) == set(timeline.spans)
    assert own_costs(timeline).duration_ns(Action(Kind.GRADIENT_NORM, 1)) == 5_000


def test_what_cannot_be_calibrated_is_said() -> None:
    with pytest.raises(CalibrationError, match="no run to calibrate from"):
        calibrate_from_runs([])
    other = made_run(scenario("cluster.device.name=other"))
    with pytest.raises(CalibrationError, match="different devices"):
        calibrate_from_runs([made_run(scenario()), other])


def test_measurements_travel_through_files(tmp_path: Path) -> None:
    run = made_run(scenario())
    for name in ("m.json", "m.json.gz"):
        write_measurement(run, tmp_path / name)
        again = read_measurement(tmp_path / name)
        assert again.scenario.digest == run.scenario.digest
        assert again.timelines[0].spans == run.timelines[0].spans
        assert again.iteration_ns == run.iteration_ns
        with pytest.raises(FileExistsError, match="--force"):
            write_measurement(run, tmp_path / name)
    for text in ("", "{}", "[1]", '{"format": "pipetwin-measurement-1"}', "\x00"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(MeasurementError, match=r"bad\.json"):
            read_measurement(tmp_path / "bad.json")
    with pytest.raises(MeasurementError, match="cannot be read"):
        read_measurement(tmp_path / "none.json")


def test_disturbed_iterations_are_left_out_of_medians() -> None:
    run = made_run(scenario(), 3)
    slow = replace(
        run.timelines[0],
        spans=tuple(s._replace(end_ns=s.end_ns * 9) for s in run.timelines[0].spans),
    )
    both = replace(run, timelines=(slow, *run.timelines[1:]), disturbed=(True, False, False))
    assert both.iteration_ns == run.iteration_ns
    assert len(both.judged) == 2
    assert len(replace(both, disturbed=(True, True, True)).judged) == 3


def test_another_scenarios_measurement_is_refused() -> None:
    with pytest.raises(ValueError, match="another scenario"):
        compare(predict(scenario()), made_run(scenario("plan.microbatches=3")))


def test_summary_holds_what_is_promised() -> None:
    found = summary(predict(load("megatron/175b").scenario))
    for key in (
        "scenario",
        "engine",
        "iteration_s",
        "model_tflops_per_gpu",
        "hardware_tflops_per_gpu",
        "mfu",
        "bubble_fraction",
        "exposed_communication_fraction",
        "ranks",
        "fits",
    ):
        assert found[key] is not None
    ranks = found["ranks"]
    assert isinstance(ranks, list) and len(ranks) == 16
    assert {"peak_memory_bytes", "busy_s", "bubble_s"} <= set(ranks[0])
    assert found["fits"] is True
    # Megatron-LM reports 140 TFLOP/s and 34 days for this very run (arXiv 2104.04473, section 5.1);
    # no parameter was fitted to it.
    assert found["hardware_tflops_per_gpu"] == pytest.approx(140, rel=0.05)
    assert found["training_days"] == pytest.approx(34, rel=0.05)


def test_the_1t_model_is_as_published_without_a_fit_to_it() -> None:
    """102.6 s an iteration: Table 1 of arXiv 2104.04473, 163 TFLOP/s by equation 3."""
    found = predict(load("megatron/1t").scenario)
    assert found.iteration_ns / 1e9 == pytest.approx(102.63, rel=0.05)


def test_a_plan_that_does_not_fit_is_a_result() -> None:
    too_much = load("megatron/175b", ("plan.recomputation=none", "plan.micro_batch=8")).scenario
    assert fits(predict(too_much)) is False


def test_given_costs_replay_exactly() -> None:
    replayed = load("replay/stage-times", ("costs.send=0 ns",)).scenario
    f, b = 18_522_000, 18_086_000 + 9_337_000
    assert predict(replayed).iteration_ns == (24 + 8 - 1) * (f + b)
    assert fits(predict(replayed)) is None


def test_message_times_are_lines() -> None:
    line = fit_message_time([(n, 500 + 0.25 * n) for n in (1000, 10_000, 1_000_000)])
    assert line.fixed_ns == pytest.approx(500, rel=1e-6)
    assert line.ns_per_byte == pytest.approx(0.25, rel=1e-6)
    assert fit_message_time([(8, 70.0)]).ns_per_byte == 0


def test_scores() -> None:
    found = score([("a", 1.1, 1.0), ("b", 1.8, 2.0), ("c", 0.9, 0.95)])
    assert found["mape"] == pytest.approx((0.1 + 0.1 + 0.05 / 0.95) / 3)
    assert found["worst"] == pytest.approx(0.1)
    assert found["kendall_tau"] == 1.0
    assert found["regret"] == pytest.approx(0)


def test_a_profile_of_another_device_is_refused() -> None:
    profile = calibrate_from_runs([made_run(scenario(*RUNS[0]))])
    with pytest.raises(ProfileMismatch, match="the profile is of cpu-core"):
        predict(load("megatron/175b").scenario, profile)


def test_a_fit_is_not_called_a_prediction() -> None:
    run = made_run(scenario())
    assert compare(predict(scenario(), calibrate_from_runs([run])), run).in_sample
    other = calibrate_from_runs([made_run(scenario(*RUNS[0]))])
    assert not compare(predict(scenario(), other), run).in_sample


def test_the_tied_embeddings_reduction_is_calibrated() -> None:
    run = made_run(scenario("model.tied_embeddings=true"))
    profile = calibrate_from_runs([run])
    assert profile.all_reduce is not None and profile.all_reduce.fixed_ns == 5_000
    assert abs(compare(predict(run.scenario, profile), run).predictive) < 2e-3
