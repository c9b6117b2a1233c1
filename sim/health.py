"""What works on this machine, for `pipetwin doctor`: findings, and those of the simulator."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Status = Literal["ok", "info", "lost", "broken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at.

    status: `ok`; `info`, which is neither good nor bad; `lost`, where something optional does not
        work here; `broken`, where something needed does not.
    remedy: what to do about it; empty where there is nothing to do.
    """

    room: str
    what: str
    status: Status
    detail: str
    remedy: str = ""


PYTHON = (3, 11)
DISTRIBUTION = "pipetwin"
_LITTLE_SPACE = 1 << 30
_COARSE_NS = 1_000


def examine() -> Iterator[Finding]:
    """Look at Python, libraries, the engines, the catalogue, the clock, and folders to write to.

    Needs no torch; yields one finding after another, as they are found.
    """
    yield _python()
    yield from libraries()
    yield _guarded("engines", _engines)
    yield _guarded("catalogue", _catalogue)
    yield _clock()
    yield _temporary()
    yield _compiled_code()


def _guarded(what: str, look: Callable[[], Finding]) -> Finding:
    """What a look finds; that it ends in an error is a finding, too."""
    try:
        return look()
    except Exception as error:
        return Finding(
            room="simulator",
            what=what,
            status="broken",
            detail=f"{type(error).__name__}: {error}",
            remedy="install pipetwin anew, from its constraints.txt",
        )


def _python() -> Finding:
    here = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info >= PYTHON:
        return Finding(room="simulator", what="Python", status="ok", detail=here)
    needed = ".".join(map(str, PYTHON))
    return Finding(
        room="simulator",
        what="Python",
        status="broken",
        detail=f"{here}, older than {needed}",
        remedy=f"make an environment with Python {needed} or newer",
    )


def libraries() -> Iterator[Finding]:
    """The libraries that pipetwin names as needed, each with its version against the least one."""
    try:
        required = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            room="simulator",
            what=DISTRIBUTION,
            status="lost",
            detail="runs from its folder without being installed: versions are not checked",
            remedy="pip install -e . -c constraints.txt",
        )
        return
    for line in required:
        if ";" in line:  # Of an extra, which not everyone needs.
            continue
        yield library(line, "simulator", missing="broken")


def library(requirement: str, room: str, *, missing: Status) -> Finding:
    """A library, as `numpy>=1.26`, with its version; `missing` where it is not there or too old."""
    match = re.match(r"([A-Za-z0-9._-]+)(?:\[.*?\])?(?:>=([0-9.]+))?", requirement)
    assert match is not None
    name, least = match[1], match[2] or "0"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            room=room,
            what=name,
            status=missing,
            detail="is not installed",
            remedy=f"pip install '{requirement}'",
        )
    if _numbers(version) < _numbers(least):
        return Finding(
            room=room,
            what=name,
            status=missing,
            detail=f"{version}, older than {least}",
            remedy=f"pip install --upgrade '{requirement}'",
        )
    return Finding(room=room, what=name, status="ok", detail=version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def _engines() -> Finding:
    """The compiled engine against SimPy's, span for span, on a small interleaved schedule."""
    from scenarios.schema import GivenCosts, Plan, Scenario
    from sim.engine.choice import why_no_numba
    from sim.prediction import predict

    missing = why_no_numba()
    if missing is not None:
        return Finding(
            room="simulator",
            what="engines",
            status="lost",
            detail=f"SimPy alone: {missing}; large scenarios take 10 to 100 times longer",
            remedy="pip install numba (or another version of numpy that numba knows)",
        )
    plan = Plan(schedule="interleaved", pipeline=4, chunks=2, microbatches=8)
    costs = GivenCosts(forward=1_000, backward=2_000, send=100)
    scenario = Scenario(name="doctor", plan=plan, costs=costs)
    begun = time.perf_counter()
    slow = predict(scenario, engine="simpy").timeline.spans
    quick = predict(scenario, engine="compiled").timeline.spans
    took = time.perf_counter() - begun
    if sorted(slow, key=str) != sorted(quick, key=str):
        return Finding(
            room="simulator",
            what="engines",
            status="broken",
            detail="the compiled engine's spans differ from SimPy's",
            remedy="use --engine simpy, and delete the compiled code: find . -name '*.nb[ic]'",
        )
    return Finding(
        room="simulator",
        what="engines",
        status="ok",
        detail=f"compiled (numba) and SimPy give the same spans ({took:.1f} s, with loading)",
    )


def _catalogue() -> Finding:
    from scenarios.catalogue import catalogue
    from scenarios.checking import check_all

    names = [entry.name for entry in catalogue() if entry.kind != "table"]
    check_all(names, ())
    return Finding(
        room="simulator",
        what="catalogue",
        status="ok",
        detail=f"{len(names)} scenarios, models, clusters and devices load",
    )


def _clock() -> Finding:
    steps = []
    for _ in range(200):
        begun = time.monotonic_ns()
        while (now := time.monotonic_ns()) == begun:
            pass
        steps.append(now - begun)
    step = min(steps)
    coarse = step > _COARSE_NS
    return Finding(
        room="simulator",
        what="clock",
        status="lost" if coarse else "ok",
        detail=f"CLOCK_MONOTONIC is read in steps of {step} ns",
        remedy="measure passes much longer than this step" if coarse else "",
    )


def _temporary() -> Finding:
    folder = Path(tempfile.gettempdir())
    if not _writable(folder):
        return Finding(
            room="simulator",
            what="temporary files",
            status="broken",
            detail=f"{folder} cannot be written to",
            remedy="set TMPDIR to a folder that can",
        )
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    little = free < _LITTLE_SPACE
    return Finding(
        room="simulator",
        what="temporary files",
        status="lost" if little else "ok",
        detail=f"{free / 2**30:.1f} GiB free in {folder}",
        remedy="runs with a cache of activations need more: set TMPDIR" if little else "",
    )


def _compiled_code() -> Finding:
    """Where numba keeps machine code: beside the modules, or in the user's cache."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    beside = Path(__file__).parent / "engine" / "__pycache__"
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    for folder in (Path(chosen),) if chosen else (beside, cache):
        if _writable(folder):
            return Finding(
                room="simulator", what="compiled code", status="ok", detail=f"is kept in {folder}"
            )
    return Finding(
        room="simulator",
        what="compiled code",
        status="lost",
        detail="is kept nowhere: every process compiles the engine anew, some seconds",
        remedy="set NUMBA_CACHE_DIR to a folder that can be written to",
    )


def _writable(folder: Path) -> bool:
    """Whether a file can be made in a folder, or in the nearest one above where it is to be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def closed_form() -> Finding:
    """Simulate GPipe with given times, and hold the iteration against (m + p - 1) (f + b)."""
    from scenarios.schema import GivenCosts, Plan, Scenario
    from sim.prediction import predict

    stages, microbatches, forward, backward = 4, 8, 1_000_000, 2_000_000
    scenario = Scenario(
        name="doctor",
        plan=Plan(schedule="gpipe", pipeline=stages, microbatches=microbatches),
        costs=GivenCosts(forward=forward, backward=backward),
    )
    found = predict(scenario).iteration_ns
    wanted = (microbatches + stages - 1) * (forward + backward)
    return Finding(
        room="self-test",
        what="a simulation",
        status="ok" if found == wanted else "broken",
        detail=f"GPipe, 4 stages, 8 microbatches: {found / 1e6:g} ms, by hand {wanted / 1e6:g} ms",
        remedy="" if found == wanted else "install pipetwin anew, from its constraints.txt",
    )
