"""What a layout's program costs, by content: the cost table's figures without a table.

Plans of one model on one cluster have most of it in common: the times of a layer hang on tensor
degree, microbatch and recomputation alone, the links of a message on where the ranks are, a
reduction on a stage's weights and who shares them. Each is computed by the same functions as for
`sim.cost.table.cost_table`, once for all plans that agree in what it depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

import numpy as np

from scenarios.schema import Plan, Scenario
from sim.cost.collectives import Group, data_group, tensor_group, tied_group
from sim.cost.data_parallel import gradient_reduction, sharded_times, weight_gather
from sim.cost.links import Placed, placed, route_of
from sim.cost.measured import fitted_cluster, profiled_message, profiled_part_times
from sim.cost.modelled import (
    PartTimes,
    Setup,
    TimedWork,
    exchange,
    gradient_norm,
    part_times,
    setup_in,
    stage_times,
)
from sim.cost.parts import Parts, total_ns
from sim.cost.profile import Profile
from sim.cost.shapes import Pass
from sim.cost.table import optimizer_parts, tied_parts
from sim.planner.layouts.cuts import Cut, Cuts, num_chunks
from sim.planner.layouts.layout_costs import (
    LayoutCosts,
    Messages,
    Passes,
    RankFlush,
    StageFlush,
    links_of,
    passes_of,
    stage_flush_of,
)
from sim.planner.layouts.plans import piece_fields, scenario_with
from sim.schedule.build import flush_of
from sim.workload.parameters import rank_parameters, stage_parameters
from sim.workload.partition import group_pieces

_Found = TypeVar("_Found")
_WANTED: tuple[Pass, ...] = ("forward", "backward")

_message_fields = attrgetter(
    "micro_batch", "slices", "sequence_parallel", "scatter_gather", "precision"
)
_reduce_fields = attrgetter(
    "tensor",
    "data",
    "sharding",
    "gradient_reduction",
    "gradient_bucket",
    "precision",
    "gradient_precision",
)
_rank_fields = attrgetter(
    "tensor",
    "data",
    "sharding",
    "precision",
    "gradient_precision",
    "master_weights",
    "optimizer",
    "clip_gradients",
    "sequence_parallel",
)


class CostBook:
    """Costs of the plans of one model on one cluster, each computed once.

    For plans whose microbatches are alike, without frozen layers (`knows`), on processors of their
    own.
    """

    def __init__(self, scenario: Scenario, profile: Profile | None, cuts: Cuts) -> None:
        assert scenario.model is not None
        assert scenario.cluster is not None
        self.scenario, self.profile, self.cuts = scenario, profile, cuts
        self.model = scenario.model
        self.cluster = scenario.cluster
        if profile is not None:
            self.cluster = fitted_cluster(scenario.cluster, profile.efficiency)
        self._exchange_ns = _rounded(exchange(self._setup(scenario.plan)))
        self._known: dict[Hashable, Any] = {}
        self._work: TimedWork = {}

    def knows(self, plan: Plan) -> bool:
        """Whether a plan is of the kind whose costs are found here."""
        return not (
            plan.microbatch_groups is not None
            or plan.frozen_layers
            or plan.fills_cache
            or plan.schedule == "given"
        )

    def costs(self, plan: Plan) -> LayoutCosts:
        """The costs of a plan that is known (`knows`)."""
        where = placed(plan)
        groups: _Groups = self._once(("groups", where), lambda: self._groups(plan))
        cut, cut_key = self.cuts.cut(plan), Cuts.key(plan)
        part_key: tuple[Hashable, ...] = (groups.tensor, *piece_fields(plan))
        if self.cluster.device.efficiency.pass_overhead:
            part_key = (*part_key, plan.pipeline)
        shards = groups.data if plan.sharding == "full" and plan.data > 1 else None
        passes = self._once(
            ("passes", part_key, cut_key, shards), lambda: self._passes(plan, part_key, cut)
        )
        messages = self._once(
            ("messages", where, cut_key[1] > 1, *_message_fields(plan)),
            lambda: self._messages(plan, where),
        )
        reduce_key: tuple[Hashable, ...] = ("stages", cut_key, groups.data, *_reduce_fields(plan))
        if plan.gradient_reduction == "overlapped":
            reduce_key = (*reduce_key, part_key)
        stages = self._once(reduce_key, lambda: self._stages(plan, part_key, cut))
        rank_key: tuple[Hashable, ...] = ("ranks", cut_key, groups, *_rank_fields(plan))
        if self.profile is not None:
            rank_key = (*rank_key, part_key)
        ranks = self._once(rank_key, lambda: self._ranks(plan, cut))
        return LayoutCosts(
            cut=cut,
            passes=passes,
            messages=messages,
            stages=stages,
            ranks=ranks,
            exchange_ns=self._exchange_ns if plan.p2p == "blocking" else 0,
        )

    def _once(self, key: Hashable, make: Callable[[], _Found]) -> _Found:
        found: _Found | None = self._known.get(key)
        if found is None:
            found = self._known[key] = make()
        return found

    def _setup(self, plan: Plan) -> Setup:
        scenario = scenario_with(self.scenario, plan)
        return Setup(scenario=scenario, model=self.model, cluster=self.cluster, plan=plan)

    def _groups(self, plan: Plan) -> _Groups:
        ends = (0, plan.pipeline - 1)
        return _Groups(
            tensor=tensor_group(self.cluster, plan),
            data=data_group(self.cluster, plan),
            tied=tied_group(self.cluster, plan, ends) if plan.pipeline > 1 else None,
        )

    def _part_times(self, plan: Plan, key: Hashable) -> tuple[PartTimes, ...]:
        """Of each slice the times of the model's parts."""
        return self._once(("parts", key), lambda: self._made_part_times(plan))

    def _made_part_times(self, plan: Plan) -> tuple[PartTimes, ...]:
        group = plan.groups[0]
        setup = setup_in(self._setup(plan), group)
        found = []
        for _, context, tokens in group_pieces(group, self.model.sequence):
            if self.profile is None:
                found.append(part_times(setup, tokens, context, self._work))
            else:
                found.append(profiled_part_times(setup, self.profile, tokens, context)[0])
        return tuple(found)

    def _passes(self, plan: Plan, part_key: Hashable, cut: Cut) -> Passes:
        times = self._part_times(plan, part_key)
        shards = plan.sharding == "full" and plan.data > 1
        setup = setup_in(self._setup(plan), plan.groups[0]) if shards else None
        loading = float(self.cluster.device.efficiency.data_loading)
        found = np.empty((2, len(cut.parts), len(times)), np.int64)
        for c, part in enumerate(cut.parts):
            for j, own in enumerate(times):
                wanted = None if setup is not None else _WANTED
                passes = stage_times(part, own, loading if j == 0 else 0.0, passes=wanted)
                if setup is not None:
                    passes = sharded_times(setup, part, own, passes)
                found[:, c, j] = _rounded(passes["forward"]), _rounded(passes["backward"])
        return passes_of(found, cut.content, plan.pipeline)

    def _messages(self, plan: Plan, where: Placed) -> Messages:
        setup = setup_in(self._setup(plan), plan.groups[0])
        pieces = group_pieces(plan.groups[0], self.model.sequence)
        p, loops = plan.pipeline, num_chunks(plan) > 1
        hops = self._once(("hops", where, loops), lambda: self._hops(where, loops))
        held: list[tuple[int, ...]] = [()] * (2 * p)
        occupancy = np.zeros((2 * p, len(pieces)), np.int64)
        latency = np.zeros(2 * p, np.int64)
        post, unpack = np.zeros(len(pieces), np.int64), np.zeros(len(pieces), np.int64)
        for hop in hops:
            # With a profile the times of each pair of ranks may be its own.
            for alike in [hop.senders] if self.profile is None else [[s] for s in hop.senders]:
                way, sender = divmod(alike[0], p)
                target = (sender - 1 if way else sender + 1) % p
                each = [
                    profiled_message(setup, self.profile, sender, target, piece.tokens)
                    for piece in pieces
                ]
                occupancy[alike] = [transfer.occupancy_ns for transfer, _, _ in each]
                latency[alike] = each[0][0].latency_ns
                post[:] = [_rounded(posting) for _, posting, _ in each]
                unpack[:] = [_rounded(unpacking) for _, _, unpacking in each]
                held[alike[0]] = each[0][0].resources
        if self.profile is None:
            links = self._once(("links", where, loops), lambda: links_of(_held(hops, p)))
        else:
            links = links_of(held)
        return Messages(
            occupancy_ns=occupancy.reshape(2, p, -1),
            latency_ns=latency.reshape(2, p),
            post_ns=post,
            unpack_ns=unpack,
            links=links,
        )

    def _hops(self, where: Placed, loops: bool) -> list[_Hop]:
        """The messages between ranks, those together that share a NIC with as many copies."""
        p = where.pipeline
        found: dict[int, _Hop] = {}
        for way, step in enumerate((1, -1)):
            for rank in range(p):
                target = rank + step
                if p > 1 and (loops or 0 <= target < p):
                    route = route_of(where, self.cluster, rank, target % p)
                    hop = found.setdefault(route.sharing, _Hop([], []))
                    hop.senders.append(way * p + rank)
                    hop.resources.append(route.resources)
        return list(found.values())

    def _stages(self, plan: Plan, part_key: Hashable, cut: Cut) -> StageFlush:
        setup, flush = self._setup(plan), flush_of(scenario_with(self.scenario, plan))
        found = np.zeros((3, len(cut.parts)), np.int64)
        for c, part in enumerate(cut.parts):
            if flush.reduce_gradients:
                # The last backward pass is of slice 0.
                times = self._part_times(plan, part_key)[0]
                cost = gradient_reduction(setup, part, times)
                found[:2, c] = cost.duration_ns, cost.hidden_ns
            if flush.gather_weights:
                count = stage_parameters(part, setup.scenario)
                found[2, c] = _rounded(weight_gather(setup, count))
        return stage_flush_of(found[:, cut.content], plan.pipeline)

    def _ranks(self, plan: Plan, cut: Cut) -> RankFlush:
        setup, flush = self._setup(plan), flush_of(scenario_with(self.scenario, plan))
        ranks = [[cut.parts[c] for c in kind] for kind in cut.held]
        most = max(rank_parameters(own, setup.scenario) for own in ranks)
        ends = (0, plan.pipeline - 1) if plan.pipeline > 1 else ()
        steps = [_rounded(optimizer_parts(setup, self.profile, own)) for own in ranks]
        tied, norm = flush.reduce_tied, flush.norm
        return RankFlush(
            optimizer_ns=np.array(steps, np.int64)[cut.kind_of],
            tied_ns=_rounded(tied_parts(setup, self.profile, ends)) if tied else 0,
            norm_ns=_rounded(gradient_norm(setup, most)) if norm else 0,
        )


class _Hop(NamedTuple):
    """Messages that take the same times: way num_ranks + rank of their senders, and links."""

    senders: list[int]
    resources: list[tuple[int, ...]]


def _held(hops: Sequence[_Hop], num_ranks: int) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = [()] * (2 * num_ranks)
    for hop in hops:
        for sender, resources in zip(hop.senders, hop.resources, strict=True):
            found[sender] = resources
    return found


class _Groups(NamedTuple):
    """What the collectives of a plan run over."""

    tensor: Group
    data: Group
    tied: Group | None


def _rounded(parts: Parts) -> int:
    """As `sim.cost.parts.rounded`, the duration alone."""
    return round(total_ns(parts))
