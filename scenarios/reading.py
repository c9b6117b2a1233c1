"""Text files of a bounded size, with every way to fail in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def read_text(
    path: Path,
    refuse: Callable[[str], Exception],
    *,
    max_bytes: int,
    too_large: str = "",
    no_text: str = "is not UTF-8 text",
) -> str:
    """The UTF-8 text of a file of at most `max_bytes`, without its byte-order mark.

    refuse: makes the error to raise where it cannot be read, is larger (the message then ends in
    `too_large`) or is no text (`no_text`).
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(max_bytes + 1)
    except OSError as error:
        raise refuse(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > max_bytes:
        raise refuse(f"{path}: is over {max_bytes >> 20} MiB{too_large}")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise refuse(f"{path}: {no_text}") from None
