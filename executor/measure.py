"""Microbenchmarks of the device at hand, in a scenario's shapes: passes, optimizer, messages.

Every rank measures the same at the same time, so that the cores are as busy as in a run. Passes are
timed on stages of different makeup (layers alone, with embedding, with head), from which the times
of the parts follow as they do from executed runs. Those of token slices run on keys and values that
the slices before have really left.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from executor.commands import UnsupportedPlan, require_supported
from executor.data import Data
from executor.joining import PROGRESS_KEY, under_torchrun
from executor.launching import device_kind, run_ranks
from executor.marks import make_marks
from executor.measure_grid import Grid, Series, grid_of, unsliced
from executor.model import DTYPES, StageModule
from executor.optimizer import Optimizer
from executor.pinning import DISTURBED, HeldUp
from executor.stages import StageRunner
from executor.transport import make_transport
from scenarios.schema import Scenario
from sim.calibration import Makeup, Sample, fit_message_time, fit_parts, thin
from sim.cost.profile import Profile
from sim.cost.shapes import Pass, Shape, shape_of
from sim.schedule.actions import Action, Kind
from sim.workload.partition import StagePart

_WARMUP = 2
_FEWEST = 4
Repetition = TypeVar("Repetition")
_BUSY = 0.5
"""Timed repetitions of what takes long."""


def measure_scenario(
    scenario: Scenario, *, quick: bool = False, progress: Callable[[str], None] = lambda t: None
) -> Profile:
    """Measure a scenario's shapes on this machine, on as many ranks as its plan has.

    Raises UnsupportedPlan for what the executor cannot run, for tensor groups, and under torchrun.
    """
    searched = scenario.plan.slices == "optimal"
    require_supported(unsliced(scenario) if searched else scenario)
    tensor = scenario.plan.tensor
    if tensor > 1:
        raise UnsupportedPlan(
            f"{scenario.name}: plan.tensor is {tensor}, and measure times whole layers without "
            "their collectives: use `--set plan.tensor=1`, or calibrate from a run of the plan"
        )
    if under_torchrun():
        raise UnsupportedPlan("measure starts its own ranks: run it without torchrun")
    cluster = scenario.cluster
    grid = grid_of(scenario, quick=quick)
    shapes = grid.shapes(scenario)
    progress(
        f"measuring {len(shapes)} shapes, up to {grid.repetitions} times each, on "
        f"{scenario.plan.num_devices} ranks at once ..."
    )
    found = run_ranks(
        scenario.plan.num_devices,
        "executor.measure:rank_main",
        {"scenario": scenario, "grid": grid},
        wait_s=600.0,
        device=device_kind(scenario.plan.num_devices, cluster.device.kind if cluster else "cpu"),
        progress=progress,
    )
    assert found is not None, "these ranks were started here"
    samples = [s for rank in found.results for s in rank["samples"]]
    times, ratios = fit_parts(samples)
    messages = [m for rank in found.results for m in rank["messages"]]
    reductions = [m for rank in found.results for m in rank["all_reduces"]]

    def line(index: int) -> Any:
        points = [(size, values[index]) for size, values in _medians(messages)]
        return fit_message_time(points) if points else None

    return Profile(
        device=cluster.device.name if cluster is not None else found.environment["device"],
        provenance=f"measured on {found.environment['host']} with the shapes of {scenario.name}, "
        f"{scenario.plan.num_devices} ranks busy at once; {found.environment['pinning']}; "
        f"{len(shapes)} shapes of passes; {_disturbed(found.results)}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        software=found.environment["software"],
        host=str(found.environment["host"]),
        times=times,
        post=line(0),
        unpack=line(1),
        transfer=line(2),
        all_reduce=fit_message_time([(s, v[0]) for s, v in _medians(reductions)])
        if reductions
        else None,
        ratios=thin(ratios),
        raw=tuple(_raw(samples, messages, reductions)),
    )


def calmest(repetitions: Sequence[tuple[float, Repetition]]) -> list[Repetition]:
    """Of repetitions with the fraction of their time for which others held them up, the calm ones;
    at least the calmest few."""
    ordered = sorted(repetitions, key=lambda repetition: repetition[0])
    calm = sum(share <= DISTURBED for share, _ in ordered)
    return [repetition for _, repetition in ordered[: max(_FEWEST, calm)]]


def _disturbed(results: Sequence[Mapping[str, int]]) -> str:
    """How much of the measuring other processes disturbed, and what that means."""
    repeated = sum(rank["repeated"] for rank in results)
    disturbed = repeated - sum(rank["calm"] for rank in results)
    said = f"{disturbed} of {repeated} repetitions disturbed by other processes"
    if disturbed > _BUSY * repeated:
        return f"{said}. THE MACHINE WAS BUSY: measure again on a calm one"
    return f"{said} and left out" if disturbed else said


def _medians(
    rows: Sequence[tuple[int, tuple[int, ...]]],
) -> list[tuple[int, tuple[float, ...]]]:
    by_size: dict[int, list[tuple[int, ...]]] = {}
    for size, values in rows:
        by_size.setdefault(size, []).append(values)
    return [
        (size, tuple(sorted(column)[len(column) // 2] for column in zip(*values, strict=True)))
        for size, values in sorted(by_size.items())
    ]


def _raw(
    samples: Sequence[Sample],
    messages: Sequence[tuple[int, tuple[int, ...]]],
    reductions: Sequence[tuple[int, tuple[int, ...]]],
) -> Iterable[dict[str, object]]:
    by_point: dict[tuple[Any, ...], list[int]] = {}
    for s in samples:
        by_point.setdefault((s.shape, s.pass_, s.makeup), []).append(s.duration_ns)
    for (shape, pass_, makeup), durations in by_point.items():
        yield {
            "micro_batch": shape.micro_batch,
            "tokens": shape.tokens,
            "context": shape.context,
            "pass": pass_,
            "layers": makeup.num_layers,
            "embedding": makeup.embedding,
            "head": makeup.head,
            "samples": len(durations),
            "quartiles_ns": [round(float(q)) for q in np.quantile(durations, (0.25, 0.5, 0.75))],
        }
    for size, values in _medians(messages):
        post, unpack, transfer = values
        yield {"message_bytes": size, "post_ns": post, "unpack_ns": unpack, "transfer_ns": transfer}
    for size, (duration,) in _medians(reductions):
        yield {"all_reduce_bytes": size, "duration_ns": duration}


def rank_main(context: Any, payload: dict[str, Any]) -> dict[str, Any]:
    """Measure the whole grid on one rank; all ranks do the same together."""
    scenario, grid = payload["scenario"], payload["grid"]
    samples: list[Sample] = []
    done = repeated = calm = 0
    for series in grid.series:
        for makeup in series.makeups:
            for split in (False, True) if makeup in series.split else (False,):
                if context.rank == 0:
                    tokens = ", ".join(map(str, sorted({series.slices[i] for i in series.timed})))
                    text = f"{series.micro_batch} x {tokens} tokens, {makeup.num_layers} layers"
                    note = f"measured {done} of {grid.num_runs} runs, now {text} ..."
                    context.store.set(PROGRESS_KEY, note)
                run = _Run(scenario, series, makeup, split, context)
                samples += run.samples(grid)
                repeated, calm = repeated + run.repeated, calm + run.calm
                done += 1
    messages: list[tuple[int, tuple[int, ...]]] = []
    reductions: list[tuple[int, tuple[int, ...]]] = []
    if context.num_ranks > 1:
        messages = _messages(scenario, grid, context)
        reductions = _all_reduces(grid, context)
    return {
        "samples": samples,
        "messages": messages,
        "all_reduces": reductions,
        "repeated": repeated,
        "calm": calm,
    }


class _Run:
    """One stage that runs a microbatch's slices over and over, as a pipeline does: all forward
    passes, all backward passes in reverse order, the optimizer's step."""

    def __init__(
        self, scenario: Scenario, series: Series, makeup: Makeup, split: bool, context: Any
    ) -> None:
        """split: whether backward passes run as their halves."""
        model = scenario.model
        assert model is not None
        self.series, self.makeup, self.split, self.context = series, makeup, split, context
        local = replace(
            scenario,
            model=replace(
                model, sequence=sum(series.slices), layers=max(model.layers, makeup.num_layers)
            ),
            plan=replace(
                scenario.plan,
                micro_batch=series.micro_batch,
                microbatches=1,
                global_batch=None,
                microbatch_groups=None,
                slices=series.slices if len(series.slices) > 1 else None,
                layers_per_stage=None,
                frozen_layers=0,
                cached_layers=0,
                fills_cache=False,
            ),
        )
        part = StagePart(
            stage=0,
            first_layer=0,
            num_layers=makeup.num_layers,
            embedding=makeup.embedding,
            head=makeup.head,
        )
        self.shapes = series.shapes(local)
        self.whole = shape_of(local) if sum(series.slices) == model.sequence else None
        device = context.device
        self.data = Data(local, device=device).slices(0, 0, 0)
        generator = torch.Generator().manual_seed(0)
        self.activations = [
            torch.randn((series.micro_batch, tokens, model.hidden), generator=generator).to(
                device=device, dtype=DTYPES[scenario.plan.precision]
            )
            for tokens in series.slices
        ]
        self.runner = StageRunner(
            StageModule(local, part, device=device), local, part, split_backward=split
        )
        self.optimizer = Optimizer(local, self.runner.parameters, self.runner.gradients)
        self.gradients = [
            None if makeup.head else torch.full_like(activation, 1e-3)
            for activation in self.activations
        ]
        self.marks = make_marks(device)
        self.repeated = self.calm = 0

    def samples(self, grid: Grid) -> list[Sample]:
        """Times of the passes, each rank's as often as all others' at the same time, without the
        repetitions that other processes disturbed (but for the calmest few)."""
        if self.context.num_ranks > 1:
            dist.barrier()
        gc.collect()
        gc.disable()
        self.marks.begin()
        for _ in range(_WARMUP - 1):
            self._repeat()
        start = self.marks.mark()
        self._repeat()
        end = self.marks.mark()
        self.marks.settle()
        took_s = self._slowest((self.marks.read(end) - self.marks.read(start)) / 1e9)
        wanted = int(grid.seconds / grid.num_runs / max(took_s, 1e-9))
        timed = []
        for _ in range(min(grid.repetitions, max(_FEWEST, wanted))):
            held_up = HeldUp()
            passes = self._repeat()
            timed.append((held_up.share() or 0.0, passes))
        gc.enable()
        self.marks.settle()
        self.repeated = len(timed)
        self.calm = sum(share <= DISTURBED for share, _ in timed)
        read = self.marks.read
        return [
            Sample(shape, pass_, self.makeup, max(1, read(end) - read(start)))
            for passes in calmest(timed)
            for shape, pass_, start, end in passes
        ]

    def _slowest(self, seconds: float) -> float:
        """The longest of all ranks' times, so that they agree on how often to repeat."""
        if self.context.num_ranks == 1:
            return seconds
        longest = torch.tensor([seconds], dtype=torch.float64, device=self.context.device)
        dist.all_reduce(longest, op=dist.ReduceOp.MAX)
        return float(longest)

    def _repeat(self) -> list[tuple[Shape, Pass, Any, Any]]:
        """One iteration, with the marks around the timed slices' passes."""
        runner, mark = self.runner, self.marks.mark
        timed: list[tuple[Shape, Pass, Any, Any]] = []
        wanted = set(self.series.timed)

        def keep(index: int, pass_: Pass, start: Any, end: Any) -> None:
            if index in wanted:
                timed.append((self.shapes[index], pass_, start, end))

        for index, (inputs, targets, *_) in enumerate(self.data):
            received = inputs if self.makeup.embedding else self.activations[index].clone()
            a = mark()
            runner.forward(0, index, received, targets)
            b = mark()
            if not self.split:  # Then it runs in a form that can be split, and is slower.
                keep(index, "forward", a, b)
        for index in reversed(range(len(self.data))):
            a = mark()
            if self.split:
                runner.backward_input(0, index, self.gradients[index])
                b = mark()
                runner.backward_weight(0, index)
                keep(index, "backward_input", a, b)
                keep(index, "backward_weight", b, mark())
            else:
                runner.backward(0, index, self.gradients[index])
                keep(index, "backward", a, mark())
        if self.whole is not None and not self.split:
            a = mark()
            self.optimizer.step()
            timed.append((self.whole, "optimizer", a, mark()))
        runner.zero_grad()
        return timed


def _messages(scenario: Scenario, grid: Grid, context: Any) -> list[tuple[int, tuple[int, ...]]]:
    """(bytes, (post, unpack, transfer) ns) of messages between ranks 0 and 1, either way in turn;
    the others look on."""
    rows: list[tuple[int, tuple[int, ...]]] = []
    transport = make_transport(
        scenario.execution.transport,
        rank=context.rank,
        num_ranks=context.num_ranks,
        store=context.store,
        device=context.device,
        deadline_s=60.0,
        pairs=((0, 1),),
    )
    marks = make_marks(context.device)
    marks.begin()
    for size in grid.message_bytes:
        tensor = torch.zeros(size // 4, dtype=torch.float32, device=context.device)
        for n in range(grid.repetitions):
            rows += _round_trip(transport, context.rank, tensor, n, size, marks)
        transport.flush(60.0)
        dist.barrier()
    transport.close()
    return rows


def _round_trip(
    transport: Any, rank: int, tensor: torch.Tensor, n: int, size: int, marks: Any
) -> list[tuple[int, tuple[int, ...]]]:
    """One message there and one back: rank 0 tells its posting, its copying out, and what is left
    of half the round trip."""
    if rank > 1:
        return []
    other = 1 - rank
    send = Action(Kind.SEND_FORWARD if rank == 0 else Kind.SEND_BACKWARD, rank, n)
    receive = Action(Kind.RECV_BACKWARD if rank == 0 else Kind.RECV_FORWARD, rank, n)
    pending = transport.post_receive(receive, other, tuple(tensor.shape), tensor.dtype)
    if rank == 1:
        pending.wait(60.0)
    start = marks.mark()
    transport.send(send, other, tensor)
    posted = marks.mark()
    if rank == 1:
        return []
    pending.wait(60.0)
    end = marks.mark()
    marks.settle()
    post, whole = marks.read(posted) - marks.read(start), marks.read(end) - marks.read(start)
    found = pending.found_ns
    unpack = marks.read(end) - found if found is not None else 0
    return [(size, (max(1, post), max(1, unpack), max(1, whole // 2 - post - unpack)))]


def _all_reduces(grid: Grid, context: Any) -> list[tuple[int, tuple[int, ...]]]:
    """(bytes, (ns,)) of all-reduces over all ranks."""
    rows: list[tuple[int, tuple[int, ...]]] = []
    marks = make_marks(context.device)
    marks.begin()
    for size in grid.message_bytes:
        tensor = torch.zeros(size // 4, dtype=torch.float32, device=context.device)
        for _ in range(grid.repetitions):
            dist.barrier()
            start = marks.mark()
            dist.all_reduce(tensor)
            end = marks.mark()
            marks.settle()
            rows.append((size, (max(1, marks.read(end) - marks.read(start)),)))
    return rows
