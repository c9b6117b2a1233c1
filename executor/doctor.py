"""What this machine can do, for `pipetwin doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_REQUIRED = ("numpy", "simpy", "pydantic", "ruamel.yaml", "cyclopts", "rich", "plotly", "jinja2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at: `ok`, `missing` (something is lost, and what) or `info`."""

    what: str
    status: Literal["ok", "missing", "info"]
    detail: str


def examine() -> tuple[Finding, ...]:
    """Look at Python, libraries, cores, memory, shared memory, torch, GPUs and the browser."""
    return (
        Finding(what="Python", status="ok", detail=platform.python_version()),
        *(_library(name) for name in _REQUIRED),
        _cores(),
        _memory(),
        _shared_memory(),
        *_torch(),
        _chromium(),
    )


def _library(name: str) -> Finding:
    try:
        return Finding(what=name, status="ok", detail=importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(what=name, status="missing", detail=f"pip install {name}")


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding(
        what="cores",
        status="info",
        detail=f"{usable}: scenarios with more ranks run, but are not to be calibrated from",
    )


def _memory() -> Finding:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return Finding(what="memory", status="info", detail="unknown")
    return Finding(what="memory", status="info", detail=f"{total / 2**30:.1f} GiB")


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding(
            what="shared memory",
            status="missing",
            detail="no /dev/shm: the mailbox transport uses files instead, slower",
        )
    free = shutil.disk_usage(folder).free
    return Finding(what="shared memory", status="ok", detail=f"{free / 2**30:.1f} GiB free")


def _torch() -> tuple[Finding, ...]:
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        missing = "not installed: simulate works; run and measure need `pip install torch`"
        return (Finding(what="torch", status="missing", detail=missing),)
    found = [Finding(what="torch", status="ok", detail=version)]
    import torch
    import torch.distributed as dist

    gloo, nccl = dist.is_gloo_available(), dist.is_nccl_available()
    backends = [name for name, there in (("gloo", gloo), ("nccl", nccl)) if there]
    found.append(
        Finding(
            what="torch.distributed",
            status="ok" if backends else "missing",
            detail=", ".join(backends) or "no backend: run needs gloo or nccl",
        )
    )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [torch.cuda.get_device_name(i) for i in range(count)]
    found.append(
        Finding(what="GPUs", status="info", detail=", ".join(names) or "none: run uses CPU cores")
    )
    return tuple(found)


def _chromium() -> Finding:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if (path := shutil.which(name)) is not None:
            return Finding(what="browser for tests", status="ok", detail=path)
    return Finding(
        what="browser for tests",
        status="info",
        detail="none: reports open in any browser, only their browser tests are skipped",
    )
