"""What is wrong with a scenario, and where: every problem of it at once, one line each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a value was written: a place in a file, or an override on the command line."""

    file: str
    """The file as shown to the user and openable from the working directory, or `--set a.b=c`."""
    line: int | None = None
    """Line, from 1; None for an override."""
    column: int | None = None
    """Column, from 1; None for an override."""

    @property
    def is_override(self) -> bool:
        """Whether the value was set on the command line."""
        return self.line is None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake: what is wrong, the rule, and a value that would work."""

    file: str
    line: int | None
    column: int | None
    field: str
    message: str

    @classmethod
    def at(cls, origin: Origin, field: str, message: str) -> Problem:
        """Build the problem of `field` that `origin` wrote."""
        return cls(
            file=origin.file,
            line=origin.line,
            column=origin.column,
            field=field,
            message=" ".join(message.split()),
        )

    def __str__(self) -> str:
        parts = [self.file]
        if self.line is not None:
            parts[0] += f":{self.line}:{self.column}"
        if self.field and not self.file.startswith(f"--set {self.field}="):
            parts.append(self.field)
        return ": ".join([*parts, self.message])


class ScenarioError(Exception):
    """A scenario cannot be used; holds all its problems in the order of their places."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        found = dict.fromkeys(problems)
        self.problems: tuple[Problem, ...] = tuple(
            sorted(found, key=lambda p: (p.line is None, p.file, p.line or 0, p.column or 0))
        )
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))
