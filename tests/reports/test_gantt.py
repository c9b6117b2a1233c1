"""The timeline's data where ranks hold several stages and reductions overlap with passes."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from reports.pages import gantt
from reports.pages.page import render
from reports.terminal.basics import show_schedule
from scenarios.loader import load
from sim.cost.costs import Cost, CostKey, CostTable
from sim.engine.simpy_engine import simulate
from sim.prediction import predict
from sim.schedule.actions import Kind
from sim.schedule.generators import gpipe, interleaved
from sim.schedule.lowering import Flush, lower


def table(stages: int) -> CostTable:
    costs = {}
    for stage in range(stages):
        for kind, time, hidden in (
            (Kind.FORWARD, 10, 0),
            (Kind.BACKWARD, 20, 0),
            (Kind.REDUCE_GRADIENTS, 30, 15),
            (Kind.EXCHANGE, 2, 0),
        ):
            costs[CostKey(kind, stage)] = Cost(duration_ns=time, parts={}, hidden_ns=hidden)
    return CostTable(costs=costs)


def test_an_overlapped_reduction_is_cut_where_the_passes_end() -> None:
    """One pass of 10 and one of 20: the reduction of 15-45 lies beside them until 30."""
    program = lower(gpipe(1, 1), "overlapped", Flush(reduce_gradients=True, overlapped=True))
    track = gantt.Track(simulate(program, table(1)), program, None)
    drawn = list(gantt._drawn(track, lambda rank: rank))
    pieces = [
        (gantt.STYLES[gantt.style_of(d.span)], d.span.start_ns, d.span.end_ns)
        for d in drawn
        if d.span.action.kind is Kind.REDUCE_GRADIENTS
    ]
    assert pieces == [("transfer", 15, 30), ("communication", 30, 45)]
    assert all(d.wait.gap_ns == 0 for d in drawn)


def test_the_data_tells_that_ranks_hold_several_stages() -> None:
    program = lower(interleaved(2, 4, 2), "blocking")
    data = gantt.timeline_data(simulate(program, table(4)), program)
    assert data["several_stages"] is True
    spans = {
        name: np.frombuffer(base64.b64decode(data["spans"][name]), dtype=dtype)
        for name, dtype in (("stage", "<u2"), ("kind", "u1"), ("microbatch", "<u2"))
    }
    forward = spans["kind"] == gantt.KINDS.index(Kind.FORWARD)
    assert sorted(set(spans["stage"][forward])) == [0, 1, 2, 3]
    exchanges = spans["kind"] == gantt.KINDS.index(Kind.EXCHANGE)
    assert exchanges.any() and (spans["microbatch"][exchanges] == gantt.NOTHING).all()
    one = lower(gpipe(2, 2))
    assert gantt.timeline_data(simulate(one, table(2)), one)["several_stages"] is False


def test_the_terminal_names_the_stage_of_a_pass(capsys: pytest.CaptureFixture[str]) -> None:
    show_schedule(interleaved(2, 2, 2))
    several = " ".join(capsys.readouterr().out.split())
    assert "0F0" in several and "2F0" in several and "5F3 is F3 of stage 5" in several
    show_schedule(gpipe(2, 2))
    assert " F0" in (plain := capsys.readouterr().out) and "0F0" not in plain


def test_a_page_of_an_interleaved_plan_with_all_new_costs() -> None:
    found = load(
        "megatron/175b",
        (
            "plan.schedule=interleaved",
            "plan.chunks=2",
            "plan.sharding=optimizer",
            "plan.gradient_reduction=overlapped",
            "plan.sequence_parallel=true",
            "plan.global_batch=256",
            "cluster.device.efficiency.message_overhead=100 us",
            "cluster.device.efficiency.data_loading=1 ms",
        ),
    )
    prediction = predict(found.scenario)
    page = render(prediction, loaded=found)
    for words in (
        "data loading",
        "gathering of sharded weights",
        "host time of exchanges",
        "an exchange of blocking messages",
        "tensor-parallel collectives",
    ):
        assert words in page.replace("\u00a0", " ")
