"""A session: local ranks that build several scenarios once and run them in turn.

Calibration and judged runs alternate in one session, on the same warm processes, so that they see
the same machine. `run_visits` runs in every rank; `executor.assembly` turns what the ranks recorded
into measurements.
"""

from __future__ import annotations

import gc
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from executor.clocks import ClockMap, ClockOffset
from executor.data import CachedData, Data, Source
from executor.interpreter import Interpreter, IterationRecord
from executor.joining import PROGRESS_KEY, STOP_KEY, RankContext
from executor.marks import make_marks
from executor.mesh import GroupMaker, Mesh
from executor.model import StageModule
from executor.optimizer import Optimizer, loss_scale
from executor.reductions import Reductions
from executor.sharded import ReplicaGroup
from executor.stages import StageRunner
from executor.tensor_parallel import TensorGroup
from executor.transport import Transport, make_transport
from executor.transport.scattering import ScatteringTransport
from scenarios.schema import Plan, Scenario
from sim.schedule.actions import Kind
from sim.schedule.build import build_program, build_schedule
from sim.schedule.lowering import message_orders
from sim.workload.partition import partition


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """Some iterations of one of the session's scenarios: `warmup` unmeasured, then `iterations`."""

    job: int
    warmup: int
    iterations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What a session runs: its scenarios (all with as many ranks), and the visits to them.

    keep_tensors: give back gradients of the last iteration and the weights after it.
    """

    scenarios: tuple[Scenario, ...]
    visits: tuple[Visit, ...]
    keep_tensors: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RankResult:
    """What one rank gives back: the iterations of every visit, its peak memory per job, and, where
    asked, gradients (averaged over replicas) and weights by parameter name: of what a tensor group
    shares, its own share."""

    rank: int
    visits: tuple[tuple[IterationRecord, ...], ...]
    peak_memory: tuple[int | None, ...]
    environment: Mapping[str, object]
    interrupted: bool = False
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    def on_clock(self, before: ClockOffset, after: ClockOffset) -> RankResult:
        """The same on rank 0's clock. (A message's `start_ns` is its sender's, and stays.)"""
        environment = {**self.environment}
        clock = ClockMap(before=before, after=after)
        environment["clock_uncertainty_ns"] = clock.uncertainty_ns
        visits = self.visits
        if before.offset_ns or after.offset_ns:
            visits = tuple(
                tuple(iteration.moved(clock.to_reference_ns) for iteration in visit)
                for visit in visits
            )
        return replace(self, visits=visits, environment=environment)


class Job:
    """One scenario built on one world rank: stages, optimizers, transport, interpreter."""

    def __init__(
        self,
        scenario: Scenario,
        rank: int,
        device: torch.device,
        transport: Transport,
        *,
        groups: GroupMaker | None = None,
        keep_gradients: bool = False,
        data: Source | None = None,
        read_at_pass: bool = False,
    ) -> None:
        """groups: the session's, where it has several jobs; all ranks build theirs together.

        data: Python's sources unless given; behind the plan's cached layers, which are then run
        before each iteration, so that reading them takes no time. read_at_pass: as the
        interpreter's.
        """
        self.scenario, plan = scenario, scenario.plan
        program = build_program(scenario)
        schedule = program.schedule
        mesh = Mesh.of(plan)
        place = mesh.places[rank]
        deadline_s = scenario.execution.deadline / 1e9
        own = (groups or GroupMaker(deadline_s=deadline_s)).groups(
            plan,
            mesh,
            rank,
            _holders_of_tied(scenario, schedule.placement),
            messages=scenario.execution.transport != "none",
        )
        tensor = TensorGroup(
            rank=place.tensor,
            size=plan.tensor,
            group=own.tensor,
            sequence=plan.sequence_parallel and plan.tensor > 1,
        )
        if plan.scatter_gather and own.tensor is not None and not tensor.sequence:
            transport = ScatteringTransport(transport, tensor)
        replicas = None
        if plan.sharding == "full":
            replicas = ReplicaGroup(rank=place.data, size=plan.data, group=own.data)
        parts = partition(scenario, schedule.num_stages)
        split = any(a.kind is Kind.BACKWARD_INPUT for order in schedule.orders for a in order)
        self.runners = {
            stage: StageRunner(
                StageModule(scenario, parts[stage], device=device, tensor=tensor),
                scenario,
                parts[stage],
                split_backward=split,
                replicas=replicas,
            )
            for stage in schedule.stages_of(place.pipeline)
        }
        reductions = Reductions(plan, self.runners, own, tensor, place.data)
        self.optimizers = {
            stage: Optimizer(
                scenario, *reductions.owned(stage), uncounted=_counted_elsewhere(runner, tensor)
            )
            for stage, runner in self.runners.items()
        }
        if data is None:
            data = Data(scenario, device=device)
            if plan.cached_layers and 0 in self.runners:
                data = CachedData(data, self.runners[0].module, plan.cached_layers)
        self.interpreter = Interpreter(
            program=program,
            place=place,
            line=mesh.along(rank, "pipeline"),
            runners=self.runners,
            optimizers=self.optimizers,
            transport=transport,
            reductions=reductions,
            data=data,
            marks=make_marks(device),
            deadline_s=deadline_s,
            read_at_pass=read_at_pass,
            keep_gradients=keep_gradients,
        )
        self.iteration = 0

    def close(self) -> None:
        """Run no more: weights, gradients and the optimizer's state go with the last that refers to
        the job, and need no garbage collection."""
        self.interpreter.close()
        for runner in self.runners.values():
            runner.close()


def _holders_of_tied(scenario: Scenario, placement: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """The pipeline ranks whose stages hold a copy each of the token weights; none where untied."""
    assert scenario.model is not None
    if not scenario.model.shares_table or len(placement[0]) == 1:
        return ()
    return tuple(sorted({ranks[end] for ranks in placement for end in (0, -1)}))


def _counted_elsewhere(runner: StageRunner, tensor: TensorGroup) -> frozenset[str]:
    """The parameters that the gradient norm counts on another rank or stage."""
    copied = runner.module.copied_name
    found = frozenset() if copied is None else frozenset({copied})
    return found if tensor.rank == 0 else found | runner.replicated


def transport_of(
    scenario: Scenario, context: RankContext, ranks: Sequence[int] | None = None
) -> Transport:
    """What carries a scenario's messages; all ranks of the world make theirs together.

    ranks: the world's rank of each that the scenario counts; the same number unless given.
    """
    pairs = Mesh.of(scenario.plan).world_pairs(message_orders(build_schedule(scenario)))
    if ranks is not None:
        pairs = tuple((ranks[a], ranks[b]) for a, b in pairs)
    return make_transport(
        scenario.execution.transport,
        rank=context.rank,
        num_ranks=context.num_ranks,
        store=context.store,
        device=context.device,
        deadline_s=scenario.execution.deadline / 1e9,
        pairs=pairs,
    )


def run_visits(assignment: Assignment, context: RankContext) -> RankResult:
    """Build every job and run the visits, all ranks together."""
    rank, device = context.rank, context.device
    jobs: dict[int, Job] = {}
    peaks: dict[int, int | None] = {}
    visits = []
    transports = []
    longest = max(scenario.execution.deadline for scenario in assignment.scenarios)
    groups = GroupMaker(deadline_s=longest / 1e9)
    turns = _Turns(assignment, context)
    for visit in assignment.visits:
        if turns.stopped:
            break
        if visit.job not in jobs:
            scenario = assignment.scenarios[visit.job]
            if not jobs:
                _touch_libraries(scenario, device)
            baseline = _reset_peak(device)
            transport = transport_of(scenario, context)
            transports.append(transport)
            jobs[visit.job] = Job(
                scenario,
                rank,
                device,
                transport,
                groups=groups,
                keep_gradients=assignment.keep_tensors and visit.job == assignment.visits[-1].job,
            )
        job = jobs[visit.job]
        context.watchdog.describe_with(job.interpreter.describe)
        visits.append(_run_visit(job, visit, turns))
        if visit.job not in peaks:
            # On the host, later jobs reuse what the allocator kept of earlier ones' memory, so that
            # only the first one's peak is its own.
            own = device.type == "cuda" or not peaks
            peaks[visit.job] = _peak(device, baseline) if own else None
    gradients: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    if assignment.keep_tensors and not turns.stopped:
        gradients, weights = _tensors(jobs[assignment.visits[-1].job])
    environment = {"transport": type(transports[-1]).__name__ if transports else "none"}
    for transport in transports:
        transport.close()
    return RankResult(
        rank=rank,
        visits=tuple(visits),
        peak_memory=tuple(peaks[j] for j in sorted(peaks)),
        environment=environment,
        interrupted=turns.stopped,
        gradients=gradients,
        weights=weights,
    )


class _Turns:
    """Starts every iteration on all ranks together, or stops them all; tells how far it is."""

    def __init__(self, assignment: Assignment, context: RankContext) -> None:
        self.context = context
        self.total = sum(v.warmup + v.iterations for v in assignment.visits)
        self.done = 0
        self.stopped = False

    def next(self, name: str) -> bool:
        """Meet the other ranks; False where the launcher was interrupted."""
        context, stop = self.context, 0.0
        if context.rank == 0:
            context.store.set(PROGRESS_KEY, f"{name}: iteration {self.done} of {self.total} ...")
            stop = float(context.store.check([STOP_KEY]))
        if context.num_ranks > 1:
            flag = torch.tensor([stop], device=context.device)
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
            stop = float(flag.item())
        self.done += 1
        self.stopped = bool(stop)
        return not self.stopped


def _run_visit(job: Job, visit: Visit, turns: _Turns) -> tuple[IterationRecord, ...]:
    records = []
    for n in range(visit.warmup + visit.iterations):
        gc.collect()
        gc.disable()
        try:
            if not turns.next(job.scenario.name):
                break
            record = job.interpreter.run_iteration(job.iteration)
        finally:
            gc.enable()
        job.iteration += 1
        if n >= visit.warmup:
            records.append(record)
    return tuple(records)


def _tensors(job: Job) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of the last iteration (unscaled, before clipping) and weights, by name."""
    scale = loss_scale(job.scenario.plan)
    gradients = {name: g / scale for name, g in job.interpreter.kept.items()}
    return gradients, job.interpreter.reductions.whole_weights()


def _touch_libraries(scenario: Scenario, device: torch.device) -> None:
    """Run the passes of a tiny model once, so that the libraries' own memory, paged in at first
    use, is held before the peak is measured."""
    assert scenario.model is not None
    model = replace(
        scenario.model, layers=1, hidden=64, heads=2, ffn_hidden=64, sequence=8, patch_inputs=8
    )
    plan = Plan(
        micro_batch=1,
        microbatches=1,
        precision=scenario.plan.precision,
        gradient_precision=scenario.plan.gradient_precision,
        optimizer=scenario.plan.optimizer,
        recomputation=scenario.plan.recomputation,
    )
    tiny = replace(scenario, model=model, plan=plan)
    part = partition(tiny)[0]
    runner = StageRunner(StageModule(tiny, part, device=device), tiny, part)
    optimizer = Optimizer(tiny, runner.parameters, runner.gradients)
    tokens, targets = Data(tiny, device=device).batch(0, 0, 0)
    runner.forward(0, 0, tokens, targets)
    runner.backward(0, 0, None)
    optimizer.step()


def _reset_peak(device: torch.device) -> int:
    """Start measuring a peak; returns what is held now, in bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return -1
    return _status("VmRSS")


def _peak(device: torch.device, baseline: int) -> int | None:
    """Bytes at the peak since `_reset_peak`, beyond what was held then; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) - baseline
    if baseline < 0:
        return None
    return max(0, _status("VmHWM") - baseline)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def double_precision(scenario: Scenario) -> Scenario:
    """The scenario in float64, for the check against the reference."""
    plan = replace(scenario.plan, precision="fp64", gradient_precision=None, master_weights=None)
    return replace(scenario, plan=plan)
