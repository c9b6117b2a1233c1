"""The section on token slices: what each of them takes, and what TeraPipe's formula makes of it."""

from __future__ import annotations

from collections.abc import Mapping

from reports import tables, words
from reports.pages import charts_slices
from reports.pages.charts_slices import SliceTime
from reports.pages.sections import Figure, Section
from reports.tables import Cell, Table
from sim.cost.costs import CostKey
from sim.prediction import Prediction
from sim.schedule.actions import Kind
from sim.variants import slicing_text
from sim.workload.partition import Piece, group_pieces

MAX_DRAWN = 160
_NAMES: Mapping[Kind, str] = {
    Kind.FORWARD: "forward",
    Kind.BACKWARD: "backward",
    Kind.BACKWARD_INPUT: "backward",
    Kind.BACKWARD_WEIGHT: "weight",
}


def is_sliced(prediction: Prediction) -> bool:
    """Whether any microbatch is cut into token slices."""
    return prediction.program.schedule.num_slices > 1


def slices_section(prediction: Prediction) -> Section:
    """Every slice's passes through the slowest stage; of unequal microbatches, of each kind."""
    stage, slices = slowest_stage(prediction)
    drawn = slices[:MAX_DRAWN]
    some = "" if len(drawn) == len(slices) else f", the first {len(drawn)} of {len(slices)}"
    used = [n for n in ("forward", "backward", "weight") if any(n in s.passes for s in slices)]
    texts = {"forward": "forward", "backward": "backward", "weight": "weight gradients"}
    return Section(
        name="slices",
        topic="Token slices",
        claim=_claim(slices, stage, several=_several(prediction)),
        reading="A later slice attends to all before it, so equal slices take longer the later "
        "they are; short ones cost more per token. The pipeline moves at the pace of its longest "
        "slice.",
        figures=(
            Figure(
                name="slices",
                title=f"Every slice's passes through stage {stage}, the slowest{some} (simulated)",
                data=charts_slices.slice_times(drawn),
                legend=tuple((name, texts[name]) for name in used),
            ),
        ),
        tables=(_table(slices, stage),),
        lists=(("What TeraPipe's formula makes of it", tuple(_formula(prediction, slices))),),
    )


def slowest_stage(prediction: Prediction) -> tuple[int, list[SliceTime]]:
    """The stage whose passes take longest in all, and its slices; of each kind of microbatch."""
    found = {
        stage: stage_slices(prediction, stage)
        for stage in range(prediction.program.schedule.num_stages)
    }
    stage = max(found, key=lambda s: sum(t.total_ns for t in found[s]))
    return stage, found[stage]


def stage_slices(prediction: Prediction, stage: int) -> list[SliceTime]:
    """The slices of each kind of microbatch with their passes through a stage."""
    scenario, costs = prediction.scenario, prediction.costs.costs
    several = _several(prediction)
    found = []
    for variant, group in enumerate(scenario.plan.variant_groups):
        for number, piece in enumerate(_pieces(prediction, variant)):
            passes: dict[str, int] = {}
            for kind, name in _NAMES.items():
                key = CostKey(kind, stage, number, 0, variant if several else 0)
                if key in costs:
                    passes[name] = passes.get(name, 0) + costs[key].duration_ns
            first = scenario.plan.variants.index(variant)
            label = f"{first}.{number}" if several else str(number)
            if several and group.num_slices == 1:
                label = str(first)
            found.append(SliceTime(label, piece, passes))
    return found


def _pieces(prediction: Prediction, variant: int) -> tuple[Piece, ...]:
    scenario = prediction.scenario
    group = scenario.plan.variant_groups[variant]
    if scenario.model is None:  # Times are given, for even slices of nothing known.
        return tuple(Piece(group.micro_batch, 0, 0) for _ in range(group.num_slices))
    return group_pieces(group, scenario.model.sequence)


def _several(prediction: Prediction) -> bool:
    return len(prediction.scenario.plan.variant_groups) > 1


def _claim(slices: list[SliceTime], stage: int, *, several: bool) -> str:
    longest = max(slices, key=lambda s: s.total_ns)
    shortest = min(slices, key=lambda s: s.total_ns)
    what = "The slices of unequal microbatches" if several else f"{len(slices)} slices"
    known = f" ({words.piece(longest.piece)})" if longest.piece.tokens else ""
    return (
        f"{what} take {words.duration(shortest.total_ns)} to {words.duration(longest.total_ns)} "
        f"each on stage {stage}; the longest is slice {longest.label}{known}"
    )


def _table(slices: list[SliceTime], stage: int) -> Table:
    rows = []
    for own in slices:
        tokens = own.piece.micro_batch * own.piece.tokens
        forward = own.passes.get("forward", 0)
        rest = own.total_ns - forward
        rows.append(
            (
                tables.text(own.label),
                Cell(text=words.count(own.piece.tokens or None), value=own.piece.tokens),
                Cell(text=words.count(own.piece.context), value=own.piece.context),
                tables.seconds(forward / 1e9),
                tables.seconds(rest / 1e9),
                tables.seconds(own.total_ns / tokens / 1e9 if tokens else None),
            )
        )
    return Table(
        caption=f"Slices, on stage {stage}",
        columns=("Slice", "Tokens", "Context", "Forward", "Backward", "Per token"),
        rows=tuple(rows),
        fold=len(rows) > tables.FOLD_ROWS,
    )


def _formula(prediction: Prediction, slices: list[SliceTime]) -> list[str]:
    """sum t + (K - 1) max t of the slowest stage's slices, beside the simulation."""
    plan = prediction.scenario.plan
    stages = prediction.program.schedule.num_stages
    own: dict[int, list[int]] = {}
    position = 0
    for variant, group in enumerate(plan.variant_groups):
        own[variant] = [s.total_ns for s in slices[position : position + group.num_slices]]
        position += group.num_slices
    total = sum(sum(own[variant]) for variant in plan.variants)
    largest = max(max(times) for times in own.values())
    formula = total + (stages - 1) * largest
    simulated = prediction.figures.iteration_ns
    again = "the longest slice once more"
    if stages != 2:
        again = f"{stages - 1} times the longest slice"
    cut = (
        ""
        if prediction.scenario.model is None
        else f" Slices: {slicing_text(prediction.scenario)}."
    )
    return [
        f"All slices one behind the other take {words.duration(total)} on this stage; filling and "
        f"draining {words.plural(stages, 'stage')} adds {again}: "
        f"{words.duration(formula)} in all (arXiv 2102.07988, section 3.3).",
        f"The simulation gives {words.duration(simulated)}, with messages, unequal stages, the "
        f"order of the schedule, optimizer and reductions. (The formula's times of `pipetwin "
        f"slice` hold the messages, too.){cut}",
    ]
