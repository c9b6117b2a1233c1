"""Files written whole or not at all, and never over an existing one unless told to."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, data: bytes | str, *, force: bool = False) -> None:
    """Write a file through a temporary one beside it.

    Raises FileExistsError where the file exists and `force` is not given; other OSErrors as they
    come, leaving neither a part of the file nor the temporary one.
    """
    check_writable(path, force=force)
    content = data.encode() if isinstance(data, str) else data
    handle, temporary = tempfile.mkstemp(dir=path.parent or ".", prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        if force:
            Path(temporary).replace(path)
        else:
            os.link(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def check_writable(path: Path, *, force: bool = False) -> None:
    """Raise FileExistsError or FileNotFoundError now rather than after long work."""
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists: choose another name, or pass --force to replace it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a directory: make it first")
