"""Options of `pipetwin compare`, with their help."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from reports.commands import completing

One = Annotated[
    str,
    Parameter(
        completer=completing.scenarios,
        help="A catalogue name, a YAML file, NAME:VARIANT, or a file that `run -o` wrote.",
    ),
]
Other = Annotated[
    str | None,
    Parameter(
        completer=completing.scenarios,
        help="Another; left out, the same as A, with --set-b.",
    ),
]
SetA = Annotated[
    list[str] | None,
    Parameter(
        name="--set-a",
        negative="",
        completer=completing.overrides,
        help="Override a field of A alone; may be repeated.",
    ),
]
SetB = Annotated[
    list[str] | None,
    Parameter(
        name="--set-b",
        negative="",
        completer=completing.overrides,
        help="Override a field of B alone, as plan.chunks=3; may be repeated.",
    ),
]
Names = Annotated[str, Parameter(help='What both are called, as "now,new".')]
