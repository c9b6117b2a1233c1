"""A sweep's results as a file: whole lines appended, by several processes at once where need be.

Every append holds the file's lock and is one write; a line that a killed process left torn is cut
off by whoever appends next.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from sim.sweeps.records import START
from sim.sweeps.space import SweepError

SYNC_EVERY_S = 5.0
_BLOCK = 1 << 16
_FOREIGN = "is no result of a sweep: choose another file with -o"


class ResultsFile:
    """An open file of results; a context manager.

    locks: whether the file system can lock it; where not (some network file systems), processes
    need files of their own.
    """

    def __init__(self, path: Path) -> None:
        """Open or make it; raises OSError, and SweepError where it is no regular file."""
        self.path = path
        self.locks = True
        if path.exists() and not path.is_file():
            raise SweepError(f"{path}: is no file: name one that may be made, as results.jsonl")
        if not path.parent.is_dir():
            raise SweepError(f"{path.parent} is not a directory: make it first")
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        self._synced = time.monotonic()
        self._read_to = 0
        self._num_lines = 0

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Bring what was appended to the disk, and close."""
        try:
            os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)

    def records(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Every whole record that was not read yet, with its place; first cuts off a torn last
        line.

        Raises SweepError, having changed nothing, where the file holds anything else.
        """
        with self._locked():
            whole = self._cut_torn()
        yield from self._unread(whole)

    def append(self, lines: Mapping[str, str]) -> list[tuple[str, Mapping[str, Any]]]:
        """Add records by their keys, all of them or none, but those that another process has added
        since the file was read; return what others have added.

        Raises OSError where there is no room, SweepError where others added something else.
        """
        with self._locked():
            whole = self._cut_torn()
            others = list(self._unread(whole))
            theirs = {str(record["key"]) for _, record in others}
            data = "".join(line for key, line in lines.items() if key not in theirs).encode()
            if data:
                self._write(data, whole)
        if time.monotonic() - self._synced > SYNC_EVERY_S:
            os.fsync(self._descriptor)
            self._synced = time.monotonic()
        return others

    def _write(self, data: bytes, whole: int) -> None:
        try:
            written = os.write(self._descriptor, data)
        except OSError:
            os.ftruncate(self._descriptor, whole)
            raise
        if written < len(data):
            os.ftruncate(self._descriptor, whole)
            raise OSError(f"{self.path}: only {written} of {len(data)} bytes could be written")
        self._num_lines += data.count(b"\n")
        self._read_to = whole + written

    def _cut_torn(self) -> int:
        """Cut off a torn last line; the file's size then."""
        size = os.fstat(self._descriptor).st_size
        whole = self._end_of_last_line(size)
        if whole < size:
            tail = os.pread(self._descriptor, len(START), whole)
            if not START.startswith(tail) or not self._begins_as_ours(whole):
                raise SweepError(f"{self.path}: {_FOREIGN}")
            os.ftruncate(self._descriptor, whole)
        return whole

    def _unread(self, whole: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The records up to byte `whole` that were not read yet."""
        if self._read_to >= whole:
            return
        with self.path.open("rb") as stream:
            stream.seek(self._read_to)
            while self._read_to < whole:
                line = stream.readline()
                self._read_to += len(line)
                self._num_lines += 1
                place = f"{self.path}:{self._num_lines}"
                yield place, _record(place, line)

    def _begins_as_ours(self, whole: int) -> bool:
        """Whether the first line does; alone and torn, that it is no whole object of another kind
        (a record that lacks but its newline is one of ours)."""
        if whole > 0:
            return os.pread(self._descriptor, len(START), 0) == START
        with self.path.open("rb") as stream:
            try:
                return "sweep" in json.load(stream)
            except (ValueError, RecursionError):
                return True

    def _end_of_last_line(self, size: int) -> int:
        """Bytes up to and with the last newline; nearly always all of them."""
        if size == 0 or os.pread(self._descriptor, 1, size - 1) == b"\n":
            return size
        end = size
        while end > 0:
            begin = max(0, end - _BLOCK)
            at = os.pread(self._descriptor, end - begin, begin).rfind(b"\n")
            if at >= 0:
                return begin + at + 1
            end = begin
        return 0

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self.locks:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            except OSError:
                self.locks = False
        try:
            yield
        finally:
            if self.locks:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)


def _record(place: str, line: bytes) -> Mapping[str, Any]:
    try:
        if not line.startswith(START):
            raise ValueError
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise SweepError(f"{place}: {_FOREIGN}") from None
    assert isinstance(record, dict), "it begins with a brace"
    return record
