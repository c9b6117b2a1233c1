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
    """Raise now rather than after long work: FileExistsError, FileNotFoundError, PermissionError,
    IsADirectoryError (also for devices and pipes, which are never replaced)."""
    if path.exists() and not path.is_file():
        what = "a directory" if path.is_dir() else "no file but a device or a pipe"
        raise IsADirectoryError(f"{path} is {what}: choose another name")
    if os.path.lexists(path) and not force:
        raise FileExistsError(f"{path} exists: choose another name, or pass --force to replace it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a directory: make it first")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path.parent} cannot be written to: choose another directory")
