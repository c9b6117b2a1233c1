"""Options that several commands of the command line take, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

Overrides = Annotated[
    list[str],
    Parameter(
        name="--set",
        negative="",
        help="Override a field, as plan.micro_batch=2; may be repeated.",
    ),
]
Json = Annotated[
    bool, Parameter(name="--json", negative="", help="Print one JSON object instead of tables.")
]
Force = Annotated[
    bool, Parameter(name="--force", negative="", help="Replace files that exist already.")
]
Output = Annotated[Path | None, Parameter(name=["--output", "-o"])]
RequiredOutput = Annotated[Path, Parameter(name=["--output", "-o"])]
Flag = Annotated[bool, Parameter(negative="")]
Engine = Annotated[
    Literal["auto", "simpy", "compiled"],
    Parameter(
        help="The reference (simpy), its compiled twin, which gives the same figures sooner, or "
        "whichever is quicker for the program."
    ),
]
ListPublished = Annotated[
    str, Parameter(help="List the rows of these published tables, as ptdp.table1 or megatron.")
]
ReportFile = Annotated[Path | None, Parameter(help="Write an HTML report to this file.")]
Checkpoints = Annotated[
    Path | None,
    Parameter(
        help="Of an elastic run: keep checkpoints in this directory, at each change and at the end."
    ),
]
Resume = Annotated[
    bool, Parameter(negative="", help="Go on from the last of --checkpoints, where a run ended.")
]
TraceFile = Annotated[
    Path | None, Parameter(help="Write a gzipped Chrome trace (for ui.perfetto.dev) to this file.")
]
Device = Annotated[
    str,
    Parameter(help="With --runs: the device (or cluster), from the catalogue, as a100-80gb."),
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
        help="Take times from this profile: a file of `measure` or `calibrate`, or one that comes "
        "along, a100-80gb or v100-16gb."
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
Folds = Annotated[int, Parameter(help="Also cross-validate on --runs, in so many folds.")]
FoldBy = Annotated[
    Literal["run", "plan", "model"],
    Parameter(help="What a fold keeps together: each run alone, replicates, or whole models."),
]
Seed = Annotated[int, Parameter(help="Of the shuffle into folds.")]
FitPublished = Annotated[
    str, Parameter(help="Also fit to published tables; `ptdp.table1:4` is its first 4 rows.")
]
Collectives = Annotated[
    Path | None,
    Parameter(
        help="Also fit to a CSV of all-reduces within a node, by NCCL's tests: columns gpu, "
        "ranks, bytes, in_place_us (or out_of_place_us)."
    ),
]
MeasuredFile = Annotated[
    Path | None, Parameter(help="A file that `pipetwin run -o` wrote for the scenario.")
]
JudgedRuns = Annotated[
    Path | None, Parameter(help="Instead of --measured: a CSV of whole-iteration times.")
]
JudgedPublished = Annotated[
    str,
    Parameter(
        help="Instead of --measured: predict published tables, as megatron, terapipe or "
        "pipetransformer (all of them), or ptdp.fig13,ptdp.table1; with the profiles that come "
        "along, unless one is given."
    ),
]
CalibrateOn = Annotated[
    list[str] | None,
    Parameter(
        negative="",
        consume_multiple=True,
        help="Instead of --measured: run the scenarios now, in turn with these others, from "
        "which each round's profile is calibrated; compare pair by pair.",
    ),
]
MaxError = Annotated[float | None, Parameter(help="Exit 1 where an error is larger, as 0.05.")]
PlanCluster = Annotated[
    str,
    Parameter(
        name="--cluster",
        help="A cluster or device of the catalogue, as dgx-h100, or a file, instead of the "
        "scenario's; a model named alone is taken to be on DGX A100.",
    ),
]
Batch = Annotated[
    int | None, Parameter(help="Sequences in one iteration, instead of the scenario's own.")
]
Gpus = Annotated[
    str, Parameter(help="How many GPUs, as 1024, or several numbers to choose from, as 512,1024.")
]
Objective = Annotated[
    Literal["time", "cost", "gpus"],
    Parameter(help="What the best has least of; gpus: the fewest that meet --deadline."),
]
Deadline = Annotated[
    float | None, Parameter(help="Days that the whole training run may take (training.tokens).")
]
Top = Annotated[int, Parameter(help="Layouts to list, the best first.")]
Only = Annotated[
    list[str] | None,
    Parameter(
        negative="",
        help="Keep a field of the plan to some values, as tensor=4,8, or search one more, as "
        "p2p=blocking,overlapped; may be repeated.",
    ),
]
Jobs = Annotated[int | None, Parameter(help="Processes; one a core unless given.")]
