"""The command line as users meet it: outputs, exit codes, errors without tracebacks."""

import ast
import gzip
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipetwin import run_command_line
from sim.cost.profile_file import read_profile

ROOT = Path(__file__).resolve().parent.parent
TINY = (
    *("--set", "model.layers=2", "--set", "model.hidden=64", "--set", "model.sequence=64"),
    *("--set", "plan.microbatches=3", "--set", "execution.iterations=5"),
)


def call(capsys: pytest.CaptureFixture[str], *tokens: str) -> tuple[int, str, str]:
    code = run_command_line(list(tokens))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    "command",
    ["simulate", "run", "measure", "calibrate", "validate", "report", "doctor"],
)
def test_help_teaches(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = call(capsys, command, "--help")
    assert code == 0 and "Usage: pipetwin" in out


def test_simulate_prints_tables_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "simulate", "megatron/175b")
    assert code == 0 and "GPT-3 175B on 1,024" in out and "(simulated)" in out
    code, out, _ = call(capsys, "simulate", "megatron/175b", "--json")
    found = json.loads(out)
    assert found["scenario"] == "175b" and found["fits"] is True
    assert sum(found["breakdown"].values()) == pytest.approx(1)


def test_a_plan_that_does_not_fit_is_said_and_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(
        capsys,
        *("simulate", "megatron/175b"),
        *("--set", "plan.recomputation=none", "--set", "plan.micro_batch=8"),
    )
    assert code == 0 and "does not fit" in out


def test_files_are_written_whole_and_never_over_others(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    report, trace = tmp_path / "r.html", tmp_path / "t.json.gz"
    files = ("--report", str(report), "--trace", str(trace))
    assert call(capsys, "simulate", "local-2rank", *files)[0] == 0
    assert report.read_text().startswith("<!doctype html>") or "<html" in report.read_text()[:200]
    assert json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    code, _, err = call(capsys, "simulate", "local-2rank", *files)
    assert code == 2 and "--force" in err
    assert call(capsys, "simulate", "local-2rank", *files, "--force")[0] == 0
    code, _, err = call(capsys, "simulate", "local-2rank", "--report", str(tmp_path / "no/r.html"))
    assert code == 2 and "is not a directory" in err


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (("simulate", "no-such"), "neither a file nor in the catalogue"),
        (("simulate", "local-2rank", "--set", "plan.pipelin=2"), "did you mean `pipeline`"),
        (("simulate", "local-2rank", "--profile", "none.yaml"), "cannot be read"),
        (("run", "megatron/175b"), "1024 ranks need a GPU each"),
        (("validate", "local-2rank"), "--measured"),
        (("validate", "local-2rank", "--measured", "none.json"), "cannot be read"),
        (("calibrate", "-o", "x.yaml"), "no run to calibrate from"),
        (("calibrate", "--runs", "none.csv", "-o", "x.yaml"), "--device"),
        (("validate", "x", "--measured", "m.json", "--device", "cpu"), "--device does nothing"),
        (("validate", "local-2rank", "--measured", "a", "--runs", "b"), "do not go together"),
        (("simulate", "local-2rank", "--profile", "h100"), "comes along: there is a100-80gb"),
        (("validate", "--published", ","), "names no table"),
        (("validate", "--published", "ptdp.fig7:2"), "whole tables only, as ptdp.fig7"),
        (("report", "none.json", "-o", "x.html"), "cannot be read"),
        (("schedule", "show", "nosuch"), "schedules by name"),
        (("schedule", "show", "1f1b", "--stages", "0"), "at least 1"),
        (("scenario", "check", "no-such", "nor-this"), "nor-this"),
        (("simulat",), "simulate"),
        (("simulate",), "scenario"),
    ],
)
def test_bad_input_is_one_clear_message(
    capsys: pytest.CaptureFixture[str], tokens: tuple[str, ...], words: str
) -> None:
    code, out, err = call(capsys, *tokens)
    assert code == 2
    assert words.lower() in (err + out).lower()


def test_check_takes_short_names(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "scenario", "check", "ptdp.fig7", "gpt3-125m", "a100-80gb", "1t")
    assert (code, out) == (0, "4 checked, no problems\n")


def test_the_schedule_commands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = call(capsys, "schedule", "show", "1f1b", "--stages", "4", "--microbatches", "8")
    assert code == 0 and "33 units of time, bubble 27.3%" in out
    path = tmp_path / "o.csv"
    assert call(capsys, "schedule", "export", "gpipe", "-o", str(path))[0] == 0
    code, out, _ = call(capsys, "schedule", "check", str(path), "--json")
    assert code == 0 and json.loads(out)["in_flight"] == [8, 8, 8, 8]
    path.write_text("0F0,0B0\n1B0,1F0\n")
    code, _, err = call(capsys, "schedule", "check", str(path))
    assert code == 2 and "cycle" in err and ">1B0<" in err


def test_the_catalogue_and_a_resolved_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "scenario", "list", "--json")
    kinds = {entry["kind"] for entry in json.loads(out)["catalogue"]}
    assert code == 0 and kinds == {"scenario", "table", "model", "cluster", "device"}
    code, out, _ = call(capsys, "scenario", "show", "local-2rank")
    assert code == 0 and "default" in out and "local-2rank.yaml" in out
    assert call(capsys, "scenario", "check", "local-2rank", "models/gpt3-175b")[0] == 0
    code, out, _ = call(capsys, "scenario", "schema")
    assert code == 0 and "properties" in json.loads(out)


def test_run_then_validate_calibrate_and_report(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    measured, profile = str(tmp_path / "m.json"), str(tmp_path / "p.yaml")
    code, out, _ = call(capsys, "run", "local-2rank", *TINY, "-o", measured, "--check", "--json")
    found = json.loads(out)
    assert code == 0 and found["check"]["passed"] and found["origin"] == "measured"
    assert {"iteration_s", "ranks", "bubble_fraction", "fits"} <= found.keys()
    code, out, _ = call(capsys, "validate", "local-2rank", *TINY, "--measured", measured, "--json")
    found = json.loads(out)
    assert code == 0 and abs(found["structural_error"]) < 0.1
    assert {"id", "n", "mape", "bias", "worst", "kendall_tau", "regret", "points"} <= found["sets"][
        0
    ].keys()
    arguments = ("validate", "local-2rank", *TINY, "--measured", measured)
    assert call(capsys, *arguments, "--max-error", "0.0000001")[0] == 1
    assert call(capsys, "calibrate", measured, "-o", profile)[0] == 0
    assert read_profile(Path(profile)).times
    assert call(capsys, *arguments, "--profile", profile)[0] == 0
    page = str(tmp_path / "r.html")
    assert call(capsys, "report", measured, "--profile", profile, "-o", page)[0] == 0
    assert "measured" in Path(page).read_text()
    code, _, err = call(capsys, "validate", "local-2rank", "--measured", measured)
    assert code == 2 and "another scenario" in err


def test_calibrate_and_validate_a_log(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A small log in the columns that users keep; the figures are made up."""
    log = tmp_path / "runs.csv"
    log.write_text(
        "gpus,global_batch,micro_batch,hidden,heads,layers,sequence,tensor,data,pipeline,"
        "iteration_ms\n"
        "8,32,2,2048,16,24,2048,1,8,1,2300\n"
        "8,32,4,2048,16,24,2048,2,4,1,2500\n"
        "16,64,2,4096,32,24,2048,4,2,2,9000\n"
    )
    profile = tmp_path / "p.yaml"
    common = ("--runs", str(log), "--device", "a100-80gb", "--json")
    code, out, _ = call(capsys, "calibrate", *common, "-o", str(profile))
    assert code == 0
    found = json.loads(out)["sets"][0]
    assert found["n"] == 3 and set(found["baselines"]) == {
        "constant_tflops",
        "constant_times_bubble",
    }
    code, out, _ = call(capsys, "validate", *common, "--profile", str(profile))
    assert code == 0 and json.loads(out)["sets"][0]["mape"] == pytest.approx(
        found["mape"], abs=0.02
    )
    log.write_text("gpus\n1\n")
    code, _, err = call(capsys, "validate", *common)
    assert code == 2 and "runs.csv:1" in err


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "doctor")
    assert code == 0 and "cores" in out and "torch" in out


HEAVY = {"torch", "plotly", "numba", "scipy", "dask", "jinja2", "executor"}
HEAVIER = {*HEAVY, "numpy", "simpy", "pydantic", "ruamel"}


@pytest.mark.parametrize(
    ("command", "without"),
    [
        ("--help", HEAVIER),
        ("simulate --help", HEAVIER),
        ("plan --help", HEAVIER),
        ("completion bash", HEAVIER),
        ("__complete simulate local-", HEAVIER - {"ruamel"}),
        ("__complete simulate x --set plan.", HEAVY | {"numpy", "simpy"}),
        ("simulate local-2rank", HEAVY),
        ("simulate megatron/175b --json", HEAVY),
        ("schedule show 1f1b", HEAVY),
        ("scenario list", HEAVY),
    ],
)
def test_what_is_asked_quickly_imports_little(command: str, without: set[str]) -> None:
    """What a command imports is most of what its user waits for."""
    code = (
        "import sys, pipetwin; "
        f"assert pipetwin.run_command_line({command.split()!r}) == 0; "
        "print(sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not without & set(ast.literal_eval(done.stderr.splitlines()[-1]))


def test_the_readmes_commands_exist() -> None:
    """Every `pipetwin ...` line of the README's blocks parses as a command with known options."""
    from pipetwin import app

    text = (ROOT / "README.md").read_text()
    lines = [
        shlex.split(line, comments=True)[1:]
        for block in text.split("```")[1::2]
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("pipetwin ")
    ]
    assert len(lines) >= 6
    for tokens in lines:
        app.parse_args(tokens, exit_on_error=False, print_error=False)


def test_interleaved_schedules_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    """Two chunks a rank unless the name says how many; stages are ranks times chunks."""
    code, out, _ = call(capsys, "schedule", "export", "interleaved:3", "--stages", "6")
    rows = out.strip().splitlines()
    assert code == 0 and len(rows) == 2
    assert all(row.count("F") == row.count("B") == 3 * 8 for row in rows)
    for tokens in (("interleaved", "--stages", "5"), ("interleaved", "--microbatches", "6")):
        code, _, err = call(capsys, "schedule", "show", *tokens)
        assert code == 2 and "multiple" in err
