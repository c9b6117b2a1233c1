"""`simulate --what-if`: what a terminal shows of it, and the JSON that page and command share."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from what_if_cases import made_up

from reports.commands import simulating
from reports.commands.files import InputError
from reports.terminal.what_if import show_what_if
from sim.prediction import Prediction
from sim.what_if.found import WhatIf


def shown(found: WhatIf, prediction: Prediction, width: int = 120) -> str:
    out = Console(file=io.StringIO(), width=width)
    show_what_if(found, prediction.scenario, out)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def simulate(name: str, report: Path | None = None, **options: bool) -> int:
    chosen = {"as_json": False, "what_if": False, **options}
    return simulating.simulate(name, (), None, (report, None), force=False, **chosen)


def test_all_of_it_fits_a_screen(prediction: Prediction) -> None:
    text = shown(made_up(prediction), prediction)
    lines = text.splitlines()
    assert len(lines) < 45 and max(map(len, lines)) <= 120
    for part in (
        "the bubble: waiting for other ranks",
        "1 is faster: microbatch 8 by 7.0 %",
        "100.0 TiB too much",
        "× 0.8: microbatch 8",
        "Below 140 Gbit/s of bandwidth between nodes (200 Gbit/s here) microbatch 8 is faster",
        "strong, as given",
        "weak, does not fit",
        "not asked: schedules of other kinds",
    ):
        assert part in text, part


def test_long_answers_are_cut(prediction: Prediction) -> None:
    found = made_up(prediction)
    many = replace(
        found,
        freed=found.freed * 5,
        neighbours=found.neighbours * 5,
        sensitivities=found.sensitivities * 5,
        break_evens=found.break_evens * 5,
    )
    text = shown(many, prediction)
    assert len(text.splitlines()) < 50
    for left in (15, 14, 5, 12):
        assert f"and {left} more, in --report and --json" in text
    own = next(line for line in text.splitlines() if line.startswith("strong, as given"))
    assert re.search(r"\b64\b", own)


def test_nothing_asked_is_nothing_shown(prediction: Prediction) -> None:
    assert shown(WhatIf(iteration_ns=1, peak_bytes=None, freed=()), prediction) == ""


def test_the_page_and_the_command_have_one_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert simulate("local-2rank", page, as_json=True, what_if=True) == 0
    printed = json.loads(capsys.readouterr().out)
    text = page.read_text()
    match = re.search(r'<script type="application/json" id="summary">(.+?)</script>', text, re.S)
    assert match is not None and json.loads(match[1]) == printed
    assert printed["what_if"]["freed"] and printed["what_if"]["neighbours"]
    assert printed["traffic"]["sent_bytes"] > 0
    assert 'id="free"' in text and 'id="traffic"' in text


def test_only_those_who_ask_wait(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate("local-2rank", as_json=True) == 0
    assert "what_if" not in json.loads(capsys.readouterr().out)
    assert simulate("local-2rank") == 0
    assert "were it free" not in capsys.readouterr().out
    assert simulate("local-2rank", what_if=True) == 0
    assert "were it free" in capsys.readouterr().out


def test_an_elastic_run_has_no_such_answers() -> None:
    with pytest.raises(InputError, match="--what-if is of one iteration"):
        simulate("pipetransformer/bert-squad", what_if=True)
