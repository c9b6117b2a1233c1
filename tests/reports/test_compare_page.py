"""The page of two iterations side by side, and its words on the terminal."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from browsing import MARKS, OUTSIDE, OVERLAPS, SIZES, Shown, opened
from compare_cases import CASES, run, side
from page_kinds import HOSTILE

from reports import compare_words, words
from reports.pages import charts_compare
from reports.pages.page_compare import render_comparison
from reports.terminal.comparison import show_comparison
from sim.differences import Differences, differences, differences_json

NAMES = tuple(CASES)
BLOCK = re.compile(r"<(script|style)([^>]*)>(.*?)</\1>", re.DOTALL)


def visible(page: str) -> str:
    """The page without scripts and styles, with plain spaces."""
    return html.unescape(BLOCK.sub("", page)).replace(words.NBSP, " ")


def at(values: Any, path: str) -> Any:
    for key in path.split("."):
        values = values[int(key)] if isinstance(values, list) else values[key]
    return values


@pytest.fixture(scope="module")
def compared() -> dict[str, Differences]:
    return {name: make() for name, make in CASES.items()}


@pytest.fixture(scope="module")
def rendered(compared: dict[str, Differences]) -> dict[str, str]:
    return {
        name: render_comparison(found, f"pipetwin compare a '{HOSTILE}'")
        for name, found in compared.items()
    }


@pytest.fixture(scope="module")
def written(rendered: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("compared")
    files = {name: folder / f"{name}.html" for name in rendered}
    for name, path in files.items():
        path.write_text(rendered[name], encoding="utf-8")
    return files


@pytest.mark.parametrize("name", NAMES)
def test_figures_equal_the_json(
    compared: dict[str, Differences], rendered: dict[str, str], name: str
) -> None:
    expected = json.loads(json.dumps(differences_json(compared[name]), allow_nan=False))
    pattern = r'<data value="([^"]+)" data-figure="([^"]+)">'
    marked = re.findall(pattern, rendered[name])
    assert len(marked) > 40
    for value, figure in marked:
        assert float(value) == at(expected, figure), figure
    assert {"figures.0.a", "figures.0.b", "time_by_category.0.a_s"} <= {f for _, f in marked}


@pytest.mark.parametrize("name", NAMES)
def test_every_section_has_a_claim_and_differences_come_first(
    rendered: dict[str, str], name: str
) -> None:
    page = BLOCK.sub("", rendered[name])
    sections = re.findall(r'<section class="part" id="([\w-]+)"', page)
    expected = ["differences", "figures", "time", "memory", "timelines", "cost", "assumptions"]
    wanted = [s for s in expected if s != "cost" or name in ("schedules", "failures")]
    assert sections == wanted
    claims = re.findall(r"<h2>(.+?)</h2>", page)
    assert len(claims) == len(sections) and all(len(claim) > 15 for claim in claims)
    assert len(rendered[name].encode()) < 3_000_000


@pytest.mark.parametrize("name", NAMES)
def test_says_of_every_figure_whether_simulated_or_measured(
    compared: dict[str, Differences], rendered: dict[str, str], name: str
) -> None:
    page = visible(rendered[name])
    origins = {side.origin for side in compared[name].sides}
    assert set(re.findall(r'<p class="badge">(\w+)</p>', page)) == origins
    for caption in re.findall(r"<figcaption>(.+?)</figcaption>", page, re.DOTALL):
        assert any(origin in caption for origin in origins), caption
    for own in compared[name].sides:
        assert f"{compare_words.capital(own.label)} ({own.origin})" in page


def test_only_what_differs_is_listed(rendered: dict[str, str]) -> None:
    page = BLOCK.sub("", rendered["schedules"])
    start = page.index("Values that differ")
    table = page[start : page.index("</table>", start)]
    rows = re.findall(r"<tr>(<td.*?)</tr>", table, re.DOTALL)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    plain = [[re.sub("<wbr>", "", cell) for cell in row] for row in cells]
    assert [row[:3] for row in plain] == [
        ["schedule", "1f1b", "interleaved"],
        ["chunks", "1", "3"],
    ]
    assert re.search(r"175b\.yaml:\d+$", plain[0][3]) and plain[1][3] == "default"
    assert plain[1][4] == "--set plan.chunks=3"


def test_names_stay_text(rendered: dict[str, str]) -> None:
    for name in ("hostile", "run"):
        page = rendered[name]
        assert "<script>alert" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
        assert page.count("<script") == page.count("</script>")


def test_steps_end_at_the_whole_difference(compared: dict[str, Differences]) -> None:
    """Each bar begins where the one above ended; the last is the difference in iteration time."""
    for name, found in compared.items():
        if found.is_none or not found.difference_ns:
            continue
        chart = charts_compare.waterfall(found)
        *steps, whole = chart["data"]
        at_ns = 0.0
        for step in steps:
            assert step["base"][0] == pytest.approx(at_ns)
            at_ns += step["x"][0]
        unit = {"s": 1e9, "ms": 1e6, "µs": 1e3}[chart["layout"]["xaxis"]["title"]["text"][14:]]
        assert whole["x"][0] == pytest.approx(at_ns), name
        assert round(whole["x"][0] * unit) == found.difference_ns, name


def test_both_timelines_have_one_axis(compared: dict[str, Differences]) -> None:
    found = compared["hostile"]
    data = charts_compare.timelines(found)
    ends = [row["end"] for row in data["rows"]]
    assert len(ends) == sum(side.timeline.num_ranks for side in found.sides)
    assert data["total_ns"] == max(side.timeline.iteration_ns for side in found.sides)
    assert set(ends) == {side.timeline.iteration_ns for side in found.sides}
    assert [i for i, row in enumerate(data["rows"]) if "title" in row] == [0, 8]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("schedules", ("B is faster:", "less than A’s", "more memory on its fullest rank")),
        ("models", ("per device", "large does not fit: rank 0 peaks at", "of 345.0 MiB.")),
        ("hostile", (f"{HOSTILE} is faster:", "less than now’s", "(both simulated)")),
        ("run", ("took", "(measured)", "are predicted (simulated), 18.8 % below")),
        ("runs", ("before is faster:", "tokens a second", "(both measured)")),
        ("nothing", ("Nothing differs:", "in both (simulated)")),
        (
            "failures",
            (
                "A and B are equally fast",
                ", B with as much memory and $",
                "more for the training run",
            ),
        ),
    ],
)
def test_the_verdict(compared: dict[str, Differences], name: str, said: tuple[str, ...]) -> None:
    verdict = compare_words.verdict(compared[name]).replace(words.NBSP, " ")
    for part in said:
        assert part in verdict, verdict


def test_the_terminal_shows_what_differs(
    compared: dict[str, Differences], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, expected in (
        ("schedules", ("plan.chunks", "Cost of a billion tokens", "pipeline bubble", "sum")),
        ("models", ("The models differ", "model.hidden", "does not fit in 345.0")),
        ("run", ("No value of the scenarios differs", "of whole passes", "The run (measured)")),
        ("runs", ("of different size", "plan.microbatches")),
    ):
        show_comparison(compared[name], as_json=False)
        shown = capsys.readouterr().out
        for part in expected:
            assert part in shown, (name, part)
    show_comparison(compared["nothing"], as_json=False)
    shown = capsys.readouterr().out
    assert shown.startswith("Nothing differs") and len(shown.splitlines()) <= 2


def test_a_difference_within_the_spread_of_runs_is_said_to_be() -> None:
    near = differences(run("before", "local-2rank", 1.2), run("after", "local-2rank", 1.204))
    far = differences(run("before", "local-2rank", 1.2), run("after", "local-2rank", 1.4))
    said = "by which runs differ"
    assert said in compare_words.verdict(near) and said not in compare_words.verdict(far)


def test_many_fields_are_counted_by_section() -> None:
    found = differences(side("A", "local-2rank"), side("B", "replay/stage-times"))
    claim = compare_words.fields_claim(found).replace(words.NBSP, " ")
    counted = [int(number) for number in re.findall(r"(\d+) of \w+", claim)]
    assert claim.startswith(f"{sum(counted)} values differ:") and len(counted) > 2
    assert sum(counted) == len(found.fields)


@pytest.mark.parametrize("name", ("schedules", "models", "hostile", "run", "nothing"))
def test_opens_silently_with_every_mark_and_nothing_on_top(
    browser: Any, written: dict[str, Path], name: str
) -> None:
    with opened(browser, written[name], *SIZES[0]) as (page, heard):
        shown = Shown(page, heard)
        for width, scheme in SIZES:
            shown.at(width, scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(OUTSIDE) == []
            assert page.evaluate(OVERLAPS) == []
        for plot in page.evaluate(MARKS):
            assert plot["traces"] == plot["expected"], plot
            assert plot["marks"] >= plot["expected"], plot
        canvas = page.query_selector('figure[data-kind="timeline"] canvas')
        assert int(canvas.get_attribute("data-drawn")) > 50
        assert heard == []
