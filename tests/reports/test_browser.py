"""Every kind of page in Chromium: silent, without requests, drawn, without overlaps, and worked by
mouse and keys."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from browsing import MARKS, OUTSIDE, OVERLAPS, SIZES, Shown, opened
from page_kinds import HOSTILE, KINDS, every_kind

__all__ = ["OUTSIDE", "OVERLAPS", "SIZES", "opened"]

SORTED = """() => {
  /* Sorts by every column twice over; says what is not in order, or was not put back. */
  const wrong = [];
  const valueOf = (cell, isNumeric) => {
    const data = cell.querySelector("data[value]");
    return isNumeric ? (data ? Number(data.getAttribute("value")) : null) : cell.innerText.trim();
  };
  let columns = 0;
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const table of document.querySelectorAll("table")) {
    const rows = () => [...table.tBodies[0].rows];
    const before = rows(), fixed = before.map((r, i) => [r, i]).filter(([r]) => r.className);
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      columns++;
      const isNumeric = head.classList.contains("number");
      for (const order of ["ascending", "descending"]) {
        button.click();
        if (head.getAttribute("aria-sort") !== order) wrong.push(["aria-sort", head.innerText]);
        if (table.querySelectorAll("[aria-sort]").length !== 1) wrong.push(["one", head.innerText]);
        const now = rows();
        if (fixed.some(([r, i]) => now[i] !== r)) wrong.push(["moved", head.innerText]);
        if (now.length !== before.length) wrong.push(["lost", head.innerText]);
        for (let i = 1; i < now.length; i++) {
          if (now[i].className || now[i - 1].className) continue;
          const [a, b] = [now[i - 1], now[i]].map((r) => valueOf(r.cells[column], isNumeric));
          const empty = (v) => v === null || v === "" || v === "–";
          if (empty(a) && !empty(b)) wrong.push(["empty first", head.innerText]);
          if (empty(a) || empty(b)) continue;
          const by = isNumeric ? a - b
            : a.localeCompare(b, "en", { numeric: true, sensitivity: "base" });
          if (order === "ascending" ? by > 0 : by < 0) wrong.push([order, head.innerText, a, b]);
        }
      }
      button.click();
      if (head.hasAttribute("aria-sort")) wrong.push(["still", head.innerText]);
      if (rows().some((r, i) => r !== before[i])) wrong.push(["not restored", head.innerText]);
    });
  }
  return { columns, wrong };
}"""


@every_kind
def test_is_silent_and_nothing_overlaps(shown: Shown) -> None:
    for width, scheme in ((1280, "light"), (1280, "dark"), (768, "dark"), (390, "light")):
        page = shown.at(width, scheme)
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(OUTSIDE) == [], (width, scheme)
        assert page.evaluate(OVERLAPS) == [], (width, scheme)
    assert shown.heard == []


@every_kind
def test_every_chart_has_its_marks(shown: Shown, request: pytest.FixtureRequest) -> None:
    kind = KINDS[request.node.callspec.params["shown"]]
    page = shown.at(1280, "light")
    plots = page.evaluate(MARKS)
    assert len(plots) >= kind.plots
    for plot in plots:
        assert plot["traces"] == plot["expected"], plot
        assert plot["marks"] >= plot["expected"] > 0, plot
    timelines = page.query_selector_all('figure[data-kind="timeline"] canvas')
    assert len(timelines) == kind.timelines
    for canvas in timelines:
        assert int(canvas.get_attribute("data-drawn")) > 50
    assert shown.heard == []


@every_kind
def test_is_small_and_names_are_shown_as_text(
    shown: Shown, request: pytest.FixtureRequest, files: dict[str, Path]
) -> None:
    name = request.node.callspec.params["shown"]
    assert files[name].stat().st_size < 3_000_000
    hostile = KINDS[name].hostile
    assert (HOSTILE in shown.page.inner_text("body")) == hostile
    assert shown.page.evaluate("document.querySelectorAll('script').length") == shown.page.evaluate(
        "document.querySelectorAll('figure script, body > script').length"
    )
    assert shown.heard == []


@every_kind
def test_tables_sort_and_are_put_back(shown: Shown) -> None:
    found = shown.at(1280, "light").evaluate(SORTED)
    assert found["wrong"] == []
    assert found["columns"] > 2
    assert shown.heard == []


@every_kind
def test_the_section_in_view_is_marked(shown: Shown) -> None:
    page = shown.at(390, "light")
    links = page.locator("nav a")
    for index in (links.count() - 1, 0):
        link = links.nth(index)
        page.evaluate(
            "(hash) => document.querySelector(hash).scrollIntoView()", link.get_attribute("href")
        )
        page.wait_for_selector(f'nav a[aria-current="true"][href="{link.get_attribute("href")}"]')
        assert page.locator("nav a[aria-current]").count() == 1
        box = link.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    moves = page.evaluate(
        "(() => { const l = document.querySelector('.links');"
        " return l.scrollWidth > l.clientWidth + 2; })()"
    )
    page.evaluate("document.querySelector('.links').scrollLeft = 0")
    more = "(m) => document.querySelector('nav').classList.contains('more-right') === m"
    page.wait_for_function(more, arg=moves)
    assert shown.heard == []


HINTED = """(isAtEnd) => [...document.querySelectorAll(".frame")].every((frame) => {
  const inner = frame.firstElementChild, moves = inner.scrollWidth > inner.clientWidth + 2;
  return (inner.tabIndex === 0) === moves
    && frame.classList.contains("more-right") === (moves && !isAtEnd)
    && frame.classList.contains("more-left") === (moves && isAtEnd);
})"""


@every_kind
def test_wide_tables_say_that_they_move(shown: Shown) -> None:
    page = shown.at(390, "light")
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    page.wait_for_function(HINTED, arg=False)
    apart = page.evaluate("""[...document.querySelectorAll(".frame")].map((frame) => {
      const inner = frame.firstElementChild;
      inner.scrollLeft = inner.scrollWidth;
      const first = inner.querySelector("tbody td").getBoundingClientRect().left;
      return Math.abs(first - inner.getBoundingClientRect().left);
    })""")
    assert max(apart) < 3
    page.wait_for_function(HINTED, arg=True)
    page.evaluate("document.querySelectorAll('.scroll').forEach((s) => { s.scrollLeft = 0; })")
    assert shown.heard == []


def test_a_column_sorts_by_keys(browser: Any, files: dict[str, Path]) -> None:
    with opened(browser, files["full"], 1280, "light") as (page, heard):
        table = page.locator("#breakdown table").first
        head = table.locator("thead th").nth(1)
        before = table.locator("tbody tr").all_inner_texts()
        values = [float(d.get_attribute("value")) for d in table.locator("data").all()]
        assert values[:-1] != sorted(values[:-1]) and before[-1].startswith("sum")
        head.locator("button").focus()
        for key, order in (("Enter", "ascending"), ("Space", "descending"), ("Enter", None)):
            page.keyboard.press(key)
            assert head.get_attribute("aria-sort") == order
            now = [float(d.get_attribute("value")) for d in table.locator("data").all()]
            if order is None:
                assert now == values
                continue
            assert now[:-1] == sorted(values[:-1], reverse=order == "descending")
            assert now[-1] == values[-1]
        assert table.locator("tbody tr").all_inner_texts() == before and heard == []


def test_all_is_reached_by_keys_and_shows_its_focus(browser: Any, files: dict[str, Path]) -> None:
    with opened(browser, files["full"], 1280, "light") as (page, heard):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        assert page.locator(".skip").bounding_box()["y"] >= 0
        reached = set()
        for _ in range(400):
            reached.add(
                page.evaluate("""() => {
                  const e = document.activeElement, style = getComputedStyle(e);
                  const box = e.getBoundingClientRect();
                  if (parseFloat(style.outlineWidth) < 1 || style.outlineStyle === "none"
                      || !box.width || !box.height) return "unseen " + e.outerHTML.slice(0, 90);
                  return e.tagName;
                }""")
            )
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement === document.body"):
                break
        assert reached == {"A", "BUTTON", "CANVAS", "SUMMARY"}
        page.locator("summary").first.focus()
        is_open = page.locator("details").first.get_attribute("open") is not None
        page.keyboard.press("Enter")
        assert (page.locator("details").first.get_attribute("open") is not None) != is_open
        assert heard == []


def test_the_timeline_is_worked_by_keys(browser: Any, files: dict[str, Path]) -> None:
    with opened(browser, files["full"], 1280, "light") as (page, heard):
        figure = page.locator("#figure-timeline")
        canvas, said = figure.locator("canvas"), figure.locator(".said")
        buttons = figure.locator(".views button").all_inner_texts()
        assert buttons[0] == "Fit whole iteration" and buttons[-2:] == ["+", "−"]
        assert {"Warm-up", "Steady", "Cool-down"} <= set(buttons)
        figure.locator(".views button").last.focus()
        page.keyboard.press("Tab")
        assert said.inner_text().startswith("Keys:")
        whole = int(canvas.get_attribute("data-drawn"))

        def picture_after(*keys: str) -> str:
            for key in keys:
                page.keyboard.press(key)
            return str(canvas.evaluate("c => c.toDataURL()"))

        fitted = picture_after()
        near = picture_after("+", "+", "+")
        assert int(canvas.get_attribute("data-drawn")) < whole
        right = picture_after("ArrowRight")
        assert len({fitted, near, right}) == 3
        assert picture_after("ArrowLeft") == near
        assert picture_after("-", "-", "-") == fitted
        assert picture_after("+", "Home") == fitted
        page.keyboard.press("Shift+ArrowRight")
        assert "forward, stage 0, microbatch 0; rank 0; start 0 ns" in said.inner_text()
        page.keyboard.press("Shift+ArrowRight")
        assert "send forward, stage 0, microbatch 0; rank 0" in said.inner_text()
        page.keyboard.press("ArrowDown")
        assert "rank 1" in said.inner_text()
        assert picture_after() != fitted
        for _ in range(40):
            page.keyboard.press("Shift+ArrowRight")
            if "waited" in said.inner_text() and "for gradients" in said.inner_text():
                break
        assert "from rank 2" in said.inner_text()
        page.keyboard.press("Escape")
        assert said.inner_text() == "" and picture_after() == fitted
        assert said.get_attribute("role") == "status"
        box = canvas.bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 4 + 30 + 10)
        assert "rank 1" in said.inner_text()
        assert heard == []


def test_a_finger_tells_and_moves(browser: Any, files: dict[str, Path]) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 900}, has_touch=True)
    page = context.new_page()
    page.goto(files["full"].as_uri())
    page.wait_for_selector('html[data-drawn="390 light"]')
    canvas, said = page.locator("#figure-timeline canvas"), page.locator("#figure-timeline .said")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.touchscreen.tap(box["x"] + 54, box["y"] + 12)
    assert "forward, stage 0, microbatch" in said.inner_text()
    context.close()


TOLD = """(canvas, [left, right, stepX, top, stepY]) => {
  /* What the tip says wherever the pointer goes over a grid of points. */
  canvas.scrollIntoView({ block: "center" });
  const box = canvas.getBoundingClientRect(), tip = document.getElementById("tip");
  const told = new Set();
  for (let y = top; y < box.height - 30; y += stepY) {
    for (let x = left; x < box.width - right; x += stepX) {
      const at = { clientX: box.left + x, clientY: box.top + y, bubbles: true };
      canvas.dispatchEvent(new PointerEvent("pointermove", at));
      if (!tip.hidden) told.add(tip.innerText);
    }
  }
  return [...told].join("\\n");
}"""


def test_timeline_tells_what_a_pass_waited_for(browser: Any, files: dict[str, Path]) -> None:
    with opened(browser, files["full"], 1280, "light") as (page, heard):
        canvas = page.locator("#figure-timeline canvas")
        text = canvas.evaluate(TOLD, [50, 0, 6, 4 + 3 * 30 + 10, 1000])
        assert "waited" in text and "activations of microbatch 0, from rank 2" in text
        assert "start" in text and "duration" in text
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + 60, box["y"] + 14)
        assert page.locator("#tip").inner_text().startswith("forward, stage 0, microbatch 0")
        page.mouse.move(box["x"] + 60, box["y"] - 30)
        assert page.locator("#tip").is_hidden()
        assert heard == []


def test_timeline_tells_the_slice_and_the_variant(browser: Any, files: dict[str, Path]) -> None:
    with opened(browser, files["variants"], 1280, "light") as (page, heard):
        text = page.locator("#figure-timelines canvas").evaluate(TOLD, [70, 0, 40, 6, 7])
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
        assert buttons.all_inner_texts()[:3] == ["Fit all", "epoch 0", "epoch 1"]
        whole, drawn = canvas.bounding_box()["height"], int(canvas.get_attribute("data-drawn"))
        buttons.nth(2).click()
        assert buttons.nth(2).get_attribute("aria-pressed") == "true"
        assert canvas.bounding_box()["height"] < whole / 2
        assert 0 < int(canvas.get_attribute("data-drawn")) < drawn
        text = canvas.evaluate(TOLD, [50, 0, 40, 4, 7])
        box = canvas.bounding_box()
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
        names = ["Fit whole iteration", "Warm-up", "Steady", "Cool-down"]
        assert buttons.all_inner_texts()[:4] == names
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


@pytest.mark.parametrize("name", ["full", "elastic", "plan"])
def test_without_scripts_the_tables_are_there(
    browser: Any, files: dict[str, Path], name: str
) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 900})
    page = context.new_page()
    page.goto(files[name].as_uri())
    assert page.get_by_text("The charts need JavaScript").is_visible()
    assert page.locator("th button").count() == 0
    assert page.locator("table").first.is_visible()
    assert page.locator(".drawing:visible").count() == 0
    context.close()


def test_nothing_moves_by_itself_and_forced_colours_leave_what_has_a_meaning(
    browser: Any, files: dict[str, Path]
) -> None:
    with opened(browser, files["full"], 1280, "light") as (page, heard):
        moving = """() => [...document.querySelectorAll("*")].filter((e) => {
          const style = getComputedStyle(e);
          return style.animationName !== "none" || style.scrollBehavior === "smooth";
        }).length"""
        page.emulate_media(reduced_motion="reduce")
        assert page.evaluate(moving) == 0
        own = "getComputedStyle(document.querySelector('.swatch.c-forward')).backgroundColor"
        before = page.evaluate(own)
        page.emulate_media(forced_colors="active")
        assert page.evaluate(own) == before
        assert (
            page.evaluate("getComputedStyle(document.querySelector('.drawing')).forcedColorAdjust")
            == "none"
        )
        assert heard == []


PAPER_PX = 680
"""The width that charts are drawn at for paper: A4 within the page's margins has 688 px."""


@every_kind
def test_prints_light_and_within_the_paper(shown: Shown) -> None:
    page = shown.at(1280, "dark")
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = !d.id; })")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.set_viewport_size({"width": 688, "height": 900})
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    widths = page.evaluate("[...document.querySelectorAll('.main-svg')].map(s => s.clientWidth)")
    assert max(widths, default=0) <= PAPER_PX
    boxes = "[...document.querySelectorAll('table')].map(t => t.getBoundingClientRect().width)"
    assert max(page.evaluate(boxes)) <= 688
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    assert page.locator("nav, .views, .said").locator("visible=true").count() == 0
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    shown.at(1280, "dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
    assert shown.heard == []
