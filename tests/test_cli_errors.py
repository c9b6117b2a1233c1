"""What hasty users are told: what is wrong, what was meant, and which command takes it."""

import gzip
import importlib.abc
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from pipetwin import run_command_line
from reports.commands.explaining import file_kind
from scenarios.units import UnitError, parse_bytes, parse_bytes_per_s, parse_duration_ns
from scenarios.units import parse_flops_per_s as parse_flops

FILES = {
    "measured.json": '{"format":"pipetwin-measurement-1","scenario":{}}',
    "profile.yaml": "format: pipetwin profile 1\ndevice: cpu-core\n",
    "results.jsonl": '{"key":"be65","sweep":"4a01","index":0}\n',
    "page.html": "<!doctype html>\n<html></html>",
    "schedule.csv": "0F0,0B0\n",
    "runs.csv": "gpus,global_batch,micro_batch\n1,2,3\n",
    "mine.yaml": "# my own\nextends: local/local-2rank\nname: mine\n",
    "empty.yaml": "",
    "list.yaml": "- 1\n",
    "torn.yaml": "plan: {pipeline: [\n",
    "note.txt": "hello\n",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "binary.yaml").write_bytes(b"\x00\x01\xff")
    (tmp_path / "trace.json.gz").write_bytes(gzip.compress(b'{"traceEvents": []}'))
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *tokens: str) -> str:
    """What is said on stderr; nothing is on stdout, and the exit code is 2."""
    code = run_command_line(list(tokens))
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, ""), captured
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (("simulat", "x"), 'did you mean "simulate"'),
        (("predict", "x"), 'did you mean "simulate"'),
        (("list",), 'did you mean "scenario"'),
        (("scenario", "lst"), 'did you mean "list"'),
        (("simulate",), "as: pipetwin simulate megatron/175b"),
        (("simulate", "x", "--repot", "y"), "did you mean --report?"),
        (("simulate", "x", "--engine", "sim"), 'did you mean "simpy"?'),
        (("simulate", "x", "--engine"), "--engine is missing: give a value"),
        (("simulate", "x", "y"), "`pipetwin compare A B`"),
        (("simulate", "x", "--set", "a=1", "GiB"), "needs quotes"),
        (("plan", "x", "--top", "ten"), "all of it: pipetwin plan --help"),
    ],
)
def test_words_of_the_command_line(
    capsys: pytest.CaptureFixture[str], tokens: tuple[str, ...], words: str
) -> None:
    assert words.lower() in told(capsys, *tokens).lower()


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (("simulate", "175"), "`megatron/175b`"),
        (("simulate", "gpt3 175b"), "`models/gpt3-175b`"),
        (("simulate", "megatron-1t"), "`megatron/1t`"),
        (("simulate", "trillion"), "`models/gpt-1t`"),
        (("simulate", "loca-2rank"), "`local/local-2rank`"),
        (("simulate", "local-terapipe:unifrm"), "`local-terapipe:uniform`"),
        (("simulate", "published/ptdp.table1/2t"), "`published/ptdp.table1/1t`"),
        (("simulate", "qqqq"), "pipetwin scenario list"),
        (("plan", "gpt3-175b", "--gpus", "8", "--cluster", "dgx-a10"), "`clusters/dgx-a100`"),
        (("validate", "--published", "ptdp.tabel1"), "did you mean `ptdp.table1`"),
        (("simulate", "local-2rank", "--profile", "a100-80g"), "did you mean `a100-80gb`"),
        (("schedule", "show", "interleavd"), "did you mean `interleaved`"),
        (("schedule", "show", "1F1"), "did you mean `1f1b`"),
    ],
)
def test_names(capsys: pytest.CaptureFixture[str], tokens: tuple[str, ...], words: str) -> None:
    assert words in told(capsys, *tokens)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("plan.pipelin=2", "did you mean `pipeline`?"),
        ("plan.tp=2", "did you mean `tensor`?"),
        ("seq_len=2048", "did you mean `model.sequence`?"),
        ("model.pipeline=2", "did you mean `plan.pipeline`?"),
        ("cluster.device.efficency.launch=4 us", "did you mean `efficiency`?"),
        ("modle.layers=4", "did you mean `model`?"),
        ("plan:micro_batch=4", "did you mean `plan.micro_batch`?"),
        ("plan.schedule=1F1B", "did you mean `1f1b`?"),
        ("plan.recomputation=true", "`none`, `selective`, `full`"),
        ("plan.micro_batch=two", "is not a whole number"),
        ("plan=1f1b", "is not a mapping"),
        ("plan.micro_batch", "as `plan.micro_batch=2`"),
        ("cluster.device.memory=80", "has no unit"),
        ("cluster.device.memory=80 gb", "did you mean `80 GB`?"),
        ("cluster.inter_node.bandwidth=100 Gbps", "did you mean `100 Gbit/s`?"),
    ],
)
def test_fields_and_their_values(
    capsys: pytest.CaptureFixture[str], override: str, words: str
) -> None:
    assert words in told(capsys, "simulate", "local-2rank", "--set", override)


@pytest.mark.parametrize(
    ("parse", "text", "meant"),
    [
        (parse_bytes, "80G", "80 GB"),
        (parse_bytes, "80gib", "80 GiB"),
        (parse_bytes_per_s, "100GBps", "100 GB/s"),
        (parse_bytes_per_s, "100 gbit/s", "100 Gbit/s"),
        (parse_flops, "312 TFLOPS", "312 TFLOP/s"),
        (parse_flops, "312 tflops/s", "312 TFLOP/s"),
        (parse_duration_ns, "5 usec", "5 us"),
        (parse_duration_ns, "2 hours", "2 h"),
    ],
)
def test_what_is_meant_by_a_unit_is_a_value_that_works(parse, text: str, meant: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UnitError, match="did you mean `") as caught:
        parse(text)
    assert f"`{meant}`" in str(caught.value)
    assert parse(meant) > 0


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (("simulate", "measured.json"), "is a measured file, not a scenario: `pipetwin report"),
        (("run", "profile.yaml"), "is a profile, not a scenario: `pipetwin simulate SCENARIO"),
        (("simulate", "results.jsonl"), "is results of a sweep, not a scenario"),
        (("simulate", "page.html"), "open it in a browser"),
        (("simulate", "trace.json.gz"), "is a trace, not a scenario"),
        (("simulate", "schedule.csv"), "`pipetwin schedule show schedule.csv`"),
        (("simulate", "runs.csv"), "`pipetwin calibrate --runs runs.csv"),
        (("simulate", "local-2rank", "--profile", "measured.json"), "`pipetwin calibrate measured"),
        (("simulate", "local-2rank", "--profile=mine.yaml"), "is a scenario, not a profile"),
        (("calibrate", "profile.yaml"), "is a profile, not a measured file"),
        (("validate", "local-2rank", "--measured", "mine.yaml"), "`pipetwin run mine.yaml"),
        (("calibrate", "--runs", "measured.json", "--device", "a100-80gb"), "not a log of runs"),
        (("schedule", "check", "runs.csv"), "is a log of runs, not a schedule"),
        (("report", "page.html", "-o", "new.html"), "open it in a browser"),
        (("report", "folder", "-o", "new.html"), "is a directory"),
        (("report", "local-2rank", "-o", "new.html"), "`pipetwin simulate local-2rank --report"),
        (("simulate", "folder"), "is a directory"),
        (("simulate", "binary.yaml"), "is not UTF-8"),
        (("simulate", "empty.yaml"), "is empty"),
        (("simulate", "list.yaml"), "is a list, not a mapping"),
        (("simulate", "torn.yaml"), "is not valid YAML"),
        (("simulate", "note.txt"), "is a single value, not a mapping"),
        (("simulate", "no-such.yaml"), "no such file"),
        (("simulate", ""), "neither a file nor in the catalogue"),
        (("simulate", "local-2rank", "--profile", "folder"), "directory"),
        (("simulate", "local-2rank", "--report", "no/where/r.html"), "is not a directory"),
        (("simulate", "local-2rank", "--report", "folder", "--force"), "folder is a directory"),
        (("report", "deep.json", "-o", "r.html"), "not JSON: maximum recursion depth"),
        (("calibrate", "deep.json"), "not JSON: maximum recursion depth"),
    ],
)
def test_files_of_another_kind(
    capsys: pytest.CaptureFixture[str], tokens: tuple[str, ...], words: str
) -> None:
    assert words in told(capsys, *tokens)


def test_kinds_are_told_by_how_files_begin(folder: Path) -> None:
    assert file_kind(folder / "note.txt") is None
    assert file_kind(folder / "no-such") is None
    found = file_kind(folder / "mine.yaml")
    assert found is not None and found.what == "a scenario"


def test_a_part_of_the_catalogue_is_told_from_a_scenario(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "`pipetwin plan gpt3-175b --gpus 1024`" in told(capsys, "simulate", "gpt3-175b")
    assert "is a device, no scenario" in told(capsys, "simulate", "a100-80gb")
    assert "is a cluster, no scenario" in told(capsys, "run", "dgx-a100")
    assert "plan.pipelin" in told(capsys, "simulate", "gpt3-175b", "--set", "plan.pipelin=2")


def test_links_and_pipes_are_not_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "link").symlink_to("nowhere")
    assert "link exists" in told(capsys, "simulate", "local-2rank", "--report", "link")
    os.mkfifo(folder / "pipe")
    said = told(capsys, "simulate", "local-2rank", "--report", "pipe", "--force")
    assert "pipe is no file but a device or a pipe" in said
    assert (folder / "pipe").is_fifo()
    (folder / "a").symlink_to("b")
    said = told(capsys, "simulate", "local-2rank", "--report", "b", "--trace", "a")
    assert "two outputs have the same name" in said


class _Without(importlib.abc.MetaPathFinder):
    """A machine that lacks a library."""

    def __init__(self, library: str) -> None:
        self.library = library

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: object = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] == self.library:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def test_a_library_that_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] in ("torch", "executor")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Without("torch"), *sys.meta_path])
    assert "this needs torch, which is not installed" in told(capsys, "run", "local-2rank")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_harm_nothing(folder: Path, closed: str) -> None:
    command = f'"{sys.executable}" -m pipetwin simulate local-2rank --trace t.json.gz {closed}'
    done = subprocess.run(command, shell=True, check=False, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert gzip.decompress((folder / "t.json.gz").read_bytes()).startswith(b"{")
