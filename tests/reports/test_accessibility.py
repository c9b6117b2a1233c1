"""Every kind of page under axe-core, light and dark, and the contrasts that it cannot see.

axe is run from outside the page, so that the page's content security policy stays as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browsing import Shown, opened
from page_kinds import every_kind

axe = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is missing")

TAGS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
FOUND = """(tags) => axe.run({ runOnly: tags, resultTypes: ["violations"] }).then((found) =>
  found.violations.flatMap((v) => v.nodes.map((n) =>
    [v.id, n.target.join(" "), n.failureSummary].join(": ").slice(0, 300))))"""

CONTRASTS = """async () => {
  /* Every text of every plot, on what is behind it: its bar, its cell of a map, or the paper. */
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const channels = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (color) => {
    const [r, g, b] = channels(color).map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const root = getComputedStyle(document.documentElement);
  const of = (name) => root.getPropertyValue(name).trim();
  const found = [];
  let seen = 0;
  const middle = (e) => {
    const box = e.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2, box];
  };
  const cellBehind = async (text) => {
    const shown = text.closest("svg").querySelector("g.hm image"), image = new Image();
    image.src = shown.getAttribute("href") ?? shown.getAttribute("xlink:href");
    await image.decode();
    const cells = document.createElement("canvas");
    [cells.width, cells.height] = [image.naturalWidth, image.naturalHeight];
    const drawn = cells.getContext("2d");
    drawn.drawImage(image, 0, 0);
    const [x, y] = middle(text), box = middle(shown)[2];
    const across = ((x - box.left) / box.width) * cells.width;
    const down = ((y - box.top) / box.height) * cells.height;
    const [r, g, b] = drawn.getImageData(Math.floor(across), Math.floor(down), 1, 1).data;
    return `rgb(${r}, ${g}, ${b})`;
  };
  for (const text of document.querySelectorAll("figure.chart svg text")) {
    if (!text.textContent.trim() || !text.getClientRects().length) continue;
    const bar = text.closest(".point")?.querySelector("path");
    const inside = text.classList.contains("bartext-inside") && bar;
    const inCell = text.closest(".heatmap-label, .hm");
    const behind = inside ? getComputedStyle(bar).fill
      : inCell ? await cellBehind(text) : of("--paper");
    if (behind.startsWith("url")) continue;
    seen++;
    const ratio = contrast(getComputedStyle(text).fill, behind);
    if (ratio < 4.5) found.push(`${text.textContent}: ${ratio.toFixed(2)}`);
  }
  for (const name of ["forward", "backward", "weight", "optimizer", "messages", "communication"]) {
    const ratio = contrast(of(`--on-${name}`), of(`--${name}`));
    seen++;
    if (ratio < 4.5) found.push(`block of ${name}: ${ratio.toFixed(2)}`);
  }
  for (const name of ["r0", "r1", "r2", "r3", "r4", "r5", "predicted", "measured", "limit"]) {
    const ratio = contrast(of(`--${name}`), of("--paper"));
    seen++;
    if (ratio < 3) found.push(`line ${name}: ${ratio.toFixed(2)}`);
  }
  return { seen, found };
}"""


def violations(page: Any) -> list[str]:
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe.AXE_SCRIPT)
    return list(page.evaluate(FOUND, list(TAGS)))


def violations_of(browser: Any, html: str, folder: Path, scheme: str) -> list[str]:
    """What axe-core finds on a page, written to a folder."""
    file = folder / "page.html"
    file.write_text(html, encoding="utf-8")
    with opened(browser, file, 1280, scheme) as (page, _):
        return violations(page)


@every_kind
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(shown: Shown, scheme: str) -> None:
    page = shown.at(1280, scheme)
    assert violations(page) == []
    contrasts = page.evaluate(CONTRASTS)
    assert contrasts["found"] == [] and contrasts["seen"] >= 15
    assert shown.heard == []


def test_axe_finds_nothing_on_a_narrow_page(browser: Any, files: dict[str, Path]) -> None:
    with opened(browser, files["full"], 390, "light") as (page, heard):
        assert violations(page) == [] and heard == []


def test_axe_finds_what_is_wrong(browser: Any, files: dict[str, Path]) -> None:
    with opened(browser, files["times"], 1280, "light") as (page, _):
        page.evaluate("""() => {
          document.documentElement.removeAttribute("lang");
          document.querySelector(".views button").textContent = "";
          document.documentElement.style.setProperty("--muted", "#aab4be");
          document.documentElement.style.setProperty("--on-optimizer", "#178a6b");
        }""")
        found = " ".join(violations(page))
        for rule in ("html-has-lang", "button-name", "color-contrast"):
            assert rule in found
        assert any("optimizer" in text for text in page.evaluate(CONTRASTS)["found"])
