"""What a user is told of a command line that cannot be: what is wrong, and a line that works."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cyclopts import CycloptsError

from reports.commands.teaching import LESSONS
from scenarios.catalogue import full_name, kind_of, names, show
from scenarios.errors import ScenarioError
from sim.cost.profile_file import ProfileError
from sim.cost.runs import RunsError
from sim.measurement import MeasurementError
from sim.schedule.checks import ScheduleError

_HEAD = 4096
_MISSING = re.compile(r'Command "(?P<command>[^"]+)" parameter (?P<name>\S+) requires an argument')


@dataclass(frozen=True, slots=True)
class FileKind:
    """A kind of file that commands write or read: how it begins, what it is, what takes it."""

    begins: str
    what: str
    taken_by: str


_KINDS = (
    FileKind(
        r'\{\s*"format":\s*"pipetwin[- ](?:elastic-)?measurements?\b',
        "a measured file",
        "`pipetwin report {0} -o report.html` shows it, `pipetwin validate SCENARIO --measured "
        "{0}` judges a prediction by it, `pipetwin calibrate {0} -o profile.yaml` makes a profile",
    ),
    FileKind(
        r'\{?\s*"?format"?:\s*"?pipetwin profile',
        "a profile",
        "`pipetwin simulate SCENARIO --profile {0}` takes times from it",
    ),
    FileKind(
        r'\{"key":\s*"[0-9a-f]+",\s*"sweep"',
        "results of a sweep",
        "`pipetwin report {0} -o report.html` shows them, and `pipetwin sweep ... -o {0}` adds to "
        "them",
    ),
    FileKind(
        r"(?s)\s*<!doctype html|\s*<html",
        "a page",
        "open it in a browser",
    ),
    FileKind(
        r'(?s)\s*\{.{0,400}"(?:traceEvents|schemaVersion|deviceProperties)"',
        "a trace",
        "open it at ui.perfetto.dev, or read a profiler's with `pipetwin import-trace`",
    ),
    FileKind(
        r"gpus,global_batch,",
        "a log of runs",
        "`pipetwin calibrate --runs {0} --device a100-80gb` fits a profile to it",
    ),
    FileKind(
        r"\s*\d+[FBIW]\d+[ ,]",
        "a schedule",
        "`pipetwin schedule show {0}` draws it; in a scenario, `plan: {{schedule: given, "
        "schedule_file: {0}}}`",
    ),
    FileKind(
        r"(?m)\A(?:\s*#.*\n|\s*\n)*(?:extends|name|description|model|cluster|plan|costs):",
        "a scenario",
        "`pipetwin simulate {0}` predicts it, `pipetwin run {0} -o measured.json` runs it",
    ),
)
_WANTED: tuple[tuple[type[Exception], str], ...] = (
    (ScenarioError, "a scenario"),
    (ProfileError, "a profile"),
    (MeasurementError, "a measured file"),
    (RunsError, "a log of runs"),
    (ScheduleError, "a schedule"),
)


def file_kind(path: Path) -> FileKind | None:
    """What kind of file of pipetwin's a file is, by how it begins; None for any other."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
        if head[:2] == b"\x1f\x8b":
            with gzip.open(path) as stream:
                head = stream.read(_HEAD)
    except (OSError, EOFError):
        return None
    text = head.decode("utf-8", errors="replace").removeprefix("\ufeff")
    return next((kind for kind in _KINDS if re.match(kind.begins, text)), None)


def explained(error: Exception, tokens: Sequence[str]) -> str:
    """An error's message; where a file on the command line is of another kind than was wanted, what
    it is, and which command takes it."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        reason = (error.strerror or str(error)).lower()
        name = str(error.filename)
        if isinstance(error, FileNotFoundError) and full_name(name) in names():
            return (
                f"{name}: is no file, but a name of the catalogue: `pipetwin simulate {name} "
                "--report report.html` writes a scenario's report"
            )
        return f"{error.filename}: cannot be read or written: {reason}"
    wanted = next((what for kind, what in _WANTED if isinstance(error, kind)), None)
    if wanted is None:
        return text
    if isinstance(error, ScenarioError) and not any(t.startswith("--set") for t in tokens):
        for token in tokens:
            if (part := _part(token, error)) is not None:
                return part
    for token in tokens:
        path = Path(token.partition("=")[2] if token.startswith("--") else token)
        if not text.startswith(str(path)) or not path.is_file():
            continue
        found = file_kind(path)
        if found is not None and found.what != wanted:
            return f"{token}: is {found.what}, not {wanted}: {found.taken_by.format(token)}"
    return text


def _part(name: str, error: ScenarioError) -> str | None:
    """What a name of the catalogue is that was wanted to be a whole scenario, where that is what is
    wrong; None for any other name."""
    entry = full_name(name)
    if entry not in names() or (kind := kind_of(entry)) in ("scenario", "table"):
        return None
    file = show(names()[entry])
    if any(p.file != file or "is missing" not in p.message for p in error.problems[:1]):
        return None
    last = entry.rpartition("/")[2]
    works = {
        "model": f"`pipetwin plan {last} --gpus 1024` finds its layouts",
        "cluster": f"`pipetwin plan gpt3-175b --cluster {last}` plans a model on it",
        "device": f"`pipetwin plan gpt3-175b --cluster {last}` plans a model on it",
    }[kind]
    return f"{name}: is a {kind}, no scenario: {works}; in a file of your own, `extends: {entry}`"


def usage(error: CycloptsError, tokens: Sequence[str]) -> str:
    """What is wrong with the words of a command line, and lines that work."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    chain = " ".join(error.command_chain or ())
    if match := _MISSING.search(text):
        what = "a value" if match["name"].startswith("-") else "one"
        text = f"{match['name']} is missing: give {what}"
    elif "Unused Tokens" in text:
        unused = " ".join(map(str, error.unused_tokens or ()))
        text = f"`{unused}` is too much: {_too_much(chain)}"
    lines = [f"pipetwin {chain}: {text}" if chain else f"pipetwin: {text}"]
    lesson = next((lesson for lesson in LESSONS if lesson.command == chain), None)
    if lesson is not None:
        lines.append(f"  as: pipetwin {lesson.examples[0]}")
    lines.append(f"  all of it: pipetwin {chain} --help" if chain else "  all: pipetwin --help")
    return "\n".join(lines)


def _too_much(chain: str) -> str:
    if chain in ("simulate", "run"):
        return (
            "one scenario at a time; `pipetwin compare A B` puts two side by side, and a space in "
            "a value needs quotes, as --set 'cluster.device.memory=40 GiB'"
        )
    return "options begin with `--`, and a space in a value needs quotes"
