"""A session: local ranks that build several scenarios once and run them in turn.

Calibration and judged runs alternate in one session, on the same warm processes, so that they see
the same machine. `rank_main` runs in every rank; `assemble` turns what the ranks recorded into
measurements.
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
from executor.data import Data
from executor.interpreter import Groups, Interpreter, IterationRecord, Record
from executor.joining import PROGRESS_KEY, STOP_KEY, RankContext
from executor.marks import make_marks
from executor.model import StageModule
from executor.optimizer import Optimizer, loss_scale
from executor.stages import StageRunner
from executor.transport import Transport, make_transport
from scenarios.schema import Scenario
from sim.measurement import Measurement
from sim.schedule.actions import RECEIVES, SENDS, Action, Kind, parse_action
from sim.schedule.build import build_program, build_schedule
from sim.schedule.lowering import message_orders, partner, peer, tied_ranks
from sim.schedule.schedule import Schedule
from sim.timeline.spans import Lane, Span, Timeline
from sim.workload.partition import partition

_DISTURBED = 0.05


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
    asked, gradients and weights by parameter name."""

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
    """One scenario built on one rank: stages, optimizers, transport, interpreter."""

    def __init__(
        self,
        scenario: Scenario,
        rank: int,
        device: torch.device,
        transport: Transport,
        *,
        keep_gradients: bool = False,
    ) -> None:
        self.scenario = scenario
        program = build_program(scenario)
        stages = program.schedule.stages_of(rank)
        parts = partition(scenario, program.schedule.num_stages)
        split = any(
            a.kind is Kind.BACKWARD_INPUT for order in program.schedule.orders for a in order
        )
        self.runners = {
            stage: StageRunner(
                StageModule(scenario, parts[stage], device=device),
                scenario,
                parts[stage],
                split_backward=split,
            )
            for stage in stages
        }
        self.optimizers = {
            stage: Optimizer(
                scenario, runner.parameters, runner.gradients, copied=runner.module.copied_name
            )
            for stage, runner in self.runners.items()
        }
        self.interpreter = Interpreter(
            program=program,
            rank=rank,
            runners=self.runners,
            optimizers=self.optimizers,
            transport=transport,
            groups=_groups(
                program.num_ranks,
                tied_ranks(program.schedule),
                scenario.execution.transport,
            ),
            data=Data(scenario, device=device),
            marks=make_marks(device),
            deadline_s=scenario.execution.deadline / 1e9,
            keep_gradients=keep_gradients,
        )
        self.iteration = 0


def _groups(num_ranks: int, tied: tuple[int, ...], transport: str) -> Groups:
    if num_ranks == 1 or transport == "none" or not dist.is_initialized():
        return Groups()
    return Groups(everyone=dist.group.WORLD, tied=dist.new_group(list(tied)) if tied else None)


def run_visits(assignment: Assignment, context: RankContext) -> RankResult:
    """Build every job and run the visits, all ranks together."""
    rank, num_ranks, device = context.rank, context.num_ranks, context.device
    jobs: dict[int, Job] = {}
    peaks: dict[int, int | None] = {}
    visits = []
    transports = []
    turns = _Turns(assignment, context)
    for visit in assignment.visits:
        if turns.stopped:
            break
        if visit.job not in jobs:
            scenario = assignment.scenarios[visit.job]
            if not jobs:
                _touch_libraries(scenario, device)
            baseline = _reset_peak(device)
            transport = make_transport(
                scenario.execution.transport,
                rank=rank,
                num_ranks=num_ranks,
                store=context.store,
                device=device,
                deadline_s=scenario.execution.deadline / 1e9,
                pairs=tuple(message_orders(build_schedule(scenario))),
            )
            transports.append(transport)
            jobs[visit.job] = Job(
                scenario,
                rank,
                device,
                transport,
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
    weights = {
        name: parameter.detach().cpu().clone()
        for runner in job.runners.values()
        for name, parameter in runner.parameters.items()
    }
    return gradients, weights


def _touch_libraries(scenario: Scenario, device: torch.device) -> None:
    """Run the passes of a tiny model once, so that the libraries' own memory, paged in at first
    use, is held before the peak is measured."""
    assert scenario.model is not None
    model = replace(
        scenario.model, layers=1, hidden=64, heads=2, ffn_hidden=64, sequence=8, patch_inputs=8
    )
    plan = replace(scenario.plan, pipeline=1, microbatches=1, layers_per_stage=None, micro_batch=1)
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


def assemble(
    assignment: Assignment, results: Sequence[RankResult], environment: Mapping[str, object]
) -> tuple[Measurement, ...]:
    """One measurement per visit that finished an iteration, from what all ranks recorded."""
    ordered = sorted(results, key=lambda r: r.rank)
    measurements = []
    for v, visit in enumerate(assignment.visits[: len(ordered[0].visits)]):
        if not ordered[0].visits[v]:
            continue
        scenario = assignment.scenarios[visit.job]
        schedule = build_schedule(scenario)
        timelines, disturbed, losses = [], [], []
        for n in range(len(ordered[0].visits[v])):
            records = [r.visits[v][n] for r in ordered]
            timelines.append(timeline_of(schedule, records))
            disturbed.append(any((r.foreign or 0.0) > _DISTURBED for r in records))
            losses += [r.loss for r in records if r.loss is not None]
        measurements.append(
            Measurement(
                scenario=scenario,
                timelines=tuple(timelines),
                disturbed=tuple(disturbed),
                losses=tuple(losses),
                peak_memory_bytes=tuple(r.peak_memory[visit.job] for r in ordered),
                environment=environment,
            )
        )
    return tuple(measurements)


def timeline_of(schedule: Schedule, ranks: Sequence[IterationRecord]) -> Timeline:
    """One iteration's timeline from every rank's record, from time 0.

    A message is on its way from when its sender had written it (or had posted it, where the
    carrier does not tell) until its receiver had it; one that was there before anyone waited is
    given no time.
    """
    begin = min(r.start_ns for rank in ranks for r in rank.records if r.start_ns is not None)
    posted: dict[Action, int] = {}
    spans: list[Span] = []
    arrivals: list[tuple[int, Record, Action]] = []
    for rank, iteration in enumerate(ranks):
        for record in iteration.records:
            action = parse_action(record.action)
            lane: Lane = record.lane  # type: ignore[assignment]
            if lane in ("forward", "backward"):
                arrivals.append((rank, record, action))
                continue
            assert record.start_ns is not None and record.end_ns is not None
            if action.kind in SENDS:
                posted[action] = record.end_ns
            spans.append(Span(rank, lane, action, record.start_ns - begin, record.end_ns - begin))
    for rank, record, action in arrivals:
        assert action.kind in RECEIVES
        send = partner(action)
        start = record.start_ns if record.start_ns is not None else posted[send]
        end = max(start, record.end_ns if record.end_ns is not None else start)
        lane = "forward" if action.kind is Kind.RECV_FORWARD else "backward"
        spans.append(Span(rank, lane, action, start - begin, end - begin))
        spans.append(Span(peer(action, schedule), lane, send, start - begin, end - begin))
    return Timeline(origin="measured", num_ranks=len(ranks), spans=tuple(spans))


def double_precision(scenario: Scenario) -> Scenario:
    """The scenario in float64, for the check against the reference."""
    plan = replace(scenario.plan, precision="fp64", gradient_precision=None, master_weights=None)
    return replace(scenario, plan=plan)
