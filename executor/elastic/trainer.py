"""A rank's way through an elastic run: epochs of training, and between them the changes of the
pipeline.

Every decision is made alike on every rank, from the same numbers (sim.elastic), and nothing is
timed that a plain training loop would not do: what is evaluated, checked or stored stands apart.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from executor.clocks import gather
from executor.elastic import checkpoint
from executor.elastic.cache import Cache, Counts
from executor.elastic.datasets import load_dataset
from executor.elastic.epochs import EpochCard, measured, told
from executor.elastic.evaluation import evaluate
from executor.elastic.feeding import EpochData
from executor.elastic.foreign import Meter
from executor.elastic.moving import transfer
from executor.elastic.norms import layer_norms
from executor.elastic.order import ElasticOrder
from executor.elastic.stages import PhaseStages, build
from executor.joining import PROGRESS_KEY, STOP_KEY, RankContext
from executor.mesh import GroupMaker
from executor.model import DTYPES
from executor.session import Job
from sim.elastic.freezing import adaptive, frozen_by_epoch
from sim.elastic.phases import Phase, elastic_of, phases
from sim.elastic_measurement import ElasticMeasurement, MeasuredEpoch, MeasuredTransition

_FIXED_SAMPLES = 64
_IDLE_POLL_S = 0.02


class Trainer:
    """One rank of an elastic run.

    name: of the run, for the files of its cache.
    on_samples: told of the samples of every microbatch that this rank's first stage reads.
    """

    def __init__(
        self,
        order: ElasticOrder,
        context: RankContext,
        name: str,
        *,
        on_samples: Callable[[int, NDArray[np.int64]], None] | None = None,
    ) -> None:
        self.order, self.context, self.name = order, context, name
        self.scenario, self.on_samples = order.scenario, on_samples
        self.elastic, self.model = elastic_of(order.scenario), order.scenario.model
        assert self.model is not None
        self.dataset = load_dataset(order.scenario)
        deadline_s = order.scenario.execution.deadline / 1e9
        self.groups = GroupMaker(deadline_s=deadline_s)
        self.stages: PhaseStages | None = None
        self.cache: Cache | None = None
        self.epoch, self.seconds = 0, 0.0
        self.resumed_from: int | None = None
        self.frozen: tuple[int, ...] = frozen_by_epoch(order.scenario)[:1]
        self.epochs: list[MeasuredEpoch] = []
        self.transitions: list[MeasuredTransition] = []
        self.after_epoch: dict[str, float] = {}
        self.environment: dict[str, Any] = {}

    def run(self) -> ElasticMeasurement:
        """Train to the last epoch, or to the end of the one in which the launcher is interrupted;
        every rank returns, and rank 0 knows all."""
        began = time.monotonic()
        manifest = self._resume()
        phase = self._phase(self.epoch)
        if phase.cached_layers and not self._restore_cache(manifest):
            # Nothing is left of the cache: the first epoch fills it anew.
            phase = replace(phase, cached_layers=0, fills_cache=True)
        self._build(phase)
        if manifest is not None and self.order.checkpoints is not None:
            parts = self._stages.parts
            tensors = checkpoint.read_parts(self.order.checkpoints, manifest, parts.names)
            for part in parts.names:
                parts.load(part, tensors[part])
        # What is there now stays: the collections before each epoch need not look at it again.
        gc.collect()
        gc.freeze()
        self._meet()
        self.environment["setup_s"] = time.monotonic() - began
        began, before_s = time.monotonic(), self.seconds
        while self.epoch < self.elastic.epochs:
            phase = self._phase(self.epoch)
            if self._differs(phase) and self.resumed_from != self.epoch:
                self._transition(phase)
            self._train_epoch()
            self.epoch += 1
            stopped = self._decide()
            self.seconds = before_s + time.monotonic() - began
            last = stopped or self.epoch == self.elastic.epochs
            if last or self._differs(self._phase(self.epoch)):
                self._evaluate()
                self._checkpoint()
            if stopped:
                break
        self._meet()
        self.seconds = before_s + time.monotonic() - began
        self._stages.transport.close()
        return self.measurement()

    def measurement(self) -> ElasticMeasurement:
        """What was measured so far."""
        done = self.frozen[: len(self.epochs)]
        return ElasticMeasurement(
            scenario=self.scenario,
            frozen_by_epoch=done,
            phases=phases(self.scenario, done, self.order.layouts, self.order.caches_from),
            epochs=tuple(self.epochs),
            transitions=tuple(self.transitions),
            seconds=self.seconds,
            environment={**self.environment, "after_last_epoch_s": self.after_epoch},
            resumed_from=self.resumed_from,
        )

    def run_iteration(self, job: Job, iteration: int) -> float | None:
        """Train on one global batch; the loss, on a last stage."""
        return job.interpreter.run_iteration(iteration).loss

    # Phases.

    @property
    def _stages(self) -> PhaseStages:
        assert self.stages is not None
        return self.stages

    def _phase(self, epoch: int) -> Phase:
        """The phase that an epoch is in, as far as is known of it."""
        order = self.order
        known = self.frozen[: epoch + 1]
        return phases(self.scenario, known, order.layouts, order.caches_from)[-1]

    def _differs(self, phase: Phase) -> bool:
        """Whether stages must change for a phase."""
        now = self._stages.phase
        return (phase.layout, phase.cached_layers, phase.fills_cache) != (
            now.layout,
            now.cached_layers,
            now.fills_cache,
        )

    def _build(self, phase: Phase) -> None:
        context, rank = self.context, self.context.rank
        if phase.fills_cache and self.cache is None:
            self.cache = self._open_cache()
        data = EpochData(
            self.dataset,
            phase,
            seed=self.scenario.execution.seed,
            device=context.device,
            reads_inputs=rank in {phase.layout.rank_of(0, d) for d in range(phase.layout.data)},
            cache=self.cache,
            seen=self._seen if self.on_samples is not None else None,
        )
        if self.stages is not None and self.stages.layout == phase.layout:
            self.stages.enter(phase, data)
        else:
            self.stages = build(self.scenario, phase, context, self.groups, data)
        self._watch_cache(phase)
        self.environment["transport"] = type(self.stages.transport).__name__
        job = self.stages.job
        if job is None:
            context.watchdog.describe_with(lambda: f"rank {rank} stands idle in this phase")
            return
        context.watchdog.describe_with(lambda: f"epoch {self.epoch}: {job.interpreter.describe()}")

    def _watch_cache(self, phase: Phase) -> None:
        """Fill the cache in a phase that is to, and no longer in another."""
        if self.cache is None or not phase.fills_cache:
            self._stages.fill_with(None)
            return
        cache, depth = self.cache, phase.frozen_layers
        self._stages.fill_with(lambda samples, output: cache.write(samples, output, depth))

    def _open_cache(self) -> Cache:
        model, plan = self.model, self.scenario.plan
        assert model is not None
        cache = Cache.open(
            self.name,
            store=self.context.store,
            rank=self.context.rank,
            num_ranks=self.context.num_ranks,
            samples=self.elastic.samples,
            shape=(model.sequence, model.hidden),
            dtype=DTYPES[plan.precision],
            memory_bytes=self.elastic.cache.memory,
            device=self.context.device,
        )
        self.environment["cache"] = asdict(cache.size)
        return cache

    def _seen(self, samples: NDArray[np.int64]) -> None:
        assert self.on_samples is not None
        self.on_samples(self.epoch, samples)

    def _transition(self, phase: Phase) -> None:
        """Build the next phase's stages, fill them from the old ones, and drop these, unless only
        the cache is used otherwise."""
        old = self._stages
        before = self._fixed_loss() if self.order.fixed_batch else None
        seconds = self.after_epoch
        self._meet()
        began = time.monotonic()
        self._build(phase)
        self._meet()
        seconds["rebuild"] = time.monotonic() - began
        began, moved, new = time.monotonic(), 0, self._stages
        if new is not old:
            moved = self._move(old, new)
            old.close()
        seconds["move"] = time.monotonic() - began
        after = self._fixed_loss() if self.order.fixed_batch else None
        self.after_epoch = {}
        self.transitions.append(
            MeasuredTransition(
                epoch=self.epoch,
                phase=phase.index,
                seconds=seconds,
                moved_bytes=moved,
                loss_before=before,
                loss_after=after,
            )
        )

    def _move(self, old: PhaseStages, new: PhaseStages) -> int:
        """Fill the new stages from the old ones; the bytes that were received, over all ranks."""
        received = transfer(
            old.parts,
            new.parts,
            old.layout,
            new.layout,
            rank=self.context.rank,
            device=self.context.device,
            data_group=new.data_group,
        )
        total = torch.tensor([float(received)], dtype=torch.float64, device=self.context.device)
        dist.all_reduce(total)
        return int(total.item())

    # Epochs.

    def _train_epoch(self) -> None:
        job, data = self._stages.job, self._stages.data
        iterations = self._stages.phase.iterations
        if data is not None:
            data.begin_epoch(self.epoch)
        ends: list[float] = []
        losses: list[float] = []
        gc.collect()
        gc.disable()
        try:
            self._meet()
            meter = Meter() if self.context.device.type == "cpu" else None
            began = time.monotonic()
            for iteration in range(iterations) if job is not None else ():
                assert job is not None
                loss = self.run_iteration(job, iteration)
                ends.append(time.monotonic() - began)
                if loss is not None:
                    losses.append(loss)
            self._await_workers()
            use = None if meter is None else meter.use()
        finally:
            gc.enable()
        card = EpochCard(
            ends_s=tuple(ends),
            losses=tuple(losses),
            counts=Counts() if self.cache is None else self.cache.reset_counts(),
            use=use,
        )
        cards: list[Any] = [None] * self.context.num_ranks
        dist.all_gather_object(cards, card)
        self.epochs.append(measured(cards, self.epoch, self._phase(self.epoch).index))
        self._tell()

    def _await_workers(self) -> None:
        """Ranks that have no place wait here without a collective, which would not wait so long."""
        store, key = self.context.store, f"elastic/{self.name}/epoch/{self.epoch}"
        if self._stages.job is not None:
            store.add(key, 1)
        while self._stages.job is None and store.add(key, 0) < self._stages.layout.num_ranks:
            time.sleep(_IDLE_POLL_S)

    def _tell(self) -> None:
        if self.context.rank == 0:
            assert self.model is not None
            text = told(
                self.epochs[-1], self._stages.layout, self.elastic, num_layers=self.model.layers
            )
            self.context.store.set(PROGRESS_KEY, f"{self.scenario.name}: {text}")

    def _decide(self) -> bool:
        """The layers frozen in the next epoch; whether the launcher was interrupted meanwhile."""
        elastic, model = self.elastic, self.model
        assert model is not None
        now = self.frozen[self.epoch - 1]
        following = frozen_by_epoch(self.scenario)[self.epoch : self.epoch + 1]
        if following and elastic.freeze == "adaptive":
            following = (now,)
            if self.epoch % elastic.interval == 0:
                norms = layer_norms(self._stages.job, model.layers, self.context.device)
                following = (adaptive(now, model.layers, elastic.alpha, norms),)
        self.frozen = (*self.frozen[: self.epoch], *following)
        stop = 0.0
        if self.context.rank == 0:
            stop = float(self.context.store.check([STOP_KEY]))
        return self._meet(stop) > 0

    # Beside training.

    def _evaluate(self) -> None:
        began = time.monotonic()
        data = self.dataset
        found = evaluate(
            self._stages.job,
            self._stages.layout,
            data.test_inputs,
            data.test_targets,
            device=self.context.device,
        )
        self.epochs[-1] = replace(self.epochs[-1], accuracy=found.accuracy)
        self.after_epoch["evaluate"] = time.monotonic() - began

    def _fixed_loss(self) -> float:
        """The loss of the first training samples with the present stages, on every replica."""
        data = self.dataset
        return evaluate(
            self._stages.job,
            self._stages.layout,
            data.inputs[:_FIXED_SAMPLES],
            data.targets[:_FIXED_SAMPLES],
            device=self.context.device,
            by_all=True,
        ).loss

    def _checkpoint(self) -> None:
        path, rank = self.order.checkpoints, self.context.rank
        if path is None:
            return
        began = time.monotonic()
        if rank == 0:
            checkpoint.begin(path, self.epoch)
        self._meet()
        own: list[checkpoint.Shard] = []
        job, cache = self._stages.job, self.cache
        if job is not None and job.interpreter.place.data == 0:
            own.append(checkpoint.write_shard(path, self.epoch, rank, self._stages.parts))
        read_next = self.epoch < self.elastic.epochs and self._phase(self.epoch).cached_layers > 0
        if cache is not None and rank in cache.leaders and read_next:
            own += checkpoint.write_cache(path, self.epoch, rank, cache)
        shards: list[list[checkpoint.Shard]] = [[] for _ in range(self.context.num_ranks)]
        dist.all_gather_object(shards, own)
        if rank == 0:
            written = [shard for found in shards for shard in found]
            checkpoint.write_manifest(
                path,
                checkpoint.Manifest(
                    identity=self.order.identity,
                    epoch=self.epoch,
                    frozen_by_epoch=self.frozen,
                    epochs=tuple(self.epochs),
                    transitions=tuple(self.transitions),
                    seconds=self.seconds,
                    shards={shard.name: shard.digest for shard in written},
                    parts={part: shard.name for shard in written for part in shard.parts},
                ),
            )
        self._meet()
        self.after_epoch["checkpoint"] = time.monotonic() - began

    def _resume(self) -> checkpoint.Manifest | None:
        """Take over what the last checkpoint says of the run so far; None from the start."""
        if not self.order.resume:
            return None
        assert self.order.checkpoints is not None
        manifest = checkpoint.last_manifest(self.order.checkpoints, self.order.identity)
        self.epoch, self.seconds = manifest.epoch, manifest.seconds
        self.resumed_from = manifest.epoch
        self.frozen = manifest.frozen_by_epoch
        self.epochs, self.transitions = list(manifest.epochs), list(manifest.transitions)
        return manifest

    def _restore_cache(self, manifest: checkpoint.Manifest | None) -> bool:
        """Open the cache with what the checkpoint holds of it; whether it holds all."""
        if manifest is None or self.order.checkpoints is None:
            return False
        self.cache = self._open_cache()
        names = {rank: checkpoint.cache_name(rank) for rank in self.cache.leaders}
        if not set(names.values()) <= manifest.shards.keys():
            return False
        if self.context.rank in names:
            name = names[self.context.rank]
            self.cache.restore(checkpoint.read_shard(self.order.checkpoints, manifest, name))
        self._meet()
        return True

    def _meet(self, value: float = 0.0) -> float:
        """Meet all ranks; the largest value that one of them brings."""
        flag = torch.tensor([value], device=self.context.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return float(flag.item())


def train(context: RankContext, payload: tuple[ElasticOrder, str]) -> ElasticMeasurement:
    """A rank's part of an elastic run; payload: the order, and the run's name."""
    order, name = payload
    # Under torchrun every rank has thought of a name: the first one's is taken.
    names = gather(context.store, "elastic/name", context.rank, context.num_ranks, name)
    return Trainer(order, context, names[0]).run()
