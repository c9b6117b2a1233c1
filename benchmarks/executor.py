"""Our executor against torch.distributed.pipelining's own runtime: paired iteration times.

Two ranks on CPU, one thread and one pinned core each. Both sides run in the same processes, on
stages of the same weights, in the same order of passes, over gloo, and do a whole iteration each:
data, gradients set to zero, passes with loss and accumulation, optimizer step (SGD), mean loss.
They take turns iteration by iteration, and the figure is the median over the pairs of ours /
torch's. Turns in which other processes held up either by more than 5 % are left out, unless fewer
than 10 remain; all are counted. Before that, loss and gradients are compared and the executed
orders are checked to be equal. Our own shared-memory mailbox takes a third turn, for scale.

torch's side is as lean as its interface allows: static shapes, outputs not gathered, and the loss
divided by the number of microbatches instead of every gradient at the end.

Run on an otherwise idle machine: .venv/bin/python benchmarks/executor.py [--rounds 40]
The last line is one JSON object: for each schedule the ratio over gloo, and the details.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

# Run as a script, this file's own folder comes first, in which `executor` is this file.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
)

from executor.data import Data
from executor.joining import RankContext
from executor.launch import launch
from executor.pinning import DISTURBED, HeldUp
from executor.session import Job
from executor.transport import make_transport
from scenarios.loader import load
from scenarios.schema import Scenario
from sim.schedule.build import build_schedule

SCHEDULES: Mapping[str, tuple[str, ...]] = {
    "gpipe": ("plan.schedule=gpipe",),
    "1f1b": ("plan.schedule=1f1b",),
    "interleaved": ("plan.schedule=interleaved", "plan.chunks=2"),
}
SIZES: Mapping[str, tuple[str, ...]] = {
    "realistic": (),  # local-2rank's own: 8 layers, width 256, 128 tokens, 8 microbatches of 2.
    "small": ("model.layers=4", "model.hidden=64", "model.sequence=32"),
    "tiny": (
        *("model.layers=4", "model.hidden=32", "model.sequence=8"),
        *("plan.microbatches=4", "plan.precision=fp64"),
    ),
}
COMMON = ("plan.optimizer=sgd", "execution.deadline=60 s")
TOLERANCES = {"fp64": 1e-12, "fp32": 1e-5}
SIDES = ("torch", "gloo", "mailbox")
_WARMUP = 3
_FEWEST = 10
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One iteration on one rank: monotonic start and end, CPU time of all its threads (all
    nanoseconds), the share of it held up by other processes (None where the system does not tell),
    and the mean loss on the last rank."""

    begin_ns: int
    end_ns: int
    cpu_ns: int
    foreign: float | None
    loss: float | None


Turn = Sequence[Run]
"""One iteration of one side, a Run for each rank."""


class Side(Protocol):
    """One of the runtimes compared; `job` holds the stages it works on."""

    job: Job

    def iterate(self, iteration: int) -> float | None:
        """Run a whole iteration; the mean loss where this rank holds the last stage."""
        ...

    def executed(self, iteration: int) -> list[str]:
        """The same, and the passes in the order in which they ran."""
        ...


class Ours:
    """Our interpreter over one of our transports."""

    def __init__(self, scenario: Scenario, context: RankContext, transport: str) -> None:
        self.job = _job(scenario, context, transport)

    def iterate(self, iteration: int) -> float | None:
        """See Side."""
        return self.job.interpreter.run_iteration(iteration).loss

    def executed(self, iteration: int) -> list[str]:
        """See Side."""
        passes = {str(action) for order in self.job.interpreter.schedule.orders for action in order}
        records = self.job.interpreter.run_iteration(iteration).records
        return [r.action for r in records if r.lane == "compute" and r.action in passes]


class Torch:
    """torch's schedule class on the modules, gradients and optimizers of a job of ours."""

    def __init__(self, scenario: Scenario, context: RankContext) -> None:
        self.job = _job(scenario, context, "none")
        plan = scenario.plan
        self._data = Data(scenario)
        self._count = plan.num_microbatches
        group = dist.new_group(backend="gloo")
        self.stages = [
            self._stage(stage, plan.num_stages, group) for stage in sorted(self.job.runners)
        ]
        self._first, self._last = self.stages[0].is_first, self.stages[-1].is_last
        interleaved = plan.schedule == "interleaved"
        maker: Callable[..., Any] = {
            "gpipe": ScheduleGPipe,
            "1f1b": Schedule1F1B,
            "interleaved": ScheduleInterleaved1F1B,
        }[plan.schedule]
        self._schedule = maker(
            self.stages if interleaved else self.stages[0],
            self._count,
            loss_fn=self._loss,
            scale_grads=False,
        )

    def iterate(self, iteration: int) -> float | None:
        """See Side."""
        job, losses = self.job, list[Tensor]()
        inputs: tuple[Tensor, ...] = ()
        target = None
        if self._first or self._last:
            batches = [self._data.batch(iteration, 0, m) for m in range(self._count)]
            if self._first:
                inputs = (torch.cat([tokens for tokens, _ in batches]),)
            if self._last:
                target = torch.cat([targets for _, targets in batches])
        for runner in job.runners.values():
            runner.zero_grad()
        self._schedule.step(*inputs, target=target, losses=losses, return_outputs=False)
        for optimizer in job.optimizers.values():
            optimizer.step()
        return float(torch.stack(losses).detach().double().sum()) if losses else None

    def executed(self, iteration: int) -> list[str]:
        """See Side."""
        order: list[str] = []
        for stage in self.stages:
            for name, letter in (("forward_one_chunk", "F"), ("backward_one_chunk", "B")):
                told = partial(_tell, order, f"{stage.stage_index}{letter}", getattr(stage, name))
                setattr(stage, name, told)
        self.iterate(iteration)
        for stage in self.stages:
            del stage.forward_one_chunk, stage.backward_one_chunk
        return order

    def _loss(self, output: Tensor, targets: Tensor) -> Tensor:
        last = self.job.runners[self.stages[-1].stage_index]
        return last.module.loss(output, targets) / self._count

    def _stage(self, stage: int, num_stages: int, group: dist.ProcessGroup) -> PipelineStage:
        runner = self.job.runners[stage]
        activation = torch.zeros(
            runner.output_shape() or runner.input_shape(), dtype=runner.dtype, requires_grad=True
        )
        tokens = torch.zeros(runner.input_shape(), dtype=torch.int64)
        return PipelineStage(
            runner.module,
            stage,
            num_stages,
            runner.device,
            input_args=tokens if runner.part.embedding else activation,
            output_args=activation,
            group=group,
        )


def _job(scenario: Scenario, context: RankContext, transport: str) -> Job:
    made = make_transport(
        transport,  # type: ignore[arg-type]
        rank=context.rank,
        num_ranks=context.num_ranks,
        store=context.store,
        device=context.device,
        deadline_s=context.deadline_s,
    )
    return Job(scenario, context.rank, context.device, made)


def _tell(
    order: list[str], name: str, run: Callable[..., Any], chunk: int, *rest: Any, **named: Any
) -> Any:
    order.append(f"{name}{chunk}")
    return run(chunk, *rest, **named)


def rank_main(context: RankContext, payload: Mapping[str, Any]) -> dict[str, Any]:
    """What each rank runs: the checks, then `rounds` turns of every side.

    Gives back the largest relative difference of gradients, whether the orders are equal, and each
    iteration's Run by side.
    """
    scenario: Scenario = payload["scenario"]
    sides: dict[str, Side] = {
        "torch": Torch(scenario, context),
        "gloo": Ours(scenario, context, "gloo"),
        "mailbox": Ours(scenario, context, "mailbox"),
    }
    expected = [str(action) for action in build_schedule(scenario).orders[context.rank]]
    dist.barrier()
    orders = {name: side.executed(0) for name, side in sides.items()}
    gradients = {name: _gradients(side.job) for name, side in sides.items()}
    for iteration in range(1, _WARMUP):
        for side in sides.values():
            side.iterate(iteration)
    runs: dict[str, list[Run]] = {name: [] for name in SIDES}
    for turn in range(payload["rounds"]):
        # The two that count are next to each other, and each comes first as often.
        for name in SIDES if turn % 2 == 0 else (SIDES[1], SIDES[0], *SIDES[2:]):
            runs[name].append(_timed(partial(sides[name].iterate, _WARMUP + turn)))
    return {
        "orders_equal": all(order == expected for order in orders.values()),
        "gradient_difference": max(
            _difference(gradients["torch"], gradients[name]) for name in SIDES[1:]
        ),
        "weight_difference": max(
            _difference(_weights(sides["torch"].job), _weights(sides[name].job))
            for name in SIDES[1:]
        ),
        "runs": runs,
    }


def _timed(iterate: Callable[[], float | None]) -> Run:
    gc.collect()
    gc.disable()
    dist.barrier()
    held_up, cpu_ns = HeldUp(), time.process_time_ns()
    begin_ns = time.monotonic_ns()
    loss = iterate()
    end_ns = time.monotonic_ns()
    cpu_ns, foreign = time.process_time_ns() - cpu_ns, held_up.share()
    gc.enable()
    return Run(begin_ns=begin_ns, end_ns=end_ns, cpu_ns=cpu_ns, foreign=foreign, loss=loss)


def _gradients(job: Job) -> dict[str, Tensor]:
    return {n: g.clone() for r in job.runners.values() for n, g in r.gradients.items()}


def _weights(job: Job) -> dict[str, Tensor]:
    return {n: p.detach() for r in job.runners.values() for n, p in r.parameters.items()}


def _difference(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """The largest difference of any tensor, as a fraction of the tensor's largest entry."""
    assert left.keys() == right.keys()
    worst = 0.0
    for name, tensor in left.items():
        scale = float(tensor.abs().max()) or 1.0
        found = float((tensor - right[name]).abs().max()) / scale
        worst = max(worst, found) if found == found else float("inf")
    return worst


def compare(scenario: Scenario, rounds: int) -> dict[str, Any]:
    """Run both sides on two new ranks; ratios, times and differences.

    Raises RuntimeError where the sides do not run the same order or do not agree in numbers.
    """
    payload = {"scenario": scenario, "rounds": rounds}
    ranks = launch(
        2, "benchmarks.executor:rank_main", payload, deadline_s=1800.0, wait_s=60.0, pin=True
    )
    if not all(rank["orders_equal"] for rank in ranks):
        raise RuntimeError(f"{scenario.plan.schedule}: the order executed is not the schedule's")
    runs = {name: list(zip(*(rank["runs"][name] for rank in ranks), strict=True)) for name in SIDES}
    losses = {
        name: [run.loss for turn in runs[name] for run in turn if run.loss is not None]
        for name in SIDES
    }
    differences = {
        "gradients": max(rank["gradient_difference"] for rank in ranks),
        "weights at the end": max(rank["weight_difference"] for rank in ranks),
        "losses": max(
            abs(a - b) / abs(a)
            for name in SIDES[1:]
            for a, b in zip(losses["torch"], losses[name], strict=True)
        ),
    }
    limit = TOLERANCES[scenario.plan.precision]
    for what, difference in differences.items():
        if not difference <= limit:
            raise RuntimeError(
                f"{scenario.plan.schedule}: {what} differ by {difference:.2g}, above {limit:g}"
            )
    found: dict[str, Any] = {"turns": rounds, "differences": differences}
    for name in SIDES[1:]:
        found[name] = _paired(runs[name], runs["torch"])
    return found


def _paired(ours: Sequence[Turn], theirs: Sequence[Turn]) -> dict[str, Any]:
    """The figures of one of our transports against torch's runtime, turn by turn."""
    turns = list(zip(ours, theirs, strict=True))
    quiet = [turn for turn in turns if not any(_disturbed(run) for side in turn for run in side)]
    kept = quiet if len(quiet) >= _FEWEST else turns
    walls = [tuple(map(_wall_s, turn)) for turn in kept]
    cpus = [tuple(sum(run.cpu_ns for run in side) * 1e-9 for side in turn) for turn in kept]
    ratios = [a / b for a, b in walls]
    return {
        "ratio": statistics.median(ratios),
        "interval": bootstrap(ratios),
        "cpu_ratio": statistics.median(a / b for a, b in cpus),
        "pairs": len(kept),
        "pairs_disturbed": len(turns) - len(quiet),
        "median_s": statistics.median(a for a, _ in walls),
        "torch_median_s": statistics.median(b for _, b in walls),
        "median_cpu_s": statistics.median(a for a, _ in cpus),
        "torch_median_cpu_s": statistics.median(b for _, b in cpus),
    }


def _wall_s(turn: Turn) -> float:
    return (max(run.end_ns for run in turn) - min(run.begin_ns for run in turn)) * 1e-9


def _disturbed(run: Run) -> bool:
    return (run.foreign or 0.0) > DISTURBED


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median, from resamples with a fixed seed."""
    generator = random.Random(0)
    medians = sorted(
        statistics.median(generator.choices(values, k=len(values))) for _ in range(_RESAMPLES)
    )
    return medians[round(0.025 * _RESAMPLES)], medians[round(0.975 * _RESAMPLES) - 1]


def _row(size: str, schedule: str, found: Mapping[str, Any]) -> str:
    gloo, mailbox = found["gloo"], found["mailbox"]
    low, high = gloo["interval"]
    return (
        f"{size:10} {schedule:12} {gloo['pairs']:5} {gloo['pairs_disturbed']:9} "
        f"{gloo['torch_median_s'] * 1e3:10.2f} {gloo['median_s'] * 1e3:10.2f} "
        f"{gloo['ratio']:7.4f} [{low:.4f}, {high:.4f}] {gloo['cpu_ratio']:9.4f} "
        f"{mailbox['ratio']:8.4f} {found['differences']['gradients']:10.1e}\n"
    )


def main() -> None:
    """Compare every size and schedule asked for; print a table, and JSON as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=40, help="pairs of each, at the first size")
    parser.add_argument("--sizes", default="realistic,small", help=", ".join(SIZES))
    parser.add_argument("--schedules", default=",".join(SCHEDULES), help=", ".join(SCHEDULES))
    options = parser.parse_args()
    sizes = options.sizes.split(",")
    sys.stdout.write(
        f"{'size':10} {'schedule':12} {'pairs':>5} {'disturbed':>9} {'torch ms':>10} "
        f"{'ours ms':>10} {'ratio':>7} {'95 % interval':16} "
        f"{'CPU ratio':>9} {'mailbox':>8} {'gradients':>10}\n"
    )
    result: dict[str, Any] = {}
    for size in sizes:
        rows = result if size == sizes[0] else result.setdefault(size, {})
        for schedule in options.schedules.split(","):
            overrides = (*COMMON, *SIZES[size], *SCHEDULES[schedule])
            # Iterations of the other sizes are short, so more of them.
            rounds = options.rounds if size == sizes[0] else 4 * options.rounds
            found = compare(load("local-2rank", overrides).scenario, rounds)
            sys.stdout.write(_row(size, schedule, found))
            sys.stdout.flush()
            rows[schedule] = found["gloo"]["ratio"]
            rows.setdefault("details", {})[schedule] = found
    sys.stdout.write(json.dumps({"size": sizes[0], **result}) + "\n")


if __name__ == "__main__":
    main()
