"""Sweeps in one process: what is recorded, what is skipped, what is refused."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sweep_cases import FEW, canonical, records, run, tiny_file, tiny_sweep, undisturbed

from scenarios.base import Base
from scenarios.catalogue import profiles
from scenarios.loader import load
from sim.cost.profile_file import read_profile
from sim.prediction import predict, summary
from sim.sweeps import records as of_records
from sim.sweeps.local import on_this_machine
from sim.sweeps.results import ResultsFile
from sim.sweeps.setting import Setting
from sim.sweeps.space import SweepError, space
from sim.sweeps.sweep import Shard, Sweep, read_known
from sim.sweeps.work import Chunk, Outcomes, simulate_chunk

ROOT = Path(__file__).resolve().parents[3]


def test_every_point_is_recorded_once(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    steps = run(tiny_sweep(tmp_path), out)
    found = records(out)
    assert [r["index"] for r in found] == list(range(12))
    assert [r["status"] for r in found] == ["done"] * 8 + ["failed"] * 4
    assert len({r["key"] for r in found}) == 12
    assert sum(len(s.appended) for s in steps) == 12 and not any(s.skipped for s in steps)
    assert list(found[0]) == [
        *("key", "sweep", "index", "points", "set", "scenario", "digest"),
        *("status", "result", "error", "seconds"),
    ]


def test_a_result_is_what_simulate_says(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    run(tiny_sweep(tmp_path), out)
    for record in records(out)[:8]:
        overrides = [f"{field}={value}" for field, value in record["set"].items()]
        scenario = load(tiny_file(tmp_path), overrides).scenario
        assert record["result"] == json.loads(json.dumps(summary(predict(scenario))))
        assert record["digest"] == scenario.digest and record["scenario"] == "tiny"


def test_with_a_profile_as_simulate_does(tmp_path: Path) -> None:
    profile = read_profile(profiles()["a100-80gb"])
    out = tmp_path / "r.jsonl"
    overrides = ("plan.global_batch=null", "plan.microbatches=12")
    base = Base("megatron/175b", overrides)
    run(Sweep(base=base, space=space(["plan.micro_batch=1,2"]), profile=profile), out)
    for record in records(out):
        scenario = load("megatron/175b", (*overrides, f"plan.micro_batch={record['index'] + 1}"))
        found = summary(predict(scenario.scenario, profile, draws=15))
        assert record["result"] == json.loads(json.dumps(found))


def test_a_failure_says_why(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    rows = tmp_path / "order.csv"
    rows.write_text("0F0,0B0\n1B0,1F0\n")
    vary = [f"plan.schedule_file={rows},nowhere.csv", "plan.schedule=given,1f1b"]
    base = Base(tiny_file(tmp_path), ("plan.microbatches=1",))
    run(Sweep(base=base, space=space(vary)), out)
    wrong_order, with_1f1b, nowhere, both = records(out)
    assert wrong_order["error"]["type"] == "ScheduleError" and wrong_order["digest"]
    assert "1B0" in wrong_order["error"]["message"]
    assert with_1f1b["error"]["type"] == "ScenarioError" and with_1f1b["digest"] is None
    assert "is not read by `schedule: 1f1b`" in with_1f1b["error"]["message"]
    assert nowhere["error"]["message"].startswith(
        "--set plan.schedule_file=nowhere.csv: `nowhere.csv` is no file"
    )
    assert both["result"] is None and both["status"] == "failed"


def test_a_failure_can_be_shown_whatever_was_asked(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    run(tiny_sweep(tmp_path, ("plan.microbatches=1,\udcff",)), out)
    wrong = records(out)[1]["error"]["message"]
    assert wrong.isprintable() and "\\udcff" in wrong


def test_a_surprise_is_a_failure_of_its_point_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predicted(scenario: Any, *_: Any, **__: Any) -> Any:
        if scenario.plan.num_microbatches == 2:
            raise ZeroDivisionError("a surprise")
        if scenario.plan.num_microbatches == 3:
            raise MemoryError
        return predict(scenario)

    monkeypatch.setattr("sim.sweeps.work.predict", predicted)
    out = tmp_path / "r.jsonl"
    run(tiny_sweep(tmp_path, ("plan.microbatches=1..4",)), out)
    found = records(out)
    assert [r["status"] for r in found] == ["done", "failed", "failed", "done"]
    assert found[1]["error"] == {"type": "ZeroDivisionError", "message": "a surprise"}
    assert found[2]["error"]["type"] == "MemoryError"


def test_resumed_it_repeats_nothing(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    run(tiny_sweep(tmp_path), out)
    before = out.read_bytes()
    steps = run(tiny_sweep(tmp_path), out, refusing_workers)
    assert out.read_bytes() == before
    assert sum(len(step.skipped) for step in steps) == 12


def refusing_workers(setting: Setting, chunks: Any) -> Any:
    yield from (pytest.fail("asked to simulate again") for _ in chunks)


@pytest.mark.parametrize("cut", [1, 5, 400, 1500, 4000])
def test_resumed_after_a_torn_line_it_lacks_nothing(tmp_path: Path, cut: int) -> None:
    out = tmp_path / "r.jsonl"
    run(tiny_sweep(tmp_path), out)
    out.write_bytes(out.read_bytes()[:-cut])
    run(tiny_sweep(tmp_path), out)
    assert canonical(out) == undisturbed()


def test_a_grown_sweep_simulates_only_what_is_new(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    run(tiny_sweep(tmp_path, ("plan.microbatches=2,4",)), out)
    steps = run(tiny_sweep(tmp_path, ("plan.pipeline=1,2", "plan.microbatches=1..4")), out)
    assert sum(len(step.appended) for step in steps) == 6
    assert len(records(out)) == 8


def test_the_same_scenario_in_other_words_is_one_result(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    values = ("1 ms", "0.001 s", "1000 us")
    steps = run(tiny_sweep(tmp_path, (f"costs.send={','.join(values)}",)), out)
    assert [r["set"] for r in records(out)] == [{"costs.send": "1 ms"}]
    assert sum(step.same for step in steps) == 2
    steps = run(tiny_sweep(tmp_path, ("costs.send=1000000 ns",)), out, refusing_workers)
    assert [len(step.skipped) for step in steps] == [1]


def test_shards_together_are_the_whole(tmp_path: Path) -> None:
    parts = tmp_path / "parts.jsonl"
    for number in range(3):
        own = tmp_path / f"part{number}.jsonl"
        sweep = tiny_sweep(tmp_path, shard=Shard(number=number, count=3))
        assert sweep.num_points == 4
        run(sweep, own)
        run(sweep, parts)
        assert {r["index"] % 3 for r in records(own)} == {number}
    assert canonical(parts) == undisturbed()


def test_the_same_sweep_twice_at_once_finds_everything_once(tmp_path: Path) -> None:
    """Step by step in turn, both wanting all points, the second one through another process."""
    out = tmp_path / "r.jsonl"
    one, two = tiny_sweep(tmp_path), tiny_sweep(tmp_path)
    counts = {"one": [0, 0], "two": [0, 0]}
    with ResultsFile(out) as first, ResultsFile(out) as second:
        running = {
            "one": one.run(first, read_known(first, one.id), on_this_machine(1)),
            "two": two.run(second, read_known(second, two.id), on_this_machine(1)),
        }
        for name in itertools.cycle(("one", "two")):
            step = next(running[name], None)
            if step is None:
                break
            counts[name][0] += len(step.appended)
            counts[name][1] += len(step.skipped)
        for name, steps in running.items():
            for step in steps:
                counts[name][0] += len(step.appended)
                counts[name][1] += len(step.skipped)
    assert canonical(out) == undisturbed()
    assert counts["one"][0] + counts["two"][0] == 12
    assert sum(counts["one"]) == sum(counts["two"]) == 12


def test_two_grids_that_overlap_find_each_scenario_once(tmp_path: Path) -> None:
    """What both want, under numbers of their own."""
    out = tmp_path / "r.jsonl"
    one = tiny_sweep(tmp_path, ("plan.microbatches=1..8",))
    two = tiny_sweep(tmp_path, ("plan.microbatches=8..1",))

    def all_at_once(setting: Setting, chunks: Iterator[Chunk]) -> Generator[Outcomes, None, None]:
        for chunk in list(chunks):
            yield simulate_chunk(setting, chunk)

    with ResultsFile(out) as file:
        steps = two.run(file, read_known(file, two.id), all_at_once)
        next(steps)
        run(one, out)
        rest = list(steps)
    assert len(records(out)) == len({record["key"] for record in records(out)}) == 8
    assert sum(len(step.skipped) for step in rest) == 7


def test_another_sweep_that_begins_in_the_file_meanwhile_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    mine = tiny_sweep(tmp_path)
    with ResultsFile(out) as file:
        known = read_known(file, mine.id)
        run(replace(mine, figures="time"), out)
        with pytest.raises(SweepError, match="is of another sweep"):
            list(mine.run(file, known, on_this_machine(1)))


def test_failed_points_are_tried_again_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r.jsonl"

    def failing(*_: Any, **__: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr("sim.sweeps.work.predict", failing)
    run(tiny_sweep(tmp_path), out)
    assert {r["status"] for r in records(out)} == {"failed"}
    monkeypatch.undo()
    assert sum(len(s.appended) for s in run(tiny_sweep(tmp_path), out)) == 0
    run(tiny_sweep(tmp_path), out, retry_failed=True)
    found = records(out)
    # Points that break a rule failed as before: nothing new of them.
    assert [r["status"] for r in found[12:]] == ["done"] * 8
    last = {r["key"]: r["status"] for r in found}
    assert sorted(last.values()) == ["done"] * 8 + ["failed"] * 4
    before = out.read_bytes()
    run(tiny_sweep(tmp_path), out, retry_failed=True)
    assert out.read_bytes() == before


def test_another_sweeps_file_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    run(tiny_sweep(tmp_path), out)
    before = out.read_bytes()
    other = Base(tiny_file(tmp_path), ("costs.forward=5 ms",))
    with pytest.raises(SweepError, match=r"r\.jsonl:1: is of another sweep \(tiny\)"):
        run(Sweep(base=other, space=space(FEW)), out)
    profile = read_profile(profiles()["a100-80gb"])
    with pytest.raises(SweepError, match="is of another sweep"):
        run(replace(tiny_sweep(tmp_path), profile=profile), out)
    assert out.read_bytes() == before
    out.write_text('{"key":"1","status":"done"}\n')
    with pytest.raises(SweepError, match=r"r\.jsonl:1: is no result of a sweep"):
        run(tiny_sweep(tmp_path), out)


def test_a_changed_schedule_file_is_another_scenario(tmp_path: Path) -> None:
    out, rows = tmp_path / "r.jsonl", tmp_path / "order.csv"
    sweep = Sweep(
        base=Base(tiny_file(tmp_path), ("plan.pipeline=1", "plan.schedule=given")),
        space=space([f"plan.schedule_file={rows}"]),
    )
    for order in ("0F0,0F1,0B0,0B1\n", "0F0,0B0,0F1,0B1\n"):
        rows.write_text(order)
        run(sweep, out)
    one, two = records(out)
    assert one["status"] == two["status"] == "done" and one["digest"] != two["digest"]


def test_keys_are_the_same_in_another_process_and_other_with_other_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = load(tiny_file(tmp_path)).scenario
    key = of_records.key_of(scenario, None)
    code = (
        "import sys; from scenarios.loader import load; from sim.sweeps.records import key_of; "
        "print(key_of(load(sys.argv[1]).scenario, None))"
    )
    for seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", code, str(tiny_file(tmp_path))],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            timeout=60,
            capture_output=True,
            text=True,
        )
        assert found.stdout.strip() == key
    assert of_records.key_of(scenario, "profile") != key
    assert of_records.key_of(replace(scenario, name="other"), None) == key
    monkeypatch.setattr(of_records, "RESULT_FORMAT", "pipetwin sweep 2")
    assert of_records.key_of(scenario, None) != key
    one, two = {"a": 1, "b": [2]}, {"b": [2], "a": 1}
    assert of_records.refused_key("s", one) == of_records.refused_key("s", two)
    assert of_records.refused_key("s", one) != of_records.refused_key("t", one)


def test_chunks_grow_with_the_pace_of_points(tmp_path: Path) -> None:
    sizes: list[int] = []

    def timed(seconds: float) -> Any:
        def workers(setting: Setting, chunks: Any) -> Any:
            for chunk in chunks:
                sizes.append(len(chunk))
                yield tuple(replace(o, seconds=seconds) for o in simulate_chunk(setting, chunk))

        return workers

    vary = ("plan.microbatches=1..40", "plan.pipeline=1,2")
    run(tiny_sweep(tmp_path, vary), tmp_path / "quick.jsonl", timed(0.01))
    assert sizes[:7] == [1, 2, 4, 8, 16, 25, 24]
    sizes.clear()
    run(tiny_sweep(tmp_path, vary), tmp_path / "slow.jsonl", timed(3.0))
    assert set(sizes) == {1}


def test_points_that_break_a_rule_do_not_make_chunks_of_others_large(tmp_path: Path) -> None:
    sizes: list[list[bool]] = []

    def workers(setting: Setting, chunks: Any) -> Any:
        for chunk in chunks:
            sizes.append([task.scenario is not None for task in chunk])
            slow = (replace(o, seconds=o.seconds and 1.0) for o in simulate_chunk(setting, chunk))
            yield tuple(slow)

    sends = ",".join(f"{n} us" for n in range(300))
    vary = ("plan.schedule=no-such-schedule,1f1b", f"costs.send={sends}")
    run(tiny_sweep(tmp_path, vary), tmp_path / "r.jsonl", workers)
    assert len(sizes[0]) == 256 and not any(sizes[0])
    assert max(sum(chunk) for chunk in sizes) == 1 and sum(map(sum, sizes)) == 300


def test_left_early_it_keeps_what_it_yielded(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    ended: list[bool] = []

    def workers(setting: Setting, chunks: Any) -> Any:
        try:
            for chunk in chunks:
                yield simulate_chunk(setting, chunk)
        finally:
            ended.append(True)

    sweep = tiny_sweep(tmp_path)
    with ResultsFile(out) as file:
        steps = sweep.run(file, read_known(file, sweep.id), workers)
        kept = [key.key for step in itertools.islice(steps, 3) for key in step.appended]
        steps.close()
    assert ended == [True]
    assert [r["key"] for r in records(out)] == kept


def test_scenarios_with_epochs_and_slices_still_to_be_found(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    base = Base("local-2rank", ("plan.schedule=terapipe", "plan.microbatches=1"))
    run(Sweep(base=base, space=space(["plan.slices=null,optimal"])), out)
    whole, sliced = records(out)
    assert sliced["result"]["iteration_s"] <= whole["result"]["iteration_s"]
    out = tmp_path / "epochs.jsonl"
    sweep = Sweep(base=Base("local-elastic-vit"), space=space(["plan.micro_batch=8"]))
    (step, _) = run(sweep, out)
    (record,) = records(out)
    assert record["status"] == "done", record["error"]
    assert step.appended[0].seconds == record["result"]["total_s"]
