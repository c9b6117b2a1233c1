"""Chrome trace JSON read event by event, so that memory does not grow with the file."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from io import TextIOWrapper
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO, cast

_CHUNK = 1 << 20
_WORD = 16
_SPACE = re.compile(r"[\s,]*")
_DECODER = json.JSONDecoder(parse_float=str, strict=False)
"""Numbers with a point stay texts: as floats, microseconds since 1970 would lose digits."""


class TraceError(ValueError):
    """A trace cannot be read as what was asked; the message says why, and what would work."""

    is_bad_input = True


class TraceFile:
    """One trace: its events, and what else its top level holds, known once they are read.

    Numbers that have a point come as texts, as they stand in the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: dict[str, Any] = {}
        self.num_events = 0
        self._text = ""
        self._at = 0
        self._ended = False

    def events(self) -> Iterator[dict[str, Any]]:
        """Every event of the file, once.

        Raises TraceError where the file cannot be read, is cut short, or is no trace.
        """
        try:
            with self.path.open("rb") as file:
                packed = file.peek(2)[:2] == b"\x1f\x8b"
                source = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file
                self._file = TextIOWrapper(cast(Any, source), encoding="utf-8", errors="replace")
                yield from self._document()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise self._cut_short() from error
        except OSError as error:
            raise TraceError(f"{self.path}: cannot be read: {error.strerror or error}") from error

    def _document(self) -> Iterator[dict[str, Any]]:
        first = self._peek()
        if first == "[":  # The format's other form, of events alone.
            yield from self._array()
            return
        if first != "{":
            raise self._no_trace()
        self._at += 1
        found = False
        while (char := self._peek()) != "}":
            if not char:
                raise self._cut_short() if found else self._no_trace()
            key = self._value()
            if self._peek() != ":" or not isinstance(key, str):
                raise self._no_trace()
            self._at += 1
            if key == "traceEvents" and self._peek() == "[":
                found = True
                yield from self._array()
            else:
                self.header[key] = self._value()
        if not found:
            raise self._no_trace()

    def _array(self) -> Iterator[dict[str, Any]]:
        self._at += 1
        while (char := self._peek()) != "]":
            if not char:
                raise self._cut_short()
            event = self._value()
            self.num_events += 1
            if isinstance(event, dict):
                yield event
        self._at += 1

    def _value(self) -> Any:
        """The JSON value that begins here, or after blanks and commas."""
        self._peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # What a cut leaves may be half a word, as `fals`, at whose begin the error is.
                at_end = error.pos >= len(self._text) - _WORD or error.msg[:12] == "Unterminated"
                if at_end and self._more():
                    continue
                raise (
                    self._cut_short() if at_end else self._damaged(error.msg, error.pos)
                ) from error
            except (RecursionError, ValueError) as error:  # Brackets, or a number, without end.
                raise self._damaged(str(error), self._at) from error
            # A number may go on in what is not read yet.
            if end == len(self._text) and self._more():
                continue
            self._at = end
            return value

    def _peek(self) -> str:
        """The next character that is neither blank nor comma; empty at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Read on, letting go of what is read; whether there was anything.

        A value longer than what is read doubles it, so that long ones take linear time.
        """
        if self._ended:
            return False
        rest = self._text[self._at :]
        fresh = self._file.read(max(_CHUNK, len(rest)))
        self._text, self._at = rest + fresh, 0
        self._ended = not fresh
        return bool(fresh)

    def _cut_short(self) -> TraceError:
        return TraceError(
            f"{self.path}: ends in the middle, after {self.num_events:,} events: the profiler was "
            "stopped while it wrote, or the disk was full; export the trace again"
        )

    def _damaged(self, why: str, at: int) -> TraceError:
        near = self._text[max(0, at - 20) : at + 20]
        return TraceError(
            f"{self.path}: is no JSON after {self.num_events:,} events, near {near!r}: {why}"
        )

    def _no_trace(self) -> TraceError:
        return TraceError(
            f"{self.path}: is no trace: it has no `traceEvents`; write one with "
            "`prof.export_chrome_trace('rank0.json.gz')` of torch.profiler"
        )


def nanoseconds(microseconds: str | int) -> int:
    """A time of a trace in whole nanoseconds, digit for digit; finer digits are cut off.

    Raises ValueError for what is no time.
    """
    if isinstance(microseconds, int):
        return microseconds * 1000
    whole, _, part = microseconds.partition(".")
    if not part.isdecimal() or not whole.lstrip("-").isdecimal():
        exact = float(microseconds) * 1000
        if not isfinite(exact):
            raise ValueError(f"{microseconds} is too long for a time")
        return round(exact)
    digits = int(part[:3].ljust(3, "0"))
    return int(whole) * 1000 + (-digits if whole.startswith("-") else digits)
