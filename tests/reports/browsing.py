"""Pages opened in Chromium, what is looked for in every one, and what each kind must hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
"""What sticks out of the page sideways."""

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
  const blocks = "h1,h2,h3,.kicker,.lead,.reading,.tile,figcaption,.legend li,.note,summary,.said";
  check([...document.querySelectorAll(blocks)], 1);
  document.querySelectorAll(".tile").forEach((t) => check([...t.children], 1));
  document.querySelectorAll("tr").forEach((t) => check([...t.children], 1));
  document.querySelectorAll("svg.main-svg").forEach((s) =>
    check([...s.querySelectorAll(".xtick text, .ytick text, .xtitle, .ytitle, .bartext")], 2.5));
  return found;
}"""
"""Texts on top of others."""

MARKS = """() => [...document.querySelectorAll('figure[data-kind="plot"]')].map((figure) => {
  const chart = JSON.parse(figure.querySelector("script").textContent);
  return {
    name: figure.id,
    expected: chart.data.length,
    traces: figure.querySelectorAll("g.trace, g.hm").length,
    marks: figure.querySelectorAll(
      "g.trace .point, g.trace path.js-line, g.trace text, g.hm image").length,
  };
})"""
"""How many traces every plot has, should have, and how many marks are in them."""


@dataclass(slots=True)
class Shown:
    """An open page, and what it said or asked for since it was opened."""

    page: Any
    heard: list[str]

    def at(self, width: int, scheme: str) -> Any:
        """The page at a width, light or dark, drawn anew where that differs from before."""
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.emulate_media(color_scheme=scheme)
        wait_drawn(self.page, width, scheme)
        return self.page


def wait_drawn(page: Any, width: int, scheme: str) -> None:
    """Until the page says that it is drawn for this width and scheme."""
    page.wait_for_selector(f'html[data-drawn="{width} {scheme}"]', timeout=60_000)


@contextmanager
def opened(browser: Any, file: Path, width: int, scheme: str) -> Iterator[tuple[Any, list[str]]]:
    """A page, drawn; and what it said or asked for."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    try:
        page = context.new_page()
        heard: list[str] = []
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", lambda dialog: heard.append("dialog"))
        own = file.as_uri()

        def asked(request: Any) -> None:
            if request.url != own and not request.url.startswith("data:"):
                heard.append(request.url)

        page.on("request", asked)
        page.goto(own)
        wait_drawn(page, width, scheme)
        yield page, heard
    finally:
        context.close()
