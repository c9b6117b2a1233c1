"""Options that several commands of the command line take, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from reports.commands import completing


def _shown(default: Any) -> Any:
    """A default as the help shows it: an option that is not given is not worth words."""
    return None if default is None or default is False or default == "" else default


DEFAULTS = Parameter(show_default=_shown)
"""What holds for the options of every command."""
OUTPUTS = Group("Outputs", sort_key=1)
"""Options that say what is written, and how."""
Scenario = Annotated[str, Parameter(completer=completing.scenarios)]
Planned = Annotated[str, Parameter(completer=completing.models)]
AnyEntry = Annotated[str, Parameter(completer=completing.any_entry)]
ScheduleName = Annotated[str, Parameter(completer=completing.schedules)]
Overrides = Annotated[
    list[str],
    Parameter(
        name="--set",
        negative="",
        completer=completing.overrides,
        help="Override a field, as plan.micro_batch=2; may be repeated.",
    ),
]
Json = Annotated[
    bool,
    Parameter(
        name="--json", negative="", group=OUTPUTS, help="Print one JSON object instead of tables."
    ),
]
Force = Annotated[
    bool,
    Parameter(name="--force", negative="", group=OUTPUTS, help="Replace files that exist already."),
]
Output = Annotated[Path | None, Parameter(name=["--output", "-o"], group=OUTPUTS)]
RequiredOutput = Annotated[Path, Parameter(name=["--output", "-o"], group=OUTPUTS)]
Flag = Annotated[bool, Parameter(negative="")]
Engine = Annotated[
    Literal["auto", "simpy", "compiled"],
    Parameter(
        help="The reference, or its compiled twin: the same figures, sooner; auto: the quicker one."
    ),
]
ListPublished = Annotated[
    str,
    Parameter(
        completer=completing.published,
        help="List the rows of these published tables, as ptdp.table1 or megatron.",
    ),
]
ReportFile = Annotated[
    Path | None, Parameter(group=OUTPUTS, help="Write an HTML report to this file.")
]
Checkpoints = Annotated[
    Path | None,
    Parameter(help="Elastic runs: keep checkpoints here, at each change and at the end."),
]
Resume = Annotated[
    bool, Parameter(negative="", help="Elastic runs: go on from the last of --checkpoints.")
]
TraceFile = Annotated[
    Path | None,
    Parameter(group=OUTPUTS, help="Write a Chrome trace (for ui.perfetto.dev), gzipped."),
]
Device = Annotated[
    str,
    Parameter(
        completer=completing.hardware,
        help="With --runs: the device or cluster they ran on, as a100-80gb.",
    ),
]
Stages = Annotated[
    int | None, Parameter(help="Pipeline stages, for a schedule's name (4 unless given).")
]
Microbatches = Annotated[
    int | None, Parameter(help="Microbatches, for a schedule's name (8 unless given).")
]
ProfileFile = Annotated[
    Path | None,
    Parameter(
        completer=completing.profiles,
        help="Times of a profile: a file of `measure` or `calibrate`, or a100-80gb, v100-16gb.",
    ),
]
Granularity = Annotated[
    int, Parameter(help="Tokens in a unit of the search: slices are whole units.")
]
KeepMicrobatches = Annotated[
    bool,
    Parameter(negative="", help="Cut tokens only; the microbatches stay as the plan has them."),
]
MemoryCap = Annotated[
    str,
    Parameter(name="--memory", help="Cap on a device's memory, as '14 GiB'; its own unless given."),
]
Simulations = Annotated[int, Parameter(help="About so many candidates are simulated, at least 4.")]
Runs = Annotated[Path | None, Parameter(help="A CSV of whole-iteration times.")]
Folds = Annotated[int, Parameter(help="With --runs: also cross-validate, in so many folds.")]
FoldBy = Annotated[
    Literal["run", "plan", "model"],
    Parameter(help="With --folds: what stays together; a run, its replicates, or a model."),
]
Seed = Annotated[int, Parameter(help="With --folds: seed of the shuffle.")]
FitPublished = Annotated[
    str,
    Parameter(
        completer=completing.published,
        help="Also fit to published tables; `ptdp.table1:4` is its first 4 rows.",
    ),
]
Collectives = Annotated[
    Path | None,
    Parameter(
        help="Also fit to a CSV of NCCL's tests within a node: gpu, ranks, bytes, in_place_us."
    ),
]
MeasuredFile = Annotated[
    Path | None, Parameter(help="A file that `pipetwin run -o` wrote of the scenario.")
]
JudgedRuns = Annotated[
    Path | None, Parameter(help="Instead of --measured: a CSV of whole-iteration times.")
]
JudgedPublished = Annotated[
    str,
    Parameter(
        completer=completing.published,
        help="Instead of --measured: published tables, as megatron (all of theirs) or ptdp.fig13.",
    ),
]
CalibrateOn = Annotated[
    list[str] | None,
    Parameter(
        negative="",
        consume_multiple=True,
        completer=completing.scenarios,
        help="Instead of --measured: run now, in turn with these, to be calibrated from.",
    ),
]
MaxError = Annotated[float | None, Parameter(help="Exit 1 where an error is larger, as 0.05.")]
PlanCluster = Annotated[
    str,
    Parameter(
        name="--cluster",
        completer=completing.hardware,
        help="Another cluster or device, as dgx-h100, or a file; a model alone is on DGX A100.",
    ),
]
Batch = Annotated[
    int | None, Parameter(help="Sequences in one iteration, instead of the scenario's own.")
]
Gpus = Annotated[
    str, Parameter(help="How many GPUs, as 1024, or numbers to choose from, as 512,1024.")
]
Objective = Annotated[
    Literal["time", "cost", "gpus"],
    Parameter(help="What the best has least of; gpus needs --deadline."),
]
Deadline = Annotated[
    float | None, Parameter(help="Days that the whole run of `training.tokens` may take.")
]
Top = Annotated[int, Parameter(help="Layouts to list, the best first.")]
Only = Annotated[
    list[str] | None,
    Parameter(
        negative="",
        completer=completing.plan_fields,
        help="Values to search of a field of the plan, as tensor=4,8; may be repeated.",
    ),
]
Jobs = Annotated[int | None, Parameter(help="Processes; one a core unless given.")]
WhatIf = Annotated[
    bool,
    Parameter(
        name="--what-if",
        negative="",
        help="Also ask what the time hangs on: what were free, one decision otherwise, inputs, "
        "other numbers of devices. A report asks it anyway.",
    ),
]
TraceRanks = Annotated[
    str,
    Parameter(
        help="The pipeline rank of each trace, as 1,0; unless given, by what the traces say of "
        "their rank, else by their order."
    ),
]
