"""The page of a sweep: its figures are the results', and every point is drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from browsing import OUTSIDE, OVERLAPS, opened
from sweep_page_cases import (
    HOSTILE,
    grid,
    one_field,
    record,
    results,
    three_fields,
    two_fields,
    write,
)
from test_elastic_page import figure, visible

import pipetwin
from reports.pages.page_sweep import render_sweep
from reports.sweep_axes import Swept
from reports.sweep_tables import MAX_ROWS
from reports.sweep_words import effect_claim, memory_claim, verdict
from sim.sweeps.reading import Results, is_results_file, read_results
from sim.sweeps.space import SweepError

CASES = ("one", "two", "three", "alone", "failed", "empty")
DRAWN = """f => [...f.querySelectorAll("g.trace")].reduce(
  (n, t) => n + t.querySelectorAll(".point").length, 0)"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Results]:
    folder = tmp_path_factory.mktemp("results")
    failed = [record(i, s, error="no") for i, s in enumerate(grid(micro_batch=[0, -1]))]
    return {
        "one": results(folder, "one", one_field(), asked=5),
        "two": results(folder, "two", two_fields(), asked=8),
        "three": results(folder, "three", three_fields(), asked=30),
        "alone": results(folder, "alone", [record(0, {"plan.micro_batch": 1})]),
        "failed": results(folder, "failed", failed),
        "empty": results(folder, "empty", []),
    }


@pytest.fixture(scope="module")
def pages(found: dict[str, Results]) -> dict[str, str]:
    command = f"pipetwin sweep '{HOSTILE}'"
    return {name: render_sweep(own, command=command) for name, own in found.items()}


def summary_of(page: str) -> Any:
    data = re.search(r'id="summary">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    return json.loads(data[1])


def at(data: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        data = data[int(part)] if isinstance(data, list) else data[part]
    return data


@pytest.mark.parametrize("name", CASES)
def test_names_stay_text(pages: dict[str, str], name: str) -> None:
    assert "<script>alert" not in pages[name]


@pytest.mark.parametrize("name", CASES)
def test_every_figure_is_the_json_s(pages: dict[str, str], name: str) -> None:
    summary = summary_of(pages[name])
    cells = re.findall(r'<data value="([^"]*)" data-figure="([^"]*)"', pages[name])
    assert len(cells) >= (0 if name == "empty" else 2)
    for value, dotted in cells:
        assert float(value) == at(summary, dotted), dotted


@pytest.mark.parametrize("name", CASES)
def test_the_json_is_the_file_s(
    found: dict[str, Results], pages: dict[str, str], name: str
) -> None:
    lines = found[name].path.read_text().splitlines()
    records = {one["key"]: one for one in map(json.loads, lines)}
    points = summary_of(pages[name])["points"]
    assert {p["key"] for p in points} == set(records)
    for point in points:
        own = records[point["key"]]
        assert point["set"] == own["set"] and point["index"] == own["index"]
        assert point["status"] == own["status"]
        for key in ("iteration_s", "sequences_per_s", "peak_memory_bytes", "fits"):
            assert point[key] == (own["result"] or {}).get(key)
        assert point["error"] == (own["error"] or {}).get("message")


def test_the_claims_say_what_is_there(found: dict[str, Results], pages: dict[str, str]) -> None:
    one, two, three = (Swept(found[name]) for name in ("one", "two", "three"))
    assert (
        verdict(one).replace("\u00a0", " ")
        == f"{HOSTILE} is fastest with micro_batch 1: 10 s an iteration (simulated)."
    )
    assert effect_claim(one).replace("\u00a0", " ") == (
        "With plan.micro_batch 4 an iteration takes 12 s, 20.0 % longer than with 1"
    )
    assert "none does with plan.micro_batch 8" in memory_claim(two)
    assert "the file holds all 5 points of the sweep" in visible(pages["one"]).lower()
    text = visible(pages["three"])
    assert "The file holds 24 of the 30 points asked for" in text and "6 others" in text
    assert [axis.fields for axis in three.axes] == [
        ("plan.pipeline",),
        ("plan.micro_batch",),
        ("plan.slices", "plan.chunks"),
    ]
    assert "None of 2 points" in visible(pages["failed"]) and "no" in visible(pages["failed"])
    assert "holds no point of a sweep yet" in visible(pages["empty"])
    assert f"too large {HOSTILE}" in visible(pages["one"]).replace("&lt;", "<").replace("&gt;", ">")


def test_the_field_that_matters_most(tmp_path: Path) -> None:
    records = [
        record(i, s, iteration_s=10.0 + 5 * s["plan.a"] + s["plan.b"], fits=None)
        for i, s in enumerate(grid(a=[1, 2, 3], b=[1, 2, 3]))
    ]
    swept = Swept(results(tmp_path, "r", records))
    first, second = swept.effects
    assert first.axis.fields == ("plan.a",) and first.best == (16.0, 21.0, 26.0)
    assert first.size == pytest.approx(26 / 16 - 1) and second.size == pytest.approx(18 / 16 - 1)
    assert first.median == (17.0, 22.0, 27.0)


def test_axes_follow_their_values(tmp_path: Path) -> None:
    def axis(values: list[Any], field: str = "plan.micro_batch") -> Any:
        made = [record(i, {field: value}) for i, value in enumerate(values)]
        return Swept(results(tmp_path, "r", made)).axes[0]

    assert axis([8, 1, 2, 4]).numbers == (1, 2, 4, 8) and axis([8, 1, 2, 4]).is_log
    assert not axis([1, 2, 3, 4, 5, 6, 7, 8]).is_log
    words = axis(["none", "full", None])
    assert words.numbers is None and words.labels == ("none", "full", "null")
    rates = axis(["400 Gbit/s", "100 Gbit/s", "200 Gbit/s"], "cluster.inter_node.bandwidth")
    assert rates.labels == ("100 Gbit/s", "200 Gbit/s", "400 Gbit/s") and rates.is_log
    assert rates.numbers == (12.5e9, 25e9, 50e9)


def test_the_front_is_what_none_beats(found: dict[str, Results]) -> None:
    swept = Swept(found["three"])
    front = {id(p) for p in swept.front}
    for point in swept.counted:
        beaten = any(
            other.seconds <= point.seconds
            and (other.seen.peak_bytes or 0) <= (point.seen.peak_bytes or 0)
            and (other.dollars or 0) <= (point.dollars or 0)
            and other is not point
            for other in swept.counted
        )
        assert (id(point) in front) != beaten


def test_a_long_sweep_is_cut_with_a_note(tmp_path: Path) -> None:
    made = [record(i, {"plan.micro_batch": i}) for i in range(MAX_ROWS + 700)]
    page = render_sweep(results(tmp_path, "long", made))
    assert len(page) < 3_000_000
    assert len(summary_of(page)["points"]) == MAX_ROWS
    text = visible(page)
    assert f"The fastest {MAX_ROWS} of 1,200 simulated points" in text
    assert "the other 700 are in long.jsonl only" in text


def test_what_a_killed_sweep_left_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", one_field(), asked=9)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert is_results_file(path)
    found = read_results(path)
    assert found.torn and len(found.points) == 4 and found.num_missing == 5
    assert path.read_bytes() == whole[:-40]
    text = visible(render_sweep(found))
    assert "4 of the 9 points asked for" in text and "Its last line is half written" in text


def test_results_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    other = {**record(1, {}), "sweep": "another"}
    for bad in ('{"key":"a"}\n', '{"keys": 1', json.dumps(other, separators=(",", ":")) + "\n"):
        write(path, [record(0, {})])
        path.write_text(path.read_text() + bad)
        with pytest.raises(SweepError, match=re.escape(f"{path}:2: is ")):
            read_results(path)


def test_a_point_tried_again_counts_once(tmp_path: Path) -> None:
    again = {**record(4, {"plan.micro_batch": 16}), "key": "k4"}
    found = results(tmp_path, "r", [*one_field(), again])
    assert len(found.points) == 5 and not found.failed


def test_whole_runs_are_told_as_such(tmp_path: Path) -> None:
    made = []
    for i, own in enumerate(grid(alpha=[1, 2])):
        one = record(i, own)
        one["result"] = {"total_s": 100.0 + i, "samples_per_s": 5.0}
        made.append(one)
    page = render_sweep(results(tmp_path, "r", made))
    assert "for the whole run (simulated)" in visible(page)
    assert summary_of(page)["points"][0]["total_s"] == 100.0


def test_commands_write_the_same_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "r.jsonl", tmp_path / "r.html"
    tokens = ["sweep", "local-2rank", "--jobs", "1", "--vary", "plan.micro_batch=4,2,0"]
    tokens += ["-o", str(out), "--report", str(page)]
    assert pipetwin.run_command_line(tokens) == 0
    assert f"wrote {page}" in capsys.readouterr().out
    assert pipetwin.run_command_line(tokens) == 2
    assert pipetwin.run_command_line([*tokens, "--force"]) == 0
    again = tmp_path / "again.html"
    assert pipetwin.run_command_line(["report", str(out), "-o", str(again)]) == 0
    assert summary_of(page.read_text()) == summary_of(again.read_text())
    found = summary_of(page.read_text())
    assert (found["points_asked"], found["done"], found["failed"]) == (3, 2, 1)
    same = ["sweep", "local-2rank", "--vary", "plan.micro_batch=1", "-o", str(out)]
    assert pipetwin.run_command_line([*same, "--report", str(out)]) == 2


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_opens_silently_with_every_point_drawn(
    browser: Any,
    found: dict[str, Results],
    pages: dict[str, str],
    tmp_path: Path,
    name: str,
    width: int,
    scheme: str,
) -> None:
    file = tmp_path / "sweep.html"
    file.write_text(pages[name], encoding="utf-8")
    done, failed = len(found[name].done), len(found[name].failed)
    unfit = sum(p.seen.fits is False for p in found[name].done)
    with opened(browser, file, width, scheme) as (page, heard):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(OUTSIDE) == []
        assert page.evaluate(OVERLAPS) == []
        # As high as the page, so that every chart is drawn again.
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        drawn = {
            plot.get_attribute("id").removeprefix("figure-"): plot.evaluate(DRAWN)
            for plot in page.query_selector_all('figure[data-kind="plot"]')
        }
        if name == "one":
            assert drawn["time"] == drawn["rate"] == drawn["memory"] == done
            assert len(figure(pages[name], "time")["data"]) == 3
        if name == "two":
            assert drawn["lines"] == done and drawn["heat"] == failed + unfit
            cells = figure(pages[name], "heat")["data"][0]["z"]
            assert sum(z is not None for row in cells for z in row) == done - unfit
            assert page.locator("#figure-heat .hm image").count() == 1
        if name == "three":
            assert sum(drawn[f"effect-{i}"] for i in range(3)) == 2 * (3 + 2 + 4)
        if done > 1:
            # The fastest has a ring of its own.
            assert drawn["front"] == done + 1
        assert heard == []


@pytest.mark.parametrize(("name", "scheme"), [("two", "light"), ("failed", "dark")])
def test_axe_finds_nothing(
    browser: Any, pages: dict[str, str], tmp_path: Path, name: str, scheme: str
) -> None:
    pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is missing")
    from test_accessibility import violations_of

    assert violations_of(browser, pages[name], tmp_path, scheme) == []
