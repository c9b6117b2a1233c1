"""What of the executor works on this machine, for `pipetwin doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from sim.health import Finding, Status, library

_LITTLE_SHARED = 64 << 20
"""Bytes of /dev/shm below which mailboxes of a few ranks do not fit (Docker gives 64 MiB)."""
_FEW = 2
_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
TINY = (
    "model.layers=2",
    "model.hidden=32",
    "model.heads=2",
    "model.sequence=32",
    "model.vocabulary=64",
    "plan.microbatches=3",
    "execution.iterations=3",
    "execution.warmup=1",
)
"""What makes `local-2rank` a run of about a second, beside the start of its processes."""


def _found(
    what: str, status: Status, detail: str, remedy: str = "", room: str = "executor"
) -> Finding:
    return Finding(room=room, what=what, status=status, detail=detail, remedy=remedy)


def examine() -> Iterator[Finding]:
    """Look at torch, its backends, GPUs, cores, memory, ports, launchers, and the browser."""
    yield from _torch()
    yield _cores()
    yield _memory()
    yield _shared_memory()
    yield _ports()
    yield _launcher()
    yield library("scikit-learn>=1.4", "executor", missing="info")
    yield _chromium()


def _torch() -> Iterator[Finding]:
    found = library("torch>=2.6", "executor", missing="lost")
    if found.status != "ok":
        yield _found(
            "torch",
            "lost",
            f"{found.detail}: simulate, plan and sweep work; run and measure do not",
            "pip install torch",
        )
        return
    try:
        import torch
        import torch.distributed as dist
    except Exception as error:
        yield _found(
            "torch",
            "broken",
            f"{found.detail}, but cannot be imported: {error}",
            "install torch anew, for this Python and these drivers",
        )
        return
    yield _found("torch", "ok", f"{found.detail}, {torch.get_num_threads()} threads")
    if not dist.is_available() or not dist.is_gloo_available():
        detail = "no gloo: run starts no processes of this machine"
        yield _found("torch.distributed", "broken", detail, "install a torch wheel of pytorch.org")
    else:
        nccl = ", nccl" if dist.is_nccl_available() else ""
        yield _found("torch.distributed", "ok", f"gloo{nccl}")
    if not torch.cuda.is_available():
        yield _found("GPUs", "info", _no_gpu(torch.version.cuda))
        return
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    half = "with bf16" if torch.cuda.is_bf16_supported() else "without bf16: use fp16"
    counted = "; ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    yield _found("GPUs", "ok", f"{counted}, CUDA {torch.version.cuda}, {half}")
    if not dist.is_nccl_available():
        detail = "GPUs without NCCL: their messages go through gloo, slowly"
        yield _found("NCCL", "lost", detail, "install a torch wheel with CUDA")


def _no_gpu(cuda: str | None) -> str:
    if shutil.which("nvidia-smi") is None:
        return "none: run uses CPU cores"
    if cuda is None:
        return "torch is built without CUDA, though nvidia-smi is here: run uses CPU cores"
    return f"torch (CUDA {cuda}) sees none, though nvidia-smi is here: is the driver older?"


def _cores() -> Finding:
    everywhere = os.cpu_count() or 1
    if not hasattr(os, "sched_getaffinity"):
        detail = f"{everywhere}; this system cannot pin ranks to them"
        return _found("cores", "lost", detail, "measure on Linux, where ranks are pinned")
    before = os.sched_getaffinity(0)
    mine = len(before)
    try:
        os.sched_setaffinity(0, before)
    except OSError as error:
        detail = f"{mine}, but ranks cannot be pinned to them: {error.strerror}"
        return _found("cores", "lost", detail, "allow sched_setaffinity, and measure then")
    of = "" if mine == everywhere else f" of {everywhere}"
    detail = f"{mine}{of}, and ranks are pinned; more ranks than that run, but share them"
    if mine < _FEW:
        return _found("cores", "lost", detail, "measure with a core for every rank")
    return _found("cores", "ok", detail)


def _memory() -> Finding:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return _found("memory", "info", "unknown")
    return _found("memory", "info", f"{total / 2**30:.1f} GiB")


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return _found(
            "shared memory",
            "lost",
            "no /dev/shm to write to: the mailbox transport uses files instead, slower",
            "mount a tmpfs at /dev/shm, or use --set execution.transport=gloo",
        )
    free = shutil.disk_usage(folder).free
    little = free <= _LITTLE_SHARED
    return _found(
        "shared memory",
        "lost" if little else "ok",
        f"{free / 2**30:.1f} GiB free in /dev/shm",
        "start the container with more, as --shm-size=1g" if little else "",
    )


def _ports() -> Finding:
    """A listener on 127.0.0.1, and a connection to it, as ranks of one machine make them."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                return _found("ports", "ok", "ranks can listen and connect on 127.0.0.1")
    except OSError as error:
        detail = f"no connection on 127.0.0.1: {error.strerror or error}"
        return _found("ports", "broken", detail, "allow connections on the loopback interface")


def _launcher() -> Finding:
    if "TORCHELASTIC_RUN_ID" in os.environ or {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        missing = [name for name in _LAUNCHED if name not in os.environ]
        if not missing:
            of = f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}"
            return _found("launcher", "ok", f"torchrun's environment: this process is {of}")
        detail = f"an environment as torchrun's, without {', '.join(missing)}"
        return _found("launcher", "lost", detail, "start with torchrun, or unset the others")
    if "SLURM_JOB_ID" in os.environ:
        detail = f"Slurm's job {os.environ['SLURM_JOB_ID']}, without torchrun's environment"
        remedy = "on several nodes: srun torchrun --nnodes ... $(which pipetwin) run ..."
        return _found("launcher", "info", detail, remedy)
    return _found("launcher", "info", "none: run starts the ranks itself, on this machine")


def _chromium() -> Finding:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if (path := shutil.which(name)) is not None:
            return _found("browser for tests", "ok", path)
    detail = "none: reports open in any browser, only their browser tests are skipped"
    return _found("browser for tests", "info", detail)


def tiny_run() -> Finding:
    """Run two ranks of a very small model for real, and hold them against a single process."""
    try:
        importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return _found("a run", "lost", "needs torch", "pip install torch", "self-test")
    from executor.commands import run_scenario
    from scenarios.loader import load

    try:
        result = run_scenario(load("local-2rank", TINY).scenario, check=True)
    except Exception as error:
        remedy = "mend what is broken above; `pipetwin run local-2rank` tells more"
        detail = f"{type(error).__name__}: {error}"
        return _found("a run", "broken", detail, remedy, "self-test")
    assert result is not None and result.check is not None
    took = result.measurement.iteration_ns / 1e6
    detail = f"two ranks, {took:.1f} ms an iteration (measured); {result.check}"
    status: Status = "ok" if result.check.passed else "broken"
    return _found("a run", status, detail, "", "self-test")
