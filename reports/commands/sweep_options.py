"""Options of `pipetwin sweep`, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from reports.commands import completing

Vary = Annotated[
    list[str] | None,
    Parameter(
        negative="",
        completer=completing.varied,
        help="A field and its values, as plan.pipeline=4,8 or plan.data=1..8; several: a grid.",
    ),
]
Points = Annotated[
    Path | None,
    Parameter(
        help="Points in a CSV or JSONL, fields in the first line; with --vary a grid at each."
    ),
]
Zip = Annotated[
    bool,
    Parameter(negative="", help="Go through --vary side by side, not as a grid."),
]
Engine = Annotated[
    Literal["auto", "simpy", "compiled"],
    Parameter(help="What simulates; auto: the compiled one for large programs."),
]
Figures = Annotated[
    Literal["all", "time"],
    Parameter(
        help="All that simulate --json prints, or time, throughput and memory alone: quicker."
    ),
]
Jobs = Annotated[int | None, Parameter(help="Processes on this machine; one a core unless given.")]
Cluster = Annotated[
    str, Parameter(help="The workers of a dask scheduler instead, as tcp://host:8786.")
]
Shard = Annotated[
    str,
    Parameter(help="A part of the points, as 3/16: those whose index leaves 3 divided by 16."),
]
RetryFailed = Annotated[
    bool, Parameter(negative="", help="Try the failed points of the results again.")
]
Force = Annotated[
    bool,
    Parameter(
        name="--force",
        negative="",
        help="Replace --report's file if it exists; results are kept in any case.",
    ),
]
