"""Real multi-process runs against the single-process float64 reference, and when things go wrong.

Ranks are processes on 127.0.0.1; every run has a deadline, and leaves no process behind.
"""

import itertools
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from children import hear_interrupts, ranks_of

from executor.commands import (
    UnsupportedPlan,
    _difference,
    check_against_reference,
    run_scenario,
)
from executor.joining import RankFailure
from executor.launch import launch
from executor.launching import LaunchError
from executor.loop import closed_loop
from executor.measure import measure_scenario
from executor.reference import reference
from executor.watchdog import is_alive
from scenarios.loader import load
from scenarios.schema import Scenario
from sim.comparison import structural_error
from sim.cost.profile_file import read_profile, write_profile
from sim.cost.shapes import shape_of
from sim.measurement import read_measurement
from sim.prediction import predict
from sim.schedule.build import build_program, build_schedule
from sim.schedule.checks import ScheduleError
from sim.schedule.torch_csv import compute_csv, program_csv

TINY = (
    "model.layers=4",
    "model.hidden=32",
    "model.heads=4",
    "model.sequence=16",
    "plan.micro_batch=2",
    "plan.microbatches=5",
    "execution.iterations=3",
    "execution.warmup=1",
    "execution.deadline=30 s",
)


def tiny(ranks: int, *overrides: str) -> Scenario:
    name = "local-2rank" if ranks == 2 else "local-4rank"
    return load(name, (*TINY, *overrides)).scenario


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_equals_the_single_process(ranks: int, schedule: str) -> None:
    """Loss, every gradient, and weights after 3 optimizer steps, to 1e-10 relative."""
    result = check_against_reference(tiny(ranks, f"plan.schedule={schedule}"))
    assert result is not None and result.passed, str(result)
    assert result.num_tensors > 40


@pytest.mark.parametrize(
    ("ranks", "overrides"),
    [
        (2, ("plan.p2p=blocking",)),
        (2, ("execution.transport=gloo",)),
        (2, ("execution.transport=gloo", "plan.p2p=blocking", "plan.schedule=gpipe")),
        (2, ("model.tied_embeddings=true", "plan.clip_gradients=true")),
        (4, ("model.tied_embeddings=true", "plan.microbatches=2")),
        (2, ("plan.recomputation=full", "plan.layers_per_stage=[3,1]")),
        (2, ("plan.recomputation=selective", "plan.microbatches=1")),
        (2, ("plan.schedule=gpipe", "plan.gpipe_backward=reversed")),
        (2, ("model.family=bert", "plan.optimizer=sgd")),
    ],
    ids=lambda value: "+".join(v.split(".")[1] for v in value) if isinstance(value, tuple) else "",
)
def test_equals_the_single_process_in_every_mode(ranks: int, overrides: tuple[str, ...]) -> None:
    result = check_against_reference(tiny(ranks, *overrides))
    assert result is not None and result.passed, str(result)


def test_a_given_order_with_split_backwards_equals_the_single_process(tmp_path: Path) -> None:
    """ZB-H1's shape by hand: I and W apart, W late."""
    path = tmp_path / "split.csv"
    path.write_text("0F0,0F1,0I0,0F2,0W0,0I1,0W1,0I2,0W2\n1F0,1I0,1F1,1I1,1W0,1F2,1I2,1W1,1W2\n")
    plan = ("plan.schedule=given", f"plan.schedule_file={path}", "plan.microbatches=3")
    result = check_against_reference(tiny(2, *plan))
    assert result is not None and result.passed, str(result)


@pytest.mark.parametrize("layout", ["compute_only", "compute_comms"])
def test_torchs_own_runtime_makes_the_same_gradients_of_our_order(
    tmp_path: Path, layout: str
) -> None:
    scenario = tiny(2, "plan.precision=fp64")
    path = tmp_path / "order.csv"
    program = build_program(scenario)
    text = (
        compute_csv(build_schedule(scenario)) if layout == "compute_only" else program_csv(program)
    )
    path.write_text(text)
    made: dict[str, torch.Tensor] = {}
    for part in run_target(
        "torch_runtime", {"scenario": scenario, "csv": str(path), "format": layout}
    ):
        made |= part
    expected = reference(scenario, 1).gradients
    assert made.keys() == expected.keys()
    for name, gradient in made.items():
        scale = float(expected[name].abs().max()) or 1.0
        assert float((gradient - expected[name]).abs().max()) / scale < 1e-10, name


def run_target(name: str, payload: dict[str, Any], ranks: int = 2) -> list[Any]:
    return launch(ranks, f"session_targets:{name}", payload, deadline_s=120.0, pin=True)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", ["kill", "raise"])
def test_a_rank_that_dies_stops_the_others(how: str) -> None:
    scenario = tiny(4)
    started = time.monotonic()
    with pytest.raises(RankFailure, match=r"rank 2") as caught:
        run_target("wrapped", {"scenario": scenario, "rank": 2, "at_message": 6, "how": how}, 4)
    whole = time.monotonic() - started
    assert not ranks_of(os.getpid())
    text = str(caught.value)
    assert ("SIGKILL" if how == "kill" else "InjectedFailure") in text
    assert "step" in text, "the others say where they were"
    assert whole < 60, "mostly the ranks' start; test_launch holds the stopping to 5 seconds"


def test_a_message_that_never_comes_ends_at_the_deadline() -> None:
    scenario = tiny(2, "execution.deadline=2 s")
    with pytest.raises(RankFailure, match=r"did not arrive within 2 s"):
        run_target("wrapped", {"scenario": scenario, "rank": 0, "at_message": 3, "how": "hang"})


def test_a_run_records_timelines_whose_structure_is_the_models() -> None:
    """The run's own durations, replayed: at most 2 % off."""
    scenario = tiny(2, "model.hidden=128", "model.sequence=64", "execution.iterations=6")
    result = run_scenario(scenario)
    assert result is not None
    measured = result.measurement
    assert len(measured.timelines) == 6 and len(measured.losses) == 6
    assert abs(structural_error(measured)) <= 0.02
    for timeline in measured.timelines:
        names = {str(s.action) for s in timeline.spans}
        program = build_program(scenario)
        assert {str(a) for steps in program.steps for step in steps for a in step} <= names
        for spans in timeline.compute:
            assert all(a.end_ns <= b.start_ns for a, b in itertools.pairwise(spans))
    assert measured.environment["transport"] == "MailboxTransport"
    assert all(p is not None and p > 0 for p in measured.peak_memory_bytes)


def test_the_null_transport_runs_the_same_order_without_messages() -> None:
    result = run_scenario(tiny(2, "execution.transport=none"))
    assert result is not None
    assert result.measurement.environment["transport"] == "NullTransport"
    assert result.measurement.iteration_ns > 0


def test_measure_makes_a_profile_that_predicts(tmp_path: Path) -> None:
    scenario = tiny(2, "model.hidden=64")
    profile = measure_scenario(scenario, quick=True)
    times = profile.times[shape_of(scenario)]
    for pass_ in ("forward", "backward", "backward_input", "backward_weight", "optimizer"):
        assert times["layer", pass_].median_ns > 0
    assert profile.post and profile.transfer and profile.unpack and profile.all_reduce
    write_profile(profile, tmp_path / "p.yaml")
    again = read_profile(tmp_path / "p.yaml")
    assert again.times == profile.times
    assert predict(scenario, again).iteration_ns == predict(scenario, profile).iteration_ns


def test_the_closed_loop_judges_in_pairs() -> None:
    overrides = (*TINY, "execution.iterations=4")
    result = closed_loop(
        ["local-2rank", "local-2rank-gpipe"],
        ["calibrate-2rank-a", "calibrate-2rank-b"],
        tuple(o for o in overrides if not o.startswith(("model.layers", "plan.microbatches"))),
        rounds=2,
    )
    assert [case.row.scenario for case in result.cases] == ["local-2rank", "local-2rank-gpipe"]
    fitted = [(row.scenario, row.judged) for row in result.calibration]
    assert fitted == [("calibrate-2rank-a", False), ("calibrate-2rank-b", False)]
    assert all(case.row.judged for case in result.cases)
    assert result.worst_structural < 0.05
    assert all(1 <= case.row.rounds <= 2 for case in result.cases)
    assert all(case.comparison.calibrated for case in result.cases)


def test_what_cannot_be_run_is_said() -> None:
    with pytest.raises(UnsupportedPlan, match="costs but no model"):
        run_scenario(load("replay/stage-times").scenario)
    with pytest.raises(UnsupportedPlan, match="also calibrated on"):
        closed_loop(["local-2rank"], ["local-2rank"])
    with pytest.raises(UnsupportedPlan, match="one number of ranks"):
        closed_loop(["local-2rank"], ["local-4rank"])


@pytest.mark.timeout(180)
def test_runs_under_torchrun(tmp_path: Path) -> None:
    output = tmp_path / "m.json"
    script = Path(__file__).resolve().parents[2] / "pipetwin.py"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *(str(script), "run", "local-2rank", "-o", str(output), "--check"),
        *(part for o in TINY for part in ("--set", o)),
    ]
    environment = os.environ | {"PYTHONPATH": str(script.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("equals a single process") == 1
    assert output.exists()
    wrong = [*command[:5], "1", *command[6:9], *command[11:]]
    failed = subprocess.run(wrong, env=environment, capture_output=True, text=True, timeout=150)
    assert failed.returncode != 0
    assert "torchrun started 1 ranks" in failed.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_cuda_path_equals_the_reference() -> None:
    scenario = tiny(2, "plan.pipeline=1", "cluster.devices_per_node=1", "cluster.device.kind=gpu")
    result = check_against_reference(replace(scenario, name="cuda"))
    assert result is not None and result.passed, str(result)


@pytest.mark.timeout(120)
def test_an_interrupted_run_keeps_what_it_finished(tmp_path: Path) -> None:
    """One Ctrl-C: the iteration ends, the file is written, exit 130, and no process is left."""
    output = tmp_path / "m.json"
    script = Path(__file__).resolve().parents[2] / "pipetwin.py"
    many = (*TINY, "execution.iterations=100000")
    command = [sys.executable, str(script), "run", "local-2rank", "-o", str(output)]
    process = subprocess.Popen(
        [*command, *(part for o in many for part in ("--set", o))],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    )
    try:
        limit = time.monotonic() + 60
        while time.monotonic() < limit and len(ranks := ranks_of(process.pid)) != 2:
            time.sleep(0.1)
        time.sleep(12)  # Importing torch and the warm-up; the run itself would take hours.
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()  # Its ranks end with it.
        process.wait()
    assert process.returncode == 130, err
    assert "stopping after this iteration" in err
    assert 0 < len(read_measurement(output).timelines) < 100_000
    assert "measured" in out
    assert not any(is_alive(rank) for rank in ranks)


def test_the_check_notices_what_is_not_a_number() -> None:
    good = {"a": torch.ones(3)}
    assert _difference({"a": [torch.ones(3)]}, good) == 0
    assert _difference({"a": [torch.tensor([1.0, float("nan"), 1.0])]}, good) == float("inf")
    assert _difference({"a": [torch.ones(3), torch.full((3,), 2.0)]}, good) == 1


def test_a_scenario_of_gpus_is_not_run_on_cores() -> None:
    if torch.cuda.device_count() >= 2:
        pytest.skip("this host has the GPUs")
    with pytest.raises(LaunchError, match=r"need a GPU each"):
        run_scenario(tiny(2, "cluster.device.kind=gpu"))


def test_an_order_that_would_deadlock_is_refused(tmp_path: Path) -> None:
    """Three ranks whose backward passes cross: fine with buffers, stuck in a rendezvous."""
    path = tmp_path / "order.csv"
    path.write_text(
        "0F0,0F1,0F2,0F3,0B0,0B2,0B1,0B3\n1F0,1F1,1F2,1B0,1B2,1B1,1F3,1B3\n"
        "2F0,2F1,2B0,2F2,2B2,2B1,2F3,2B3\n"
    )
    overrides = ("plan.schedule=given", f"plan.schedule_file={path}", "plan.microbatches=4")
    size = ("plan.pipeline=3", "cluster.devices_per_node=3", "model.layers=3")
    refused = load("local-2rank", (*TINY, *size, *overrides, "plan.p2p=blocking")).scenario
    with pytest.raises(ScheduleError, match=r"would deadlock with p2p: blocking"):
        run_scenario(refused)


def test_several_stages_on_a_rank_equal_the_single_process(tmp_path: Path) -> None:
    """torch's interleaved order, four stages on two ranks, whose messages also stay on a rank."""
    path = tmp_path / "looped.csv"
    path.write_text("0F0,0F1,2F0,2F1,2B0,2B1,0B0,0B1\n1F0,1F1,3F0,3B0,3F1,3B1,1B0,1B1\n")
    plan = ("plan.schedule=given", f"plan.schedule_file={path}", "plan.microbatches=2")
    result = check_against_reference(tiny(2, *plan))
    assert result is not None and result.passed, str(result)
