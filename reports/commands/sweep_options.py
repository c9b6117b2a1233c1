"""Options of `pipetwin sweep`, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

Vary = Annotated[
    list[str] | None,
    Parameter(
        negative="",
        help="A field and its values, as plan.pipeline=4,8,16, plan.micro_batch=1..8, or "
        "'cluster.inter_node.bandwidth=100 Gbit/s,200 Gbit/s'; several make a grid.",
    ),
]
Points = Annotated[
    Path | None,
    Parameter(
        help="Points in a file: CSV with fields in the first line, or JSONL; with --vary the whole "
        "grid at each of them."
    ),
]
Zip = Annotated[
    bool,
    Parameter(negative="", help="Go through the fields of --vary side by side, not as a grid."),
]
Engine = Annotated[
    Literal["auto", "simpy", "compiled"],
    Parameter(help="What simulates; auto: the compiled engine for large programs."),
]
Figures = Annotated[
    Literal["all", "time"],
    Parameter(
        help="What results hold: all that simulate --json prints, or time, throughput and peak "
        "memory alone, which takes a millisecond where spans take seconds."
    ),
]
Jobs = Annotated[
    int | None, Parameter(help="Processes on this machine; as many as it has cores unless given.")
]
Cluster = Annotated[
    str, Parameter(help="Use the workers of a dask scheduler instead, as tcp://host:8786.")
]
Shard = Annotated[
    str,
    Parameter(
        help="Only a part of the points, as 3/16: those whose index leaves 3 when divided by 16."
    ),
]
RetryFailed = Annotated[
    bool, Parameter(negative="", help="Try points again that the results have as failed.")
]
