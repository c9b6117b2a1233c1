"""Every kind of page looks as it did when it was last looked at.

The pictures kept are small and grey: enough to see that something moved, went missing or got
another colour. They are compared only where Chromium and its fonts are those they were made with.
`PIPETWIN_SCREENSHOTS=update` makes them anew, to be looked at before they are committed.
"""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Shown, opened
from page_kinds import NAMES, every_kind

Image = pytest.importorskip("PIL.Image", reason="pillow is not installed")

KEPT = Path(__file__).parent / "screenshots"
RECORD = KEPT / "made-with.json"
UPDATE = os.environ.get("PIPETWIN_SCREENSHOTS") == "update"
SMALLER = {1280: 10, 390: 7}
"""By how much a page of a width is scaled down."""
SHADES = 16
BLOCK = 4
UNLIKE = 12
"""Greys of 256 by which the mean of an unlike block differs: keeping few shades alone makes up
to 8.5, and hairlines that Chromium puts a pixel aside from one time to the next about as much."""
TRIES = 3
PIECE = 8_000
"""Pixels of height taken at once: Chromium repeats what is beyond 16,384."""

FONTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d");
  const root = getComputedStyle(document.documentElement);
  return ["--sans", "--mono"].flatMap((name) => ["400", "650"].map((weight) => {
    canvas.font = `${weight} 100px ${root.getPropertyValue(name)}`;
    return Math.round(canvas.measureText("The quick brown fox, 1,234.5 ms × 8 − µs").width);
  }));
}"""
"""Widths of a line in the page's fonts: another font has others."""


def made_with(browser: Any, page: Any) -> dict[str, Any]:
    return {"chromium": browser.version.split(".")[0], "fonts": page.evaluate(FONTS)}


def picture(page: Any, width: int) -> Any:
    """The whole page, small and grey."""
    height = page.evaluate("document.documentElement.scrollHeight")
    page.evaluate("window.scrollTo(0, 0)")
    whole = Image.new("L", (width, height), 255)
    session = page.context.new_cdp_session(page)
    for top in range(0, height, PIECE):
        clip = {"x": 0, "y": top, "width": width, "height": min(PIECE, height - top), "scale": 1}
        how = {"captureBeyondViewport": True, "optimizeForSpeed": True, "clip": clip}
        shot = session.send("Page.captureScreenshot", how)
        found = Image.open(io.BytesIO(base64.b64decode(shot["data"])))
        whole.paste(found.convert("L"), (0, top))
    session.detach()
    return whole.reduce(SMALLER[width])


def kept_form(found: Any) -> Any:
    """The picture in as many shades as are kept."""
    step = 255 / (SHADES - 1)
    return found.point([round(round(value / step) * step) for value in range(256)])


def off(before: Any, now: Any) -> Any:
    """Per block of pixels, by how much two pictures of one size differ there in the mean."""
    found = np.asarray(before, dtype=float) - np.asarray(now, dtype=float)
    rows, columns = (-(-size // BLOCK) for size in found.shape)
    more = (0, rows * BLOCK - found.shape[0]), (0, columns * BLOCK - found.shape[1])
    blocks = np.pad(found, more).reshape(rows, BLOCK, columns, BLOCK)
    return abs(blocks.mean(axis=(1, 3)))


def difference(before: Any, now: Any) -> str:
    """In words how two pictures differ; empty where they do not."""
    if before.size != now.size:
        return f"is {now.size[0]} × {now.size[1]}, was {before.size[0]} × {before.size[1]}"
    unlike = off(before, now) > UNLIKE
    if not unlike.any():
        return ""
    rows = BLOCK * np.flatnonzero(unlike.any(axis=1))
    return f"differs in {unlike.sum()} blocks, in rows {rows[0]} to {rows[-1] + BLOCK}"


def check(shown: Shown, width: int, name: str, folder: Path) -> None:
    """Hold a page against the picture kept, or keep one; pictures that differ are left in folder.

    What differs is taken again a few times, as a chart may have been drawn a pixel aside."""
    kept = KEPT / f"{name}.png"
    if UPDATE:
        kept_form(picture(shown.at(width, "light"), width)).quantize(SHADES).save(
            kept, optimize=True
        )
        return
    assert kept.exists(), f"no picture of {name} is kept: PIPETWIN_SCREENSHOTS=update makes it"
    before = Image.open(kept).convert("L")
    for _ in range(TRIES):
        now = picture(shown.at(width, "light"), width)
        reason = difference(before, now)
        if not reason:
            return
    paths = folder / f"{name}-before.png", folder / f"{name}-now.png"
    before.save(paths[0])
    now.save(paths[1])
    pytest.fail(f"{name} {reason}: look at {paths[0]} and {paths[1]}")


@pytest.fixture
def comparable(browser: Any, shown: Shown) -> None:
    """Skips where pictures made here are not to be compared with those kept."""
    found = made_with(browser, shown.page)
    if UPDATE:
        KEPT.mkdir(exist_ok=True)
        RECORD.write_text(json.dumps(found) + "\n", encoding="utf-8")
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))
    if found != recorded:
        pytest.skip(f"the pictures were made with {recorded}, here is {found}")


@every_kind
@pytest.mark.usefixtures("comparable")
def test_looks_as_it_did(shown: Shown, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    kind = request.node.callspec.params["shown"]
    for width in SMALLER:
        check(shown, width, f"{kind}-{width}", tmp_path)
    assert shown.heard == []


def test_a_page_that_looks_otherwise_is_told(browser: Any, files: dict[str, Path]) -> None:
    with opened(browser, files["times"], 1280, "light") as (page, _):
        before = kept_form(picture(page, 1280))
        assert difference(before, picture(page, 1280)) == ""
        for selector in (".drawing", ".tile .value", "h2", ".legend .swatch"):
            show = "([s, v]) => { document.querySelector(s).style.visibility = v; }"
            page.evaluate(show, [selector, "hidden"])
            assert "blocks" in difference(before, picture(page, 1280)), selector
            page.evaluate(show, [selector, ""])
        assert difference(before, picture(page, 1280)) == ""
        page.evaluate("document.querySelector('h2').remove()")
        assert "is 128 ×" in difference(before, picture(page, 1280))


def test_no_picture_is_kept_of_what_is_no_more() -> None:
    expected = {f"{name}-{width}.png" for name in NAMES for width in SMALLER}
    assert {path.name for path in KEPT.glob("*.png")} == expected
    assert sum(path.stat().st_size for path in KEPT.iterdir()) < 900_000
