"""Published runs of epochs: figures as in the data, what they were run with, errors of a table."""

from __future__ import annotations

import pytest
from published_data import published_sets

from scenarios import catalogue
from scenarios.checking import check_all
from scenarios.errors import Problem, ScenarioError
from scenarios.files import Node, parse_text
from scenarios.loader import load
from scenarios.published import choose_tables, load_table
from scenarios.published_elastic import load_runs

TABLES = ("pt.alpha", "pt.breakdown", "pt.epoch_throughput", "pt.table1")


def figures(table_id: str) -> dict[str, tuple[float, ...]]:
    return {run.name: run.figures for run in load_runs(table_id).runs}


def test_the_tables() -> None:
    assert catalogue.run_tables() == TABLES
    assert not set(TABLES) & set(catalogue.tables())
    assert choose_tables(["pipetransformer"]) == ("pt.chunks", "pt.chunks_log")
    with pytest.raises(ScenarioError, match="no published table is called so"):
        choose_tables(["pt.breakdown"])
    assert "no problems" in check_all([f"published/{table_id}" for table_id in TABLES])


def test_speedups_are_those_of_the_data() -> None:
    breakdown = {row["variant"]: (row["speedup"],) for row in published_sets()["pt.breakdown"]}
    breakdown["no freeze"] = breakdown.pop("no freeze (baseline)")
    assert figures("pt.breakdown") == breakdown
    alphas = {row["alpha"]: (row["speedup"],) for row in published_sets()["pt.alpha"]}
    assert figures("pt.alpha") == alphas
    times = {row["dataset"]: (row["speedup_from_times"],) for row in published_sets()["pt.table1"]}
    assert figures("pt.table1") == times


def test_throughputs_are_those_of_the_data() -> None:
    found: dict[str, list[float]] = {}
    for row in published_sets()["pt.epoch_throughput"]:
        found.setdefault(row["variant"], []).append(row["samples_per_s"])
    assert figures("pt.epoch_throughput") == {name: tuple(rates) for name, rates in found.items()}


@pytest.mark.parametrize(
    ("table_id", "key", "rate", "unit"),
    [("pt.chunks", "multiple", "samples_per_s", 8), ("pt.chunks_log", "chunks", "images_per_s", 1)],
)
def test_chunks_are_those_of_the_data(table_id: str, key: str, rate: str, unit: int) -> None:
    """All rows of K = 8, with as many chunks as torch cuts 400 images into."""
    data = {str(r[key]): r[rate] for r in published_sets()[table_id] if r["K"] == 8 and key in r}
    rows = load_table(table_id).rows
    assert {row.name: row.figure for row in rows} == data
    for row in rows:
        plan, chunks = row.scenario.plan, int(row.name) * unit
        size = -(-400 // chunks)
        assert plan.num_sequences == 400 * plan.data
        assert plan.num_microbatches == -(-400 // size)
        assert {group.micro_batch for group in plan.groups} <= {size, 400 % size}


def test_transitions_are_those_of_the_data() -> None:
    """A rebuild takes the mean of the three; a GPU's start, what most readings have."""
    log = {
        row["event"]: [float(second) for second in row["s"].split(" / ")]
        for row in published_sets()["pt.transition"]
        if not row["s"].endswith("MiB")
    }
    for name in ("vit-imagenet", "vit-cifar100", "bert-squad"):
        elastic = load(f"pipetransformer/{name}").scenario.elastic
        assert elastic is not None
        rebuilds = [seconds[0] for event, seconds in log.items() if "rebuild" in event]
        assert elastic.transition.rebuild / 1e9 == pytest.approx(sum(rebuilds) / 3, abs=0.5)
        starts = [
            seconds / gpus
            for gpus in (8, 4)
            for event, readings in log.items()
            if event.startswith("CPU->GPU") and f"{gpus} GPUs/pipe" in event
            for seconds in readings
        ]
        assert len(starts) == 4
        assert elastic.transition.device_start / 1e9 == pytest.approx(sum(starts) / 4, rel=0.1)


def test_what_was_run() -> None:
    runs = {run.name: run for run in load_runs("pt.breakdown").runs}
    for name, run in runs.items():
        elastic = run.scenario.elastic
        assert elastic is not None and run.over is not None and run.over.elastic is not None
        assert run.over.elastic.freeze == "off"
        if name == "no freeze":
            assert run.scenario.digest == run.over.digest
            continue
        assert (elastic.autopipe, elastic.autodp, elastic.autocache) == tuple(
            part in name for part in ("AutoPipe", "AutoDP", "AutoCache")
        )
    for run in load_runs("pt.alpha").runs[1:]:
        one, _, other = run.name.partition("/")
        assert run.scenario.elastic is not None
        assert run.scenario.elastic.alpha == pytest.approx(int(one) / int(other))


def test_nothing_with_freezing_was_calibrated_on() -> None:
    for table_id in TABLES:
        for run in load_runs(table_id).runs:
            assert run.scenario.elastic is not None
            assert run.fitted == (run.scenario.elastic.freeze == "off")
    assert all(row.fitted for row in load_table("pt.chunks_log").rows)
    assert not any(row.fitted for row in load_table("pt.chunks").rows)


def test_overrides_win() -> None:
    run = load_runs("pt.alpha", ["elastic.alpha=0.1"]).runs[1]
    assert run.scenario.elastic is not None and run.scenario.elastic.alpha == 0.1


def test_a_table_of_runs_is_no_scenario() -> None:
    with pytest.raises(ScenarioError, match=r"`validate --published pt\.breakdown` predicts them"):
        load("published/pt.breakdown")


GOOD = """\
title: t
source: s
url: u
unit: x
resolution: 0.01
scenario: pipetransformer/vit-imagenet
over: {elastic.freeze: off}
runs:
  one: {set: {elastic.autodp: false}, published: 1.5}
"""


@pytest.mark.parametrize(
    ("old", "new", "message", "line"),
    [
        ("unit: x", "unit: hours", "must be one of x, samples/s", 4),
        ("over: {elastic.freeze: off}\n", "", "`over` names the run", 1),
        ("unit: x", "unit: samples/s", "`over` names the run", 1),
        ("published: 1.5", "published: -1", "must be a number above 0", 9),
        (", published: 1.5", "", "`published` is missing", 9),
        ("published: 1.5", "speed: 1.5", "a run has no `speed`", 9),
        ("resolution: 0.01", "step: 0.01", "a table of runs has no `step`", 5),
        ("elastic.autodp: false", "elastic.autodp: [1]", "must be a text, a number", 9),
        ("set: {elastic.autodp: false}", "set: 3", "must be a mapping of fields", 9),
        ("elastic.autodp: false", "elastic.autodp: 7", "elastic.autodp", None),
        ("vit-imagenet", "vit-imagenot", "neither a file nor in the catalogue", None),
    ],
)
def test_what_is_wrong_is_said_where_it_is(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str, message: str, line: int | None
) -> None:
    problems: list[Problem] = []
    assert GOOD.count(old) == 1
    root = parse_text(GOOD.replace(old, new), "t.yaml", problems)
    assert problems == []

    def table_root(table_id: str) -> Node:
        return root

    monkeypatch.setattr(catalogue, "table_root", table_root)
    with pytest.raises(ScenarioError) as caught:
        load_runs("t")
    assert any(message in str(problem) for problem in caught.value.problems)
    if line is not None:
        assert [problem.line for problem in caught.value.problems] == [line]


def test_one_iteration_is_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    text = GOOD.replace("over: {elastic.freeze: off}\n", "").replace("unit: x", "unit: samples/s")
    text = text.replace("pipetransformer/vit-imagenet", "local/local-2rank")
    text = text.replace("{set: {elastic.autodp: false}, published: 1.5}", "{published: [1.5, 2]}")
    monkeypatch.setattr(catalogue, "table_root", lambda _: parse_text(text, "t.yaml", []))
    with pytest.raises(ScenarioError, match="has no `elastic` section"):
        load_runs("t")


def test_the_good_table_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "table_root", lambda _: parse_text(GOOD, "t.yaml", []))
    (run,) = load_runs("t").runs
    assert (run.figures, run.fitted, run.assumed, run.origin.line) == ((1.5,), False, False, 9)
