"""The page as text: self-contained, escaped, with the figures of the JSON summary."""

from __future__ import annotations

import hashlib
import html
import json
import re
import subprocess
import sys
from base64 import b64decode, b64encode
from dataclasses import replace
from typing import Any

import pytest

from reports import tables, words
from reports.pages import charts, charts_measured, gantt
from reports.pages.page import render, to_script
from scenarios.loader import Loaded, load
from sim.comparison import LoopRow
from sim.measurement import Measurement
from sim.prediction import Prediction, predict, summary

NAMES = ("full", "cluster", "times", "large")
SECTIONS = ("timeline", "breakdown", "memory", "measured", "scenario", "assumptions", "reproduce")
COUNTED = ("full", "cluster")
"""Pages of scenarios with a model, whose tokens can be counted."""
BLOCK = re.compile(r"<(script|style)([^>]*)>(.*?)</\1>", re.DOTALL)


def visible(page: str) -> str:
    """The page without scripts and styles."""
    return BLOCK.sub("", page)


def figures_of(page: str) -> dict[str, float]:
    """The value of every marked figure; the same figure must have the same value everywhere."""
    found: dict[str, float] = {}
    for value, name in re.findall(r'<data value="([^"]+)" data-figure="([^"]+)">', page):
        assert found.setdefault(name, float(value)) == float(value), name
    return found


def at(values: Any, path: str) -> Any:
    for key in path.split("."):
        values = values[int(key)] if isinstance(values, list) else values[key]
    return values


@pytest.mark.parametrize("name", NAMES)
def test_is_self_contained_and_small(pages: dict[str, str], name: str) -> None:
    page = pages[name]
    assert len(page.encode()) < 3_000_000
    shown = visible(page)
    assert not re.search(r"""\b(src|href|action|data)\s*=\s*["']?\s*(https?:)?//""", shown, re.I)
    links = {f"#{section}" for section in (*SECTIONS, *(["cost"] if name in COUNTED else []))}
    assert set(re.findall(r'href="([^"]*)"', shown)) == {"data:,", *links}
    assert "@import" not in page[: page.index("</style>")]
    assert " style=" not in shown and " onclick=" not in shown


@pytest.mark.parametrize("name", NAMES)
def test_policy_allows_exactly_its_own_blocks(pages: dict[str, str], name: str) -> None:
    page = pages[name]
    match = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert match is not None
    policy = html.unescape(match[1])
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    for kind, attributes, content in BLOCK.findall(page):
        if "application/json" in attributes:
            json.loads(content)
            continue
        digest = b64encode(hashlib.sha256(content.encode()).digest()).decode()
        rule = next(r for r in policy.split("; ") if r.startswith(f"{kind}-src"))
        assert f"'sha256-{digest}'" in rule


@pytest.mark.parametrize("name", NAMES)
def test_has_every_section_with_a_claim(pages: dict[str, str], name: str) -> None:
    shown = visible(pages[name])
    for section in SECTIONS:
        part = shown[shown.index(f'<section class="part" id="{section}">') :]
        claim = re.search(r"<h2>(.+?)</h2>", part)
        assert claim is not None and len(claim[1]) > 20
    tiles = re.findall(r'<p class="badge">(\w+)</p>', shown)
    assert set(tiles) == ({"simulated", "measured"} if name == "full" else {"simulated"})


def test_names_stay_text(pages: dict[str, str]) -> None:
    page = pages["full"]
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<script") == page.count("</script>")


def test_json_cannot_end_its_element() -> None:
    text = to_script({"a": "</script><!--\u2028&"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--\u2028&"}
    with pytest.raises(ValueError, match="JSON"):
        to_script(float("nan"))


def test_figures_equal_the_summary(
    prediction: Prediction, pages: dict[str, str], large: Prediction
) -> None:
    for page, source in ((pages["full"], prediction), (pages["large"], large)):
        expected = json.loads(json.dumps(summary(source)))
        found = figures_of(page)
        assert found
        for name, value in found.items():
            assert value == at(expected, name), name
    found = figures_of(pages["full"])
    for name in ("iteration_s", "bubble_fraction", "exposed_communication_fraction", "mfu"):
        assert name in found
    assert sum(name.startswith("ranks.") for name in found) == 4 * 4


def test_training_figures_are_shown(pages: dict[str, str]) -> None:
    found = figures_of(pages["cluster"])
    assert {"training_days", "training_cost_dollars", "model_tflops_per_gpu"} <= set(found)
    assert "whose training time" in pages["cluster"]


def test_breakdown_sums_to_all(prediction: Prediction, large: Prediction) -> None:
    for source in (prediction, large):
        for rank in charts.rank_parts(source):
            assert sum(rank.values()) == pytest.approx(1, abs=1e-12)
        chart = charts.breakdown_by_rank(source)
        for values in zip(*(trace["y"] for trace in chart["data"]), strict=True):
            assert sum(values) == pytest.approx(100, abs=1e-9)
        rows = tables.breakdown_table(summary(source)).rows
        assert rows[-1][1].value == pytest.approx(1, abs=1e-9)
        path = tables.path_seconds(summary(source))
        assert sum(path.values()) == pytest.approx(source.figures.iteration_ns / 1e9)


def test_memory_parts_sum_to_the_peak(prediction: Prediction) -> None:
    assert prediction.memory is not None
    for curve in prediction.memory:
        assert sum(tables.memory_parts(curve).values()) == curve.peak_bytes
        times, held = charts.envelope(curve, prediction.timeline.iteration_ns)
        assert max(held) == curve.peak_bytes / words.GIB and times == sorted(times)


def test_envelope_of_a_long_curve_keeps_its_peak() -> None:
    found = predict(load("megatron/175b", ["plan.global_batch=6144"]).scenario)
    assert found.memory is not None
    curve = max(found.memory, key=lambda c: len(c.times_ns))
    assert len(curve.times_ns) > charts.MAX_POINTS
    times, held = charts.envelope(curve, found.timeline.iteration_ns)
    assert len(times) <= charts.MAX_POINTS + 2
    assert max(held) == max(curve.bytes_held) / words.GIB


def test_short_timeline_is_whole(prediction: Prediction) -> None:
    data = gantt.timeline_data(prediction.timeline, prediction.program)
    count = len(b64decode(data["spans"]["style"]))
    assert data["overview"] is None and count == data["num_kept"] == data["num_spans"]
    assert {w["name"] for w in data["windows"]} >= {"Whole iteration", "Warm-up", "Cool-down"}
    assert all(0 <= w["start"] < w["end"] <= data["total_ns"] for w in data["windows"])


def test_long_timeline_shows_windows_and_says_so(large: Prediction, pages: dict[str, str]) -> None:
    data = gantt.timeline_data(large.timeline, large.program)
    count = len(b64decode(data["spans"]["style"]))
    assert count == data["num_kept"] == sum(w["count"] for w in data["windows"])
    assert count < 3 * 2 * gantt.WINDOW_SPANS < data["num_spans"]
    overview = data["overview"]
    shares = b64decode(overview["shares"])
    assert len(shares) == len(overview["styles"]) * 64 * gantt.OVERVIEW_BINS
    busy = sum(shares) / 255 / (64 * gantt.OVERVIEW_BINS)
    found = large.figures
    expected = 1 - found.bubble_fraction - found.exposed_communication_fraction
    assert busy == pytest.approx(expected, abs=2e-3)
    assert f"The timeline has {data['num_spans']:,} spans" in pages["large"]


def test_waits_name_the_message(prediction: Prediction) -> None:
    """The last rank's first pass waits for microbatch 0's activations from the rank before it."""
    track = gantt.Track(prediction.timeline, prediction.program, None)
    drawn = list(gantt._drawn(track, lambda rank: rank))
    last = prediction.timeline.num_ranks - 1
    first = min(
        (d for d in drawn if d.row == last and d.wait.gap_ns), key=lambda d: d.span.start_ns
    )
    assert first.wait.message is not None
    assert str(first.wait.message.action) == f"{last}RECV_F0"
    assert first.peer == last - 1


def test_measured_section_keeps_errors_apart(
    pages: dict[str, str], measurement: Measurement
) -> None:
    shown = visible(pages["full"])
    assert "Structural error" in shown and "Predictive error" in shown
    assert "1 of 12 iterations disturbed" in shown
    assert words.duration(measurement.iteration_ns) in shown
    assert "Nothing here is measured" in visible(pages["cluster"])


def test_scenario_table_tells_sources(loaded: Loaded) -> None:
    rows = tables.scenario_table(loaded.scenario, loaded.origins).rows
    sources = {row[0].text: row[2].text for row in rows}
    assert sources["micro_batch"] == "--set plan.micro_batch=2"
    assert sources["oversubscription"] == "default"
    assert re.search(r"local-4rank\.yaml:\d+$", sources["pipeline"])
    values = {row[0].text: row[1].text for row in rows}
    assert values["device.memory"] == "8 GiB"


def test_a_plan_that_does_not_fit_says_so(prediction: Prediction) -> None:
    scenario = prediction.scenario
    assert scenario.cluster is not None
    device = replace(scenario.cluster.device, memory=2**28)
    small = replace(scenario, cluster=replace(scenario.cluster, device=device))
    page = render(replace(prediction, scenario=small), loaded=None)
    assert "does not fit: rank 0 peaks at" in visible(page)
    assert "too much" in visible(page)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (words.percent(0.0769), "7.7 %"),
        (words.percent(-0.0241, signed=True), "−2.4 %"),
        (words.percent(0.00001, signed=False), "0.001 %"),
        (words.percent(1e-7), "<0.001 %"),
        (words.percent(0.0, signed=True), "0.0 %"),
        (words.duration(12_345_000_000), "12.35 s"),
        (words.duration(5_000), "5 µs"),
        (words.dollars(1_764_249.5), "$1.76 million"),
        (words.tflops(0.009094), "9.094 GFLOP/s"),
        (words.plural(1, "rank"), "1 rank"),
        (words.percent(None), "–"),
    ],
)
def test_numbers_read_well(shown: str, expected: str) -> None:
    assert shown == expected.replace(" ", words.NBSP)


def test_is_the_same_every_time(prediction: Prediction, loaded: Loaded) -> None:
    assert render(prediction, loaded=loaded) == render(prediction, loaded=loaded)


def test_rendering_loads_neither_torch_nor_the_executor() -> None:
    script = (
        "import sys, reports.pages.page; "
        "print(*sorted({'torch', 'executor', 'plotly'} & {n.split('.')[0] for n in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_what_was_calibrated_on_stands_apart_from_what_is_judged(
    prediction: Prediction, loop: tuple[LoopRow, ...]
) -> None:
    """The claim speaks of the judged ones alone; rings and a group of the table of the others."""
    page = render(prediction, loaded=None, loop=loop)
    judged = [row for row in loop if row.judged]
    said = visible(page).replace("\u00a0", " ")
    assert f"Over {len(judged)} scenarios the median predictive error" in said
    chart = charts_measured.parity(loop)
    sizes = {trace["name"]: len(trace["x"]) for trace in chart["data"][1:]}
    assert sizes == {"calibrated on": len(loop) - len(judged), "judged": len(judged)}
    table = tables.loop_table(tuple(reversed(loop)))
    assert dict(table.groups) == {0: "Judged", len(judged): "Calibrated on, not judged"}
    assert tables.loop_table(judged).groups == {}
