"""Options of `pipetwin compare`, with their help."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

SetA = Annotated[
    list[str] | None,
    Parameter(name="--set-a", negative="", help="Override a field of A alone; may be repeated."),
]
SetB = Annotated[
    list[str] | None,
    Parameter(
        name="--set-b",
        negative="",
        help="Override a field of B alone, as plan.chunks=3; may be repeated.",
    ),
]
Names = Annotated[str, Parameter(help='What both are called, as "now,new".')]
