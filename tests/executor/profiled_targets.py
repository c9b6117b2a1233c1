"""What ranks run in the tests of imported traces; imported by the ranks' own processes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from executor.interpreter import IterationRecord
from executor.joining import RankContext
from executor.mesh import GroupMaker
from executor.session import Job
from executor.transport import make_transport


def own_model(context: RankContext, payload: Mapping[str, Any]) -> list[IterationRecord]:
    """Iterations of a scenario with its passes annotated as a user would, and profiled; what the
    interpreter recorded of the profiled ones.

    payload: scenario; folder, for a trace a rank; iterations, to be profiled.
    """
    scenario = payload["scenario"]
    transport = make_transport(
        scenario.execution.transport,
        rank=context.rank,
        num_ranks=context.num_ranks,
        store=context.store,
        device=context.device,
        deadline_s=60.0,
    )
    groups = GroupMaker(deadline_s=60.0)
    job = Job(scenario, context.rank, context.device, transport, groups=groups)
    context.watchdog.describe_with(job.interpreter.describe)
    for stage, runner in job.runners.items():
        for method, letter in (("forward", "F"), ("backward", "B")):
            setattr(runner, method, _named(getattr(runner, method), f"{stage}{letter}"))
    for optimizer in job.optimizers.values():
        optimizer.step = _in_range(optimizer.step, f"pipetwin:{context.rank}STEP")  # type: ignore[method-assign]
    path = Path(payload["folder"]) / f"rank{context.rank}.json.gz"
    records = []
    warmup, active = 2, payload["iterations"]
    with profile(
        activities=[ProfilerActivity.CPU],
        schedule=schedule(wait=0, warmup=warmup, active=active),
        on_trace_ready=lambda p: p.export_chrome_trace(str(path)),
    ) as profiler:
        for n in range(warmup + active):
            dist.barrier()
            records.append(job.interpreter.run_iteration(n))
            profiler.step()
    transport.close()
    return records[warmup:]


def _named(function: Callable[..., Any], prefix: str) -> Callable[..., Any]:
    def run(microbatch: int, slice_index: int, *args: Any, **kwargs: Any) -> Any:
        cut = f".{slice_index}" if slice_index else ""
        with record_function(f"pipetwin:{prefix}{microbatch}{cut}"):
            return function(microbatch, slice_index, *args, **kwargs)

    return run


def _in_range(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        with record_function(name):
            return function(*args)

    return run
