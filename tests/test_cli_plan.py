"""`pipetwin plan` on the command line, and the engine that `simulate` is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipetwin import run_command_line
from scenarios.loader import load
from sim.engine import choice

SMALL = (
    *("gpt3-125m", "--batch", "16", "--gpus", "8", "--jobs", "1"),
    *(
        "--only",
        "recomputation=none",
        "--only",
        "slices=null",
        "--only",
        "placement=tensor-data-pipeline",
    ),
    *("--set", "training.tokens=1e9"),
)


def call(capsys: pytest.CaptureFixture[str], *tokens: str) -> tuple[int, str, str]:
    code = run_command_line(list(tokens))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


@pytest.mark.parametrize("command", ["plan", "sweep"])
def test_help_teaches(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = call(capsys, command, "--help")
    assert code == 0 and f"Usage: pipetwin {command}" in out and "Examples" in out


def test_plan_finds_shows_and_writes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page, best = tmp_path / "plan.html", tmp_path / "best.yaml"
    code, out, err = call(capsys, "plan", *SMALL, "--report", str(page), "-o", str(best))
    assert (code, err) == (0, "")
    for words in (
        "GPT-3 125M on 8 A100-SXM4-80GB",
        "layouts of 8 GPUs",
        "why not",
        "Assumed: cluster DGX-A100",
        "Only recomputation none; slices none; placement tensor-data-pipeline.",
        f"wrote {page}",
    ):
        assert words in " ".join(out.split()) or words in out
    assert "layouts were searched" in page.read_text(encoding="utf-8")
    code, out, _ = call(capsys, "plan", *SMALL, "--json")
    found = json.loads(out)
    assert code == 0 and found["fits"] and found["best"] == found["ranked"][0]
    space = found["spaces"][0]
    assert found["candidates"] == space["candidates"]
    assert space["candidates"] == space["over_memory"] + space["bounded"] + space["simulated"]
    times = [layout["iteration_s"] for layout in found["ranked"]]
    assert times == sorted(times) and len(times) == 10
    assert sum(found["best"]["breakdown"].values()) == pytest.approx(1)
    written = load(str(best)).scenario
    assert written.plan.tensor == found["best"]["plan"]["tensor"]
    assert written.plan.num_sequences == 16 and written.cluster is not None
    assert "The best of" in written.description
    _, out, _ = call(capsys, "simulate", str(best), "--json")
    simulated = json.loads(out)
    for key in ("iteration_s", "model_tflops_per_gpu", "training_days", "training_cost_dollars"):
        assert simulated[key] == pytest.approx(found["best"][key], rel=1e-12), key
    peaks = [rank["peak_memory_bytes"] for rank in simulated["ranks"]]
    assert max(peaks) == found["best"]["peak_memory_bytes"]


def test_a_scenarios_own_layout_is_held_against_the_best(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "extends: [models/gpt3-125m, clusters/dgx-a100]\n"
        "plan: {tensor: 4, data: 2, micro_batch: 1, global_batch: 16, recomputation: full}\n"
    )
    _, out, _ = call(capsys, "simulate", str(file), "--json")
    own = json.loads(out)["iteration_s"]
    only = ("--only", "tensor=2,4", "--only", "slices=null", "--top", "2", "--jobs", "1")
    code, out, _ = call(capsys, "plan", str(file), *only, "--json")
    found = json.loads(out)
    assert code == 0 and len(found["ranked"]) == 2
    assert found["baseline"]["iteration_s"] == own
    assert found["speedup"] == pytest.approx(own / found["best"]["iteration_s"])
    assert found["assumed"] == [] and found["only"] == {"tensor": [2, 4], "slices": [None]}


def test_nothing_fits_is_an_answer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    best = tmp_path / "best.yaml"
    few = ("--only", "tensor=8", "--only", "slices=null", "--jobs", "1", "-o", str(best))
    code, out, _ = call(capsys, "plan", "gpt3-175b", "--gpus", "8", *few)
    assert code == 0 and not best.exists()
    assert "No layout of GPT-3 175B fits on 8 A100-SXM4-80GB" in out and "too much" in out


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (("gpt3-175b", "--only", "tensr=4"), "did you mean `tensor`"),
        (("gpt3-175b", "--gpus", "1020"), "1016 or 1024 would work"),
        (("gpt3-175b", "--gpus", "many"), "--gpus 512,1024"),
        (("gpt3-175b", "--jobs", "0"), "--jobs 2"),
        (("gpt3-175b", "--top", "0"), "--top 10"),
        (("gpt3-13b", "--gpus", "64"), "--batch 1536"),
        (("gpt3-13b", "--gpus", "64", "--batch", "64", "--deadline", "30"), "training.tokens"),
        (("gpt3-175b", "--objective", "gpus"), "--deadline"),
        (("gpt3-175b", "--objective", "speed"), "choose from"),
        (("gpt3-175b", "--only", "tensor=7", "--gpus", "8"), "no layout on 8"),
        (("replay/stage-times",), "gives its costs outright"),
        (("nosuch-model",), "neither a file nor in the catalogue"),
    ],
)
def test_bad_input_is_one_clear_message(
    capsys: pytest.CaptureFixture[str], tokens: tuple[str, ...], words: str
) -> None:
    code, out, err = call(capsys, "plan", *tokens)
    assert code == 2
    assert words.lower() in (err + out).lower()


def test_a_file_is_refused_before_the_search(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "plan.html"
    page.write_text("kept")
    code, _, err = call(capsys, "plan", "gpt3-175b", "--gpus", "1024", "--report", str(page))
    assert code == 2 and "--force" in err and page.read_text() == "kept"


def test_simulate_takes_the_engine(capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for engine in ("auto", "simpy", "compiled"):
        code, out, err = call(capsys, "simulate", "local-4rank", "--engine", engine, "--json")
        assert (code, err) == (0, "")
        found[engine] = json.loads(out)
    assert [found[e].pop("engine") for e in found] == ["simpy", "simpy", "compiled"]
    assert found["auto"] == found["simpy"] == found["compiled"]
    elastic = ("pipetransformer/vit-cifar100", "--engine", "compiled")
    code, _, err = call(capsys, "simulate", *elastic)
    assert code == 2 and "--engine compiled is of one iteration" in err


def test_without_numba_simpy_serves_and_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "why_no_numba", lambda: "ImportError: no numba")
    code, out, err = call(capsys, "simulate", "local-4rank", "--engine", "compiled", "--json")
    assert code == 0 and json.loads(out)["engine"] == "simpy"
    assert err.startswith("note: numba cannot be imported (ImportError: no numba)")
