"""`pipetwin compare` on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipetwin import run_command_line
from scenarios.loader import load
from sim.measurement import Measurement, write_measurement, write_measurements
from sim.prediction import predict

HOSTILE = "<script>alert(1)</script>"


def call(capsys: pytest.CaptureFixture[str], *tokens: str) -> tuple[int, str, str]:
    code = run_command_line(list(tokens))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def found(capsys: pytest.CaptureFixture[str], *tokens: str) -> Any:
    code, out, err = call(capsys, "compare", *tokens, "--json")
    assert code == 0, err
    return json.loads(out)


def simulated(capsys: pytest.CaptureFixture[str], *tokens: str) -> Any:
    code, out, _ = call(capsys, "simulate", *tokens, "--json")
    assert code == 0
    return json.loads(out)


def made(name: str, *overrides: str) -> Measurement:
    prediction = predict(load(name, overrides).scenario)
    timeline = replace(prediction.timeline, origin="measured", parts={})
    return Measurement(
        scenario=prediction.scenario, timelines=(timeline,) * 2, disturbed=(False,) * 2
    )


def test_a_field_set_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    both = ("--set", "plan.microbatches=4")
    other = ("plan.schedule=gpipe", "plan.micro_batch=1")
    b = [token for text in other for token in ("--set-b", text)]
    result = found(capsys, "local-2rank", *both, *b)
    assert result == found(capsys, "local-2rank", "local-2rank", *both, *b)
    plain = simulated(capsys, "local-2rank", *both)
    changed = simulated(
        capsys, "local-2rank", *both, *(t for text in other for t in ("--set", text))
    )
    for letter, expected in (("a", plain), ("b", changed)):
        assert result[letter] == expected
    assert result["names"] == {"a": "A", "b": "B"} and result["work"] == "resized"
    fields = {own["field"]: own for own in result["differences"]}
    assert set(fields) == {"plan.schedule", "plan.micro_batch"}
    assert fields["plan.schedule"]["b_from"] == "--set-b plan.schedule=gpipe"
    assert fields["plan.schedule"]["b"] == "gpipe" and not result["nothing_differs"]
    steps = sum(round(1e9 * own["difference_s"]) for own in result["time_by_category"])
    assert steps == round(1e9 * changed["iteration_s"]) - round(1e9 * plain["iteration_s"])


def test_the_same_twice(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "compare", "local-2rank", "local-2rank")
    assert code == 0 and out.startswith("Nothing differs")
    assert found(capsys, "local-2rank", "local-2rank")["nothing_differs"] is True


def test_variants_and_names(capsys: pytest.CaptureFixture[str]) -> None:
    result = found(capsys, "local-terapipe:unsliced", "local-terapipe:uniform")
    assert result["names"]["b"] == "local-terapipe:uniform"
    result = found(capsys, "local-2rank", "replay/stage-times", "--names", f" now ,{HOSTILE}")
    assert result["names"] == {"a": "now", "b": HOSTILE} and result["work"] == "unknown"


def test_scenarios_of_one_name_are_called_by_their_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "mine.yaml", tmp_path / "best.yaml"]
    for path, count in zip(paths, (4, 8), strict=True):
        path.write_text(
            f"extends: local/local-2rank\nname: ours\nplan: {{microbatches: {count}}}\n"
        )
    a, b = map(str, paths)
    assert found(capsys, a, b)["names"] == {"a": "mine", "b": "best"}
    again = found(capsys, a, a, "--set-b", "plan.microbatches=8")
    assert again["names"] == {"a": "A", "b": "B"}


def test_measured_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, several = tmp_path / "one.json.gz", tmp_path / "several.json"
    write_measurement(made("local-2rank"), one)
    runs = [made("local-terapipe:unsliced"), made("local-terapipe:uniform")]
    write_measurements(runs, several)
    result = found(capsys, str(one), "local-2rank")
    assert result["names"] == {"a": "the run", "b": "the prediction"}
    assert result["a"]["origin"] == "measured" and result["b"]["origin"] == "simulated"
    assert result["differences"] == [] and result["categories_by_pass"]
    assert result["a"]["iteration_s"] == result["b"]["iteration_s"]
    result = found(capsys, str(one), "local-2rank", "--set-b", "plan.schedule=gpipe")
    assert [own["field"] for own in result["differences"]] == ["plan.schedule"]
    assert result["differences"][0]["a_from"] == "not on record"
    result = found(capsys, f"{several}:uniform", f"{several}:unsliced")
    assert result["names"]["a"] == "local-terapipe:uniform" and result["differences"]
    assert {result[letter]["origin"] for letter in "ab"} == {"measured"}
    code, _, err = call(capsys, "compare", str(several), "local-2rank")
    assert code == 2 and "holds 2 runs" in err and f"{several}:unsliced" in err
    code, _, err = call(capsys, "compare", f"{several}:other", "local-2rank")
    assert code == 2 and "no variant `other`" in err
    code, _, err = call(capsys, "compare", str(one), "local-2rank", "--set", "plan.micro_batch=4")
    assert code == 2 and "--set-b" in err and "was measured" in err


def test_a_report_is_written_whole_and_not_over_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.html"
    tokens = ("compare", "local-2rank", "--set-b", "plan.schedule=gpipe", "--report", str(path))
    code, out, _ = call(capsys, *tokens)
    assert code == 0 and f"wrote {path}" in out
    assert "plan.schedule" in path.read_text(encoding="utf-8")
    code, _, err = call(capsys, *tokens)
    assert code == 2 and str(path) in err
    assert call(capsys, *tokens, "--force")[0] == 0


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (("local-2rank",), ("with what?", "--set-b plan.micro_batch=2")),
        (("local-2rank", "nothere"), ("nothere",)),
        (("local-2rank", "--set-b", "plan.micro_batc=2"), ("--set-b plan", "`micro_batch`")),
        (
            ("local-2rank", "local-2rank", "--set-a", "plan.micro_batch=0"),
            ("--set-a plan.micro_batch=0: ",),
        ),
        (("local-elastic-bert", "local-2rank"), ("pipetwin simulate", "elastic=null")),
        (("local-2rank", "local-4rank", "--names", "now"), ("--names now,new",)),
        (("local-2rank", "local-4rank", "--names", "a,a"), ("two different names",)),
    ],
)
def test_what_cannot_be_compared_is_told_with_what_would_work(
    capsys: pytest.CaptureFixture[str], tokens: tuple[str, ...], said: tuple[str, ...]
) -> None:
    code, out, err = call(capsys, "compare", *tokens)
    assert code == 2 and not out
    for part in said:
        assert part in err, err
