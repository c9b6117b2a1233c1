"""`pipetwin sweep` on the command line: what it shows, and what it refuses."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipetwin

SWEEP = ("sweep", "local-2rank", "--jobs", "1")


def run(capsys: pytest.CaptureFixture[str], *tokens: str) -> tuple[int, str, str]:
    code = pipetwin.run_command_line(list(tokens))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_it_tells_the_fastest_and_why_others_failed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = str(tmp_path / "r.jsonl")
    tokens = (*SWEEP, "--vary", "plan.micro_batch=4,2,0", "--vary", "plan.microbatches=1,2")
    code, shown, err = run(capsys, *tokens, "-o", out)
    assert code == 0 and err == ""
    assert re.search(r"6 points in .*: 4 done, 2 failed, 0 skipped", shown)
    best = shown.splitlines()[1:3]
    assert best[0].split()[:3] == ["fastest", "micro_batch", "microbatches"]
    assert best[1].split()[:3] == ["1", "2", "1"]
    assert "most sequences/s" in shown and "with plan.micro_batch 4, plan.microbatches 2" in shown
    assert "--set plan.micro_batch=0: `0` is out of range" in " ".join(shown.split())
    assert f"results: {out}" in shown
    code, shown, _ = run(capsys, *tokens, "-o", out)
    assert "0 done, 0 failed, 6 skipped" in shown and best[1] in shown


def test_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    tokens = (*SWEEP, "--vary", "plan.micro_batch=1,2,0,1.5", "--shard", "2/2", "--json")
    code, shown, _ = run(capsys, *tokens, "-o", str(out))
    found = json.loads(shown)
    assert code == 0
    assert {k: found[k] for k in ("points", "done", "failed", "skipped", "same", "left")} == {
        "points": 2,
        "done": 1,
        "failed": 1,
        "skipped": 0,
        "same": 0,
        "left": 0,
    }
    assert found["results"] == str(out) and found["seconds"] > 0
    (best,) = found["best"]
    record = json.loads(out.read_text().splitlines()[0])
    assert best["set"] == {"plan.micro_batch": 1} and best["key"] == record["key"]
    assert best["iteration_s"] == record["result"]["iteration_s"]
    assert (
        found["failures"][0]["points"] == 1
        and "`0` is out of range" in (found["failures"][0]["message"])
    )


def test_every_way_of_naming_points(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("plan.micro_batch,plan.schedule\n1,gpipe\n2,\n")
    out = tmp_path / "r.jsonl"
    tokens = (*SWEEP, "--points", str(tmp_path / "p.csv"), "--zip", "--set", "execution.seed=3")
    tokens += ("--vary", "plan.microbatches=2,3", "--vary", "model.layers=4,6")
    code, _, _ = run(capsys, *tokens, "--figures", "time", "-o", str(out))
    assert code == 0
    sets = [json.loads(line)["set"] for line in out.read_text().splitlines()]
    one, two = ({"plan.micro_batch": 1, "plan.schedule": "gpipe"}, {"plan.micro_batch": 2})
    steps = ({"plan.microbatches": m, "model.layers": n} for m, n in ((2, 4), (3, 6)))
    first, second = steps
    assert sets == [{**one, **first}, {**one, **second}, {**two, **first}, {**two, **second}]


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ((), "nothing is varied"),
        (("--vary", "plan.micro_bach=1"), "did you mean `micro_batch`?"),
        (("--vary", "plan.micro_batch"), "write a field and its values"),
        (("--vary", "plan.micro_batch=1", "--set", "plan.micro_batch=2"), "both set and varied"),
        (("--vary", "plan.micro_batch=1", "--set", "plan.data=x"), "`x` is not a whole number"),
        (("--vary", "plan.micro_batch=1", "--shard", "4/3"), "as 3/16"),
        (("--vary", "plan.micro_batch=1", "--shard", "0/0"), "as 3/16"),
        (("--vary", "plan.micro_batch=1", "--points", "no.csv"), "no.csv: cannot be read"),
        (("--vary", "plan.micro_batch=1", "--profile", "no"), "no: is no file"),
    ],
)
def test_what_is_refused_makes_no_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tokens: tuple[str, ...], words: str
) -> None:
    out = tmp_path / "r.jsonl"
    code, shown, err = run(capsys, *SWEEP, *tokens, "-o", str(out))
    assert (code, shown) == (2, "") and words in err
    assert not out.exists()


def test_options_that_do_not_go_together(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tokens = ("sweep", "local-2rank", "--vary", "plan.data=1", "-o", str(tmp_path / "r.jsonl"))
    code, _, err = run(capsys, *tokens, "--jobs", "2", "--cluster", "tcp://127.0.0.1:1")
    assert code == 2 and "--jobs does nothing with --cluster" in err
    code, _, err = run(capsys, *tokens, "--jobs", "0")
    assert code == 2 and "--jobs 0: it takes at least one process" in err


def test_a_file_of_something_else_is_left_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "notes.txt"
    out.write_text("mine")
    code, _, err = run(capsys, *SWEEP, "--vary", "plan.micro_batch=1", "-o", str(out))
    assert code == 2 and "is no result of a sweep: choose another file" in err
    assert out.read_text() == "mine"


def test_on_a_terminal_progress_is_shown(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    values = "plan.microbatches=1..60"
    process = subprocess.Popen(
        [sys.executable, "-m", "pipetwin", *SWEEP, "--vary", values, "-o", tmp_path / "r.jsonl"],
        cwd=Path(__file__).resolve().parents[1],
        stderr=follower,
        text=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:  # A terminal that nobody holds open any more.
            break
        if not data:
            break
        shown += data
    out, _ = process.communicate(timeout=60)
    os.close(leader)
    assert process.returncode == 0 and "60 done" in out
    assert b"sweep" in shown and re.search(rb"\d+/60", shown)
