"""AutoPipe and AutoDP: for every number of frozen layers, how long the pipeline is, what each stage
holds, how many replicas there are, and how the batch is cut (PipeTransformer,
arXiv 2102.03161).
"""

from __future__ import annotations

from dataclasses import replace

from scenarios.schema import Model, Scenario
from sim.cost.cache import cache_rates
from sim.cost.measured import fitted_cluster, profiled_part_times
from sim.cost.modelled import PartTimes, part_times, setup_of
from sim.cost.parts import total_ns
from sim.cost.profile import Profile, require_device
from sim.cost.shapes import Part, Pass
from sim.elastic.balance import balanced, largest
from sim.elastic.caching import caches_from
from sim.elastic.freezing import frozen_by_epoch
from sim.elastic.iterations import Iterations, of_layout
from sim.elastic.phases import Layout, elastic_of
from sim.workload.parameters import embedding_parameters, head_parameters, layer_parameters

MOST_MICROBATCHES = 6
"""Microbatches are searched from the pipeline's length to this many times it, as the authors do."""


class NoLayout(ValueError):
    """The layers do not fill the stages, or the replicas cannot share the batch."""

    is_bad_input = True


def layouts(
    scenario: Scenario, profile: Profile | None = None, simulated: Iterations | None = None
) -> tuple[Layout, ...]:
    """The layout of a scenario's run for every number of frozen layers, from none to all; beyond
    the most that the run can come to it is the one of that.

    Without frozen layers it is the plan's own, balanced where its layers do not divide evenly. For
    more, the pipeline never gets longer, and is halved while

    - no stage trains more weights than the largest did at first, where both are cut as well as half
      layers can be (attention, MLP), as the authors cut them;
    - each stage gets a layer, and the replicas can share the batch;
    - the stages fit the device by the memory model, or need no more than at first.

    AutoDP makes further replicas of freed ranks. Layers are cut so that the stage that takes
    longest takes least: a frozen layer has its forward pass alone, and all of them together no more
    than reading their output where it is cached; or `elastic.frozen_weight` of an active layer.
    Where their output is cached (`caches_from`, by layouts that are all made for that), they lie on
    the first stage. Where they lie before the pipeline (`plan.frozen_first`), only the others are
    balanced. Microbatches are as `elastic.microbatches` says or, of one to six times the
    pipeline's length, those with the fastest simulated iteration that fits.

    Without AutoPipe the first cut stays; with `plan.frozen_first` the active layers are then shared
    out over as many stages of the first pipeline as get one.
    simulated: iterations of the same plan and profile, to be used again.
    Not modelled: stages cut within a layer.
    Raises NoLayout for layers that do not fill the stages, or microbatches that do not divide a
    replica's batch.
    """
    require_device(profile, scenario)
    elastic, simulated = elastic_of(scenario), simulated or Iterations(scenario, profile)
    caches = elastic.autocache and elastic.autopipe
    depth = (elastic.cache.pays_from or 1) if caches else None
    found = _Planner(scenario, profile, simulated, depth).layouts()
    if caches and elastic.cache.pays_from is None and elastic.freeze != "off":
        depth = caches_from(scenario, found, profile, simulated)
        if depth != 1:
            found = _Planner(scenario, profile, simulated, depth).layouts()
    return found


def microbatch_choices(batch: int, pipeline: int) -> tuple[int, ...]:
    """Numbers of equal microbatches of a replica's batch, from the pipeline's length to six times
    it; where none of them divides it, the largest below that does."""
    divisors = [n for n in range(1, MOST_MICROBATCHES * pipeline + 1) if batch % n == 0]
    return tuple(n for n in divisors if n >= pipeline) or (divisors[-1],)


class _Planner:
    """The layouts of one scenario, with what is common to several worked out once."""

    def __init__(
        self,
        scenario: Scenario,
        profile: Profile | None,
        simulated: Iterations,
        caches_from: int | None,
    ) -> None:
        """caches_from: frozen layers from which on they lie where they can be cached."""
        plan, cluster = scenario.plan, scenario.cluster
        if scenario.model is None:
            raise ValueError(f"scenario {scenario.name} has no model to cut into stages")
        self._scenario, self._profile = scenario, profile
        self._model, self._plan, self._elastic = scenario.model, plan, elastic_of(scenario)
        self._times: dict[int, PartTimes] = {}
        self._caches_from = caches_from
        self._iterations = simulated
        counts, layers = plan.layers_per_stage, self._model.layers
        if counts is None and layers % plan.pipeline == 0:
            counts = (layers // plan.pipeline,) * plan.pipeline
        self.first = Layout(
            frozen_layers=0,
            layers_per_stage=counts or self._cut(0, plan.pipeline, plan.micro_batch),
            data=plan.data,
            micro_batch=plan.micro_batch,
            microbatches=plan.num_microbatches,
        )
        self._most_trained = most_trained(self._model, 0, plan.pipeline)
        self._room = None
        if cluster is not None:
            self._room = max(self._peak(self.first), cluster.device.memory)

    def layouts(self) -> tuple[Layout, ...]:
        """By frozen layers."""
        found = [self.first]
        reached = max(frozen_by_epoch(self._scenario))
        for frozen in range(1, self._model.layers + 1):
            if frozen <= reached:
                found.append(self.layout(frozen, found[-1].pipeline))
            else:
                found.append(replace(found[-1], frozen_layers=frozen))
        return tuple(found)

    def layout(self, frozen: int, pipeline: int) -> Layout:
        """The layout for so many frozen layers, after one with a pipeline of such a length."""
        if not self._elastic.autopipe:
            return self._unpacked(frozen)
        found = self._packed(frozen, pipeline)
        while pipeline > 1:
            shorter = self._packed(frozen, pipeline // 2)
            # Where the layers do not fill the stages, the pipeline has to be shorter.
            if found is not None and (shorter is None or not self._fits(shorter)):
                break
            found, pipeline = shorter, pipeline // 2
        if found is None:
            raise NoLayout(
                f"{self._model.layers} layers, {frozen} of them frozen, fill no pipeline whose "
                f"replicas can share {self._plan.num_sequences} sequences: "
                "`elastic.batch: replica` would work"
            )
        return found

    def _fits(self, shorter: Layout) -> bool:
        trained = most_trained(self._model, shorter.frozen_layers, shorter.pipeline)
        if trained > self._most_trained:
            return False
        return self._room is None or self._peak(shorter) <= self._room

    def _unpacked(self, frozen: int) -> Layout:
        """The first layout with the frozen layers where they are; or with them before the first
        stage, and the others over as many stages as get one."""
        first = replace(self.first, frozen_layers=frozen)
        if not self._plan.frozen_first:
            return first
        pipeline = min(first.pipeline, max(1, self._model.layers - frozen))
        return replace(
            first,
            layers_per_stage=self._cut(frozen, pipeline, first.micro_batch),
            replica_ranks=first.pipeline if pipeline < first.pipeline else None,
        )

    def _packed(self, frozen: int, pipeline: int) -> Layout | None:
        """The best layout on so many stages; None where layers or sequences do not go round."""
        elastic, first = self._elastic, self.first
        data = first.data * (first.pipeline // pipeline if elastic.autodp else 1)
        sequences = self._plan.num_sequences
        if self._model.layers - self._together(frozen) < pipeline - 1:
            return None
        if elastic.batch == "global" and sequences % data:
            return None
        batch = sequences // (data if elastic.batch == "global" else first.data)
        idle = data * pipeline < first.num_ranks

        def cut_in(microbatches: int) -> Layout:
            return Layout(
                frozen_layers=frozen,
                layers_per_stage=self._cut(frozen, pipeline, batch // microbatches),
                data=data,
                micro_batch=batch // microbatches,
                microbatches=microbatches,
                replica_ranks=first.pipeline if idle else None,
            )

        given = (elastic.microbatches or {}).get(pipeline)
        if given is not None:
            if batch % given:
                raise NoLayout(
                    f"elastic.microbatches: {given} microbatches do not divide the {batch} "
                    f"sequences of a replica whose pipeline is {pipeline} long; "
                    f"`{{{pipeline}: {microbatch_choices(batch, pipeline)[0]}}}` would work"
                )
            return cut_in(given)
        choices = [cut_in(n) for n in microbatch_choices(batch, pipeline)]
        if len(choices) > 1 and self._room is not None:
            choices = [one for one in choices if self._peak(one) <= self._room] or choices
        if len(choices) == 1:
            return choices[0]
        return min(choices, key=self._iteration_ns)

    def _together(self, frozen: int) -> int:
        """Layers that must lie on the first stage: one; all frozen ones where they are cached; and
        an active one as well where they lie before the pipeline."""
        if self._plan.frozen_first:
            return min(frozen + 1, self._model.layers)
        return max(1, frozen) if self._caches(frozen) else 1

    def _caches(self, frozen: int) -> bool:
        """Whether so many frozen layers' output is cached."""
        return self._caches_from is not None and frozen >= self._caches_from

    def _iteration_ns(self, layout: Layout) -> int:
        """Of its iteration as it is in the end: reading the cache, where that is faster."""
        times = [self._iterations.time_ns(of_layout(layout))]
        if self._caches(layout.frozen_layers):
            read = of_layout(layout, cached_layers=layout.frozen_layers)
            times.append(self._iterations.time_ns(read))
        return min(times)

    def _peak(self, layout: Layout) -> int:
        cached = layout.frozen_layers if self._caches(layout.frozen_layers) else 0
        return self._iterations.peak_bytes(of_layout(layout, cached_layers=cached))

    def _cut(self, frozen: int, pipeline: int, micro_batch: int) -> tuple[int, ...]:
        """Layers of each stage, balanced."""
        layers, weight = self._model.layers, self._elastic.frozen_weight
        both: tuple[Pass, ...] = ("forward", "backward")
        active = self._time(micro_batch, "layer", *both)
        head = self._time(micro_batch, "head", *both)
        if self._plan.frozen_first and frozen:
            if frozen == layers:
                return (layers,)
            counts = balanced([active] * (layers - frozen), pipeline, ends=(0.0, head))
            return (counts[0] + frozen, *counts[1:])
        embedding = self._time(micro_batch, "embedding", *(both[:1] if frozen else both))
        share = self._time(micro_batch, "layer", "forward") if weight is None else weight * active
        if frozen and weight is None and self._caches(frozen):
            read = self._read_ns(micro_batch)
            if read < embedding + frozen * share:
                embedding, share = read, 0.0
        return balanced(
            [share] * frozen + [active] * (layers - frozen),
            pipeline,
            ends=(embedding, head),
            together=self._together(frozen),
        )

    def _time(self, micro_batch: int, part: Part, *passes: Pass) -> float:
        """The time of a part in these passes; nothing of an end that the model has not."""
        if part != "layer" and not self._model.ends:
            return 0.0
        if micro_batch not in self._times:
            self._times[micro_batch] = self._part_times(micro_batch)
        return sum(total_ns(self._times[micro_batch][part][name]) for name in passes)

    def _part_times(self, micro_batch: int) -> PartTimes:
        scenario, profile, sequence = self._scenario, self._profile, self._model.sequence
        plan = replace(self._plan, micro_batch=micro_batch, microbatches=1, global_batch=None)
        setup = setup_of(replace(scenario, plan=plan))
        if profile is None:
            return part_times(setup, sequence, 0)
        setup = setup_of(setup.scenario, fitted_cluster(setup.cluster, profile.efficiency))
        return profiled_part_times(setup, profile, sequence, 0)[0]

    def _read_ns(self, micro_batch: int) -> float:
        assert self._scenario.cluster is not None, "part times need it"
        return cache_rates(self._scenario, self._scenario.cluster).read_ns * micro_batch


def most_trained(model: Model, frozen: int, pipeline: int) -> float:
    """Weights that the stage which trains most trains, where stages are cut as well as half layers
    can be; a pipeline that is too long for them stands half empty."""
    h = model.hidden
    attention = 4 * h * h + 6 * h
    halves = [attention, layer_parameters(model) - attention] * (model.layers - frozen)
    embedding = embedding_parameters(model) if model.ends and not frozen else 0
    head = head_parameters(model) if model.ends else 0
    if not halves:
        return float(embedding + head)
    ends = (float(embedding), float(head))
    return largest(halves, balanced(halves, min(pipeline, len(halves)), ends=ends), ends)
