"""Microbenchmarks of the device at hand, in a scenario's shapes: passes, optimizer, messages.

Every rank measures the same at the same time, so that the cores are as busy as in a run. Passes are
timed on stages of different makeup (layers alone, with embedding, with head), from which the times
of the parts follow as they do from executed runs.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch
import torch.distributed as dist

from executor.commands import UnsupportedPlan, require_supported
from executor.data import Data
from executor.joining import under_torchrun
from executor.launching import device_kind, run_ranks
from executor.marks import make_marks
from executor.model import DTYPES, StageModule
from executor.optimizer import Optimizer
from executor.stages import StageRunner
from executor.transport import make_transport
from scenarios.schema import PRECISION_BYTES, Scenario
from sim.calibration import Makeup, Sample, fit_message_time, fit_parts, thin
from sim.cost.profile import Pass, Profile, shape_of
from sim.schedule.actions import Action, Kind
from sim.workload.partition import StagePart

_MAKEUPS = (
    Makeup(1, False, False),
    Makeup(3, False, False),
    Makeup(1, True, False),
    Makeup(1, False, True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What is measured: (micro_batch, tokens) points, repetitions, message sizes in bytes."""

    points: tuple[tuple[int, int], ...]
    repetitions: int
    message_bytes: tuple[int, ...]


def grid_of(scenario: Scenario, *, quick: bool) -> Grid:
    """The scenario's own point, and halvings and doublings around it; messages of 1 KiB to four
    times the scenario's."""
    model, plan = scenario.model, scenario.plan
    assert model is not None
    own = (plan.micro_batch, model.sequence)
    payload = plan.micro_batch * model.sequence * model.hidden * PRECISION_BYTES[plan.precision]
    if quick:
        return Grid(points=(own,), repetitions=5, message_bytes=(1024, payload))
    batches = sorted({max(1, plan.micro_batch // 2), plan.micro_batch, plan.micro_batch * 2})
    tokens = [model.sequence]
    if model.family == "gpt":
        tokens = [t for t in (model.sequence // 4, model.sequence // 2, model.sequence) if t > 0]
    sizes = {1024, 16 * 1024, 64 * 1024, 256 * 1024, 1 << 20, payload // 4, payload, payload * 4}
    return Grid(
        points=tuple((b, t) for t in tokens for b in batches),
        repetitions=30,
        message_bytes=tuple(sorted(s for s in sizes if s >= 1024)),
    )


def measure_scenario(
    scenario: Scenario, *, quick: bool = False, progress: Callable[[str], None] = lambda t: None
) -> Profile:
    """Measure a scenario's shapes on this machine, on as many ranks as its plan has.

    Raises UnsupportedPlan for what the executor cannot run, for tensor groups, and under torchrun.
    """
    require_supported(scenario)
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
    progress(
        f"measuring {len(grid.points)} shapes, {grid.repetitions} times each, on "
        f"{scenario.plan.num_devices} ranks at once ..."
    )
    found = run_ranks(
        scenario.plan.num_devices,
        "executor.measure:rank_main",
        {"scenario": scenario, "grid": grid},
        wait_s=600.0,
        device=device_kind(scenario.plan.num_devices, cluster.device.kind if cluster else "cpu"),
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
        f"{scenario.plan.num_devices} ranks busy at once; {found.environment['pinning']}",
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
            "pass": pass_,
            "layers": makeup.num_layers,
            "embedding": makeup.embedding,
            "head": makeup.head,
            "durations_ns": durations,
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
    for micro_batch, tokens in grid.points:
        for makeup in _MAKEUPS:
            if context.num_ranks > 1:
                dist.barrier()
            samples += _passes(scenario, micro_batch, tokens, makeup, grid, context.device)
    messages: list[tuple[int, tuple[int, ...]]] = []
    reductions: list[tuple[int, tuple[int, ...]]] = []
    if context.num_ranks > 1:
        messages = _messages(scenario, grid, context)
        reductions = _all_reduces(grid, context)
    return {"samples": samples, "messages": messages, "all_reduces": reductions}


def _passes(
    scenario: Scenario,
    micro_batch: int,
    tokens: int,
    makeup: Makeup,
    grid: Grid,
    device: torch.device,
) -> list[Sample]:
    """Time forward, backward, its halves, and the optimizer of one stage, microbatch after
    microbatch as a pipeline does."""
    assert scenario.model is not None
    layers = max(scenario.model.layers, makeup.num_layers)
    local = replace(
        scenario,
        model=replace(scenario.model, sequence=tokens, layers=layers),
        plan=replace(scenario.plan, micro_batch=micro_batch, layers_per_stage=None),
    )
    part = StagePart(
        stage=0,
        first_layer=0,
        num_layers=makeup.num_layers,
        embedding=makeup.embedding,
        head=makeup.head,
    )
    shape = shape_of(local)
    found: list[Sample] = []

    def keep(pass_: Pass, start: Any, end: Any) -> None:
        found.append(Sample(shape, pass_, makeup, max(1, marks.read(end) - marks.read(start))))

    marks = make_marks(device)
    dtype = DTYPES[scenario.plan.precision]
    tokens_in, targets = Data(local, device=device).batch(0, 0, 0)
    assert scenario.model is not None
    size = (micro_batch, tokens, scenario.model.hidden)
    generator = torch.Generator().manual_seed(0)
    activation = torch.randn(size, generator=generator).to(device=device, dtype=dtype)
    grad = None if makeup.head else torch.full_like(activation, 1e-3)
    for split in (False, True):
        runner = StageRunner(
            StageModule(local, part, device=device), local, part, split_backward=split
        )
        optimizer = Optimizer(local, runner.parameters, runner.gradients)
        pending: list[tuple[Pass, Any, Any]] = []
        gc.collect()
        gc.disable()
        marks.begin()
        for repetition in range(grid.repetitions + 3):
            received = tokens_in if makeup.embedding else activation.clone()
            timed: list[tuple[Pass, Any, Any]] = []
            a = marks.mark()
            runner.forward(0, 0, received, targets)
            b = marks.mark()
            if split:
                runner.backward_input(0, 0, grad)
                c = marks.mark()
                runner.backward_weight(0, 0)
                timed += [("backward_input", b, c), ("backward_weight", c, marks.mark())]
            else:
                runner.backward(0, 0, grad)
                timed += [("forward", a, b), ("backward", b, marks.mark())]
                c = marks.mark()
                optimizer.step()
                timed.append(("optimizer", c, marks.mark()))
                runner.zero_grad()
            runner.losses.clear()
            if repetition >= 3:
                pending += timed
        gc.enable()
        marks.settle()
        for pass_, start, end in pending:
            keep(pass_, start, end)
    return found


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
