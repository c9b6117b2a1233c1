"""What `--help` teaches of each command: the group it stands in, and lines to try."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cyclopts import App, Group

Aim = Literal["Predict", "Decide", "Run", "Check", "Look"]
AIMS: dict[Aim, str] = {
    "Predict": "What an iteration takes, before anyone pays for it.",
    "Decide": "Which layout, which schedule, how many GPUs.",
    "Run": "The same schedule for real, on this machine or a cluster.",
    "Check": "Simulated against measured, and profiles made of measurements.",
    "Look": "Reports, the catalogue, schedules, and what this machine can do.",
}
"""What the groups of commands are for, in the order of the help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One command's part of the help."""

    command: str
    """Its name, as `plan` or `scenario list`."""
    aim: Aim | None
    """Its group; None for a command of `scenario` or `schedule`."""
    examples: tuple[str, ...]
    """Lines that work, without `pipetwin`; the simplest first."""


def _lesson(command: str, aim: Aim | None, *examples: str) -> Lesson:
    return Lesson(command=command, aim=aim, examples=examples)


LESSONS = (
    _lesson(
        "simulate",
        "Predict",
        "simulate megatron/175b",
        "simulate megatron/175b --set plan.micro_batch=2 --report 175b.html",
        "simulate my-model.yaml --profile a100-80gb --json",
    ),
    _lesson(
        "plan",
        "Decide",
        "plan gpt3-175b --gpus 1024",
        "plan gpt3-175b --gpus 512,1024 --cluster dgx-h100 --report plan.html",
        "plan my-model.yaml --objective gpus --deadline 30 -o best.yaml",
    ),
    _lesson(
        "sweep",
        "Decide",
        "sweep local-2rank --vary plan.micro_batch=1..8 -o results.jsonl",
        "sweep megatron/175b --vary plan.micro_batch=1,2 -o r.jsonl",
        "sweep my-model.yaml --points points.csv --jobs 8 -o results.jsonl",
    ),
    _lesson(
        "slice",
        "Decide",
        "slice terapipe/175b-setting10",
        "slice terapipe/175b-setting10 --granularity 32 -o sliced.yaml",
    ),
    _lesson(
        "compare",
        "Decide",
        "compare megatron/175b megatron/1t",
        "compare before.yaml after.yaml --report difference.html",
    ),
    _lesson(
        "run",
        "Run",
        "run local-2rank --check",
        "run local-2rank -o measured.json --trace run.trace.json.gz",
        "run local-terapipe -o variants.json",
    ),
    _lesson(
        "measure",
        "Run",
        "measure local-2rank --quick -o this-machine.yaml",
        "simulate local-2rank --profile this-machine.yaml",
    ),
    _lesson(
        "calibrate",
        "Check",
        "calibrate measured.json -o this-machine.yaml",
        "calibrate --runs runs.csv --device a100-80gb --folds 5 -o a100.yaml",
    ),
    _lesson(
        "validate",
        "Check",
        "validate local-2rank --measured measured.json",
        "validate --published megatron",
        "validate local-2rank --calibrate-on calibrate-2rank-a",
    ),
    _lesson(
        "import-trace",
        "Check",
        "import-trace mine.yaml rank0.json.gz rank1.json.gz -o measured.json",
    ),
    _lesson("report", "Look", "report measured.json -o report.html"),
    _lesson(
        "scenario",
        "Look",
        "scenario list",
        "scenario show megatron/175b",
    ),
    _lesson("scenario list", None, "scenario list", "scenario list --published ptdp.table1"),
    _lesson(
        "scenario show",
        None,
        "scenario show megatron/175b",
        "scenario show local-2rank --set plan.micro_batch=2",
    ),
    _lesson("scenario check", None, "scenario check my-model.yaml", "scenario check local-2rank"),
    _lesson("scenario schema", None, "scenario schema"),
    _lesson("schedule", "Look", "schedule show 1f1b --stages 4 --microbatches 8"),
    _lesson(
        "schedule show",
        None,
        "schedule show 1f1b --stages 4 --microbatches 8",
        "schedule show interleaved:3",
        "schedule show local-2rank",
    ),
    _lesson(
        "schedule export",
        None,
        "schedule export interleaved --stages 8 -o schedule.csv",
        "schedule export 1f1b --messages",
    ),
    _lesson("schedule check", None, "schedule check 1f1b", "schedule check schedule.csv --json"),
    _lesson("doctor", "Look", "doctor", "doctor --run", "doctor --json"),
    _lesson(
        "completion",
        "Look",
        "completion bash > pipetwin.bash",
        "completion --install",
        "completion zsh --install --force",
    ),
)

START = ("scenario list", "simulate megatron/175b", "plan gpt3-175b --gpus 1024", "doctor")
"""What to begin with."""


SYNONYMS = {
    "simulate": ("predict", "estimate", "model"),
    "plan": ("search", "optimize", "layout", "tune"),
    "sweep": ("grid", "vary", "scan"),
    "compare": ("diff", "versus"),
    "run": ("execute", "train", "launch", "start"),
    "measure": ("benchmark", "profile", "bench"),
    "calibrate": ("fit",),
    "validate": ("judge", "verify", "test", "check"),
    "report": ("html", "render", "page"),
    "scenario": ("list", "show", "catalogue", "catalog", "models", "scenarios", "schema"),
    "schedule": ("draw", "schedules"),
    "import-trace": ("import", "trace", "kineto"),
    "doctor": ("info", "env", "diagnose", "selftest"),
    "completion": ("completions", "autocomplete"),
}
"""What else people call the commands, for whoever types one of these."""


def teach(app: App) -> None:
    """Put every command of the app in its group, and examples below its help."""
    groups = {
        aim: Group(f"{aim}: {words[0].lower()}{words[1:].rstrip('.')}", sort_key=number)
        for number, (aim, words) in enumerate(AIMS.items())
    }
    app.help_epilogue = _epilogue("Start with", START)
    options = Group("Options", sort_key=len(AIMS))
    for flag in ("--help", "--version"):
        app[flag].group = options
    for number, lesson in enumerate(LESSONS):
        command = _command(app, lesson.command)
        if command is None:
            continue
        if lesson.aim is not None:
            command.group = groups[lesson.aim]
            command.sort_key = number
        command.synonym = SYNONYMS.get(lesson.command)
        command.help_epilogue = _epilogue("Examples", lesson.examples)


def _command(app: App, name: str) -> App | None:
    for part in name.split():
        if part not in tuple(app):
            return None
        app = app[part]
    return app


def _epilogue(title: str, lines: tuple[str, ...]) -> str:
    return f"{title}\n\n" + "\n".join(f"    pipetwin {line}" for line in lines)
