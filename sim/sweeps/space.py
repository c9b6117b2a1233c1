"""The points of a sweep: fields and their values, as grids, side by side, or listed in a file."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scenarios.reading import read_text

MAX_VALUES = 1_000_000
MAX_POINTS = 10**18
MAX_BYTES = 256 << 20
_RANGE = re.compile(r"(-?[0-9]{1,18})\.\.(-?[0-9]{1,18})(?:\.\.([0-9]{1,18}))?")
_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'")
_CLOSING = {"[": "]", "{": "}"}


class SweepError(ValueError):
    """A sweep that cannot be made; the message names one that could."""

    is_bad_input = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """A field and the values it takes, as written in a scenario file."""

    field: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The points of a sweep, numbered from 0; none is made before it is asked for.

    rows: overrides of each listed point (one empty row where none are listed), the slowest to
    change; then the dimensions, the last one changing fastest, or all at once where `zipped`.
    """

    dimensions: tuple[Dimension, ...]
    zipped: bool = False
    rows: tuple[tuple[str, ...], ...] = ((),)

    @property
    def fields(self) -> tuple[str, ...]:
        """The varied fields: the file's in order of appearance, then the dimensions'."""
        listed = (field_of(override) for row in self.rows for override in row)
        return tuple(dict.fromkeys([*listed, *(d.field for d in self.dimensions)]))

    def samples(self) -> tuple[str, ...]:
        """An override of each varied field."""
        found: dict[str, str] = {}
        for override in (override for row in self.rows for override in row):
            found.setdefault(field_of(override), override)
        for dimension in self.dimensions:
            found.setdefault(dimension.field, f"{dimension.field}={dimension.values[0]}")
        return tuple(found.values())

    def __len__(self) -> int:
        return self.num_points

    @property
    def num_points(self) -> int:
        """How many points there are, however many."""
        return len(self.rows) * self._steps

    @property
    def _steps(self) -> int:
        """Points of each row."""
        if self.zipped and self.dimensions:
            return len(self.dimensions[0].values)
        return math.prod(len(d.values) for d in self.dimensions)

    def overrides(self, index: int) -> tuple[str, ...]:
        """What point `index` sets, as `plan.micro_batch=2` each."""
        row, step = divmod(index, self._steps)
        chosen: list[str] = []
        for dimension in reversed(self.dimensions):
            place = step
            if not self.zipped:
                step, place = divmod(step, len(dimension.values))
            chosen.append(f"{dimension.field}={dimension.values[place]}")
        return (*self.rows[row], *reversed(chosen))


def space(vary: Sequence[str], *, zipped: bool = False, points: Path | None = None) -> Space:
    """The points of `--vary plan.pipeline=4,8,16` (each of them), and those listed in a file.

    Raises SweepError where they cannot be told, or where nothing is varied.
    """
    dimensions = tuple(dimension(text) for text in vary)
    rows = read_points(points) if points is not None else ((),)
    if not dimensions and points is None:
        raise SweepError(
            "nothing is varied: give fields and values, as --vary plan.pipeline=4,8,16 "
            "--vary plan.micro_batch=1..8, or a file of points, as --points points.csv"
        )
    listed = {field_of(override) for row in rows for override in row}
    for number, one in enumerate(dimensions):
        if one.field in listed or any(one.field == d.field for d in dimensions[:number]):
            raise SweepError(f"{one.field} is varied twice: give all its values in one place")
    if zipped:
        lengths = {d.field: len(d.values) for d in dimensions}
        if len(dimensions) < 2:
            raise SweepError("--zip goes through several fields side by side: vary two or more")
        if len(set(lengths.values())) > 1:
            each = ", ".join(f"{field} {count}" for field, count in lengths.items())
            raise SweepError(f"--zip needs as many values of each field; there are {each}")
    found = Space(dimensions=dimensions, zipped=zipped, rows=rows)
    if found.num_points > MAX_POINTS:
        raise SweepError(f"over {MAX_POINTS:.0e} points, of which no sweep sees the end: vary less")
    return found


def dimension(text: str) -> Dimension:
    """Read `plan.pipeline=4,8,16`, a range as `plan.micro_batch=1..8` or `1..64..2` (both ends
    included, by steps of 2), and any mixture of these.

    Values are split at commas outside of quotes and brackets, and read as in a scenario file.
    Raises SweepError.
    """
    field, equals, rest = text.partition("=")
    field = field.strip()
    if not equals or not field:
        raise SweepError(
            f"--vary {text}: write a field and its values, as --vary plan.pipeline=4,8,16"
        )
    values: list[str] = []
    for item in _split(rest, text):
        if not item:
            raise SweepError(
                f"--vary {text}: a value is empty; `null` is a field's default, and quotes hold an "
                "empty text"
            )
        values += _expanded(item, text)
        if len(values) > MAX_VALUES:
            raise SweepError(f"--vary {text}: over {MAX_VALUES:,} values: give fewer at once")
    if len(set(values)) < len(values):
        twice = Counter(values).most_common(1)[0][0]
        raise SweepError(f"--vary {text}: `{twice}` is given twice: once is enough")
    return Dimension(field=field, values=tuple(values))


def _expanded(item: str, text: str) -> Iterator[str]:
    match = _RANGE.fullmatch(item)
    if match is None:
        yield item
        return
    first, last, step = int(match[1]), int(match[2]), int(match[3] or 1)
    if step == 0:
        raise SweepError(f"--vary {text}: steps are of at least 1, as 8..64..8")
    if abs(last - first) // step >= MAX_VALUES:
        raise SweepError(f"--vary {text}: over {MAX_VALUES:,} values: give fewer at once")
    direction = 1 if last >= first else -1
    for number in range(first, last + direction, direction * step):
        yield str(number)


def _split(values: str, text: str) -> list[str]:
    """Split at commas that are not within quotes, brackets or braces."""
    parts, start = list[str](), 0
    open_brackets: list[str] = []
    at = 0
    while at < len(values):
        char = values[at]
        if char in "'\"" and (open_brackets or not values[start:at].strip()):
            at = _closing_quote(values, at, text)
        elif char in _CLOSING:
            open_brackets.append(_CLOSING[char])
        elif open_brackets and char == open_brackets[-1]:
            open_brackets.pop()
        elif char == "," and not open_brackets:
            parts.append(values[start:at].strip())
            start = at + 1
        at += 1
    if open_brackets:
        raise SweepError(f"--vary {text}: `{open_brackets[-1]}` is missing at the end")
    return [*parts, values[start:].strip()]


def _closing_quote(values: str, at: int, text: str) -> int:
    """Where the quote opened at `at` is closed, by YAML's rules: `\\"` and `''` are parts of it."""
    match = _QUOTED.match(values, at)
    if match is None:
        raise SweepError(f"--vary {text}: the quote {values[at]} is not closed")
    return match.end() - 1


def field_of(override: str) -> str:
    """The field that an override sets."""
    return override.partition("=")[0].strip()


def read_points(path: Path) -> tuple[tuple[str, ...], ...]:
    """The points that a file lists, as overrides.

    CSV: fields in the first line, a point a line, an empty cell leaves a field as it is. JSONL (by
    the name's end): an object a line, as {"plan.pipeline": 4}.
    Raises SweepError with the place of what is wrong.
    """
    text = read_text(path, SweepError, max_bytes=MAX_BYTES, too_large=": split it")
    jsonl = path.suffix in (".jsonl", ".ndjson")
    rows = tuple(_json_rows(path, text) if jsonl else _csv_rows(path, text))
    if not rows:
        raise SweepError(f"{path}: lists no points")
    return rows


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, ...]]:
    reader = csv.reader(io.StringIO(text), strict=True, skipinitialspace=True)
    names: list[str] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if names is None:
                names = [cell.strip() for cell in cells]
                if not all(names) or len(set(names)) < len(names):
                    raise SweepError(
                        f"{path}:1: names a field a column, each once, as "
                        "`plan.pipeline,plan.micro_batch`"
                    )
                continue
            if len(cells) > len(names):
                raise SweepError(
                    f"{path}:{reader.line_num}: has {len(cells)} cells for {len(names)} fields: "
                    "quote values that hold commas"
                )
            pairs = zip(names, cells, strict=False)
            yield tuple(f"{name}={cell.strip()}" for name, cell in pairs if cell.strip())
    except csv.Error as error:
        raise SweepError(f"{path}:{reader.line_num}: is not CSV: {error}") from None


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, ...]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SweepError(f"{path}:{number}: is not JSON: {error}") from None
        if not isinstance(row, dict) or not all(key.strip() for key in row):
            raise SweepError(
                f'{path}:{number}: is no object of fields and values, as {{"plan.pipeline": 4}}'
            )
        yield tuple(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in row.items())
