"""The page in Chromium: silent, without requests, drawn, and without overlaps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = (
    *("full", "cluster", "run", "times", "large", "sliced"),
    *("variants", "elastic", "executed"),
)
SIZES = ((1280, "light"), (1280, "dark"), (390, "light"))

OUTSIDE = """() => {
  const wide = document.documentElement.clientWidth, found = [];
  const inside = "h1,h2,h3,p,li,figcaption,.tile,th,td,pre,summary,canvas,button";
  for (const e of document.querySelectorAll(inside)) {
    if (e.closest(".scroll") || e.closest("nav") || !e.getClientRects().length) continue;
    const box = e.getBoundingClientRect();
    if (box.left < -1 || box.right > wide + 1) found.push(e.outerHTML.slice(0, 80));
  }
  return found;
}"""
OVERLAPS = """() => {
  const found = [];
  const check = (elements, slack) => {
    const boxes = elements.filter((e) => e.textContent.trim())
      .map((e) => [e, e.getBoundingClientRect()]).filter(([, b]) => b.width && b.height);
    boxes.forEach(([e, a], i) => boxes.slice(i + 1).forEach(([f, b]) => {
      if (e.contains(f) || f.contains(e)) return;
      const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (x > slack && y > slack) found.push(`${e.textContent} | ${f.textContent}`.slice(0, 90));
    }));
  };
  const blocks = "h1,h2,h3,.kicker,.lead,.reading,.tile,figcaption,.legend li,.note,summary";
  check([...document.querySelectorAll(blocks)], 1);
  document.querySelectorAll(".tile").forEach((t) => check([...t.children], 1));
  document.querySelectorAll("tr").forEach((t) => check([...t.children], 1));
  document.querySelectorAll("svg.main-svg").forEach((s) =>
    check([...s.querySelectorAll(".xtick text, .ytick text, .xtitle, .ytitle, .bartext")], 2.5));
  return found;
}"""


@contextmanager
def opened(browser: Any, file: Path, width: int, scheme: str) -> Iterator[tuple[Any, list[str]]]:
    """A page, drawn; and what it said or asked for."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("dialog", lambda dialog: heard.append("dialog"))
    own = file.as_uri()
    page.on("request", lambda r: heard.append(r.url) if r.url not in (own, "data:,") else None)
    page.goto(own)
    page.wait_for_selector("html[data-drawn]", timeout=60_000)
    yield page, heard
    context.close()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_is_silent_and_nothing_overlaps(
    browser: Any, files: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    with opened(browser, files[name], width, scheme) as (page, heard):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(OUTSIDE) == []
        assert page.evaluate(OVERLAPS) == []
        page.screenshot(path=files[name].with_name(f"{name}-{width}-{scheme}.png"), full_page=True)
        assert heard == []


@pytest.mark.parametrize("name", NAMES)
def test_every_chart_has_its_marks(browser: Any, files: dict[str, Path], name: str) -> None:
    with opened(browser, files[name], 1280, "light") as (page, heard):
        plots = page.query_selector_all('figure[data-kind="plot"]')
        assert len(plots) == 3 if name == "variants" else len(plots) >= 3
        for plot in plots:
            expected = plot.evaluate(
                "f => JSON.parse(f.querySelector('script').textContent).data.length"
            )
            traces = plot.query_selector_all("g.trace")
            assert len(traces) == expected, plot.get_attribute("id")
            marks = plot.query_selector_all("g.trace .point, g.trace path.js-line")
            assert len(marks) >= expected
        timelines = page.query_selector_all('figure[data-kind="timeline"] canvas')
        assert len(timelines) == (2 if name == "full" else 1)
        for canvas in timelines:
            assert int(canvas.get_attribute("data-drawn")) > 50
        assert heard == []


def test_timeline_tells_what_a_pass_waited_for(browser: Any, files: dict[str, Path]) -> None:
    with opened(browser, files["full"], 1280, "light") as (page, heard):
        page.locator("#figure-timeline canvas").scroll_into_view_if_needed()
        box = page.locator("#figure-timeline canvas").bounding_box()
        rank = 3
        said = set()
        for x in range(50, int(box["width"]), 6):
            page.mouse.move(box["x"] + x, box["y"] + 4 + rank * 30 + 10)
            if page.locator("#tip").is_visible():
                said.add(page.locator("#tip").inner_text())
        text = "\n".join(said)
        assert "waited" in text and "activations of microbatch 0, from rank 2" in text
        assert "start" in text and "duration" in text
        assert heard == []


def test_timeline_tells_the_slice_and_the_variant(browser: Any, files: dict[str, Path]) -> None:
    with opened(browser, files["variants"], 1280, "light") as (page, heard):
        canvas = page.locator("#figure-timelines canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        said = set()
        for y in range(6, int(box["height"]) - 30, 7):
            for x in range(70, int(box["width"]), 40):
                page.mouse.move(box["x"] + x, box["y"] + y)
                if page.locator("#tip").is_visible():
                    said.add(page.locator("#tip").inner_text())
        text = "\n".join(said)
        for words in (
            "unsliced: whole: rank 0 (simulated)",
            "uniform: 8 × 32: rank 1 (measured)",
            "forward, stage 0, microbatch 0\n",
            "backward, stage 1, slice 2 (56 tokens after 200)",
            "slice 0 (120 tokens, the first)",
            "activations of slice 0 (32 tokens, the first), from rank 0",
        ):
            assert words in text, words
        assert heard == []


def test_a_phase_is_shown_alone(browser: Any, files: dict[str, Path]) -> None:
    with opened(browser, files["elastic"], 1280, "light") as (page, heard):
        canvas = page.locator("#figure-iterations canvas")
        buttons = page.locator("#figure-iterations .views button")
        assert buttons.all_inner_texts()[:3] == ["All", "epoch 0", "epoch 1"]
        whole, drawn = canvas.bounding_box()["height"], int(canvas.get_attribute("data-drawn"))
        buttons.nth(2).click()
        assert buttons.nth(2).get_attribute("aria-pressed") == "true"
        assert canvas.bounding_box()["height"] < whole / 2
        assert 0 < int(canvas.get_attribute("data-drawn")) < drawn
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        said = set()
        for y in range(4, int(box["height"]) - 30, 7):
            for x in range(50, int(box["width"]), 40):
                page.mouse.move(box["x"] + x, box["y"] + y)
                if page.locator("#tip").is_visible():
                    said.add(page.locator("#tip").inner_text())
        text = "\n".join(said)
        assert "from epoch 1, 2 × 2 ranks, 4 frozen, fills 4: rank 1" in text
        assert "from epoch 0" not in text and "from epoch 2" not in text
        page.mouse.move(box["x"] + 300, box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + 500, box["y"] + 40)
        page.mouse.up()
        assert buttons.nth(2).get_attribute("aria-pressed") == "false"
        buttons.nth(0).click()
        assert int(canvas.get_attribute("data-drawn")) == drawn and heard == []


def test_windows_and_zoom_are_fast(browser: Any, files: dict[str, Path]) -> None:
    with opened(browser, files["large"], 1280, "light") as (page, heard):
        canvas = page.locator("#figure-timeline canvas")
        buttons = page.locator("#figure-timeline .views button")
        assert buttons.all_inner_texts() == ["Whole iteration", "Warm-up", "Steady", "Cool-down"]
        for index in range(4):
            begin = time.perf_counter()
            buttons.nth(index).click()
            assert buttons.nth(index).get_attribute("aria-pressed") == "true"
            assert int(canvas.get_attribute("data-drawn")) > 500
            assert time.perf_counter() - begin < 5
        drawn = int(canvas.get_attribute("data-drawn"))
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + 300, box["y"] + 100)
        page.mouse.down()
        page.mouse.move(box["x"] + 500, box["y"] + 100)
        page.mouse.up()
        assert int(canvas.get_attribute("data-drawn")) < drawn
        canvas.dblclick()
        assert int(canvas.get_attribute("data-drawn")) == drawn
        assert heard == []


def test_prints_light_and_within_the_paper(browser: Any, files: dict[str, Path]) -> None:
    with opened(browser, files["full"], 1280, "dark") as (page, heard):
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert len(page.pdf(format="A4")) > 20_000
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        assert (
            page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        )
        widths = page.evaluate(
            "[...document.querySelectorAll('.main-svg')].map(s => s.clientWidth)"
        )
        assert max(widths) <= 680
        assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
        assert heard == []
