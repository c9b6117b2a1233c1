"""What is freed: closed forms in whole nanoseconds, and that nothing freed makes it longer."""

from dataclasses import replace
from typing import Any

import pytest
from asking_cases import given, given_scenarios, small
from hypothesis import HealthCheck, example, settings
from hypothesis import given as given_by
from hypothesis import strategies as st

from scenarios.loader import load
from scenarios.schema import Scenario, StageCosts
from sim.cost.costs import CostTable
from sim.cost.modelled import part_times, setup_of
from sim.engine.choice import simulate
from sim.prediction import Prediction, predict
from sim.schedule.actions import Kind
from sim.timeline.figures import figures
from sim.what_if.freeing import (
    balanced,
    freed,
    less_hidden,
    without_bubble_ns,
    without_category,
    without_contention,
    without_kinds,
    without_latency,
    without_messages,
)

M, P, F, B, STEP = 7, 4, 100, 230, 50


def times(scenario: Scenario) -> dict[str, int]:
    return {one.what: one.iteration_ns for one in freed(predict(scenario))}


def after(prediction: Prediction, table: CostTable) -> int:
    return simulate(prediction.program, table).iteration_ns


def contention_free(prediction: Prediction) -> Prediction:
    """The prediction with links for every message, which then takes as long as its costs say."""
    costs = without_contention(prediction.costs)
    found = figures(simulate(prediction.program, costs), prediction.program)
    return replace(prediction, costs=costs, figures=found)


def test_1f1b_of_equal_stages_in_closed_form() -> None:
    plan = {"pipeline": P, "microbatches": M}
    scenario = given(plan, forward=F, backward=B, optimizer=STEP)
    assert predict(scenario).figures.iteration_ns == (M + P - 1) * (F + B) + STEP
    assert times(scenario) == {
        "bubble": M * (F + B) + STEP,
        "forward": (M + P - 1) * B + STEP,
        "backward": (M + P - 1) * F + STEP,
        "optimizer": (M + P - 1) * (F + B),
    }


def test_gains_are_fractions_of_the_iteration_most_first() -> None:
    scenario = given({"pipeline": P, "microbatches": M}, forward=F, backward=B)
    found = freed(predict(scenario))
    now = (M + P - 1) * (F + B)
    assert [one.gain for one in found] == [1 - one.iteration_ns / now for one in found]
    assert [one.gain for one in found] == sorted((one.gain for one in found), reverse=True)
    bubble = next(one for one in found if one.what == "bubble")
    assert bubble.gain == pytest.approx((P - 1) / (M + P - 1), abs=1e-15)
    assert bubble.share == pytest.approx((P - 1) / (M + P - 1), abs=1e-15)
    forward = next(one for one in found if one.what == "forward")
    assert forward.share == pytest.approx(M * F / now, abs=1e-15)


@pytest.mark.parametrize("p2p", ["overlapped", "blocking", "exchange"])
@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
def test_free_messages_leave_the_iteration_without_them(p2p: str, schedule: str) -> None:
    plan = {"schedule": schedule, "pipeline": P, "microbatches": M, "p2p": p2p}
    found = times(given(plan, forward=F, backward=B, send=40))
    assert found["point_to_point"] == (M + P - 1) * (F + B)
    assert found["bubble"] == M * (F + B)


def test_interleaved_in_closed_form() -> None:
    plan = {"schedule": "interleaved", "chunks": 2, "pipeline": P, "microbatches": 2 * P}
    found = times(given(plan, forward=F, backward=B, send=1))
    assert found["point_to_point"] == 2 * P * (F + B) + (P - 1) * (F + B) // 2
    assert found["bubble"] == 2 * P * (F + B)


def test_stages_of_the_same_mean_take_as_long_as_equal_ones() -> None:
    plan = {"pipeline": 4, "microbatches": M}
    forward, backward = (60, 80, 120, 140), (220, 240, 200, 260)
    stages = {
        s: StageCosts(forward=forward[s], backward=backward[s], optimizer=STEP) for s in range(4)
    }
    found = times(given(plan, stages=stages, forward=1))
    assert found["imbalance"] == (M + 3) * (100 + 230) + STEP
    assert found["bubble"] == M * max(f + b for f, b in zip(forward, backward, strict=True)) + STEP


def test_equal_stages_are_not_told_to_be_balanced() -> None:
    assert "imbalance" not in times(given({"pipeline": 2, "microbatches": 2}, forward=10))


def test_one_rank_has_no_bubble_and_no_messages() -> None:
    assert set(times(given({"microbatches": 3}, forward=10))) == {"forward", "backward"}


def test_messages_of_one_pair_queue_for_its_link() -> None:
    # Both chunks' messages of rank 0 go to rank 1, each longer than the pass that makes it.
    plan = {"schedule": "gpipe", "pipeline": 2, "microbatches": 3}
    found = times(given(plan, forward=10, backward=10, send=100))
    # One after another: 10 + 3 x 100 + 10 forward, as much back. Side by side: from 30 on.
    assert predict(given(plan, forward=10, backward=10, send=100)).figures.iteration_ns == 640
    assert found["contention"] == 2 * (30 + 100 + 10)


def test_with_everything_free_nothing_is_left() -> None:
    prediction = predict(small())
    table = without_messages(prediction.costs)
    categories = {c for cost in table.costs.values() for c in cost.parts}
    for category in categories:
        table = without_category(table, category)
    assert after(prediction, table) == 0


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"sequence_parallel": True, "recomputation": "selective", "sharding": "optimizer"},
        {"gradient_reduction": "overlapped", "gradient_bucket": 1 << 16},
    ],
)
def test_what_is_freed_is_simulated_without_it(plan: dict[str, Any]) -> None:
    prediction = predict(small(**plan))
    found = {one.what: one for one in freed(prediction)}
    shares = prediction.figures.breakdown
    for what, one in found.items():
        if what in ("matmul", "tensor_parallel", "data_parallel", "optimizer", "recomputation"):
            table = without_category(prediction.costs, what)  # type: ignore[arg-type]
            gone = what
            table = less_hidden(prediction, table, lambda name, c, gone=gone: c == gone)  # type: ignore[misc]
            assert one.iteration_ns == after(prediction, table)
            assert one.share == shares.get(what, 0.0)
    assert {"matmul", "optimizer", "tensor_parallel"} <= found.keys()
    assert ("bubble" in found) == (prediction.program.num_ranks > 1)


def test_what_collectives_of_shards_hid_shows_where_it_is_free() -> None:
    # Slow links: a pass is its gathers and reduce-scatters, and the last part's computation.
    slow = ("cluster.inter_node.bandwidth=1 Gbit/s", "cluster.device.efficiency.overlap_slowdown=0")
    scenario = small(*slow, pipeline=1, data=4, sharding="full")
    prediction = predict(scenario)
    found = {one.what: one for one in freed(prediction)}
    passes = part_times(setup_of(scenario), 128, 0)
    microbatches = scenario.plan.num_microbatches
    head = microbatches * passes["head"]["forward"]["matmul"]
    now = prediction.figures.iteration_ns
    assert now - found["matmul"].iteration_ns == pytest.approx(head, abs=3 * microbatches)
    assert found["matmul"].share > 3 * head / now
    # Computation hid some of them: without the gathers it hides more of the reduce-scatters.
    assert found["weight_gather"].gain > found["weight_gather"].share + 0.001
    free = found["data_parallel"].iteration_ns, found["weight_gather"].iteration_ns
    assert max(free) < now and min(free) > now - sum(now - one for one in free)


def test_the_hosts_time_to_launch_a_layer_stays_where_kernels_are_free() -> None:
    bound = small("cluster.device.efficiency.layer_overhead=10 ms", p2p="overlapped")
    found, now = times(bound), predict(bound).figures.iteration_ns
    assert found["attention"] == now
    # The head's matrix products are no layer's; the embedding has none.
    head = part_times(setup_of(bound), 128, 0)["head"]
    alone = head["forward"]["matmul"] + head["backward"]["matmul"]
    assert 0 < now - found["matmul"] <= (bound.plan.num_microbatches + 1) * alone
    # Were the host free, it would be as if there were no such time.
    unbound = small("cluster.device.efficiency.layer_overhead=0 s", p2p="overlapped")
    assert found["host"] == times(unbound)["host"]


def test_waiting_is_the_bubble_and_messages_under_way() -> None:
    # A page says elsewhere what the bubble alone is.
    prediction = predict(small(p2p="overlapped"))
    found = {one.what: one for one in freed(prediction)}
    shares = prediction.figures.breakdown
    assert min(shares["bubble"], shares["point_to_point"]) > 0.001
    assert found["bubble"].share == shares["bubble"] + shares["point_to_point"]
    assert found["bubble"].words.partition(":")[0] == "waiting for other ranks"
    # One rank sends nothing, whatever an exchange of messages would take.
    assert {"bubble", "point_to_point"}.isdisjoint(times(small(pipeline=1, data=4, p2p="blocking")))


def test_categories_are_those_of_the_costs_whatever_the_engine() -> None:
    # Above 20,000 actions the compiled engine runs, from the program's shape.
    prediction = predict(load("megatron/175b").scenario, engine="simpy")
    found = {one.what: one for one in freed(prediction)}
    for what in ("tensor_parallel", "attention"):
        table = without_category(prediction.costs, what)
        assert found[what].iteration_ns == simulate(prediction.program, table, "simpy").iteration_ns


@given_by(given_scenarios())
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_given_costs_freed_are_never_slower(scenario: Scenario) -> None:
    own = contention_free(predict(scenario))
    for one in freed(own):
        if one.what != "imbalance":
            assert one.iteration_ns <= own.figures.iteration_ns, one.what
    busy = [sum(s.duration_ns for s in spans) for spans in own.timeline.compute]
    if own.program.num_ranks > 1:
        assert without_bubble_ns(own.program, own.costs) == max(busy, default=0)


def test_messages_that_come_at_once_can_overtake_where_they_share_a_link() -> None:
    # With free backward passes all three messages back are there at once, and the link takes the
    # first microbatch's first, which the next rank needs last: an anomaly of contention.
    plan = {"schedule": "terapipe", "pipeline": 3, "microbatches": 3}
    stages = {
        0: StageCosts(forward=0, backward=0, send=0),
        1: StageCosts(forward=0, backward=0, send=1),
        2: StageCosts(forward=0, backward=1, send=1),
    }
    prediction = predict(given(plan, stages=stages, forward=1))
    found = {one.what: one for one in freed(prediction)}
    assert (prediction.figures.iteration_ns, found["backward"].iteration_ns) == (8, 9)
    assert found["backward"].gain == -1 / 8
    alone = {one.what: one for one in freed(contention_free(prediction))}
    assert alone["backward"].gain >= 0


OPTIONS: dict[str, list[Any]] = {
    "schedule": ["1f1b", "gpipe"],
    "recomputation": ["none", "selective", "full"],
    "sequence_parallel": [False, True],
    "sharding": ["none", "optimizer"],
    "gradient_reduction": ["after", "overlapped"],
    "gradient_bucket": [1 << 12, 1 << 18],
    "p2p": ["overlapped", "blocking", "exchange"],
    "scatter_gather": [False, True],
    "micro_batch": [1, 2, 4],
    "clip_gradients": [False, True],
}


@given_by(st.fixed_dictionaries({k: st.sampled_from(v) for k, v in OPTIONS.items()}))
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@example(dict.fromkeys(OPTIONS) | {k: v[-1] for k, v in OPTIONS.items()})
def test_modelled_costs_freed_are_never_slower_without_contention(plan: dict[str, Any]) -> None:
    own = contention_free(predict(small(**plan)))
    now = own.figures.iteration_ns
    # What a reduction hides is rounded, on each of two stages.
    for one in freed(own):
        if one.what != "imbalance":
            assert one.iteration_ns <= now + 2, one.what


def test_less_of_a_reduction_is_hidden_beside_shorter_passes() -> None:
    prediction = predict(small(gradient_reduction="overlapped", gradient_bucket=1 << 16))
    reductions = {
        key: cost
        for key, cost in prediction.costs.costs.items()
        if key.kind is Kind.REDUCE_GRADIENTS
    }
    assert reductions and all(cost.hidden_ns > 0 for cost in reductions.values())
    same = less_hidden(prediction, prediction.costs, lambda name, category: False)
    assert same.costs == prediction.costs.costs
    none = less_hidden(prediction, prediction.costs, lambda name, category: name == "backward")
    half = less_hidden(prediction, prediction.costs, lambda name, category: category == "launch")
    for key, cost in reductions.items():
        assert none.costs[key].hidden_ns == 0
        assert 0 < half.costs[key].hidden_ns < cost.hidden_ns
        assert none.costs[key].duration_ns == cost.duration_ns


def test_the_bubble_alone_leaves_reductions_where_they_are() -> None:
    # Each rank's passes, then its reduction's tail, then the steps that all wait for the norm.
    prediction = predict(small(gradient_reduction="overlapped", gradient_bucket=1 << 16))
    costs, program = prediction.costs, prediction.program
    found = without_bubble_ns(program, costs)
    busiest = max(
        sum(s.duration_ns for s in spans if s.action.kind is not Kind.OPTIMIZER)
        for spans in prediction.timeline.compute
    )
    assert busiest < found < prediction.figures.iteration_ns
    free = without_kinds(costs, set(Kind) - {Kind.FORWARD, Kind.BACKWARD})
    passes = [
        sum(s.duration_ns for s in spans if s.action.kind in (Kind.FORWARD, Kind.BACKWARD))
        for spans in prediction.timeline.compute
    ]
    assert without_bubble_ns(program, free) == max(passes)


def test_latency_is_taken_from_messages_alone() -> None:
    prediction = predict(small())
    table = without_latency(prediction.costs)
    assert table.costs == prediction.costs.costs
    for key, transfer in table.transfers.items():
        assert transfer == replace(prediction.costs.transfers[key], latency_ns=0)


def test_balancing_keeps_the_mean() -> None:
    prediction = predict(small())
    table = balanced(prediction.costs)
    for kind in (Kind.FORWARD, Kind.BACKWARD):
        before = [c.duration_ns for k, c in prediction.costs.costs.items() if k.kind is kind]
        now = {c.duration_ns for k, c in table.costs.items() if k.kind is kind}
        assert now == {sum(before) // len(before)}


def test_frozen_layers_and_the_cache_are_freed() -> None:
    prediction = predict(load("pipetransformer/vit-imagenet").scenario)
    assert {one.what for one in freed(prediction)} >= {"matmul", "bubble", "data_parallel"}
