"""What an elastic run is predicted from: times of the same layers in short runs beforehand.

First as many ranks as there are processors, so that each has one to itself, train pipelines of two
stages and whole replicas of few and of more layers, fed as the run is, in every size of microbatch
that it will have. What the parts of the model take follows from these (sim.calibration), and from
the gaps between iterations what every iteration takes beside its steps. Then the run's changes are
made without training (executor.elastic.changes).

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

from executor.assembly import assemble
from executor.elastic.cache import Cache
from executor.elastic.changes import changes, fit_sums
from executor.elastic.datasets import Dataset, load_dataset
from executor.elastic.feeding import EpochData
from executor.interpreter import IterationRecord
from executor.joining import RankContext
from executor.launching import run_ranks
from executor.mesh import GroupMaker, Mesh
from executor.model import DTYPES
from executor.pinning import DISTURBED
from executor.session import Assignment, Job, RankResult, Visit, transport_of
from scenarios.schema import ElasticCache, Scenario, Transition
from sim.calibration import calibrate_from_runs
from sim.cost.profile import Fitted, Profile
from sim.elastic.phases import Layout, Phase, elastic_of

ROUNDS = 3
ITERATIONS = 8
_WARMUP = 3
_FEW, _MORE = 1, 3
"""Layers of a stage in the runs that tell a layer's time from what a pass takes at all."""
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
        found_changes = changes(scenario, phases, progress)
        fitted |= fit_sums(found_changes.sums, scenario)
        times = found_changes.rebuild_s
        rebuild_s = statistics.fmean(times) if times else 0.0
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
            gaps += _gaps(records)
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


def _job(
    context: RankContext, groups: GroupMaker, dataset: Dataset, scenario: Scenario
) -> tuple[Job, EpochData, int]:
    """A job fed as an elastic run's is, its data, and the iterations that an epoch of it has."""
    plan = scenario.plan
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
    data = EpochData(
        dataset,
        phase,
        seed=scenario.execution.seed,
        device=context.device,
        reads_inputs=Mesh.of(plan).places[context.rank].pipeline == 0,
    )
    job = Job(
        scenario,
        context.rank,
        context.device,
        transport_of(scenario, context),
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


def _gaps(records: Sequence[IterationRecord]) -> list[int]:
    """Nanoseconds between one iteration's last step and the next one's first, where others did not
    disturb the two; all of them where there is none such."""
    found = [
        (_bounds(b)[0] - _bounds(a)[1], max(a.foreign or 0.0, b.foreign or 0.0) <= DISTURBED)
        for a, b in itertools.pairwise(records)
    ]
    return [gap for gap, calm in found if calm] or [gap for gap, _ in found]


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
