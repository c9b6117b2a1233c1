"""Pages and terminal of elastic runs, predicted and executed."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from reports import elastic_words
from reports.elastic_tables import change, stages
from reports.pages import charts_elastic, gantt
from reports.pages.page_elastic import render_elastic
from reports.terminal import elastic as terminal_elastic
from reports.terminal.console import wide
from reports.terminal.elastic import show_elastic
from reports.terminal.elastic_measured import finish
from scenarios.elastic import Transition
from scenarios.loader import Loaded, load
from sim.elastic_comparison import ElasticComparison
from sim.elastic_run import AblationRow, ElasticPrediction, predict_run, summary

HOSTILE = "<script>alert(1)</script>"
"""As in the fixtures."""


def figure(page: str, name: str) -> Any:
    """The data of a figure of a page."""
    found = re.search(
        rf'id="figure-{name}".*?<script type="application/json">(.*?)</script>', page, re.DOTALL
    )
    assert found is not None, name
    return json.loads(found[1])


def visible(page: str) -> str:
    """The text of a page, without scripts and styles."""
    text = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"<[^>]*>", "", text).replace("\u00a0", " ")


@pytest.fixture(scope="module")
def found(ablated: tuple[AblationRow, ...]) -> ElasticPrediction:
    return ablated[-1].prediction


def test_the_run_shrinks_and_gains(found: ElasticPrediction, pages: dict[str, str]) -> None:
    """What the charts rest on: the made-up run goes through several layouts and the cache."""
    assert found.frozen_by_epoch == (0, 4, 6, 7, 8, 8)
    assert found.epochs[0].pipeline == 4 and found.epochs[-1].pipeline == 1
    assert found.epochs[-1].data == 4 and found.epochs[-1].cached_layers == 8
    text = visible(pages["elastic"])
    assert "The pipeline goes from 4 ranks to 1, and its replicas from 1 to 4" in text
    assert f"{found.epochs[0].samples_per_s:,.4g} samples/s in the first epoch" in text


def test_throughput_has_a_line_for_every_combination(
    pages: dict[str, str], ablated: tuple[AblationRow, ...], found: ElasticPrediction
) -> None:
    lines = figure(pages["elastic"], "throughput")["data"]
    assert [line["name"] for line in lines] == [row.name for row in ablated]
    assert lines[-1]["y"] == [e.samples_per_s for e in found.epochs]
    assert lines[0]["y"] == [ablated[0].prediction.phases[0].samples_per_s] * 6
    bars = figure(pages["elastic"], "speedups")["data"]
    assert [bar["x"][0] for bar in bars] == [row.speedup for row in ablated]
    assert f">{ablated[-1].speedup:.2f}×<" in pages["elastic"]


def test_ranks_stand_on_the_runs_time_axis(found: ElasticPrediction) -> None:
    chart = charts_elastic.ranks_over_time(found)
    pipeline, replicas = chart["data"]
    assert pipeline["x"][0] == 0
    assert pipeline["x"][-1] == pytest.approx(found.total_ns / 1e9)
    assert pipeline["y"] == [p.phase.layout.pipeline for p in found.phases] + [1]
    assert replicas["y"][0] == 1 and replicas["y"][-1] == 4
    bands = chart["layout"]["shapes"]
    assert len(bands) == len(found.transitions)
    wide = sum(band["x1"] - band["x0"] for band in bands)
    assert wide == pytest.approx(found.transition_ns / 1e9)


def test_layers_of_every_epoch_sum_to_the_model(found: ElasticPrediction) -> None:
    data = charts_elastic.layers_by_epoch(found, 8)["data"]
    columns = [trace for trace in data if trace["type"] == "bar"]
    assert [sum(values) for values in zip(*(c["y"] for c in columns), strict=True)] == [8] * 6
    filled = next(trace for trace in data if trace["name"] == "fills the cache")
    assert filled["x"] == ["1", "2", "3", "4"]
    times = charts_elastic.epoch_times(found)["data"]
    assert times[0]["y"] == [e.seconds for e in found.epochs]
    assert sum(times[1]["y"]) == pytest.approx(found.transition_ns / 1e9)


def test_every_phase_has_its_iteration(pages: dict[str, str], found: ElasticPrediction) -> None:
    data = figure(pages["elastic"], "iterations")
    ranks = [p.phase.layout.pipeline for p in found.phases]
    assert len(data["rows"]) == sum(ranks) and data["num_tracks"] == len(ranks)
    assert [w["name"] for w in data["windows"]][:2] == ["All", "epoch 0"]
    borders = [w["rows"] for w in data["windows"][1:]]
    assert [to - low for low, to in borders] == ranks
    rows = np.frombuffer(base64.b64decode(data["spans"]["row"]), dtype="<u2")
    ends = np.frombuffer(base64.b64decode(data["spans"]["start"]), dtype="<u4").astype(np.int64)
    ends += np.frombuffer(base64.b64decode(data["spans"]["length"]), dtype="<u4")
    for (low, to), own in zip(borders, found.phases, strict=True):
        mine = (rows >= low) & (rows < to)
        assert ends[mine].max() == own.prediction.timeline.iteration_ns
        assert data["rows"][low]["end"] == own.prediction.timeline.iteration_ns
        assert "title" in data["rows"][low]


def test_later_phases_are_left_out_where_the_page_would_grow(
    found: ElasticPrediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = found.phases[0].prediction
    track = gantt.Track(first.timeline, first.program, None)
    drawn = len(list(gantt._drawn(track, lambda rank: rank)))
    monkeypatch.setattr(gantt, "MAX_SPANS", drawn)
    page = render_elastic(found, (), loaded=None)
    data = figure(page, "iterations")
    assert data["num_tracks"] == 1 and data["num_kept"] == data["num_spans"] == drawn
    assert f"The page leaves out {len(found.phases) - 1} later phases" in visible(page)


def test_memory_of_every_phase_is_drawn(pages: dict[str, str], found: ElasticPrediction) -> None:
    columns = figure(pages["elastic"], "memory-phases")["data"]
    peaks = [max(c.peak_bytes for c in p.prediction.memory or ()) for p in found.phases]
    sums = [sum(values) for values in zip(*(c["y"] for c in columns), strict=True)]
    assert sums == pytest.approx([peak / 2**30 for peak in peaks])


def test_the_page_has_the_summary_and_the_command(
    pages: dict[str, str], ablated: tuple[AblationRow, ...], found: ElasticPrediction
) -> None:
    page = pages["elastic"]
    data = re.search(r'id="summary">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    assert json.loads(data[1]) == json.loads(json.dumps(summary(found, ablated)))
    text = visible(page)
    assert "pipetwin simulate e" in text and "Elastic runs: what the first iterations" in text
    assert "Caching the output of frozen layers pays from" in text
    assert "The speed-up as a product: freezing" in text


def test_a_run_without_freezing_has_a_page_too(elastic_loaded: Loaded) -> None:
    static = replace(
        elastic_loaded.scenario,
        elastic=replace(elastic_loaded.scenario.elastic, freeze="off"),  # type: ignore[type-var]
    )
    found = predict_run(static)
    text = visible(render_elastic(found, (), loaded=elastic_loaded))
    assert "Every epoch runs at" in text and "The pipeline keeps its 4 ranks" in text
    assert "Transitions" in text and "Caching" not in text


def test_another_set_of_mechanisms_is_drawn_beside_the_ablation(
    elastic_loaded: Loaded, ablated: tuple[AblationRow, ...]
) -> None:
    scenario = elastic_loaded.scenario
    assert scenario.elastic is not None
    other = replace(scenario, elastic=replace(scenario.elastic, alpha=0.25, freeze="adaptive"))
    found = predict_run(other)
    page = render_elastic(found, ablated, loaded=elastic_loaded)
    lines = figure(page, "throughput")["data"]
    assert len(lines) == len(ablated) + 1 and lines[-1]["name"] == "this run"
    bars = figure(page, "speedups")["data"]
    assert bars[-1]["x"] == [ablated[0].prediction.total_ns / found.total_ns]
    assert any("gradients" in note for note in elastic_words.notes(found))


def test_a_run_that_is_too_large_says_so(found: ElasticPrediction) -> None:
    """Which epochs, and by how much: the verdict, which heads the terminal and the page."""
    assert elastic_words.too_large(found) == ""
    cluster = found.scenario.cluster
    assert cluster is not None
    small = replace(cluster, device=replace(cluster.device, memory=1))
    last = found.phases[-1]
    scenario = replace(last.prediction.scenario, cluster=small)
    over = replace(last, prediction=replace(last.prediction, scenario=scenario))
    told = elastic_words.verdict(replace(found, phases=(*found.phases[:-1], over)), ())
    which = elastic_words.epochs(last.phase)
    assert last.phase.epochs == 1 and f"; epoch {which} does not fit in memory: a rank" in told
    every = replace(found, phases=(replace(found.phases[0], prediction=over.prediction), over))
    assert f"; epochs 0, {which} do not fit in memory" in elastic_words.verdict(every, ())


def test_a_narrow_terminal_breaks_tables_between_columns(found: ElasticPrediction) -> None:
    """No word is cut: a table that is too wide goes on below, with its first column again."""
    table = terminal_elastic.phases_table(found)
    shown = {}
    for width in (80, 300):
        out = Console(width=width, file=StringIO())
        wide(out, table)
        assert isinstance(out.file, StringIO)
        shown[width] = out.file.getvalue()
    assert len(shown[300].splitlines()) == 1 + len(found.phases)
    assert len(shown[80].splitlines()) == 2 * (1 + len(found.phases))
    assert shown[80].split().count("epochs") == 2 and "microbatches" in shown[80].split()
    words = [word for word in shown[300].split() if word != "epochs"]
    assert set(words) <= set(shown[80].split())


def test_changes_that_are_taken_to_be_free_are_named(found: ElasticPrediction) -> None:
    """A scenario that says nothing of groups and devices is told what that leaves out."""
    free = tuple(replace(t, parts={**t.parts, "rebuild": 0}) for t in found.transitions)
    elastic = found.scenario.elastic
    assert elastic is not None and free
    for moves, said in ((Transition(), True), (Transition(device_start=1), False)):
        scenario = replace(found.scenario, elastic=replace(elastic, transition=moves))
        notes = elastic_words.notes(replace(found, scenario=scenario, transitions=free))
        assert any("elastic.transition says" in note for note in notes) is said


def test_a_run_without_changes_has_no_transitions(found: ElasticPrediction) -> None:
    assert ", no transitions" in terminal_elastic.total(replace(found, transitions=()))


def test_the_terminal_shows_phases_and_the_ablation(
    found: ElasticPrediction,
    ablated: tuple[AblationRow, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_elastic(found, ablated, as_json=False)
    shown = capsys.readouterr().out
    assert f"{ablated[-1].speedup:.2f} times as fast as without freezing" in shown
    for own in found.phases:
        assert elastic_words.shape(own.phase) in shown and stages(own.phase) in shown
    for row in ablated:
        assert row.name in shown
    assert "in all" in shown and "making groups anew" in shown and "of it: freezing" in shown
    assert "not fit" not in shown
    show_elastic(found, ablated, as_json=True)
    data = json.loads(capsys.readouterr().out)
    assert data["total_s"] == found.total_ns / 1e9 and len(data["ablation"]) == 5


def test_the_executed_page_has_both_sides(
    pages: dict[str, str], elastic_runs: ElasticComparison
) -> None:
    page = pages["executed"]
    assert "<script>alert" not in page
    text = visible(page)
    gain = elastic_runs.speedups[0]
    assert f"{gain.measured:.2f} times as fast as static" in text
    assert f"{gain.predicted:.2f} times" in text and "95.0 % accurate" in text
    lines = figure(page, "measured-throughput")["data"]
    assert [line["mode"] for line in lines] == ["lines+markers"] * 2 + ["markers"] * 2
    slower = np.array(lines[0]["y"]) / np.array(lines[2]["y"])
    assert slower == pytest.approx([1.05] * 6)
    pairs = figure(page, "measured-iterations")["data"]
    assert np.array(pairs[0]["y"]) == pytest.approx(1.05 * np.array(pairs[1]["y"]))
    steps = figure(page, "ranks")["data"]
    assert [s["line"]["dash"] for s in steps] == ["solid", "solid", "dot", "dot"]
    assert "Calibrated on two ranks." in text and "Held up by others" in text


def test_the_terminal_shows_what_was_executed(
    elastic_runs: ElasticComparison, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finish(elastic_runs, (), as_json=False) == 0
    shown = capsys.readouterr().out
    gain = elastic_runs.speedups[0]
    assert f"over static: measured {gain.measured:.2f}x" in shown
    assert "-4.8%" in shown and "95.00%" in shown and "static, phase by phase" in shown
    assert "loss kept" in shown and "to 0.0e+00" in shown
    assert finish(replace(elastic_runs, interrupted=True), (), as_json=True) == 130
    captured = capsys.readouterr()
    assert json.loads(captured.out)["runs"][1]["name"] == "static"
    assert "12 epochs were finished and kept" in captured.err


def test_words_of_long_times_and_changes(found: ElasticPrediction) -> None:
    said = [
        elastic_words.long_duration(s).replace("\u00a0", " ") for s in (3.0, 150, 8000, 4 * 86400)
    ]
    assert said == ["3 s", "2.5 minutes", "2.22 hours", "4 days"]
    first, second = found.phases[0].phase, found.phases[1].phase
    assert change(first, second).startswith("4 more frozen")
    assert elastic_words.cache(second) == "fills 4"


def test_one_iteration_says_what_is_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    from reports.pages.page import render
    from reports.terminal.basics import show_prediction
    from sim.prediction import predict

    loaded = load("local-4rank", ["plan.frozen_layers=2", "plan.cached_layers=1"])
    prediction = predict(loaded.scenario)
    show_prediction(prediction, as_json=False)
    assert "2 of 8 layers frozen, 1 cached, takes" in " ".join(capsys.readouterr().out.split())
    text = visible(render(prediction, loaded=loaded))
    assert "2 layers frozen: forward passes alone; the output of the first 1 is read" in text
