"""Memory of each pipeline rank: what it holds always, per microbatch in flight, and while working.

Activation bytes follow Korthikanti et al. 2022, "Reducing Activation Recomputation in Large
Transformer Models" (arXiv 2205.05198), table 2: s b h (34 + 5 a s/h) bytes a layer at 16 bit. What
sharding leaves on each replica: Rajbhandari et al. 2020, "ZeRO" (arXiv 1910.02054), section 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from scenarios.schema import PRECISION_BYTES, MicrobatchGroup, Plan, Scenario
from sim.schedule.actions import Action, Kind
from sim.schedule.lowering import RECEIVE_WINDOW, Program
from sim.schedule.schedule import Schedule
from sim.workload.parameters import (
    largest_matrix,
    rank_parameters,
    share,
    updated_parameters,
)
from sim.workload.partition import Piece, StagePart, group_pieces, partition
from sim.workload.setting import Setting, message_bytes, settings_by_variant


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryModel:
    """Bytes of one pipeline (one tensor and data replica) by rank, stage and kind of action.

    static: per rank, what is held throughout, by kind.
    activations: per stage, variant and slice, what a microbatch holds from F's start to B's end.
    caches: likewise, the keys and values that a slice holds from F's start to the end of slice 0's
        backward pass, for the slices after it; their gradients take as much again from the
        microbatch's first backward pass to its last.
    variants: of each microbatch its variant (size and slicing); empty where all are alike.
    working: per stage, what a pass of a kind needs beside that while it runs.
    first_working: where the frozen layers run first, over the whole batch: per stage, what
        microbatch 0's forward pass needs instead.
    ahead: likewise, per stage, what microbatch 0's forward pass makes for each later one, whose own
        forward pass then does not take it.
    optimizer: per rank, what its optimizer step needs while it runs.
    """

    static: tuple[Mapping[str, int], ...]
    activations: tuple[tuple[tuple[int, ...], ...], ...]
    working: tuple[Mapping[Kind, int], ...]
    optimizer: tuple[int, ...]
    caches: tuple[tuple[tuple[int, ...], ...], ...] = ()
    variants: tuple[int, ...] = ()
    first_working: tuple[int, ...] = ()
    ahead: tuple[int, ...] = ()
    num_microbatches: int = 0

    def static_bytes(self, rank: int) -> Mapping[str, int]:
        """What a rank holds throughout the iteration, by kind: parameters, gradients,
        master_weights, optimizer_state, message_buffers, reserved."""
        return self.static[rank]

    def activation_bytes(self, stage: int, slice_index: int = 0, microbatch: int = 0) -> int:
        """What one microbatch's slice holds on a stage from the start of F to the end of B (of W,
        where the backward pass is split)."""
        return self.activations[stage][self._variant(microbatch)][slice_index]

    def taken_bytes(self, action: Action) -> int:
        """What a pass takes at its start and leaves to later ones."""
        kind, stage, microbatch, index, _ = action
        variant = self._variant(microbatch)
        if kind is Kind.FORWARD:
            taken = self.activations[stage][variant][index] + self._cached(stage, variant)[index]
            if self.ahead:
                taken += self.ahead[stage] * (-1 if microbatch else self.num_microbatches - 1)
            return taken
        last = index == len(self.activations[stage][variant]) - 1
        if kind in (Kind.BACKWARD, Kind.BACKWARD_INPUT) and last:
            return sum(self._cached(stage, variant))
        return 0

    def freed_bytes(self, action: Action) -> int:
        """What a pass frees at its end, of what it or earlier ones took."""
        kind, stage, microbatch, index, _ = action
        variant = self._variant(microbatch)
        freed = 0
        if kind in (Kind.BACKWARD, Kind.BACKWARD_WEIGHT):
            freed += self.activations[stage][variant][index]
        if kind in (Kind.BACKWARD, Kind.BACKWARD_INPUT) and index == 0:
            freed += 2 * sum(self._cached(stage, variant))
        return freed

    def _cached(self, stage: int, variant: int) -> tuple[int, ...]:
        slices = self.activations[stage][variant]
        return self.caches[stage][variant] if self.caches else (0,) * len(slices)

    def _variant(self, microbatch: int | None) -> int:
        return self.variants[microbatch] if self.variants and microbatch is not None else 0

    def working_bytes(self, stage: int, kind: Kind, microbatch: int | None = None) -> int:
        """What an action needs only while it runs; for OPTIMIZER, `stage` numbers the rank, as it
        does in actions."""
        if self.first_working and kind is Kind.FORWARD and microbatch == 0:
            return self.first_working[stage]
        return self.optimizer[stage] if kind is Kind.OPTIMIZER else self.working[stage].get(kind, 0)


def memory_model(scenario: Scenario, plan_of: Program | Schedule) -> MemoryModel | None:
    """The memory model of a scenario under a program or schedule.

    With costs given outright only activations are known, and None is returned where not all stages
    have their size (`costs.activation`). With a model but no cluster nothing is reserved.
    Not modelled: fragmentation of the allocator; that W needs less than I where the backward pass
    is split; a stage's output kept after it was sent (Megatron-LM before 2022).
    Frozen layers have their weights alone, and the working memory of a forward pass; where they run
    over the whole batch first, its output is held until each microbatch is done with its part.
    """
    schedule = plan_of.schedule if isinstance(plan_of, Program) else plan_of
    if scenario.costs is not None:
        return _given(scenario, schedule)
    if scenario.model is None:
        return None
    parts = partition(scenario, schedule.num_stages)
    groups = scenario.plan.variant_groups
    settings = settings_by_variant(scenario)
    every = tuple(setting for variant in settings for setting in variant)
    counts = tuple(
        Counts(
            held=rank_parameters(own, scenario),
            trained=rank_parameters([part.active for part in own], scenario),
        )
        for own in ([parts[stage] for stage in schedule.stages_of(r)] for r in _ranks(schedule))
    )
    message = message_bytes(every)
    window = receive_window(scenario.plan)
    first = scenario.plan.runs_frozen_first
    return MemoryModel(
        static=tuple(
            {**static_by_kind(scenario, count), "message_buffers": message * buffers}
            for count, buffers in zip(counts, _buffers(schedule, window), strict=True)
        ),
        activations=tuple(kept_by_slice(part, settings) for part in parts),
        working=tuple(working_by_kind(part, every, scenario) for part in parts),
        optimizer=tuple(optimizer_bytes(scenario, count.trained) for count in counts),
        caches=tuple(
            tuple(
                tuple(part.num_layers * cached_bytes(s, variant) for s in variant)
                for variant in settings
            )
            for part in parts
        ),
        variants=scenario.plan.variants if len(groups) > 1 else (),
        first_working=_first_working(parts, every, scenario) if first else (),
        ahead=tuple(0 if part.stage else message for part in parts) if first else (),
        num_microbatches=scenario.plan.num_microbatches,
    )


def receive_window(plan: Plan) -> int:
    """Receives that are posted at once from each sender."""
    return RECEIVE_WINDOW if plan.p2p == "overlapped" else 1


def cached_bytes(setting: Setting, slices: Sequence[Setting]) -> int:
    """Bytes of one layer's keys and values of a slice, where there are others to use them."""
    if len(slices) == 1:
        return 0
    s = setting
    return 2 * s.element_bytes * s.rows * share(s.model.hidden, s.tensor)


def kept_by_slice(
    part: StagePart, settings: tuple[tuple[Setting, ...], ...]
) -> tuple[tuple[int, ...], ...]:
    """What each variant's slices keep until their own backward pass: their keys and values, which
    are among a layer's activations where nothing is recomputed, live longer and count apart."""
    found = []
    for slices in settings:
        apart = 0 if slices[0].recomputation == "full" else part.num_layers
        found.append(
            tuple(stage_activations(part, s) - apart * cached_bytes(s, slices) for s in slices)
        )
    return tuple(found)


def _given(scenario: Scenario, schedule: Schedule) -> MemoryModel | None:
    """Chunks and slices divide a rank's activations evenly, as they divide its times."""
    costs = scenario.costs
    assert costs is not None
    plan = scenario.plan
    groups = plan.variant_groups
    sizes: list[tuple[tuple[int, ...], ...]] = []
    for stage in range(schedule.num_stages):
        own = costs.stages.get(stage)
        size = own.activation if own is not None else None
        if size is None and costs.activation is not None:
            size = share(costs.activation, len(schedule.stages_of(schedule.rank_of(stage))))
        if size is None:
            return None
        sizes.append(
            tuple(
                tuple(
                    share(size * piece.micro_batch * piece.tokens, whole * _unit(plan))
                    for piece in slices
                )
                for whole, slices in (_by_tokens(group) for group in groups)
            )
        )
    reserved = scenario.cluster.device.reserved_memory if scenario.cluster is not None else 0
    return MemoryModel(
        static=tuple({"reserved": reserved} for _ in _ranks(schedule)),
        activations=tuple(sizes),
        working=tuple({} for _ in sizes),
        optimizer=(0,) * schedule.num_ranks,
        variants=plan.variants if len(groups) > 1 else (),
    )


def _by_tokens(group: MicrobatchGroup) -> tuple[int, tuple[Piece, ...]]:
    """The tokens of a sequence whose length nobody gave (a token a slice where their tokens are
    not given either), and the pieces of a group's microbatch."""
    whole = sum(group.slices) if isinstance(group.slices, tuple) else group.num_slices
    return whole, group_pieces(group, whole)


def _unit(plan: Plan) -> int:
    """Sequences of the microbatch whose activations are given."""
    return 1 if plan.microbatch_groups is not None else plan.micro_batch


def _buffers(schedule: Schedule, window: int) -> tuple[int, ...]:
    """For each rank, the messages it has room for."""
    if schedule.num_ranks == 1:
        return (0,)
    stages, frozen = schedule.num_stages, schedule.frozen_stages
    return tuple(
        sum(stage_buffers(s, stages, window, frozen) for s in schedule.stages_of(rank))
        for rank in _ranks(schedule)
    )


def stage_buffers(stage: int, num_stages: int, window: int, frozen: int = 0) -> int:
    """The messages a stage has room for: `window` receives posted ahead from each neighbour that
    sends to it, and one send on its way to each that receives; none goes into a frozen stage."""
    last = num_stages - 1
    received = (stage > 0) + (frozen <= stage < last)
    sent = (stage < last) + (stage > frozen)
    return window * received + sent


def _ranks(schedule: Schedule) -> range:
    return range(schedule.num_ranks)


class Counts(NamedTuple):
    """Weights on a device of a rank: all, and those that are trained."""

    held: int
    trained: int


def static_by_kind(scenario: Scenario, count: Counts) -> Mapping[str, int]:
    """What a rank holds throughout, but for its buffers."""
    plan = scenario.plan
    moment = 8 if plan.precision == "fp64" else 4
    held, trained = (share(n, plan.data) if plan.sharding == "full" else n for n in count)
    updated = updated_parameters(count.trained, plan)
    return {
        "parameters": held * PRECISION_BYTES[plan.precision],
        "gradients": trained * PRECISION_BYTES[plan.reduced_precision],
        "master_weights": 4 * updated if plan.keeps_master_weights else 0,
        "optimizer_state": 2 * moment * updated if plan.optimizer == "adam" else 0,
        "reserved": scenario.cluster.device.reserved_memory if scenario.cluster else 0,
    }


def optimizer_bytes(scenario: Scenario, count: int) -> int:
    """An fp32 copy of 16-bit gradients for the fp32 weights, as in Megatron-LM."""
    plan = scenario.plan
    copied = plan.keeps_master_weights and PRECISION_BYTES[plan.reduced_precision] < 4
    return 4 * updated_parameters(count, plan) if copied else 0


def layer_activations(setting: Setting) -> int:
    """Bytes that one layer keeps for its backward pass without recomputation.

    s b h (10 + 24/t + 5 a s/(h t)) at 16 bit with tensor parallelism (arXiv 2205.05198, equation
    2), s b h (34/t + 5 a s/(h t)) with sequence parallelism (equation 4), of which the last term,
    attention's core, is missing with fused attention.
    """
    s, model, e = setting, setting.model, setting.element_bytes
    local, wide = share(model.hidden, s.tensor), share(model.ffn, s.tensor)
    whole = (4 * e + 2) * s.near_rows * model.hidden
    split = e * s.rows * (4 * local + 2 * wide)
    return whole + split + (_core(s) if s.attention == "unfused" else 0)


def _core(s: Setting) -> int:
    """Softmax output, its dropout's output and mask."""
    return (2 * s.element_bytes + 1) * _scores(s)


def _scores(s: Setting) -> int:
    heads = share(s.model.heads, s.tensor)
    return s.micro_batch * heads * s.tokens * (s.context + s.tokens)


def kept_activations(setting: Setting) -> int:
    """Bytes that one layer keeps from forward to backward pass under the setting's recomputation:
    all, all but attention's core (selective), or its input (full; the first of each group's)."""
    s = setting
    if s.recomputation == "full":
        return s.element_bytes * s.near_rows * s.model.hidden
    core = _core(s) if s.recomputation == "selective" and s.attention == "unfused" else 0
    return layer_activations(s) - core


def stage_activations(part: StagePart, setting: Setting) -> int:
    """Bytes that a stage keeps for one microbatch (slice) from forward to backward pass.

    The embedding adds its dropout's mask, the head its layernorm's and product's inputs and the
    softmax in fp32 (arXiv 2205.05198, section 4.3). Frozen layers keep nothing; the input of the
    first active one is among what it keeps.
    """
    s, model = setting, setting.model
    total = share(part.num_active, s.recompute_every) * kept_activations(s)
    if part.trains_embedding:
        total += s.near_rows * model.hidden
    return total + (head_activations(s) if part.head else 0)


def head_activations(setting: Setting) -> int:
    """Bytes that the head keeps: inputs of its layernorm and product, and the softmax in fp32."""
    s = setting
    return 2 * s.element_bytes * s.near_rows * s.model.hidden + logit_bytes(s)


def logit_bytes(setting: Setting) -> int:
    """Bytes of a microbatch's logits in the loss on one device: T V/t numbers in fp32."""
    s = setting
    if s.model.classifies:
        return s.logit_bytes * s.micro_batch * s.model.outputs
    return s.logit_bytes * s.rows * s.local_vocabulary


def working_by_kind(
    part: StagePart, settings: tuple[Setting, ...], scenario: Scenario
) -> Mapping[Kind, int]:
    """The largest over the slices, of what lives beside the activations kept.

    A pass through layers: a group's recomputed activations, the largest tensor (its gradient, or
    what attention's softmax reads) and two of the residual's size; autograd frees what is saved as
    it goes, and what the head saved before it comes to the layers. The head's own: its 16-bit
    logits, and gradients of the fp32 ones. What is read from the cache and what is written to it is
    a microbatch's activations each, while the forward pass runs. With full sharding the weight
    matrix at work and the one gathered ahead, and a matrix of gradients.
    """
    forward = backward = 0
    for s in settings:
        temporary = _temporary(s)
        group = min(s.recompute_every, part.num_active)
        again = group * layer_activations(s) - kept_activations(s) if group else 0
        layers = temporary + again
        if part.head:
            half = logit_bytes(s) * s.element_bytes // s.logit_bytes
            forward = max(forward, half)
            backward = max(backward, half + logit_bytes(s))
            layers -= head_activations(s)
        if part.num_active or not part.frozen_layers:
            backward = max(backward, layers)
        through = _cache_bytes(part, s, scenario)
        if part.num_computed or not part.cached_layers:
            through += temporary
        forward = max(forward, through)
    weights = gradients = 0
    if scenario.plan.sharding == "full" and scenario.plan.data > 1:
        ends = part.embedding or part.head
        matrix = largest_matrix(settings[0].model, scenario.plan.tensor, table=ends)
        weights = 2 * matrix * PRECISION_BYTES[scenario.plan.precision]
        gradients = matrix * PRECISION_BYTES[scenario.plan.reduced_precision]
    if not part.trained:
        return {Kind.FORWARD: forward + weights}
    return {
        Kind.FORWARD: forward + weights,
        Kind.BACKWARD: backward + weights + gradients,
        Kind.BACKWARD_INPUT: backward + weights,
        Kind.BACKWARD_WEIGHT: gradients,
    }


def _temporary(s: Setting) -> int:
    """What a pass through a layer works on beside what it keeps."""
    wide = s.rows * max(share(s.model.ffn, s.tensor), s.model.hidden)
    largest = max(wide, _scores(s) if s.attention == "unfused" else 0)
    return s.element_bytes * (largest + 2 * s.rows * s.model.hidden)


def _cache_bytes(part: StagePart, s: Setting, scenario: Scenario) -> int:
    """What a stage's forward pass has on its way from and to the cache."""
    if part.stage:
        return 0
    ways = (part.cached_layers > 0) + scenario.plan.fills_cache
    return ways * s.element_bytes * s.rows * s.model.hidden


def _first_working(
    parts: Sequence[StagePart], settings: Sequence[Setting], scenario: Scenario
) -> tuple[int, ...]:
    """What microbatch 0's forward pass needs: on the first stage the frozen layers work on the
    whole batch at once, and the active ones then on one microbatch."""
    found = []
    for part in parts:
        most = working_by_kind(part, tuple(settings), scenario)[Kind.FORWARD]
        if part.stage == 0:
            times = scenario.plan.num_microbatches
            whole = [replace(s, micro_batch=s.micro_batch * times) for s in settings]
            only = replace(part, num_layers=part.frozen_layers, head=False)
            most = max(most, working_by_kind(only, tuple(whole), scenario)[Kind.FORWARD])
        found.append(most)
    return tuple(found)


def piece_bytes(part: StagePart, setting: Setting, scenario: Scenario) -> int:
    """What one piece by itself needs on a stage: what it keeps, and the larger of what its forward
    and its backward pass need while they run."""
    return stage_activations(part, setting) + max(
        working_by_kind(part, (setting,), scenario).values()
    )


def peak_bytes(model: MemoryModel, schedule: Schedule) -> tuple[int, ...]:
    """Each rank's peak by liveness in program order alone, without any times.

    Exact for the passes, as a rank runs one at a time.
    Not modelled: fragmentation of the allocator.
    """
    peaks = []
    for rank, order in enumerate(schedule.orders):
        base = sum(model.static_bytes(rank).values())
        live = 0
        peak = model.working_bytes(rank, Kind.OPTIMIZER)
        for action in order:
            live += model.taken_bytes(action)
            working = model.working_bytes(action.stage, action.kind, action.microbatch)
            peak = max(peak, live + working)
            live -= model.freed_bytes(action)
        peaks.append(base + peak)
    return tuple(peaks)
