"""The section on traffic: its figures are the JSON's, its maps the matrix, its words text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from reports import words
from reports.pages import charts_traffic
from reports.pages.page import fill
from reports.pages.sections import Section
from reports.pages.sections_traffic import claim, traffic_section
from scenarios.loader import load
from sim.prediction import Prediction, predict
from sim.traffic.counting import traffic
from sim.traffic.found import Traffic
from sim.traffic.json import traffic_json

HOSTILE = "<script>alert(1)</script>"
NAMES = ("local/local-tp2-pp2-dp2", "terapipe/13b-setting5", "megatron/1t")


@cache
def found_in(name: str) -> tuple[Prediction, Traffic]:
    prediction = predict(load(name).scenario)
    found = traffic(prediction)
    assert found is not None
    return prediction, found


def page_of(section: Section, found: Traffic, name: str = "a page") -> str:
    return fill(
        title=name,
        name=name,
        verdict=name,
        tiles=[],
        sections=(section,),
        summary={"traffic": traffic_json(found)},
    )


def at(values: Any, path: str) -> Any:
    for key in path.split("."):
        values = values[int(key)] if isinstance(values, list) else values[key]
    return values


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_those_of_the_json(name: str) -> None:
    prediction, found = found_in(name)
    page = page_of(traffic_section(prediction, found), found)
    expected = {"traffic": json.loads(json.dumps(traffic_json(found)))}
    marked = re.findall(r'<data value="([^"]+)" data-figure="([^"]+)">', page)
    assert {"traffic.sent_bytes", "traffic.near_share", "traffic.links.0.utilisation"} <= {
        figure for _, figure in marked
    }
    assert len(marked) >= 2 * len(found.total_bytes) + 4 * len(found.links)
    for value, figure in marked:
        assert float(value) == at(expected, figure), figure
    assert len(page.encode()) < 3_000_000


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_says_that_it_is_simulated(name: str) -> None:
    prediction, found = found_in(name)
    section = traffic_section(prediction, found)
    assert all(figure.title.endswith("(simulated)") for figure in section.figures)
    assert all(table.caption.endswith("(simulated)") for table in section.tables)
    names = [figure.name for figure in section.figures]
    assert len(set(names)) == len(names) >= 4


@pytest.mark.parametrize("name", NAMES)
def test_maps_hold_every_pair_in_its_shade(name: str) -> None:
    _, found = found_in(name)
    matrix = found.matrix
    flows = charts_traffic.matrix_flows(matrix)
    edges = charts_traffic.shade_edges(matrix)
    assert edges == sorted(set(edges)) and len(edges) == len(charts_traffic.SHADES) - 1
    for shown in (flows, *((flow,) for flow in charts_traffic.mapped_flows(matrix))):
        chart = charts_traffic.matrix_chart(matrix, shown, 400)
        drawn: dict[tuple[int, int], int] = {}
        for trace in chart["data"]:
            place = charts_traffic.SHADES.index(trace["marker"]["opacity"])
            assert trace["x"]
            for x, base in zip(trace["x"], trace["base"], strict=True):
                assert drawn.setdefault((round(base + 0.5), x), place) == place
        sent = {
            (i, j): num_bytes
            for i in range(matrix.shown)
            for j in range(matrix.shown)
            if (num_bytes := sum(matrix.flows[flow][i][j] for flow in shown))
        }
        assert drawn.keys() == sent.keys()
        for pair, place in drawn.items():
            low = edges[place - 1] if place else 0
            high = edges[place] if place < len(edges) else float("inf")
            assert low <= sent[pair] < high
    assert len(json.dumps(charts_traffic.matrix_chart(matrix, flows, 400))) < 100_000


def test_columns_and_bars_sum_to_what_is_sent() -> None:
    _, found = found_in("terapipe/13b-setting5")
    chart = charts_traffic.rank_chart(found)
    unit = re.match(r"(\w+) sent", chart["layout"]["yaxis"]["title"]["text"])
    assert unit is not None and unit[1] == "GiB"
    total = sum(sum(trace["y"]) for trace in chart["data"]) * words.GIB
    assert total * found.num_devices / 40 == pytest.approx(found.sent_bytes)
    bars = charts_traffic.link_chart(found)["data"]
    for i, link in enumerate(found.links):
        flows = sum(trace["x"][i] for trace in bars if trace["type"] == "bar")
        assert flows == pytest.approx(100 * link.utilisation)


def test_claims() -> None:
    near = claim(found_in("local/local-tp2-pp2-dp2")[1])
    assert near.startswith(f"A device sends 1.0{words.NBSP}MiB in an iteration, all within")
    far = claim(found_in("terapipe/13b-setting5")[1])
    found = found_in("terapipe/13b-setting5")[1]
    assert far == (
        f"Of 5.6{words.NBSP}GiB that a device sends in an iteration, "
        f"{words.percent(found.near_share)} stay in its node; the busiest network card carries "
        f"{words.percent(found.links[1].utilisation)} of what it could, mostly messages between "
        "stages"
    )


def test_without_a_cluster_and_without_traffic(prediction: Prediction) -> None:
    bare = replace(prediction, scenario=replace(prediction.scenario, cluster=None))
    found = traffic(bare)
    assert found is not None
    section = traffic_section(bare, found)
    assert "not known" in section.claim and len(section.tables) == 2
    assert "Bytes from each pipeline rank" in section.figures[0].title
    alone = predict(
        load("local/local-2rank", ["plan.pipeline=1", "cluster.devices_per_node=1"]).scenario
    )
    found = traffic(alone)
    assert found is not None and found.sent_bytes == 0
    section = traffic_section(alone, found)
    assert section.claim == "Nothing is sent: each device works alone"
    assert not section.figures and not section.tables
    assert page_of(section, found)


def test_names_stay_text(prediction: Prediction) -> None:
    """No name is in the section's words; one that was would be text, and so are hovered ones."""
    scenario = prediction.scenario
    assert scenario.cluster is not None
    cluster = replace(scenario.cluster, name=HOSTILE)
    hostile = replace(
        prediction, scenario=replace(scenario, name=HOSTILE, description=HOSTILE, cluster=cluster)
    )
    found = traffic(hostile)
    assert found is not None
    section = traffic_section(hostile, found)
    about = tuple(HOSTILE for _ in found.matrix.about)
    told = replace(found, matrix=replace(found.matrix, about=about, note=HOSTILE))
    for one in (section, traffic_section(hostile, told)):
        page = page_of(one, found, HOSTILE)
        assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
        assert page.count("<script") == page.count("</script>")
    text = json.dumps([figure.data for figure in section.figures])
    assert HOSTILE not in text


def test_is_drawn_without_overlaps(browser: Any, tmp_path: Path) -> None:
    """The largest cluster and the most flows, wide and narrow, light and dark."""
    from browsing import MARKS, OUTSIDE, OVERLAPS, opened

    sections: list[Section] = []
    for name in ("megatron/1t", "local/local-tp2-pp2-dp2"):
        section = traffic_section(*found_in(name))
        figures = tuple(
            replace(figure, name=f"{figure.name}-{len(sections)}") for figure in section.figures
        )
        sections.append(replace(section, name=f"traffic-{len(sections)}", figures=figures))
    file = tmp_path / "traffic.html"
    file.write_text(
        fill(
            title=HOSTILE,
            name=HOSTILE,
            verdict=HOSTILE,
            tiles=[],
            sections=tuple(sections),
            summary={},
        ),
        encoding="utf-8",
    )
    for width, scheme in ((1280, "dark"), (390, "light")):
        with opened(browser, file, width, scheme) as (page, heard):
            plots = page.evaluate(MARKS)
            assert len(plots) == sum(len(section.figures) for section in sections)
            for plot in plots:
                assert plot["traces"] == plot["expected"], plot
                assert plot["marks"] >= plot["expected"] > 0, plot
            page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
            assert page.evaluate(OUTSIDE) == []
            assert page.evaluate(OVERLAPS) == []
            scale = page.evaluate(SCALE)
            assert scale["count"] > 20 and scale["over"] == []
            assert heard == []


SCALE = """() => {
  const found = { count: 0, over: [] };
  for (const svg of document.querySelectorAll("svg.main-svg")) {
    const texts = [...svg.querySelectorAll(".annotation-text, .xtick text, .ytick text")]
      .map((e) => [e.textContent, e.getBoundingClientRect()]).filter(([, b]) => b.width);
    found.count += svg.querySelectorAll(".annotation-text").length;
    texts.forEach(([s, a], i) => texts.slice(i + 1).forEach(([t, b]) => {
      const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (x > 1 && y > 2.5) found.over.push(`${s} | ${t}`);
    }));
  }
  return found;
}"""
"""Texts of scales above charts and of axes, how many of the former, and any on top of others."""
