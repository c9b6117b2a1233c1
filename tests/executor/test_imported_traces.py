"""Real profiled runs read back: our own executor's beside what it recorded itself, and users' runs
of torch.distributed.pipelining, as docs/traces.md tells them to.
"""

import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from executor.assembly import timeline_of
from executor.launch import launch
from scenarios.loader import load
from sim.comparison import structural_error
from sim.schedule.actions import COMPUTE, Action
from sim.schedule.build import build_program
from sim.timeline.spans import Timeline
from sim.traces.importing import import_traces

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = ("model.hidden=128", "model.sequence=32", "model.layers=4", "plan.microbatches=6")


def durations(timeline: Timeline) -> dict[Action, int]:
    compute = (s for s in timeline.spans if s.lane == "compute" and s.action.kind in COMPUTE)
    return {s.action: s.duration_ns for s in compute}


@pytest.mark.timeout(200)
def test_our_own_run_in_a_trace_is_what_it_recorded_itself(tmp_path: Path) -> None:
    """Iteration by iteration: the interpreter's clock is monotonic, the profiler's since 1970."""
    scenario = load("local-2rank", SMALL).scenario
    payload = {"scenario": scenario, "folder": str(tmp_path), "iterations": 3}
    ranks = launch(2, "profiled_targets:own_model", payload, deadline_s=150.0, pin=True)
    program = build_program(scenario)
    result = import_traces(scenario, sorted(tmp_path.glob("rank*.json.gz")))
    assert len(result.steps) == 3
    assert not any("left out" in note or "before it was sent" in note for note in result.notes)
    for n, timeline in enumerate(result.measurement.timelines):
        recorded = timeline_of(program, [records[n] for records in ranks])
        both = (timeline.iteration_ns, recorded.iteration_ns)
        # What lies around a pass in the interpreter (its marks, taking over a message) is in one of
        # the two and not in the other: tens of microseconds a pass.
        assert both[0] == pytest.approx(both[1], rel=0.05, abs=1_000_000), both
        ours, theirs = durations(timeline), durations(recorded)
        assert ours.keys() == theirs.keys()
        ratio = [ours[a] / theirs[a] for a in ours]
        assert statistics.median(ratio) == pytest.approx(1, abs=0.1), sorted(ratio)
    assert abs(structural_error(result.measurement, program)) < 0.1


def block(name: str) -> str:
    """A file that docs/traces.md tells to write."""
    text = (ROOT / "docs" / "traces.md").read_text()
    (found,) = re.findall(rf"^```\w+ {re.escape(name)}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return str(found)


def pipetwin(*tokens: str, cwd: Path) -> Any:
    line = [sys.executable, str(ROOT / "pipetwin.py"), *tokens, "--json"]
    done = subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(280)
def test_runs_of_torchs_pipelining_are_validated(tmp_path: Path) -> None:
    """As docs/traces.md has it: 1F1B, annotated, and interleaved, which names its actions."""
    for name in ("train.py", "mine.yaml"):
        (tmp_path / name).write_text(block(name))
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*line, "train.py", "1f1b", "interleaved"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    chunks = ("--set", "plan.schedule=interleaved", "--set", "plan.chunks=2")
    for kind, overrides in (("1f1b", ()), ("interleaved", chunks)):
        scenario = ("mine.yaml", *overrides)
        # The other way round: the traces tell their ranks.
        traces = (f"{kind}-rank1.json.gz", f"{kind}-rank0.json.gz")
        told = pipetwin("import-trace", *scenario, *traces, "-o", f"{kind}.json", cwd=tmp_path)
        assert told["iterations"] == 5 and told["origin"] == "measured"
        assert told["environment"]["clock_uncertainty_ns"] == 0
        assert 0.02 < told["bubble_fraction"] + told["exposed_communication_fraction"] < 0.6
        found = pipetwin("validate", *scenario, "--measured", f"{kind}.json", cwd=tmp_path)
        # What lies between annotations is lost to the replay: on an idle machine 0 to 2 %.
        assert abs(found["structural_error"]) < 0.1, (kind, found["structural_error"])
        assert {a["what"] for a in found["actions"]} >= {"0F", "0B", "1F", "1B", "0STEP", "1STEP"}
        assert all(a["measured_s"] > 0 for a in found["actions"])
