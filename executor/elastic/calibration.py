"""What an elastic run is predicted from: times of the same layers in short runs beforehand.

First as many ranks as there are processors, so that each has one to itself, train pipelines of two
stages and whole replicas of few and of more layers, fed as the run is, in every size of microbatch
that it will have. What the parts of the model take follows from these (sim.calibration), and from
the gaps between iterations what every iteration takes beside its steps. Then as many ranks as the
run has, sharing processors as it does, change from each of its layouts to the next, and sum
gradients among as many replicas.

Nothing is taken from the run that is predicted.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist
from scipy.optimize import nnls

from executor.assembly import assemble
from executor.elastic.cache import Cache
from executor.elastic.datasets import Dataset, load_dataset
from executor.elastic.feeding import EpochData
from executor.elastic.stages import build
from executor.interpreter import IterationRecord
from executor.joining import RankContext
from executor.launching import run_ranks
from executor.mesh import GroupMaker, Mesh
from executor.model import DTYPES
from executor.session import Assignment, Job, RankResult, Visit
from executor.transport import make_transport
from scenarios.schema import ElasticCache, Scenario, Transition
from sim.calibration import calibrate_from_runs
from sim.cost.profile import Fitted, Profile
from sim.elastic.phases import Layout, Phase, elastic_of
from sim.schedule.build import build_schedule
from sim.schedule.lowering import message_orders

ROUNDS = 3
ITERATIONS = 8
_WARMUP = 3
_FEW, _MORE = 1, 3
"""Layers of a stage in the runs that tell a layer's time from what a pass takes at all."""
_BYTES = (1 << 12, 1 << 16, 1 << 18, 1 << 20, 1 << 22)
"""Sizes of the gradients that are summed."""
_SUMS = 9
_CACHE_REPEATS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticCalibration:
    """What the prediction of an elastic run reads beside its scenario.

    profile: of the parts' times, messages, sums and the time between iterations. transition: what a
    change of the pipeline takes. cache: rates at which it is read and written, with the scenario's
    own memory and decisions.
    """

    profile: Profile
    transition: Transition
    cache: ElasticCache

    def applied(self, scenario: Scenario) -> Scenario:
        """The scenario with what was measured of transitions and cache."""
        elastic = replace(
            elastic_of(scenario),
            transition=replace(elastic_of(scenario).transition, rebuild=self.transition.rebuild),
            cache=replace(
                elastic_of(scenario).cache,
                read=self.cache.read,
                write=self.cache.write,
                one_rank=self.cache.one_rank,
            ),
        )
        return replace(scenario, elastic=elastic)


@dataclass(frozen=True, slots=True, kw_only=True)
class _PassesOrder:
    """Scenarios to run in turn, `rounds` times, each fed from the run's data; and the run's own."""

    run: Scenario
    scenarios: tuple[Scenario, ...]
    rounds: int
    iterations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _PassesCard:
    """What one rank tells of them: see RankResult; gaps_ns: between one iteration's last step and
    the next one's first. cache_s: of reading and of writing `sample_bytes` of the cache once."""

    result: RankResult
    gaps_ns: tuple[int, ...]
    cache_s: tuple[float, float]
    sample_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _ChangesOrder:
    """Phases to build one after another, as the run will."""

    run: Scenario
    phases: tuple[Phase, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _ChangesCard:
    """rebuild_s: of each phase after the first. sums: (ranks, bytes, seconds) of all-reduces."""

    rebuild_s: tuple[float, ...]
    sums: tuple[tuple[int, int, float], ...]


def calibrate(
    scenario: Scenario,
    sizes: Sequence[int],
    phases: Sequence[Phase],
    *,
    rounds: int = ROUNDS,
    iterations: int = ITERATIONS,
    progress: Callable[[str], None] = lambda text: None,
) -> ElasticCalibration:
    """Calibrate for a run: its microbatches of these sizes, and changes through these phases.

    Under torchrun there is no calibration; nor where the devices are GPUs, which are not shared.
    """
    runs = calibration_scenarios(scenario, sizes)
    ranks = runs[0].plan.num_devices
    progress(f"calibrating {scenario.name}: {len(runs)} short runs on {ranks} ranks ...")
    passes = _PassesOrder(run=scenario, scenarios=runs, rounds=rounds, iterations=iterations)
    deadline_s = scenario.execution.deadline / 1e9
    found = run_ranks(
        ranks, f"{__name__}:passes_main", passes, wait_s=2 * deadline_s, progress=progress
    )
    assert found is not None, "these ranks were started here"
    cards: Sequence[_PassesCard] = found.results
    visits = tuple(
        Visit(job=job, warmup=_WARMUP, iterations=iterations)
        for _ in range(rounds)
        for job in range(len(runs))
    )
    measured = assemble(
        Assignment(scenarios=runs, visits=visits), [c.result for c in cards], found.environment
    )
    profile = calibrate_from_runs(measured)
    gap_ns = statistics.median(gap for card in cards for gap in card.gaps_ns)
    fitted = {"iteration_overhead": Fitted(value=gap_ns, interval=None)}
    rebuild_s = 0.0
    if len(phases) > 1 or phases[0].layout.data > 1:
        card = _changes(scenario, phases, progress)
        fitted |= _fit_sums(card.sums, scenario)
        rebuild_s = statistics.fmean(card.rebuild_s) if card.rebuild_s else 0.0
    read_s, write_s = (statistics.median(c.cache_s[n] for c in cards) for n in range(2))
    size = cards[0].sample_bytes
    cache = elastic_of(scenario).cache
    return ElasticCalibration(
        profile=replace(profile, efficiency=fitted),
        transition=Transition(rebuild=round(rebuild_s * 1e9)),
        cache=replace(
            cache, read=ranks * size / read_s, write=ranks * size / write_s, one_rank=size / read_s
        ),
    )


def _changes(
    scenario: Scenario, phases: Sequence[Phase], progress: Callable[[str], None]
) -> _ChangesCard:
    """Build a run's phases one after another, on as many ranks as it has."""
    whole = scenario.plan.num_devices
    progress(f"calibrating {scenario.name}: {len(phases)} phases built on {whole} ranks ...")
    found = run_ranks(
        whole,
        f"{__name__}:changes_main",
        _ChangesOrder(run=scenario, phases=tuple(phases)),
        wait_s=2 * scenario.execution.deadline / 1e9,
        progress=progress,
    )
    assert found is not None, "these ranks were started here"
    card: _ChangesCard = found.results[0]
    return card


def calibration_scenarios(scenario: Scenario, sizes: Sequence[int]) -> tuple[Scenario, ...]:
    """For each size of microbatch: pipelines of two stages with few and with more layers each, and
    as many replicas of a whole small model, which tells what a pass takes at all from what its
    embedding and head do; where there is one processor, only the last, in two depths."""
    model, cluster, plan = scenario.model, scenario.cluster, scenario.plan
    assert model is not None and cluster is not None, "required before"
    shared = cluster.processors_per_node or cluster.devices_per_node
    ranks = min(2, shared, plan.num_devices)
    own = replace(cluster, nodes=1, devices_per_node=ranks, processors_per_node=None)

    def one(name: str, size: int, counts: tuple[int, ...], data: int) -> Scenario:
        changed = replace(
            plan,
            schedule="gpipe",
            pipeline=len(counts),
            data=data,
            layers_per_stage=counts,
            micro_batch=size,
            microbatches=4,
            global_batch=None,
            devices=None,
        )
        return replace(
            scenario,
            name=f"calibration-{name}-{size}",
            model=replace(model, layers=sum(counts)),
            cluster=own,
            plan=changed,
            elastic=None,
            variants={},
        )

    found = []
    for size in sorted(set(sizes)):
        for layers in (_FEW, _MORE):
            if ranks > 1:
                found.append(one(f"stages-of-{layers}", size, (layers,) * 2, 1))
            if ranks == 1 or layers == _MORE:
                found.append(one(f"whole-of-{layers}", size, (layers,), ranks))
    return tuple(found)


def passes_main(context: RankContext, order: _PassesOrder) -> _PassesCard:
    """A rank's part of the runs of passes."""
    dataset = load_dataset(order.run)
    groups = GroupMaker(deadline_s=order.run.execution.deadline / 1e9)
    jobs = [_job(context, groups, dataset, scenario) for scenario in order.scenarios]
    visits: list[tuple[IterationRecord, ...]] = []
    gaps: list[int] = []
    for turn in range(order.rounds):
        for job, data, num in jobs:
            data.begin_epoch(turn)
            records = _visit(job, order.iterations, num)
            visits.append(records)
            bounds = [_bounds(record) for record in records]
            gaps += [b[0] - a[1] for a, b in itertools.pairwise(bounds)]
    cache_s, sample_bytes = _cache_rates(context, order, dataset)
    for job, _, _ in jobs:
        job.interpreter.transport.close()
    return _PassesCard(
        result=RankResult(
            rank=context.rank,
            visits=tuple(visits),
            peak_memory=(None,) * len(jobs),
            environment={},
        ),
        gaps_ns=tuple(gaps),
        cache_s=cache_s,
        sample_bytes=sample_bytes,
    )


def changes_main(context: RankContext, order: _ChangesOrder) -> _ChangesCard:
    """A rank's part of the changes: every phase's stages built, and sums over their replicas."""
    dataset = load_dataset(order.run)
    groups = GroupMaker(deadline_s=order.run.execution.deadline / 1e9)
    rebuild: list[float] = []
    sums: dict[tuple[int, int], list[float]] = {}
    layout: Layout | None = None
    for phase in order.phases:
        data = EpochData(
            dataset,
            phase,
            seed=order.run.execution.seed,
            device=context.device,
            reads_inputs=context.rank
            in {phase.layout.rank_of(0, d) for d in range(phase.layout.data)},
        )
        _meet(context)
        began = time.monotonic()
        stages = build(order.run, replace(phase, cached_layers=0), context, groups, data)
        _meet(context)
        if layout is not None and layout != phase.layout:
            rebuild.append(time.monotonic() - began)
        if stages.data_group is not None:
            key = phase.layout.data
            for size in _BYTES:
                if (key, size) not in sums or len(sums[key, size]) < _SUMS:
                    sums[key, size] = _time_sums(context, stages.data_group, size)
        stages.transport.close()
        layout = phase.layout
    return _ChangesCard(
        rebuild_s=tuple(rebuild),
        sums=tuple((n, size, statistics.median(found)) for (n, size), found in sums.items()),
    )


def _job(
    context: RankContext, groups: GroupMaker, dataset: Dataset, scenario: Scenario
) -> tuple[Job, EpochData, int]:
    """A job fed as an elastic run's is, its data, and the iterations that an epoch of it has."""
    plan, deadline_s = scenario.plan, scenario.execution.deadline / 1e9
    assert plan.layers_per_stage is not None
    layout = Layout(
        frozen_layers=plan.frozen_layers,
        layers_per_stage=plan.layers_per_stage,
        data=plan.data,
        micro_batch=plan.micro_batch,
        microbatches=plan.num_microbatches,
    )
    iterations = max(1, len(dataset.targets) // layout.global_batch)
    phase = Phase(
        index=0,
        first_epoch=0,
        epochs=1,
        layout=layout,
        cached_layers=0,
        fills_cache=False,
        iterations=iterations,
    )
    mesh = Mesh.of(plan)
    data = EpochData(
        dataset,
        phase,
        seed=scenario.execution.seed,
        device=context.device,
        reads_inputs=mesh.places[context.rank].pipeline == 0,
    )
    transport = make_transport(
        scenario.execution.transport,
        rank=context.rank,
        num_ranks=context.num_ranks,
        store=context.store,
        device=context.device,
        deadline_s=deadline_s,
        pairs=mesh.world_pairs(message_orders(build_schedule(scenario))),
    )
    job = Job(
        scenario,
        context.rank,
        context.device,
        transport,
        groups=groups,
        data=data,
        read_at_pass=True,
    )
    return job, data, iterations


def _visit(job: Job, iterations: int, num: int) -> tuple[IterationRecord, ...]:
    """Iterations one after another without a meeting between them, as in an epoch."""
    gc.collect()
    gc.disable()
    try:
        found = [job.interpreter.run_iteration(n % num) for n in range(_WARMUP + iterations)]
    finally:
        gc.enable()
    return tuple(found[_WARMUP:])


def _bounds(record: IterationRecord) -> tuple[int, int]:
    """When a rank's iteration began and ended, nanoseconds."""
    own = [r for r in record.records if r.lane in ("compute", "collective")]
    return (
        min(r.start_ns for r in own if r.start_ns is not None),
        max(r.end_ns for r in own if r.end_ns is not None),
    )


def _cache_rates(
    context: RankContext, order: _PassesOrder, dataset: Dataset
) -> tuple[tuple[float, float], int]:
    """Median seconds of reading and of writing one microbatch, and its bytes, all ranks at once."""
    model, plan = order.run.model, order.run.plan
    assert model is not None
    size = min(s.plan.micro_batch for s in order.scenarios)
    shape, dtype = (model.sequence, model.hidden), DTYPES[plan.precision]
    cache = Cache.open(
        _shared_name(context),
        store=context.store,
        rank=context.rank,
        num_ranks=context.num_ranks,
        samples=len(dataset.targets),
        shape=shape,
        dtype=dtype,
        memory_bytes=elastic_of(order.run).cache.memory,
        device=context.device,
    )
    output = torch.zeros((size, *shape), dtype=dtype)
    numbers = np.arange(context.rank, len(dataset.targets), context.num_ranks)
    reads: list[float] = []
    writes: list[float] = []
    for n in range(2 * _CACHE_REPEATS):
        samples = torch.from_numpy(np.roll(numbers, -n * size)[:size].copy())
        began = time.perf_counter()
        cache.write(samples, output, 1)
        written = time.perf_counter()
        cache.read(samples)
        ended = time.perf_counter()
        if n >= _CACHE_REPEATS:
            writes.append(written - began)
            reads.append(ended - written)
    return (statistics.median(reads), statistics.median(writes)), output.nbytes


def _shared_name(context: RankContext) -> str:
    """A name for the cache that all ranks know and no other run has."""
    key = "calibration/cache"
    if context.rank == 0:
        context.store.set(key, f"calibration-{time.time_ns()}")
    return context.store.get(key).decode()


def _time_sums(context: RankContext, group: dist.ProcessGroup, payload_bytes: int) -> list[float]:
    """Seconds of all-reduces of a buffer, on the slowest rank; every group sums at once."""
    buffer = torch.zeros(payload_bytes // 4, dtype=torch.float32, device=context.device)
    times = []
    for _ in range(_SUMS + 2):
        _meet(context)
        began = time.perf_counter()
        dist.all_reduce(buffer, group=group)
        took = torch.tensor([time.perf_counter() - began], dtype=torch.float64)
        dist.all_reduce(took, op=dist.ReduceOp.MAX)
        times.append(float(took.item()))
    return times[2:]


def _fit_sums(sums: Sequence[tuple[int, int, float]], scenario: Scenario) -> dict[str, Fitted]:
    """The fixed time, step latency and bandwidth of sums, in the form of `all_reduce_ns`: a ring of
    2 (n - 1) steps and 2 (n - 1) / n of the bytes; weighted by 1 / t."""
    cluster = scenario.cluster
    if not sums or cluster is None:
        return {}
    times = np.array([seconds * 1e9 for _, _, seconds in sums])
    columns = [[1.0, 2 * (n - 1) / n * size] for n, size, _ in sums]
    solution, _ = nnls(np.array(columns) / times[:, None], np.ones(len(times)))
    fixed_ns, ns_per_byte = (float(value) for value in solution)
    launch = cluster.device.efficiency.launch
    bandwidth = 1e9 / max(ns_per_byte, 1e-3) / cluster.intra_node.efficiency
    return {
        "collective_launch": Fitted(value=max(0.0, fixed_ns - launch), interval=None),
        "intra_node.latency": Fitted(value=0.0, interval=None),
        "intra_node.bandwidth": Fitted(value=bandwidth, interval=None),
    }


def _meet(context: RankContext) -> None:
    if context.num_ranks > 1:
        dist.all_reduce(torch.zeros(1, device=context.device))
