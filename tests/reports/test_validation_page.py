"""Pages of published tables, logs and fits: every point drawn, every figure that of the JSON."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from browsing import OUTSIDE, OVERLAPS, opened
from test_elastic_page import figure, visible
from test_sweep_page import DRAWN, at, summary_of
from test_terminal_elastic_published import judged as run_table
from validation_cases import HOSTILE, LOG, called, log_set, profile, table

import pipetwin
from reports.pages.page_calibration import render_calibration
from reports.pages.page_validation import render_log, render_published
from reports.terminal.scores import profile_json
from reports.validation_points import held_points, plotted_rows, plotted_runs
from scenarios import catalogue
from sim.published_elastic import run_scores
from sim.published_sets import errors_of, published_sets

SHOWN = ("ptdp.fig13", "ptdp.fig17", "ptdp.fig18", "terapipe.fig7", "pt.chunks_log")
RUNS = ("pt.epoch_throughput", "pt.breakdown", "pt.table1")


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    tables = [called(table(SHOWN[0]), HOSTILE), *map(table, SHOWN[1:])]
    runs = [run_table(name, 1.2) for name in RUNS]
    found = published_sets(tables, runs)
    return {"found": found, "page": render_published(tables, runs, found, command=HOSTILE)}


@pytest.fixture(scope="module")
def pages(published: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("log")
    sets = [log_set(folder, "cross-validated", HOSTILE), log_set(folder, "in-sample")]
    fitted = profile_json(profile(), None, sets, [HOSTILE])
    alone = published_sets([table("pt.chunks_log")])
    return {
        "published": published["page"],
        "fitted only": render_published([table("pt.chunks_log")], [], alone),
        "log": render_log(log_set(folder, "other data", HOSTILE), [HOSTILE], "DGX"),
        "calibration": render_calibration(profile(), fitted, command=HOSTILE),
        "no log": render_calibration(profile(), profile_json(profile(), None, [], [])),
    }


NAMES = ("published", "fitted only", "log", "calibration", "no log")


@pytest.mark.parametrize("name", NAMES)
def test_names_stay_text(pages: dict[str, str], name: str) -> None:
    assert "<script>alert" not in pages[name]


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_the_json_s(pages: dict[str, str], name: str) -> None:
    summary = summary_of(pages[name])
    cells = re.findall(r'<data value="([^"]*)" data-figure="([^"]*)"', pages[name])
    assert bool(cells) != (name == "no log")
    for value, dotted in cells:
        assert float(value) == pytest.approx(at(summary, dotted), rel=1e-12), dotted


def test_every_point_of_the_json_is_in_a_table(published: dict[str, Any]) -> None:
    found, page = published["found"], published["page"]
    assert summary_of(page) == json.loads(json.dumps(found))
    shown = set(re.findall(r'data-figure="([^"]*)"', page))
    for number, one in enumerate(found["sets"]):
        for kind in ("points", "memory_points"):
            for position, point in enumerate(one.get(kind, ())):
                key = "predicted_s" if "predicted_s" in point else "predicted"
                assert f"sets.{number}.{kind}.{position}.{key}" in shown
                assert str(point["what"]) in visible(page).replace("&lt;", "<").replace("&gt;", ">")


def test_every_point_of_every_table_has_a_place() -> None:
    for table_id in catalogue.tables():
        judged = table(table_id)
        (one,) = [s for s in published_sets([judged])["sets"] if s["id"] == table_id]
        plotted = plotted_rows(one, judged)
        assert len(plotted.places) == len(judged.rows)
        # No two rows of one series stand at one place.
        assert max(Counter(plotted.places).values()) == 1, table_id
        assert len(plotted.series) <= 6
    for table_id in catalogue.run_tables():
        runs = run_table(table_id, 1.1)
        plotted = plotted_runs(run_scores(runs), runs)
        assert len(plotted.places) == len(set(plotted.places)) == len(runs.figures)


@pytest.mark.parametrize(
    ("table_id", "title", "series", "labels"),
    [
        ("ptdp.fig12", "sequences an iteration", ("plain", "interleaved"), None),
        ("ptdp.fig7", "microbatch", ("",), None),
        ("ptdp.fig16", "microbatch", ("b128", "b512"), None),
        ("ptdp.fig11", "pipeline stages", ("b8", "b128"), None),
        ("ptdp.fig13", "", ("b32", "b128"), ("t32 p2", "t16 p4", "t8 p8", "t4 p16", "t2 p32")),
        ("terapipe.fig7", "tokens a sequence", ("without", "with"), None),
    ],
)
def test_tables_stand_as_in_their_papers(
    table_id: str, title: str, series: tuple[str, ...], labels: tuple[str, ...] | None
) -> None:
    judged = table(table_id)
    plotted = plotted_rows(published_sets([judged])["sets"][0], judged)
    assert (plotted.title, plotted.series, plotted.labels) == (title, series, labels)


def test_what_was_fitted_to_is_apart(published: dict[str, Any]) -> None:
    traces = figure(published["page"], "parity-time")["data"]
    points = [p for p in held_points(published["found"]["sets"]) if p.kind == "time"]
    apart = next(t for t in traces if t["name"] == "not judged")
    assert apart["x"] == [p.measured for p in points if not p.judged]
    assert apart["marker"]["symbol"] == "square-open"
    judged = [t for t in traces if t["name"] not in ("not judged", "within 10 %", "equal")]
    assert sorted(x for t in judged for x in t["x"]) == sorted(
        p.measured for p in points if p.judged
    )
    text = visible(published["page"])
    assert "pt.chunks_log: fitted to; the fit is" in text
    assert "What the table leaves unstated, and what was taken" in text


def test_the_page_says_how_good_it_is(published: dict[str, Any]) -> None:
    sets = published["found"]["sets"]
    judged = [p for p in held_points(sets) if p.judged]
    times = [abs(p.error) for p in judged if p.kind == "time"]
    text = visible(published["page"])
    assert f"{len(times)} published times that nothing was fitted to are predicted" in text
    assert f"{100 * sum(times) / len(times):.1f} % off on average" in text
    assert f"{sum(abs(p.error) <= 0.1 for p in judged)} of {len(judged)} judged points" in text
    gains = figure(published["page"], "gain-2")["data"]
    pairs = sets[2]["gain"]["pairs"]
    assert gains[0]["y"] == [100 * p["predicted"] for p in pairs]
    assert gains[1]["y"] == [100 * p["published"] for p in pairs]


def test_errors_and_sets_are_those_of_the_command() -> None:
    tables, runs = [table("terapipe.fig7")], [run_table("pt.breakdown", 1.2)]
    found = published_sets(tables, runs)
    assert [one["id"] for one in found["sets"]] == [
        "terapipe.fig7",
        "terapipe.fig7.speedup",
        "pt.breakdown",
    ]
    judged = [r.error for r in tables[0].judged]
    assert errors_of(tables, runs) == (*judged, *(f.error for f in runs[0].judged))


def test_a_fit_s_page_keeps_what_is_judged_apart(pages: dict[str, str]) -> None:
    text = visible(pages["calibration"])
    assert "each from fits that have not seen it" in text
    assert "These are the very runs that were fitted to, so they judge nothing" in text
    assert "launch is the highest that the fit allows" in text
    assert "memory: 91.0%" in text and "not determined" in text
    symbols = [figure(pages["calibration"], f"errors-{i}")["data"][0]["marker"] for i in (0, 1)]
    assert [s["symbol"] for s in symbols] == ["circle", "square-open"]
    low, value, high = figure(pages["calibration"], "parameters")["data"][1]["x"]
    assert (low, value, high) == pytest.approx((100 * 0.81 / 0.835, 100, 100 * 0.86 / 0.835))
    assert "nothing is judged, as no runs were held back" in visible(pages["no log"])


def test_the_commands_write_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, page = tmp_path / "log.csv", tmp_path / "v.html"
    log.write_text(LOG)
    tokens = ["validate", "--runs", str(log), "--device", "a100-80gb", "--report", str(page)]
    assert pipetwin.run_command_line([*tokens, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert summary_of(page.read_text()) == shown
    tokens = ["validate", "--published", "terapipe.fig3", "--report", str(page), "--json"]
    assert pipetwin.run_command_line(tokens) == 2
    capsys.readouterr()
    assert pipetwin.run_command_line([*tokens, "--force"]) == 0
    assert summary_of(page.read_text()) == json.loads(capsys.readouterr().out)
    tokens = ["calibrate", "--device", "a100-80gb", "--published", "ptdp.fig7:2"]
    tokens += ["--report", str(tmp_path / "c.html"), "--json"]
    assert pipetwin.run_command_line(tokens) == 0
    shown = json.loads(capsys.readouterr().out)
    assert summary_of((tmp_path / "c.html").read_text()) == shown
    assert pipetwin.run_command_line(["calibrate", "m.json", "--report", "c.html"]) == 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_opens_silently_with_every_point_drawn(
    browser: Any, pages: dict[str, str], tmp_path: Path, name: str, width: int, scheme: str
) -> None:
    file = tmp_path / "page.html"
    file.write_text(pages[name], encoding="utf-8")
    sets = summary_of(pages[name])["sets"]
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
        points = held_points(sets)
        if name in ("published", "fitted only"):
            parity = sum(n for figure_, n in drawn.items() if figure_.startswith("parity"))
            assert parity == drawn["errors"] == len(points)
            for number, one in enumerate(sets):
                expected = 2 * len(one["points"]) + len(one.get("memory_points", ()))
                assert drawn[f"set-{number}"] == expected, one["id"]
                if gain := one.get("gain"):
                    assert drawn[f"gain-{number}"] == 2 * len(gain["pairs"])
        else:
            for number, one in enumerate(sets):
                assert drawn[f"parity-{number}"] == len(one["points"])
                assert drawn[f"errors-{number}"] == len(one["points"])
        assert heard == []


@pytest.mark.parametrize(("name", "scheme"), [("fitted only", "light"), ("calibration", "dark")])
def test_axe_finds_nothing(
    browser: Any, pages: dict[str, str], tmp_path: Path, name: str, scheme: str
) -> None:
    pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is missing")
    from test_accessibility import violations_of

    assert violations_of(browser, pages[name], tmp_path, scheme) == []
