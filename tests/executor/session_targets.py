"""What ranks run in the tests of sessions; imported by the ranks' own processes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from executor.data import Data
from executor.joining import RankContext
from executor.mesh import GroupMaker
from executor.model import StageModule
from executor.session import Job
from executor.transport import make_transport
from executor.transport.wrappers import CheckingTransport, DelayingTransport, FailingTransport
from sim.workload.partition import partition


def wrapped(context: RankContext, payload: Mapping[str, Any]) -> list[tuple[float | None, Any]]:
    """Iterations over a wrapped transport: per seed, the loss and the gradients of one iteration.

    payload: scenario; seeds (of delays and checks); or rank, at_message and how of a failure.
    """
    scenario = payload["scenario"]
    groups = GroupMaker(deadline_s=30.0)
    found = []
    for seed in payload.get("seeds", [0]):
        transport = make_transport(
            scenario.execution.transport,
            rank=context.rank,
            num_ranks=context.num_ranks,
            store=context.store,
            device=context.device,
            deadline_s=30.0,
        )
        if "how" in payload and payload["rank"] == context.rank:
            transport = FailingTransport(
                transport, at_message=payload["at_message"], how=payload["how"]
            )
        if "seeds" in payload:
            transport = CheckingTransport(
                DelayingTransport(transport, seed=seed, rank=context.rank, longest_s=0.003)
            )
        job = Job(
            scenario, context.rank, context.device, transport, groups=groups, keep_gradients=True
        )
        context.watchdog.describe_with(job.interpreter.describe)
        dist.barrier()
        record = job.interpreter.run_iteration(0)
        found.append((record.loss, job.interpreter.kept))
        transport.close()
    return found


def torch_runtime(context: RankContext, payload: Mapping[str, Any]) -> dict[str, Tensor]:
    """The gradients that torch.distributed.pipelining's own runtime makes of our exported order."""
    from torch.distributed.pipelining import PipelineStage
    from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime

    scenario = payload["scenario"]
    assert scenario.model is not None
    plan = scenario.plan
    module = StageModule(scenario, partition(scenario)[context.rank])
    batches = [Data(scenario).batch(0, 0, m) for m in range(plan.num_microbatches)]
    tokens = torch.cat([b[0] for b in batches])
    targets = torch.cat([b[1] for b in batches])
    activation = torch.zeros(
        plan.micro_batch, scenario.model.sequence, scenario.model.hidden, dtype=torch.float64
    )
    first, last = context.rank == 0, context.rank == context.num_ranks - 1
    stage = PipelineStage(
        module,
        context.rank,
        context.num_ranks,
        context.device,
        input_args=batches[0][0] if first else activation.clone().requires_grad_(),
        output_args=activation.clone().requires_grad_(),
    )
    runtime = _PipelineScheduleRuntime([stage], plan.num_microbatches, loss_fn=module.loss)
    runtime._load_csv(Path(payload["csv"]), format=payload["format"])
    if first:
        runtime.step(tokens)
    else:
        runtime.step(target=targets) if last else runtime.step()
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
